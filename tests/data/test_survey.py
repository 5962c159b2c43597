"""What a survey finds in made-up data sets, and the picture that is drawn from it."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ditkit.config import DataConfig
from ditkit.data import survey as survey_module
from ditkit.data.contract import open_dataset
from ditkit.data.survey import MOST_KEPT_SIDE, Survey, survey
from ditkit.errors import DataError
from ditkit.visual.dataset_sheet import sheet

CONFIG = DataConfig(name="folder", image_size=(16, 16), channels=3, validation=0)


def write(path: Path, width: int = 20, height: int = 24, shade: int = 0, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").resize((width, height)).convert(mode).point(lambda level: (level + shade) % 256).save(
        path, **options
    )
    return path


def examined(root: Path, *, limit: int | None = None, per_class: int = 12, **settings) -> Survey:
    config = replace(CONFIG, path=str(root), **settings)
    parts = {split: open_dataset(config, split) for split in ("train", "validation")}
    return survey(config, parts, limit=limit, per_class=per_class)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twelve cats of 20x24 and eight dogs of 40x12 pixels."""
    for number in range(12):
        write(tmp_path / f"pets/cat/{number}.png", shade=3 * number)
    for number in range(8):
        write(tmp_path / f"pets/dog/{number}.jpg", 40, 12, shade=3 * number + 1, mode="L")
    return tmp_path / "pets"


def test_images_are_counted_by_label_and_split(pets: Path):
    found = examined(pets, validation=4)
    assert (found.images, found.examined, found.labels) == (20, 20, ("cat", "dog"))
    assert [sum(numbers) for numbers in zip(*found.counts.values(), strict=True)] == [12, 8]
    assert found.counts["validation"] == [1, 1]  # a tenth
    assert found.all_counted and found.encoded


def test_sizes_formats_and_modes_are_of_the_originals(pets: Path):
    found = examined(pets)
    assert found.sizes == {(20, 24): 12, (40, 12): 8}
    assert found.formats == {"PNG": 12, "JPEG": 8}
    assert found.modes == {"RGB": 12, "L": 8}


def test_sizes_are_upright_and_whole_though_a_jpeg_is_decoded_smaller(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    write(tmp_path / "a.jpg", 300, 200, exif=exif)
    assert examined(tmp_path).sizes == {(200, 300): 1}


@pytest.mark.parametrize(
    ("crop", "size", "enlarged"),
    [
        ("center", (16, 16), 8),  # dogs are 40x12
        ("top", (12, 16), 0),
        ("stretch", (12, 41), 20),
        ("pad", (16, 16), 0),
        ("pad", (16, 41), 8),  # cats are as high as the room for them
        ("center", (25, 8), 20),
    ],
)
def test_images_smaller_than_what_is_made_of_them_are_counted(pets: Path, crop, size, enlarged):
    assert examined(pets, crop=crop, image_size=size).enlarged == enlarged


def test_duplicates_are_grouped_by_their_bytes(pets: Path):
    for name in ("cat/x.png", "dog/y.png"):
        (pets / name).write_bytes((pets / "cat/3.png").read_bytes())
    (pets / "dog/z.jpg").write_bytes((pets / "dog/3.jpg").read_bytes())
    with Image.open(pets / "cat/1.png") as same_pixels:
        same_pixels.save(pets / "cat/other-bytes.png", compress_level=0)
    found = examined(pets)
    names = [[copy.name for copy in group] for group in found.duplicates_listed]
    assert names == [["cat/3.png", "cat/x.png", "dog/y.png"], ["dog/3.jpg", "dog/z.jpg"]]
    assert [copy.label for copy in found.duplicates_listed[0]] == ["cat", "cat", "dog"]
    assert (found.duplicate_groups, found.duplicate_images) == (2, 5)
    assert (found.across_labels, found.across_splits) == (1, 0)


def test_duplicates_across_the_splits_are_reported(pets: Path):
    held = open_dataset(replace(CONFIG, path=str(pets), validation=2), "validation")
    name = held.names[0]  # pyright: ignore[reportAttributeAccessIssue]
    other = next(file for file in sorted((pets / name).parent.iterdir()) if file.name != Path(name).name)
    other.write_bytes((pets / name).read_bytes())
    found = examined(pets, validation=2)
    assert (found.duplicate_groups, found.across_splits, found.across_labels) == (1, 1, 0)
    assert {copy.split for copy in found.duplicates_listed[0]} == {"train", "validation"}


def test_unreadable_images_are_named_with_the_reason_and_are_no_duplicates_of_each_other(pets: Path):
    for name in ("cat/empty.png", "cat/empty2.png"):
        (pets / name).touch()
    (pets / "dog/text.jpg").write_text("<html>", encoding="utf-8")
    (pets / "dog/half.jpg").write_bytes((pets / "dog/1.jpg").read_bytes()[:200])
    if hasattr(os, "mkfifo"):
        os.mkfifo(pets / "dog/pipe.png")
    found = examined(pets)
    reasons = {Path(place).name: why for place, why in found.unreadable_listed}
    assert reasons["empty.png"] == "the file is empty"
    assert reasons["text.jpg"].startswith("it is damaged, or none of JPEG")
    assert reasons["pipe.png"] == "it is not a file"
    assert "half.jpg" in reasons and str(pets / "dog/half.jpg") in dict(found.unreadable_listed)
    assert found.unreadable == 5 and found.duplicate_groups == 0
    assert sum(found.sizes.values()) == 20
    assert all("empty" not in one.name for one in found.shown)


def test_what_is_listed_is_bounded_and_what_is_counted_is_not(pets: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(survey_module, "MOST_LISTED", 2)
    for number in range(5):
        (pets / f"cat/empty{number}.png").touch()
        (pets / f"cat/copy{number}.png").write_bytes((pets / f"cat/{number}.png").read_bytes())
    found = examined(pets)
    assert (found.unreadable, len(found.unreadable_listed)) == (5, 2)
    assert (found.duplicate_groups, len(found.duplicates_listed)) == (5, 2)


def test_a_limit_takes_images_of_every_class_and_says_how_many(pets: Path):
    found = examined(pets, limit=10)
    assert (found.images, found.examined, sum(found.sizes.values())) == (20, 10, 10)
    assert found.sizes == {(20, 24): 6, (40, 12): 4}
    assert found.counts["train"] == [12, 8]
    assert examined(pets, limit=10**9).examined == 20


def test_the_same_images_are_shown_each_time_and_more_only_add_to_them(pets: Path):
    names = [(one.label_id, one.name) for one in examined(pets, per_class=3).shown]
    assert [label for label, _ in names] == [0, 0, 0, 1, 1, 1]
    cats = sorted((f"cat/{number}.png" for number in range(12)), key=survey_module._rank)
    assert [name for _, name in names][:3] == cats[:3]
    assert names == [(one.label_id, one.name) for one in examined(pets, per_class=3).shown]
    assert set(names) <= {(one.label_id, one.name) for one in examined(pets, per_class=5).shown}


def test_what_is_shown_is_what_the_network_gets_with_the_part_that_is_kept(pets: Path):
    config = replace(CONFIG, path=str(pets))
    dataset = open_dataset(config, "train")
    for one in examined(pets, per_class=2).shown:
        index = dataset.names.index(one.name)  # pyright: ignore[reportAttributeAccessIssue]
        assert np.array_equal(one.seen, dataset[index][0])
        assert one.box == pytest.approx((0, 1 / 12, 1, 11 / 12) if one.label_id == 0 else (0.35, 0, 0.65, 1))
        assert one.original is not None and one.original.shape[:2] == ((24, 20) if one.label_id == 0 else (12, 40))


def test_pictures_that_are_kept_are_small(tmp_path: Path):
    write(tmp_path / "a.png", 1200, 900)
    (one,) = examined(tmp_path, image_size=(800, 800)).shown
    assert one.original is not None
    assert max(*one.seen.shape[:2], *one.original.shape[:2]) == MOST_KEPT_SIDE


@dataclass
class Plugin:
    """A data set of which nothing is known but what it gives."""

    labels: tuple[str, ...] = ("a", "b")
    fingerprint: str = ""
    length: int = 10

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int):
        if index == 3:
            raise DataError("the third is broken", "mend it")
        if index == 4:
            raise ZeroDivisionError("oh")
        wrong = {5: np.zeros((16, 16, 3), np.float32), 6: np.zeros((4, 4, 3), np.uint8)}
        return wrong.get(index, np.full((16, 16, 3), index, np.uint8)), 9 if index == 7 else index % 2


def test_a_data_set_of_any_kind_is_examined_through_what_it_gives():
    found = survey(CONFIG, {"train": Plugin(), "validation": Plugin(length=2)})
    assert dict(found.unreadable_listed) == {
        "train image 3": "the third is broken",
        "train image 4": "ZeroDivisionError: oh",
        "train image 5": "it is float32 (16, 16, 3), not uint8 (16, 16, 3)",
        "train image 6": "it is uint8 (4, 4, 3), not uint8 (16, 16, 3)",
        "train image 7": "its label id is 9, and there are 2 labels",
    }
    assert found.counts == {"train": [3, 2], "validation": [1, 1]}
    assert not found.all_counted and not found.encoded and not found.formats
    assert found.duplicate_groups == found.across_splits == 2  # 0 and 1
    assert [one.label_id for one in found.shown] == [0, 0, 0, 1, 1]
    assert sheet(found.shown, found.labels, title="plug-in") is not None


def test_a_data_set_of_which_nothing_can_be_read_has_a_survey_and_no_picture(pets: Path):
    for file in pets.rglob("*.*"):
        file.write_bytes(b"no image")
    found = examined(pets)
    assert (found.unreadable, found.duplicate_groups, found.shown) == (20, 0, [])
    assert sheet(found.shown, found.labels, title="") is None


def test_progress_reaches_the_end(pets: Path):
    told: list[tuple[float, float]] = []
    config = replace(CONFIG, path=str(pets))
    survey(config, {"train": open_dataset(config, "train")}, on_progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 20) for number in range(1, 21)]


# --- the sheet


def region(picture: Image.Image, color: tuple[int, int, int]) -> tuple[int, int, int, int] | None:
    """Where a colour is."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return Image.fromarray((np.abs(pixels - color).max(axis=-1) < 3).astype(np.uint8)).getbbox()


def one_color(path: Path, color: tuple[int, int, int], size: tuple[int, int] = (30, 60)) -> None:
    """A block of one colour in the middle third, black above and below: cropping to a square keeps half of each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = Image.new("RGB", (size[0], size[1] // 3), color)
    ImageOps.expand(block, (0, size[1] // 3, 0, size[1] // 3)).save(path)


def test_a_sheet_has_a_row_for_each_class_with_original_and_result(tmp_path: Path):
    one_color(tmp_path / "p/green/a.png", (0, 200, 0))
    one_color(tmp_path / "p/blue/a.png", (0, 0, 200))
    found = examined(tmp_path / "p", image_size=(16, 16))
    picture = sheet(found.shown, found.labels, title="p")
    assert picture is not None
    blue, green = region(picture, (0, 0, 200)), region(picture, (0, 200, 0))
    assert blue and green and blue[3] < green[1]
    assert 64 < blue[2] - blue[0] <= 130  # original and result beside each other
    frame = region(picture, (230, 50, 50))
    assert frame and frame[2] < blue[2], "only the original is framed"


def test_every_second_result_is_mirrored_where_training_does_so(tmp_path: Path):
    for name in "ab":
        halves = Image.new("RGB", (16, 16), (0, 200, 0))
        halves.paste((0, 0, 200 + ord(name) - ord("a")), (0, 0, 8, 16))
        halves.save(tmp_path / f"{name}.png")
    found = examined(tmp_path)
    for mirror in (False, True):
        picture = sheet(found.shown, (), title="", mirror=mirror)
        assert picture is not None
        pixels = np.asarray(picture)
        blue = (pixels[:, :, 2] > 190) & (pixels[:, :, 1] < 10)
        columns = np.flatnonzero(blue.any(axis=0))
        runs = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1)
        green = np.flatnonzero(((pixels[:, :, 1] > 190) & (pixels[:, :, 2] < 10)).any(axis=0))
        assert len(runs) == 4
        assert (runs[3][0] - 1 in green) == mirror  # of the last result, blue is on the right of green


@pytest.mark.parametrize("size", [(16, 16), (64, 64), (96, 64), (64, 300), (700, 700)])
def test_a_sheet_of_many_classes_stays_on_a_page(tmp_path: Path, size):
    for label in range(20):
        for number in range(14):
            write(tmp_path / f"{label:02}/{number}.png", 50, 60, shade=label * 14 + number)
    found = examined(tmp_path, image_size=size)
    assert len({one.label_id for one in found.shown}) == survey_module.MOST_CLASSES
    picture = sheet(found.shown, found.labels, title="many")
    assert picture is not None and max(picture.size) <= 2000
    file = io.BytesIO()
    picture.save(file, "PNG")
    assert len(file.getvalue()) < 10_000_000
