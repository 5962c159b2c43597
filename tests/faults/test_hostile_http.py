"""Servers that lie, stall, break off or send a web page: one line that says what to do by hand, exit code 6."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from email.message import Message
from email.utils import formatdate
from pathlib import Path

import pytest
from command_line import said
from loopback import LoopbackServer, QuietHandler
from patience import Limit
from PIL import Image

from ditkit.data.sources import location
from ditkit.errors import DataError, MachineError, UsageError
from ditkit.io import download
from ditkit.io.download import PartialFile, Patience, Redirects, fetch, seconds

pytestmark = pytest.mark.timeout(60)

FILE = random.Random(0).randbytes(1 << 20)
SHA256 = hashlib.sha256(FILE).hexdigest()
HALF = len(FILE) // 2
PAGE = b"\xef\xbb\xbf\n <!DOCTYPE html><title>Quota exceeded</title>" + b" " * 2000
HASTY = Patience(timeout=10, delays=(0.01, 0.01))
IMPATIENT = Patience(timeout=0.3, delays=(0.01,))


class Server(LoopbackServer):
    """Answers /NAME with the method `do_NAME` of Answers, and remembers what it was asked."""

    requests: dict[str, list[Message]]

    def address(self, name: str) -> str:
        return f"{self.endpoint}/{name}"


class Answers(QuietHandler):
    """One behaviour each; `self.asked` is how often the same address was asked before."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        name = self.path.lstrip("/").partition("?")[0] if self.path.startswith("/") else "proxied"
        seen = self.server.requests[name]
        self.asked = len(seen)
        seen.append(self.headers)
        self.close_connection = True
        getattr(self, f"do_{name.partition('.')[0].replace('-', '_')}")()

    def answer(self, body: bytes = FILE, status: int = 200, *, length: int | str | None = None, **headers: str) -> None:
        self.send_response(status)
        if length != "none":
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_signed(self) -> None:
        """An archive for whoever has the signature."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for index in range(12):
                picture = io.BytesIO()
                Image.new("RGB", (16, 16), (20 * index, 0, 0)).save(picture, "PNG")
                archive.writestr(f"{'cat' if index % 2 else 'dog'}/{index}.png", picture.getvalue())
        self.answer(content.getvalue() if "S3CRET" in self.path else b"", 200 if "S3CRET" in self.path else 403)

    def rest(self, etag: str = '"1"', **headers: str) -> None:
        """What a good server answers, also to a request for the rest."""
        wanted = self.headers.get("Range")
        if wanted is None or self.headers.get("If-Range") != etag:
            return self.answer(ETag=etag, **headers)
        first = int(wanted.removeprefix("bytes=").rstrip("-"))
        place = f"bytes {first}-{len(FILE) - 1}/{len(FILE)}"
        return self.answer(FILE[first:], 206, Content_Range=place, ETag=etag, **headers)

    # --- refused at once

    def do_page(self) -> None:
        self.answer(PAGE, Content_Type="text/html; charset=utf-8")

    def do_disguised(self) -> None:
        self.answer(PAGE, Content_Type="application/zip")

    def do_disguised_slowly(self) -> None:
        self.send_response(200)
        self.end_headers()
        for byte in PAGE[:20]:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()
            time.sleep(0.002)

    def do_to_page(self) -> None:
        self.answer(b"", 302, Location="/page")

    def do_forbidden(self) -> None:
        self.answer(b"no", 403)

    def do_missing(self) -> None:
        self.answer(b"no", 404)

    def do_no_content(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_circle(self) -> None:
        self.answer(b"", 302, Location="/circle")

    def do_spiral(self) -> None:
        self.answer(b"", 302, Location=f"/spiral?{len(self.server.requests['spiral'])}")

    def do_to_file(self) -> None:
        self.answer(b"", 302, Location="file:///etc/passwd")

    def do_to_ftp(self) -> None:
        self.answer(b"", 302, Location=self.server.address("photos.zip").replace("http:", "ftp:"))

    def do_to_nowhere(self) -> None:
        self.answer(b"", 302)

    def do_empty(self) -> None:
        self.answer(b"")

    def do_packed(self) -> None:
        self.answer(gzip.compress(FILE), Content_Encoding="gzip")

    def do_huge(self) -> None:
        self.answer(b"x", length=10**15)

    def do_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        while True:
            self.wfile.write(FILE)

    def do_no_number(self) -> None:
        self.answer(length="-5")

    def do_long_number(self) -> None:
        self.answer(length="9" * 5000)

    def do_two_lengths(self) -> None:
        self.answer(Content_Length="7")

    def do_wrong(self) -> None:
        self.answer(FILE[::-1])

    def do_later(self) -> None:
        self.answer(b"", 429, Retry_After="86400")

    # --- given up after some tries

    def do_broken(self) -> None:
        self.answer(b"", 503)

    def do_short(self) -> None:
        self.answer(FILE[:1000], length=len(FILE))

    def do_short_chunks(self) -> None:
        self.answer(b"5\r\nabcde\r\n50\r\nabc", length="none", Transfer_Encoding="chunked")

    def do_stalled(self) -> None:
        self.answer(FILE[:1000], length=len(FILE))
        time.sleep(1)

    def do_silent(self) -> None:
        time.sleep(1)

    def do_trickle(self) -> None:
        self.answer(b"PK", length=len(FILE))
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def do_hangs_up(self) -> None:
        self.connection.shutdown(socket.SHUT_RDWR)

    def do_nonsense(self) -> None:
        self.wfile.write(b"\x1b[31m220 ftp ready\r\n\r\n")

    def do_many_headers(self) -> None:
        self.answer(**{f"X-{index}": "x" for index in range(200)})

    def do_half_asked_for(self) -> None:
        self.answer(FILE[:10], 206, Content_Range=f"bytes 10-19/{len(FILE)}")

    # --- good in the end

    def do_good(self) -> None:
        self.rest()

    def do_to_good(self) -> None:
        self.answer(b"", 308, Location="/to_good_2")

    def do_to_good_2(self) -> None:
        self.answer(b"", 302, Location="/good")

    def do_no_length(self) -> None:
        self.answer(length="none")

    def do_chunks(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for at in range(0, len(FILE), 100_000):
            part = FILE[at : at + 100_000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_packed_by_name(self) -> None:
        self.answer(Content_Encoding="x-gzip")

    def do_busy(self) -> None:
        self.answer(b"", 429, Retry_After="1") if not self.asked else self.rest()

    def do_fails_once(self) -> None:
        self.answer(b"", 500) if not self.asked else self.rest()

    def do_drops(self) -> None:
        self.answer(FILE[:HALF], length=len(FILE), ETag='"1"') if not self.asked else self.rest()

    def do_drops_dated(self) -> None:
        date = "Mon, 01 Jan 2024 00:00:00 GMT"
        if not self.asked:
            return self.answer(FILE[:HALF], length=len(FILE), Last_Modified=date, ETag='W/"weak"')
        assert self.headers["If-Range"] == date
        return self.answer(FILE[HALF:], 206, Content_Range=f"bytes {HALF}-{len(FILE) - 1}/{len(FILE)}")

    def do_drops_ignoring_range(self) -> None:
        self.answer(FILE[: HALF if not self.asked else None], length=len(FILE), ETag='"1"')

    def do_drops_without_etag(self) -> None:
        self.answer(FILE[: HALF if not self.asked else None], length=len(FILE))

    def do_drops_and_changes(self) -> None:
        self.answer(FILE[::-1][:HALF], length=len(FILE), ETag='"0"') if not self.asked else self.rest()

    def do_drops_and_mixes(self) -> None:
        """Another version, but it sends the rest of it all the same."""
        if not self.asked:
            return self.answer(FILE[::-1][:HALF], length=len(FILE), ETag='"0"')
        if "Range" not in self.headers:
            return self.rest()
        return self.answer(FILE[HALF:], 206, Content_Range=f"bytes {HALF}-{len(FILE) - 1}/{len(FILE)}", ETag='"1"')

    def do_drops_and_lies(self) -> None:
        """Continues somewhere else than it was asked for."""
        if not self.asked:
            return self.answer(FILE[:HALF], length=len(FILE), ETag='"1"')
        if "Range" not in self.headers:
            return self.rest()
        return self.answer(FILE[7:], 206, Content_Range=f"bytes 7-{len(FILE) - 1}/{len(FILE)}", ETag='"1"')

    def do_drops_and_errs(self) -> None:
        """Says that it continues at the right place, and sends something else."""
        if not self.asked:
            return self.answer(FILE[:HALF], length=len(FILE), ETag='"1"')
        if "Range" not in self.headers:
            return self.rest()
        return self.answer(FILE[:HALF], 206, Content_Range=f"bytes {HALF}-{len(FILE) - 1}/{len(FILE)}", ETag='"1"')

    def do_drops_and_shrinks(self) -> None:
        self.answer(FILE[:HALF], length=len(FILE), ETag='"0"') if not self.asked else self.answer(FILE[-1000:])

    def do_drops_and_refuses(self) -> None:
        if not self.asked:
            return self.answer(FILE[:HALF], length=len(FILE), ETag='"1"')
        return self.answer(b"", 416) if "Range" in self.headers else self.rest()

    def do_wrong_once(self) -> None:
        self.answer(FILE[::-1]) if not self.asked else self.rest()

    def do_crumbs(self) -> None:
        """A quarter of a megabyte at a time, for a file that takes more tries than are allowed without progress."""
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        whole = FILE * 4
        body = whole[first : first + 300_000]
        if not first:
            return self.answer(body, length=len(whole), ETag='"1"')
        place = f"bytes {first}-{len(whole) - 1}/{len(whole)}"
        return self.answer(body, 206, length=len(whole) - first, Content_Range=place, ETag='"1"')

    def do_slow(self) -> None:
        self.answer(FILE[:HALF], length=len(FILE))
        time.sleep(0.5)
        self.wfile.write(FILE[HALF:])

    def do_proxied(self) -> None:
        self.rest()

    def do_photos(self) -> None:
        self.answer(_photos(), Content_Type="application/zip")

    def do_damaged(self) -> None:
        self.answer(_photos()[:-40])


def _photos() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for index in range(24):
            picture = io.BytesIO()
            Image.new("L", (8, 8), 10 * index).save(picture, format="PNG")
            archive.writestr(zipfile.ZipInfo(f"photos/{index % 2}/{index}.png"), picture.getvalue())
    return file.getvalue()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Server(Answers).running() as running:
        running.requests = defaultdict(list)
        yield running


def _refused(error: MachineError, url: str, target: Path, words: str) -> None:
    """One line with its reason, and how to do it by hand."""
    assert words in error.message, error.message
    assert error.exit_code == 6 and error.message.isprintable()
    assert url in str(error.hint) and str(target) in str(error.hint)


AT_ONCE = {
    "page": "the server sent a web page, probably a quota or login page",
    "disguised": "the server sent a web page, probably a quota or login page",
    "disguised_slowly": "the server sent a web page, probably a quota or login page",
    "to_page": "/page is not the file: the server sent a web page",
    "forbidden": "the server answers 403 Forbidden",
    "missing": "the server answers 404 Not Found",
    "no_content": "the server answers 204",
    "circle": "the server redirects in a circle",
    "spiral": "the server redirects in a circle",
    "to_file": "redirects in a circle, or to something that is not a web address",
    "to_ftp": "redirects in a circle, or to something that is not a web address",
    "to_nowhere": "redirects in a circle, or to something that is not a web address",
    "empty": "is an empty file",
    "packed": "packs http://127.0.0.1:",
    "no_number": "a length that is not a number",
    "long_number": "a length that is not a number",
    "two_lengths": "a length that is not a number",
    "later": "429 Too Many Requests and asks to wait 86,400 s",
}
IN_THE_END = {
    "broken": "the server answers 503 Service Unavailable",
    "short": "the connection breaks off after 1,000 of 1,048,576 bytes",
    "short_chunks": "the connection breaks off",
    "stalled": "nothing came for too long",
    "silent": "nothing came for too long",
    "trickle": "less than a kilobyte a second came",
    "hangs_up": "the connection breaks off",
    "nonsense": "the connection breaks off",
    "many_headers": "the connection breaks off",
    "half_asked_for": "continues at another place",
}


@pytest.mark.parametrize("kind", [*AT_ONCE, *IN_THE_END])
def test_a_hostile_answer_is_one_line_and_leaves_nothing(kind: str, server: Server, tmp_path: Path) -> None:
    target, url = tmp_path / "downloads" / "photos.zip", server.address(kind)
    patience = IMPATIENT if kind in ("stalled", "silent", "trickle") else HASTY
    limit = Limit(5)
    with pytest.raises(MachineError) as caught:
        fetch(url, target, patience=patience)
    _refused(caught.value, url, target, (AT_ONCE | IN_THE_END)[kind])
    assert list(target.parent.iterdir()) == []
    redirects = {"circle": 3, "spiral": 11}
    assert len(server.requests[kind]) == (1 + len(patience.delays) if kind in IN_THE_END else redirects.get(kind, 1))
    assert not limit.is_over()


@pytest.mark.parametrize("kind", ["good", "to_good", "no_length", "chunks", "packed_by_name.tar.gz"])
def test_a_good_answer_is_the_file(kind: str, server: Server, tmp_path: Path) -> None:
    seen: list[tuple[float, float | None]] = []
    target = tmp_path / "downloads" / "photos.zip"
    assert fetch(server.address(kind), target, sha256=SHA256, on_progress=lambda *at: seen.append(at)) == target
    assert target.read_bytes() == FILE and list(target.parent.iterdir()) == [target]
    assert seen[-1] == (len(FILE), None if kind in ("no_length", "chunks") else len(FILE)) and seen == sorted(seen)
    fetch("http://127.0.0.1:9/there/already", target, sha256=SHA256)


MENDED = {  # how often the server is asked, and from which byte on at last
    "fails_once": (2, None),
    "drops": (2, HALF),
    "drops_dated": (2, HALF),
    "drops_ignoring_range": (2, HALF),
    "drops_without_etag": (2, None),
    "drops_and_changes": (2, HALF),
    "drops_and_mixes": (3, None),
    "drops_and_lies": (3, None),
    "drops_and_refuses": (3, None),
    "wrong_once": (2, None),
    "drops_and_errs": (3, None),
}


@pytest.mark.parametrize("kind", MENDED)
def test_what_passes_is_asked_again_and_continued_where_that_is_safe(kind: str, server: Server, tmp_path: Path) -> None:
    known = SHA256 if kind in ("wrong_once", "drops_and_errs") else None  # nothing else would tell
    target = fetch(server.address(kind), tmp_path / "photos.zip", sha256=known, patience=HASTY)
    assert target.read_bytes() == FILE
    asked, first = MENDED[kind]
    assert [request.get("Range") for request in server.requests[kind]][-1] == (first and f"bytes={first}-")
    assert len(server.requests[kind]) == asked and list(tmp_path.iterdir()) == [target]
    assert all(request["Accept-Encoding"] == "identity" for request in server.requests[kind])


def test_a_busy_server_is_left_alone_as_long_as_it_asks(server: Server, tmp_path: Path) -> None:
    began = time.monotonic()
    assert fetch(server.address("busy"), tmp_path / "a", patience=HASTY).read_bytes() == FILE
    assert time.monotonic() - began >= 1 and len(server.requests["busy"]) == 2


def test_what_a_server_asks_for_is_read_as_seconds_or_as_a_date() -> None:
    assert (seconds(None), seconds("7"), seconds("-7"), seconds("soon")) == (0, 7, 0, 0)
    assert seconds("9" * 400) > 1e9
    assert 50 < seconds(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert seconds(formatdate(0, usegmt=True)) == 0


def test_a_server_that_always_drops_is_asked_as_long_as_it_gets_somewhere(server: Server, tmp_path: Path) -> None:
    target = fetch(server.address("crumbs"), tmp_path / "a", patience=Patience(timeout=1, delays=(0.001,) * 4))
    assert target.read_bytes() == FILE * 4 and len(server.requests["crumbs"]) == 14


def test_the_wrong_file_is_deleted_asked_for_once_more_and_both_hashes_are_reported(
    server: Server, tmp_path: Path
) -> None:
    url, target = server.address("wrong"), tmp_path / "photos.zip"
    with pytest.raises(MachineError) as caught:
        fetch(url, target, sha256=SHA256, patience=HASTY)
    _refused(caught.value, url, target, f"has the sha256 {hashlib.sha256(FILE[::-1]).hexdigest()}, not {SHA256}")
    assert len(server.requests["wrong"]) == 2 and list(tmp_path.iterdir()) == []


def test_a_file_put_there_by_hand_is_checked_and_never_deleted(tmp_path: Path) -> None:
    target = tmp_path / "photos.zip"
    target.write_bytes(b"mine")
    assert fetch("https://host.invalid/photos.zip", target) == target
    with pytest.raises(MachineError, match=f"has the sha256 {hashlib.sha256(b'mine').hexdigest()}, not {SHA256}"):
        fetch("https://host.invalid/photos.zip", target, sha256=SHA256)
    assert target.read_bytes() == b"mine"


def test_another_day_goes_on_where_this_one_stopped(server: Server, tmp_path: Path) -> None:
    target, url = tmp_path / "photos.zip", server.address("drops")
    with pytest.raises(MachineError, match="breaks off"):
        fetch(url, target, patience=Patience(delays=()))
    assert {path.name for path in tmp_path.iterdir()} == {"photos.zip.part", "photos.zip.part.json"}
    assert fetch(url, target).read_bytes() == FILE
    assert server.requests["drops"][1]["Range"] == f"bytes={HALF}-" and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("damage", ["another address", "part shorter", "note nonsense", "note gone"])
def test_a_part_that_cannot_be_trusted_is_started_again(damage: str, server: Server, tmp_path: Path) -> None:
    target, url, note = tmp_path / "photos.zip", server.address("drops"), tmp_path / "photos.zip.part.json"
    with pytest.raises(MachineError):
        fetch(url, target, patience=Patience(delays=()))
    if damage == "another address":
        url = server.address("good")
    elif damage == "part shorter":
        (tmp_path / "photos.zip.part").write_bytes(b"x")
    elif damage == "note nonsense":
        note.write_text(json.dumps({"url": url, "validator": '"1"', "bytes": [HALF]}), encoding="utf-8")
    else:
        note.unlink()
    assert fetch(url, target).read_bytes() == FILE
    assert "Range" not in server.requests[url.rpartition("/")[2]][-1]


def test_only_what_was_synced_of_a_part_is_believed_after_a_crash(server: Server, tmp_path: Path) -> None:
    target, url = tmp_path / "photos.zip", server.address("drops")
    with pytest.raises(MachineError):
        fetch(url, target, patience=Patience(delays=()))
    with (tmp_path / "photos.zip.part").open("ab") as part:
        part.write(bytes(100_000))  # what a power cut may leave: length without content
    assert fetch(url, target).read_bytes() == FILE
    assert server.requests["drops"][1]["Range"] == f"bytes={HALF}-"


def test_nothing_of_a_longer_older_version_is_left(server: Server, tmp_path: Path) -> None:
    assert fetch(server.address("drops_and_shrinks"), tmp_path / "a", patience=HASTY).read_bytes() == FILE[-1000:]


def test_a_crash_after_another_version_has_started_leaves_nothing_to_continue(tmp_path: Path) -> None:
    first = PartialFile(tmp_path / "a", "http://host/a")
    first.begin('"0"')
    first.append(b"older")
    first.close()
    second = PartialFile(tmp_path / "a", "http://host/a")
    assert (second.size, second.validator) == (5, '"0"')
    second.begin('"1"')
    second.append(b"newer and longer")
    third = PartialFile(tmp_path / "a", "http://host/a")  # the second one has crashed
    assert (third.size, third.validator) == (0, "")
    second.close()
    third.close()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs to know which file a descriptor is")
def test_a_download_is_on_disk_before_it_gets_its_name(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def recorded(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def recording(place: int | Path, *rest: object) -> object:
            path = Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else Path(place)
            if tmp_path in (path, path.parent) and "json" not in path.name:
                done.append(f"{name} {path.name}")
            return call(place, *rest)

        return recording

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    fetch(server.address("good"), tmp_path / "photos.zip")
    part = "photos.zip.part"
    assert done[-4:] == [f"write {part}", f"fsync {part}", f"replace {part}", f"fsync {tmp_path.name}"]


FETCH = """
import sys
from pathlib import Path
from ditkit.io.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]))
"""


def _fetching(url: str, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", FETCH, url, str(target)], stderr=subprocess.PIPE)


def test_two_processes_download_it_once(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "photos.zip"
    children = [_fetching(server.address("slow"), target) for _ in range(3)]
    assert [child.communicate()[1] for child in children] == [b""] * 3
    assert target.read_bytes() == FILE and list(tmp_path.iterdir()) == [target]
    assert len(server.requests["slow"]) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_download_is_no_file_and_the_next_one_is_right(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "photos.zip"
    with _fetching(server.address("stalled"), target) as child:
        limit = Limit(20)
        while not any(path.stat().st_size for path in tmp_path.glob("*.part")):
            assert not limit.is_over()
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL and not target.exists()
    assert fetch(server.address("good"), target).read_bytes() == FILE
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("kind", ["huge", "endless"])
def test_a_file_larger_than_the_disk_is_not_started_or_given_up(
    kind: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    free = iter([10**9, 10**9, 50_000_000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    monkeypatch.setattr(download, "_LOOK_AT_DISK", 1 << 20)
    with pytest.raises(MachineError, match=r"needs [\d,]+ MB in .*, where [\d,]+ MB are free") as caught:
        fetch(server.address(kind), tmp_path / "photos.zip")
    assert "DITKIT_CACHE" in str(caught.value.hint) and list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_reported_as_such(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write

    def full(to: int, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(to, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(MachineError, match=r"cannot write to .*: No space left on device"):
        fetch(server.address("good"), tmp_path / "photos.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    def stop(done: float, total: float | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server.address("good"), tmp_path / "a", on_progress=stop)
    note = json.loads((tmp_path / "a.part.json").read_text(encoding="utf-8"))
    assert (tmp_path / "a.part").read_bytes() == FILE[: note["bytes"]] != b""
    assert fetch(server.address("good"), tmp_path / "a").read_bytes() == FILE


# --- no network


def test_a_server_that_is_not_there_is_reported_at_once(server: Server, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url, target = f"http://127.0.0.1:{free.getsockname()[1]}/photos.zip", tmp_path / "photos.zip"
    with pytest.raises(MachineError) as caught:
        fetch(url, target)
    _refused(caught.value, url, target, f"cannot reach {url}: connection refused")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-3, "Temporary failure in name resolution"), "its host is not found (is there a network?)"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "network is unreachable"),
    ],
)
def test_without_a_network_it_says_where_to_put_the_file(
    error: OSError, words: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(*address: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(socket, "create_connection", nowhere)
    url, target = "https://host.invalid/photos.zip", tmp_path / "photos.zip"
    with pytest.raises(MachineError) as caught:
        fetch(url, target)
    _refused(caught.value, url, target, words)


@pytest.mark.parametrize("name", ["DITKIT_OFFLINE", "HF_HUB_OFFLINE"])
def test_no_server_is_asked_when_that_is_forbidden(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "1")
    url, target = server.address("good"), tmp_path / "photos.zip"
    with pytest.raises(MachineError) as caught:
        fetch(url, target)
    _refused(caught.value, url, target, f"because {name} is set")
    assert not server.requests
    monkeypatch.setenv(name, "0")
    assert fetch(url, target) == target


def test_the_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.address(""))
    assert fetch("http://host.invalid/photos.zip", tmp_path / "a").read_bytes() == FILE
    assert server.requests["proxied"][0]["Host"] == "host.invalid"


def test_encryption_is_not_given_up_by_a_redirect() -> None:
    request = urllib.request.Request("https://host.invalid/photos.zip")
    for code in (301, 302, 303, 307, 308):
        with pytest.raises(MachineError, match=r"redirects to 'http://host.*', which is not encrypted"):
            Redirects().redirect_request(request, io.BytesIO(), code, "", Message(), "http://host.invalid/a.zip")
        followed = Redirects().redirect_request(request, io.BytesIO(), code, "", Message(), "https://b.invalid/")
        assert followed.full_url == "https://b.invalid/"


@pytest.mark.parametrize("url", ["ftp://host/a.zip", "file:///etc/passwd", "http://", "http://host/a b.zip", "a.zip"])
def test_only_web_addresses_are_asked(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not an http or https address"):
        fetch(url, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


# --- the command line


@pytest.mark.slow
def test_an_address_is_trained_on_once_downloaded_and_later_without_a_network(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"{server.address('photos')}?name=Holiday.zip#sha256={hashlib.sha256(_photos()).hexdigest().upper()}"
    code, out, err = said(capsys, f"train {url} --dry-run --set data.image_size=8")
    assert code == 0, err
    first = err.splitlines()[0]
    cache = tmp_path / "cache"
    bare = url.partition("?")[0]
    assert first.startswith(f"downloading {bare}?… to {cache / 'downloads' / 'photos-'}")
    assert "would train runs/photos: 22 images, 2 labels" in err and not (cache / "extracted").exists()
    stored = location.without_query(url)
    assert stored.startswith(f"{bare}#query=") and f'path = "{stored}"' in out
    server.requests.clear()
    code, out, err = said(capsys, f"train folder --data-dir {url} --dry-run --set data.image_size=8")
    assert code == 0 and "would train" in err and f'path = "{stored}"' in out and not server.requests


@pytest.mark.parametrize(
    ("word", "code", "message", "hint"),
    [
        ("page", 6, "probably a quota or login page", "get it by hand from http://127.0.0.1"),
        ("missing", 6, "the server answers 404 Not Found", "and put it at "),
        ("damaged", 3, "is cut short, or no archive", "to download it again"),
        ("good", 3, "is a file, not a folder of images or an archive of one", "to download it again"),
        ("photos#sha256=" + "0" * 64, 6, f"not {'0' * 64}", "get it by hand"),
        ("photos#sha1=1", 2, "#sha1=1 is not the SHA-256", "write #sha256="),
    ],
)
def test_an_address_that_cannot_be_trained_on_is_one_line(
    word: str, code: int, message: str, hint: str, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code, out, err = said(capsys, f"train {server.address(word)} --quiet")
    assert (exit_code, out) == (code, "")
    lines = err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("error: ") and lines[1].startswith("hint: "), err
    assert message in lines[0] and hint in lines[1] and not Path("runs").exists()


def test_a_file_put_into_the_cache_by_hand_does_as_well(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        location.local_folder(server.address("forbidden.zip"))
    place = Path(str(caught.value.hint).rpartition("put it at ")[2])
    assert place.suffix == ".zip" and tmp_path in place.parents
    place.write_bytes(_photos())
    folder = location.local_folder(server.address("forbidden.zip"))
    assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    assert len(server.requests["forbidden.zip"]) == 1


def test_a_damaged_download_can_be_replaced(server: Server, tmp_path: Path) -> None:
    url = server.address("damaged")
    with pytest.raises(DataError, match="is cut short") as caught:
        location.local_folder(url)
    assert url in caught.value.message
    (place,) = (tmp_path / "cache" / "downloads").iterdir()
    assert str(caught.value.hint) == f"delete {place} to download it again"
    assert list((tmp_path / "cache" / "extracted").iterdir()) == []


@pytest.mark.slow
def test_the_query_of_an_address_is_in_no_file_and_in_no_message(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A signed address grants access to whoever has it; runs, exports and reports are given away."""
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(location, "_queries", {})
    monkeypatch.chdir(tmp_path)
    address = f"{server.address('signed.zip')}?X-Signature=S3CRET&part=1"
    line = f"train {address} --name signed --steps 2 --image-size 16 --set model.preset=dit-tiny/4 --set sample.steps=1"
    code, _, err = said(capsys, f"{line} --device cpu")
    assert code == 0, err
    assert said(capsys, "report signed")[0] == 0 and said(capsys, "export signed --out signed.safetensors")[0] == 0
    assert "S3CRET" not in err
    for path in filter(Path.is_file, tmp_path.rglob("*")):
        assert b"S3CRET" not in path.read_bytes(), path
    assert said(capsys, "train signed --steps 3 --device cpu")[0] == 0  # the archive is in the cache
    assert len(server.requests["signed.zip"]) == 1
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(location, "_queries", {})
    monkeypatch.setattr(location, "_ready", set())
    code, _, err = said(capsys, "train signed --steps 4 --device cpu")
    assert code == 3 and "the query of" in err and "give the whole address again" in err
    assert said(capsys, f"{line.replace('--steps 2', '--steps 4')} --device cpu")[0] == 0
