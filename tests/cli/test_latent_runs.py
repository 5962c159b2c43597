"""Latents from the command line: what an autoencoder loses, training and drawing with one, and the GPU's recipe."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from autoencoders import write_kl, write_tiny
from command_line import said, write_run
from foreign import Meta
from PIL import Image

from ditkit import recipes
from ditkit.autoencoders.files import settings
from ditkit.cli import datasets
from ditkit.data.contract import open_dataset
from ditkit.errors import DataError
from ditkit.latents.codec import Reconstruction, reconstruct
from ditkit.runs import target
from ditkit.runs.folder import RunFolder, runs_dir
from ditkit.runs.model_info import read_model_info

TINY = (
    "--set model.width=32 --set model.depth=1 --set model.heads=2 --set data.validation=4 --set sample.steps=2 "
    "--set train.sample_every=3 --set train.sample_columns=1 --set train.validate_every=3 --batch-size 8 --device cpu"
)


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    """A folder with photos of two kinds and two autoencoders."""
    drawn = np.random.default_rng(0)
    for number in range(50):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    write_tiny(tmp_path / "tiny")
    write_kl(tmp_path / "kl")
    return tmp_path


# --- reconstruct


def test_psnr_is_that_of_the_definition():
    black = np.zeros((4, 4, 3), np.uint8)
    pair = Reconstruction(original=black, decoded=black + 5, label=None)
    assert pair.psnr == pytest.approx(20 * math.log10(255 / 5))
    assert Reconstruction(original=black, decoded=black, label=None).psnr == math.inf


def test_the_identity_gives_every_image_back(place: Path):
    data = {"name": "folder", "path": str(place / "photos"), "image_size": 16, "channels": 3}
    config = recipes.load("mnist", {"data": data, "model": {"patch": 2}, "autoencoder": settings("pixel")})
    pairs = reconstruct(config, open_dataset(config.data, "train"), 5)
    assert len(pairs) == 5 and all(one.psnr == math.inf for one in pairs)
    assert {one.label for one in pairs} == {"cat", "dog"}


def test_an_image_that_cannot_be_read_is_left_out(place: Path):
    (place / "photos/cat/1.png").write_bytes(b"nothing")
    data = {"name": "folder", "path": str(place / "photos"), "image_size": 16, "channels": 3, "validation": 0}
    config = recipes.load("mnist", {"data": data, "model": {"patch": 2}})
    assert len(reconstruct(config, open_dataset(config.data, "train"), 50)) == 49


def test_the_command_writes_a_picture_and_says_what_is_lost(place: Path, capsys: pytest.CaptureFixture[str]):
    line = "data reconstruct ./photos --image-size 16x32 --autoencoder ./kl --count 6"
    code, out, err = said(capsys, line)
    assert (code, err) == (0, "")
    assert "6 images of 16x32 as 3x4x8 latents and back" in out and "PSNR" in out
    with Image.open(place / "reconstruct-photos.png") as picture:
        assert picture.width > 4 * 2 * 128 and picture.info["autoencoder"].endswith("kl")
    code, out, _ = said(capsys, f"{line} --json")
    figures = json.loads(out)
    assert code == 0 and figures["images"] == 6 and figures["worst_db"] <= figures["psnr_db"] <= figures["best_db"]
    assert figures["picture"] == "reconstruct-photos-2.png"
    assert json.loads(said(capsys, f"{line} --json --force")[1])["picture"] == "reconstruct-photos.png"


@pytest.mark.parametrize(
    ("line", "code", "message", "hint"),
    [
        ("data reconstruct ./photos", 2, "no autoencoder in these settings", "--autoencoder"),
        ("data reconstruct --autoencoder ./tiny", 2, "missing argument: what to reconstruct", "./photos"),
        ("data reconstruct ./photos --autoencoder ./photos", 3, "holds no autoencoder", "diffusers"),
        ("data reconstruct ./photos --autoencoder nothing", 2, "unknown autoencoder 'nothing'", "taesd"),
        (
            "data reconstruct ./photos --autoencoder ./tiny --out here",
            2,
            "not the name of a PNG",
            "reconstruct-photos.png",
        ),
        ("train ./photos --autoencoder ./tiny --image-size 30", 2, "not divisible by 8", "--image-size"),
        ("train mnist --autoencoder ./tiny --image-size 28", 2, "for images of 3 channels, not of 1", "channels=3"),
        ("train ./photos --autoencoder ./tiny --image-size 32 --set sample.clamp=true", 2, "for pixels", "clamp"),
    ],
)
def test_mistakes_are_reported_in_one_line(line: str, code: int, message: str, hint: str, capsys) -> None:
    found, out, err = said(capsys, line)
    assert found == code and out == ""
    first, second = err.strip().splitlines()
    assert first.startswith("error: ") and message in first and second.startswith("hint: ") and hint in second


# --- train and sample


def test_a_latent_run_trains_samples_and_continues(place: Path, capsys: pytest.CaptureFixture[str]):
    train = f"train ./photos --image-size 32 --autoencoder ./tiny {TINY}"
    code, _, err = said(capsys, f"{train} --steps 3")
    assert code == 0 and "encoding 46 images (train) into latents, once for all runs on them" in err, err
    code, _, err = said(capsys, f"{train} --steps 5")
    assert code == 0 and "continuing at step 3" in err and "encoding" not in err
    code, out, err = said(capsys, "sample --labels cat dog --json")
    assert code == 0, err
    with Image.open(json.loads(out)["images"][0]["path"]) as picture:
        assert picture.size == (32, 32) and picture.mode == "RGB"
    with Image.open(place / "runs/photos/samples/step-0000005.png") as grid:
        assert grid.width > 64
    assert said(capsys, "make-gif denoise --labels cat dog --quiet")[0] == 0
    code, out, _ = said(capsys, "data list")
    assert code == 0 and "latents of 46 images (folder, train)" in out


def test_a_refused_command_leaves_the_settings_of_the_run_alone(place: Path, capsys: pytest.CaptureFixture[str]):
    tiny = TINY + " --set data.image_size=32 --set model.patch=8 --quiet"
    assert said(capsys, f"train ./photos --name pets {tiny} --steps 2")[0] == 0
    before = (place / "runs/pets/config.toml").read_bytes()
    shutil.copytree(place / "photos/cat", place / "others/cat")
    shutil.copytree(place / "photos/dog", place / "others/bird")
    for steps in (2, 4):  # other images than those of the run, finished or not
        assert said(capsys, f"train ./others --name pets {tiny} --steps {steps}")[0] == 3
        assert (place / "runs/pets/config.toml").read_bytes() == before
    assert said(capsys, "train runs/pets --steps 4 --quiet")[0] == 0
    assert RunFolder(place / "runs/pets").read_config().train.steps == 4


def test_a_path_is_a_path_even_where_a_run_has_its_name(place: Path):
    begun = RunFolder(write_run(place / "runs", "photos"))
    assert target.find_target("./photos", runs_dir()).folder is None
    assert target.find_target("photos", runs_dir()).folder == runs_dir() / begun.path.name
    assert target.find_target("runs/photos", runs_dir()).folder is not None


def test_an_autoencoder_that_moved_is_named(place: Path, capsys: pytest.CaptureFixture[str]):
    assert said(capsys, f"train ./photos --image-size 32 --autoencoder ./tiny {TINY} --steps 1 --quiet")[0] == 0
    (place / "tiny").rename(place / "moved")
    code, _, err = said(capsys, "sample --labels cat")
    assert code == 3 and "does not exist" in err and "--autoencoder FOLDER" in err
    shutil.copytree(place / "runs/photos", place / "runs/second")
    (place / "three.png").write_bytes((place / "photos/cat/1.png").read_bytes())
    for line in (
        "sample --labels cat",
        "make-gif denoise photos --labels cat",
        "make-gif interpolate photos --labels cat dog --frames 2",
        "edit img2img three.png --model photos --labels cat",
        "compare photos second --labels cat",
        "sweep photos --steps 1,2 --labels cat",
    ):
        assert said(capsys, f"{line} --quiet --autoencoder moved")[0] == 0, line
    for folder, message in (
        ("./elsewhere", "there is no folder ./elsewhere"),
        ("kl", "has latents of 3 channels, 4 t"),
    ):
        code, _, err = said(capsys, f"sample --labels cat --autoencoder {folder}")
        assert code == 2 and message in err
    code, _, err = said(capsys, "make-gif train photos --autoencoder moved")
    assert code == 2 and "--autoencoder is for drawing" in err


def test_another_kind_of_autoencoder_is_read_off_its_files(place: Path, capsys: pytest.CaptureFixture[str]):
    write_tiny(place / "tiny4", channels=4)
    write_kl(place / "kl4", channels=4)
    Meta(classes=2).save(place / "dit.pt")
    line = "import dit.pt --autoencoder ./kl4 --class-names cat,dog --set model.heads=4 --project dit --quiet"
    assert said(capsys, line)[0] == 0
    assert said(capsys, "sample --model dit --labels 1 --steps 2 --device cpu --autoencoder tiny4 --quiet")[0] == 0
    code, _, err = said(capsys, "sample --model dit --labels dog --autoencoder pixel")
    assert code == 2 and "pixel has no latents, the model latents of 4 channels, 4 times smaller" in err


def test_an_imports_statistics_of_latents_follow_the_autoencoder_not_its_path(place: Path, capsys):
    write_kl(place / "kl4", channels=4)
    write_kl(place / "other", channels=4, seed=1)
    shutil.copytree(place / "kl4", place / "copy")
    Meta(classes=2).save(place / "dit.pt")
    line = "import dit.pt --autoencoder ./kl4 --class-names cat,dog --set model.heads=4 --project dit --quiet"
    assert said(capsys, line)[0] == 0
    drop = " --set model.width=32 --set model.depth=1 --set model.heads=2"
    train = f"train ./photos {TINY.replace(drop.strip(), '')} --steps 1"

    def mean(name: str, init_from: str, autoencoder: str) -> tuple[tuple[float, ...], str]:
        words = f"{train} --name {name} --init-from {init_from} --autoencoder {autoencoder}"
        code, _, err = said(capsys, words)
        assert code == 0, err
        stats = read_model_info(RunFolder(place / "runs" / name).checkpoint(1) / "ema.safetensors").latents
        assert stats is not None
        return stats.mean, err

    zero, own = (0.0,) * 4, "is taken for its autoencoder"
    for name, folder in (("same", "kl4"), ("copied", "copy")):  # the import does not say whose its latents are
        found, err = mean(name, "dit", f"./{folder}")
        assert found == zero and (own in err) == (name == "copied")
    assert mean("known", "same", "./copy")[0] == zero  # the very same weights, elsewhere
    found, err = mean("changed", "same", "./other")
    assert found != zero and "the statistics of its latents are measured anew" in err


def test_lr_find_works_on_latents(place: Path, capsys: pytest.CaptureFixture[str]):
    line = "lr-find ./photos --autoencoder ./tiny --image-size 32"
    code, out, err = said(capsys, f"{line} {TINY} --steps 20 --json")
    assert code == 0 and json.loads(out)["suggestion"] > 0, err


def test_an_autoencoder_keeps_the_pixels_of_a_patch_unless_a_patch_is_asked_for(place: Path):
    def patch(*words: str, autoencoder: str | None = "./tiny", size: str = "64") -> int:
        found = target.find_target("./photos", runs_dir())
        changes = {"data.image_size": size} | ({"autoencoder": autoencoder} if autoencoder else {})
        return target.build(found, file=None, settings=words, changes=changes).model.patch

    assert patch(autoencoder=None) == 8 and patch() == 2
    assert patch("model.patch=4") == 4 and patch("model.preset=dit-tiny/4") == 4


# --- the GPU's recipe


def test_celeba_takes_the_recipe_of_the_device_and_a_run_keeps_its_own(monkeypatch: pytest.MonkeyPatch, place: Path):
    found = target.find_target("celeba", runs_dir())
    monkeypatch.setattr(datasets, "fast_gpu_is_there", lambda device: device != "cpu")
    nothing = RunFolder(place / "runs/none")
    on_gpu, on_cpu = (datasets.for_device(found, device, nothing) for device in ("auto", "cpu"))
    assert recipes.build(on_cpu.tree) == recipes.load("celeba")
    assert recipes.build(on_gpu.tree) == recipes.load("celeba-gpu") and on_gpu.name == "celeba"
    stand_ins = {recipes.on_gpu(recipe) for recipe in ("mnist", "celeba", "celeba-latent", "folder")}
    assert stand_ins == {None, "celeba-gpu"}, "celeba-large is taken by its name alone"
    for recipe in ("celeba", "celeba-gpu"):
        begun = RunFolder(write_run(place / "runs", recipe, recipe="mnist"))
        begun.write_config(recipes.load(recipe))
        for device in ("auto", "cpu"):
            assert recipes.build(datasets.for_device(found, device, begun).tree) == recipes.load(recipe)
    mnist = target.find_target("mnist", runs_dir())
    assert datasets.for_device(mnist, "auto", None) is mnist


def test_whether_there_is_a_gpu_is_asked_without_torch_where_there_cannot_be_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("ditkit.runtime.memory.GPU_DEVICES", ())
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("ditkit.cli.console.loading_torch", lambda: pytest.fail("torch is loaded"))
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    assert not any(datasets.fast_gpu_is_there(device) for device in ("auto", "cpu", "mps"))


def test_learning_rates_are_found_for_the_recipe_that_would_be_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(datasets, "fast_gpu_is_there", lambda device: device == "cuda")
    monkeypatch.setattr(datasets, "open_training_images", lambda config, **_: fail(config))

    def fail(config):
        raise DataError("no images here", str(config.data.image_size))

    for device, size in (("cpu", "64"), ("cuda", "128")):
        code, _, err = said(capsys, f"lr-find celeba --device {device}")
        assert code == 3 and f"hint: ({size}, {size})" in err


@pytest.mark.parametrize(
    ("available", "computes_bfloat16", "word", "expected"),
    [
        ("cuda", True, "auto", True),
        ("cuda", True, "cuda", True),
        ("cuda", True, "cpu", False),
        ("cuda", False, "auto", False),
        ("cuda", False, "cuda", False),
        ("mps", False, "auto", False),
        ("mps", False, "mps", False),
    ],
)
def test_the_large_recipe_is_for_gpus_that_compute_in_bfloat16(
    available: str, computes_bfloat16: bool, word: str, expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("ditkit.runtime.memory.GPU_DEVICES", ("/dev/null",))
    monkeypatch.setattr("torch.cuda.is_available", lambda: available == "cuda")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: available == "mps")
    monkeypatch.setattr("ditkit.runtime.device.computes_bfloat16", lambda device: computes_bfloat16)
    assert datasets.fast_gpu_is_there(word) == expected
