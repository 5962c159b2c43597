"""One file from a web address: resumed, checked, never a web page."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import http.client
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import MachineError, UsageError
from . import atomic
from .certificates import trusted
from .hub import Unreachable
from .locks import exclusive
from .partial_file import PartialFile
from .paths import NO_ROOM, check_room
from .progress import Progress

REDIRECTS = (301, 302, 303, 307, 308)


def shown(url: str) -> str:
    """An address as it is printed and written: its query may grant access."""
    bare, question, _ = url.partition("?")
    return f"{bare}?…" if question else bare


def check_address(url: str) -> None:
    """Raise UsageError for what is no http or https address, or shows a password to everybody who sees it."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good, parts = False, None
    if not good or parts is None or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(f"{url!r} is not an http or https address", "e.g. https://example.org/photos.zip")
    if parts.username or parts.password:
        raise UsageError(
            f"the address of {parts.hostname} has a name or a password in it, which would be written to files",
            "download the archive by hand and give its path",
        )


class Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that neither leave the web nor give up encryption, and not many of them."""

    max_redirections, max_repeats = 10, 2
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing in Python 3.10

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            fp.close()
            raise MachineError(
                f"{shown(req.full_url)} redirects to {shown(newurl)[:200]!r}, which is not encrypted",
                "give the address where the file itself is",
            )
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None  # an error of its own kind
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)


def ask(request: urllib.request.Request, timeout: float) -> Any:
    """The response, through the proxy that the environment names; the request's address was checked."""
    director = urllib.request.build_opener(Redirects, urllib.request.HTTPSHandler(context=trusted()))
    return director.open(request, timeout=timeout)


def seconds(after: str | None) -> float:
    """What Retry-After says: seconds, or a date."""
    if after is None:
        return 0.0
    if after.strip().isascii() and after.strip().isdigit():
        return float(after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(after).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def words(error: Any) -> str:
    """What went wrong with a connection, without any text of the server's."""
    if isinstance(error, socket.gaierror):
        return "its host is not found (is there a network?)"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "nothing came for too long"
    if str(error).startswith("Tunnel connection failed"):
        return "the proxy refuses to connect"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    if isinstance(error, http.client.HTTPException):
        return f"the connection breaks off ({type(error).__name__})"
    return "the server does not speak HTTP" if isinstance(error, ValueError) else "the connection fails"


_BLOCK = 1 << 16
_PROGRESS = 1 << 20  # bytes more than ever before, which earn the server another full round of tries
_LOOK_AT_DISK = 64 << 20  # bytes
_SPARE = 64 << 20  # bytes of the disk that stay free
PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_AWAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a server, and how often to ask it again."""

    timeout: float = 30.0  # seconds in which nothing, or less than a kilobyte each, comes
    delays: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each further try
    longest: float = 120.0  # seconds that a server may ask for


class _Again(Exception):
    """A failure that may pass, and how many seconds the server asks to wait."""

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
    """Download `url` to the file `target`, whole or not at all; an existing file is only checked. Returns it.

    What a broken connection has left is resumed. Raises UsageError for what is no web address, MachineError, which
    says how to do it by hand, for network, disk and a file whose SHA-256 is another than the one that is given.
    """
    check_address(url)
    by_hand = f"get it by hand from {shown(url)} and put it at {target}"
    if target.is_file():
        return _checked(target, sha256)
    if name := offline():
        raise Unreachable(f"{shown(url)} is not downloaded, because {name} is set", by_hand)
    try:
        atomic.make_folder(target.parent)
        with exclusive(target) as locked:
            if target.is_file():
                return _checked(target, sha256)
            with contextlib.closing(PartialFile(target, shown(url), shared=not locked)) as part:
                _Download(url, by_hand, part, on_progress, patience).run(sha256)
                part.finish(target)
    except OSError as error:  # of the disk: those of the network are explained where they happen
        raise MachineError(f"cannot write to {target.parent}: {error.strerror or error}", NO_ROOM) from None
    return target


def offline() -> str | None:
    """The environment variable that forbids downloads, if one does."""
    for name in ("DITKIT_OFFLINE", "HF_HUB_OFFLINE"):
        if os.environ.get(name, "").lower() not in ("", "0", "false", "no", "off"):
            return name
    return None


@contextlib.contextmanager
def offline_within() -> Iterator[None]:
    """Within it nothing is downloaded, as if the environment forbade it."""
    before = os.environ.get("DITKIT_OFFLINE")
    os.environ["DITKIT_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DITKIT_OFFLINE"]
        else:
            os.environ["DITKIT_OFFLINE"] = before


def _checked(path: Path, sha256: str | None) -> Path:
    if mismatch := _mismatch(path, sha256):
        raise MachineError(f"{path} {mismatch}", f"delete {path} to download it again")
    return path


def _mismatch(path: Path, sha256: str | None) -> str | None:
    """What a file has instead of this SHA-256; None if it is right, or unknown."""
    actual = atomic.sha256_of(path) if sha256 else None
    return f"has the sha256 {actual}, not {sha256}" if actual != sha256 else None


@dataclass(frozen=True)
class _Download:
    """One download: from where, what to do if it fails, and where what comes is kept."""

    url: str
    by_hand: str
    part: PartialFile
    on_progress: Progress
    patience: Patience

    def run(self, sha256: str | None) -> None:
        """Fill the part, in as many tries as it takes while each brings more."""
        tries = most = bad = 0
        while True:
            try:
                self._try()
                mismatch = _mismatch(self.part.path, sha256)
                if not mismatch:
                    return
                self.part.discard()
                bad += 1
                if bad == 2:
                    raise MachineError(f"{shown(self.url)} {mismatch}", self.by_hand)
            except _Again as failure:
                if self.part.size >= most + _PROGRESS:
                    tries, most = 0, self.part.size
                if tries == len(self.patience.delays) or failure.wait > self.patience.longest:
                    raise MachineError(f"cannot download {shown(self.url)}: {failure.why}", self.by_hand) from None
                time.sleep(max(self.patience.delays[tries], failure.wait))
                tries += 1

    def _try(self) -> None:
        """One request, from where the part ends."""
        part = self.part
        headers = {"User-Agent": "ditkit", "Accept": "*/*", "Accept-Encoding": "identity"}
        if part.size and part.validator:
            headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
        else:
            part.discard()
        with self._answer(urllib.request.Request(self.url, headers=headers)) as response:
            if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
                raise self._is_page(response.url)
            total = self._expected(response)
            head = b""
            for block in _blocks(response, self.patience):
                if part.size == len(head) < 64:
                    head += block[:64]
                    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(PAGE_STARTS):
                        part.discard()
                        raise self._is_page(self.url)
                if part.size // _LOOK_AT_DISK != (part.size + len(block)) // _LOOK_AT_DISK:
                    check_room(shown(self.url), part.path.parent, _LOOK_AT_DISK + _SPARE)
                part.append(block)
                self.on_progress(part.size, total)
        if total is not None and part.size != total:
            raise _Again(f"the connection breaks off after {part.size:,} of {total:,} bytes")
        if not part.size:
            raise MachineError(f"{shown(self.url)} is an empty file", self.by_hand)

    def _answer(self, request: urllib.request.Request) -> Any:
        """The response to a request for the file, if it is the file or a part of it."""
        try:
            return ask(request, self.patience.timeout)
        except urllib.error.HTTPError as error:
            with error:
                code, wait = error.code, seconds(error.headers.get("Retry-After"))
            answer = f"the server answers {code} {http.client.responses.get(code, '')}".rstrip()
            if code == 416:
                self.part.discard()
                raise _Again(answer) from None
            if code in (408, 425, 429) or code >= 500:
                raise _Again(answer + (f" and asks to wait {wait:,.0f} s" if wait else ""), wait) from None
            if code in REDIRECTS:
                answer = "the server redirects in a circle, or to something that is not a web address"
            raise MachineError(f"cannot download {shown(self.url)}: {answer}", self.by_hand) from None
        except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
            reason, fatal = getattr(error, "reason", error), (socket.gaierror, ssl.SSLCertVerificationError)
            if isinstance(reason, fatal) or getattr(reason, "errno", 0) in _AWAY:
                raise MachineError(f"cannot reach {shown(self.url)}: {words(reason)}", self.by_hand) from None
            raise _Again(words(reason)) from None

    def _expected(self, response: Any) -> int | None:
        """Length of the whole file, if the server says it; prepares the part for what comes. Raises what forbids it."""
        url, headers = response.url, response.headers
        if response.status not in (200, 206):
            raise MachineError(f"cannot download {shown(url)}: the server answers {response.status}", self.by_hand)
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        gzipped = encoding in ("gzip", "x-gzip") and urlsplit(url).path.lower().endswith((".gz", ".tgz"))
        if encoding not in ("", "identity") and not gzipped:  # of a .tar.gz some servers say so
            raise MachineError(
                f"the server packs {shown(url)} once more ({encoding[:20]!r}), though asked not to", self.by_hand
            )
        lengths = set(headers.get_all("Content-Length", []))
        if len(lengths) > 1 or not all(map(_is_number, lengths)):
            raise MachineError(f"the server gives {shown(url)} a length that is not a number", self.by_hand)
        validator = headers.get("ETag", "")
        validator = validator if validator.startswith('"') else headers.get("Last-Modified", "")
        total = int(lengths.pop()) if lengths else None
        if response.status == 206:
            total = self._continued(headers, validator)
        else:
            self.part.begin(validator)
        check_room(shown(url), self.part.path.parent, max(0, (total or 0) - self.part.size) + _SPARE)
        return total

    def _continued(self, headers: Any, validator: str) -> int:
        """Length of the whole file, of which the server sends the rest. Raises _Again if it is another rest."""
        unit, _, span = headers.get("Content-Range", "").partition(" ")
        span, _, total = span.partition("/")
        first = span.partition("-")[0]
        if unit.lower() != "bytes" or first != str(self.part.size) or not _is_number(total):
            self.part.discard()
            raise _Again("the server continues at another place than it was asked for")
        if validator and validator != self.part.validator:
            self.part.discard()
            raise _Again("the file has changed on the server")
        return int(total)

    def _is_page(self, url: str) -> MachineError:
        return MachineError(
            f"{shown(url)} is not the file: the server sent a web page, probably a quota or login page", self.by_hand
        )


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
