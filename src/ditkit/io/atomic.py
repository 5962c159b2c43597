"""Files and folders whole or absent; fsync; sha256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import MachineError
from .reading import blaming_the_machine

Content = Iterable[bytes | memoryview]  # of a file, in pieces

FREE_SPACE = "free some space, or choose another place with --out"  # a hint for what may be large
_CHECK_DISK = "check the folder, its permissions and the free space"
_BLOCK = 1 << 20
# Seconds in which a rename is tried again: Windows refuses while a virus scanner or a backup looks at what is inside.
_REFUSED_FOR, _REFUSED_ON_WINDOWS = 0.5, 10.0
_LONG_ON_WINDOWS = 248  # letters of a path: of a folder, to which a name of 12 letters must fit
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # network drives that do not know it


def update_digest(digest: Any, file: IO[bytes]) -> None:
    """Feed a hash with the rest of an open file (`hashlib.file_digest` needs Python 3.11)."""
    while block := file.read(_BLOCK):
        digest.update(block)


def sha256_of(path: Path, start: int = 0) -> str:
    """The SHA-256 of a file from byte `start` to its end, in hexadecimal. Raises OSError, MachineError."""
    digest = hashlib.sha256()
    with blaming_the_machine(path), path.open("rb") as file:
        file.seek(start)
        update_digest(digest, file)
    return digest.hexdigest()


def replace_folder(new: Path, target: Path, old: Path) -> None:
    """Rename `new` to `target`; an existing target becomes `old` first, and is restored if the rename fails."""
    existed = target.exists()
    if existed:
        rename(target, old)
    try:
        rename(new, target)
    except OSError:
        if existed:
            rename(old, target)
        raise


def write_all(descriptor: int, block: bytes | bytearray | memoryview) -> None:
    """Write a whole block to an open file; the system may take less than it is given."""
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view[:_BLOCK]) :]


def write_synced(path: Path, content: bytes | Content) -> dict[str, Any]:
    """Write a new file and force it to disk; returns its length and SHA-256, as a manifest states them."""
    digest, length = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        for block in _blocks([content] if isinstance(content, bytes) else content):
            digest.update(block)
            length += len(block)
            write_all(descriptor, block)
        sync(descriptor)
    finally:
        os.close(descriptor)
    return {"bytes": length, "sha256": digest.hexdigest()}


def _blocks(pieces: Content) -> Iterator[bytes | bytearray | memoryview]:
    """The same bytes, small pieces gathered into blocks."""
    gathered = bytearray()
    for piece in pieces:
        if len(gathered) + len(piece) > _BLOCK and gathered:
            yield gathered
            gathered = bytearray()
        if len(piece) >= _BLOCK:
            yield piece
        else:
            gathered += piece
    if gathered:
        yield gathered


def describe(content: bytes | bytearray) -> dict[str, Any]:
    """Length and SHA-256 of a file's content, as a manifest states them."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def write_atomically(path: Path, content: str | bytes | Content) -> dict[str, Any]:
    """Replace a file whole or not at all, durably; returns its length and SHA-256. Raises OSError."""
    with _temporary(path) as temporary:
        return write_synced(temporary, content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[IO[bytes]]:
    """An open file that takes the place of `path`, durably, when the block ends without an error. Raises OSError."""
    make_folder(path.parent)
    with _temporary(path) as temporary, temporary.open("xb") as file:
        yield file
        file.flush()
        sync(file.fileno())


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """The name of a file beside `path` that takes its place when the block ends, and is removed after an error.

    An OSError of writing names `path`, as the other name says nothing to whoever reads it.
    """
    temporary = path.with_name(f".{path.name[:80]}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        rename(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.filename in (None, str(temporary), temporary):  # else of another file, in the block
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def is_leftover(path: Path) -> bool:
    """Whether a name is that of a file whose writer died before it was whole."""
    return re.fullmatch(r"\..*\.[0-9a-f]{8}\.tmp", path.name, re.DOTALL) is not None


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that their names survive a power cut."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in reversed(missing):
        sync_folder(folder.parent)


def rename(old: Path, new: Path) -> None:
    """Rename; where the system refuses for a moment, try again for half a second, on Windows for ten seconds."""
    until = time.monotonic() + (_REFUSED_ON_WINDOWS if os.name == "nt" else _REFUSED_FOR)
    pause = 0.05
    while True:
        try:
            os.replace(old, new)  # noqa: PTH105
            return
        except PermissionError:
            if time.monotonic() >= until:
                raise
            time.sleep(pause)
            pause = min(2 * pause, 0.5)


def sync(descriptor: int) -> None:
    """Force an open file to disk; on macOS, where fsync leaves it in the cache of the drive, out of that, too."""
    if sys.platform == "darwin":
        import fcntl

        with contextlib.suppress(OSError):  # a drive that does not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_folder(path: Path) -> None:
    """Force a folder's names to disk; Windows neither needs nor allows it, and some network drives do not know it."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)


def write_file(path: str | Path, content: bytes | Content, hint: str = _CHECK_DISK) -> None:
    """Write or replace a file durably, making its folder. Raises MachineError when the disk does not take it."""
    path = Path(path)
    with explained(path, hint):
        make_folder(path.parent)
        write_atomically(path, content)


def write_folder(folder: Path, files: Mapping[str, Content]) -> None:
    """Write or replace a folder; `files` maps relative paths to contents. Raises MachineError as `write_file`.

    An existing folder is removed only after the new one is whole.
    """
    token = secrets.token_hex(4)
    temporary, old = (folder.with_name(f".{folder.name[:80]}.{kind}{token}.tmp") for kind in ("", "old-"))
    try:
        with explained(folder, FREE_SPACE):
            make_folder(folder.parent)
            for name, content in files.items():
                path = temporary / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_synced(path, content)
            for written in (*(path for path in temporary.iterdir() if path.is_dir()), temporary):
                sync_folder(written)
            replace_folder(temporary, folder, old)
            sync_folder(folder.parent)
    finally:
        for leftover in (temporary, old):
            shutil.rmtree(leftover, ignore_errors=True)


def path_is_too_long(error: OSError) -> str | None:
    """What to do where Windows, which allows 259 letters unless it is told otherwise, may refuse a path for that."""
    if os.name != "nt" or len(str(error.filename or "")) < _LONG_ON_WINDOWS:
        return None
    return "use a folder with a shorter path, or let Windows have long ones (LongPathsEnabled in its registry)"


@contextlib.contextmanager
def explained(path: Path, hint: str) -> Iterator[None]:
    """Raise MachineError where writing to `path` raises OSError."""
    try:
        yield
    except OSError as error:
        hint = path_is_too_long(error) or hint
        raise MachineError(f"cannot write {path}: {error.strerror or error}", hint) from None
