"""One corpus of archives, good, hostile and damaged, and how each is made."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import IO, cast

from PIL import Image

from ditkit.data.sources.extract import COMPLETE, Limits

SMALL = Limits(members=50, harmless=1 << 20)


def picture(shade: int = 0, side: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 255 - shade, 9)).save(file, format="PNG")
    return file.getvalue()


PICTURE = picture()


FEW = {f"{label}/{index}.png": picture(10 * index) for label in ("cat", "dog") for index in range(6)}


def zip_of(files: dict[str, bytes], **settings) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", settings.pop("compression", zipfile.ZIP_DEFLATED)) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            for key, value in settings.items():
                setattr(info, key, value)
            archive.writestr(info, content)
    return file.getvalue()


def tar_of(files: dict[str, bytes | tarfile.TarInfo], form: int = tarfile.PAX_FORMAT, **settings) -> bytes:
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


def entry_of(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def patched(content: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in content and len(old) == len(new)
    return content.replace(old, new, count)


def header(**fields: bytes) -> bytes:
    """A tar header of one file, with fields overwritten and the checksum made right again."""
    row = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.USTAR_FORMAT))
    for name, value in fields.items():
        at = {"name": 0, "size": 124, "kind": 156}[name]
        row[at : at + len(value)] = value
    row[148:156] = b" " * 8
    row[148:156] = b"%06o\0 " % sum(row)
    return bytes(row)


def pax(records: bytes, kind: bytes = b"x") -> bytes:
    return header(size=b"%011o\0" % len(records), kind=kind) + records.ljust(-(-len(records) // 512) * 512, b"\0")


def set_end(content: bytes, at: int, form: str, value: int) -> bytes:
    """A zip with a field of the record at its end overwritten."""
    changed = bytearray(content)
    struct.pack_into(form, changed, content.rindex(b"PK\5\6") + at, value)
    return bytes(changed)


def set_entries(content: bytes, at: int, form: str, value: int) -> bytes:
    """A zip with a field of all entries of its directory overwritten."""
    changed, place = bytearray(content), content.find(b"PK\1\2")
    while place >= 0:
        struct.pack_into(form, changed, place + at, value)
        place = content.find(b"PK\1\2", place + 4)
    return bytes(changed)


def _twice_the_same_place() -> bytes:
    """Two names for the same bytes of the archive: the trick of the smallest bombs."""
    content = zip_of({"a.png": PICTURE, "b.png": PICTURE}, compression=zipfile.ZIP_STORED)
    second = content.rindex(b"PK\1\2")
    return content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :]


def _one_within_another() -> bytes:
    """The first member's content is the second member, header and all."""
    content = zip_of({"a.png": b"", "b.png": PICTURE}, compression=zipfile.ZIP_STORED)
    first, second = content.index(b"PK\1\2"), content.rindex(b"PK\1\2")
    inside = content[content.index(b"PK\3\4", 4) : first]
    sizes = struct.pack("<3I", zlib.crc32(inside), len(inside), len(inside))
    entry = content[first : first + 16] + sizes + content[first + 28 : second]
    return content[:first] + entry + content[second:]


def _hidden_by_a_comment() -> bytes:
    """One flipped bit makes the second entry of the directory a comment of the first."""
    content = bytearray(zip_of({"a.png": PICTURE, "b" * 13 + ".png": PICTURE}))
    content[content.index(b"PK\1\2") + 32] = 46 + 17
    return bytes(content)


def explodes(size: int = 20 << 20) -> bytes:
    return bytes(size)


def _lying_zip() -> bytes:
    """Says in every place that it unpacks to 100 bytes."""
    content = zip_of({"a.png": explodes()})
    return patched(content, struct.pack("<I", 20 << 20), struct.pack("<I", 100))


def _huge_dictionary() -> bytes:
    """An .xz that asks for 4 GiB of memory before it gives a byte."""
    content = bytearray(lzma.compress(tar_of({"a.png": PICTURE})))
    length = (content[12] + 1) * 4  # of the first block's header, behind the 12 bytes of the stream's
    at = content.index(b"\x21\x01", 12) + 2
    content[at] = 40
    struct.pack_into("<I", content, 12 + length - 4, zlib.crc32(content[12 : 12 + length - 4]))
    return bytes(content)


GOOD_ZIP, GOOD_TAR = zip_of(FEW), tar_of(FEW)


STORED = zip_of({"a.png": PICTURE}, compression=zipfile.ZIP_STORED)


END = bytes(1024)


HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    # names
    "zip, climbing out": (lambda: zip_of({"../evil.png": PICTURE}), "'../evil.png' would lie outside"),
    "zip, climbing out later": (lambda: zip_of({"a/b/../../../evil.png": PICTURE}), "would lie outside"),
    "zip, dots and spaces": (lambda: zip_of({"a/.. /evil.png": PICTURE}), "would lie outside"),
    "zip, absolute": (lambda: zip_of({"/evil.png": PICTURE}), "has an absolute name"),
    "zip, drive letter": (lambda: zip_of({"C:/evil.png": PICTURE}), "has a drive letter"),
    "zip, drive letter within": (lambda: zip_of({"a/c:evil.png": PICTURE}), "has a drive letter"),
    "zip, backslashes": (lambda: zip_of({"..\\evil.png": PICTURE}), "has a backslash"),
    "zip, other computer": (lambda: zip_of({"\\\\host\\share.png": PICTURE}), "has a backslash"),
    "zip, NUL": (lambda: patched(zip_of({"axb.png": PICTURE}), b"axb.png", b"a\0b.png"), "control characters"),
    "zip, line end": (lambda: zip_of({"a\nerror: b.png": PICTURE}), "control characters"),
    "zip, device": (lambda: zip_of({"CON.png": PICTURE}), "'CON.png' has a name that Windows reserves"),
    "zip, device as a folder": (lambda: zip_of({"a/aux/1.png": PICTURE}), "reserves: 'aux'"),
    "zip, long name": (lambda: zip_of({"a" * 300 + ".png": PICTURE}), "a name that is too long: 304 bytes"),
    "zip, deep": (lambda: zip_of({"a/" * 40 + "1.png": PICTURE}), "too long: 85 bytes, 41 parts"),
    "zip, twice": (
        lambda: patched(zip_of({"a.png": PICTURE, "b.png": b""}), b"b.png", b"a.png"),
        "'a.png' is there twice",
    ),
    "zip, only case differs": (lambda: zip_of({"a/B.png": PICTURE, "a/b.png": PICTURE}), "'a/b.png' is there twice"),
    "zip, only case of folders differs": (lambda: zip_of({"a/1.png": b"", "A/2.png": b""}), "in case only from 'a'"),
    "zip, only composition differs": (lambda: zip_of({"\xe9.png": b"", "e\u0301.png": b""}), "is there twice"),
    "zip, file and folder": (lambda: zip_of({"a": PICTURE, "a/b.png": PICTURE}), "a folder and a file at once"),
    "zip, folder and file": (lambda: zip_of({"a/b.png": PICTURE, "a": PICTURE}), "is there twice"),
    "zip, not UTF-8": (
        lambda: patched(zip_of({"\xe9.png": PICTURE}), "\xe9.png".encode(), b"\xff\xff.png"),
        "is cut short, or no archive",
    ),
    "tar, climbing out": (lambda: tar_of({"../evil.png": PICTURE}), "would lie outside"),
    "tar, absolute": (lambda: tar_of({"/evil.png": PICTURE}), "has an absolute name"),
    "tar, twice": (lambda: tar_of({"a.png": PICTURE, "./a.png": PICTURE}), "'./a.png' is there twice"),
    "tar, climbing out by extension": (
        lambda: pax(b"20 path=../evil.png\n") + header() + END,
        "'../evil.png' would lie outside",
    ),
    "tar, climbing out by long name": (
        lambda: header(size=b"00000000014\0", kind=b"L") + b"../evil.png\0".ljust(512, b"\0") + header() + END,
        "would lie outside",
    ),
    "tar, not UTF-8": (lambda: header(name=b"\xff\xfe.png\0") + END, "not UTF-8"),
    # what is no file
    "zip, link": (lambda: zip_of({"a.png": b"/etc/passwd"}, external_attr=0o120777 << 16), "is a link or a device"),
    "zip, pipe": (lambda: zip_of({"a.png": b""}, external_attr=0o010666 << 16), "is a link or a device"),
    "tar, link": (lambda: tar_of({"a": entry_of("a", tarfile.SYMTYPE, "/tmp")}), "'a' is a link"),
    "tar, file through a link": (
        lambda: tar_of({"a": entry_of("a", tarfile.SYMTYPE, ".."), "a/evil.png": PICTURE}),
        "'a' is a link",
    ),
    "tar, hard link": (lambda: tar_of({"a": entry_of("a.png", tarfile.LNKTYPE, "/etc/passwd")}), "is a link"),
    "tar, pipe": (lambda: tar_of({"a": entry_of("a.png", tarfile.FIFOTYPE)}), "is a link or a device, not a file"),
    "tar, device": (lambda: tar_of({"a": entry_of("a.png", tarfile.CHRTYPE)}), "is a link or a device, not a file"),
    "tar, sparse": (lambda: header(kind=b"S") + END, "is a sparse file"),
    "tar, sparse by extension": (lambda: pax(b"22 GNU.sparse.major=1\n") + header() + END, "is a sparse file"),
    "tar, one name for all": (lambda: pax(b"14 path=a.png\n", b"g") + header() * 2 + END, "'a.png' is there twice"),
    # bombs
    "zip, bomb": (lambda: zip_of({"a.png": explodes()}), "would unpack from 20,4"),
    "zip, bomb of many": (
        lambda: zip_of({f"{i}.png": bytes(1 << 20) for i in range(9)}),
        "to 9,437,184 bytes, which no",
    ),
    "zip, bomb that lies": (_lying_zip, "'a.png' is cut short or damaged: it cannot be unpacked"),
    "zip, many members": (lambda: zip_of({f"{i}.png": b"" for i in range(51)}), "has more than 50 members"),
    "zip, twice the same place": (_twice_the_same_place, "lie on top of each other"),
    "zip, one within another": (_one_within_another, "lie on top of each other"),
    "tar.gz, bomb": (lambda: gzip.compress(tar_of({"a.png": explodes()})), "unpacks to more than 2,"),
    "tar.gz, bomb in what is left out": (lambda: gzip.compress(tar_of({".a": explodes()})), "unpacks to more than 2,"),
    "tar.gz, bomb behind the end": (lambda: gzip.compress(GOOD_TAR + explodes(30 << 20)), "unpacks to more than"),
    "tar.bz2, bomb": (lambda: bz2.compress(tar_of({"a.png": explodes()})), "unpacks to more than 1,048,576"),
    "tar.xz, bomb": (lambda: lzma.compress(tar_of({"a.png": explodes()})), "unpacks to more than 1,048,576"),
    "tar.xz, asks for 4 GiB of memory": (_huge_dictionary, "is cut short or damaged"),
    "tar, many members": (lambda: tar_of({f"{i}.png": b"" for i in range(51)}), "has more than 50 members"),
    "tar, long name": (lambda: header(size=b"00000060000\0", kind=b"L") + b"a" * 24576, "a header that is too long"),
    "tar, long chain of headers": (lambda: pax(b"11 a=23456\n") * 17 + header() + END, "a header that is too long"),
    "tar, endless name": (lambda: header(size=b"77777777777\0", kind=b"L") + END, "is cut short or damaged"),
    "tar, header of digits": (lambda: pax(b"1" * 16000) + END, "a header that is too long, or damaged"),
    "tar, header of records within records": (
        lambda: pax(b"2 " * 6000 + b"=") + header() + END,
        "a header that is too long, or damaged",
    ),
    # damage
    "zip, encrypted": (lambda: set_entries(GOOD_ZIP, 8, "<H", 1), "'cat/0.png' is encrypted"),
    "zip, bzip2": (lambda: zip_of(FEW, compression=zipfile.ZIP_BZIP2), "ditkit does not unpack (method 12)"),
    "zip, lzma": (lambda: zip_of(FEW, compression=zipfile.ZIP_LZMA), "ditkit does not unpack (method 14)"),
    "zip, cut short": (lambda: GOOD_ZIP[:-30], "is cut short"),
    "zip, cut in half": (lambda: GOOD_ZIP[: len(GOOD_ZIP) // 2], "is cut short"),
    "zip, beginning lost": (lambda: GOOD_ZIP[200:], "is cut short, or no archive"),
    "zip, a few letters": (lambda: b"hello", "is cut short, or no archive"),
    "zip, middle lost": (lambda: GOOD_ZIP[:300] + GOOD_ZIP[400:], "has a damaged directory"),
    "zip, wrong checksum": (lambda: set_entries(GOOD_ZIP, 16, "<I", 7), "'cat/0.png' is cut short or damaged"),
    "zip, says less": (lambda: set_entries(GOOD_ZIP, 24, "<I", 9), "'cat/0.png' is cut short or damaged"),
    "zip, says more": (lambda: set_entries(GOOD_ZIP, 24, "<I", 999), "bytes long, not 999 as it says"),
    "zip, stored and says more": (lambda: set_entries(STORED, 24, "<I", 999), "bytes long, not 999 as it says"),
    "zip, content of another length": (
        lambda: set_entries(GOOD_ZIP, 20, "<I", 3),
        "'cat/0.png' is cut short or damaged",
    ),
    "zip, content beyond the end": (lambda: set_entries(STORED, 20, "<I", 9999), "has a damaged directory"),
    "zip, other name inside": (lambda: patched(STORED, b"a.png", b"b.png", 1), "is not where the directory says"),
    "zip, starts nowhere": (lambda: set_entries(STORED, 42, "<I", 9999), "has a damaged directory"),
    "zip, one hidden in the comment of another": (lambda: _hidden_by_a_comment(), "has a damaged directory"),
    "zip, directory elsewhere": (lambda: set_end(GOOD_ZIP, 16, "<I", 5), "has a damaged directory"),
    "zip, directory beyond the end": (lambda: set_end(GOOD_ZIP, 16, "<I", 1 << 31), "has a damaged directory"),
    "zip, 64 bits that are not there": (lambda: set_end(GOOD_ZIP, 16, "<I", 0xFFFFFFFF), "has a damaged directory"),
    "zip, inflates to nonsense": (lambda: patched(GOOD_ZIP, b"IHDR"[:0] + GOOD_ZIP[44:48], b"\xff" * 4, 1), "damaged"),
    "tar, cut short": (lambda: GOOD_TAR[:2000], "is cut short"),
    "tar, cut between members": (lambda: tar_of({"a.png": PICTURE})[: 512 + 512], "is cut short or damaged"),
    "tar, damaged in the middle": (
        lambda: patched(GOOD_TAR, b"cat/3.png", b"cat/9.png"),
        "is cut short or damaged",
    ),
    "tar, a header in the middle turned to zeros": (
        lambda: (at := GOOD_TAR.index(b"cat/3.png")) and GOOD_TAR[:at] + bytes(512) + GOOD_TAR[at + 512 :],
        "is damaged: it goes on behind its end",
    ),
    "tar, a damaged extension in the middle": (
        lambda: header(name=b"b.png") + pax(b"0 path=a.png\n") + header() + END,
        "is cut short or damaged",
    ),
    "tar, 64 GiB that are not there": (lambda: header(size=b"77777777777\0") + END, "'a.png' is cut short or damaged"),
    "tar, far too large": (lambda: header(size=b"\x80" + b"\0" * 3 + b"\x40" + b"\0" * 7) + END, "is too large"),
    "tar, negative size": (lambda: header(size=b"\xff" * 12) + END, "its size is not a number"),
    "tar, no size": (lambda: pax(b"12 size=abc\n") + header() + END, "its size is not a number"),
    "tar, size of 5000 digits": (
        lambda: pax(b"5010 size=" + b"9" * 4999 + b"\n") + header() + END,
        "a header that is too long, or damaged",
    ),
    "tar, damaged extension": (
        lambda: pax(b"99999 path=a.png\n") + header() + END,
        "control characters" if sys.version_info < (3, 13) else "is no .tar archive",
    ),
    "tar.gz, cut short": (lambda: gzip.compress(GOOD_TAR)[:-200], "is cut short or damaged"),
    "tar.gz, checksum cut off": (lambda: gzip.compress(GOOD_TAR)[:-5], "is cut short"),
    "tar.gz, wrong checksum": (
        lambda: gzip.compress(GOOD_TAR)[:-8] + bytes(8),
        "is cut short or damaged",
    ),
    "tar.gz, rubbish behind it": (lambda: gzip.compress(GOOD_TAR) + b"rubbish", "is cut short or damaged"),
    "tar.bz2, cut short": (lambda: bz2.compress(GOOD_TAR)[:-20], "is cut short"),
    "tar.bz2, damaged": (lambda: patched(c := bz2.compress(GOOD_TAR), c[60:64], b"abcd"), "is cut short or damaged"),
    "tar.xz, cut short": (lambda: lzma.compress(GOOD_TAR)[:-8], "is cut short"),
    "tar.xz, damaged": (lambda: patched(c := lzma.compress(GOOD_TAR), c[60:64], b"abcd"), "is cut short or damaged"),
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
    "zip, empty": (lambda: zip_of({}), "holds no files"),
    "zip, folders only": (lambda: zip_of({"a/": b"", "a/b/": b""}), "holds no files"),
    "zip, hidden files only": (lambda: zip_of({"__MACOSX/._a.png": b"x", ".DS_Store": b"x"}), "holds no files"),
    "tar, empty": (lambda: tar_of({}), "holds no files" if sys.version_info >= (3, 11) else "is no .tar archive"),
}


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
    "stored zip": lambda: zip_of(FEW, compression=zipfile.ZIP_STORED),
    "streamed zip": _streamed_zip,
    "zip of 64 bits": _zip_64,
    "zip with a comment": _commented_zip,
    "zip of fewer than it says": lambda: set_end(GOOD_ZIP, 10, "<H", 13),
    "zip of more than it says": lambda: set_end(GOOD_ZIP, 10, "<H", 11),
    "zip, one of several, but all there": lambda: set_end(GOOD_ZIP, 4, "<H", 3),
    "pax tar": lambda: GOOD_TAR,
    "gnu tar": lambda: tar_of(FEW, tarfile.GNU_FORMAT),
    "ustar": lambda: tar_of(FEW, tarfile.USTAR_FORMAT),
    "tar with a comment": lambda: tar_of(FEW, pax_headers={"comment": "0123abcd"}),
    "tar.gz": lambda: gzip.compress(GOOD_TAR),
    "tar.gz in parts, padded": lambda: gzip.compress(GOOD_TAR[:999]) + gzip.compress(GOOD_TAR[999:]) + bytes(9999),
    "tar.bz2": lambda: bz2.compress(GOOD_TAR),
    "tar.xz": lambda: lzma.compress(GOOD_TAR),
    "zip with what systems add": lambda: zip_of(
        FEW | dict.fromkeys(("__MACOSX/cat/._0.png", ".DS_Store", "cat/.thumbs/0.png", "Icon\r", COMPLETE), b"x")
    ),
    "tar of a dot": lambda: tar_of({"./": entry_of("./", tarfile.DIRTYPE), **{f"./{k}": v for k, v in FEW.items()}}),
}
