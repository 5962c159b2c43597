"""Folders and archives as people have them: what is a label, what a split, what neither."""

from __future__ import annotations

import gzip
import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archives import picture, tar_of, zip_of

from ditkit.config import DataConfig
from ditkit.data.folder import dataset
from ditkit.data.image_dataset import ImageDataset
from ditkit.data.labels.listing import notes_of
from ditkit.data.sources.splits import kind_of
from ditkit.errors import DataError, DitkitError, UsageError

CONFIG = DataConfig(name="folder", image_size=(4, 4), channels=3, validation=50)
Files = dict[str, bytes | str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _made(files: Files, place: str = "folder") -> str:
    """A folder, a .zip, a .tar or a folder of archives with such files; returns its path."""
    contents = {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}
    if place.endswith((".zip", ".tar")):
        Path(place).parent.mkdir(exist_ok=True)
        Path(place).write_bytes(zip_of(contents) if place.endswith(".zip") else tar_of(dict(contents)))
        return place
    for name, content in contents.items():
        (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(place) / name).write_bytes(content)
    return place


def _images(*names: str) -> Files:
    """Small images, each of its own shade."""
    return {name: picture(shade % 256, side=4) for shade, name in enumerate(names)}


def _open(place: str, split: str = "train", **settings) -> ImageDataset:
    return dataset(replace(CONFIG, path=place, **settings), split)  # type: ignore[arg-type,return-value]


def _said(images: ImageDataset) -> dict[str, str]:
    """The label of each image by its name; empty without labels."""
    labels = images.labels or ("",)
    return {name: labels[label] for name, label in zip(images.names, images.label_ids, strict=True)}


def _both(place: str, **settings) -> tuple[dict[str, str], dict[str, str]]:
    return _said(_open(place, **settings)), _said(_open(place, "validation", **settings))


# --- splits by the names of folders and archives

PETS = ("cat/1.png", "cat/2.png", "dog/3.png")
SPLITS = {
    "three": ("train", "val", "test"),
    "other words": ("training", "validation", "testing"),
    "more words": ("Train", "VALID", "Test"),
    "with what else they are": ("training_set", "validation_set", "test_set"),
    "years": ("train2017", "val2017", "test2017"),
    "a common prefix": ("seg_train", "seg_dev", "seg_test"),
    "camel case": ("trainImages", "valImages", "testImages"),
}


@pytest.mark.parametrize("place", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("kind", SPLITS)
def test_folders_of_splits_are_no_labels_and_their_classes_are(kind: str, place: str):
    train, val, test = SPLITS[kind]
    names = [f"{split}/{name}" for split in (train, val, test) for name in PETS]
    labels = {name: name.split("/")[1] for name in names}
    learnt, held = _both(_made(_images(*names), place))
    assert learnt == {name: label for name, label in labels.items() if name.startswith(f"{train}/")}
    assert held == {name: label for name, label in labels.items() if name.startswith(f"{val}/")}
    notes = "\n".join(notes_of(_open(place)))
    assert f"{train}/ to train on (3 images), {val}/ for validation (3)" in notes and f"not used: {test}/" in notes


def test_without_classes_inside_splits_are_no_labels():
    place = _made(_images("train/1.png", "train/2.png", "test/3.png"))
    assert _both(place) == ({"train/1.png": "", "train/2.png": ""}, {}) and _open(place).labels == ()


def test_without_a_folder_for_validation_images_are_held_out_of_training():
    place = _made(_images(*(f"train/{'ab'[index % 2]}/{index}.png" for index in range(40)), "test/a/1.png"))
    learnt, held = _both(place)
    assert len(learnt) == 36 and len(held) == 4 and all(name.startswith("train/") for name in {**learnt, **held})


def test_validation_is_spread_over_its_classes_and_of_the_wanted_size():
    place = _made(_images("train/a/1.png", "train/b/1.png", *(f"val/{'ab'[i // 10]}/{i:02d}.png" for i in range(20))))
    assert sorted(_said(_open(place, "validation", validation=4)).values()) == ["a", "a", "b", "b"]
    assert len(_open(place, "validation", validation=0)) == 0 and len(_open(place, validation=0)) == 2


def test_splits_within_each_class_are_splits():
    place = _made(_images("cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/val/4.png"))
    assert _both(place) == ({"cat/train/1.png": "cat", "dog/train/3.png": "dog"}, {"dog/val/4.png": "dog"})


def test_archives_called_after_splits_are_splits():
    for split in ("train", "val", "test"):
        _made(_images(f"{split}/cat/1.png", f"{split}/dog/2.png"), f"shards/{split}-00.tar")
    learnt, held = _both("shards")
    assert learnt == {"train-00.tar/train/cat/1.png": "cat", "train-00.tar/train/dog/2.png": "dog"}
    assert list(held) == ["val-00.tar/val/cat/1.png", "val-00.tar/val/dog/2.png"]


def test_validation_images_without_labels_or_with_others_are_not_used_and_that_is_said():
    place = _made(_images("train/a/1.png", "train/b/2.png", "val/3.png", "val/4.png"))
    assert len(_open(place)) == 2 and "not used: val/ (2 images), because" in " ".join(notes_of(_open(place)))
    place = _made(_images("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/c/4.png"), "other")
    assert _both(place)[1] == {"val/a/3.png": "a"}
    assert "1 image for validation, with labels that no training image has" in " ".join(notes_of(_open(place)))


def test_each_split_may_have_its_own_table():
    table = "file_name,label\n1.png,cat\n2.png,dog\n"
    files = {**_images("train/1.png", "train/2.png", "test/9.png"), "train/metadata.csv": table}
    assert list(_both(_made(files))[0].values()) == ["cat", "dog"]


@pytest.mark.parametrize("names", [("train/1.png", "bus/2.png", "car/3.png"), ("test/1.png", "control/2.png")])
def test_classes_that_are_called_like_a_split_are_classes(names: tuple[str, ...]):
    assert set(_open(_made(_images(*names))).labels) == {name.partition("/")[0] for name in names}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/a/1.png", "test/a/1.png", "extra/a/2.png"), r"folders of splits \(test, train\).*others: extra"),
        (("train/a.png", "test/b.png", "extra_train/c.png"), "others: extra_train"),
        (("a/train/1.png", "a/test/2.png", "a/masks/3.png", "b/train/1.png"), "others: masks"),
        (
            ("train_cat/1.png", "test_cat/2.png", "train_dog/3.png", "test_dog/4.png"),
            "test_cat, test_dog, train_cat, train_dog of .* name a split and a label each",
        ),
        (("val/a/1.png", "test/a/2.png"), "none of the folders .* is for training"),
        (("train/a/1.png", "val/a/1.png", "2.png"), "class folders, but also images beside them"),
    ],
)
def test_what_may_be_splits_or_classes_is_asked_for(names: tuple[str, ...], message: str):
    place = _made(_images(*names))
    with pytest.raises(DataError, match=message) as caught:
        _open(place)
    assert "--label-from" in str(caught.value.hint)
    if "2.png" not in names:
        assert set(_open(place, label_from="folders").labels) == {name.partition("/")[0] for name in names}
    assert _open(place, label_from="none").labels == () if "2.png" in names else True


def test_folders_of_a_split_and_a_label_each_say_where_they_go():
    place = _made(_images("train_cat/1.png", "test_cat/2.png", "train_dog/3.png"))
    with pytest.raises(DataError) as caught:
        _open(place)
    assert "make folders of labels in folders of splits: test/cat instead of test_cat" in str(caught.value.hint)


def test_masks_beside_the_photos_are_mentioned_and_names_alike_are_not():
    place = _made(_images("0.png", "0_mask.png", "1.png", "1_Mask.png", "birdmask.png", "2_seg.png"))
    notes = " ".join(notes_of(_open(place)))
    assert "2 images called like another with more behind, as 0_mask.png: masks would be learnt as images" in notes
    place = _made(_images("a/0.png", "b/0_mask.png", "b/mask.png"), "other")
    assert "masks" not in " ".join(notes_of(_open(place)))


def test_a_word_names_a_split_only_with_words_that_say_nothing():
    assert kind_of("train") == ("train", "") == kind_of("train_images") == kind_of("trainset") == kind_of("TRAIN-01")
    assert kind_of("seg_test") == ("test", "seg") and kind_of("val") == ("validation", "")
    assert kind_of("brain") is None and kind_of("train_val") is None and kind_of("contest") is None


# --- folders around everything, folders that number, folders of the system


@pytest.mark.parametrize("place", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("around", ["archive/", "a/b/", "a/b/c/"])
def test_folders_around_everything_are_no_labels(around: str, place: str):
    inside, loose = _made(_images(*(around + name for name in PETS)), place), _made(_images(*PETS), "plain")
    assert _both(inside) == _both(loose) and _open(inside).fingerprint == _open(loose).fingerprint
    assert _open(inside).labels == ("cat", "dog")


def test_folders_without_images_beside_the_one_around_do_not_matter():
    files = {**_images("images/cat/1.png", "images/dog/2.png"), "labels/cat/1.txt": "0 0.5 0.5", "readme.txt": "x"}
    assert _open(_made(files)).labels == ("cat", "dog")


@pytest.mark.parametrize(("around", "inside"), [("", "archive/"), ("seg_train/", "seg_train/")])
def test_folders_around_the_folders_within_a_split_are_looked_through(around: str, inside: str):
    names = [f"{around or 'train/'}{inside}{name}" for name in PETS]
    test = [name.replace("train", "test") for name in names]
    assert _open(_made(_images(*names, *test))).labels == ("cat", "dog")


def test_a_table_is_found_in_the_folder_around_or_inside_it():
    table = "file_name,label\n1.png,cat\n2.png,dog\n"
    images = _images("w/1.png", "w/2.png")
    for name in ("w/metadata.csv", "metadata.csv"):
        assert list(_said(_open(_made({**images, name: table}, name.replace("/", "-")))).values()) == ["cat", "dog"]


NUMBERED = {
    "in thousands": ("00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png"),
    "by the first": ("00000/00000.png", "01000/01000.png", "01000/01999.png"),
}


@pytest.mark.parametrize("kind", NUMBERED)
def test_folders_that_number_the_images_are_no_labels(kind: str):
    place = _made(_images(*NUMBERED[kind]))
    assert _open(place).labels == () and "--label-from folders" in _open(place).layout.labels_from  # type: ignore[union-attr]
    assert len(_open(place, label_from="folders").labels) == 2


def test_numbers_of_classes_are_labels():
    assert _open(_made(_images("00000/00000_00001.png", "00001/00000_00002.png"))).labels == ("00000", "00001")


@pytest.mark.parametrize("place", ["folder", "a.zip"])
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["00000/img00000000.png", 6], ["00000/img00000001.png", 10], ["00001/img00000002.png", 6]], ["6", "10", "6"]),
        ({"00000/img00000000.png": 6, "00000/img00000001.png": 1, "00001/img00000002.png": 6}, ["6", "1", "6"]),
        ([[f"0000{i // 2}/img0000000{i}.png", [int(i == 1), int(i != 1)]] for i in range(3)], ["1", "0", "1"]),
        (None, ["", "", ""]),
    ],
)
def test_dataset_json_gives_the_labels_and_its_folders_do_not(labels: object, expected: list[str], place: str):
    files = _images("00000/img00000000.png", "00000/img00000001.png", "00001/img00000002.png")
    made = _made({**files, "dataset.json": json.dumps({"labels": labels})}, place)
    assert list(_said(_open(made)).values()) == expected


def test_a_dataset_json_of_vectors_is_refused():
    files = {**_images("a.png", "b.png"), "dataset.json": '{"labels": [["a.png", [0.5, 0.5]], ["b.png", [1, 0]]]}'}
    with pytest.raises(DataError, match="entry 1: the label is a vector, but not one of zeros and a single 1"):
        _open(_made(files))


LEFT_BEHIND = ["@eaDir", ".ipynb_checkpoints", "__MACOSX", ".thumbnails", "lost+found", "$RECYCLE.BIN", "#recycle"]
LEFT_BEHIND += [".Trash-1000", ".git", "@Recycle", "System Volume Information", "#snapshot"]


@pytest.mark.parametrize("place", ["folder", "a.tar"])
def test_folders_of_the_system_are_not_looked_at(place: str):
    inside = [f"cat/{name}/9.png" for name in LEFT_BEHIND]
    made = _made(_images(*PETS, *(f"{name}/8.png" for name in LEFT_BEHIND), *inside), place)
    assert sorted(_open(made).names) == sorted(PETS) and _open(made).labels == ("cat", "dog")


@pytest.mark.usefixtures("links")
def test_linked_folders_are_followed_once_and_circles_are_harmless(tmp_path: Path):
    _made(_images("cat/1.png", "dog/deep/2.png"), "root")
    _made(_images("far/3.png"), "elsewhere")
    for name in ("cat/more", "cat/again"):
        Path("root", name).symlink_to(tmp_path / "elsewhere")
    Path("elsewhere/back").symlink_to(tmp_path / "root")
    Path("root/dog/self").symlink_to(tmp_path / "root" / "dog")
    assert _open("root").names == ["cat/1.png", "cat/again/far/3.png", "dog/deep/2.png"]


@pytest.mark.parametrize("place", ["folder", "a.zip"])
def test_one_folder_is_no_label_unless_that_is_asked_for(place: str):
    made = _made(_images("x/photos/1.png", "x/photos/2.png"), place)
    assert _open(made).labels == () and _open(made).names == ["1.png", "2.png"]
    assert _open(_made(_images("cat/1.png"), "one"), label_from="folders").labels == ("cat",)
    with pytest.raises(DataError, match="has no folders of images"):
        _open(_made(_images("1.png"), "flat"), label_from="folders")


def test_one_class_for_validation_is_one_of_those_that_are_learnt():
    made = _made(_images("train/cat/1.png", "train/dog/2.png", "val/dog/3.png", "train/dog/4.png"))
    assert _both(made)[1] == {"val/dog/3.png": "dog"}
    made = _made(_images("train/1.png", "val/cat/2.png", "val/dog/3.png"), "unlabelled")
    assert _open(made).labels == () and _both(made)[1] == {"val/cat/2.png": "", "val/dog/3.png": ""}


# --- files beside the images


@pytest.mark.parametrize("place", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("suffix", [".txt", ".cls", ".json"])
@pytest.mark.parametrize("names", ["2024.05.{:02d}", "IMG_{}.crop", "img.v1.{:05d}", "a.b/{}", "{}.tar"])
def test_dots_in_names_do_not_cut_them(names: str, suffix: str, place: str):
    stems = [names.format(index) for index in range(4)] + [f"x.{index}" for index in range(4)]
    content = {stem: "ab"[index % 2] for index, stem in enumerate(stems)}
    beside = {f"{s}{suffix}": json.dumps({"label": c}) if suffix == ".json" else c for s, c in content.items()}
    made = _made({**_images(*(f"{stem}.png" for stem in stems)), **beside}, place)
    assert _said(_open(made)) == {f"{stem}.png": label for stem, label in content.items()}


def test_a_file_with_the_whole_name_and_one_without_its_ending_both_belong_to_an_image():
    files: Files = {**_images("1.x.png", "2.png"), "1.x.png.txt": "a", "2.txt": "b"}
    assert _said(_open(_made(files))) == {"1.x.png": "a", "2.png": "b"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"00000.input.png": "", "00000.output.cls": "1", "00001.input.png": "", "00001.output.cls": "2"}, ["1", "2"]),
        ({"7.left.png": "", "7.right.png": "", "7.cls": "1", "8.left.png": "", "8.cls": "2"}, ["1", "1", "2"]),
        ({"7.jpg.png": "", "7.png": "", "7.cls": "1"}, ["1", "1"]),
    ],
)
@pytest.mark.parametrize("place", ["folder", "a.tar"])
def test_without_an_own_file_the_first_dot_ends_the_key_as_in_webdataset(files: Files, expected: list[str], place: str):
    made = {name: content or picture(index) for index, (name, content) in enumerate(files.items())}
    assert list(_said(_open(_made(made, place))).values()) == expected


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({"a.png.txt": "x", "a.txt": "y", "b.txt": "x", "c.txt": "x"}, "a.png.txt and a.txt"),
        ({"a.txt": "x", "a.TXT": "y", "b.txt": "x", "c.txt": "x"}, "a.TXT and a.txt"),
    ],
)
def test_two_files_for_one_image_are_an_error_that_names_both(files: Files, names: str):
    made = _made({**_images("a.png", "b.png", "c.png"), **files})
    if len(list(Path(made).iterdir())) < 7:
        pytest.skip("this system ignores the case of names")
    with pytest.raises(DataError, match=f"may hold the label of .*a.png: {names}"):
        _open(made)


def test_several_files_with_the_same_first_part_are_no_guess():
    files = {f"img.v1.{index}.txt": "a" for index in range(3)}
    with pytest.raises(DataError, match=r"two files may hold the label of .*img\.x\.0\.png"):
        _open(_made({**_images("img.x.0.png", "img.x.1.png", "img.x.2.png"), **files}))


def test_a_missing_file_is_not_replaced_by_that_of_another_image():
    files: Files = {f"2024.05.0{index}.txt": "a" for index in range(3)}
    images = _images(*(f"2024.05.0{index}.png" for index in range(4)))
    with pytest.raises(DataError, match=r"1 of 4 images have no \.txt file beside them, .*2024\.05\.03\.png"):
        _open(_made({**images, **files}))


# --- what a label is

DECOMPOSED = unicodedata.normalize("NFD", "Käse 고양이")
COMPOSED = unicodedata.normalize("NFC", DECOMPOSED)


def test_labels_are_composed_wherever_they_come_from():
    table = f"file_name,label\n1.png,{DECOMPOSED}\n2.png,{COMPOSED}\n"
    assert _open(_made(_images(f"{DECOMPOSED}/1.png", "b/2.png"))).labels == (COMPOSED, "b")
    assert _open(_made({**_images("1.png", "2.png"), "metadata.csv": table}, "table")).labels == (COMPOSED,)
    files: Files = {"1.txt": DECOMPOSED, "2.txt": COMPOSED, "3.txt": "x"}
    assert _open(_made({**_images("1.png", "2.png", "3.png"), **files}, "beside")).labels == (COMPOSED, "x")
    assert _open(_made(_images(f"{DECOMPOSED}_1.png", "b_2.png"), "named"), label_from="(.*)_.*").labels == (
        COMPOSED,
        "b",
    )


def test_two_spellings_of_a_class_folder_are_one_class():
    made = _made(_images(f"{DECOMPOSED}/1.png", f"{COMPOSED}/2.png", "b/3.png"))
    if len(list(Path(made).iterdir())) < 3:
        pytest.skip("this system composes names itself")
    assert _open(made).labels == (COMPOSED, "b") and sorted(_open(made).label_ids.tolist()) == [0, 0, 1]


@pytest.mark.parametrize("labels", ["²③", "①②", "٣٤", "1²", "½¼"])
def test_digits_that_are_no_numbers_are_plain_labels(labels: str):
    files = {f"{index}.txt": labels[index % 2] for index in range(4)}
    assert set(_open(_made({**_images("0.png", "1.png", "2.png", "3.png"), **files})).labels) == set(labels)
    table = "file_name,label\n" + "".join(f"{index}.png,{labels[index % 2]}\n" for index in range(4))
    made = _made({**_images("0.png", "1.png", "2.png", "3.png"), "metadata.csv": table}, "table")
    assert set(_open(made).labels) == set(labels)


@pytest.mark.parametrize("letter", ["\n", "\x07", "\u2028", "\x85"])
def test_labels_with_control_characters_are_refused_with_their_place(letter: str):
    files: Files = {f"{index}.cls": f"a{letter}b" for index in range(2)}
    with pytest.raises(DataError, match=r"0\.cls: the label .* has a line break or a control character"):
        _open(_made({**_images("0.png", "1.png"), **files}))
    rows = [{"file_name": f"{index}.png", "label": f"a{letter}b"} for index in range(2)]
    table = "".join(json.dumps(row) + "\n" for row in rows)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 1: the label .* has a line break or a control"):
        _open(_made({**_images("0.png", "1.png"), "metadata.jsonl": table}, "table"))
    try:
        made = _made(_images(f"a{letter}b/1.png", "b/2.png"), "folders")
    except OSError:
        return
    with pytest.raises(DataError, match=r"the name of the class folder .* is no label"):
        _open(made)


# --- a label in the name


@pytest.mark.parametrize(
    ("expression", "names", "labels"),
    [
        (r"(.*)_\d+", ("cat_01.png", "cat_02.png", "big_dog_3.png"), ["big_dog", "cat", "cat"]),
        (r"([a-z]+)\.\d+", ("cat.0.png", "dog.0.png", "x/dog.1.png"), ["cat", "dog", "dog"]),
        (r"(?:[^/]+/)?([^/]+)/.*", ("a/cat/1.png", "b/cat/2.png", "a/dog/1.png"), ["cat", "dog", "cat"]),
        (r"(..).*", ("Käse.png", "Käfer.png", "3.14.png"), ["3.", "Kä", "Kä"]),
    ],
)
@pytest.mark.parametrize("place", ["folder", "a.zip"])
def test_a_label_is_taken_from_the_name(expression: str, names: tuple[str, ...], labels: list[str], place: str):
    images = _open(_made(_images(*names), place), label_from=expression)
    assert list(_said(images).values()) == labels
    assert images.fingerprint != _open(place, label_from="none").fingerprint


def test_a_label_in_the_name_goes_with_splits():
    place = _made(_images("train/cat_1.png", "train/dog_1.png", "val/cat_2.png", "test/unnamed.png"))
    assert [list(said.values()) for said in _both(place, label_from=r"(.*)_\d+")] == [["cat", "dog"], ["cat"]]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"label_from": r"(.*)_\d+"}, DataError, r"does not match 2 of 3 names: a\.png, b-1\.png"),
        ({"label_from": r"(.*"}, UsageError, "is no regular expression"),
        ({"label_from": r".*_\d+"}, UsageError, "has no group in parentheses"),
        ({"label_from": "(.*)", "label_by": "x"}, UsageError, "--label-from and --label-by both say"),
        ({"label_from": "none", "label_file": "x.csv"}, UsageError, "--label-from and --label-file both say"),
    ],
)
def test_an_expression_that_does_not_fit_is_refused(settings: dict, error: type[DitkitError], message: str):
    with pytest.raises(error, match=message) as caught:
        _open(_made(_images("a.png", "b-1.png", "c_1.png")), **settings)
    assert caught.value.hint


# --- runs of an earlier ditkit


def test_the_first_reading_takes_the_top_folders_as_labels_as_it_did():
    place = _made(_images("train/cat/1.png", "test/cat/2.png", "val/dog/3.png"))
    assert _open(place, reading=1).labels == ("test", "train", "val") == _open(place, label_from="folders").labels
    assert _open(_made(_images("a/cat/1.png", "a/dog/2.png"), "around"), reading=1).labels == ("a",)
    assert np.array_equal(_open(place, reading=1).label_ids, _open(place, label_from="folders").label_ids)


# --- IDX files


def _idx(array: np.ndarray) -> bytes:
    return np.array([0x0800 + array.ndim, *array.shape], dtype=">u4").tobytes() + array.astype(np.uint8).tobytes()


def _pair(images: str, labels: str, numbers: list[int], packed: bool = False) -> Files:
    pixels = np.arange(len(numbers))[:, None, None] * 10 + np.arange(12).reshape(1, 4, 3)
    files = {images: _idx(pixels), labels: _idx(np.array(numbers))}
    return {f"{name}.gz": gzip.compress(content) for name, content in files.items()} if packed else {**files}


USUAL = ("{0}-images-idx3-ubyte", "{0}-labels-idx1-ubyte")
IDX = {
    "MNIST": (USUAL, ("train", "t10k")),
    "in folders": ((f"raw/{USUAL[0]}", f"raw/{USUAL[1]}"), ("train", "t10k")),
    "from Kaggle": (("{0}-images.idx3-ubyte", "{0}-labels.idx1-ubyte"), ("train", "t10k")),
    "each in a folder": ((f"{USUAL[0]}/{USUAL[0]}", f"{USUAL[1]}/{USUAL[1]}"), ("train", "t10k")),
    "another prefix": (("k49-{}-images-idx3-ubyte", "k49-{}-labels-idx1-ubyte"), ("train", "test")),
    "other splits": (USUAL, ("train", "val")),
    "capitals": (("{}_Images_idx3_ubyte", "{}_Labels_idx1_ubyte"), ("Train", "Test")),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", ["folder", "a.zip", "a.tar"])
@pytest.mark.parametrize("kind", IDX)
def test_idx_files_are_a_data_set_of_their_own(
    kind: str, place: str, packed: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))
    (images, labels), (train, held) = IDX[kind]
    files = _pair(images.format(train), labels.format(train), [3, 7, 3, 5], packed)
    files |= _pair(images.format(held), labels.format(held), [7, 7, 9], packed)
    place = _made(files, place)
    learnt, validation = _open(place, image_size=(4, 3), channels=1), _open(place, "validation", image_size=(4, 3))
    assert learnt.labels == ("3", "5", "7") == validation.labels
    assert [int(learnt[index][1]) for index in range(len(learnt))] == [0, 2, 0, 1]
    assert [int(image[0, 0, 0]) for image, _ in (learnt[index] for index in range(4))] == [0, 10, 20, 30]
    assert [int(validation[index][1]) for index in range(len(validation))] == [2, 2]  # nothing is known of a 9
    assert learnt.fingerprint == _open(place).fingerprint != validation.fingerprint
    assert _open(place, label_from="none").labels == ()


def test_emnist_is_turned_upright_and_its_numbers_are_letters():
    files = _pair("emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte", [1, 2, 1])
    mapping = {"emnist-letters-mapping.txt": "1 65 97\n2 66 98\n3 67 99\n"}
    letters = _open(_made({**files, **mapping}), image_size=(3, 4))
    assert letters.labels == ("A", "B") and len(_open("folder", "validation")) == 0
    assert letters[0][0][:, :, 0].tolist() == np.arange(12).reshape(4, 3).T.tolist()
    assert any("upright" in note for note in notes_of(letters))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {f"emnist-{name}-train-images-idx3-ubyte": b"" for name in ("digits", "mnist")},
            "several sets .*emnist-digits",
        ),
        ({"train-images-idx3-ubyte": _idx(np.zeros((1, 2, 2)))}, "the labels of train-images-idx3-ubyte are missing"),
        (_pair("train-images-idx3-ubyte", "train-labels-idx1-ubyte", [1]) | {"train-images-idx3-ubyte": b"x"}, "IDX"),
        ({"t10k-images-idx3-ubyte": b"x"}, "holds no IDX files for training"),
        (
            {"train-images-idx3-ubyte": _idx(np.zeros((2, 2, 2))), "train-labels-idx1-ubyte": _idx(np.zeros(3))},
            "has 2 images, but there are 3 labels",
        ),
    ],
)
def test_idx_files_that_are_wrong_or_several_say_so(files: Files, message: str):
    with pytest.raises(DataError, match=message) as caught:
        _open(_made(files))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("files", "note"),
    [
        ({f"{index}.txt": f"a long tale of number {index}\nand more" for index in range(4)}, "they look like captions"),
        ({f"{index}.json": '{"width": 3}' for index in range(4)}, "none has a field of labels"),
        ({"0.cls": "a"}, None),
        ({f"{index}.cls": "a" for index in range(2)}, "not read: 2 .cls files, as most images have none"),
    ],
)
def test_files_beside_the_images_that_give_no_labels_are_mentioned(files: Files, note: str | None):
    images = _open(_made({**_images(*(f"{index}.png" for index in range(4 if len(files) > 2 else 5))), **files}))
    assert images.labels == () and (note or "") in " ".join(notes_of(images)) and bool(notes_of(images)) == bool(note)


def test_masks_beside_their_images_are_labels_with_a_line_about_it():
    images = _open(_made(_images("images/0.png", "images/1.png", "Masks/0.png", "Masks/1.png")))
    assert images.labels == ("Masks", "images") and "to learn images alone" in " ".join(notes_of(images))
    assert not notes_of(_open(_made(_images("masks/0.png", "faces/0.png"), "costumes")))


def test_many_archives_of_a_split_are_said_in_few_words():
    for number in range(9):
        _made(_images(f"a/{number}.png", f"b/{number}x.png"), f"shards/train-{number:02d}.tar")
    images = _open("shards", validation=0)
    assert images.labels == ("a", "b") and len(images) == 18 and len(" ".join(notes_of(images))) < 150


def test_validation_images_in_a_folder_that_is_no_class_are_not_used_and_some_are_held_out():
    names = [f"train/n{index % 2}/images/{index}.png" for index in range(40)]
    place = _made(_images(*names, "val/images/x.png", "test/images/y.png"))
    learnt, held = _both(place)
    assert len(learnt) == 36 and len(held) == 4 and set({**learnt, **held}.values()) == {"n0", "n1"}
    assert "1 image for validation, with labels that no training image has" in " ".join(notes_of(_open(place)))


@pytest.mark.parametrize(("inner", "said"), [(("cat", "dog"), True), (("000", "001"), False), (("cat",), False)])
def test_folders_inside_a_class_folder_are_said_to_belong_to_it(inner, said, tmp_path):
    for top in ("animals", "things"):
        for folder in inner:
            for index in range(3):
                path = tmp_path / top / folder / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(picture(index))
    opened = dataset(DataConfig(name="folder", path=str(tmp_path), image_size=(8, 8)), "train")
    assert opened.labels == ("animals", "things")
    assert ("folders inside a class folder belong to it: animals has cat, dog" in notes_of(opened)) == said
