"""Parquet tables of images: found columns, labels, random access, splits, and every way a table is wrong."""

from __future__ import annotations

import copy
import io
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow
import pytest
from made_tables import faces, picture, table
from PIL import Image

from ditkit.config import DataConfig
from ditkit.data.celeba import LICENCE
from ditkit.data.contract import open_dataset
from ditkit.data.image_dataset import ImageDataset
from ditkit.data.labels.attributes import choose, labels
from ditkit.data.sources import parquet_cache
from ditkit.data.sources.parquet import image_blocks
from ditkit.data.sources.splits import by_split, split_of
from ditkit.errors import DataError, DitkitError, MachineError, UsageError
from ditkit.io import atomic
from ditkit.io.progress import reporting_to

IMAGES = [picture(number) for number in range(40)]
NUMBERS = [number % 3 for number in range(40)]
CLASSES = {"label": {"_type": "ClassLabel", "names": ["ant", "bee", "cow", "dog"]}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def opened(root: Path, split="train", *, name: str = "folder", **settings) -> ImageDataset:
    config = DataConfig(name=name, path=str(root), image_size=(24, 20), channels=3, validation=4)
    found = open_dataset(replace(config, **settings), split)
    assert isinstance(found, ImageDataset)
    return found


def shades(data: ImageDataset) -> list[int]:
    """Which images these are."""
    return [int(data[index][0][0, 0, 0]) for index in range(len(data))]


def test_images_and_labels_come_as_they_are_in_the_table(root: Path) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES, features=CLASSES, label=NUMBERS))
    train, held = opened(root), opened(root, "validation")
    assert train.labels == ("ant", "bee", "cow") == held.labels  # nobody is a dog
    assert sorted(shades(train) + shades(held)) == list(range(40)) and len(held) == 3  # one of each
    assert all(label == shade % 3 for shade, label in zip(shades(train), train.label_ids, strict=True))
    assert np.array_equal(train[5][0], np.asarray(Image.open(io.BytesIO(IMAGES[shades(train)[5]]))))


@pytest.mark.parametrize("compression", ["plain", "struct"])
@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_any_row_is_read_by_itself_in_any_process(root: Path, rows: int, compression: str) -> None:
    for number in range(3):
        part = IMAGES[number * 13 : number * 13 + 13]
        (root / f"{number}.parquet").write_bytes(table(part, plain=compression == "plain", rows=rows))
    data = copy.deepcopy(opened(root, validation=0))  # as a worker gets it
    assert data.labels == () and set(data.label_ids) == {0}
    rows_read = (38, 0, 13, 12, 26)
    assert [data.source.open_bytes(row).read() for row in rows_read] == [IMAGES[row] for row in rows_read]
    assert data.place(14) == f"{root / '1.parquet'}, row 1"


def test_the_images_are_laid_out_once_and_decoded_by_nobody(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    broken = [*IMAGES[:-1], b"\x89PNG no more"]
    (root / "all.parquet").write_bytes(table(broken))
    first = opened(root, validation=0)
    kept = {path: path.stat().st_mtime_ns for path in cache.rglob("*.images")}
    monkeypatch.setattr(parquet_cache, "_write", None)
    again = opened(root, validation=0)
    assert again.fingerprint == first.fingerprint and len(kept) == 1
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.images")} == kept
    with pytest.raises(DataError, match=r"cannot read the image .*all\.parquet, row 39"):
        again[39]


def test_a_pack_that_is_damaged_or_of_another_table_is_made_again(root: Path, cache: Path) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES))
    first = opened(root)
    (pack,) = cache.rglob("*.images")
    for damaged in (pack, pack.with_suffix(".npy")):
        damaged.write_bytes(damaged.read_bytes()[:-3])
        assert opened(root).fingerprint == first.fingerprint
        damaged.unlink()
        assert opened(root).fingerprint == first.fingerprint
    (root / "all.parquet").write_bytes(table(IMAGES[::-1]))
    assert opened(root).fingerprint != first.fingerprint


def test_a_table_is_never_in_memory_whatever_its_row_groups_are(root: Path) -> None:
    noise = random.Random(0)
    (root / "all.parquet").write_bytes(table([noise.randbytes(2000) for _ in range(20_000)], plain=True, rows=20_000))
    before = pyarrow.total_allocated_bytes()
    held = [pyarrow.total_allocated_bytes() - before for _ in image_blocks(root / "all.parquet", "image")]
    assert len(held) > 200 and max(held) < 10e6


def test_a_pack_cut_short_while_it_is_used_is_an_unreadable_image(root: Path, cache: Path) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES))
    data = opened(root, validation=0)
    (pack,) = cache.rglob("*.images")
    pack.write_bytes(pack.read_bytes()[:100])
    with pytest.raises(DataError, match="is cut short"):
        data[39]


def test_the_same_images_give_the_same_fingerprint_wherever_and_however_they_lie(root: Path, tmp_path: Path) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES, label=NUMBERS))
    there = tmp_path / "there"
    there.mkdir()
    for number in range(2):
        part = slice(number * 20, number * 20 + 20)
        (there / f"part-{number}.parquet").write_bytes(table(IMAGES[part], plain=True, rows=3, label=NUMBERS[part]))
    for split in ("train", "validation"):
        assert opened(root, split).fingerprint == opened(there, split).fingerprint
    (there / "part-1.parquet").write_bytes(table(IMAGES[20:], label=[0] * 20))
    assert opened(root).fingerprint != opened(there).fingerprint


def test_packing_needs_room_and_says_what_it_does(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    (root / "all.parquet").write_bytes(table(IMAGES))
    told: list[str] = []
    with monkeypatch.context() as full:
        full.setattr(parquet_cache, "check_room", lambda *words: (_ for _ in ()).throw(MachineError("no room")))
        with pytest.raises(MachineError, match="no room"):
            opened(root)
    with reporting_to(lambda text: told.append(text) or nullcontext(lambda done, total: None)):
        opened(root)
        opened(root)
    assert len(told) == 1 and re.match(f"unpacking the images of {root} to {cache}/tables/data-", told[0])


def test_a_full_disk_is_one_error_and_leaves_nothing(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES))

    def full(path: Path, content: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "write_synced", full)
    with pytest.raises(MachineError, match="No space left on device"):
        opened(root)
    assert not [path for path in cache.rglob("*") if path.is_file()]


# --- columns


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"label": NUMBERS}, ("0", "1", "2")),
        ({"class": [["z", "a", "ä"][one] for one in NUMBERS]}, ("a", "z", "ä")),
        ({"labels": [one > 0 for one in NUMBERS]}, ("not_labels", "labels")),
        ({"label": [10 * one for one in NUMBERS], "number": NUMBERS}, ("0", "10", "20")),
        ({"category": pyarrow.array([str(one) for one in NUMBERS]).dictionary_encode()}, ("0", "1", "2")),
        ({"score": [0.5] * 40, "number": NUMBERS}, ()),
        ({}, ()),
    ],
)
def test_labels_are_found_by_the_columns_name(root: Path, columns: dict, expected: tuple[str, ...]) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES, **columns))
    data = opened(root, validation=0)
    assert data.labels == expected
    assert len(set(data.label_ids)) == max(1, len(expected))


def test_columns_can_be_given(root: Path) -> None:
    inverse = IMAGES[::-1]
    content = table(IMAGES, label=NUMBERS, Kind=["x", "y"] * 20, negative=pyarrow.array(inverse, pyarrow.binary()))
    (root / "all.parquet").write_bytes(content)
    data = opened(root, label_by="kind", image_column="negative", validation=0)
    assert data.labels == ("x", "y") and shades(data)[:3] == [39, 38, 37] and list(data.label_ids[:3]) == [0, 1, 0]
    assert shades(opened(root, validation=0))[:2] == [0, 1]  # "image" is the better name


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"label_by": "lable"}, "unknown column 'lable'", "'label'"),
        ({"image_column": "imag"}, "unknown column 'imag'", "'image'"),
        ({"image_column": "label"}, "the column label of all.parquet holds no images", "image"),
        ({"label_by": "score"}, "the column score of all.parquet holds no labels", "label"),
        ({"label_by": "label,nothing"}, "unknown column 'label'", "big"),
    ],
)
def test_a_wrong_column_is_named_with_the_nearest(root: Path, settings: dict, message: str, hint: str) -> None:
    (root / "all.parquet").write_bytes(
        table(
            IMAGES, label=NUMBERS, score=[0.5] * 40, big=[one > 1 for one in NUMBERS], red=[one > 0 for one in NUMBERS]
        )
    )
    with pytest.raises(UsageError) as caught:
        opened(root, **settings)
    assert caught.value.message == message and hint in str(caught.value.hint)


def test_several_columns_that_will_do_are_listed(root: Path) -> None:
    features = {name: {"_type": "ClassLabel", "names": ["a", "b", "c"]} for name in ("fine", "coarse")}
    (root / "all.parquet").write_bytes(table(IMAGES, features=features, fine=NUMBERS, coarse=NUMBERS))
    with pytest.raises(UsageError, match=r"several columns of all\.parquet may be the labels: fine, coarse"):
        opened(root)
    assert opened(root, label_by="coarse").labels == ("a", "b", "c")
    binary = pyarrow.array(IMAGES, pyarrow.binary())
    (root / "all.parquet").write_bytes(table(IMAGES, image="left", right=binary))
    with pytest.raises(UsageError, match=r"several columns of all\.parquet hold images: left, right"):
        opened(root)


# --- attributes


def test_attributes_make_classes_that_can_be_typed() -> None:
    assert labels(["Male"]) == ("female", "male")
    assert labels(["Smiling"]) == ("not_smiling", "smiling")
    assert labels(["Male", "Smiling"]) == ("female", "male", "female+smiling", "male+smiling")
    assert labels(["Smiling", "Eyeglasses"]) == ("none", "smiling", "eyeglasses", "smiling+eyeglasses")
    assert len(set(labels(["Male", "Smiling", "Young"]))) == 8
    assert choose(" male , SMILING", ["Smiling", "Male"]) == ["Male", "Smiling"]
    for wrong, message in (("Male,Smilling", "unknown attribute 'Smilling'"), ("Male,male", "twice"), ("Male,", "''")):
        with pytest.raises(UsageError, match=message):
            choose(wrong, ["Smiling", "Male"])
    with pytest.raises(UsageError, match="7 attributes make 128 classes"):
        choose("a,b,c,d,e,f,g", "abcdefg")


def test_celeba_in_tables_follows_the_official_split(root: Path) -> None:
    names = {"train-0.parquet": faces(30), "valid-0.parquet": faces(8, 30), "test-0.parquet": b"never read"}
    for name, content in names.items():
        (root / name).write_bytes(content)
    train, held = opened(root, name="celeba"), opened(root, "validation", name="celeba")
    assert train.labels == ("female", "male") == held.labels
    assert shades(train) == list(range(30)) and shades(held) == [30, 32, 34, 36]
    assert list(train.label_ids) == [int(one % 3 == 0) for one in range(30)]
    assert len(opened(root, "validation", name="celeba", validation=100)) == 8
    assert len(opened(root, "validation", name="celeba", validation=0)) == 0
    pair = opened(root, name="celeba", label_by="male,smiling")
    assert pair.labels == ("female", "male", "female+smiling", "male+smiling")
    assert list(pair.label_ids[:6]) == [3, 0, 2, 1, 2, 0]
    assert opened(root, name="folder", label_by="Male,Smiling").labels == pair.labels
    with pytest.raises(UsageError, match="unknown attribute 'Smilling'") as caught:
        opened(root, name="celeba", label_by="Male,Smilling")
    assert caught.value.hint == "did you mean 'Smiling'?"
    with pytest.raises(DataError, match=r"no training image is 'male\+5_o_clock_shadow'"):
        opened(root, name="celeba", label_by="Male,5_o_clock_shadow")


def test_the_licence_of_celeba_is_printed_once_where_someone_reads(root: Path) -> None:
    from contextlib import nullcontext

    (root / "train.parquet").write_bytes(faces(30))
    told: list[str] = []
    opened(root, name="celeba")
    for _ in range(2):
        with reporting_to(lambda text: told.append(text) or nullcontext(lambda done, total: None)):
            opened(root, name="celeba")
    assert told == [LICENCE]


# --- splits


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("data/train-00000-of-00002-0a1b2c.parquet", "train"),
        ("img_align+identity+attr/valid-00000-of-00003.parquet", "validation"),
        ("default/validation/0000.parquet", "validation"),
        ("a_val.parquet", "validation"),
        ("test/0.parquet", "test"),
        ("train/test.parquet", "test"),
        ("data/0000.parquet", None),
        ("data/test.png", None),
        ("train/dog/val.png", "train"),
        ("trained/strain.parquet", None),
        ("default/partial-train/0000.parquet", None),
    ],
)
def test_splits_are_read_from_names(path: str, split: str | None) -> None:
    assert split_of(path) == split


def test_names_decide_where_no_card_does() -> None:
    paths = ["b/train-1.parquet", "b/train-0.parquet", "b/test-0.parquet", "b/extra.parquet"]
    assert by_split(paths, None, place="x") == {"train": ["b/train-0.parquet", "b/train-1.parquet"], "validation": []}
    assert by_split(["1", "0"], None, place="x")["train"] == ["0", "1"]
    assert by_split(["a/1", "b/1"], None, "a", place="x")["train"] == ["a/1"]
    with pytest.raises(DataError, match="none of the 1 files of x is for training"):
        by_split(["test.parquet"], None, place="x")
    with pytest.raises(UsageError, match="x has no configuration or folder 'c'"):
        by_split(["a/1", "b/1"], None, "c", place="x")


CARD = """---
configs:
- config_name: one
  data_files:
  - split: train
    path: one/a-*
  - split: validation
    path: [one/b.parquet]
- config_name: two
  data_files: "two/**"
---
# Faces
"""


def test_the_card_decides_where_there_is_one(tmp_path: Path) -> None:
    info = tmp_path / "README.md"
    info.write_text(CARD, encoding="utf-8")
    paths = ["one/a-1.parquet", "one/a-0.parquet", "one/b.parquet", "two/x/y.parquet"]
    with pytest.raises(UsageError, match="hf://u/d has several configurations: one, two") as caught:
        by_split(paths, info, place="hf://u/d")
    assert "hf://u/d/one" in str(caught.value.hint)
    first = {"train": ["one/a-0.parquet", "one/a-1.parquet"], "validation": ["one/b.parquet"]}
    assert by_split(paths, info, "one", place="x") == first
    assert by_split(paths, info, "two", place="x")["train"] == ["two/x/y.parquet"]
    info.write_text(CARD.replace("- config_name: one", "- config_name: one\n  default: true"), encoding="utf-8")
    assert by_split(paths, info, place="x") == first
    for odd in ("", "---\nconfigs: 3\n---\n", "---\nconfigs: [1, {a: b}]\n---\n", "---\n: [\n---\n", "\xff"):
        info.write_text(odd, encoding="latin-1")
        assert len(by_split(paths, info, place="x")["train"]) == 4


# --- what is wrong

DAMAGED = {
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "is a pointer of Git LFS"),
    "a web page": (b"\n<!DOCTYPE html><title>Quota</title>", "is a web page"),
    "empty": (b"", "is not a parquet file"),
    "text": (b"name,label\n", "is not a parquet file"),
    "half": (table(IMAGES)[:3000], "is damaged"),
    "the ends alone": (b"PAR1" + bytes(100) + b"PAR1", "is damaged"),
    "pages overwritten": (table(IMAGES)[:2000] + bytes(30_000) + table(IMAGES)[32_000:], "is damaged"),
    "no images": (table([None] * 40, features={}), "holds no images"),
    "no image column": (table(IMAGES, plain=True).replace(b"\x89PNG", b"\x89GNP"), "no column of .* holds images"),
    "unlabelled rows": (table(IMAGES, features=CLASSES, label=[-1, *NUMBERS[1:]]), "1 rows of .* have nothing in"),
    "missing labels": (table(IMAGES, label=[None, *NUMBERS[1:]]), "1 rows of .* have nothing in the column label"),
    "missing truths": (table(IMAGES, label=[None, *([True] * 39)]), "1 rows of .* have nothing in the column label"),
    "labels without names": (table(IMAGES, features=CLASSES, label=[9] * 40), "has the label 9"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_table_is_one_error_that_names_it(root: Path, cache: Path, kind: str) -> None:
    content, message = DAMAGED[kind]
    (root / "all.parquet").write_bytes(content)
    with pytest.raises(DataError, match=message):
        opened(root)
    assert not [path for path in cache.rglob("*") if path.name.endswith(".tmp")]


def test_a_single_row_without_an_image_is_an_unreadable_image(root: Path) -> None:
    (root / "all.parquet").write_bytes(table([None, *IMAGES[1:]], features={}))
    data = opened(root, validation=0)
    assert shades(replace(data, rows=data.rows[1:], label_ids=data.label_ids[1:])) == list(range(1, 40))
    with pytest.raises(DataError, match="the row has no image"):
        data[0]


def test_tables_of_different_columns_are_one_error(root: Path) -> None:
    (root / "a.parquet").write_bytes(table(IMAGES, label=NUMBERS))
    (root / "b.parquet").write_bytes(table(IMAGES))
    with pytest.raises(DitkitError, match=r"b\.parquet has no column label, but: image") as caught:
        opened(root)
    assert "again" not in str(caught.value.hint)
    (root / "b.parquet").write_bytes(table(IMAGES, image="picture", label=NUMBERS))
    with pytest.raises(DitkitError, match=r"b\.parquet has no column image, but: picture, label"):
        opened(root)


def test_images_beside_tables_are_what_is_meant(root: Path) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES))
    (root / "1.png").write_bytes(IMAGES[0])
    assert len(opened(root, validation=0)) == 1


# --- labels of other types, tables that differ, splits in a column

LISTS = pyarrow.array([[one] for one in NUMBERS])
WHOLE = pyarrow.array([float(one) for one in NUMBERS])
CAFE = ["cafe\u0301", "caf\u00e9", "bar"]


@pytest.mark.parametrize(
    ("columns", "settings", "expected"),
    [
        ({"label": WHOLE}, {}, ("0", "1", "2")),
        ({"label": WHOLE.cast(pyarrow.float32())}, {}, ("0", "1", "2")),
        ({"label": [CAFE[one] for one in NUMBERS]}, {}, ("bar", "café")),
        ({"label": LISTS}, {"label_from": "none"}, ()),
        ({"label": LISTS, "kind": NUMBERS}, {"label_by": "kind"}, ("0", "1", "2")),
        ({"Smiling": [2 * (one % 2) - 1 for one in range(40)]}, {"label_by": "smiling"}, ("not_smiling", "smiling")),
        (
            {"Male": [2 * (one % 2) - 1 for one in range(40)], "Hat": [one // 2 % 2 for one in range(40)]},
            {"label_by": "male,hat"},
            ("female", "male", "female+hat", "male+hat"),
        ),
    ],
)
def test_labels_of_any_type_that_names_classes_are_read(
    root: Path, columns: dict, settings: dict, expected: tuple[str, ...]
) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES, **columns))
    data = opened(root, validation=0, **settings)
    assert data.labels == expected and len(set(data.label_ids)) == max(1, len(expected)) and len(data) == 40


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (LISTS, r"the column label of all\.parquet holds list<.*>, which is no label"),
        (pyarrow.array([{"id": one} for one in NUMBERS]), "holds struct<id: int64>, which is no label"),
        (pyarrow.array([0.5 + one for one in NUMBERS]), r"the column label of all\.parquet holds no labels"),
        (pyarrow.array([None, *map(float, NUMBERS[1:])]), "1 rows of .* have nothing in the column label"),
        (pyarrow.array([float("nan"), *map(float, NUMBERS[1:])]), "1 rows of .* have nothing in the column label"),
        (["a\nb", *"c" * 39], r"the label 'a\\nb' has a line break"),
    ],
)
def test_a_column_called_label_that_is_none_is_never_left_out_silently(
    root: Path, column: object, message: str
) -> None:
    (root / "all.parquet").write_bytes(table(IMAGES, label=column))
    with pytest.raises(DitkitError, match=message) as caught:
        opened(root)
    assert "--label-by" in str(caught.value.hint) or "--label-from none" in str(caught.value.hint)


@pytest.mark.parametrize(
    "second",
    [pyarrow.array([0, 1], pyarrow.int8()), pyarrow.array([0.0, 1.0]), pyarrow.array([1, 0], pyarrow.uint16())],
)
def test_numbers_of_different_widths_in_tables_are_the_same_labels(root: Path, second: pyarrow.Array) -> None:
    (root / "a.parquet").write_bytes(table(IMAGES[:2], label=[0, 1]))
    (root / "b.parquet").write_bytes(table(IMAGES[2:4], label=second))
    assert opened(root, validation=0).labels == ("0", "1")
    assert opened(root, validation=0).label_ids.tolist() == [0, 1, *map(int, second.to_pylist())]


@pytest.mark.parametrize("second", [["a", "b"], [True, False], [[0], [1]]])
def test_a_column_of_another_type_in_one_table_is_said_as_such(root: Path, second: list) -> None:
    (root / "train-0.parquet").write_bytes(table(IMAGES[:2], label=[0, 1]))
    (root / "train-1.parquet").write_bytes(table(IMAGES[2:4], label=second))
    with pytest.raises(DataError, match=r"label is int64 in train-0\.parquet and .* in train-1\.parquet") as caught:
        opened(root)
    assert "damaged" not in str(caught.value) and "again" not in str(caught.value.hint)


def test_a_column_of_splits_is_followed_or_what_is_wrong_with_it_is_said(root: Path) -> None:
    words = (["train"] * 6 + ["Val", "val", "test", "test"]) * 4
    (root / "all.parquet").write_bytes(table(IMAGES, label=NUMBERS, split=words))
    train, held = opened(root), opened(root, "validation", validation=100)
    assert len(train) == 24 and len(held) == 8
    assert train.layout is not None and "24 to train on, 8 for validation; not used: 8" in train.layout.notes[0]
    (root / "all.parquet").write_bytes(table(IMAGES, label=NUMBERS, split=["fold1", "fold2"] * 20))
    folds = opened(root, validation=0)
    assert len(folds) == 40 and folds.layout is not None and "'fold1' is no split" in folds.layout.notes[0]
