"""`ditkit hub push` and `pull`, and models by hf://user/name, against a hub on loopback."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType

import numpy as np
import pytest
import torch
from command_line import said
from hub_server import Faults, Hub, commit_of, hub
from huggingface_hub import ModelCard, hf_api
from PIL import Image

import ditkit
from ditkit import recipes
from ditkit.checkpoint.loading import build_network, load, read_tensors
from ditkit.config import RunConfig, from_dict, to_dict
from ditkit.errors import CheckpointError, MachineError, UsageError
from ditkit.interop import pack, readme
from ditkit.interop.import_model import pull, write_as_run
from ditkit.io import atomic
from ditkit.io import snapshot as snapshots
from ditkit.runs import public
from ditkit.runs.folder import RunFolder
from ditkit.runs.lookup import find_weights
from ditkit.runs.model_info import LatentStats, ModelInfo, read_model_info
from ditkit.sampling.generate import sample
from ditkit.training.loop import train

REPO, TOKEN = "me/digits", "hf_secret"
FILES = {"README.md", "config.toml", "ema.safetensors", "loss.png", "metrics.jsonl", "samples.png"}
DRAW = pack._draw_losses
SMALL = {"model": {"patch": 7, "width": 32, "depth": 1, "heads": 2}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps."""
    often = {"steps": 6, "batch_size": 16, "sample_every": 3, "validate_every": 3, "sample_columns": 1}
    config = recipes.load(
        "mnist", {**SMALL, "data": {"validation": 24}, "sample": {"steps": 2, "guidance": 1}, "train": often}
    )
    folder = tmp_path_factory.mktemp("trained") / "mnist"
    train(config, folder)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: Path) -> Path:
    """A folder of its own, with the run and a token."""
    shutil.copytree(trained, tmp_path / "runs/mnist")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    monkeypatch.setattr(pack, "_draw_losses", draw_nothing)
    return tmp_path


def draw_nothing(rows: object, folder: Path, repo: str) -> list[str]:
    """A plot takes a second, and is looked at in one test."""
    (folder / "loss.png").write_bytes(b"plot" * 300)
    return ["loss.png"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub({("model", "someone/else"): {"config.json": b"{}", "pytorch_model.bin": b"x" * 2000}}) as server:
        server.users = {TOKEN: "me", "hf_other": "other"}
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        for method in (hf_api.RepoUrl.__new__, hf_api.RepoUrl.__init__):  # huggingface_hub 0.34 reads it at import
            monkeypatch.setattr(method, "__defaults__", (server.endpoint,))
        yield server


def forget() -> None:
    """As in another process."""
    snapshots._resolved.clear()


def files(server: Hub, repo: str = REPO) -> dict[str, bytes]:
    """What a repository holds, without what the hub itself put there."""
    held = server.repositories[("model", repo)]
    return {name: content for name, content in held.items() if name != ".gitattributes"}


def pushed(capsys: pytest.CaptureFixture[str], more: str = "") -> tuple[int, str, str]:
    forget()
    return said(capsys, f"hub push mnist {REPO} --yes {more}")


def images(model: str | Path) -> np.ndarray:
    """What a model draws."""
    return np.stack([one.image for one in sample(load(find_weights(str(model), Path("runs"))), ["3", "1"], seed=5)])


def weights_in(content: bytes, folder: Path) -> tuple[ModelInfo, dict[str, torch.Tensor]]:
    path = folder / "arrived.safetensors"
    path.write_bytes(content)
    return read_model_info(path), read_tensors(path)


# --- push: what arrives


def test_a_run_arrives_whole_in_one_commit(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "_draw_losses", DRAW)
    code, out, err = pushed(capsys, "--message First")
    assert (code, out) == (0, f"{server.endpoint}/{REPO}\n")
    assert f"to the public repository {server.endpoint}/{REPO}, which is new" in err
    assert server.commits == [(REPO, "First", sorted(FILES))]
    got, run = files(server), RunFolder(home / "runs/mnist")
    assert set(got) == FILES
    own = read_model_info(run.checkpoint(6) / "ema.safetensors")
    assert own.config.data.path is None  # nothing to hide: the very settings arrive
    info, tensors = weights_in(got["ema.safetensors"], home)
    assert info == own
    mine = read_tensors(run.checkpoint(6) / "ema.safetensors")
    assert tensors.keys() == mine.keys() and all(torch.equal(tensors[name], mine[name]) for name in mine)
    assert got["config.toml"].decode() == run.config_file.read_text(encoding="utf-8")
    assert got["metrics.jsonl"] == run.metrics_file.read_bytes()
    with Image.open(io.BytesIO(got["samples.png"])) as grid, Image.open(run.samples / "step-0000006.png") as newest:
        assert np.array_equal(np.asarray(grid.convert("RGB")), np.asarray(newest.convert("RGB"))) and not grid.info
    with Image.open(io.BytesIO(got["loss.png"])) as losses:
        assert losses.size[0] > 500


def test_the_model_card_is_one_for_the_hub_and_for_people(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pushed(capsys)
    text = files(server)["README.md"].decode()
    data = ModelCard(text).data
    assert (data.library_name, data.pipeline_tag, data.license) == ("ditkit", "unconditional-image-generation", "other")
    assert data.tags == ["ditkit", "diffusion-transformer", "dit", "mnist"]
    count = sum(
        one.numel() for one in read_tensors(Path("runs/mnist/checkpoints/step-0000006/ema.safetensors")).values()
    )
    rows = [json.loads(line) for line in Path("runs/mnist/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    loss = next(row["validation_loss"] for row in reversed(rows) if "validation_loss" in row)
    for line in (
        "# digits",
        f"ditkit sample --model hf://{REPO} --labels 0 1 2 3",
        "pip install ditkit",
        "| images | 60,000 |",
        f"| parameters | {count:,} |",
        "| steps | 6 |",
        f"| validation loss | {loss:.4g} at step 6 |",
        "| data | MNIST, handwritten digits |",
    ):
        assert line in text.splitlines()
    assert "(samples.png)" in text and "(loss.png)" in text and "CC BY-SA 3.0" in text


def test_what_is_drawn_is_the_same_from_the_run_the_pulled_model_and_the_hub_itself(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pushed(capsys)[0] == 0
    code, out, err = said(capsys, f"hub pull {REPO} --as other")
    assert (code, out) == (0, "runs/other\n") and "`ditkit sample --model other`" in err
    own = images("mnist")
    assert own.std() > 0
    assert np.array_equal(images("other"), own) and np.array_equal(images(f"hf://{REPO}"), own)
    pulled = RunFolder(home / "runs/other")
    assert pulled.read_config() == RunFolder(home / "runs/mnist").read_config()
    assert pulled.metrics_file.read_bytes() == (home / "runs/mnist/metrics.jsonl").read_bytes()
    assert sorted(path.name for path in (home / "runs").iterdir()) == ["mnist", "other"]


def test_a_second_push_commits_what_has_changed_and_takes_away_what_is_gone(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(capsys)
    server.repositories[("model", REPO)]["notes.txt"] = b"of somebody"
    code, _, err = pushed(capsys)
    assert code == 0 and "all of it is there already" in err and len(server.commits) == 1
    shutil.rmtree(home / "runs/mnist/samples")
    code, _, err = pushed(capsys, "--data-licence CC0")
    assert code == 0 and "which is new" not in err
    assert server.commits[1:] == [(REPO, "Step 6", ["README.md", "samples.png"])]
    assert set(files(server)) == FILES - {"samples.png"} | {"notes.txt"}
    text = files(server)["README.md"].decode()
    assert "Data: CC0." in text and "(samples.png)" not in text and "CC BY-SA" not in text


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_half_the_size_and_draws_about_the_same(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    pushed(capsys)
    whole = files(server)["ema.safetensors"]
    assert pushed(capsys, f"--dtype {dtype}")[0] == 0
    half = files(server)["ema.safetensors"]
    assert len(half) < 0.55 * len(whole) and f", {dtype} |" in files(server)["README.md"].decode()
    before, after = (weights_in(content, home)[1] for content in (whole, half))
    errors = [float((after[name].float() - before[name]).abs().max()) for name in before]
    assert {one.dtype for one in after.values()} == {getattr(torch, dtype)} and 0 < max(errors) < 0.02
    forget()
    assert np.abs(images(f"hf://{REPO}").astype(float) - images("mnist")).mean() < 2


def test_weights_that_do_not_fit_into_float16_are_not_published(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipes.load("mnist", SMALL)
    tensors = {name: torch.full_like(one, 1e6) for name, one in build_network(config, 10).state_dict().items()}
    info = ModelInfo(config=config, labels=tuple("0123456789"), step=1)
    write_as_run(RunFolder(home / "runs/large"), info=info, files={"ema.safetensors": tensors})
    code, _, err = said(capsys, f"hub push large {REPO} --yes --dtype float16")
    assert code == CheckpointError.exit_code and "--dtype bfloat16" in err
    assert ("model", REPO) not in server.repositories


def test_weights_that_do_not_fit_what_they_say_of_themselves_are_not_published(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = placed(home)
    weights = folder.checkpoint(7) / "ema.safetensors"
    content = weights.read_bytes()
    wider = content.replace(b'\\"width\\": 32', b'\\"width\\": 64')
    assert wider != content
    Path("wider.safetensors").write_bytes(wider)
    code, out, err = said(capsys, f"hub push wider.safetensors {REPO} --dry-run")
    assert code == CheckpointError.exit_code and "would" not in out + err, err


def test_a_weights_file_alone_is_published_with_what_it_says_of_itself(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(home / "runs/mnist/checkpoints/step-0000006/ema.safetensors", "mine.safetensors")
    assert said(capsys, f"hub push mine.safetensors {REPO} --yes")[0] == 0
    assert set(files(server)) == {"README.md", "config.toml", "ema.safetensors"}
    assert "| images |" not in files(server)["README.md"].decode()


def test_a_dry_run_shows_the_card_and_asks_the_hub_nothing(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = said(capsys, f"hub push mnist {REPO} --dry-run")
    assert code == 0 and out.startswith("---\nlibrary_name: ditkit\n")
    assert "would upload 6 files, " in err and all(f"  {name}  " in err for name in FILES)
    assert not server.asked and not server.commits


def test_called_from_python_it_asks_first_and_prints_nothing(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    refused = ditkit.push("mnist", REPO, confirm=lambda upload: upload.to.is_there)
    assert refused.changed is None and set(refused.files) == FILES and not server.commits
    assert ditkit.push("mnist", REPO, message="First").changed is True and len(server.commits) == 1
    assert ditkit.push("mnist", REPO).changed is False
    folder, info = pull(REPO, name="again")
    assert (folder, info.step) == (Path("runs/again"), 6)
    assert capsys.readouterr() == ("", "")


# --- push: nothing of this machine


def own_run(home: Path, name: str = "own") -> RunFolder:
    """A model of images, a table and an autoencoder in folders of this machine, with pictures that name them."""
    secret = str(home / "secret")
    config = from_dict(
        {
            "data": {"name": "folder", "path": f"{secret}/photos", "label_file": f"{secret}/labels.csv", "channels": 3},
            "autoencoder": {"name": "kl", "source": f"{secret}/vae", "channels": 4, "shrink": 4},
            **SMALL,
        }
    )
    stats = LatentStats(mean=(0.0,) * 4, std=(1.0,) * 4, autoencoder="f" * 64)
    info = ModelInfo(config=config, labels=("a b", "c`d|"), step=3, latents=stats)
    folder = RunFolder(home / "runs" / name)
    rows = [{"step": step, "loss": 1 / step, "file": secret} for step in (1, 2, 3, 4)]
    tensors = {"ema.safetensors": build_network(config, 2).state_dict()}
    write_as_run(folder, info=info, files=tensors, metrics=rows)
    folder.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    folder.import_file.unlink()
    from ditkit.visual.grid import save_png

    save_png(np.zeros((8, 8, 3), np.uint8), folder.samples / "step-0000003.png", {"made of": secret})
    return folder


def test_no_place_on_this_machine_is_in_what_is_published(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "_draw_losses", DRAW)
    own_run(home)
    assert said(capsys, f"hub push own {REPO} --yes")[0] == 0
    got = files(server)
    assert set(got) == FILES
    for name, content in got.items():
        for word in (b"secret", str(home).encode(), home.name.encode(), b"photos", b"labels.csv"):
            assert word not in content, (name, word)
    config = weights_in(got["ema.safetensors"], home)[0].config
    assert (config.data.path, config.data.label_file, config.autoencoder.source) == (None, None, None)
    assert [json.loads(line)["step"] for line in got["metrics.jsonl"].splitlines()] == [1, 2, 3]
    text = got["README.md"].decode()
    assert "| data | images of its author |" in text and "Data: unknown: the author states none." in text
    assert "--autoencoder FOLDER" in text and "f" * 64 in text
    assert "--labels 'a b' 'c`d|'" in text and "`a b`, `` c`d| ``" in text


def test_a_model_of_latents_whose_autoencoder_stayed_at_home_says_what_it_needs(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_run(home)
    said(capsys, f"hub push own {REPO} --yes")
    forget()
    code, _, err = said(capsys, f"sample --model hf://{REPO} --device cpu")
    assert code == UsageError.exit_code and "name them with --autoencoder" in err


def test_every_setting_that_can_be_a_place_is_known_to_be_one() -> None:
    texts = {
        f"{section.name}.{one.name}"
        for section in dataclasses.fields(RunConfig)
        if dataclasses.is_dataclass(kind := typing.get_type_hints(RunConfig)[section.name])
        for one in dataclasses.fields(kind)
        if str in _kinds(typing.get_type_hints(kind)[one.name])
    }
    no_places = {"data.name", "data.revision", "data.label_by", "data.image_column", "diffusion.objective"}
    no_places |= {"data.label_from", "autoencoder.name", "autoencoder.revision", "sample.sampler"}
    assert texts - no_places <= set(public.PATHS)


def _kinds(hint: object) -> set[object]:
    return set(typing.get_args(hint)) if typing.get_origin(hint) in (typing.Union, UnionType) else {hint}


@pytest.mark.parametrize(
    ("key", "given", "kept"),
    [
        ("data.path", "hf://someone/faces@v1", "hf://someone/faces@v1"),
        ("data.path", "https://example.org/a.zip?token=secret#sha256=1", "https://example.org/a.zip#sha256=1"),
        ("data.path", "https://me:secret@example.org/a.zip", None),
        ("data.path", "photos/cats", None),
        ("data.path", "C:\\photos", None),
        ("data.path", "file:///photos", None),
        ("autoencoder.source", "stabilityai/sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"),
        ("autoencoder.source", "runs/mnist", None),
        ("autoencoder.source", "/vae", None),
    ],
)
def test_addresses_that_everybody_can_use_stay_and_places_go(key: str, given: str, kept: str | None) -> None:
    section, _, name = key.partition(".")
    latent = {"autoencoder": {"name": "kl", "channels": 4, "shrink": 4}} if section == "autoencoder" else {}
    tree = {**to_dict(recipes.load("mnist")), **latent}
    config = from_dict({**tree, section: {**tree[section], name: given}})
    shown = public.without_places(config)
    assert getattr(getattr(shown, section), name) == kept
    assert to_dict(shown) == {**to_dict(config), section: to_dict(shown)[section]}


@pytest.mark.parametrize(
    ("data", "given", "said"),
    [
        ({"name": "mnist"}, None, "https://creativecommons.org/licenses/by-sa/3.0/"),
        ({"name": "mnist", "path": "/digits"}, None, "unknown: the author states none"),
        ({"name": "celeba", "path": "/celeba"}, None, "non-commercial research only"),
        ({"name": "folder", "path": "/photos"}, None, "unknown: the author states none"),
        ({"name": "folder", "path": "/photos"}, "CC BY 4.0, by me", "Data: CC BY 4.0, by me."),
        ({"name": "hub", "path": "hf://a/b"}, None, "as [a/b](https://huggingface.co/datasets/a/b) states"),
    ],
)
def test_the_licence_of_the_data_is_said_as_far_as_it_is_known(
    data: dict[str, str], given: str | None, said: str
) -> None:
    info = ModelInfo(config=recipes.load("mnist", {"data": data}), labels=(), step=1)
    text = readme.write(readme.Model(info=info, repo="a/b", data_licence=given))
    assert said in text and ("/photos" not in text) and ModelCard(text).data.license == "other"


def test_a_model_that_others_made_says_so_when_it_is_published_again(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(capsys)
    commit = commit_of(server.repositories[("model", REPO)])
    said(capsys, f"hub pull {REPO} --as theirs")
    assert said(capsys, "hub push theirs me/again --yes")[0] == 0
    text = files(server, "me/again")["README.md"].decode()
    assert f"made by others: a model of ditkit's, hf://{REPO}@{commit[:12]}. Their licence holds." in text
    assert "CC BY-SA" not in text


# --- push: what goes wrong


def untouched(server: Hub, capsys: pytest.CaptureFixture[str], line: str = "") -> tuple[int, str]:
    """Exit code and stderr of a push that must change nothing, and say so in one line and a hint."""
    before = {
        key: dict(held)
        for key, held in server.repositories.items()
        if key[1] != REPO or set(held) != {".gitattributes"}
    }
    code, out, err = pushed(capsys, line)
    now = {key: held for key, held in server.repositories.items() if set(held) != {".gitattributes"}}
    assert now == before and not server.commits and out == ""
    assert len([one for one in err.splitlines() if one.startswith("error: ")]) == 1 and "Traceback" not in err
    assert err.splitlines()[-1].startswith("hint: ")
    return code, err


def test_without_a_token_nothing_is_asked(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    code, err = untouched(server, capsys)
    assert code == UsageError.exit_code and f"there is no token to write to hf://{REPO} with" in err
    assert f"{server.endpoint}/settings/tokens" in err and not server.asked


def test_a_token_that_the_hub_does_not_know(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, err = untouched(server, capsys)
    assert code == UsageError.exit_code and f"{server.endpoint} does not know the token" in err and "HF_TOKEN" in err


@pytest.mark.parametrize("there", [True, False])
def test_a_token_of_another_user_may_not_write(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    if there:
        server.repositories[("model", REPO)] = {"README.md": b"mine"}
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    code, err = untouched(server, capsys)
    assert code == UsageError.exit_code and f"the token may not write to hf://{REPO}" in err


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "DITKIT_OFFLINE"])
def test_offline_is_said_at_once(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    code, err = untouched(server, capsys)
    assert code == MachineError.exit_code and f"because {name} is set" in err and not server.asked


def test_a_hub_that_is_not_there(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, out, err = pushed(capsys)
    assert (code, out) == (MachineError.exit_code, "") and "error: cannot reach http://127.0.0.1:9" in err


def test_a_connection_that_breaks_in_the_middle_leaves_nothing_half(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults = Faults(upload_cut_after=500)
    code, err = untouched(server, capsys)
    assert code == MachineError.exit_code and f"the upload to hf://{REPO} broke off: " in err
    assert "hint: nothing was changed there; the same command tries again" in err and server.asked["PUT"] > 1
    server.faults = Faults()
    assert pushed(capsys)[0] == 0 and set(files(server)) == FILES


def test_a_commit_that_the_hub_refuses_says_why(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    server.faults = Faults(refused="your storage is full")
    code, err = untouched(server, capsys)
    assert code == UsageError.exit_code and "your storage is full" in err


def test_a_hub_in_an_outage(server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ditkit.io.hub.time.sleep", lambda seconds: None)
    server.faults = Faults(down=True)
    code, err = untouched(server, capsys)
    assert code == MachineError.exit_code and "answers 503" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mnist digits", "'digits' lacks the user or organisation"),
        ("mnist me/digits/more", "'me/digits/more' names more than a repository"),
        ("mnist hf://me/digits@v1", "'hf://me/digits@v1' names more than a repository"),
        ("mnist me/a--b", "is not the name of a repository"),
        ("mnist me/-b", "is not a name that the hub takes"),
        ("mnist ../etc", "is not the name of a repository"),
        ("mnist", "missing arguments: what to push, and where to"),
        ("mnits me/digits", "unknown run 'mnits'"),
        ("mnist me/digits --dtype float8", "unknown dtype 'float8'"),
        ("mnist me/digits --message= ", "--message"),
    ],
)
def test_wrong_words_are_found_before_anything_is_asked(
    server: Hub, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    code, _, err = said(capsys, f"hub push {words}")
    assert code == UsageError.exit_code and message in err and not server.asked


def test_private_makes_a_private_repository_and_never_takes_a_public_one(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = pushed(capsys, "--private")
    assert code == 0 and server.private == {REPO} and "to the private repository" in err
    assert pushed(capsys)[0] == 0  # and private it stays
    server.private.clear()
    code, _, err = pushed(capsys, "--private --data-licence CC0")
    assert code == UsageError.exit_code and f"hf://{REPO} is there already, and public" in err
    assert len(server.commits) == 1


def test_the_token_goes_to_the_hub_and_not_to_its_storage(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pushed(capsys)
    told = {path.split("/")[1]: token for path, token in server.tokens}
    assert told == {"api": f"Bearer {TOKEN}", "upload": None}


class Typed(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "commits"), [("y\n", 1), ("n\n", 0), ("", 0)])
def test_a_terminal_is_asked(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, commits: int
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stdin", Typed(answer))
    code, _, err = said(capsys, f"hub push mnist {REPO}")
    assert code == 0 and f"to the public repository {server.endpoint}/{REPO}, which is new? [y/N]" in err
    assert "  ema.safetensors  " in err
    assert len(server.commits) == commits and (commits or "nothing is uploaded" in err)


def test_where_nobody_can_be_asked_yes_is_needed(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = said(capsys, f"hub push mnist {REPO}")
    assert code == UsageError.exit_code and "say yes with --yes" in err and not server.commits


# --- pull, and hf:// as a model


def test_pulled_again_it_becomes_what_the_repository_has_now(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(capsys)
    old = commit_of(server.repositories[("model", REPO)])
    assert said(capsys, f"hub pull {REPO}")[1] == "runs/digits\n"
    pushed(capsys, "--dtype float16")
    new = commit_of(server.repositories[("model", REPO)])
    forget()
    assert said(capsys, f"hub pull hf://{REPO}")[1] == "runs/digits\n"
    digits = RunFolder(home / "runs/digits")
    assert digits.imported_from()["source"] == f"hf://{REPO}@{new[:12]}"
    tensors = read_tensors(digits.checkpoint(6) / "ema.safetensors")
    assert {one.dtype for one in tensors.values()} == {torch.float16}
    assert said(capsys, f"hub pull {REPO}@{old} --as before")[0] == 0
    assert np.array_equal(images("before"), images("mnist"))
    assert np.array_equal(images(f"hf://{REPO}@{old}"), images("mnist"))


def test_a_pull_replaces_no_other_model(server: Hub, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pushed(capsys)
    before = RunFolder(home / "runs/mnist").config_file.stat()
    code, _, err = said(capsys, f"hub pull {REPO} --as mnist")
    assert code == UsageError.exit_code and "runs/mnist is there already" in err and "--as" in err
    assert RunFolder(home / "runs/mnist").config_file.stat() == before
    code, _, err = said(capsys, f"hub pull {REPO} --as a/b")
    assert code == UsageError.exit_code and "--as: 'a/b' is a path" in err


def test_a_repository_of_another_project_is_for_import(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    for line in ("hub pull someone/else", "sample --model hf://someone/else"):
        code, _, err = said(capsys, line)
        assert code == UsageError.exit_code and "hf://someone/else holds no model of ditkit's" in err
        assert "`ditkit import someone/else`" in err


def test_what_is_not_there_says_so(server: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pushed(capsys)
    for line, message in (
        ("hub pull me/nothing", "there is no model me/nothing on the hub"),
        (f"sample --model hf://{REPO}@v9", f"hf://{REPO} has no such revision"),
        (f"sample --model hf://{REPO}/part", "is a part of a repository"),
        (f"sample --model hf://{REPO} --no-ema", f"hf://{REPO} has averaged weights only"),
        ("hub pull", "missing argument: what to pull"),
    ):
        code, _, err = said(capsys, line)
        assert code == UsageError.exit_code and message in err


def test_offline_a_model_in_the_cache_draws_and_another_does_not(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(capsys)
    line = f"sample --model hf://{REPO} --labels 3 --device cpu"
    code, out, err = said(capsys, f"{line} --out one")
    assert code == 0 and "downloading 1 file, " in err
    commit = commit_of(server.repositories[("model", REPO)])[:12]
    with Image.open("one/000-3.png") as drawn:
        assert drawn.text["checkpoint"] == f"hf://{REPO}@{commit}"  # type: ignore[attr-defined]
    asked = server.asked.total()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget()
    code, out, err = said(capsys, line)
    assert (code, out.split()[0], err) == (0, "samples/digits-6/000-3.png", "")
    assert Path("samples/digits-6/000-3.png").read_bytes() == Path("one/000-3.png").read_bytes()
    code, _, err = said(capsys, "sample --model hf://me/other")
    assert code == MachineError.exit_code and "HF_HUB_OFFLINE is set" in err and server.asked.total() == asked


def test_much_is_asked_about_first(
    server: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed(capsys)
    monkeypatch.setattr(snapshots, "ASK_FROM", 1000)
    monkeypatch.setenv("FORCE_COLOR", "1")
    for line in (f"hub pull {REPO}", f"sample --model hf://{REPO} --device cpu"):
        forget()
        monkeypatch.setattr("sys.stdin", Typed("n\n"))
        code, _, err = said(capsys, line)
        assert code == UsageError.exit_code and "not done: download" in err and not server.sent
        assert said(capsys, f"{line} --yes")[0] == 0
        shutil.rmtree("cache")
        shutil.rmtree("hf")
        server.sent.clear()


def test_weights_that_are_not_what_they_say_are_not_kept(
    server: Hub, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pushed(capsys)
    held = server.repositories[("model", REPO)]
    info = held["ema.safetensors"]
    for content in (info.replace(b'\\"width\\": 32', b'\\"width\\": 64'), info[:-8], b"x" * 5000):
        assert content != info
        server.repositories[("model", REPO)] = {**held, "ema.safetensors": content}
        forget()
        code, _, err = said(capsys, f"hub pull {REPO} --as bad")
        assert code == CheckpointError.exit_code and "Traceback" not in err
        assert [path.name for path in (home / "runs").iterdir()] == ["mnist"]


# --- a placed model as a run


def placed(home: Path, step: int = 7) -> RunFolder:
    config = recipes.load("mnist", SMALL)
    folder = RunFolder(home / "runs/here")
    tensors = build_network(config, 10).state_dict()
    info = ModelInfo(config=config, labels=tuple("0123456789"), step=step)
    write_as_run(
        folder, info=info, files={"ema.safetensors": tensors}, metrics=[{"step": 1, "loss": 0.5, "x": float("nan")}]
    )
    return folder


def test_a_placed_model_does_not_go_on_training_and_has_no_raw_weights(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = placed(home)
    assert folder.metrics_file.read_text(encoding="utf-8") == '{"step":1,"loss":0.5}\n'
    code, _, err = said(capsys, "train here")
    assert code == UsageError.exit_code and "no optimiser state" in err
    code, _, err = said(capsys, "sample --model here --no-ema")
    assert code == CheckpointError.exit_code and "has no model.safetensors" in err


def test_placing_another_model_replaces_the_first_or_leaves_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed(home)
    real = atomic.rename

    def refuse(old: Path, new: Path) -> None:
        if new.name == "here" and not old.name.endswith("-old"):
            raise OSError(28, "No space left on device")
        real(old, new)

    with monkeypatch.context() as context:
        context.setattr(atomic, "rename", refuse)
        with pytest.raises(MachineError, match="No space left"):
            placed(home, step=8)
    assert RunFolder(home / "runs/here").checkpoint_steps() == [7]
    (home / "runs/.tmp-placed-here-01234567").mkdir()  # of one that was killed
    (home / "runs/.tmp-placed-here-2-01234567").mkdir()  # of another name
    assert placed(home, step=8).checkpoint_steps() == [8]
    assert sorted(path.name for path in (home / "runs").iterdir()) == [".tmp-placed-here-2-01234567", "here", "mnist"]
    assert find_weights("here", home / "runs").is_file()
