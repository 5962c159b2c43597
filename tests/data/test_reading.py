"""How image files become pixels: colour profiles, levels of more than 8 bits, transparency; settled once for a set."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from loading import load_image
from PIL import Image, ImageCms

from ditkit import recipes
from ditkit.cli.app import main
from ditkit.config import DataConfig
from ditkit.data.contract import open_dataset
from ditkit.data.image_dataset import fingerprint
from ditkit.data.levels import Levels, black_of, white_of
from ditkit.data.notes import notes
from ditkit.errors import DitkitError
from ditkit.evaluation import reference
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import read_model_info
from ditkit.training.loop import train

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)


def opened(folder: Path, channels: int = 1, **settings: Any):
    config = DataConfig(name="folder", path=str(folder), image_size=(8, 8), channels=channels, validation=0)
    return open_dataset(replace(config, **settings), "train")


def profile(name: str, primaries: list[tuple[float, float, float]], gamma: float) -> bytes:
    """An ICC profile (v2, a matrix and one gamma) of three primaries as XYZ adapted to D50."""

    def number(value: float) -> bytes:
        return struct.pack(">i", round(value * 65536))

    def xyz(values: tuple[float, float, float]) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(map(number, values))

    text = b"desc\0\0\0\0" + struct.pack(">I", len(name) + 1) + name.encode() + b"\0" * 79
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"
    tags = {b"desc": text, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text\0\0\0\0none\0"}
    for colour, values in zip((b"r", b"g", b"b"), primaries, strict=True):
        tags |= {colour + b"XYZ": xyz(values), colour + b"TRC": curve}
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for tag, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += tag + struct.pack(">II", at + len(body), len(content))
        body += content
    size = at + len(body)
    header = struct.pack(">I4xI", size, 0x02100000) + b"mntrRGB XYZ " + b"\0" * 12 + b"acsp" + b"\0" * 28
    return (header + xyz((0.9642, 1.0, 0.8249))[8:]).ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


P3 = profile("Display P3", [(0.51512, 0.2412, -0.00105), (0.29198, 0.69225, 0.04189), (0.1571, 0.06657, 0.78407)], 2.2)
ADOBE = profile(
    "Adobe RGB", [(0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457)], 2.2
)
PROPHOTO = profile("ProPhoto", [(0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491)], 1.8)


@pytest.mark.parametrize(
    ("icc", "right"),
    [(P3, (214, 116, 38)), (ADOBE, (224, 121, 53)), (PROPHOTO, (255, 114, 57))],
    ids=["Display P3", "Adobe RGB", "ProPhoto"],
)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_the_profile(tmp_path: Path, icc: bytes, right: tuple[int, ...], mode: str):
    image = Image.new("RGB", (8, 8), (200, 120, 60))
    (image.quantize(4) if mode == "P" else image.convert(mode)).save(tmp_path / "a.png", icc_profile=icc)
    seen = np.asarray(load_image(tmp_path / "a.png", 3)).astype(int)
    assert np.abs(seen - right).max() <= 3
    earlier = np.asarray(load_image(tmp_path / "a.png", 3, reading=1)).astype(int)
    assert np.abs(earlier - (200, 120, 60)).max() == 0


def test_a_transparent_image_keeps_its_transparency_beside_a_profile(tmp_path: Path):
    pixels = np.full((4, 4, 4), (200, 120, 60, 255), dtype=np.uint8)
    pixels[:2, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=P3)
    seen = np.asarray(load_image(tmp_path / "a.png", 3)).astype(int)
    assert (seen[:2] == 255).all() and np.abs(seen[2:] - (214, 116, 38)).max() <= 3


def test_a_large_image_is_made_smaller_before_its_colours_are_transformed(tmp_path: Path):
    halves = np.zeros((120, 200, 3), dtype=np.uint8)
    halves[:, :100], halves[:, 100:] = (200, 120, 60), (60, 120, 200)
    Image.fromarray(halves).save(tmp_path / "a.png", icc_profile=P3)
    whole, small = load_image(tmp_path / "a.png", 3), load_image(tmp_path / "a.png", 3, smallest=(8, 10))
    assert whole.size == (200, 120) and small.size == (34, 20)
    assert np.abs(np.asarray(small, dtype=int)[:, :16] - (214, 116, 38)).max() <= 3


def test_grey_images_follow_profiles_of_grey_and_of_colour(tmp_path: Path):
    linear = profile(
        "linear", [(0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.7141)], 1
    )
    Image.new("L", (8, 8), 55).save(tmp_path / "a.png", icc_profile=linear)
    assert abs(int(np.asarray(load_image(tmp_path / "a.png", 1))[0, 0]) - 128) <= 2


def test_srgb_leaves_every_bit_as_it_is(tmp_path: Path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(pixels).save(tmp_path / "a.png", icc_profile=srgb)
    assert np.array_equal(np.asarray(load_image(tmp_path / "a.png", 3)), pixels)


@pytest.mark.parametrize("broken", [b"x", P3[:200], P3.replace(b"rXYZ", b"qXYZ"), P3.replace(b"RGB XYZ", b"CMYKXYZ")])
def test_a_profile_that_cannot_be_used_is_ignored_and_counted(tmp_path: Path, broken: bytes, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photos/a.png", icc_profile=broken)
    assert np.array_equal(np.asarray(load_image(Path("photos/a.png"), 3)), pixels)
    assert main(["data", "show", "photos", "--image-size", "8", "--set", "model.patch=4", "--out", "x.png"]) == 0
    assert "damaged, or not of this kind of image: ignored 1" in capsys.readouterr().out


def scaled(low: float, high: float, kind: Any) -> Image.Image:
    """The ramp between two levels, of a kind of number."""
    return Image.fromarray((low + RAMP / 255 * (high - low)).round(0 if kind is not np.float32 else 9).astype(kind))


@pytest.mark.parametrize(
    ("low", "high", "kind", "white", "black"),
    [
        (0, 1.0, np.float32, 1, 0),
        (0, 1.02, np.float32, 1, 0),
        (-1, 1.0, np.float32, 1, -1),
        (0, 255, np.float32, 255, 0),
        (0, 7.5, np.float32, 7.5, 0),
        (0, 300, np.int32, 300, 0),
        (-1000, 3000, np.int32, 4095, -1000),
        (0, 4095, np.uint16, 4095, 0),
        (0, 1000, np.uint16, 1023, 0),
        (0, 65535, np.uint16, 65535, 0),
    ],
)
def test_a_set_has_one_white_and_one_black(tmp_path: Path, low: float, high: float, kind, white: float, black: float):
    scaled(low, high, kind).save(tmp_path / "a.tif")
    scaled(low, low + (high - low) / 8, kind).save(tmp_path / "b.tif")  # a dark one must stay dark
    images = opened(tmp_path)
    assert (images.config.white, images.config.black) == (white, black)
    expected = np.clip((low + RAMP / 255.0 * (high - low) - black) / (white - black), 0, 1) * 255
    assert np.abs(images[0][0][:, :, 0] - expected).max() <= (1.5 if high - low > 200 or kind is np.float32 else 3)
    assert images[1][0].max() <= 0.5 * images[0][0].max() + 1
    whole = opened(tmp_path, white=2 * white)
    assert whole.config.white == 2 * white and whole.fingerprint != images.fingerprint


def test_white_is_that_of_the_rule():
    def white(kind: str, brightest: float, bits: int = 16) -> float:
        return white_of(Levels(kind=kind, bits=bits, darkest=0, brightest=brightest))

    assert [white("16-bit", value) for value in (0, 255, 300, 4095, 4200, 5000, 65535)] == [
        255, 255, 1023, 4095, 4095, 16383, 65535,
    ]  # fmt: skip
    assert white("16-bit", 900, bits=12) == 4095
    assert [white("32-bit", value) for value in (10, 300, 600, 70000, 1e6)] == [255, 300, 1023, 65535, 1e6]
    assert [white("float", value) for value in (0.2, 1.1, 1.5, 200, 300, 60000)] == [1, 1, 1.5, 255, 300, 65535]
    levels = Levels(kind="float", bits=32, darkest=-0.05, brightest=1)
    assert [black_of(replace(levels, darkest=value), 1) for value in (-0.05, -0.2, -0.5, -1.05, -3)] == [
        0, -0.2, -1, -1, -3,
    ]  # fmt: skip


def test_kinds_without_a_white_in_common_are_refused_by_name(tmp_path: Path):
    scaled(0, 1, np.float32).save(tmp_path / "a.tif")
    scaled(0, 4095, np.uint16).save(tmp_path / "b.png")
    with pytest.raises(DitkitError, match="no white in common: 4095 of the 16-bit ones, 1 of the float ones"):
        opened(tmp_path)
    assert opened(tmp_path, white=4095.0).config.white == 4095
    with pytest.raises(DitkitError, match=r"data\.black 5 is not below data\.white 1"):
        opened(tmp_path, white=1.0, black=5.0)


def test_a_white_that_would_do_nothing_is_refused_or_said(tmp_path: Path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    with pytest.raises(DitkitError, match=r"data\.white does nothing: none of 1 images has one level a pixel of more"):
        opened(tmp_path, white=4095.0)
    assert opened(tmp_path, white=4095.0, black=0.0)[0][0].max() == 255  # as a run recorded it, of other images
    asked = DataConfig(name="mnist", background="black")
    assert notes(open_dataset(asked, "train"), asked)[0].startswith("data.background does nothing")


def test_what_is_not_a_number_is_black_and_what_is_infinite_is_cut_off(tmp_path: Path):
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[0], values[1], values[2], values[3] = np.nan, np.inf, -np.inf, 1
    Image.fromarray(values).save(tmp_path / "a.tif")
    seen = opened(tmp_path)[0][0][:, 0, 0]
    assert seen.tolist() == [0, 255, 0, 255, 128, 128, 128, 128]


def test_sets_of_8_bits_and_an_earlier_run_are_read_as_ever(tmp_path: Path):
    Image.fromarray(RAMP).save(tmp_path / "a.png")
    assert (opened(tmp_path).config.white, opened(tmp_path).config.background) == (None, None)
    scaled(0, 1000, np.uint16).save(tmp_path / "a.png")
    earlier = opened(tmp_path, reading=1)
    assert earlier.config.white is None and earlier[0][0].max() == 4


def drawing(colour: int) -> Image.Image:
    """A cross of one colour on transparency."""
    pixels = np.zeros((8, 8, 4), dtype=np.uint8)
    pixels[3:5], pixels[:, 3:5] = (colour, colour, colour, 255), (colour, colour, colour, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("colour", "background"), [(255, "black"), (0, "white"), (128, "white")])
def test_light_strokes_on_transparency_are_laid_on_black(tmp_path: Path, colour: int, background: str):
    for number in range(3):
        drawing(colour).save(tmp_path / f"{number}.png")
    drawing(60).save(tmp_path / "other.png")  # one that is otherwise changes nothing
    images = opened(tmp_path)
    assert images.config.background == background
    seen = images[0][0][:, :, 0]
    assert seen[0, 0] == (0 if background == "black" else 255) and seen[3, 3] == colour
    assert opened(tmp_path, background="white")[0][0][0, 0, 0] == 255
    assert opened(tmp_path, reading=1)[0][0][0, 0, 0] == 255


def test_data_show_states_what_was_settled_and_warns(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dark", "masks", "flat"):
        (tmp_path / name).mkdir()
    for number in range(4):
        scaled(0, 10, np.uint16).save(f"dark/{number}.png")
        drawing(255).save(f"masks/{number}.png")
        Image.new("L", (8, 8), 200).save(f"flat/{number}.png")
    show = "data show {} --image-size 8 --set model.patch=4 --out x.png --force"
    assert main(show.format("dark").split()) == 0
    said = capsys.readouterr()
    assert "levels: 0 is black and 255 white (data.black, data.white)" in said.out
    assert "4 of 4 images have no level above a sixteenth of white: set data.white" in said.err
    assert main([*show.format("dark").split(), "--set", "data.white=10"]) == 0
    assert "sixteenth" not in capsys.readouterr().err
    assert main(show.format("masks").split()) == 0
    assert "transparent parts: black, because" in capsys.readouterr().out
    assert main([*show.format("masks").split(), "--set", "data.background=white"]) == 0
    assert "4 of 4 images are of one colour all over; see data.background" in capsys.readouterr().err
    assert main([*show.format("flat").split(), "--json"]) == 0
    said = capsys.readouterr()
    shown = json.loads(said.out)
    assert (shown["flat"], shown["white"]) == (4, None) and "images are of one colour all over\n" in said.err


def test_fingerprints_and_keys_of_earlier_runs_are_what_they_were():
    earlier = DataConfig(name="folder", image_size=(4, 4), validation=0, reading=1)
    plain = hashlib.sha256(b"a\x005\x000\nb\x006\x001\n").hexdigest()
    assert fingerprint(["a", "b"], [5, 6], [0, 1], earlier) == plain
    newer = [replace(earlier, reading=2), replace(earlier, reading=2, white=1.0), replace(earlier, background="black")]
    assert len({fingerprint(["a", "b"], [5, 6], [0, 1], config) for config in newer[:2]} | {plain}) == 3
    dataset: Any = SimpleNamespace(fingerprint="x")
    extractor: Any = SimpleNamespace(name="n", fingerprint="f")
    assert reference._fingerprint(dataset, earlier, extractor) == "1bddbb37fb2e412020e13341"


def test_a_run_records_what_was_settled_and_goes_on_with_it(tmp_path: Path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        scaled(0, 4095, np.uint16).save(folder / f"{number}.png")
    settings = {"train": {"steps": 1, "batch_size": 2}, "model": {"preset": "dit-pico/4", "depth": 1}}
    data = {"path": str(folder), "image_size": 8, "channels": 1, "validation": 0}
    config = recipes.load("folder", {**settings, "data": data})
    run = RunFolder(train(config, tmp_path / "run", device="cpu"))
    recorded = run.read_config().data
    assert (recorded.white, recorded.black, recorded.reading) == (4095, 0, 2)
    assert read_model_info(run.checkpoint(1) / "ema.safetensors").config.data == recorded
    for number in range(4):  # where they are settled again, white would be another
        scaled(0, 1000, np.uint16).save(folder / f"{number}.png")
    with pytest.raises(DitkitError, match="these are not the images that"):
        train(replace(config, train=replace(config.train, steps=2)), run.path, device="cpu")
