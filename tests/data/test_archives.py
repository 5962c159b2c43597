"""Images in archives, read where they are: the same as unpacked, and small in memory."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import picture, tar_of, zip_of

from ditkit.config import DataConfig
from ditkit.data import folder, workers
from ditkit.data.batches import Batches
from ditkit.data.folder import dataset
from ditkit.data.image_dataset import ImageDataset
from ditkit.data.sources import archive as sources_archive
from ditkit.data.sources.compact_names import NameTable
from ditkit.errors import DataError, DitkitError, UsageError

CONFIG = DataConfig(name="folder", image_size=(8, 8), channels=3, validation=4)


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be unpacked: there is no cache to unpack to."""
    (tmp_path / "no").write_text("", encoding="utf-8")
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "no" / "cache"))


CLASSES = {
    f"{label}/{index:02d}.png": picture(10 * index + (label == "dog"))
    for label in ("cat", "dog")
    for index in range(20)
}
FLAT = {name.replace("/", "-"): content for name, content in CLASSES.items()}


def _packed(place: str, files: Mapping[str, bytes | str], deflated: bool = False) -> str:
    """A .zip or .tar with such files."""
    contents = {name: content.encode() if isinstance(content, str) else content for name, content in files.items()}
    Path(place).parent.mkdir(exist_ok=True)
    kind = zipfile.ZIP_DEFLATED if deflated else zipfile.ZIP_STORED
    Path(place).write_bytes(zip_of(contents, compression=kind) if place.endswith(".zip") else tar_of(contents))
    return place


def _unpacked(place: str, files: Mapping[str, bytes]) -> str:
    for name, content in files.items():
        (Path(place) / name).parent.mkdir(parents=True, exist_ok=True)
        (Path(place) / name).write_bytes(content)
    return place


def _open(place: str, split: str = "train", **settings) -> ImageDataset:
    return dataset(replace(CONFIG, path=place, **settings), split)  # type: ignore[arg-type]


def _said(images: ImageDataset) -> dict[str, str]:
    return {name: images.labels[label] for name, label in zip(images.names, images.label_ids, strict=True)}


@pytest.mark.parametrize("prefix", ["", "photos/"])
@pytest.mark.parametrize("files", [CLASSES, FLAT], ids=["classes", "flat"])
@pytest.mark.parametrize(("place", "deflated"), [("a.zip", True), ("a.zip", False), ("a.tar", False)])
def test_an_archive_is_the_folder_that_it_unpacks_to(place: str, deflated: bool, files: dict[str, bytes], prefix: str):
    turned = {f"{prefix}{name}": content for name, content in reversed(files.items())}
    _packed(place, turned, deflated)
    for split in ("train", "validation"):
        packed, loose = _open(place, split), _open(_unpacked("loose", files), split)
        assert packed.labels == loose.labels and packed.names == loose.names
        assert packed.fingerprint == loose.fingerprint
        for (image, label), (other, same) in zip(packed, loose, strict=True):
            assert np.array_equal(image, other) and label == same
    assert len(packed) == 4 and packed.place(0) == f"{packed.names[0]} in {Path(place).resolve()}"


def _webdataset(suffix: str, label) -> dict[str, bytes | str]:
    return {
        name: content
        for index, picture in enumerate(CLASSES.values())
        for name, content in {f"{index:05d}.png": picture, f"{index:05d}.{suffix}": label(index % 12)}.items()
    }


WEBDATASETS = {
    "cls, numbers": (_webdataset("cls", str), {}, [str(index) for index in range(12)]),
    "cls, padded": (_webdataset("cls", lambda label: f"{label:03d}\n"), {}, [str(index) for index in range(12)]),
    "cls, words": (_webdataset("cls", lambda label: "ab"[label % 2]), {}, ["a", "b"]),
    "txt, words": (_webdataset("txt", lambda label: "ab"[label % 2]), {}, ["a", "b"]),
    "txt, captions": (
        _webdataset("txt", lambda label: f"{label}" + "a long tale of a picture " * 20),
        {},
        [],
    ),
    "json": (
        _webdataset("json", lambda label: json.dumps({"cls": label, "width": 3})),
        {},
        [str(i) for i in range(12)],
    ),
    "json, any field": (
        _webdataset("json", lambda label: json.dumps({"label": "x", "kind": "ab"[label % 2], "n": label % 3})),
        {"label_by": "kind,n"},
        ["a+0", "a+1", "a+2", "b+0", "b+1", "b+2"],
    ),
    "json, no field": (_webdataset("json", lambda label: json.dumps({"width": label})), {}, []),
}


@pytest.mark.parametrize("kind", WEBDATASETS)
@pytest.mark.parametrize("place", ["a.tar", "a.zip", "loose"])
def test_labels_beside_the_images_are_read(kind: str, place: str):
    files, settings, labels = WEBDATASETS[kind]
    if place == "loose":
        _unpacked(place, {name: one.encode() if isinstance(one, str) else one for name, one in files.items()})
    else:
        _packed(place, files)
    images = _open(place, validation=0, **settings)
    assert list(images.labels) == labels and len(images) == 40
    assert all(name.endswith(".png") for name in images.names)
    if len(labels) == 12:
        assert images.label_ids.tolist() == [index % 12 for index in range(40)]
    assert [int(image[0, 0, 0]) for image, _ in images] == [10 * index for index in range(20)] + [
        10 * index + 1 for index in range(20)
    ]


def test_keys_end_at_the_first_dot_and_belong_to_their_shard():
    for shard, label in enumerate("ab"):
        files = {"x.1/0.seg.png": picture(1), "x.1/0.cls": label, "x.1/1.png": picture(2), "x.1/1.cls": "c"}
        _packed(f"shards/{shard}.tar", files)
    images = _open("shards", validation=0)
    assert _said(images) == {"0.tar/0.seg.png": "a", "0.tar/1.png": "c", "1.tar/0.seg.png": "b", "1.tar/1.png": "c"}


def test_a_folder_of_shards_is_one_set_in_the_order_of_their_names():
    parts = [dict(itertools.islice(CLASSES.items(), start, None, 3)) for start in range(3)]
    for index, part in enumerate(parts):
        _packed(f"shards/{2 - index}.{'zip' if index else 'tar'}", part)
    images = _open("shards", validation=0)
    assert images.labels == ("cat", "dog") and len(images) == 40
    assert images.names[0].startswith("0.zip/cat/") and images.names[-1].startswith("2.tar/dog/")
    pixels = sorted(int(image[0, 0, 0]) for image, _ in images)
    assert pixels == sorted(int(image[0, 0, 0]) for image, _ in _open(_unpacked("loose", CLASSES), validation=0))


def test_a_folder_with_images_is_not_one_of_shards():
    _unpacked("photos", CLASSES)
    _packed("photos/old.zip", FLAT)
    assert _open("photos", validation=0).labels == ("cat", "dog")


def test_tables_label_the_members():
    table = "file_name,label\n" + "".join(f"{name},{name[:3].upper()}\n" for name in FLAT)
    images = _open(_packed("inside.zip", {**FLAT, "metadata.csv": table}), validation=0)
    assert set(_said(images).items()) == {(name, name[:3].upper()) for name in FLAT}
    Path("labels.csv").write_text(table, encoding="utf-8")
    given = _open(_packed("a.tar", FLAT), validation=0, label_file="labels.csv")
    assert given.labels == ("CAT", "DOG") and given.fingerprint == images.fingerprint
    _packed("shards/1.tar", FLAT)
    Path("shards/metadata.csv").write_text(table, encoding="utf-8")
    assert _open("shards", validation=0).labels == ("CAT", "DOG")
    Path("labels.csv").write_text(table.replace("CAT", "lion"), encoding="utf-8")
    assert _open("a.tar", validation=0, label_file="labels.csv").labels == ("DOG", "lion")


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        (
            {"1.png": picture(1), "2.png": picture(2), "1.cls": "1"},
            {},
            r"1 of 2 images have no \.cls file .* 2\.png in",
        ),
        (_webdataset("cls", lambda label: ""), {}, r"cannot read 00000\.cls in .*: the file is empty"),
        (_webdataset("cls", lambda label: b"\xff\xfe"), {}, r"cannot read 00000\.cls in .*: "),
        (_webdataset("json", lambda label: "{"), {}, r"cannot read 00000\.json in .*: "),
        (_webdataset("json", lambda label: '{"label": [1]}'), {}, "the label is neither text nor a number"),
        (
            _webdataset("json", lambda label: '{"kind": 1}'),
            {"label_by": "kin"},
            r"unknown field of 00000\.json in .*'kin'",
        ),
        (FLAT, {"label_by": "kind"}, "there is no table in .* that could have the column 'kind'"),
        ({"a/1.png": picture(1), "b/notes.md": "x"}, {}, "no images in the class folder b of"),
        ({"a/1.png": picture(1), "2.png": picture(1)}, {}, r"images beside them: 1, the first is 2\.png"),
        ({"a/notes.txt": "x"}, {}, "no images in"),
        ({"metadata.jsonl": '{"file_name": "x.png", "label": 1}', **FLAT}, {}, "line 1: there is no image 'x.png'"),
    ],
)
def test_labels_in_an_archive_that_are_wrong_are_reported(files: dict[str, bytes | str], settings: dict, message: str):
    with pytest.raises(DitkitError, match=message) as caught:
        _open(_packed("a.tar", files), **settings)
    assert isinstance(caught.value, (DataError, UsageError)) and caught.value.hint


def test_every_image_its_own_class_is_an_error_that_says_so():
    files = {f"{index}.png": picture(index) for index in range(40)}
    with pytest.raises(DataError, match="hold 40 different labels: hardly two images share one"):
        _open(_packed("a.tar", {**files, **{f"{index}.cls": str(index) for index in range(40)}}))


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("place", ["a.zip", "a.tar"])
def test_processes_read_the_same_batches_from_an_archive(place: str, start: str):
    images = _open(_packed(place, CLASSES))
    images[0]  # opens the archive here, before the processes begin
    config = replace(CONFIG, workers=2, worker_start=start)
    alone = [Batches(images, 8, seed=1).batch(step).x_BCHW for step in range(4)]
    stream = workers.iterate(Batches(images, 8, seed=1), 0, config)
    taken = [batch.x_BCHW.clone() for batch in itertools.islice(stream, 4)]
    stream.close()
    assert all(torch.equal(one, other) for one, other in zip(alone, taken, strict=True))


def test_archives_stay_open_while_they_are_read_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources_archive, "_MOST_DESCRIPTORS", 2)
    for index in range(4):
        _packed(f"shards/{index}.tar", {f"{index}.png": picture(index)})
    images = _open("shards", validation=0)
    assert [int(images[index][0][0, 0, 0]) for index in (0, 1, 2, 3, 3, 2, 1, 0)] == [0, 1, 2, 3, 3, 2, 1, 0]
    kept = list(images.source._files._open.values())
    assert len(kept) == 2
    again = pickle.loads(pickle.dumps(images))  # noqa: S301
    assert again.source._files._open == {} and again.fingerprint == images.fingerprint
    assert np.array_equal(again[3][0], images[3][0])
    folder._in_archives.cache_clear()
    del images
    for descriptor in kept:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@pytest.mark.parametrize("place", ["a.zip", "a.tar", "loose"])
def test_an_image_costs_few_bytes_to_know(place: str):
    files = {f"class_{index % 3}/photo_{index:07d}.png": b"x" for index in range(2000)}
    images = _open(_unpacked(place, files) if place == "loose" else _packed(place, files))
    assert len(pickle.dumps(images)) < 2000 * (60 if place == "loose" else 90) + 3000


def test_names_are_kept_as_bytes_and_compare_by_them():
    given = [b"b", b"", "é".encode(), b"a" * 300, b"\xff"]
    names = NameTable(given)
    assert [names.raw(row) for row in range(5)] == given and list(names) == [os.fsdecode(one) for one in given]
    assert names.order().tolist() == [1, 3, 0, 2, 4]
    assert [names.take([4, 0]).raw(row) for row in (0, 1)] == [b"\xff", b"b"]
    assert names.equals(NameTable(given)) and not names.equals(NameTable(given[:4]))
