"""Windows as far as ditkit's own modules can tell, on Linux: command lines in a process without what Windows lacks.

`python as_windows.py '["train mnist", "sample"]'` carries them out and prints the exit code of each; where one says so
(`PAUSE`), it waits for a line on stdin first. Everything is changed before ditkit is imported, and in the worker
processes too, which import this file first. Only ditkit sees the changed modules; what happens to files below the
working folder is refused as Windows would refuse it, whoever asks.
"""

from __future__ import annotations

import builtins
import errno
import fcntl
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import struct
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

PAUSE = "pause"
TICK = 1 / 64  # seconds between two ticks of the clock: Python's own time.monotonic up to 3.12
CONTENT = 1 << 20  # bytes of a file that others may read: a locked byte among them would refuse that

NO_POSIX = re.findall(
    r"\w+",
    """chown chroot ctermid environb fchdir fchmod fchown fdatasync fork forkpty
    fstatvfs getegid geteuid getgid getgroups getloadavg getpgid getpgrp getpriority getresuid getsid getuid initgroups
    killpg lchown lockf major makedev minor mkfifo mknod nice openpty pathconf pipe2 posix_fadvise posix_fallocate
    posix_spawn pread preadv pwrite pwritev readv register_at_fork sched_getaffinity sched_setaffinity sched_yield
    sendfile setpgid setpriority setsid statvfs sync sysconf tcgetpgrp ttyname uname wait waitid writev
    O_CLOEXEC O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_NOCTTY O_PATH O_SYNC O_DSYNC WNOHANG""",
)
SIGNALS = ("SIGABRT", "SIGBREAK", "SIGFPE", "SIGILL", "SIGINT", "SIGSEGV", "SIGTERM")
ABSENT = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog")


class Altered(ModuleType):
    """A module without some of its names and with others in their place; what is set is set in the real one."""

    def __init__(self, real: ModuleType, lacks: Callable[[str], bool] = lambda name: False, **others: Any):
        super().__init__(real.__name__, real.__doc__)
        self.__dict__.update(others, _real=real, _lacks=lacks)

    def __getattr__(self, name: str) -> Any:
        if self._lacks(name):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}", name=name, obj=self)
        return getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._real, name)


def _lock(descriptor: int, mode: int, count: int) -> None:
    """`msvcrt.locking`: the bytes from the file's position on belong to one open file; nobody else can read them."""
    at = os.lseek(descriptor, 0, os.SEEK_CUR)
    assert at >= CONTENT, f"byte {at} is locked, and cannot be read by others"
    kind = fcntl.F_UNLCK if mode == 0 else fcntl.F_WRLCK
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, os.SEEK_SET, at, count, 0))


_real_open, _real_fsync = os.open, os.fsync  # tests may replace them


def _open(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
    if Path(os.fsdecode(path)).is_dir():
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    return _real_open(path, flags, mode, **options)


def _fsync(descriptor: int) -> None:
    if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, "Bad file descriptor")
    _real_fsync(descriptor)


def _handle(number: int, handler: Any) -> Any:
    if number not in {getattr(windows_signal, name) for name in SIGNALS}:
        raise ValueError("invalid signal value")
    return signal.signal(number, handler)


def _kill(process: int, number: int) -> None:
    os.kill(process, signal.SIGKILL)  # whatever the number, Windows ends the process at once


def _lacks_signal(name: str) -> bool:
    posix = ("SIG", "ITIMER", "pthread", "sig", "alarm", "setitimer", "getitimer", "pause")
    kept = (*SIGNALS, "SIG_DFL", "SIG_IGN", "Signals", "signal")
    return name.startswith(posix) and name not in kept


windows_signal = Altered(signal, _lacks_signal, SIGBREAK=signal.SIGTTIN, signal=_handle)
REPLACED = {
    "os": Altered(os, NO_POSIX.__contains__, name="nt", O_BINARY=0, open=_open, fsync=_fsync, kill=_kill),
    "sys": Altered(sys, platform="win32"),
    "signal": windows_signal,
    "time": Altered(time, time=lambda: time.time() // TICK * TICK, monotonic=lambda: time.monotonic() // TICK * TICK),
    "msvcrt": Altered(ModuleType("msvcrt"), LK_UNLCK=0, LK_LOCK=1, LK_NBLCK=2, locking=_lock),
}


TESTS = Path(__file__).parents[1]


def import_as_windows() -> None:
    """Let the modules of ditkit, and of its tests but these, import what Windows has."""
    real = builtins.__import__

    def is_ours(asker: Mapping[str, Any]) -> bool:
        if str(asker.get("__name__")).partition(".")[0] == "ditkit":
            return True
        file = Path(asker.get("__file__") or "")
        return TESTS in file.parents and file.parent.name != "portability"

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        first = name.partition(".")[0]
        if level == 0 and first in (*ABSENT, *REPLACED) and is_ours(globals or {}):
            if first in ABSENT:
                raise ModuleNotFoundError(f"No module named {first!r}", name=first)
            return REPLACED[first]
        return real(name, globals, locals, fromlist, level)

    builtins.__import__ = import_


# --- files below the working folder

_FORBIDDEN = re.compile(r'[<>:"|?*\\\x00-\x1f]|[ .]$|^(con|prn|aux|nul|com\d|lpt\d)(\.|$)', re.IGNORECASE | re.ASCII)


def refuse_as_windows(place: Path) -> None:
    """Below a folder: names that Windows refuses, links, and changes of what is open or mapped raise an OSError."""
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # which Windows has not

    def audit(event: str, details: tuple[Any, ...]) -> None:
        if event == "open" and not isinstance(details[0], int) and details[2] & os.O_CREAT:
            _check_name(place, details[0])
        elif event in ("os.mkdir", "os.rename"):
            _check_name(place, details[1 if event == "os.rename" else 0])
        if event in ("os.remove", "os.rmdir", "os.rename"):
            for path in details[: 2 if event == "os.rename" else 1]:
                _check_closed(place, path)
        elif event == "os.symlink" and _below(place, details[1]):
            raise OSError(errno.EPERM, "A required privilege is not held by the client", str(details[1]))

    sys.addaudithook(audit)


def _below(place: Path, path: Any) -> str:
    """The path from the folder on, or nothing for what lies elsewhere."""
    whole, above = str(Path(os.fsdecode(path)).absolute()), f"{place}/"
    return whole[len(above) :] if whole.startswith(above) else ""


def _check_name(place: Path, path: Any) -> None:
    if any(_FORBIDDEN.search(part) for part in filter(None, _below(place, path).split("/"))):
        raise OSError(errno.EINVAL, "The filename, directory name, or volume label syntax is incorrect", str(path))


def _check_closed(place: Path, path: Any) -> None:
    if not _below(place, path):
        return
    whole = os.path.realpath(os.fsdecode(path))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    for used in (*map(_target, Path("/proc/self/fd").iterdir()), *(line.split(maxsplit=5)[-1] for line in maps)):
        if used == whole or used.startswith(f"{whole}/"):
            raise PermissionError(errno.EACCES, "The process cannot access the file: it is being used", str(path))


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:  # of listing them
        return ""


# --- command lines


def carry_out(lines: list[str]) -> None:
    """Each command line in turn; its exit code goes to both streams, on a line that begins with ##."""
    from ditkit.cli.app import main

    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="cp1252")  # a pipe in the letters of Western Europe, as Windows makes one
    for line in lines:
        if line == PAUSE:
            print("## pause", flush=True)
            sys.stdin.readline()
            continue
        try:
            code = main(shlex.split(line))
        except SystemExit as end:
            code = end.code
        for stream in (sys.stdout, sys.stderr):
            print(f"## {code}", file=stream, flush=True)


multiprocessing.set_start_method("spawn", force=True)
warnings.filterwarnings("error", category=EncodingWarning, module="ditkit")
import_as_windows()
refuse_as_windows(Path.cwd())
if __name__ == "__main__":
    carry_out(json.loads(sys.argv[1]))
