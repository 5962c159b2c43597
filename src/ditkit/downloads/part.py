"""The part of a download that is there, and what is known of the whole, so that it can go on another day."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from .. import durable

_SYNC_EVERY = 32 << 20  # bytes


class Part:
    """A file beside the target that grows. What a crash leaves of it is believed as far as it was synced."""

    def __init__(self, target: Path, url: str, *, shared: bool = False):
        """Opens what an earlier download of `url` has left; `shared`: others may be at it, so begin one of our own."""
        token = f".{secrets.token_hex(4)}" if shared else ""
        self.path = target.with_name(f"{target.name}{token}.part")
        self._note = target.with_name(f"{target.name}{token}.part.json")
        self._url, self.size, self.validator, self._synced = url, 0, "", 0
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            known = json.loads(self._note.read_bytes())
            if known["url"] == url and 0 < known["bytes"] <= os.fstat(self._descriptor).st_size:
                self.size, self.validator = int(known["bytes"]), str(known["validator"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        self._cut()

    def begin(self, validator: str) -> None:
        """Forget what is there: the whole file comes, in the version that `validator` names ("" for none)."""
        self._note.unlink(missing_ok=True)
        self.size, self.validator = 0, validator
        self._cut()

    def append(self, block: bytes) -> None:
        """Add the next bytes."""
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.size += len(block)
        if self.size - self._synced >= _SYNC_EVERY:
            self._sync()

    def discard(self) -> None:
        """Forget what is there."""
        self.begin("")

    def finish(self, target: Path) -> None:
        """The part is the whole: give it its name, durably."""
        os.fsync(self._descriptor)
        self._close()
        durable.rename(self.path, target)
        self._note.unlink(missing_ok=True)
        durable.sync_folder(target.parent)

    def close(self) -> None:
        """Keep what may be continued, remove the rest. Nothing to do once it is finished."""
        if self._descriptor < 0:
            return
        try:
            if self.size and self.validator:
                self._sync()
        finally:
            self._close()
            if not (self.size and self.validator):
                self.path.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = self.size
        known = {"url": self._url, "validator": self.validator, "bytes": self.size}
        durable.write_atomically(self._note, json.dumps(known))

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)
        self._synced = self.size

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
