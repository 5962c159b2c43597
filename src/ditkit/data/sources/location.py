"""Where images are: in a folder, in an archive, or in an archive at a web address."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ...errors import DataError, UsageError
from ...io.download import check_address, fetch, shown
from ...io.paths import cache_dir, cache_folder, expanded, resolved
from ...io.progress import progress
from .archive import is_readable_in_place
from .archive_names import COMPLETE
from .extract import SUFFIXES, extract, is_whole
from .files import hidden, stamp

_SAFE = "!#$%&'()*+,/:;=?@[]~"  # characters that an address has as they are
_ready: set[Path] = set()  # whole folders and checked downloads, looked at once in a process


def is_address(place: str) -> bool:
    """Whether it is written like a web address, not like a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def check_place(place: str) -> None:
    """Raises UsageError for a web address that cannot be that of an archive."""
    if is_address(place):
        _WebArchive.at(place)


_queries: dict[str, str] = {}  # of addresses that were typed, by digest: they may grant access, so no file has them


def without_query(address: str) -> str:
    """An address as settings keep it: instead of its query, `#query=` and a digest by which the query is recognised.

    The query stays in the memory of this process. Another one finds the archive in the cache, or asks for the address.
    """
    url, _, fragment = address.partition("#")
    bare, _, query = url.partition("?")
    if not query:
        return address
    digest = hashlib.sha256(query.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    _queries[digest] = query
    return "&".join([f"{bare}#query={digest}", *([fragment] if fragment else [])])


def stem(place: str) -> str:
    """The archive's name without what makes it one: `photos` of `https://host/a/photos.tar.gz`."""
    name = unquote(urlsplit(place).path) if is_address(place) else Path(place).name
    name = name.rstrip("/").rpartition("/")[2]
    return name[: -len(_suffix(name))] if _suffix(name) else name


def local_folder(place: str) -> Path:
    """The folder of images that a folder, an archive or a web address of one stands for; fetched and unpacked once.

    An address may end in `#sha256=HEX`. Raises DataError, or MachineError for disk and network.
    """
    if is_address(place):
        return _inner(_WebArchive.at(place).unpacked())
    path = expanded(place)
    if path.is_dir():
        return path
    if not path.exists():
        raise DataError(f"the folder {path} does not exist", "check the path given with --data-dir")
    path = resolved(path)
    name = entry_name(stem(path.name), str(path), *map(str, stamp(path)))
    return _inner(_unpacked(path, cache_dir() / "extracted" / name))


def local_images(place: str) -> Path:
    """The same, but an archive whose members can be read where they lie stays one: .zip, and .tar not compressed."""
    if is_address(place):
        web = _WebArchive.at(place)
        if _is_ready(web.folder):
            return _inner(web.folder)
        archive = web.downloaded()
    elif (archive := expanded(place)).is_file():
        archive = resolved(archive)
    else:
        return local_folder(place)
    return archive if is_readable_in_place(archive) else local_folder(place)


def from_where(error: DataError, place: str) -> DataError:
    """An error of an archive, with the address that the archive was downloaded from."""
    if not is_address(place):
        return error
    web = _WebArchive.at(place)
    return DataError(f"{error.message} (from {web.url})", f"delete {web.file} to download it again")


@dataclass(frozen=True)
class _WebArchive:
    """An archive at a web address."""

    place: str  # the address as settings keep it
    url: str  # without its query
    query: str | None  # None: it has one, which this process does not know
    sha256: str | None

    @classmethod
    def at(cls, place: str) -> _WebArchive:
        """The archive of an address, which may end in `#sha256=HEX`. Raises UsageError."""
        place = without_query(place)
        url, _, fragment = place.partition("#")
        url = quote(url, safe=_SAFE)  # spaces and letters of other languages
        check_address(url)
        digest = re.match(r"query=([0-9a-f]{16})(?:&|$)", fragment)
        query = _queries.get(digest[1]) if digest else ""
        fragment = fragment[digest.end() :] if digest else fragment
        kind, _, sha256 = fragment.lower().partition("=")
        if fragment and (kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", sha256)):
            raise UsageError(f"#{fragment[:100]} is not the SHA-256 of an archive", "write #sha256= and its 64 digits")
        return cls(place, url, query, sha256 or None)

    @property
    def folder(self) -> Path:
        """Where it is unpacked to."""
        return cache_dir() / "extracted" / entry_name(stem(self.url), self.place)

    @property
    def file(self) -> Path:
        """Where it is downloaded to."""
        return cache_dir() / "downloads" / (self.folder.name + _suffix(urlsplit(self.url).path))

    def downloaded(self) -> Path:
        address = f"{self.url}?{quote(self.query, safe=_SAFE)}" if self.query else self.url
        if not self.file.is_file():
            if self.query is None:
                raise DataError(
                    f"the query of {self.url} is not kept, as it may grant access, and the archive is not in the cache",
                    "give the whole address again: ditkit train 'https://…?…' --name RUN",
                )
            cache_folder("downloads")
            with progress(f"downloading {shown(address)} to {self.file}") as show:
                fetch(address, self.file, sha256=self.sha256, on_progress=show)
        elif self.file not in _ready:
            fetch(address, self.file, sha256=self.sha256)  # checks it
        _ready.add(self.file)
        return self.file

    def unpacked(self) -> Path:
        if _is_ready(self.folder):
            return self.folder
        archive = self.downloaded()
        try:
            return _unpacked(archive, self.folder)
        except DataError as error:
            raise from_where(error, self.place) from None


def _unpacked(archive: Path, folder: Path) -> Path:
    if _is_ready(folder):
        return folder
    cache_folder("extracted")
    with progress(f"unpacking {archive} to {folder}") as show:
        return extract(archive, folder, on_progress=show)


def _is_ready(folder: Path) -> bool:
    """Whether a folder is whole, checked once in a process: that takes seconds for a million files."""
    if folder not in _ready or not (folder / COMPLETE).is_file():
        _ready.discard(folder)
        if is_whole(folder):
            _ready.add(folder)
    return folder in _ready


def _inner(folder: Path) -> Path:
    """The only folder inside, as many archives hold one folder that holds everything; else the folder itself."""
    inside = [path for path in folder.iterdir() if path.name != COMPLETE and not hidden(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _suffix(name: str) -> str:
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")


def entry_name(name: str, *parts: str) -> str:
    """A safe name for a folder or file in the cache: other parts give another name."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{plain or 'archive'}-{digest[:16]}"
