"""What an archive may hold: folders and plain files, whose names mean the same on every system."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...io.text import is_device_on_windows, why_not_on_windows
from .files import hidden

BLOCK = 1 << 20  # the most bytes of content that are in memory at a time
COMPLETE = "COMPLETE.json"  # in every unpacked folder: how many files and bytes there are, and where they came from
TWICE = "is there twice (names that differ in case only are the same on some systems)"
_LONGEST_PART, _LONGEST_NAME, _DEEPEST = 255, 1000, 32  # bytes, bytes, folders

Content = TypeVar("Content")
T = TypeVar("T")


class BadArchive(Exception):
    """Why an archive is not read, and the name of the member at fault, if it is one."""

    def __init__(self, why: str, member: str = ""):
        super().__init__(why)
        self.why, self.member = why, member


@contextlib.contextmanager
def blaming(name: str) -> Iterator[None]:
    """Adds a member's name to a BadArchive that names none."""
    try:
        yield
    except BadArchive as error:
        raise BadArchive(error.why, error.member or name) from None


@dataclass(frozen=True)
class Member(Generic[Content]):
    """One entry of an archive. Name and size are what the archive says, and not to be trusted."""

    name: str
    size: int  # bytes
    content: Content | None  # its blocks of bytes, or where they lie; None: a folder


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What no honest archive of images exceeds; bytes are counted as they are written, whatever the archive says."""

    members: int = 2_000_000
    file: int = 64 << 30  # bytes of one member
    total: int = 1 << 40  # bytes of all
    ratio: int = 100  # bytes unpacked for one of the archive, where that is
    harmless: int = 64 << 20  # more than this

    def allowance(self, packed: int) -> int:
        """The most bytes that an archive of this size may unpack to."""
        return min(self.total, max(self.harmless, self.ratio * packed))

    def counted(self, members: Iterable[T]) -> Iterator[T]:
        """The same members. Raises BadArchive once they are too many."""
        for count, member in enumerate(members, start=1):
            if count > self.members:
                raise BadArchive(f"has more than {self.members:,} members")
            yield member


def accepted(
    members: Iterable[Member[Content]], names: MemberNames, limits: Limits
) -> Iterator[tuple[Member[Content], tuple[str, ...]]]:
    """The members that are wanted, each with the parts of its safe name. Raises BadArchive, also past the limits."""
    for member in limits.counted(members):
        with blaming(member.name):
            parts = names.take(member)
            if not parts or "/".join(parts).lower() == COMPLETE.lower():
                continue
            if member.content is not None and member.size > limits.file:
                raise BadArchive(f"is too large: {member.size:,} bytes")
        yield member, parts


class MemberNames:
    """The names taken so far, so that no member overwrites another, not even where case is ignored.

    Without `files`, the caller looks for files of the same name: here, a million of them would take a lot of memory.
    """

    def __init__(self, *, files: bool = True) -> None:
        self._keeps_files = files
        self._folders: dict[str, str] = {}  # folded -> as spelled
        self._files: set[str] = set()

    def take(self, member: Member[Content]) -> tuple[str, ...]:
        """The parts of a member's name below the target; none for what is left out. Raises BadArchive."""
        if member.name.endswith("Icon\r"):  # of a folder with a picture of its own, on macOS
            return ()
        parts = _parts(member.name)
        if any(hidden(part) for part in parts):
            return ()
        folders = len(parts) if member.content is None else len(parts) - 1
        for depth in range(1, folders + 1):
            self._take_folder("/".join(parts[:depth]))
        if member.content is not None:
            if not parts:
                raise BadArchive("is a file without a name")
            if self._keeps_files:
                self._take_file(folded("/".join(parts)))
        return tuple(map(_on_disk, parts))

    @property
    def folders(self) -> list[str]:
        """All folders, as spelled where they came first."""
        return list(self._folders.values())

    def _take_file(self, name: str) -> None:
        if name in self._files or name in self._folders:
            raise BadArchive(TWICE)
        self._files.add(name)

    def _take_folder(self, spelled: str) -> None:
        name = folded(spelled)
        if self._folders.setdefault(name, spelled) != spelled:
            raise BadArchive(f"differs in case only from {self._folders[name]!r}, which is the same on some systems")
        if name in self._files:
            raise BadArchive("is a folder and a file at once")


def _on_disk(name: str) -> str:
    """The name whose bytes are UTF-8, also where the system's are not (LC_ALL=C)."""
    return name if sys.getfilesystemencoding() == "utf-8" else os.fsdecode(name.encode())


def folded(name: str) -> str:
    """The name as systems see it that ignore case."""
    return name if name.isascii() and name.islower() else unicodedata.normalize("NFC", name).casefold()


def _parts(name: str) -> tuple[str, ...]:
    if name.startswith("/"):
        raise BadArchive("has an absolute name")
    if "\\" in name:
        raise BadArchive("has a backslash in its name")
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in name):
        raise BadArchive("has a name that is not UTF-8, or has control characters in it")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    size = len(name.encode())
    if size > _LONGEST_NAME or len(parts) > _DEEPEST or any(len(part.encode()) > _LONGEST_PART for part in parts):
        raise BadArchive(f"has a name that is too long: {size} bytes, {len(parts)} parts")
    for part in parts:
        if not part.strip(". "):
            raise BadArchive("would lie outside the folder")
        if re.match(r"[A-Za-z]:", part):
            raise BadArchive("has a drive letter in its name")
        if is_device_on_windows(part) or (os.name == "nt" and why_not_on_windows(part)):
            raise BadArchive(f"has a name that Windows reserves: {part!r}")
    return parts
