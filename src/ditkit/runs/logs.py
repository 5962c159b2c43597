"""Metrics, timing, incidents: files cut back to a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .folder import RunFolder
from .metrics import MetricsFile
from .run_state import State


class RunLogs:
    """The files of a run that grow: metrics, timing, incidents. Only the leading process writes them."""

    def __init__(self, folder: RunFolder, state: State | None, *, writes: bool):
        self._files: dict[str, MetricsFile] = {}
        if writes:
            self._files = {
                "metrics": MetricsFile(folder.metrics_file, state.metrics_bytes if state else 0),
                "timing": MetricsFile(folder.timing_file, state.timing_bytes if state else 0),
                "incidents": MetricsFile(folder.incidents_file, state.incidents_bytes if state else 0),
            }
        self._marked: dict[str, int] = {}
        self.lost_rows = [file.path for file in self._files.values() if file.shortened]

    def append(self, file: str, row: Mapping[str, Any]) -> None:
        if self._files:
            self._files[file].append(row)

    def sync(self) -> dict[str, int]:
        """Force all to disk; their lengths as a State names them, without what came after the mark."""
        return {f"{name}_bytes": file.sync() for name, file in self._files.items()} | self._marked

    def mark(self) -> None:
        """What is appended from here on is dropped when the run is continued."""
        self._marked = self.sync()

    def truncate(self, state: State | None) -> None:
        """Go back to the lengths of a state; what went wrong stays on record."""
        for name, length in (("metrics", "metrics_bytes"), ("timing", "timing_bytes")):
            if self._files:
                self._files[name].cut(getattr(state, length) if state else 0)

    def move_to(self, folder: RunFolder) -> None:
        """Go on in the files of another folder, or in those of the same one that somebody has removed."""
        for file in self._files.values():
            file.move_to(folder.path / file.path.name)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
