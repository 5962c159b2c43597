"""One holder a lock, on every system."""

from __future__ import annotations

import os

import pytest
from platforms import as_windows

from ditkit.errors import BusyError
from ditkit.io import locks
from ditkit.runs import folder as run_folder
from ditkit.runs.folder import RunFolder, lock


def test_on_windows_a_run_has_one_holder_whom_the_other_can_read(tmp_path, monkeypatch):
    msvcrt = as_windows(monkeypatch, locks)
    monkeypatch.setattr(run_folder.socket, "gethostname", lambda: "first")
    with lock(RunFolder(tmp_path)):
        with pytest.raises(BusyError, match=r"in use by pid \d+ on first"), lock(RunFolder(tmp_path)):
            pass
        assert msvcrt.held and not msvcrt.locked_bytes((tmp_path / run_folder.LOCK).stat().st_size)
    with lock(RunFolder(tmp_path)):  # it went with the first holder
        pass


def test_on_windows_a_lock_leaves_the_file_where_it_is_read_and_written(tmp_path, monkeypatch):
    as_windows(monkeypatch, locks)
    with (tmp_path / "a").open("wb+") as first, (tmp_path / "a").open("rb+") as second:
        first.write(b"four")
        first.flush()
        assert locks.try_lock(first.fileno()) and first.tell() == 4 == os.lseek(first.fileno(), 0, os.SEEK_CUR)
        assert locks.try_lock(second.fileno()) is False and second.tell() == 0
    with locks.exclusive(tmp_path / "made") as held:
        assert held
