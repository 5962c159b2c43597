"""What an archive may hold: folders and plain files, whose names mean the same on every system."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from .files import hidden

BLOCK = 1 << 20  # the most bytes of content that are in memory at a time
_LONGEST_PART, _LONGEST_NAME, _DEEPEST = 255, 1000, 32  # bytes, bytes, folders
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])[ .]*(\..*)?", re.IGNORECASE)
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*]|[. ]$')


TWICE = "is there twice (names that differ in case only are the same on some systems)"


class BadArchive(Exception):
    """Why an archive is not unpacked, and the member's name where there is one to blame."""

    def __init__(self, why: str, member: str = ""):
        super().__init__(why)
        self.why, self.member = why, member


@dataclass(frozen=True)
class Member:
    """One entry of an archive. Name and size are what the archive says, and not to be trusted."""

    name: str
    size: int  # bytes
    blocks: Iterator[bytes] | None  # the content; None: a folder


class MemberNames:
    """The names taken so far, so that no member overwrites another, not even where case is ignored.

    Without `files`, files of the same name are somebody else's care: a million names take a lot of memory.
    """

    def __init__(self, *, files: bool = True) -> None:
        self._keeps_files = files
        self._folders: dict[str, str] = {}  # folded -> as spelled
        self._files: set[str] = set()

    def take(self, member: Member) -> tuple[str, ...]:
        """The parts of a member's name, relative to the target; none for what is left out. Raises Broken."""
        if member.name.endswith("Icon\r"):  # of a folder with a picture of its own, on macOS
            return ()
        parts = _parts(member.name)
        if any(hidden(part) for part in parts):
            return ()
        folders = len(parts) if member.blocks is None else len(parts) - 1
        for depth in range(1, folders + 1):
            self._take_folder("/".join(parts[:depth]))
        if member.blocks is not None:
            if not parts:
                raise BadArchive("is a file without a name")
            if self._keeps_files:
                self._take_file(folded("/".join(parts)))
        return tuple(map(_on_disk, parts))

    @property
    def folders(self) -> list[str]:
        """All folders met, as spelled."""
        return list(self._folders.values())

    def _take_file(self, same: str) -> None:
        if same in self._files or same in self._folders:
            raise BadArchive(TWICE)
        self._files.add(same)

    def _take_folder(self, name: str) -> None:
        same = folded(name)
        if self._folders.setdefault(same, name) != name:
            raise BadArchive(f"differs in case only from {self._folders[same]!r}, which is the same on some systems")
        if same in self._files:
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
        if _DEVICES.fullmatch(part) or (os.name == "nt" and _NOT_ON_WINDOWS.search(part)):
            raise BadArchive(f"has a name that Windows reserves: {part!r}")
    return parts
