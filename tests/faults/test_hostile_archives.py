"""Archives that lie, escape, explode or are cut short: one line, exit code 3, and nothing left behind."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import pytest
from command_line import elsewhere, said
from PIL import Image

from ditkit.config import DataConfig
from ditkit.data import celeba
from ditkit.data.contract import open_dataset
from ditkit.data.sources import archive_names, location, zip
from ditkit.data.sources import extract as extraction
from ditkit.data.sources.archive_names import COMPLETE, Limits
from ditkit.data.sources.extract import extract, is_whole
from ditkit.errors import DataError, MachineError, UsageError
from ditkit.io import locks
from ditkit.io.locks import exclusive
from ditkit.io.paths import cache_dir, cache_folder
from ditkit.io.progress import reporting_to

__all__ = ["elsewhere"]  # the fixture that every test here runs in

pytestmark = pytest.mark.timeout(60)

SMALL = Limits(members=50, harmless=1 << 20)
TINY = (
    "--set model.patch=7 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.image_size=14 "
    "--set sample.steps=1 --set train.sample_columns=1 --device cpu"
)


@pytest.fixture(autouse=True)
def cache(elsewhere: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _picture(shade: int = 0, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 255 - shade, 9)).save(file, format="PNG")
    return file.getvalue()


PICTURE = _picture()
FEW = {f"{label}/{index}.png": _picture(10 * index) for label in ("cat", "dog") for index in range(6)}


def _zip(files: dict[str, bytes], **settings) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", settings.pop("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            for key, value in settings.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return file.getvalue()


def _tar(files: dict[str, bytes | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT, **settings) -> bytes:
    """Contents under their names; a TarInfo goes in as it is."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, **settings) as archive:
        for name, content in files.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            if data:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def _entry(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def _patched(content: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in content and len(old) == len(new)
    return content.replace(old, new, count)


def _header(**fields: bytes) -> bytes:
    """A tar header of one file, with fields overwritten and the checksum made right again."""
    row = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    for name, value in fields.items():
        at = {"name": 0, "size": 124, "kind": 156}[name]
        row[at : at + len(value)] = value
    row[148:156] = b" " * 8
    row[148:156] = b"%06o\0 " % sum(row)
    return bytes(row)


def _pax(records: bytes, kind: bytes = b"x") -> bytes:
    return _header(size=b"%011o\0" % len(records), kind=kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def _set_end(content: bytes, at: int, form: str, value: int) -> bytes:
    """A zip with a field of the record at its end overwritten."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.rindex(b"PK\5\6") + at, value)
    return bytes(changed)


def _set_entries(content: bytes, at: int, form: str, value: int) -> bytes:
    """A zip with a field of all entries of its directory overwritten."""
    changed, place = bytearray(content), content.find(b"PK\1\2")
    while place >= 0:
        struct.pack_into(form, changed, place + at, value)
        place = content.find(b"PK\1\2", place + 4)
    return bytes(changed)


def _twice_the_same_place() -> bytes:
    """Two names for the same bytes of the archive: the trick of the smallest bombs."""
    content = _zip({"a.png": PICTURE, "b.png": PICTURE}, compression=zipfile.ZIP_STORED)
    second = content.rindex(b"PK\1\2")
    return content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :]


def _one_within_another() -> bytes:
    """The first member's content is the second member, header and all."""
    content = _zip({"a.png": b"", "b.png": PICTURE}, compression=zipfile.ZIP_STORED)
    first, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    inside = content[content.index(b"PK\3\4", 4) : first]
    sizes = struct.pack("<3I", zlib.crc32(inside), len(inside), len(inside))
    entry = content[first : first + 16] + sizes + content[first + 28 : second]
    return content[:first] + entry + content[second:]


def _hidden_by_a_comment() -> bytes:
    """One flipped bit makes the second entry of the directory a comment of the first."""
    content = bytearray(_zip({"a.png": PICTURE, "b" * 13 + ".png": PICTURE}))
    content[content.index(b"PK\1\2") + 32] = 46 + 17
    return bytes(content)


def _explodes(size: int = 20 << 20) -> bytes:
    return bytes(size)


def _lying_zip() -> bytes:
    """Says in every place that it unpacks to 100 bytes."""
    content = _zip({"a.png": _explodes()})
    return _patched(content, struct.pack("<I", 20 << 20), struct.pack("<I", 100))


def _huge_dictionary() -> bytes:
    """An .xz that asks for 4 GiB of memory before it gives a byte."""
    content = bytearray(lzma.compress(_tar({"a.png": PICTURE})))
    length = (content[12] + 1) * 4  # of the first block's header, behind the 12 bytes of the stream's
    at = content.index(b"\x21\x01", 12) + 2
    content[at] = 40
    struct.pack_into("<I", content, 12 + length - 4, zlib.crc32(content[12 : 12 + length - 4]))
    return bytes(content)


GOOD_ZIP, GOOD_TAR = _zip(FEW), _tar(FEW)
STORED = _zip({"a.png": PICTURE}, compression=zipfile.ZIP_STORED)
END = bytes(1024)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # names
    "zip, climbing out": (lambda: _zip({"../evil.png": PICTURE}), "'../evil.png' would lie outside"),
    "zip, climbing out later": (lambda: _zip({"a/b/../../../evil.png": PICTURE}), "would lie outside"),
    "zip, dots and spaces": (lambda: _zip({"a/.. /evil.png": PICTURE}), "would lie outside"),
    "zip, absolute": (lambda: _zip({"/evil.png": PICTURE}), "has an absolute name"),
    "zip, drive letter": (lambda: _zip({"C:/evil.png": PICTURE}), "has a drive letter"),
    "zip, drive letter within": (lambda: _zip({"a/c:evil.png": PICTURE}), "has a drive letter"),
    "zip, backslashes": (lambda: _zip({"..\\evil.png": PICTURE}), "has a backslash"),
    "zip, other computer": (lambda: _zip({"\\\\host\\share.png": PICTURE}), "has a backslash"),
    "zip, NUL": (lambda: _patched(_zip({"axb.png": PICTURE}), b"axb.png", b"a\0b.png"), "control characters"),
    "zip, line end": (lambda: _zip({"a\nerror: b.png": PICTURE}), "control characters"),
    "zip, device": (lambda: _zip({"CON.png": PICTURE}), "'CON.png' has a name that Windows reserves"),
    "zip, device as a folder": (lambda: _zip({"a/aux/1.png": PICTURE}), "reserves: 'aux'"),
    "zip, long name": (lambda: _zip({"a" * 300 + ".png": PICTURE}), "a name that is too long: 304 bytes"),
    "zip, deep": (lambda: _zip({"a/" * 40 + "1.png": PICTURE}), "too long: 85 bytes, 41 parts"),
    "zip, twice": (
        lambda: _patched(_zip({"a.png": PICTURE, "b.png": b""}), b"b.png", b"a.png"),
        "'a.png' is there twice",
    ),
    "zip, only case differs": (lambda: _zip({"a/B.png": PICTURE, "a/b.png": PICTURE}), "'a/b.png' is there twice"),
    "zip, only case of folders differs": (lambda: _zip({"a/1.png": b"", "A/2.png": b""}), "in case only from 'a'"),
    "zip, only composition differs": (lambda: _zip({"\xe9.png": b"", "e\u0301.png": b""}), "is there twice"),
    "zip, file and folder": (lambda: _zip({"a": PICTURE, "a/b.png": PICTURE}), "a folder and a file at once"),
    "zip, folder and file": (lambda: _zip({"a/b.png": PICTURE, "a": PICTURE}), "is there twice"),
    "zip, not UTF-8": (
        lambda: _patched(_zip({"\xe9.png": PICTURE}), "\xe9.png".encode(), b"\xff\xff.png"),
        "is cut short, or no archive",
    ),
    "tar, climbing out": (lambda: _tar({"../evil.png": PICTURE}), "would lie outside"),
    "tar, absolute": (lambda: _tar({"/evil.png": PICTURE}), "has an absolute name"),
    "tar, twice": (lambda: _tar({"a.png": PICTURE, "./a.png": PICTURE}), "'./a.png' is there twice"),
    "tar, climbing out by extension": (
        lambda: _pax(b"20 path=../evil.png\n") + _header() + END,
        "'../evil.png' would lie outside",
    ),
    "tar, climbing out by long name": (
        lambda: _header(size=b"00000000014\0", kind=b"L") + b"../evil.png\0".ljust(512, b"\0") + _header() + END,
        "would lie outside",
    ),
    "tar, not UTF-8": (lambda: _header(name=b"\xff\xfe.png\0") + END, "not UTF-8"),
    # what is no file
    "zip, link": (lambda: _zip({"a.png": b"/etc/passwd"}, external_attr=0o120777 << 16), "is a link or a device"),
    "zip, pipe": (lambda: _zip({"a.png": b""}, external_attr=0o010666 << 16), "is a link or a device"),
    "tar, link": (lambda: _tar({"a": _entry("a", tarfile.SYMTYPE, "/tmp")}), "'a' is a link"),
    "tar, file through a link": (
        lambda: _tar({"a": _entry("a", tarfile.SYMTYPE, ".."), "a/evil.png": PICTURE}),
        "'a' is a link",
    ),
    "tar, hard link": (lambda: _tar({"a": _entry("a.png", tarfile.LNKTYPE, "/etc/passwd")}), "is a link"),
    "tar, pipe": (lambda: _tar({"a": _entry("a.png", tarfile.FIFOTYPE)}), "is a link or a device, not a file"),
    "tar, device": (lambda: _tar({"a": _entry("a.png", tarfile.CHRTYPE)}), "is a link or a device, not a file"),
    "tar, sparse": (lambda: _header(kind=b"S") + END, "is a sparse file"),
    "tar, sparse by extension": (lambda: _pax(b"22 GNU.sparse.major=1\n") + _header() + END, "is a sparse file"),
    "tar, one name for all": (lambda: _pax(b"14 path=a.png\n", b"g") + _header() * 2 + END, "'a.png' is there twice"),
    # bombs
    "zip, bomb": (lambda: _zip({"a.png": _explodes()}), "would unpack from 20,4"),
    "zip, bomb of many": (lambda: _zip({f"{i}.png": bytes(1 << 20) for i in range(9)}), "to 9,437,184 bytes, which no"),
    "zip, bomb that lies": (_lying_zip, "'a.png' is cut short or damaged: it cannot be unpacked"),
    "zip, many members": (lambda: _zip({f"{i}.png": b"" for i in range(51)}), "has more than 50 members"),
    "zip, twice the same place": (_twice_the_same_place, "lie on top of each other"),
    "zip, one within another": (_one_within_another, "lie on top of each other"),
    "tar.gz, bomb": (lambda: gzip.compress(_tar({"a.png": _explodes()})), "unpacks to more than 2,"),
    "tar.gz, bomb in what is left out": (lambda: gzip.compress(_tar({".a": _explodes()})), "unpacks to more than 2,"),
    "tar.gz, bomb behind the end": (lambda: gzip.compress(GOOD_TAR + _explodes(30 << 20)), "unpacks to more than"),
    "tar.bz2, bomb": (lambda: bz2.compress(_tar({"a.png": _explodes()})), "unpacks to more than 1,048,576"),
    "tar.xz, bomb": (lambda: lzma.compress(_tar({"a.png": _explodes()})), "unpacks to more than 1,048,576"),
    "tar.xz, asks for 4 GiB of memory": (_huge_dictionary, "is cut short or damaged"),
    "tar, many members": (lambda: _tar({f"{i}.png": b"" for i in range(51)}), "has more than 50 members"),
    "tar, long name": (lambda: _header(size=b"00000060000\0", kind=b"L") + b"a" * 24576, "a header that is too long"),
    "tar, long chain of headers": (lambda: _pax(b"11 a=23456\n") * 17 + _header() + END, "a header that is too long"),
    "tar, endless name": (lambda: _header(size=b"77777777777\0", kind=b"L") + END, "is cut short or damaged"),
    "tar, header of digits": (lambda: _pax(b"1" * 16000) + END, "a header that is too long, or damaged"),
    "tar, header of records within records": (
        lambda: _pax(b"2 " * 6000 + b"=") + _header() + END,
        "a header that is too long, or damaged",
    ),
    # damage
    "zip, encrypted": (lambda: _set_entries(GOOD_ZIP, 8, "<H", 1), "'cat/0.png' is encrypted"),
    "zip, bzip2": (lambda: _zip(FEW, compression=zipfile.ZIP_BZIP2), "ditkit does not unpack (method 12)"),
    "zip, lzma": (lambda: _zip(FEW, compression=zipfile.ZIP_LZMA), "ditkit does not unpack (method 14)"),
    "zip, cut short": (lambda: GOOD_ZIP[:-30], "is cut short"),
    "zip, cut in half": (lambda: GOOD_ZIP[: len(GOOD_ZIP) // 2], "is cut short"),
    "zip, beginning lost": (lambda: GOOD_ZIP[200:], "is cut short, or no archive"),
    "zip, a few letters": (lambda: b"hello", "is cut short, or no archive"),
    "zip, middle lost": (lambda: GOOD_ZIP[:300] + GOOD_ZIP[400:], "has a damaged directory"),
    "zip, wrong checksum": (lambda: _set_entries(GOOD_ZIP, 16, "<I", 7), "'cat/0.png' is cut short or damaged"),
    "zip, says less": (lambda: _set_entries(GOOD_ZIP, 24, "<I", 9), "'cat/0.png' is cut short or damaged"),
    "zip, says more": (lambda: _set_entries(GOOD_ZIP, 24, "<I", 999), "bytes long, not 999 as it says"),
    "zip, stored and says more": (lambda: _set_entries(STORED, 24, "<I", 999), "bytes long, not 999 as it says"),
    "zip, content of another length": (
        lambda: _set_entries(GOOD_ZIP, 20, "<I", 3),
        "'cat/0.png' is cut short or damaged",
    ),
    "zip, content beyond the end": (lambda: _set_entries(STORED, 20, "<I", 9999), "has a damaged directory"),
    "zip, other name inside": (lambda: _patched(STORED, b"a.png", b"b.png", 1), "is not where the directory says"),
    "zip, starts nowhere": (lambda: _set_entries(STORED, 42, "<I", 9999), "has a damaged directory"),
    "zip, one hidden in the comment of another": (lambda: _hidden_by_a_comment(), "has a damaged directory"),
    "zip, directory elsewhere": (lambda: _set_end(GOOD_ZIP, 16, "<I", 5), "has a damaged directory"),
    "zip, directory beyond the end": (lambda: _set_end(GOOD_ZIP, 16, "<I", 1 << 31), "has a damaged directory"),
    "zip, 64 bits that are not there": (lambda: _set_end(GOOD_ZIP, 16, "<I", 0xFFFFFFFF), "has a damaged directory"),
    "zip, inflates to nonsense": (lambda: _patched(GOOD_ZIP, b"IHDR"[:0] + GOOD_ZIP[44:48], b"\xff" * 4, 1), "damaged"),
    "tar, cut short": (lambda: GOOD_TAR[:2000], "is cut short"),
    "tar, cut between members": (lambda: _tar({"a.png": PICTURE})[: 512 + 512], "is cut short or damaged"),
    "tar, damaged in the middle": (
        lambda: _patched(GOOD_TAR, b"cat/3.png", b"cat/9.png"),
        "is cut short or damaged",
    ),
    "tar, a header in the middle turned to zeros": (
        lambda: (at := GOOD_TAR.index(b"cat/3.png")) and GOOD_TAR[:at] + bytes(512) + GOOD_TAR[at + 512 :],
        "is damaged: it goes on behind its end",
    ),
    "tar, a damaged extension in the middle": (
        lambda: _header(name=b"b.png") + _pax(b"0 path=a.png\n") + _header() + END,
        "is cut short or damaged",
    ),
    "tar, 64 GiB that are not there": (lambda: _header(size=b"77777777777\0") + END, "'a.png' is cut short or damaged"),
    "tar, far too large": (lambda: _header(size=b"\x80" + b"\0" * 3 + b"\x40" + b"\0" * 7) + END, "is too large"),
    "tar, negative size": (lambda: _header(size=b"\xff" * 12) + END, "its size is no number"),
    "tar, no size": (lambda: _pax(b"12 size=abc\n") + _header() + END, "its size is no number"),
    "tar, size of 5000 digits": (
        lambda: _pax(b"5010 size=" + b"9" * 4999 + b"\n") + _header() + END,
        "a header that is too long, or damaged",
    ),
    "tar, damaged extension": (lambda: _pax(b"99999 path=a.png\n") + _header() + END, "control characters"),
    "tar.gz, cut short": (lambda: gzip.compress(GOOD_TAR)[:-200], "is cut short or damaged"),
    "tar.gz, checksum cut off": (lambda: gzip.compress(GOOD_TAR)[:-5], "is cut short"),
    "tar.gz, wrong checksum": (
        lambda: gzip.compress(GOOD_TAR)[:-8] + bytes(8),
        "is cut short or damaged",
    ),
    "tar.gz, rubbish behind it": (lambda: gzip.compress(GOOD_TAR) + b"rubbish", "is cut short or damaged"),
    "tar.bz2, cut short": (lambda: bz2.compress(GOOD_TAR)[:-20], "is cut short"),
    "tar.bz2, damaged": (lambda: _patched(c := bz2.compress(GOOD_TAR), c[60:64], b"abcd"), "is cut short or damaged"),
    "tar.xz, cut short": (lambda: lzma.compress(GOOD_TAR)[:-8], "is cut short"),
    "tar.xz, damaged": (lambda: _patched(c := lzma.compress(GOOD_TAR), c[60:64], b"abcd"), "is cut short or damaged"),
    "gz of no tar": (lambda: gzip.compress(PICTURE * 9), "or it is no .tar archive"),
    # something else
    "empty file": (lambda: b"", "is an empty file"),
    "text": (lambda: b"no archive\n" * 99, "is cut short, or no archive"),
    "one byte": (lambda: b"P", "is cut short, or no archive"),
    "picture": (lambda: PICTURE, "is cut short, or no archive"),
    "web page": (lambda: b"\n<!DOCTYPE html><title>Quota exceeded", "is a web page, probably a quota or login page"),
    "rar": (lambda: b"Rar!\x1a\7\1\0" + bytes(99), "it is a .rar archive"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(99), "it is a .7z archive"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd" + bytes(99), "it is packed by zstd"),
    "zip, empty": (lambda: _zip({}), "holds no files"),
    "zip, folders only": (lambda: _zip({"a/": b"", "a/b/": b""}), "holds no files"),
    "zip, hidden files only": (lambda: _zip({"__MACOSX/._a.png": b"x", ".DS_Store": b"x"}), "holds no files"),
    "tar, empty": (lambda: _tar({}), "holds no files"),
}


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of everything that is written."""
    lengths: list[int] = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda to, data: lengths.append(len(data)) or write(to, data))
    return lengths


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_archive_is_one_line_and_leaves_nothing(kind: str, tmp_path: Path, written: list[int]) -> None:
    make, message = HOSTILE[kind]
    archive = tmp_path / "in" / "photos.zip"
    (tmp_path / "out").mkdir()
    archive.parent.mkdir()
    archive.write_bytes(make())
    before = sorted(tmp_path.rglob("*"))
    began = time.monotonic()
    with pytest.raises(DataError) as caught:
        extract(archive, tmp_path / "out" / "photos", limits=SMALL)
    assert message in caught.value.message and str(archive) in caught.value.message
    assert caught.value.message.isprintable() and len(caught.value.message) < 600
    assert caught.value.exit_code == 3 and caught.value.hint
    assert sorted(tmp_path.rglob("*")) == before
    assert sum(written) <= SMALL.harmless + 4 * archive_names.BLOCK
    assert time.monotonic() - began < 5


def test_a_bomb_stops_at_the_usual_limits_too(tmp_path: Path, written: list[int]) -> None:
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(_tar({"a.png": bytes(80 << 20)}), 9))
    with pytest.raises(DataError, match="unpacks to more than 67,108,864 bytes"):
        extract(tmp_path / "a.tar.bz2", tmp_path / "out" / "a")
    assert sum(written) <= 65 << 20


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, None])
def test_memory_stays_small_whatever_is_unpacked(pack: Callable[[bytes], bytes] | None, tmp_path: Path) -> None:
    content = {"a.png": bytes(32 << 20)}
    (tmp_path / "archive").write_bytes(pack(_tar(content)) if pack else _zip(content))
    tracemalloc.start()
    try:
        extract(tmp_path / "archive", tmp_path / "out", limits=Limits(ratio=10**6))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 * archive_names.BLOCK and (tmp_path / "out" / "a.png").stat().st_size == 32 << 20


def test_a_directory_of_too_many_members_or_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    with pytest.raises(DataError, match="has more than 11 members"):
        extract(tmp_path / "a.zip", tmp_path / "out", limits=Limits(members=11))
    assert _files(extract(tmp_path / "a.zip", tmp_path / "out", limits=Limits(members=12))) == FEW
    monkeypatch.setattr(zip, "LONGEST_DIRECTORY", 500)
    with pytest.raises(DataError, match="has a directory that is too long"):
        extract(tmp_path / "a.zip", tmp_path / "other")


@pytest.mark.faults
def test_memory_stays_small_however_many_members_a_tar_has(tmp_path: Path) -> None:
    hidden = b"".join(_header(name=b".%05d" % index) for index in range(100))
    (tmp_path / "a.tar").write_bytes(_tar({"a.png": PICTURE})[:1024] + hidden * 200 + END)
    tracemalloc.start()
    try:
        extract(tmp_path / "a.tar", tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * archive_names.BLOCK and set(_files(tmp_path / "out")) == {"a.png"}


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_no_flipped_bit_changes_what_comes_out(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # not what is tested here
    pack = {".zip": lambda _: GOOD_ZIP, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}
    content, draw, archive = pack[suffix](GOOD_TAR), random.Random(suffix), tmp_path / f"a{suffix}"
    refused = 0
    for attempt in range(150):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        archive.write_bytes(changed)
        target = tmp_path / "out" / str(attempt)
        try:
            extract(archive, target, limits=SMALL)
        except DataError:
            refused += 1
        else:
            assert _files(target) == FEW
            shutil.rmtree(target)
    assert refused > 75 and list((tmp_path / "out").iterdir()) == []


# --- good archives


def _files(folder: Path) -> dict[str, bytes]:
    found = {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    found.pop(COMPLETE, None)
    return found


def _streamed_zip() -> bytes:
    """Made without going back: sizes and checksums stand behind the content."""
    parts: list[bytes] = []
    pipe = SimpleNamespace(write=lambda data: parts.append(bytes(data)) or len(data), flush=lambda: None)
    with zipfile.ZipFile(cast(IO[bytes], pipe), "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FEW.items():
            archive.writestr(name, content)
    return b"".join(parts)


def _zip_64() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in FEW.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    content = file.getvalue()
    at, start, count = len(content) - 22, content.index(b"PK\1\2"), len(FEW)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, at - start, start)
    place = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return content[:at] + wide + place + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, *[0xFFFFFFFF] * 2, 0)


def _commented_zip() -> bytes:
    comment = b"made by PK and others" + bytes(20)
    return GOOD_ZIP[:-2] + struct.pack("<H", len(comment)) + comment


GOOD: dict[str, Callable[[], bytes]] = {
    "zip": lambda: GOOD_ZIP,
    "stored zip": lambda: _zip(FEW, compression=zipfile.ZIP_STORED),
    "streamed zip": _streamed_zip,
    "zip of 64 bits": _zip_64,
    "zip with a comment": _commented_zip,
    "zip of fewer than it says": lambda: _set_end(GOOD_ZIP, 10, "<H", 13),
    "zip of more than it says": lambda: _set_end(GOOD_ZIP, 10, "<H", 11),
    "zip, one of several, but all there": lambda: _set_end(GOOD_ZIP, 4, "<H", 3),
    "pax tar": lambda: GOOD_TAR,
    "gnu tar": lambda: _tar(FEW, tarfile.GNU_FORMAT),
    "ustar": lambda: _tar(FEW, tarfile.USTAR_FORMAT),
    "tar with a comment": lambda: _tar(FEW, pax_headers={"comment": "0123abcd"}),
    "tar.gz": lambda: gzip.compress(GOOD_TAR),
    "tar.gz in parts, padded": lambda: gzip.compress(GOOD_TAR[:999]) + gzip.compress(GOOD_TAR[999:]) + bytes(9999),
    "tar.bz2": lambda: bz2.compress(GOOD_TAR),
    "tar.xz": lambda: lzma.compress(GOOD_TAR),
    "zip with what systems add": lambda: _zip(
        FEW | dict.fromkeys(("__MACOSX/cat/._0.png", ".DS_Store", "cat/.thumbs/0.png", "Icon\r", COMPLETE), b"x")
    ),
    "tar of a dot": lambda: _tar({"./": _entry("./", tarfile.DIRTYPE), **{f"./{k}": v for k, v in FEW.items()}}),
}


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_archive_is_unpacked_to_the_byte(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(GOOD[kind]())
    seen: list[tuple[float, float]] = []
    folder = extract(archive, tmp_path / "out" / "a", limits=SMALL, on_progress=lambda *at: seen.append(at))
    assert _files(folder) == FEW
    assert seen and seen[-1][0] == seen[-1][1] > 0
    note = json.loads((folder / COMPLETE).read_text(encoding="utf-8"))
    assert (note["files"], note["bytes"]) == (len(FEW), sum(map(len, FEW.values())))
    assert note["source"]["place"] == str(archive) and note["source"]["bytes"] == archive.stat().st_size
    assert list((tmp_path / "out").iterdir()) == [folder] and is_whole(folder)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_and_foreign_names_in_a_tar_arrive(form: int, tmp_path: Path) -> None:
    files = {"a/" + "b" * 200 + "/" + "c" * 200 + ".png": PICTURE, "été/日本.png": PICTURE}
    (tmp_path / "a.tar").write_bytes(_tar(files, form))
    assert _files(extract(tmp_path / "a.tar", tmp_path / "out")) == files


@pytest.mark.skipif(os.name == "nt", reason="needs names that are bytes")
@pytest.mark.parametrize("pack", [_zip, _tar])
def test_foreign_names_arrive_where_the_system_has_only_ascii(pack: Callable[..., bytes], tmp_path: Path) -> None:
    files = {"\xe9t\xe9/\u65e5\u672c.png": PICTURE}
    settings = {"form": tarfile.USTAR_FORMAT, "encoding": "utf-8"} if pack is _tar else {}
    (tmp_path / "a.zip").write_bytes(pack(files, **settings))
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", UNPACK, str(tmp_path / "a.zip"), str(tmp_path / "out")]
    subprocess.run(command, env=ascii_only, check=True, timeout=60)
    assert _files(tmp_path / "out") == files and is_whole(tmp_path / "out")


def test_names_of_a_zip_in_either_encoding_arrive(tmp_path: Path) -> None:
    content = _zip({"\xe9t\xe9.png": PICTURE})
    (tmp_path / "a.zip").write_bytes(content)
    flags_off = _patched(content, b"\0\x08\x08\0", b"\0\0\x08\0")  # UTF-8, but does not say so: macOS
    (tmp_path / "b.zip").write_bytes(flags_off)
    (tmp_path / "c.zip").write_bytes(_patched(_patched(_zip({"xtx.png": PICTURE}), b"xtx", b"\x82t\x82"), b"PK", b"PK"))
    for name in "abc":
        assert _files(extract(tmp_path / f"{name}.zip", tmp_path / f"out-{name}")) == {"\xe9t\xe9.png": PICTURE}


def test_windows_own_rules_for_names_apply_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("10:30.png", "what?.png", "a.", "b "):
        member = archive_names.Member(name, 0, iter(()))
        assert archive_names.MemberNames().take(member) == (name,)
        with monkeypatch.context() as windows:
            windows.setattr(archive_names.os, "name", "nt")
            with pytest.raises(archive_names.BadArchive, match="reserves"):
                archive_names.MemberNames().take(member)


# --- once, whole, and repaired


def test_an_archive_is_unpacked_once_and_again_only_when_it_has_changed(tmp_path: Path, cache: Path) -> None:
    archive = tmp_path / "photos.zip"
    archive.write_bytes(GOOD_ZIP)
    told: list[str] = []

    def watch(text: str):
        told.append(text)
        return nullcontext(lambda done, total: None)

    with reporting_to(watch):
        folder = location.local_folder(str(archive))
        assert location.local_folder(str(archive)) == folder and _files(folder) == FEW
        assert told == [f"unpacking {archive} to {folder}"] and cache in folder.parents
        archive.write_bytes(_zip({"cat/new.png": PICTURE, "dog/new.png": PICTURE}))
        other = location.local_folder(str(archive))
        assert other != folder and set(_files(other)) == {"cat/new.png", "dog/new.png"} and len(told) == 2
        os.utime(archive, (1, 1))  # perhaps another one of the same length
        assert location.local_folder(str(archive)) not in (folder, other) and len(told) == 3


@pytest.mark.parametrize("damage", ["file gone", "file shorter", "no note", "note nonsense"])
def test_an_unpacked_folder_that_was_damaged_since_is_unpacked_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    folder = location.local_folder(str(tmp_path / "photos.zip"))
    if damage == "file gone":
        (folder / "cat/3.png").unlink()
    elif damage == "file shorter":
        (folder / "cat/3.png").write_bytes(b"")
    elif damage == "no note":
        (folder / COMPLETE).unlink()
    else:
        (folder / COMPLETE).write_text("[" * 100_000, encoding="utf-8")
    assert not is_whole(folder)
    monkeypatch.setattr(location, "_ready", set())  # as in another process
    assert location.local_folder(str(tmp_path / "photos.zip")) == folder
    assert _files(folder) == FEW and [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_everything_is_on_disk_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def watched_replace(old: Path, new: Path) -> None:
        last = {name: position for position, name in enumerate(synced)}
        note, rest = last[str(old / COMPLETE)], {str(path) for path in old.rglob("*")} - {str(old / COMPLETE)}
        assert all(last[name] < note for name in rest) and last[str(old)] > note
        synced.append("renamed")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not tell which file a descriptor is")
    extract(tmp_path / "photos.zip", tmp_path / "out" / "photos")
    assert synced[-2:] == ["renamed", str(tmp_path / "out")]


UNPACK = """
import sys
from pathlib import Path
from ditkit.data.sources import extract as archives
archives.extract(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def _unpacking(archive: Path, target: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", UNPACK, str(archive), str(target)], stderr=subprocess.PIPE)


def _until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_extraction_is_never_used_and_its_litter_goes(tmp_path: Path) -> None:
    files = {f"{index % 10}/{index}.png": os.urandom(2000) for index in range(1500)}
    archive, out = tmp_path / "photos.zip", tmp_path / "out"
    archive.write_bytes(_zip(files, compression=zipfile.ZIP_STORED))
    out.mkdir()
    for share in (1, 10):
        with _unpacking(archive, out / "photos") as child:
            _until(lambda share=share: len(list(out.glob(".tmp-unpack-photos-*/*"))) >= share)
            child.send_signal(signal.SIGKILL)
        assert child.returncode == -signal.SIGKILL
        assert len(list(out.glob(".tmp-unpack-photos-*"))) == 1 and not is_whole(out / "photos")
    extract(archive, out / "photos")
    assert _files(out / "photos") == files and list(out.iterdir()) == [out / "photos"]


def test_litter_of_other_archives_goes_too_unless_somebody_is_at_it(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("dead", "alive"):
        (out / f".tmp-unpack-{name}-0123abcd").mkdir(parents=True)
    (out / ".tmp-step-0000100-0123abcd").mkdir()
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    holder = "import sys,time;from pathlib import Path;from ditkit.io.locks import exclusive\n"
    holder += "with exclusive(Path(sys.argv[1])): print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder, str(out / "alive")], stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        extract(tmp_path / "photos.zip", out / "photos")
        child.kill()
    left = {path.name for path in out.iterdir()} - {".alive.lock"}
    assert left == {"photos", ".tmp-unpack-alive-0123abcd", ".tmp-step-0000100-0123abcd"}


def test_several_threads_unpack_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    opened: list[Path] = []
    open_archive = extraction._open
    monkeypatch.setattr(extraction, "_open", lambda *given: opened.append(given[0]) or open_archive(*given))
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(extract, tmp_path / "photos.zip", tmp_path / "out" / "photos") for _ in range(4)]
    assert {future.result() for future in done} == {tmp_path / "out" / "photos"} and len(opened) == 1


def test_several_processes_unpack_it_once(tmp_path: Path) -> None:
    files = {f"{index}.png": os.urandom(500) for index in range(1000)}
    (tmp_path / "photos.zip").write_bytes(_zip(files, compression=zipfile.ZIP_STORED))
    children = [_unpacking(tmp_path / "photos.zip", tmp_path / "out" / "photos") for _ in range(3)]
    seen: set[str] = set()
    while any(child.poll() is None for child in children):
        seen |= {path.name for path in (tmp_path / "out").glob(".tmp-unpack-*")}
        time.sleep(0.002)
    assert [child.communicate()[1] for child in children] == [b""] * 3
    assert _files(tmp_path / "out" / "photos") == files and len(seen) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["photos"]


def test_a_lock_keeps_out_whoever_does_not_wait(tmp_path: Path) -> None:
    asker = "import sys;from pathlib import Path;from ditkit.io.locks import exclusive\n"
    asker += "with exclusive(Path(sys.argv[1]), wait=False) as held: print(held)"
    command = [sys.executable, "-c", asker, str(tmp_path / "thing")]
    with exclusive(tmp_path / "thing") as held:
        assert held and subprocess.check_output(command, text=True) == "False\n"
    assert subprocess.check_output(command, text=True) == "True\n"
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_while_it_was_taken_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try_lock, tries = locks.try_lock, [0]

    def too_late(descriptor: int) -> bool | None:
        tries[0] += 1
        if tries[0] == 1:
            (tmp_path / ".thing.lock").unlink()  # by its last holder, on leaving
        return try_lock(descriptor)

    monkeypatch.setattr(locks, "try_lock", too_late)
    with exclusive(tmp_path / "thing") as held:
        assert held and tries == [2] and (tmp_path / ".thing.lock").exists()


# --- the disk


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    tmp_path: Path, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000))
    (tmp_path / "a.zip").write_bytes(_zip({"a.png": bytes(60_000)}))
    (tmp_path / "b.tar").write_bytes(_tar({"a.png": bytes(60_000)}))
    for name in ("a.zip", "b.tar"):
        with pytest.raises(MachineError, match=r"needs 0 MB in .*, where 0 MB are free") as caught:
            extract(tmp_path / name, tmp_path / "out" / name)
        assert "DITKIT_CACHE" in str(caught.value.hint)
    assert not written and list((tmp_path / "out").iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, allowed = os.write, [5]

    def full(to: int, data: bytes) -> int:
        allowed[0] -= 1
        if allowed[0] < 0:
            raise OSError(28, "No space left on device")
        return write(to, data[:20])  # and writes are short

    monkeypatch.setattr(os, "write", full)
    (tmp_path / "a.zip").write_bytes(GOOD_ZIP)
    with pytest.raises(MachineError, match=r"cannot unpack .*: the disk is full"):
        extract(tmp_path / "a.zip", tmp_path / "out" / "a")
    assert list((tmp_path / "out").iterdir()) == []
    allowed[0] = 10_000
    assert _files(extract(tmp_path / "a.zip", tmp_path / "out" / "a")) == FEW


def test_an_archive_that_changes_meanwhile_is_not_believed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(GOOD_ZIP)
    with pytest.raises(DataError, match="was changed while it was unpacked"):
        extract(archive, tmp_path / "out", on_progress=lambda *_: os.utime(archive, (1, 1)))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITKIT_CACHE", "here")
    assert cache_dir() == tmp_path / "here" and not cache_dir().exists()
    assert cache_folder("extracted") == tmp_path / "here" / "extracted"
    assert list((tmp_path / "here" / "extracted").iterdir()) == []
    monkeypatch.setenv("DITKIT_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().name == "ditkit" and (sys.platform != "linux" or cache_dir() == tmp_path / "xdg" / "ditkit")


def test_what_is_in_a_cache_that_cannot_be_written_is_still_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos.zip").write_bytes(GOOD_ZIP)
    (tmp_path / "other.tar.gz").write_bytes(gzip.compress(GOOD_TAR))
    folder = location.local_folder(str(tmp_path / "photos.zip"))

    def read_only(path: str, flags: int, *rest: int, **more: int) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR) and str(path).startswith(str(cache)):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, flags, *rest, **more)

    opened = os.open
    monkeypatch.setattr(os, "open", read_only)
    assert location.local_folder(str(tmp_path / "photos.zip")) == folder
    code, _, err = said(capsys, "train ./other.tar.gz")
    assert code == 6 and f"error: cannot write to the cache {cache / 'extracted'}: Read-only file system" in err
    assert "DITKIT_CACHE" in err


# --- the command line


def test_an_archive_is_trained_on_and_continued_like_its_folder(
    tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("My Photos.tar.gz").write_bytes(gzip.compress(_tar({f"my/{name}": data for name, data in FEW.items()})))
    Path("My Photos.tar.gz").rename("photos.tar.gz")
    code, out, err = said(capsys, f"train ./photos.tar.gz --dry-run {TINY}")
    assert code == 0 and f'path = "{tmp_path / "photos.tar.gz"}"' in out
    assert err.startswith(f"unpacking {tmp_path / 'photos.tar.gz'} to {cache / 'extracted' / 'photos-'}")
    assert "would train runs/photos: 11 images, 2 labels" in err and "error" not in err
    before = _files(cache)
    for steps in (1, 2):
        code, _, err = said(capsys, f"train photos.tar.gz --steps {steps} {TINY} --quiet")
        assert (code, err) == (0, "")
    assert Path("runs/photos/checkpoints/step-0000002").is_dir() and _files(cache) == before
    code, _, err = said(capsys, "train photos --steps 3")  # the run by its name, with the settings of its own
    assert code == 0 and "unpacking" not in err and Path("runs/photos/checkpoints/step-0000003").is_dir()
    shutil.rmtree(cache)
    code, _, err = said(capsys, "train photos --steps 4")
    assert code == 0 and err.startswith("unpacking ") and _files(cache) == before


@pytest.mark.parametrize("line", ["train ./photos.zip", "train folder --data-dir photos.zip", "lr-find photos.zip"])
def test_an_archive_that_is_not_there_is_a_wrong_word(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, line)
    assert (code, out) == (2, "")
    assert err.endswith("hint: check the path\n") and err.count("\n") == 2
    assert err.startswith("error: ") and "there is no archive" in err and "photos.zip" in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "photos.zip is an empty file"),
        (GOOD_ZIP[:-9], "photos.zip is cut short, or no archive"),
        (_zip({}), "photos.zip holds no files"),
        (_zip({"../\x1b[31mevil.png": b""}), "photos.zip: '../\\x1b[31mevil.png' has a name"),
        (_zip({"notes.txt": b"x"}), "no images in"),
        (_zip({"a/1.png": PICTURE, "b/": b""}), "no images in the class folder b"),
    ],
)
@pytest.mark.parametrize("line", ["train ./photos.zip --quiet", "train folder --set data.path=photos.zip --quiet"])
def test_an_archive_that_cannot_be_trained_on_is_one_line(
    content: bytes, message: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos.zip").write_bytes(content)
    code, out, err = said(capsys, line)
    assert (code, out) == (3, "")
    assert [one.partition(":")[0] for one in err.splitlines()] == ["error", "hint"], err
    assert message in err and not Path("runs").exists()


def test_a_file_that_is_no_archive_is_a_wrong_word(capsys: pytest.CaptureFixture[str]) -> None:
    Path("photo.png").write_bytes(PICTURE)
    code, _, err = said(capsys, "train photo.png")
    assert code == 2 and "photo.png is a file\nhint: give a folder of images, or a .zip or .tar archive of one" in err


def test_one_folder_in_an_archive_stands_for_it_and_several_are_labels(tmp_path: Path) -> None:
    for name, top, labels in (("a", "", ("cat", "dog")), ("b", "photos/", ("cat", "dog")), ("c", "x/cat/", ("cat",))):
        Path(f"{name}.zip").write_bytes(_zip({f"{top}{file}": data for file, data in FEW.items()}))
        if name == "c":
            Path("c.zip").write_bytes(_zip({f"{top}{index}.png": PICTURE for index in range(4)}))
        config = DataConfig(name="folder", path=f"{name}.zip", image_size=(8, 8), channels=3)
        assert open_dataset(config, "train").labels == labels


def _celeba(folder: str = "img_align_celeba/") -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Images in a folder, and the list of their attributes."""
    images = {f"{folder}{number:06d}.jpg": _picture(number) for number in range(1, 13)}
    rows = "".join(f"{number:06d}.jpg {1 - number % 2 * 2}\n" for number in range(1, 13))
    return images, {"list_attr_celeba.txt": f"12\nMale\n{rows}".encode()}


def test_celeba_may_be_packed_whole_or_its_images_only(tmp_path: Path) -> None:
    images, attributes = _celeba()
    (tmp_path / "faces.zip").write_bytes(_zip({**images, **attributes}))
    (tmp_path / "wrapped.tar").write_bytes(
        _tar({"celeba/img_align_celeba.zip": _zip(images), "celeba/list_attr_celeba.txt": attributes.popitem()[1]})
    )
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/img_align_celeba.zip").write_bytes(_zip(images))
    (tmp_path / "folder/list_attr_celeba.txt").write_bytes(_celeba()[1]["list_attr_celeba.txt"])
    prints = set()
    for place in ("faces.zip", "wrapped.tar", "folder"):
        config = DataConfig(name="celeba", path=str(tmp_path / place), image_size=(8, 8), channels=3, validation=2)
        faces = celeba.dataset(config, "train")
        assert len(faces) == 11 and faces.labels == ("female", "male") and faces[0][0].shape == (8, 8, 3)
        prints.add(faces.fingerprint)
    assert len(prints) == 1


def test_an_address_or_word_that_is_none_is_told_as_such() -> None:
    for word in ("ftp://host/a.zip", "file:///etc/passwd", "http://", "https://host:99999/a.zip", "http://[::1/a.zip"):
        with pytest.raises(UsageError, match="is not an http or https address"):
            location.local_folder(word)
    with pytest.raises(UsageError, match="has a name or a password in it"):
        location.local_folder("https://me:secret@host/a.zip")
    with pytest.raises(UsageError, match="is not the SHA-256"):
        location.local_folder("https://host/a.zip#sha256=123")
    assert location.stem("https://host/My%20Photos.TAR.GZ?x=1#sha256=0") == "My Photos"
    assert location.stem("a/b.zip") == "b" and location.stem("https://host/") == ""
    assert extraction.is_archive("A.ZIP") and not extraction.is_archive("a.png")
