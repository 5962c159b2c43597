"""One HTTP file: resumed, checked, never a web page."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.client
import json
import os
import secrets
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..errors import MachineError, UsageError
from . import atomic
from .locks import exclusive
from .paths import NO_ROOM, check_room
from .progress import Progress

_SYNC_EVERY = 32 << 20  # bytes


class PartialFile:
    """A file beside the target that grows. What a crash leaves of it is believed as far as it was synced."""

    def __init__(self, target: Path, url: str, *, shared: bool = False):
        """Opens what an earlier download of `url` has left; `shared`: others may be at it, so begin one of our own."""
        token = f".{secrets.token_hex(4)}" if shared else ""
        self.path = target.with_name(f"{target.name}{token}.part")
        self._note = target.with_name(f"{target.name}{token}.part.json")
        self._url, self.size, self.validator, self._synced = url, 0, "", 0
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        try:
            known = json.loads(self._note.read_bytes())
            if known["url"] == url and 0 < known["bytes"] <= os.fstat(self._descriptor).st_size:
                self.size, self.validator = int(known["bytes"]), str(known["validator"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        self._cut()

    def begin(self, validator: str) -> None:
        """Forget what is there: the whole file comes, in the version that `validator` names ("" for none)."""
        self._note.unlink(missing_ok=True)
        self.size, self.validator = 0, validator
        self._cut()

    def append(self, block: bytes) -> None:
        """Add the next bytes."""
        view = memoryview(block)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.size += len(block)
        if self.size - self._synced >= _SYNC_EVERY:
            self._sync()

    def discard(self) -> None:
        """Forget what is there."""
        self.begin("")

    def finish(self, target: Path) -> None:
        """The part is the whole: give it its name, durably."""
        os.fsync(self._descriptor)
        self._close()
        atomic.rename(self.path, target)
        self._note.unlink(missing_ok=True)
        atomic.sync_folder(target.parent)

    def close(self) -> None:
        """Keep what may be continued, remove the rest. Nothing to do once it is finished."""
        if self._descriptor < 0:
            return
        try:
            if self.size and self.validator:
                self._sync()
        finally:
            self._close()
            if not (self.size and self.validator):
                self.path.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._synced = self.size
        known = {"url": self._url, "validator": self.validator, "bytes": self.size}
        atomic.write_atomically(self._note, json.dumps(known))

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)
        self._synced = self.size

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


REDIRECTS = (301, 302, 303, 307, 308)


def check_address(url: str) -> None:
    """Raises UsageError for what is no http or https address, or tells a password to everybody who sees it."""
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
    """Redirects that neither leave the web nor give up encryption, and not many of them.

    What the first server was told in confidence, no other is.
    """

    max_redirections, max_repeats = 10, 2
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302  # missing in Python 3.10

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if urlsplit(req.full_url).scheme == "https" != urlsplit(newurl).scheme:
            fp.close()
            raise MachineError(
                f"{req.full_url} redirects to {newurl[:200]!r}, which is not encrypted",
                "give the address where the file itself is",
            )
        if urlsplit(newurl).scheme not in ("http", "https"):
            return None  # an error of its own kind
        if code == 308:
            code = 307
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None and urlsplit(newurl).netloc != urlsplit(req.full_url).netloc:
            request.headers.pop("Authorization", None)
        return request


def ask(request: urllib.request.Request, timeout: float) -> Any:
    """The answer, through the proxy that the environment names; `request` is for a checked address."""
    director = urllib.request.build_opener(Redirects)
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
    """What went wrong with a connection, without any words of the server's."""
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
_PROGRESS = 1 << 20  # more bytes than ever before: what the server is given another full round of tries for
_LOOK_AT_DISK = 64 << 20  # bytes
_SPARE = 64 << 20  # bytes of the disk that stay free
_PAGE_STARTS = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_TEXTS = (".md", ".html", ".xml", ".svg")  # files that may well begin so
_AWAY = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ECONNREFUSED)


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
    git: str | None = None,
    headers: Mapping[str, str] = {},
    by_hand: str | None = None,
    on_progress: Progress = lambda done, total: None,
    patience: Patience = Patience(),
) -> Path:
    """Download `url` to the file `target`, whole or not at all; what is there already is only checked. Returns it.

    Its content must have the SHA-256, or the name that git gives it, where one is known. `headers` are sent with the
    request, `Authorization` to no other host. What a broken connection has left goes on where it stopped. Raises
    MachineError saying how to do it by hand.
    """
    check_address(url)
    by_hand = by_hand or f"get it by hand from {url} and put it at {target}"
    page = bool(sha256 or git) and target.suffix.lower() in _TEXTS
    wanted = _Sum("git name", git) if git and not sha256 else _Sum("sha256", sha256)
    if target.is_file():
        return _checked(target, wanted)
    if name := offline():
        raise MachineError(f"{url} is not downloaded, because {name} is set", by_hand)
    try:
        atomic.make_folder(target.parent)
        with exclusive(target) as held:
            if target.is_file():
                return _checked(target, wanted)
            with contextlib.closing(PartialFile(target, url, shared=not held)) as part:
                _download(_Source(url, headers, by_hand, page), part, wanted, on_progress, patience)
                part.finish(target)
    except OSError as error:  # of the disk: those of the network are told apart where they happen
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


@dataclass(frozen=True)
class _Source:
    """Where a file comes from, what is said to the server, and what to do if it does not come."""

    url: str
    headers: Mapping[str, str]
    by_hand: str
    page: bool  # whether it may be a web page


@dataclass(frozen=True)
class _Sum:
    """What a file's content must hash to."""

    kind: str
    value: str | None

    def wrong(self, path: Path) -> str | None:
        """What a file has instead; None if it is right."""
        actual = self._of(path) if self.value else None
        return f"has the {self.kind} {actual}, not {self.value}" if actual != self.value else None

    def _of(self, path: Path) -> str:
        digest = hashlib.sha256()
        if self.kind != "sha256":
            digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()


def _checked(path: Path, wanted: _Sum) -> Path:
    if wrong := wanted.wrong(path):
        raise MachineError(f"{path} {wrong}", f"delete {path} to download it again")
    return path


def _download(source: _Source, part: PartialFile, wanted: _Sum, on_progress: Progress, patience: Patience) -> None:
    """Fill the part, in as many tries as it takes while they get somewhere."""
    tries = most = bad = 0
    while True:
        try:
            _try(source, part, on_progress, patience)
            wrong = wanted.wrong(part.path)
            if not wrong:
                return
            part.discard()
            bad += 1
            if bad == 2:
                raise MachineError(f"{source.url} {wrong}", source.by_hand)
        except _Again as failure:
            if part.size >= most + _PROGRESS:
                tries, most = 0, part.size
            if tries == len(patience.delays) or failure.wait > patience.longest:
                raise MachineError(f"cannot download {source.url}: {failure.why}", source.by_hand) from None
            time.sleep(max(patience.delays[tries], failure.wait))
            tries += 1


def _try(source: _Source, part: PartialFile, on_progress: Progress, patience: Patience) -> None:
    """One request, from where the part ends."""
    url, by_hand = source.url, source.by_hand
    headers = {"User-Agent": "ditkit", "Accept": "*/*", "Accept-Encoding": "identity", **source.headers}
    if part.size and part.validator:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": part.validator}
    else:
        part.discard()
    with _ask(urllib.request.Request(url, headers=headers), patience, part, by_hand) as response:
        if not source.page and response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise _page(response.url, by_hand)
        total = _expected(response, part, by_hand)
        head = b""
        for block in _blocks(response, patience):
            if not source.page and part.size == len(head) < 64:
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


def _ask(request: urllib.request.Request, patience: Patience, part: PartialFile, by_hand: str) -> Any:
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


def _expected(response: Any, part: PartialFile, by_hand: str) -> int | None:
    """Length of the whole file, if the server says it; readies the part for what comes. Raises what forbids it."""
    url, headers = response.url, response.headers
    if response.status not in (200, 206):
        raise MachineError(f"cannot download {url}: the server answers {response.status}", by_hand)
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


def _continued(headers: Any, part: PartialFile, validator: str) -> int:
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
