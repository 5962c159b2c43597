"""`ditkit import` and what follows: drawing, plotting, training on, and the faces that `sample` offers."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import write_kl
from command_line import said, write_run
from diffusers_folder import write_stock
from foreign import Meta, Original
from hub_server import Hub, hub
from PIL import Image

from ditkit import import_model, load, recipes
from ditkit.cli import app, original_faces
from ditkit.errors import UsageError
from ditkit.io import safetensors
from ditkit.io.shared import shared_cache
from ditkit.runs.folder import RunFolder

TINY = (
    "--set data.validation=4 --set sample.steps=2 --set train.sample_every=3 --set train.sample_columns=1 "
    "--set train.validate_every=3 --batch-size 8 --device cpu --quiet"
)
DRAW = "--steps 2 --device cpu"


@pytest.fixture(autouse=True)
def place(tmp_path: Path) -> Path:
    """A folder with the original's checkpoint and photos of two kinds."""
    (tmp_path / "celeba").mkdir()
    Original(size=(8, 8)).save(tmp_path / "celeba/ckpt.pt")
    drawn = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "male")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def done(capsys: pytest.CaptureFixture[str], line: str) -> tuple[str, str]:
    """stdout and stderr of a command line that must succeed."""
    code, out, err = said(capsys, line)
    assert code == 0, err
    return out, err


# --- import


def test_an_imported_model_is_drawn_with_and_plotted_by_its_name(place: Path, capsys) -> None:
    out, err = done(capsys, "import celeba/ckpt.pt --as faces")
    assert out == "runs/faces\n"
    assert "this is the original diffusion-transformer: 42,444 parameters, 2 labels, step 700, 500 losses" in err
    assert "`ditkit sample --model faces --labels female male`" in err
    images = json.loads(done(capsys, f"sample --model faces --labels female male --json {DRAW}")[0])["images"]
    with Image.open(images[1]["path"]) as picture:
        assert picture.size == (8, 8) and picture.info["label"] == "male" and picture.info["step"] == "700"
    done(capsys, f"sample --labels male --no-ema {DRAW}")  # the newest run, its raw weights
    done(capsys, "plot-loss faces --quiet")
    assert (place / "runs/faces/loss.png").stat().st_size > 1000
    assert 'positions = "1d-interleaved"' in done(capsys, "show runs/faces")[0]
    done(capsys, f"make-gif denoise faces --labels female --quiet {DRAW}")


def test_a_name_that_is_taken_is_kept_unless_forced(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    before = sorted((path, path.stat().st_mtime_ns) for path in (place / "runs").rglob("*"))
    code, _, err = said(capsys, "import celeba/ckpt.pt --as faces")
    assert code == 2 and "runs/faces is there already" in err and "--force" in err
    assert sorted((path, path.stat().st_mtime_ns) for path in (place / "runs").rglob("*")) == before
    about = json.loads(done(capsys, "import celeba/ckpt.pt --as faces --force --json --set sample.steps=7")[0])
    assert about["run"] == "runs/faces" and about["origin"] == "the original diffusion-transformer"
    assert RunFolder(place / "runs/faces").read_config().sample.steps == 7
    assert [path.name for path in (place / "runs").iterdir()] == ["faces"]


def test_a_name_that_nobody_gave_says_something_and_is_free(place: Path, capsys) -> None:
    (place / "My Faces").mkdir()
    shutil.copy("celeba/ckpt.pt", "My Faces/ckpt.pt")  # which says nothing, but its folder does
    for expected in ("my-faces", "my-faces-2"):
        assert app.main(["import", "My Faces/ckpt.pt", "--quiet", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["run"] == f"runs/{expected}"
    Meta().save(place / "DiT-XL-2-256x256.pt")
    assert done(capsys, "import DiT-XL-2-256x256.pt --set model.heads=4")[0] == "runs/dit-xl-2-256x256\n"


def test_what_an_import_left_behind_that_was_killed_is_no_run_and_goes(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    os.rename(place / "runs/faces", place / "runs/.tmp-placed-faces-01234567")  # noqa: PTH104
    code, _, err = said(capsys, "plot-loss")
    assert code == 2 and "there is no run" in err
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    assert [path.name for path in (place / "runs").iterdir()] == ["faces"]


def test_training_an_imported_model_on_is_one_clear_line(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    for line in ("train faces", "train runs/faces --steps 9", "train ./photos --name faces", "train faces --dry-run"):
        code, out, err = said(capsys, line)
        assert (code, out) == (2, "")
        assert err.splitlines() == [
            "error: runs/faces was imported: it has no optimiser state to continue with",
            "hint: begin a new run with its weights: `ditkit train … --name NEW --init-from faces`",
        ]


def test_a_hostile_pickle_is_refused_with_exit_code_4(place: Path, capsys) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, ("executed",)

    torch.save({"ema_state": Evil()}, place / "evil.pt")
    code, out, err = said(capsys, "import evil.pt")
    assert (code, out) == (4, "") and f"{os.mkdir.__module__}.mkdir, which ditkit neither imports nor calls" in err
    assert not (place / "executed").exists() and not (place / "runs").exists()


def test_imagenet_labels_are_words_and_one_of_each_is_not_a_thousand(place: Path, capsys) -> None:
    write_kl(place / "vae", channels=4, levels=4)
    Meta().save(place / "DiT-XL-2-256x256.pt")
    _, err = done(capsys, "import DiT-XL-2-256x256.pt --as imagenet --set model.heads=4")
    assert "assumed: latents of sd-vae-ft-ema; if not: --autoencoder" in err
    assert "assumed: its 1,000 classes are ImageNet's; if not: --class-names" in err
    line = "import DiT-XL-2-256x256.pt --as sit --project sit --set model.heads=4 --autoencoder ./vae --json"
    about = json.loads(done(capsys, line)[0])
    assert about["origin"] == "SiT" and about["notes"] == [err.splitlines()[-2]]
    shutil.rmtree(place / "runs/sit")
    about = RunFolder(place / "runs/imagenet").read_config()
    assert about.autoencoder.source == "stabilityai/sd-vae-ft-ema"
    words = ["sample", "--labels", "207", "white shark", "--autoencoder", "vae", *DRAW.split(), "--json"]
    assert app.main(words) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [one["label"] for one in images] == ["golden retriever", "white shark"]
    assert images[0]["path"].endswith("000-golden-retriever.png")
    images = json.loads(done(capsys, f"sample --autoencoder vae --json {DRAW}")[0])["images"]
    assert len(images) == 16
    code, _, err = said(capsys, "sample --no-ema --labels tench --autoencoder vae")
    assert code == 4 and "no model.safetensors: its model was imported without" in err and "leave out --no-ema" in err


def test_called_from_python_it_says_what_came_in_and_prints_nothing(place: Path, capsys) -> None:
    model = import_model("celeba/ckpt.pt", name="faces", settings={"sample": {"steps": 7}})
    assert (model.run, model.info.labels, model.losses) == (Path("runs/faces"), ("female", "male"), 500)
    assert model.checkpoint == RunFolder(model.run).checkpoint(700) and model.info.config.sample.steps == 7
    assert model.parameters == sum(tensor.numel() for tensor in load("faces").network.parameters())
    assert capsys.readouterr() == ("", "")
    with pytest.raises(UsageError, match="is there already"):
        import_model("celeba/ckpt.pt", name="faces")


# --- train --init-from


def test_a_new_run_begins_with_the_weights_and_continues_by_itself(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    train = f"train ./photos --init-from faces {TINY} --set optim.lr=1e-10"
    _, err = done(capsys, f"{train.replace(' --quiet', '')} --steps 2")
    assert (
        "beginning with the weights of faces, step 700; labels that it does not know start from random weights: cat"
        in err
    )
    begun, first = load("faces").network, load("photos").network
    assert torch.allclose(first.patch_in.weight, begun.patch_in.weight, atol=1e-6)
    labels = load("photos").info.labels
    assert labels == ("cat", "male")
    assert torch.allclose(first.label.weight[1:], begun.label.weight[1:], atol=1e-6)  # male, and no label
    assert 0 < first.label.weight[0].std() < 0.1  # a cat as the seed draws it
    assert "init_from" in (place / "runs/photos/config.toml").read_text(encoding="utf-8")
    shutil.rmtree(place / "runs/faces")  # what has begun needs it no more
    _, err = done(capsys, f"{train.replace(' --quiet', '')} --steps 4")
    assert "continuing at step 2" in err and "beginning" not in err
    done(capsys, "train runs/photos --steps 5 --quiet")


def test_an_import_is_trained_on_at_its_own_rates_unless_they_are_typed(place: Path, capsys) -> None:
    def rates(name: str) -> tuple[float, float]:
        config = RunFolder(place / "runs" / name).read_config().optim
        return config.lr, config.ema_decay

    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    train = f"train ./photos --init-from faces {TINY.replace(' --quiet', '')}"
    _, err = done(capsys, f"{train} --name own --steps 1")
    assert "; learning rate 0.0001 and EMA decay 0.9999 as for its own training (--lr changes it); labels" in err
    assert rates("own") == (1e-4, 0.9999)
    _, err = done(capsys, f"{train} --name typed --steps 1 --lr 3e-4 --set optim.ema_decay=0.9")
    assert rates("typed") == (3e-4, 0.9) and "its own training" not in err
    done(capsys, f"{train} --name typed --steps 2")  # a run that has begun keeps what it has
    assert rates("typed") == (3e-4, 0.9)
    done(capsys, f"{train.replace('faces', 'own')} --name recipes --steps 1")  # a run of ditkit's: the recipe's rates
    assert rates("recipes") == (1e-3, 0.999)


def test_numbers_of_classes_are_pointed_out_where_labels_have_names(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as numbered --class-names 0,1 --quiet")
    _, err = done(capsys, f"train ./photos --init-from numbered {TINY.replace(' --quiet', '')} --steps 1")
    assert "cat, male (its classes have numbers only: `ditkit import --class-names`)" in err
    done(capsys, "import celeba/ckpt.pt --as named --class-names cat,male --quiet")
    _, err = done(capsys, f"train ./photos --name named-2 --init-from named {TINY.replace(' --quiet', '')} --steps 1")
    assert "random weights" not in err


def test_stopped_and_continued_it_ends_as_if_it_never_was(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    done(capsys, f"train ./photos --init-from faces --name whole {TINY} --steps 6")
    done(capsys, f"train ./photos --init-from faces --name parts {TINY} --steps 6 --max-time 0.001s")
    for _ in range(9):
        done(capsys, f"train ./photos --init-from faces --name parts {TINY} --steps 6 --max-time 0.001s")
    whole, parts = (RunFolder(place / "runs" / name) for name in ("whole", "parts"))
    assert parts.last_step() == 6
    for name in ("ema.safetensors", "model.safetensors"):
        one, other = (load(run.checkpoint(6), ema=name[0] == "e").network.state_dict() for run in (whole, parts))
        assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.usefixtures("links")
def test_a_run_goes_on_with_what_it_began_with_when_that_has_trained_on(place: Path, capsys) -> None:
    own = f"{TINY} --set model.width=32 --set model.depth=1 --set model.heads=2 --image-size 8"
    done(capsys, f"train ./photos --name first {own} --steps 1")
    done(capsys, f"train ./photos --name second --init-from first {TINY} --steps 1")
    done(capsys, "train runs/first --steps 2 --quiet")
    done(capsys, f"train ./photos --name second --init-from first {TINY} --steps 2")
    (place / "link.safetensors").symlink_to(place / "runs/first/checkpoints/step-0000001/ema.safetensors")
    done(capsys, f"train ./photos --name second --init-from link.safetensors {TINY} --steps 3")
    done(capsys, f"train ./photos --name other {own} --steps 1")
    code, _, err = said(capsys, f"train ./photos --name second --init-from other {TINY} --steps 4")
    assert code == 2 and "runs/second was started with train.init_from" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--set model.depth=3", "--init-from: faces has model.depth 2, these settings 3"),
        ("--set model.preset=dit-pico/4", "--init-from: faces has model.patch 2, these settings 4"),
        ("--set model.heads=2", "--init-from: faces has model.heads 4, these settings 2"),
        ("--set data.channels=1", "--init-from: faces has channels 3, these settings 1"),
    ],
)
def test_another_architecture_is_refused_before_anything_begins(place: Path, words: str, message: str, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    code, _, err = said(capsys, f"train ./photos --init-from faces {words}")
    assert code == 2 and message in err and "it comes with the weights" in err
    assert not (place / "runs/photos").exists()


@pytest.mark.parametrize("links", [True, False], ids=["a link", "a copy"])
def test_killed_before_its_first_save_it_still_has_the_weights_that_their_run_removes(
    links: bool, place: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"{TINY} --set model.width=32 --set model.depth=1 --set model.heads=2 --image-size 8"
    own += " --set train.keep=1 --set data.validation=0"
    train = f"train ./photos --init-from first {TINY} --steps 4"
    done(capsys, f"train ./photos --name first {own} --steps 1")
    done(capsys, f"{train} --name straight")
    with monkeypatch.context() as patch:
        if not links:
            patch.setattr(os, "link", _refuse)
        patch.setattr("ditkit.training.loop.train", _interrupted)
        assert said(capsys, f"{train} --name killed")[0] == 130
    done(capsys, "train runs/first --steps 2 --quiet")
    begun = RunFolder(place / "runs/killed").read_config().train.init_from
    assert begun and not Path(begun).exists()
    done(capsys, f"{train} --name killed")
    straight, killed = (RunFolder(place / "runs" / name) for name in ("straight", "killed"))
    assert load(straight.path).source_sum == load(killed.path).source_sum
    assert not killed.first_weights.exists() and not straight.first_weights.exists()


def _refuse(*_: object) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_weights_that_are_gone_before_the_first_checkpoint_are_missed(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    done(capsys, f"train ./photos --init-from faces --name new {TINY} --steps 2")
    shutil.rmtree(place / "runs/new/checkpoints")
    shutil.rmtree(place / "runs/faces")
    code, _, err = said(capsys, "train runs/new")
    assert code == 4 and "the weights to begin with are gone" in err


# --- the hub


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    checkpoint = (place / "celeba/ckpt.pt").read_bytes()
    repositories = {
        ("model", original_faces.REPOSITORY): {
            "README.md": b"faces",
            "celeba/ckpt.pt": checkpoint,
            "mnist/ckpt.pt": b"x" * 99,
        },
        ("model", "someone/several"): {"a.pt": checkpoint, "b.pt": checkpoint},
        ("model", "someone/none"): {"README.md": b"nothing"},
        ("model", "someone/twice"): {"model.safetensors": b"x" * 99, "pytorch_model.bin": b"x" * 99},
    }
    with hub(repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.endpoint)
        yield running


def test_a_repository_of_the_hub_is_fetched_once(place: Path, server: Hub, capsys) -> None:
    out, _ = done(capsys, f"import {original_faces.REPOSITORY} --as faces")
    assert out == "runs/faces\n"
    about = json.loads((place / "runs/faces/imported.json").read_text(encoding="utf-8"))
    assert about["source"] == f"hf://{original_faces.REPOSITORY}/celeba/ckpt.pt"
    sent = sum(server.sent.values())
    done(capsys, f"import hf://{original_faces.REPOSITORY}/celeba/ckpt.pt --as again --quiet")
    assert sum(server.sent.values()) == sent
    assert done(capsys, "import hf://someone/several/b.pt")[0] == "runs/b\n"


@pytest.mark.parametrize(
    ("what", "message", "hint"),
    [
        ("someone/several", "several files of weights: a.pt, b.pt", "hf://someone/several/a.pt"),
        ("someone/none", "no file of weights that ditkit reads", ".safetensors"),
        ("someone/nobody", "there is no model someone/nobody on the hub", "check it"),
        ("someone/twice", "is damaged", ""),  # the safetensors, not the pickle
    ],
)
def test_what_is_unclear_on_the_hub_is_asked_for(server: Hub, what: str, message: str, hint: str, capsys) -> None:
    code, out, err = said(capsys, f"import {what}")
    assert code in (2, 4) and out == "" and message in err and hint in err, err


def test_a_pipeline_of_pickles_alone_is_fetched_imported_and_drawn(place: Path, server: Hub, capsys) -> None:
    """The layout of facebook/DiT-XL-2-256: .bin only, in transformer and in vae."""
    stock = write_stock(place / "stock")
    for part in ("transformer", "vae"):
        path = stock / part / "diffusion_pytorch_model.safetensors"
        torch.save(safetensors.parse(bytearray(path.read_bytes()), path), path.with_suffix(".bin"))
        path.unlink()
    files = {path.relative_to(stock).as_posix(): path.read_bytes() for path in stock.rglob("*") if path.is_file()}
    files |= {"README.md": b"x", "transformer/diffusion_pytorch_model.fp16.bin": b"x"}
    server.repositories["model", "someone/DiT-XL-2-256"] = files
    out, err = done(capsys, "import someone/DiT-XL-2-256 --as imagenet")
    assert out == "runs/imagenet\n" and "this is diffusers DiTPipeline" in err
    assert not any("fp16" in name or "README" in name for name in server.asked)
    shutil.rmtree(shared_cache())  # the autoencoder is named on the hub, not in this machine's cache
    done(capsys, f"sample --model imagenet --labels tench --quiet {DRAW}")
    assert list(place.glob("samples/*/*.png"))
    autoencoder = RunFolder(place / "runs/imagenet").read_config().autoencoder
    assert autoencoder.source == "someone/DiT-XL-2-256" and len(autoencoder.revision or "") == 40
    done(capsys, f"sample --model imagenet --autoencoder someone/DiT-XL-2-256 --labels tench --quiet {DRAW}")


# --- faces that nobody here draws


def test_faces_are_offered_and_with_yes_fetched_converted_and_drawn(place: Path, server: Hub, capsys) -> None:
    for labels in ("female male", "male", "female*2,male"):
        code, out, err = said(capsys, f"sample --labels {labels} {DRAW}")
        assert (code, out) == (2, "") and "no model here draws" in err
        assert f"`ditkit import {original_faces.REPOSITORY} --as celeba-original`" in err
    assert not server.asked and not (place / "runs").exists()
    images = json.loads(done(capsys, f"sample --labels female male --yes --json {DRAW}")[0])["images"]
    assert [one["label"] for one in images] == ["female", "male"]
    sent = sum(server.sent.values())
    done(capsys, f"sample --labels female {DRAW}")
    assert sum(server.sent.values()) == sent


def test_on_a_terminal_faces_are_asked_about(place: Path, server: Hub, capsys, monkeypatch) -> None:
    questions: list[str] = []

    def agreed(question: str, *, yes: bool, about: tuple[str, ...] = ()) -> bool:
        questions.append(question)
        return len(questions) > 1

    monkeypatch.setattr("ditkit.cli.console.agreed", agreed)
    assert said(capsys, f"sample --labels female {DRAW}")[0] == 2
    done(capsys, f"sample --labels female {DRAW}")
    assert (
        len(questions) == 2 and original_faces.REPOSITORY in questions[0] and (place / "runs/celeba-original").is_dir()
    )


def test_the_newest_run_that_knows_faces_draws_them(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    newer = write_run(place / "runs", "pets")
    os.utime(newer / "config.toml", (4e9, 4e9))
    _, err = done(capsys, f"sample --labels female {DRAW}")
    assert "drawing with runs/faces" in err
    code, _, err = said(capsys, f"sample --labels female --model pets {DRAW}")
    assert code == 2 and "unknown label 'female'" in err
    code, _, err = said(capsys, f"sample --labels cow {DRAW}")
    assert code == 2 and "unknown label 'cow'" in err


def test_the_recipe_of_the_original_is_what_its_import_says(place: Path, capsys) -> None:
    done(capsys, "import celeba/ckpt.pt --as faces --quiet")
    config = RunFolder(place / "runs/faces").read_config()
    assert recipes.build(recipes.parse(place / "runs/faces/config.toml")) == config
    assert (config.data.name, config.diffusion.objective, config.model.final_activation) == (
        "celeba",
        "epsilon",
        "selu",
    )
