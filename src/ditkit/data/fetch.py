"""Downloading a file: resumed where it broke off, checked, and never a web page in its place."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .. import durable
from ..errors import MachineError
from ..paths import NO_ROOM, alone, check_room
from .part import Part
from .web import REDIRECTS, ask, check_address, seconds, words

_BLOCK = 1 << 16
_PROGRESS = 1 << 20  # more bytes than ever before: what the server is given another full round of tries for
_LOOK_AT_DISK = 64 << 20  # bytes
_SPARE = 64 << 20  # bytes of the disk that stay free
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_AWAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED)

Progress = Callable[[float, float | None], None]  # bytes done, of how many where that is known


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a server is waited for, and how often it is asked again."""

    timeout: float = 30.0  # seconds in which nothing, or less than a kilobyte each, comes
    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
    longest: float = 120.0  # seconds that a server may ask for


class _Again(Exception):
    """Something that may well pass, and how long the server asked to be left alone, in seconds."""

    def __init__(self, why: str, wait: float = 0.0):
        super().__init__(why)
        self.why, self.wait = why, wait


def fetch(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    on_progress: Progress = lambda done, total: None,
    patience: Patience = Patience(),
) -> Path:
    """Download `url` to the file `target`, whole or not at all; what is there already is only checked. Returns it.

    What a broken connection has left goes on where it stopped. Raises MachineError saying how to do it by hand.
    """
    check_address(url)
    by_hand = f"get it by hand from {url} and put it at {target}"
    if target.is_file():
        return _checked(target, sha256)
    if name := _offline():
        raise MachineError(f"{url} is not downloaded, because {name} is set", by_hand)
    try:
        durable.make_folder(target.parent)
        with alone(target) as held:
            if target.is_file():
                return _checked(target, sha256)
            with contextlib.closing(Part(target, url, shared=not held)) as part:
                _download(url, part, sha256, on_progress, patience, by_hand)
                part.finish(target)
    except OSError as error:  # of the disk: those of the network are told apart where they happen
        raise MachineError(f"cannot write to {target.parent}: {error.strerror or error}", NO_ROOM) from None
    return target


def _offline() -> str | None:
    """The environment variable that forbids downloads."""
    for name in ("DITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            return name
    return None


def _checked(path: Path, sha256: str | None) -> Path:
    if sha256 and (actual := _sha256(path)) != sha256:
        raise MachineError(f"{path} has the sha256 {actual}, not {sha256}", f"delete {path} to download it again")
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _download(
    url: str, part: Part, sha256: str | None, on_progress: Progress, patience: Patience, by_hand: str
) -> None:
    """Fill the part, in as many tries as it takes while they get somewhere."""
    tries = most = wrong = 0
    while True:
        try:
            _try(url, part, on_progress, patience, by_hand)
            actual = _sha256(part.path) if sha256 else None
            if actual == sha256:
                return
            part.discard()
            wrong += 1
            if wrong == 2:
                raise MachineError(f"{url} has the sha256 {actual}, not {sha256}", by_hand)
        except _Again as failure:
            if part.size >= most + _PROGRESS:
                tries, most = 0, part.size
            if tries == len(patience.delays) or failure.wait > patience.longest:
                raise MachineError(f"cannot download {url}: {failure.why}", by_hand) from None
            time.sleep(max(patience.delays[tries], failure.wait))
            tries += 1


def _try(url: str, part: Part, on_progress: Progress, patience: Patience, by_hand: str) -> None:
    """One request, from where the part ends."""
    headers = {"User-Agent": "ditkit", "Accept": "*/*", "Accept-Encoding": "identity"}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    else:
        part.discard()
    with _ask(urllib.request.Request(url, headers=headers), patience, part, by_hand) as response:
        total = _expected(response, part, by_hand)
        head = b""
        for block in _blocks(response, patience):
            if part.size - len(head) == 0 and len(head) < 64:
                head += block[:64]
                if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE_STARTS):
                    part.discard()
                    raise _page(url, by_hand)
            if part.size // _LOOK_AT_DISK != (part.size + len(block)) // _LOOK_AT_DISK:
                check_room(url, part.path.parent, _LOOK_AT_DISK + _SPARE)
            part.append(block)
            on_progress(part.size, total)
    if total is not None and part.size != total:
        raise _Again(f"the connection breaks off after {part.size:,} of {total:,} bytes")
    if not part.size:
        raise MachineError(f"{url} is an empty file", by_hand)


def _ask(request: urllib.request.Request, patience: Patience, part: Part, by_hand: str) -> Any:
    """The server's answer to a request for the file, if it is the file or a part of it."""
    url = request.full_url
    try:
        return ask(request, patience.timeout)
    except urllib.error.HTTPError as error:
        with error:
            code, wait = error.code, seconds(error.headers.get("Retry-After"))
        answer = f"the server answers {code} {http.client.responses.get(code, '')}".rstrip()
        if code == 416:
            part.discard()
            raise _Again(answer) from None
        if code in (408, 425, 429) or code >= 500:
            raise _Again(answer + (f" and asks to wait {wait:,.0f} s" if wait else ""), wait) from None
        if code in REDIRECTS:
            answer = "the server redirects in a circle, or to what is no web address"
        raise MachineError(f"cannot download {url}: {answer}", by_hand) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        reason = getattr(error, "reason", error)
        why = words(reason)
        if isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError)) or getattr(reason, "errno", 0) in _AWAY:
            raise MachineError(f"cannot reach {url}: {why}", by_hand) from None
        raise _Again(why) from None


def _expected(response: Any, part: Part, by_hand: str) -> int | None:
    """Length of the whole file, if the server says it; readies the part for what comes. Raises what forbids it."""
    url, headers = response.url, response.headers
    if response.status not in (200, 206):
        raise MachineError(f"cannot download {url}: the server answers {response.status}", by_hand)
    if headers.get_content_type() in ("text/html", "application/xhtml+xml"):
        raise _page(url, by_hand)
    encoding = headers.get("Content-Encoding", "identity").strip().lower()
    gzipped = encoding in ("gzip", "x-gzip") and urlsplit(url).path.lower().endswith((".gz", ".tgz"))
    if encoding not in ("", "identity") and not gzipped:  # of a .tar.gz some servers say so
        raise MachineError(f"the server packs {url} once more ({encoding[:20]!r}), though asked not to", by_hand)
    lengths = set(headers.get_all("Content-Length", []))
    if len(lengths) > 1 or not all(map(_is_number, lengths)):
        raise MachineError(f"the server gives {url} a length that is no number", by_hand)
    validator = headers.get("ETag", "")
    validator = validator if validator.startswith('"') else headers.get("Last-Modified", "")
    total = int(lengths.pop()) if lengths else None
    if response.status == 206:
        total = _continued(headers, part, validator)
    else:
        part.begin(validator)
    check_room(url, part.path.parent, max(0, (total or 0) - part.size) + _SPARE)
    return total


def _continued(headers: Any, part: Part, validator: str) -> int:
    """Length of the whole file, of which the server sends the rest. Raises _Again if it is another rest."""
    unit, _, place = headers.get("Content-Range", "").partition(" ")
    span, _, total = place.partition("/")
    first = span.partition("-")[0]
    if unit.lower() != "bytes" or first != str(part.size) or not _is_number(total):
        part.discard()
        raise _Again("the server continues at another place than it was asked for")
    if validator and validator != part.validator:
        part.discard()
        raise _Again("the file has changed on the server")
    return int(total)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _blocks(response: Any, patience: Patience) -> Iterator[bytes]:
    """What comes, as it comes."""
    started, count = time.monotonic(), 0
    while True:
        try:
            block = response.read1(_BLOCK)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _Again(words(error)) from None
        if not block:
            return
        yield block
        count += len(block)
        if (waited := time.monotonic() - started) >= patience.timeout:
            if count < 1024 * waited:
                raise _Again(f"less than a kilobyte a second came for {waited:.0f} s")
            started, count = time.monotonic(), 0


def _page(url: str, by_hand: str) -> MachineError:
    return MachineError(f"{url} is not the file: the server sent a web page, probably a quota or login page", by_hand)
