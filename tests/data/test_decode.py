"""Images that Pillow alone reads silently wrong, and files that are no images."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import load_image
from PIL import Image

from ditkit.data.decode import fit
from ditkit.errors import DitkitError

GRADIENT = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def _grey(path: Path) -> np.ndarray:
    return np.asarray(load_image(path, 1))


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.gif", "a.tif", "a.webp", "a.jpg"])
def test_every_format_gives_the_mode_asked_for(tmp_path: Path, name: str):
    options: dict[str, Any] = {"lossless": True} if name == "a.webp" else {"quality": 95} if name == "a.jpg" else {}
    Image.fromarray(np.stack([GRADIENT] * 3, axis=2)).save(tmp_path / name, **options)
    grey, colour = load_image(tmp_path / name, 1), load_image(tmp_path / name, 3)
    assert (grey.mode, colour.mode) == ("L", "RGB")
    assert np.abs(np.asarray(grey).astype(int) - GRADIENT).max() <= (8 if name == "a.jpg" else 0)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path):
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "a.png")
    assert np.array_equal(_grey(tmp_path / "a.png"), GRADIENT)
    Image.fromarray(GRADIENT.astype(np.uint16) * 257).save(tmp_path / "a.tif")
    assert np.array_equal(_grey(tmp_path / "a.tif"), GRADIENT)


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_float_images_are_scaled_by_their_customary_white(tmp_path: Path, white: int):
    Image.fromarray(GRADIENT.astype(np.float32) / 255 * white).save(tmp_path / "a.tif")
    assert np.array_equal(_grey(tmp_path / "a.tif"), GRADIENT)


def test_a_float_image_of_nans_is_black(tmp_path: Path):
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "a.tif")
    assert _grey(tmp_path / "a.tif").max() == 0


def test_transparency_is_laid_on_white(tmp_path: Path):
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[:, :, 0] = 200  # a red that full transparency hides
    pixels[:, 1, 3], pixels[:, 2, 3] = 128, 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    seen = np.asarray(load_image(tmp_path / "a.png", 3))[0].tolist()
    assert seen[0] == [255, 255, 255] and seen[2] == [200, 0, 0]
    assert 225 <= seen[1][0] <= 229 and 125 <= seen[1][1] <= 129


def test_a_palette_with_a_transparent_colour_is_laid_on_white(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    assert np.asarray(load_image(tmp_path / "a.png", 3)).tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_the_camera_s_rotation_is_undone(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to see it upright"
    lying = Image.fromarray(np.concatenate([np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)], axis=1))
    lying.save(tmp_path / "a.jpg", exif=exif)
    upright = _grey(tmp_path / "a.jpg")
    assert upright.shape == (16, 8)
    assert upright[:6].max() < 30 and upright[10:].min() > 225


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path):
    frames = [Image.new("L", (4, 4), shade) for shade in (10, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (_grey(tmp_path / "a.gif") == 10).all()


def test_a_large_jpeg_is_decoded_at_a_fraction_that_is_still_twice_the_target(tmp_path: Path):
    Image.new("RGB", (1600, 800)).save(tmp_path / "a.jpg")
    assert load_image(tmp_path / "a.jpg", 3).size == (1600, 800)
    width, height = load_image(tmp_path / "a.jpg", 3, smallest=(64, 32)).size
    assert 128 <= height < 800 and width == 2 * height


def _png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_an_enormous_image_is_refused_before_it_is_decoded(tmp_path: Path):
    for width, height in ((8001, 8000), (16385, 2)):
        (tmp_path / "a.png").write_bytes(_png_header(width, height))
        with pytest.raises(DitkitError, match=rf"a\.png is too large: {width}x{height} pixels") as caught:
            load_image(tmp_path / "a.png", 3)
        assert caught.value.hint == "shrink it to at most 16384 pixels a side and 64 million in all"


@pytest.mark.parametrize("side", [10_000, 100_000], ids=["where Pillow warns", "where Pillow refuses"])
def test_a_decompression_bomb_is_one_error(tmp_path: Path, side: int):
    (tmp_path / "a.png").write_bytes(_png_header(side, side))
    with pytest.raises(DitkitError, match=r"a\.png"):
        load_image(tmp_path / "a.png", 3)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"<!doctype html><html>quota</html>", "it is damaged, or none of JPEG, PNG, WEBP, BMP, GIF, TIFF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "it is damaged, or none of JPEG"),
        (_png_header(8, 8), "cannot read the image"),
    ],
    ids=["empty", "web page", "EPS", "no pixels"],
)
def test_what_is_no_image_is_an_error_that_names_the_file(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DitkitError, match=why) as caught:
        load_image(tmp_path / "a.png", 3)
    assert str(tmp_path / "a.png") in caught.value.message
    assert caught.value.hint == "replace it or take it away"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "a.gif", "a.bmp", "a.webp"])
def test_a_file_cut_anywhere_gives_an_image_or_a_ditkit_error(tmp_path: Path, name: str, recwarn):
    noise = np.random.RandomState(0).randint(0, 256, (24, 24, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    refused = 0
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        (tmp_path / name).write_bytes(whole[:length])
        try:
            assert load_image(tmp_path / name, 3).size == (24, 24)
        except DitkitError as error:
            refused += 1
            assert str(tmp_path / name) in error.message and "\n" not in error.message
    assert refused > 30


def test_a_file_that_is_gone_is_named(tmp_path: Path):
    with pytest.raises(DitkitError, match=r"cannot read the image .*gone\.png: the file is gone"):
        load_image(tmp_path / "gone.png", 3)


def test_fit_takes_the_centre_at_the_target_s_aspect_ratio():
    pixels = np.zeros((40, 100), dtype=np.uint8)
    pixels[:, 30:70] = 200
    square = fit(Image.fromarray(pixels), 10, 10)
    assert square.shape == (10, 10, 1) and (square == 200).all()
    assert (fit(Image.fromarray(pixels.T.copy()), 10, 10) == 200).all()
    wide = fit(Image.fromarray(pixels), 8, 20)
    assert wide.shape == (8, 20, 1) and wide[4, 0, 0] == 0 and wide[4, 10, 0] == 200


def test_fit_leaves_an_image_of_the_right_size_alone():
    assert np.array_equal(fit(Image.fromarray(GRADIENT), 8, 8)[:, :, 0], GRADIENT)


def test_fit_averages_instead_of_skipping_pixels():
    board = np.indices((512, 512)).sum(axis=0).astype(np.uint8) % 2 * 255
    assert np.abs(fit(Image.fromarray(board), 8, 8).astype(int) - 127).max() <= 2


def test_fit_gives_pixels_that_may_be_written_to():
    fit(Image.new("RGB", (4, 4)), 4, 4)[0] = 1


def test_every_crop_gives_the_size_and_shows_what_it_says():
    tall = np.zeros((40, 20, 3), np.uint8)
    tall[:10], tall[10:30], tall[30:] = 10, 100, 200
    image = Image.fromarray(tall)
    assert all(fit(image, 20, 20, crop=crop).shape == (20, 20, 3) for crop in ("center", "top", "pad", "stretch"))
    assert (fit(image, 20, 20, crop="center") == 100).all()
    assert set(np.unique(fit(image, 20, 20, Image.Resampling.NEAREST, "top"))) == {10, 100}
    stretched = fit(image, 20, 20, Image.Resampling.NEAREST, "stretch")
    assert stretched[0, 0, 0] == 10 and stretched[-1, 0, 0] == 200
    padded = fit(image, 20, 20, Image.Resampling.NEAREST, "pad")
    assert (padded[:, :5] == 255).all() and (padded[:, 15:] == 255).all() and padded[0, 10, 0] == 10
