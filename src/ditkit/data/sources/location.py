"""Where images are: in a folder, in an archive, or in an archive at a web address."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from ...errors import DataError, UsageError
from ...io.download import check_address, fetch
from ...io.paths import cache_dir, cache_folder, expanded
from ...io.progress import progress
from .archive import is_readable_in_place
from .extract import COMPLETE, SUFFIXES, extract, is_whole
from .files import hidden

_ready: set[Path] = set()


def is_address(place: str) -> bool:
    """Whether it is written like an address of the web, not like a path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", place) is not None


def check_place(place: str) -> None:
    """Raises UsageError for an address that cannot be one of an archive."""
    if is_address(place):
        _address(place)


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
        return _inner(_from_address(place))
    path = expanded(place)
    if path.is_dir():
        return path
    if not path.exists():
        raise DataError(f"the folder {path} does not exist", "check the path given with --data-dir")
    path, status = path.resolve(), path.stat()
    folder = _unpacked(path, entry_name(stem(path.name), str(path), str(status.st_size), str(status.st_mtime_ns)))
    return _inner(folder)


def local_images(place: str) -> Path:
    """The same, but an archive whose members can be read where they lie stays one: .zip, and .tar not compressed."""
    if is_address(place):
        if _is_ready(_target(place)):
            return local_folder(place)
        archive = _downloaded(place)
    elif (archive := expanded(place)).is_file():
        archive = archive.resolve()
    else:
        return local_folder(place)
    return archive if is_readable_in_place(archive) else local_folder(place)


def from_where(error: DataError, place: str) -> DataError:
    """An error of an archive, with the address that the archive was downloaded from."""
    if not is_address(place):
        return error
    url, _ = _address(place)
    hint = f"delete {_download(place)} to download it again"
    return DataError(f"{error.message} (from {url})", hint)


def _from_address(place: str) -> Path:
    if _is_ready(_target(place)):
        return _target(place)
    archive = _downloaded(place)
    try:
        return _unpacked(archive, _target(place).name)
    except DataError as error:
        raise from_where(error, place) from None


def _target(place: str) -> Path:
    """Where the archive of an address is unpacked to."""
    return cache_dir() / "extracted" / entry_name(stem(_address(place)[0]), place)


def _download(place: str) -> Path:
    """Where the archive of an address is kept."""
    url, _ = _address(place)
    return cache_dir() / "downloads" / (_target(place).name + _suffix(urlsplit(url).path))


def _downloaded(place: str) -> Path:
    url, sha256 = _address(place)
    archive = _download(place)
    if not archive.is_file():
        cache_folder("downloads")
        with progress(f"downloading {url} to {archive}") as show:
            fetch(url, archive, sha256=sha256, on_progress=show)
    elif archive not in _ready:
        fetch(url, archive, sha256=sha256)  # checks it
    _ready.add(archive)
    return archive


def _unpacked(archive: Path, key: str) -> Path:
    folder = cache_dir() / "extracted" / key
    if _is_ready(folder):
        return folder
    cache_folder("extracted")
    with progress(f"unpacking {archive} to {folder}") as show:
        return extract(archive, folder, on_progress=show)


def _is_ready(folder: Path) -> bool:
    """Whether a folder is whole, looked at closely once in a process: that takes seconds for a million files."""
    if folder not in _ready or not (folder / COMPLETE).is_file():
        _ready.discard(folder)
        if is_whole(folder):
            _ready.add(folder)
    return folder in _ready


def _address(place: str) -> tuple[str, str | None]:
    """The address proper, and the SHA-256 that its archive must have, if it says one."""
    url, _, fragment = place.partition("#")
    url = quote(url, safe="!#$%&'()*+,/:;=?@[]~")  # spaces and letters of other languages
    check_address(url)
    if not fragment:
        return url, None
    kind, _, sha256 = fragment.lower().partition("=")
    if kind != "sha256" or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise UsageError(f"#{fragment[:100]} is not the SHA-256 of an archive", "write #sha256= and its 64 digits")
    return url, sha256


def _inner(folder: Path) -> Path:
    """Many archives hold one folder that holds everything."""
    inside = [path for path in folder.iterdir() if path.name != COMPLETE and not hidden(path.name)]
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _suffix(name: str) -> str:
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(suffix)), "")


def entry_name(name: str, *parts: str) -> str:
    """A safe name for a folder, another one for another place."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40]
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()
    return f"{plain or 'archive'}-{digest[:16]}"
