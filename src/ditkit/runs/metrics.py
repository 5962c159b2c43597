"""metrics.jsonl and timing.jsonl: one JSON object a line, appended whole, read back together."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, MachineError
from ..io.atomic import sync, write_all, write_atomically
from ..io.locks import exclusive
from ..io.reading import read_json, read_regular

_MOST_STEPS = 10**12  # as many as a checkpoint's name has digits for
_LARGEST = 1e39  # float32 ends before; a plot cannot show what overflows float64


class MetricsFile:
    """An append-only JSON-lines file whose length is part of every checkpoint."""

    def __init__(self, path: Path, length: int = 0):
        """Open for appending after the first `length` bytes; what a killed run wrote beyond them is cut off."""
        self.path = path
        try:
            self._descriptor = _open(path)
            self.shortened = os.fstat(self._descriptor).st_size < length  # by someone else
            self.cut(length)
        except OSError as error:
            raise self._refused(error) from None

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one line. Raises DitkitError when the disk does not take it."""
        line = json.dumps(dict(row), allow_nan=False, separators=(",", ":")) + "\n"
        try:
            write_all(self._descriptor, line.encode("utf-8"))  # a disk that is nearly full takes a part first
        except OSError as error:
            raise self._refused(error) from None

    def cut(self, length: int) -> None:
        """Drop what comes after the first `length` bytes, and a line that these cut in two."""
        kept = min(length, os.fstat(self._descriptor).st_size)
        os.ftruncate(self._descriptor, self._whole_lines(kept))

    def content(self) -> bytes:
        """All lines, also of a file that somebody has removed since it was opened."""
        if not hasattr(os, "pread"):  # Windows, which does not remove open files
            return self.path.read_bytes()
        return os.pread(self._descriptor, os.fstat(self._descriptor).st_size, 0)

    def sync(self) -> int:
        """Force the lines to disk; returns the file's length in bytes. Raises MachineError when the disk refuses."""
        try:
            sync(self._descriptor)
        except OSError as error:
            raise self._refused(error) from None
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        os.close(self._descriptor)

    def _refused(self, error: OSError) -> MachineError:
        return MachineError(f"cannot write {self.path}: {error.strerror}", "free some space, then run again")

    def move_to(self, path: Path) -> None:
        """Go on in another file with the same lines, or in the same one if somebody has removed it since."""
        if path == self.path and self._is_there():
            return
        try:
            write_atomically(path, self.content())
            self.close()
            self.path, self._descriptor = path, _open(path)
        except OSError as error:
            raise self._refused(error) from None

    def _is_there(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        return False

    def _whole_lines(self, length: int) -> int:
        return self.content()[:length].rfind(b"\n") + 1


def _open(path: Path) -> int:
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a file", str(path))
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file; lines that are not JSON objects are skipped, a missing file has none."""
    try:
        lines = read_regular(path).decode("utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}", "check the path") from None
    rows = []
    for line in lines:
        try:
            row = json.loads(line, parse_int=_integer)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and type(row.get("step")) is int and 0 <= row["step"] < _MOST_STEPS:
            rows.append(row)
    return rows


def numbers_line(row: Mapping[str, Any]) -> str:
    """A row as a line of metrics.jsonl, with finite numbers alone."""
    return json.dumps(_numbers(row), separators=(",", ":")) + "\n"


def _numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if _is_number(value) and abs(value) < _LARGEST}


def _is_number(value: Any) -> bool:
    """Whether it is a number that can be computed with; booleans are not."""
    return type(value) is float or (type(value) is int and abs(value) < 10**18)


def _integer(text: str) -> int:
    if len(text) > 18:
        raise ValueError("larger than any number in a row, and perhaps than a float can be")
    return int(text)


def read_metrics(metrics: Path, timing: Path | None = None) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, each joined with the timing of its step: finite numbers alone."""
    times = {row["step"]: _numbers(row) for row in read_rows(timing)} if timing else {}
    rows = (_numbers(row) for row in read_rows(metrics))
    return [{**(times.get(row["step"], {}) if "loss" in row else {}), **row} for row in rows]


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """The records of an evaluation.json, the newest last; none without the file. Raises DataError for another file."""
    try:
        records = read_json(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}", "check the path") from None
    except ValueError:
        records = None
    if not isinstance(records, list) or not all(_is_evaluation(record) for record in records):
        raise DataError(f"{path} is not a list of evaluations", "remove it, or name another file with --out")
    return records


def _is_evaluation(record: Any) -> bool:
    if not isinstance(record, dict):
        return False
    parts = metrics, drawn, _ = [record.get(name, {}) for name in ("metrics", "drawn", "features")]
    if "metrics" not in record or not all(isinstance(part, dict) for part in parts):
        return False
    return all(map(_is_number, metrics.values())) and isinstance(drawn.get("labels_as"), str | None)


def append_evaluation(path: Path, record: Mapping[str, Any]) -> None:
    """Add a record to an evaluation.json, which is written if it is missing. Raises DataError for another file.

    Under a lock: two processes that evaluate one run at the same time keep both records.
    """
    with exclusive(path):
        write_atomically(path, json.dumps([*read_evaluations(path), record], indent=1) + "\n")


def spent_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of training, of the rows of `read_metrics`; each start of a run counts from 0 again."""
    total = before = 0.0
    for row in rows:
        now = float(row.get("seconds", before))
        total += now - before if now >= before else now
        before = now
    return total
