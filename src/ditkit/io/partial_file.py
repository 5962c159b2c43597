"""A file that is being downloaded: what is there of it after a crash, and of which version."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

from . import atomic

_SYNC_EVERY = 32 << 20  # bytes


class PartialFile:
    """A growing file beside the target. What a crash leaves of it is trusted as far as it was synced."""

    def __init__(self, target: Path, url: str, *, shared: bool = False):
        """Open what an earlier download of `url` has left; `shared`: others may write to it, so begin another."""
        token = f".{secrets.token_hex(4)}" if shared else ""
        self.path = target.with_name(f"{target.name}{token}.part")
        self._note = target.with_name(f"{target.name}{token}.part.json")
        self._url, self.size, self.validator, self._synced = url, 0, "", 0
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            note = json.loads(self._note.read_bytes())
            if note["url"] == url and 0 < note["bytes"] <= os.fstat(self._descriptor).st_size:
                self.size, self.validator = int(note["bytes"]), str(note["validator"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        self._cut()

    def begin(self, validator: str) -> None:
        """Start from nothing: the whole file comes, in the version that `validator` names ("" for none)."""
        self._note.unlink(missing_ok=True)
        self.size, self.validator = 0, validator
        self._cut()

    def append(self, block: bytes) -> None:
        """Add the next bytes."""
        atomic.write_all(self._descriptor, block)
        self.size += len(block)
        if self.size - self._synced >= _SYNC_EVERY:
            self._sync()

    def discard(self) -> None:
        """Drop everything received so far."""
        self.begin("")

    def finish(self, target: Path) -> None:
        """Rename the complete file to its target, durably."""
        atomic.sync(self._descriptor)
        self._close()
        atomic.rename(self.path, target)
        self._note.unlink(missing_ok=True)
        atomic.sync_folder(target.parent)

    def close(self) -> None:
        """Keep what can be resumed, remove the rest. Does nothing once it is finished."""
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
        atomic.sync(self._descriptor)
        self._synced = self.size
        note = {"url": self._url, "validator": self.validator, "bytes": self.size}
        atomic.write_atomically(self._note, json.dumps(note))

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)
        self._synced = self.size

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
