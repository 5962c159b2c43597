"""Which columns of a table hold the file names, the labels and the splits."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...errors import DataError, unknown
from ...io.text import composed

# Names of columns that need not be configured, the surest first.
FILES = (
    *("file_name", "filename", "file", "image", "image_path", "path", "file_path", "filepath", "image_file"),
    *("image_name", "img", "img_path", "img_name", "image_id", "img_id", "id", "name"),
)
LABELS = ("label", "labels", "class", "class_name", "class_label", "label_name", "category", "target", "cls", "y")
SPLITS = ("split", "partition", "subset")
FORMAT = "a table has one row an image, with the columns file_name and label"


class NoLabels(Exception):
    """There is no column with labels, and none is named."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The columns that are read."""

    file: str
    labels: list[str]
    split: str | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Which columns are wanted."""

    where: str
    label_by: str | None
    file_by: str | None
    guess: bool
    form: str = field(default=FORMAT)

    def find(self, header: Sequence[str]) -> Chosen:
        """The column of the files, and those of the labels. Raises DataError, UsageError, NoLabels."""
        spelled = {plain(name): name for name in reversed(header)}
        if self.file_by:
            file = self._named(self.file_by, header, spelled)
        else:
            file = next((spelled[name] for name in FILES if name in spelled), None)
        if file is None:
            raise DataError(f"{self.where} has no column of file names, but: {_some(header)}", FORMAT)
        labels = self._labels(header, spelled, file)
        split = next((spelled[name] for name in SPLITS if name in spelled and spelled[name] not in labels), None)
        return Chosen(file=file, labels=labels, split=split)

    def attributes(self) -> list[str]:
        """The columns that may be attributes, which an image has or has not: those asked for, but for a usual one."""
        names = [name.strip() for name in (self.label_by or "").split(",") if name.strip()]
        spelled = ["Male" if plain(name) == "male" else name for name in names]
        return [] if len(names) == 1 and plain(names[0]) in LABELS else spelled

    def _labels(self, header: Sequence[str], spelled: dict[str, str], file: str) -> list[str]:
        if self.label_by:
            return [self._named(name, header, spelled) for name in self.label_by.split(",")]
        label = next((spelled[name] for name in LABELS if name in spelled and spelled[name] != file), None)
        others = [name for name in header if name != file and plain(name) not in SPLITS]
        if label is None and not self.guess:
            raise NoLabels
        if label is None and not others:
            raise DataError(f"{self.where} has no column beside that of the file names", FORMAT)
        if label is None and len(others) > 1:
            raise DataError(f"{self.where} has no column of labels, but: {_some(others)}", "name one with --label-by")
        return [label or others[0]]

    def _named(self, name: str, header: Sequence[str], spelled: dict[str, str]) -> str:
        column = name.strip() if name.strip() in header else spelled.get(plain(name))
        if column is None:
            raise unknown(f"column of {self.where}:", name.strip(), header)
        return column


def plain(name: str) -> str:
    """A column's name as it is compared: file_name for `File Name`."""
    return re.sub(r"[\s_-]+", "_", composed(name).strip().lower())


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:40] for name in names[:8])
