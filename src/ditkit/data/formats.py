"""Image files by the endings of their names: which are read, by what, and which are left out and counted.

How the files of a data set become images has a version, `data.reading`: what a run began with, it goes on with.
"""

from __future__ import annotations

import importlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from typing import IO, Any, Protocol

from PIL import features

NEWEST = 2  # version of `data.reading`
FIRST = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # formats of the first reading
_FIRST_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
# Named, because Pillow would otherwise try every format, and run Ghostscript for an EPS file.
_ENDINGS = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjpg .pjp .mpo",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "BMP": ".bmp",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "QOI": ".qoi",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpf .jpx",
    "AVIF": ".avif .avifs",
    "HEIF": ".heic .heif .heics .heifs .hif",
    "JXL": ".jxl",
}
_PILLOW_MAY_LACK = {"WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
_PLUGINS = {"HEIF": ("pillow_heif", "ditkit[heif]"), "JXL": ("pillow_jxl", "ditkit[jxl]")}  # module, what to install
# Images that are not read: of cameras, of programs for drawing, of medicine and microscopes, arrays.
_OTHERS = (
    ".tga .dib .pcx .psd .psb .xcf .kra .ora .ai .svg .svgz .eps .wmf .emf .ico .cur .icns .dds .ktx .exr .hdr .bpg "
    ".flif .wdp .jxr .hdp .jng .mng .sgi .rgb .rgba .ras .xbm .xpm .dng .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf "
    ".rw2 .raf .pef .raw .rwl .3fr .fff .iiq .x3f .erf .mrw .kdc .dcr .dcm .dicom .fits .fit .nii .mha .mhd .nrrd "
    ".czi .nd2 .lif .vsi .svs .ndpi .lsm .oib .npy .npz .mat"
)
# What web pages and their downloads put behind an ending: photo.jpg_large, photo.jpg?w=600
_SIZE = re.compile(r"(\.[a-z0-9]+)(?:[-_:](?:large|medium|small|orig|thumb|[0-9]+x[0-9]+)|[?!@&][^/.]*)$")
_MOST_SNIFFED = 1000  # files without an ending that are opened
_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"qoif", b"8BPS")
_BOXES = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif", b"jP  \r\n", b"JXL \r\n")  # from the fifth byte on

ENDINGS = frozenset(f"{ending}{size}" for line in _ENDINGS.values() for ending in line.split() for size in ("", "_"))
LISTED = ENDINGS | {"", *_OTHERS.split()}  # of all files that may be images


def ending(name: str) -> str:
    """The ending of a file's name in small letters, as the sets here have it: `.jpg_` for `a.jpg_large`."""
    name = name.rpartition("/")[2].lower()
    dot = name.rfind(".")
    last = name[dot:] if dot > 0 else ""
    if last in LISTED:  # most are, and there may be millions
        return last
    match = _SIZE.search(name)
    return f"{match[1]}_" if match else last


@cache
def readable(reading: int) -> frozenset[str]:
    """The endings that are read in a version of `data.reading`, with what is installed."""
    if reading == 1:
        return _FIRST_ENDINGS
    missing = {ending for name in _ENDINGS if not _is_installed(name) for ending in _ENDINGS[name].split()}
    return frozenset(ending for ending in ENDINGS if ending.rstrip("_") not in missing)


def spelled() -> str:
    """The formats that are read, for a message."""
    return ", ".join(name for name in _ENDINGS if _is_installed(name))


@cache
def formats(reading: int) -> tuple[str, ...]:
    """Pillow's names of the formats that are read, with the plug-ins for them loaded."""
    if reading == 1:
        return FIRST
    names = tuple(name for name in _ENDINGS if _is_installed(name))
    for name in names:
        if name in _PLUGINS:
            module = importlib.import_module(_PLUGINS[name][0])
            getattr(module, "register_heif_opener", lambda: None)()
    return names


def _is_installed(name: str) -> bool:
    if name in _PLUGINS:
        return find_spec(_PLUGINS[name][0]) is not None
    feature = _PILLOW_MAY_LACK.get(name)  # an older Pillow does not know them all
    return feature is None or (feature in {*features.modules, *features.codecs} and bool(features.check(feature)))


def left_out_of(dataset: object) -> Mapping[str, int]:
    """What was left out where an opened data set was looked for; none of one that is not made of files."""
    return getattr(getattr(dataset, "source", None), "left_out", {})


def with_left_out(source: Any, counts: Mapping[str, int]) -> Any:
    """A source that says what was left out beside it."""
    return replace(source, left_out=counts)


class Files(Protocol):
    """Files that can be named and opened, as sources can."""

    def __len__(self) -> int: ...

    def name(self, row: int) -> str: ...

    def open_bytes(self, row: int) -> IO[bytes]: ...


def left_out(files: Files | None, endings: Sequence[str], reading: int) -> dict[str, int]:
    """How many files look like images and are not read, by their endings; `endings` are those of all files.

    Of files without an ending, those are counted that begin as images do; without `files` none.
    """
    not_read = LISTED - readable(reading)
    counts = Counter(ending for ending in endings if ending in not_read)
    nameless = [row for row, ending in enumerate(endings) if not ending][:_MOST_SNIFFED]
    if nameless and files is not None:
        pictures = sum(_is_picture(files, row) for row in nameless)
        counts[""] = round(counts[""] * pictures / len(nameless))
    elif nameless:
        del counts[""]
    most_first = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {ending.rstrip("_"): count for ending, count in most_first if count}


def _is_picture(files: Files, row: int) -> bool:
    try:
        with files.open_bytes(row) as file:
            head = file.read(16)
    except (OSError, ValueError):
        return False
    return is_picture(head)


def is_picture(head: bytes) -> bool:
    """Whether a file that begins like this (16 bytes or more) is an image of one of the common formats."""
    if head[:2] in (b"P5", b"P6"):
        return head[2:3].isspace()
    return head.startswith(_STARTS) or head[4:].startswith(_BOXES) or (head[:4], head[8:12]) == (b"RIFF", b"WEBP")


def sentence(counts: Mapping[str, int]) -> str:
    """What is left out, of which endings, and what would read it; nothing where nothing is."""
    if not counts:
        return ""
    total = sum(counts.values())
    parts = [f"{count:,} {ending or 'without an ending'}" for ending, count in counts.items()]
    text = f"{total:,} file{'s are' if total > 1 else ' is'} left out: {', '.join(parts[:8])}"
    text += f" and {len(parts) - 8} more endings" if len(parts) > 8 else ""
    return text + (f" ({advice(counts)})" if advice(counts) else "")


def aside(counts: Mapping[str, int]) -> str:
    """The same behind a colon, for the end of a message."""
    return f": {sentence(counts)}" if counts else ""


def advice(counts: Mapping[str, int]) -> str:
    """What would read the files that are left out, if it can be said."""
    missing = [name for name in _ENDINGS if set(_ENDINGS[name].split()) & set(counts) and not _is_installed(name)]
    extras = [f'pip install "{_PLUGINS[name][1]}"' for name in missing if name in _PLUGINS]
    if len(extras) < len(missing):
        extras.append("pip install -U pillow")
    return " or ".join(extras) + (" reads them" if extras else "")
