"""Labels from tables: what is found by itself, what has to be said, and what is wrong with a table."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ditkit.config import DataConfig
from ditkit.data.folder import dataset
from ditkit.data.image_dataset import ImageDataset
from ditkit.data.labels.values import Labels, text_of
from ditkit.errors import DataError, DitkitError, UsageError

NAMES = ["a.png", "b.png", "sub/c.png", "sub/d.png"]
PLAIN = "file_name,label\na.png,cat\nb.png,dog\nsub/c.png,cat\nsub/d.png,dog\n"
SAID = {"a.png": "cat", "b.png": "dog", "sub/c.png": "cat", "sub/d.png": "dog"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (6, 5)).save(root / name)
    return root


def _labels(root: Path, table: str | bytes | None = None, name: str = "labels.csv", **settings) -> dict[str, str]:
    """The label of each image, as a table beside the folder says."""
    file = root.parent / name
    if table is not None:
        file.write_bytes(table if isinstance(table, bytes) else table.encode())
        settings["label_file"] = str(file)
    config = DataConfig(name="folder", path=str(root), image_size=(4, 4), channels=3, validation=0)
    images = dataset(replace(config, **settings), "train")
    assert isinstance(images, ImageDataset)
    labels = images.labels or ("",)
    return {one: labels[label] for one, label in zip(images.names, images.label_ids, strict=True)}


SAME = {
    "plain": PLAIN,
    "no header": PLAIN.partition("\n")[2],
    "no header, the other way round": "cat,a.png\ndog,b.png\ncat,sub/c.png\ndog,sub/d.png",
    "semicolons": PLAIN.replace(",", ";"),
    "tabs": PLAIN.replace(",", "\t"),
    "quotes": '"file_name","label"\n"a.png","cat"\n"b.png","dog"\n"sub/c.png","cat"\n"sub/d.png","dog"\n',
    "spaces": PLAIN.replace(",", " , "),
    "byte order mark": b"\xef\xbb\xbf" + PLAIN.encode(),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "no last line end": PLAIN.rstrip(),
    "blank lines": "\n" + PLAIN.replace("\n", "\n\n"),
    "other names of columns": PLAIN.replace("file_name,label", "Image Path,Class"),
    "an index as pandas writes it": ",file_name,label\n0,a.png,cat\n1,b.png,dog\n2,sub/c.png,cat\n3,sub/d.png,dog\n",
    "a column of any name beside the files": PLAIN.replace("label", "species"),
    "more columns": "id,label,file_name\n1,cat,a.png\n2,dog,b.png\n3,cat,sub/c.png\n4,dog,sub/d.png\n",
    "backslashes": PLAIN.replace("/", "\\"),
    "dots": PLAIN.replace("a.png", "./a.png"),
    "no extensions": PLAIN.replace(".png", ""),
    "a row twice": PLAIN + "a.png,cat\n",
    "the first line of Excel": "sep=;\r\n" + PLAIN.replace(",", ";"),
    "the first line of Excel, in quotes": '"sep=,"\n' + PLAIN,
    "the first line of Excel, with tabs": "SEP=\t\n" + PLAIN.replace(",", "\t"),
    "the folder's own name": PLAIN.replace("\n", "\nphotos/").removesuffix("photos/"),
    "absolute paths": PLAIN.replace("\n", "\n/home/me/photos/").removesuffix("/home/me/photos/"),
    "paths of Windows": PLAIN.replace("\n", "\nD:\\me\\photos\\").removesuffix("D:\\me\\photos\\"),
    "other folders, no extensions": "file,label\nx/y/a,cat\nx/y/b,dog\nx/y/sub/c,cat\nx/y/sub/d,dog\n",
    "a JSON list": json.dumps([{"file_name": name, "label": label} for name, label in SAID.items()], indent=1),
    "a JSON object of names": json.dumps(SAID),
    "a JSON object of names, on lines": json.dumps(SAID, indent=2),
    "JSON as of EDM": json.dumps({"labels": [list(pair) for pair in SAID.items()]}),
    "JSON with a byte order mark": b"\xef\xbb\xbf" + json.dumps(SAID).encode(),
    "another order": "file,label\nsub/d.png,dog\nb.png,dog\na.png,cat\nsub/c.png,cat\n",
}


@pytest.mark.parametrize("kind", SAME)
def test_a_table_is_read_however_it_is_written(kind: str, photos: Path):
    assert _labels(photos, SAME[kind]) == SAID


def _json_lines(rows: list[dict]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


ROWS = [{"file_name": name, "label": label, "size": 3} for name, label in SAID.items()]


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.json", "labels"])
def test_json_lines_are_recognised_by_their_content(name: str, photos: Path):
    assert _labels(photos, _json_lines(ROWS), name) == SAID


@pytest.mark.parametrize(("name", "table"), [("metadata.csv", PLAIN), ("metadata.jsonl", _json_lines(ROWS))])
def test_a_table_in_the_folder_as_on_the_hub_is_found(name: str, table: str, photos: Path):
    (photos / name).write_text(table, encoding="utf-8")
    assert _labels(photos) == SAID


def test_captions_are_no_labels_and_leave_a_flat_folder_without_any(photos: Path):
    (photos / "sub/c.png").rename(photos / "c.png")
    (photos / "sub/d.png").rename(photos / "d.png")
    (photos / "sub").rmdir()
    captions = [{"file_name": name.rpartition("/")[2], "text": f"a picture of {name}"} for name in NAMES]
    (photos / "metadata.jsonl").write_text(_json_lines(captions), encoding="utf-8")
    config = DataConfig(name="folder", path=str(photos), image_size=(4, 4), channels=3, validation=0)
    images = dataset(config, "train")
    assert images.labels == () and list(images.label_ids) == [0, 0, 0, 0]


def test_captions_do_not_hide_the_class_folders(tmp_path: Path):
    for name in ("cat/1.png", "dog/1.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (6, 5)).save(tmp_path / name)
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/1.png,one\ndog/1.png,two\n", encoding="utf-8")
    assert _labels(tmp_path) == {"cat/1.png": "cat", "dog/1.png": "dog"}


def test_numbers_are_labels_in_their_natural_order(photos: Path):
    rows = [{"file_name": name, "label": label} for name, label in zip(NAMES, [10, 2.0, True, 10], strict=True)]
    assert _labels(photos, _json_lines(rows), "a.jsonl") == dict(zip(NAMES, ["10", "2", "true", "10"], strict=True))
    labels = Labels()
    for label in ("b10", "b2", "10", "9", "a", "B", "b2", "02"):
        labels.add([label], "a table")
    assert labels.finish()[0] == ("02", "9", "10", "B", "a", "b2", "b10")
    assert labels.finish()[1].tolist() == [6, 5, 2, 1, 4, 3, 5, 0]


def test_the_label_may_be_any_column_or_several(photos: Path):
    table = "file,Shape,colour,label\na.png,round,red,x\nb.png,flat,red,x\nsub/c,round,blue,x\nsub/d,flat,blue,x\n"
    assert _labels(photos, table, label_by="shape")["b.png"] == "flat"
    both = _labels(photos, table, label_by="colour, Shape")
    assert list(both.values()) == ["red+round", "red+flat", "blue+round", "blue+flat"]
    (photos / "metadata.csv").write_text(table, encoding="utf-8")
    assert _labels(photos, label_by="colour")["sub/d.png"] == "blue"
    assert (
        _labels(
            photos, "thumb,file\na.png,b.png\nb.png,a.png\nsub/c,x\nsub/d,x\n", label_by="file", image_column="thumb"
        )["a.png"]
        == "b.png"
    )


def test_an_unknown_column_is_a_wrong_word_with_the_nearest_ones(photos: Path):
    with pytest.raises(UsageError, match=r"unknown column of .*labels.csv: 'lable'") as caught:
        _labels(photos, PLAIN, label_by="lable")
    assert caught.value.hint == "did you mean 'label'?"
    with pytest.raises(UsageError, match=r"there is no table in .*photos that could have the column 'x'"):
        _labels(photos, label_by="x")


def test_letters_with_accents_match_however_they_are_composed(photos: Path):
    (photos / "a.png").rename(photos / "e\u0301.png")
    assert _labels(photos, PLAIN.replace("a.png", "\xe9.png"))["e\u0301.png"] == "cat"


MANY = "file,label\n" + "".join(f"{index}.png,caption {index}\n" for index in range(30))
WRONG: dict[str, tuple[str | bytes, str]] = {
    "a row without an image": (PLAIN + "e.png,cat\n", r"line 6: there is no image 'e.png' in .*photos, whose first is"),
    "rows without an image": (PLAIN.replace("sub/", ""), r"line 4: there is no image 'c.png' .* 2 rows have none"),
    "images without a row": (
        "file,label\na.png,cat\n",
        r"has no row for 3 of 4 images: b\.png, sub/c\.png, sub/d\.png\n",
    ),
    "a row twice": (PLAIN + "a.png,dog\n", r"line 6: 'a.png' is 'dog', but line 2 says 'cat'"),
    "an empty label": (PLAIN.replace("b.png,dog", "b.png, "), r"line 3: the label is empty"),
    "a long label": (PLAIN.replace("b.png,dog", "b.png," + "x" * 300), r"line 3: the label is 300 letters long"),
    "the wrong column": (MANY, r"has 30 different labels in 30 rows: hardly two images share one"),
    "a row too short": (PLAIN.replace("b.png,dog", "b.png"), r"line 3: 1 columns instead of 2"),
    "a row too long": (PLAIN.replace("b.png,dog", "b.png,dog,x"), r"line 3: 3 columns instead of 2"),
    "an open quote": (PLAIN.replace("b.png,dog", 'b.png,"dog'), r"line 5: unexpected end of data"),
    "a web page": ("\n<!DOCTYPE html><title>Quota</title>", r"is a web page, not a table"),
    "nothing": ("", r"cannot read .*labels.csv: the file is empty"),
    "a header alone": ("file_name,label\n", r"has no rows"),
    "one column": ("a.png\nb.png\n", r"has no columns parted by comma, semicolon or tab"),
    "no column of files": ("x,y,z\n1,2,3\n", r"has no column of file names, but: x, y, z"),
    "no column of labels": ("file,width,height\na.png,2,3\n", r"has no column of labels, but: width, height"),
    "UTF-16": (PLAIN.encode("utf-16"), r"line 1: not a text in UTF-8"),
    "Latin-1": (PLAIN.replace("dog", "\xe9").encode("latin-1"), r"line 3: not a text in UTF-8"),
    "an image": (b"\x89PNG\r\n\x1a\n" + bytes(99), r"line 1: not a text in UTF-8"),
    "zeros": (bytes(99), r"line 1: not a line of a table"),
    "one endless line": (b"x" * (2 << 20), r"line 1: not a line of a table"),
    "broken JSON": (_json_lines(ROWS) + '{"file_name": ', r"line 5: not a JSON object"),
    "deep JSON": (_json_lines(ROWS) + "[" * 100_000, r"line 5: not a JSON object"),
    "JSON without a file": (_json_lines([*ROWS, {"label": "cat"}]), r"line 5: no 'file_name'"),
    "JSON without a label": (_json_lines([*ROWS, {"file_name": "a.png"}]), r"line 5: the label is empty"),
    "a JSON list without names": (json.dumps([{"label": "cat"}]), r"has no column of file names, but: label"),
    "a JSON list of words": ('["a.png", "b.png"]', r"entry 1: not a JSON object"),
    "broken JSON of a list": ('[{"file_name": "a.png", "label": ', r"labels.csv is not JSON"),
    "an empty JSON list": ("[]", r"has no rows"),
    "a line break in a label": (PLAIN.replace("dog", '"do\ng"'), r"line 4: the label 'do\\ng' has a line break"),
    "rows of other folders": (PLAIN.replace("sub/d", "other/d"), r"line 5: there is no image 'other/d.png'"),
    "JSON with objects": (
        _json_lines([{"file_name": "a.png", "label": ["cat"]}]),
        r"line 1: the label is neither text nor a number",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_table_that_is_wrong_says_where(kind: str, photos: Path):
    table, message = WRONG[kind]
    with pytest.raises(DataError, match=message) as caught:
        _labels(photos, table)
    assert "labels.csv" in caught.value.message and caught.value.hint and len(caught.value.message) < 500


def test_a_missing_table_and_a_folder_of_its_name_are_reported(photos: Path):
    for name, message in (("nowhere.csv", "No such file"), ("photos", "it is not a file")):
        with pytest.raises(DataError, match=message):
            _labels(photos, label_file=str(photos.parent / name))


def test_a_folder_around_several_sets_with_tables_is_not_taken_for_classes(tmp_path: Path):
    for part in ("old", "new"):
        (tmp_path / part).mkdir()
        Image.new("RGB", (6, 5)).save(tmp_path / part / "1.png")
        (tmp_path / part / "metadata.csv").write_text("file_name,label\n1.png,cat\n", encoding="utf-8")
    with pytest.raises(DitkitError, match=r"holds new/metadata.csv, old/metadata.csv") as caught:
        _labels(tmp_path)
    assert caught.value.hint == "give the folder of one: new"
    assert _labels(tmp_path / "new") == {"1.png": "cat"}


@pytest.mark.parametrize("value", [None, "", " ", [], {}, "x" * 201])
def test_what_cannot_be_a_label_is_refused(value: object):
    with pytest.raises(ValueError, match="the label"):
        text_of(value)


def test_another_table_is_another_set_of_images(photos: Path):
    config = DataConfig(name="folder", path=str(photos), image_size=(4, 4), channels=3)
    (photos.parent / "labels.csv").write_text(PLAIN, encoding="utf-8")
    config = replace(config, label_file=str(photos.parent / "labels.csv"))
    before = dataset(config, "train").fingerprint
    assert dataset(config, "train").fingerprint == before
    (photos.parent / "labels.csv").write_text(PLAIN.replace("a.png,cat", "a.png,dog"), encoding="utf-8")
    assert dataset(config, "train").fingerprint != before


@pytest.mark.parametrize("table", [PLAIN, SAME["quotes"], _json_lines(ROWS)], ids=["CSV", "quotes", "JSON"])
def test_a_damaged_table_is_an_error_or_says_what_it_says(table: str, photos: Path):
    draw = random.Random(0)
    for _ in range(150):
        changed = bytearray(table.encode())
        for _ in range(draw.choice((1, 1, 3))):
            at = draw.randrange(len(changed))
            if draw.random() < 0.5:
                changed[at] ^= 1 << draw.randrange(8)
            else:
                del changed[at : at + draw.randrange(1, 20)]
        try:
            said = _labels(photos, bytes(changed))
        except DitkitError as error:
            assert error.hint and "labels.csv" in error.message
        else:
            assert said.keys() == SAID.keys() and all(label.encode() in changed for label in said.values())


# --- splits, attributes, and tables inside the folder


def _parts(root: Path, table: str, **settings) -> tuple[list[str], list[str], str]:
    """The images to train on, those for validation, and what is said."""
    (root.parent / "table.csv").write_text(table, encoding="utf-8")
    config = DataConfig(name="folder", path=str(root), image_size=(4, 4), channels=3, validation=9)
    config = replace(config, label_file=str(root.parent / "table.csv"), **settings)
    train, held = dataset(config, "train"), dataset(config, "validation")
    assert isinstance(train, ImageDataset) and isinstance(held, ImageDataset) and train.layout is not None
    return train.names, held.names, " ".join(train.layout.notes)


@pytest.mark.parametrize("words", [("train", "val", "test"), ("Training", "VALIDATION", "testing"), ("0", "1", "2")])
@pytest.mark.parametrize("column", ["split", "Partition", "subset"])
def test_a_column_of_splits_is_followed(words: tuple[str, ...], column: str, photos: Path):
    splits = dict(zip(NAMES, (words[0], words[0], words[1], words[2]), strict=True))
    table = f"file_name,label,{column}\n" + "".join(f"{name},{SAID[name]},{splits[name]}\n" for name in NAMES)
    train, held, notes = _parts(photos, table)
    assert (train, held) == (["a.png", "b.png"], ["sub/c.png"])
    assert "2 to train on, 1 for validation; not used: 1 for testing" in notes


def test_a_column_of_splits_that_says_something_else_is_not_followed_and_that_is_said(photos: Path):
    table = "file_name,label,split\n" + "".join(f"{name},{SAID[name]},fold{i}\n" for i, name in enumerate(NAMES))
    train, held, notes = _parts(photos, table)
    assert len(train) == 4 and not held and "is not followed: 'fold0' is no split" in notes


def test_a_split_among_two_columns_is_no_label(photos: Path):
    table = "file_name,split\n" + "".join(f"{name},train\n" for name in NAMES)
    with pytest.raises(DataError, match="has no column beside that of the file names"):
        _parts(photos, table)


@pytest.mark.parametrize("values", [("1", "-1"), ("1", "0"), ("True", "False"), ("true", "false"), ("1.0", "-1.0")])
def test_columns_of_yes_and_no_are_attributes_as_in_celeba(values: tuple[str, str], photos: Path):
    answers = [(values[i % 2], values[i // 2]) for i in range(4)]
    rows = (f"{name},{male},{smiling}\n" for name, (male, smiling) in zip(NAMES, answers, strict=True))
    said = _labels(photos, "image_id,Male,Smiling\n" + "".join(rows), label_by="male, smiling")
    assert list(said.values()) == ["male+smiling", "female+smiling", "male", "female"]


def test_one_column_of_yes_and_no_is_an_attribute_unless_it_is_called_a_label(photos: Path):
    table = "image_id,{}\na.png,{}\nb.png,0\nsub/c.png,0\nsub/d.png,{}\n"
    assert set(_labels(photos, table.format("Smiling", 1, 1), label_by="Smiling").values()) == {
        "smiling",
        "not_smiling",
    }
    assert set(_labels(photos, table.format("Label", 1, 1), label_by="label").values()) == {"0", "1"}
    assert set(_labels(photos, table.format("Smiling", 2, 1), label_by="Smiling").values()) == {"0", "1", "2"}
    assert set(_labels(photos, table.format("label", 1, 1)).values()) == {"0", "1"}


@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "labels.json"])
def test_a_table_called_labels_inside_a_flat_folder_is_read(name: str, tmp_path: Path):
    (tmp_path / "flat").mkdir()
    said = {f"{index}.png": "ab"[index % 2] for index in range(4)}
    for image in said:
        Image.new("RGB", (6, 5)).save(tmp_path / "flat" / image)
    delimiter = "\t" if name.endswith("tsv") else ","
    table = f"file{delimiter}label\n" + "".join(f"{image}{delimiter}{label}\n" for image, label in said.items())
    (tmp_path / "flat" / name).write_text(json.dumps(said) if name.endswith("json") else table, encoding="utf-8")
    assert _labels(tmp_path / "flat") == said


def test_a_table_that_is_not_read_is_mentioned_and_one_that_does_not_fit_can_be_left_out(tmp_path: Path):
    for image in ("cat/1.png", "dog/2.png"):
        (tmp_path / "photos" / image).parent.mkdir(parents=True)
        Image.new("RGB", (6, 5)).save(tmp_path / "photos" / image)
    (tmp_path / "photos" / "labels.csv").write_text("number,class\n0,cat\n1,dog\n", encoding="utf-8")
    config = DataConfig(name="folder", path=str(tmp_path / "photos"), image_size=(4, 4), channels=3, validation=0)
    images = dataset(config, "train")
    assert isinstance(images, ImageDataset) and images.layout is not None
    assert images.labels == ("cat", "dog") and "not read: labels.csv" in images.layout.notes[0]
    flat = tmp_path / "photos" / "cat"
    (flat / "labels.csv").write_text("number,class\n0,cat\n1,dog\n", encoding="utf-8")
    with pytest.raises(DataError, match="there is no image 'number'") as caught:
        _labels(flat)
    assert "--label-from none" in str(caught.value.hint) and set(_labels(flat, label_from="none")) == {"1.png"}


def test_a_named_column_is_looked_for_in_the_only_table_whatever_it_is_called(photos: Path):
    (photos / "about.csv").write_text(PLAIN.replace("label", "kind"), encoding="utf-8")
    assert _labels(photos, label_by="kind") == SAID
    (photos / "other.csv").write_text(PLAIN, encoding="utf-8")
    with pytest.raises(UsageError, match=r"there is no table in .* that could have the column 'kind'") as caught:
        _labels(photos, label_by="kind")
    assert "--label-file (about.csv, other.csv)" in str(caught.value.hint)


@pytest.mark.parametrize("names", [["images/1.png", "images/2.png"], ["train/1.png", "train/2.png", "test/3.png"]])
def test_a_table_called_labels_beside_the_folder_of_images_is_read(names: list[str], tmp_path: Path):
    for name in names:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 5)).save(tmp_path / "data" / name)
    (tmp_path / "data" / "labels.csv").write_text("id,label\n1,cat\n2,dog\n", encoding="utf-8")
    assert list(_labels(tmp_path / "data").values()) == ["cat", "dog"]
