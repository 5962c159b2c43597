"""Anybody's images on the command line: each way to give them trains and draws."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from command_line import refused, said
from PIL import Image

from ditkit.runs.folder import RunFolder

TINY = (
    "--set model.patch=8 --set model.width=32 --set model.depth=1 --set model.heads=2 --set data.validation=4 "
    "--set sample.steps=1 --set train.sample_every=2 --set train.sample_columns=2 --set train.validate_every=2 "
    "--batch-size 8 --device cpu --steps 2 --quiet"
)


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be unpacked: there is no cache to unpack to."""
    (tmp_path / "no").write_text("", encoding="utf-8")
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "no" / "cache"))


def _photos(root: str = "photos", count: int = 24) -> list[str]:
    """Flat pictures, wider than high."""
    Path(root).mkdir()
    names = [f"{index:03d}.jpg" for index in range(count)]
    for index, name in enumerate(names):
        Image.fromarray(np.full((20, 30, 3), 10 * index, np.uint8)).save(Path(root, name))
    return names


def _flat() -> str:
    _photos()
    return "./photos --image-size 16"


def _non_square() -> str:
    _photos()
    return "./photos --image-size 24x16 --set data.crop=pad --set data.flip=true"


def _csv() -> str:
    rows = [f"{name};{'even' if index % 2 else 'odd'}" for index, name in enumerate(_photos())]
    Path("labels.csv").write_text("\n".join(["file_name;label", *rows]), encoding="utf-8")
    return "./photos --image-size 16 --label-file labels.csv"


def _two_columns() -> str:
    rows = [{"file_name": name, "size": index % 2, "hue": "ab"[index // 12]} for index, name in enumerate(_photos())]
    Path("photos/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return "./photos --image-size 16 --label-by size,hue"


def _zip() -> str:
    for label in ("cat", "dog"):
        _photos(label, 12)
        Path("photos").mkdir(exist_ok=True)
        shutil.move(label, "photos")
    shutil.make_archive("photos", "zip", ".", "photos")
    shutil.rmtree("photos")
    return "./photos.zip --image-size 16 --set data.workers=1"


def _webdataset(place: str = "photos.tar", first: int = 0) -> str:
    names = _photos()
    with tarfile.open(place, "w") as archive:
        for index, name in enumerate(names):
            key = f"{first + index:06d}"
            archive.add(Path("photos", name), f"{key}.jpg")
            info = tarfile.TarInfo(f"{key}.cls")
            info.size = 1
            archive.addfile(info, io.BytesIO(str(index % 3).encode()))
    shutil.rmtree("photos")
    return f"{place} --image-size 16"


def _shards() -> str:
    Path("many").mkdir()
    for index in range(2):
        _webdataset(f"many/{index}.tar", 24 * index)
    return "./many --image-size 16 --name photos"


WAYS = {
    "flat folder": (_flat, "any any", (16, 16)),
    "not square": (_non_square, "any any", (16, 24)),
    "CSV": (_csv, "odd even", (16, 16)),
    "two columns": (_two_columns, "0+a 1+b", (16, 16)),
    "zip": (_zip, "cat dog", (16, 16)),
    "webdataset tar": (_webdataset, "0 2", (16, 16)),
    "shards": (_shards, "0 2", (16, 16)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_images_trains_continues_and_draws(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    prepare, labels, size = WAYS[way]
    line = f"train {prepare()} {TINY}"
    assert said(capsys, line) == (0, "", "")
    assert said(capsys, line.replace("--steps 2", "--steps 4")) == (0, "", "")
    run = RunFolder(Path("runs/photos"))
    assert run.checkpoint_steps()[-1] == 4 and [step for step, _ in run.sample_grids()] == [2, 4]
    code, out, err = said(capsys, f"sample --labels {labels} --out drawn --json --device cpu --quiet")
    assert (code, err) == (0, "")
    for one in json.loads(out)["images"]:
        with Image.open(one["path"]) as image:
            assert image.size == size


def test_pictures_that_are_not_square_stay_so_in_grids_and_gifs(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, f"train {_non_square()} {TINY}")[0] == 0
    with Image.open("runs/photos/samples/step-0000002.png") as grid:
        assert 0.4 < grid.height / grid.width < 0.5  # four of 24x16 in a row; of 16x24 it would be a quarter
    for words in ("train", "denoise --steps 2 --labels any"):
        code, _, err = said(capsys, f"make-gif {words} --model photos --out a.gif --force --device cpu --quiet")
        assert code == 0, err
        with Image.open("a.gif") as gif:
            assert gif.height > (0.4 if words == "train" else 1.2) * gif.width


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--label-file nowhere.csv", 2, "--label-file: there is no file nowhere.csv"),
        ("--label-file photos", 2, "--label-file: there is no file photos"),
        ("--label-by kind", 2, "there is no table in"),
        ("--image-size 16x", 2, "--image-size: should be a number of pixels, or height x width as in 96x64, not '16x'"),
        ("--image-size 16x16x3", 2, "--image-size: should be"),
        ("--image-size 0x16", 2, "--image-size: input should be greater than or equal to 1, not"),
        ("--image-size 17", 2, "is not divisible"),
        ("--set data.crop=middle", 2, "data.crop: "),
        ("--label-file labels.csv", 3, "has no row for 23 of 24 images: 001.jpg, "),
        ("--label-file labels.csv --label-by lable", 2, "unknown column of"),
    ],
)
def test_a_wrong_word_about_images_is_two_lines_and_leaves_nothing(
    options: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _photos()
    Path("labels.csv").write_text("file_name,label\n000.jpg,x\n", encoding="utf-8")
    refused(capsys, f"train ./photos {TINY} --image-size 16 {options}", code, message)
    assert not Path("runs").exists()


def test_a_finished_run_is_not_taken_for_one_of_another_folder_of_the_same_name(capsys: pytest.CaptureFixture[str]):
    for place, shade in (("a", 0), ("b", 90)):
        for label in ("cat", "dog"):
            for index in range(6):
                Path(place, "images", label).mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8 + shade), (shade, 10 * index, 0)).save(f"{place}/images/{label}/{index}.png")
    assert said(capsys, f"train a/images --image-size 16 {TINY}")[0] == 0
    for again in ("a/images", "runs/images"):
        code, _, err = said(capsys, f"train {again} --image-size 16 {TINY}".replace("--quiet", ""))
        assert code == 0 and "runs/images is finished: 2 steps" in err
    err = refused(capsys, f"train b/images --image-size 16 {TINY}", 3, "not the images that runs/images was started")
    assert "a/images, and this is " in err and "--name NAME or with --fresh" in err
    Path("moved").mkdir()
    Path("a/images").rename("moved/images")
    code, _, err = said(capsys, f"train moved/images --image-size 16 {TINY}".replace("--quiet", ""))
    assert code == 0 and "runs/images is finished" in err  # the same images, wherever they are
    Path("moved/images/cat/0.png").unlink()
    refused(capsys, f"train moved/images --image-size 16 {TINY}", 3, "was trained on ")
    Path("moved/images/cat").rename("moved/images/bird")
    refused(capsys, f"train moved/images --image-size 16 {TINY}", 3, "not the labels that runs/images was started")
    assert RunFolder(Path("runs/images")).last_step() == 2 and len(list(Path("runs").iterdir())) == 1


def test_data_show_says_how_a_folder_was_understood(capsys: pytest.CaptureFixture[str]):
    for name in ("x/train/cat/1.png", "x/train/dog/2.png", "x/val/cat/3.png", "x/test/dog/4.png"):
        Path("photos", name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(Path("photos", name))
    line = "data show ./photos --image-size 16 --set model.patch=8"
    code, out, _ = said(capsys, line)
    assert code == 0
    for words in (
        "labels: from the folders",
        "all images are in x/, which is no label",
        "splits, by name: train/ to train on (2 images), val/ for validation (1)",
        "not used: test/ (1 image), for testing by name",
    ):
        assert words in out.splitlines()
    record = json.loads(said(capsys, f"{line} --json --force")[1])
    assert record["labels"] == ["cat", "dog"] and record["labels_from"] == "from the folders"
    assert len(record["layout"]) == 3 and record["counts"]["validation"] == {"cat": 1, "dog": 0}


def test_a_label_in_the_name_is_part_of_the_run(capsys: pytest.CaptureFixture[str]):
    Path("photos").mkdir()
    for index in range(12):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(f"photos/{'Käse' if index % 2 else 'dog'}_{index:02d}.png")
    line = rf"train ./photos --image-size 16 --label-from (.*)_\d+ {TINY}"
    assert said(capsys, line)[0] == 0
    assert RunFolder(Path("runs/photos")).read_config().data.label_from == r"(.*)_\d+"
    for spelling in ("Käse", unicodedata.normalize("NFD", "Käse")):
        assert (
            said(capsys, f"sample --model photos --labels {spelling} --steps 1 --device cpu --out {len(spelling)}")[0]
            == 0
        )
    refused(
        capsys, f"train ./photos --image-size 16 --label-from (.*)_x --name other {TINY}", 3, "does not match 12 of 12"
    )
