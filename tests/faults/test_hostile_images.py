"""Every kind of odd image file: the right pixels, or one DataError that names the file, soon and in little memory."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from loading import load_image
from patience import Limit
from PIL import EpsImagePlugin, Image, ImageFile

from ditkit.config import DataConfig
from ditkit.data.decode import fit
from ditkit.data.folder import dataset
from ditkit.data.sources.files import find
from ditkit.errors import DataError

pytestmark = pytest.mark.timeout(30)  # a file that makes us wait for ever fails by it

WHITE = [255, 255, 255]
RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
PATCHES = np.kron(np.array([[0, 60, 120], [180, 240, 30]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
COLOUR = np.stack([PATCHES, PATCHES[::-1], PATCHES[:, ::-1]], axis=2)


def _saved(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    data = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(data, kind, **options)
    return data.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG written by hand; colour 0 is grey, 2 RGB, 3 a palette, 4 grey and alpha."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    parts = (header, extra, _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _bomb(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel: eleven kilobytes for 90 million pixels."""
    return _png(width, height, 1, 0, bytes((1 + -(-width // 8)) * height))


def _tiff(samples: bytes, width: int, *, bits: int, photometric: int = 1, order: str = "<") -> bytes:
    """One row of grey samples as the plainest TIFF."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(samples)}
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3, 1) + struct.pack(f"{order}HH", value, 0) for tag, value in tags.items()
    )
    mark = b"II" if order == "<" else b"MM"
    start = mark + struct.pack(f"{order}HI", 42, 8 + len(samples))
    return start + samples + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def _ycck(cyan: int, magenta: int, yellow: int, black: int) -> bytes:
    """A JPEG of one ink colour as Photoshop stores it: YCbCr beside black, all inverted."""
    luma = Image.new("RGB", (16, 16), (cyan, magenta, yellow)).convert("YCbCr").getpixel((0, 0))
    assert isinstance(luma, tuple)
    stored = (255 - luma[0], 255 - luma[1], 255 - luma[2], black)  # Pillow inverts once more while it writes
    data = _saved(Image.new("CMYK", (16, 16), stored), "JPEG", quality=100, subsampling=0)
    marker = data.index(b"Adobe") + 11
    assert data[marker] == 0
    return data[:marker] + b"\x02" + data[marker + 1 :]


def _read(path: Path, content: bytes, channels: int = 3) -> np.ndarray:
    path.write_bytes(content)
    return np.asarray(load_image(path, channels)).astype(int)


# --- what is read right

SIXTEEN = RAMP.astype(np.uint16) * 257
TRANSPARENT = np.dstack([np.full((2, 3), 200, np.uint8), np.array([[0, 128, 255]] * 2, np.uint8)])

READ: dict[str, tuple[Callable[[], bytes], int, object]] = {
    "grey JPEG in colour": (lambda: _saved(np.full((8, 8), 77, np.uint8), "JPEG"), 3, np.full((8, 8, 3), 77)),
    "colour PNG in grey": (lambda: _saved(np.full((4, 4, 3), 9, np.uint8), "PNG"), 1, np.full((4, 4), 9)),
    "16-bit grey PNG": (lambda: _saved(SIXTEEN, "PNG"), 1, RAMP),
    "16-bit big-endian TIFF": (lambda: _tiff(b"\x00\x00\x80\x80\xff\xff", 3, bits=16, order=">"), 1, [[0, 128, 255]]),
    "16-bit TIFF, white is 0": (
        lambda: _tiff(b"\x00\x00\x80\x80\xff\xff", 3, bits=16, photometric=0),
        1,
        [[255, 127, 0]],
    ),
    "12-bit TIFF": (lambda: _tiff(b"\x00\x0f\xff", 2, bits=12), 1, [[0, 255]]),
    "float TIFF of 0 to 1": (lambda: _saved(RAMP.astype(np.float32) / 255, "TIFF"), 1, RAMP),
    "float TIFF with NaN and infinity": (
        lambda: _saved(np.array([[np.nan, np.inf, -np.inf, 0.5, 1]], np.float32), "TIFF"),
        1,
        [[0, 255, 0, 128, 255]],
    ),
    "32-bit TIFF": (lambda: _saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), 1, RAMP),
    "1-bit PNG": (lambda: _saved(Image.fromarray(RAMP > 99), "PNG"), 1, (RAMP > 99) * 255),
    "1-bit TIFF, fax": (lambda: _saved(Image.fromarray(RAMP > 99), "TIFF", compression="group4"), 1, (RAMP > 99) * 255),
    "grey and alpha": (lambda: _saved(Image.fromarray(TRANSPARENT, "LA"), "PNG"), 1, [[255, 227, 200]] * 2),
    "RGBA": (lambda: _saved(np.array([[[9, 9, 9, 0], [9, 8, 7, 255]]], np.uint8), "PNG"), 3, [[WHITE, [9, 8, 7]]]),
    "RGBA WEBP": (
        lambda: _saved(np.array([[[9, 9, 9, 0], [9, 8, 7, 255]]], np.uint8), "WEBP", lossless=True),
        3,
        [[WHITE, [9, 8, 7]]],
    ),
    "palette with one transparent colour": (
        lambda: _png(2, 1, 8, 3, b"\0\0\1", _chunk(b"PLTE", bytes([1, 2, 3, 4, 5, 6])) + _chunk(b"tRNS", b"\0")),
        3,
        [[WHITE, [4, 5, 6]]],
    ),
    "palette with half transparent colours": (
        lambda: _png(2, 1, 8, 3, b"\0\0\1", _chunk(b"PLTE", bytes([0, 0, 0, 4, 5, 6])) + _chunk(b"tRNS", b"\x80\xff")),
        3,
        [[[127, 127, 127], [4, 5, 6]]],
    ),
    "palette index beyond the palette": (lambda: _png(1, 1, 8, 3, b"\0\7", _chunk(b"PLTE", b"abc")), 3, [[[0, 0, 0]]]),
    "4-bit grey with a transparent grey": (
        lambda: _png(2, 1, 4, 0, b"\0\x3a", _chunk(b"tRNS", b"\0\3")),
        1,
        [[255, 170]],
    ),
    "16-bit grey with a transparent grey": (
        lambda: _png(2, 1, 16, 0, b"\0\x01\x02\x80\x80", _chunk(b"tRNS", b"\x01\x02")),
        1,
        [[255, 128]],
    ),
    "16-bit colour with a transparent colour": (
        lambda: _png(2, 1, 16, 2, b"\0" + b"\x01\x02" * 3 + b"\x80\x80" * 3, _chunk(b"tRNS", b"\x01\x02" * 3)),
        3,
        [[WHITE, [128] * 3]],
    ),
    "CMYK JPEG, inverted as Adobe does": (
        lambda: _saved(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100),
        3,
        np.full((16, 16, 3), [0, 255, 255]),
    ),
    "CMYK TIFF": (
        lambda: _saved(Image.new("CMYK", (2, 2), (0, 255, 0, 0)), "TIFF"),
        3,
        np.full((2, 2, 3), [255, 0, 255]),
    ),
    "YCCK JPEG": (lambda: _ycck(0, 0, 255, 0), 3, np.full((16, 16, 3), [255, 255, 0])),
    "animated GIF": (
        lambda: _saved(Image.new("L", (4, 4), 10), "GIF", save_all=True, append_images=[Image.new("L", (4, 4), 200)]),
        1,
        np.full((4, 4), 10),
    ),
    "animated WEBP": (
        lambda: _saved(
            Image.new("RGB", (4, 4), (9, 8, 7)),
            "WEBP",
            save_all=True,
            lossless=True,
            append_images=[Image.new("RGB", (4, 4), (200, 0, 0))],
        ),
        3,
        np.full((4, 4, 3), [9, 8, 7]),
    ),
    "animated PNG": (
        lambda: _saved(Image.new("L", (4, 4), 10), "PNG", save_all=True, append_images=[Image.new("L", (4, 4), 200)]),
        1,
        np.full((4, 4), 10),
    ),
    "one pixel": (lambda: _saved(np.array([[[1, 2, 3]]], np.uint8), "PNG"), 3, [[[1, 2, 3]]]),
    "a header that asks for fewer rows": (lambda: _png(2, 1, 8, 0, b"\0\1\2\0\3\4"), 1, [[1, 2]]),
    "a damaged note of the camera's": (
        lambda: _png(2, 1, 8, 0, b"\0\1\2", _chunk(b"eXIf", b"not a TIFF header")),
        1,
        [[1, 2]],
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_an_odd_image_gives_its_pixels(tmp_path: Path, kind: str):
    make, channels, expected = READ[kind]
    assert np.abs(_read(tmp_path / "a.jpg", make(), channels) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_turn_of_the_camera_is_undone(tmp_path: Path, kind: str, orientation: int):
    # stored[i] is where the camera's memory has the upright picture's rows and columns (EXIF 2.3, tag 0x0112)
    stored = {
        1: COLOUR,
        2: COLOUR[:, ::-1],
        3: COLOUR[::-1, ::-1],
        4: COLOUR[::-1],
        5: COLOUR.transpose(1, 0, 2),
        6: COLOUR.transpose(1, 0, 2)[::-1],
        7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
        8: COLOUR.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    content = _saved(np.ascontiguousarray(stored), kind, exif=exif, **options)
    assert np.abs(_read(tmp_path / "a.png", content) - COLOUR).max() <= 3
    drafted = load_image(tmp_path / "a.png", 3, smallest=(4, 6))
    assert drafted.width * 2 == drafted.height * 3


def test_a_strip_of_ten_thousand_pixels_becomes_a_square(tmp_path: Path):
    for shape in ((1, 10_000), (10_000, 1)):
        (tmp_path / "a.png").write_bytes(_saved(np.full(shape, 200, np.uint8), "PNG"))
        assert (fit(load_image(tmp_path / "a.png", 1), 16, 16) == 200).all()
    (tmp_path / "a.png").write_bytes(_saved(np.full((1, 1), 200, np.uint8), "PNG"))
    assert (fit(load_image(tmp_path / "a.png", 3), 16, 24) == 200).all()


# --- what is refused

WHOLE_JPEG = _saved(np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8), "JPEG")
WHOLE_PNG = _saved(np.random.RandomState(0).randint(0, 256, (40, 40, 3)).astype(np.uint8), "PNG")
FOREIGN = "damaged, or none of JPEG, PNG, WEBP, BMP, GIF, TIFF"

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "cut JPEG": (lambda: WHOLE_JPEG[: len(WHOLE_JPEG) // 2], "truncated"),
    "cut PNG": (lambda: WHOLE_PNG[: len(WHOLE_PNG) // 2], "truncated"),
    "nothing": (lambda: b"", "the file is empty"),
    "zero bytes only": (lambda: bytes(5000), FOREIGN),
    "text": (lambda: b"a list of all images\n" * 50, FOREIGN),
    "web page": (lambda: b"<!doctype html><html><body>Quota exceeded</body></html>", FOREIGN),
    "SVG": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', FOREIGN),
    "PDF": (lambda: b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF", FOREIGN),
    "ICO": (lambda: _saved(Image.new("RGB", (16, 16)), "ICO"), FOREIGN),
    "PNG of 90 million pixels": (lambda: _bomb(9500, 9500), "too large: 9500x9500 pixels"),
    "PNG of 10 billion pixels": (lambda: _bomb(100_000, 8)[:40], r"a\.png"),
    "GIF of 100 million pixels": (
        lambda: _saved(Image.new("L", (1, 1)), "GIF")[:6] + struct.pack("<HH", 10_000, 10_000) + bytes(20),
        r"a\.png",
    ),
    "strip longer than 16384": (lambda: _bomb(20_000, 1), "too large: 20000x1 pixels"),
    "PNG without its palette": (lambda: _png(1, 1, 8, 3, b"\0\0"), "cannot read the image"),
    "header that asks for more rows": (lambda: _png(40, 40, 8, 0, b"\0\1\2"), "truncated"),
    "checksum that does not fit": (lambda: WHOLE_PNG[:29] + b"\0\0\0\0" + WHOLE_PNG[33:], "cannot read the image"),
    "pixels with a flipped bit": (
        lambda: WHOLE_PNG[:2000] + bytes([WHOLE_PNG[2000] ^ 4]) + WHOLE_PNG[2001:],
        "cannot read the image",
    ),
    "colour profile of 100 MB": (
        lambda: _png(1, 1, 8, 0, b"\0\0", _chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8)))),
        "oo [lL]arge",  # in words of Pillow
    ),
    "compressed text of 100 MB": (
        lambda: _png(1, 1, 8, 0, b"\0\0", _chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(10**8)))),
        "oo [lL]arge",  # in words of Pillow
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_one_error_that_names_the_file(tmp_path: Path, kind: str):
    make, why = REFUSED[kind]
    (tmp_path / "a.png").write_bytes(make())
    with pytest.raises(DataError, match=why) as caught:
        load_image(tmp_path / "a.png", 3)
    assert str(tmp_path / "a.png") in caught.value.message and "\n" not in caught.value.message
    assert caught.value.exit_code == 3 and caught.value.hint


@pytest.mark.parametrize("kind", [kind for kind in REFUSED if "million" in kind or "100 MB" in kind])
def test_a_bomb_costs_neither_time_nor_memory(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.png").write_bytes(REFUSED[kind][0]())
    assert (tmp_path / "a.png").stat().st_size < 200_000
    if "million" in kind:
        monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("it was decoded"))
    tracemalloc.start()
    limit = Limit(0.5)
    with pytest.raises(DataError):
        load_image(tmp_path / "a.png", 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not limit.is_over() and peak < 8_000_000


def test_a_bomb_makes_pillow_say_nothing_on_stderr(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(_bomb(9500, 9500))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(DataError, match="too large"):
            load_image(tmp_path / "a.png", 3)
    assert said == []


def test_ghostscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    marker, program = tmp_path / "ran", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{marker}'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = tmp_path / "a.jpg"
    eps.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n")
    with suppress(OSError), Image.open(eps) as image:
        image.load()
    assert marker.exists(), "Pillow on its own would have run it, or this test shows nothing"
    marker.unlink()
    for content in (eps.read_bytes(), b"%PDF-1.4\n%%EOF"):
        eps.write_bytes(content)
        with pytest.raises(DataError, match=FOREIGN):
            load_image(eps, 3)
    assert not marker.exists()


# --- what is no file, and odd names


def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: it is not a file"):
        load_image(tmp_path / "a.png", 3)
    (tmp_path / "link.png").symlink_to("a.png")
    with pytest.raises(DataError, match=r"link\.png: it is not a file"):
        load_image(tmp_path / "link.png", 3)


def test_a_folder_and_a_device_are_no_images(tmp_path: Path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("a.png", "zero.png"):
        with pytest.raises(DataError, match=f"{name}: it is not a file"):
            load_image(tmp_path / name, 3)


def test_broken_links_and_pipes_are_reported_when_they_are_read_and_not_left_out_silently(tmp_path: Path):
    (tmp_path / "good.png").write_bytes(_saved(RAMP, "PNG"))
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    assert list(find(tmp_path).names) == ["circle.png", "gone.png", "good.png", "pipe.png"]
    (tmp_path / "folder.png").rmdir()
    images = dataset(DataConfig(name="folder", path=str(tmp_path), image_size=(8, 8), channels=1), "train")
    assert np.array_equal(images[2][0][:, :, 0], RAMP)
    for index, name in ((0, "circle.png: Too many"), (1, "gone.png: the file is gone"), (3, "pipe.png: it is not")):
        with pytest.raises(DataError, match=name):
            images[index]


def test_a_file_that_may_not_be_read_says_so(tmp_path: Path, request: pytest.FixtureRequest):
    (tmp_path / "a.png").write_bytes(_saved(RAMP, "PNG"))
    (tmp_path / "a.png").chmod(0)
    if os.geteuid() == 0:  # root may read everything
        request.addfinalizer(lambda: os.seteuid(0))
        os.seteuid(65534)
    with pytest.raises(DataError, match=r"a\.png: Permission denied"):
        load_image(tmp_path / "a.png", 3)


NAMES = [
    os.fsdecode(name.encode())
    for name in (
        "with space.png",
        "é 空 \U0001f642.png",
        "new\nline.png",
        "-dash.png",
        "\u202egnp.exe.png",
        "x" * 250 + ".png",
    )
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_an_odd_name_is_read_and_a_damaged_file_of_that_name_is_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
):
    from ditkit.cli import console

    (tmp_path / name).write_bytes(_saved(RAMP, "PNG"))
    assert list(find(tmp_path).names) == [name]
    assert np.array_equal(np.asarray(load_image(tmp_path / name, 1)), RAMP)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError) as caught:
        load_image(tmp_path / name, 1)
    assert str(tmp_path / name) in caught.value.message
    assert console.report(caught.value) == 3
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert lines[0].isprintable()


def test_a_name_that_is_no_utf_8_is_read(tmp_path: Path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        (tmp_path / name).write_bytes(_saved(RAMP, "PNG"))
    except OSError:
        pytest.skip("this file system takes no such names")
    assert np.array_equal(np.asarray(load_image(tmp_path / name, 1)), RAMP)


def test_nothing_is_left_open(tmp_path: Path):
    for kind, content in (("good", WHOLE_PNG), ("cut", WHOLE_PNG[:900]), ("empty", b""), ("bomb", _bomb(9500, 9500))):
        (tmp_path / f"{kind}.png").write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    opened = Path("/proc/self/fd")
    if not opened.is_dir():
        pytest.skip("this system does not list what is open")
    before = sorted(opened.iterdir())
    for file in sorted(tmp_path.iterdir()):
        with suppress(DataError):
            load_image(file, 3)
    assert sorted(opened.iterdir()) == before
