"""Grids, PNG files and half blocks: what is drawn where, and what a file carries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit.data.pixels import to_tensor, to_uint8
from ditkit.errors import DitkitError
from ditkit.io.atomic import write_file
from ditkit.visual.grid import _in_lines, font, grid, half_blocks, save_png, shortened, side_by_side, text_width


def flat(level: int, height: int = 28, width: int = 28, channels: int = 1) -> np.ndarray:
    return np.full((height, width, channels), level, np.uint8)


def columns_with(picture: Image.Image, level: int) -> np.ndarray:
    return np.flatnonzero((np.asarray(picture) == level).all(-1).any(0))


def test_uint8_survives_the_way_to_a_tensor_and_back():
    images = [np.arange(256, dtype=np.uint8).reshape(16, 16, 1), flat(255, 16, 16)]
    x_BCHW = to_tensor(images)
    assert x_BCHW.shape == (2, 1, 16, 16) and x_BCHW.dtype == torch.float32
    assert x_BCHW.min() == -1 and x_BCHW.max() == 1
    assert all(np.array_equal(back, image) for back, image in zip(to_uint8(x_BCHW), images, strict=True))


def test_values_beyond_the_range_are_clipped_and_nan_is_black():
    x_BCHW = torch.tensor([-9.0, 9.0, float("nan"), 0.0]).reshape(1, 1, 1, 4)
    assert to_uint8(x_BCHW)[0].ravel().tolist() == [0, 255, 0, 128]


def test_a_grid_enlarges_every_pixel_to_a_square_and_keeps_the_order():
    image = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28, 1).astype(np.uint8)
    picture = np.asarray(grid([image, flat(7), flat(9)], 2))[..., 0]
    top = np.argwhere(picture != 255).min(0)
    cell = picture[top[0] : top[0] + 84, top[1] : top[1] + 84]
    assert np.array_equal(cell, image[..., 0].repeat(3, 0).repeat(3, 1))
    sevens, nines = np.argwhere(picture == 7), np.argwhere(picture == 9)
    whole_sevens = sevens[sevens[:, 1] >= top[1] + 84]
    assert len(whole_sevens) == 84 * 84 and whole_sevens[:, 0].min() == top[0]
    assert nines[nines[:, 0] >= top[0] + 84][:, 1].min() == top[1]


def test_margins_are_even_on_all_four_sides():
    dark = np.argwhere(np.asarray(grid([flat(0)] * 6, 3))[..., 0] == 0)
    height, width = grid([flat(0)] * 6, 3).size[::-1]
    assert {*dark.min(0), height - 1 - dark.max(0)[0], width - 1 - dark.max(0)[1]} == {dark.min(0)[0]}


@pytest.mark.parametrize(("side", "count", "columns"), [(28, 10, 10), (256, 64, 8), (64, 400, 4), (1024, 40, 10)])
def test_no_grid_is_above_2000_pixels(side: int, count: int, columns: int):
    assert max(grid([flat(0, side, side)] * count, columns, captions=["x"] * count).size) <= 2000


def test_colour_and_grey_images_share_a_grid_and_smaller_ones_are_centred():
    red = np.zeros((10, 10, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    picture = np.asarray(grid([flat(0, 30, 30), red], 2, scale=1)).astype(int)
    reds = np.argwhere((picture == [255, 0, 0]).all(-1))
    darks = np.argwhere((picture == 0).all(-1))
    assert len(reds) == 100 and len(darks) == 900
    assert reds.mean(0)[0] == darks.mean(0)[0]


def test_captions_row_names_and_title_are_drawn_beside_the_images_and_not_on_them():
    plain = grid([flat(0)] * 4, 2)
    worded = grid([flat(0)] * 4, 2, captions=["é"] * 4, row_names=["female", "数"], title="step 10")
    assert worded.width > plain.width and worded.height > plain.height + 30
    assert (np.asarray(worded) == 0).all(-1).sum() == 4 * 84 * 84
    longer = grid([flat(0)] * 4, 2, captions=["an extremely long caption"] * 4)
    assert longer.width == plain.width


def test_long_words_end_in_an_ellipsis_that_fits():
    face = font(14)
    short = shortened("golden retriever puppy", face, 80)
    assert short.endswith("…") and text_width(short, face) <= 80 < text_width(short[:-1] + "xx…", face)
    assert shortened("cat\n dog", face, 80) == "cat dog"
    assert shortened("cat", face, 1) == ""
    assert shortened("\udce9", face, 80) == "?"


def test_a_grid_of_nothing_is_an_error_with_words():
    with pytest.raises(DitkitError, match="no images"):
        grid([], 4)


def test_side_by_side_keeps_left_left_and_leaves_room_for_headings():
    left, right = Image.new("RGB", (200, 100), (9, 9, 9)), Image.new("RGB", (300, 80), (90, 90, 90))
    picture = side_by_side(left, right)
    assert columns_with(picture, 9)[[0, -1]].tolist() == [0, 199]
    assert columns_with(picture, 90).min() >= 200 and columns_with(picture, 90)[-1] == picture.width - 1
    assert picture.height >= 100 + 20
    assert (np.asarray(picture)[:28, :200] < 128).any(), "the left heading is missing"


def test_png_text_comes_back_whatever_its_alphabet(tmp_path: Path):
    text = {"label": "é 数字", "seed": "3", "checkpoint": "runs/\udce9/step-1", "é" * 100: "x"}
    save_png(flat(7), tmp_path / "new" / "a.png", text)
    with Image.open(tmp_path / "new" / "a.png") as image:
        image.load()
        assert image.mode == "L" and image.size == (28, 28) and image.getpixel((3, 3)) == 7
        assert image.text["label"] == "é 数字" and image.text["seed"] == "3"  # pyright: ignore
        assert image.text["checkpoint"] == "runs/?/step-1"  # pyright: ignore


def test_a_colour_array_is_saved_pixel_by_pixel(tmp_path: Path):
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    save_png(image, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), image)


def test_a_failed_write_leaves_the_old_file_and_no_leftover_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "a.png"
    save_png(flat(1), target, {})
    before = target.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(DitkitError, match=r"cannot write .*a\.png: No space left on device") as caught:
        save_png(flat(2), target, {})
    assert caught.value.hint
    assert target.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_writing_over_a_folder_or_below_a_file_is_an_error_with_words(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "folder", tmp_path / "file" / "a.png", tmp_path / ("x" * 300)):
        with pytest.raises(DitkitError, match="cannot write"):
            write_file(path, b"data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_half_blocks_show_two_pixels_a_character():
    image = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [1, 2, 3]], [[9, 9, 9], [8, 8, 8]]], np.uint8)
    text = half_blocks(image, 2)
    assert text.plain == "▀▀\n▀▀"
    styles = [span.style for span in text.spans]
    triplets = [(s.color.triplet, s.bgcolor.triplet if s.bgcolor else None) for s in styles]  # pyright: ignore
    assert triplets == [
        ((255, 0, 0), (0, 0, 255)),
        ((0, 255, 0), (1, 2, 3)),
        ((9, 9, 9), None),
        ((8, 8, 8), None),
    ]


@pytest.mark.parametrize(("width", "columns", "expected"), [(28, 80, 56), (500, 80, 80), (28, 28, 28), (50, 1, 1)])
def test_half_blocks_fit_the_terminal(width: int, columns: int, expected: int):
    lines = half_blocks(flat(5, width, width), columns).plain.split("\n")
    assert {len(line) for line in lines} == {expected} and len(lines) == -(-expected // 2)


def test_importing_images_plots_and_gifs_imports_neither_torch_nor_matplotlib():
    code = "import sys\nfrom ditkit.visual import gif, grid, plots\nprint({'torch', 'matplotlib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_captions_that_are_too_wide_take_two_lines_where_they_can_be_broken():
    images = [np.zeros((64, 64, 3), np.uint8)] * 4
    one, two, unbreakable = (
        grid(images, 4, captions=[word] * 4) for word in ("female", "female+smiling", "femaleandsmiling")
    )
    assert one.size == unbreakable.size and two.width == one.width and two.height > one.height
    assert _in_lines("female+smiling", font(11), 64) == ["female+", "smiling"]
    assert _in_lines("female", font(11), 64) == ["female"]


@pytest.mark.parametrize("label", ["a\nb", "a\rb", "tab\tstop", "bell\x07", "\x1b[31mred", "\ud800"])
def test_a_label_with_characters_that_no_font_has_is_drawn_all_the_same(label):
    image = np.zeros((28, 28, 1), np.uint8)
    picture = grid([image, image], 2, captions=[label, label + " + " + label * 9], row_names=[label], title=label)
    assert picture.width > 56
