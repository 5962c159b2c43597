"""The model in a folder: of a pipeline in every form that diffusers writes, of a training, of the hub's cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_folder import write_stock
from foreign import Meta

from ditkit.errors import CheckpointError, DitkitError, UsageError
from ditkit.interop.detect import read_foreign
from ditkit.interop.folders import find_model
from ditkit.io import safetensors
from ditkit.io.weight_files import component_files, grouped

HEADS = {"model": {"heads": 4}}
NAME = "diffusion_pytorch_model"
DEEPSPEED = "mp_rank_00_model_states.pt"


def write(path: Path, tensors: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        path.write_bytes(b"".join(map(bytes, safetensors.pieces(tensors))))
    else:
        torch.save(tensors, path)
    return path


def rewritten(pipeline: Path, form: str) -> None:
    """Write the weights of a pipeline's parts as diffusers does with other options."""
    for part in ("transformer", "vae"):
        path = pipeline / part / f"{NAME}.safetensors"
        tensors = safetensors.parse(bytearray(path.read_bytes()), path)
        path.unlink()
        names = list(tensors)
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        if form == "shards":
            index = dict[str, str]()
            for number, half in enumerate(halves, 1):
                shard = path.with_name(f"{NAME}-0000{number}-of-00002.safetensors")
                write(shard, {name: tensors[name] for name in half})
                index |= dict.fromkeys(half, shard.name)
            listing = json.dumps({"metadata": {}, "weight_map": index})
            path.with_name(f"{NAME}.safetensors.index.json").write_text(listing, encoding="utf-8")
        else:
            write(path.with_name(f"{NAME}{form}"), tensors)


@pytest.mark.parametrize("form", [".bin", ".fp16.safetensors", ".fp16.bin", "shards"])
def test_a_pipeline_is_read_in_every_form_that_diffusers_writes(tmp_path: Path, form: str) -> None:
    from ditkit.autoencoders.contract import open_autoencoder

    stock = write_stock(tmp_path / "stock")
    expected = read_foreign(stock)
    rewritten(stock, form)
    foreign = read_foreign(stock)
    assert all(torch.equal(foreign.ema[name], value) for name, value in expected.ema.items())
    assert any("variant fp16" in note for note in foreign.notes) == ("fp16" in form)
    assert foreign.info.latents and foreign.info.latents.autoencoder
    latent_BCHW = torch.randn(1, 4, 4, 4)
    decoded = open_autoencoder(foreign.info.config).decode(latent_BCHW)
    assert decoded.shape == (1, 3, *foreign.info.config.data.image_size)


def test_full_precision_comes_before_variants_and_safetensors_before_pickles() -> None:
    names = [f"{NAME}.bin", f"{NAME}.fp16.safetensors", f"{NAME}.fp16.bin"]
    assert component_files(names, "x") == [f"{NAME}.bin"]
    assert component_files([*names, f"{NAME}.safetensors", "config.json"], "x") == [f"{NAME}.safetensors"]
    assert component_files(names[1:], "x") == [f"{NAME}.fp16.safetensors"]
    with pytest.raises(UsageError, match="variants bf16, fp16"):
        component_files([f"{NAME}.fp16.bin", f"{NAME}.bf16.bin"], "x")
    with pytest.raises(CheckpointError, match="has no weights"):
        component_files(["config.json", "model.safetensors"], "x")
    with pytest.raises(CheckpointError, match="1 of the 2 shards"):
        component_files([f"{NAME}-00001-of-00002.bin"], "x")


def test_shards_in_both_spellings_are_together() -> None:
    new = [f"{NAME}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    old = [f"{NAME}-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)]
    assert grouped(new) == {(NAME, "fp16", ".safetensors"): new}
    assert grouped(old) == {(NAME, "fp16", ".safetensors"): old}


def test_a_hostile_autoencoder_is_not_executed(tmp_path: Path) -> None:
    from ditkit.autoencoders.contract import open_autoencoder

    class Evil:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "executed",)

    stock = write_stock(tmp_path / "stock")
    rewritten(stock, ".bin")
    foreign = read_foreign(stock)
    torch.save({"x": Evil()}, stock / f"vae/{NAME}.bin")
    with pytest.raises(DitkitError):
        open_autoencoder(foreign.info.config)
    assert not (tmp_path / "executed").exists()


# --- folders of trainings


STATE = Meta().state_dict()


def taken(folder: Path) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in find_model(folder).files)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_shards_of_a_plain_model_are_put_together(tmp_path: Path, suffix: str) -> None:
    names = list(STATE)
    for number, part in enumerate((names[:9], names[9:]), 1):
        write(tmp_path / f"model-0000{number}-of-00002{suffix}", {name: STATE[name] for name in part})
    for place in (tmp_path, tmp_path / f"model-00002-of-00002{suffix}"):
        assert torch.equal(read_foreign(place, HEADS).ema["patch_in.bias"], STATE["x_embedder.proj.bias"])
    (tmp_path / f"model-00001-of-00002{suffix}").unlink()
    with pytest.raises(CheckpointError, match="1 of the 2 shards"):
        read_foreign(tmp_path, HEADS)


def test_what_a_training_keeps_beside_the_weights_is_not_asked_about(tmp_path: Path) -> None:
    for name in (
        "optimizer.bin",
        "scheduler.bin",
        "random_states_0.pkl",
        "scaler.pt",
        "training_args.bin",
        "rng_state.pth",
    ):
        (tmp_path / name).write_bytes(b"x")
    write(tmp_path / "model.safetensors", STATE)
    assert taken(tmp_path) == "model.safetensors"
    write(tmp_path / "pytorch_model.bin", STATE)
    assert taken(tmp_path) == "model.safetensors"
    write(tmp_path / "model_1.safetensors", STATE)  # accelerate's second model
    with pytest.raises(UsageError, match=r"weights: model\.safetensors, model_1\.safetensors") as caught:
        find_model(tmp_path)
    assert "model.safetensors`" in str(caught.value.hint)


def test_of_a_folder_of_results_the_newest_checkpoint_is_taken_and_named(tmp_path: Path) -> None:
    results = tmp_path / "000-DiT-S-4"
    for step in (50_000, 100_000):
        write(results / f"checkpoints/{step:07}.pt", {"ema": STATE})
    (results / "log.txt").write_text("x", encoding="utf-8")
    model = find_model(results)
    assert [path.name for path in model.files] == ["0100000.pt"]
    assert "of 2 checkpoints" in model.note and model.note.endswith("the newest: 0100000.pt")
    assert model.note in read_foreign(results, HEADS).notes


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["latest", f"step20/{DEEPSPEED}", "step20/zero_pp_rank_0_mp_rank_00_optim_states.pt"], f"step20/{DEEPSPEED}"),
        (["checkpoint-500/model.safetensors", "checkpoint-1000/model.bin", "log.txt"], "checkpoint-1000/model.bin"),
        (["unpacked/weights.pt"], "unpacked/weights.pt"),
        (["snapshots/abc/model.safetensors", "refs/other"], "snapshots/abc/model.safetensors"),
        (["x.pth.tar"], "x.pth.tar"),
    ],
)
def test_the_model_is_found_where_it_is_kept(tmp_path: Path, files: list[str], expected: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert taken(tmp_path) == expected


def test_in_the_hubs_cache_it_is_that_of_the_main_branch(tmp_path: Path) -> None:
    for commit in ("a" * 40, "b" * 40):
        write(tmp_path / f"models--me--x/snapshots/{commit}/model.safetensors", STATE)
    with pytest.raises(UsageError, match="in the cache of the hub, with the snapshots aaaaaaaaaaaa, bbbbbbbbbbbb"):
        find_model(tmp_path / "models--me--x")
    (tmp_path / "models--me--x/refs").mkdir()
    (tmp_path / "models--me--x/refs/main").write_text("b" * 40, encoding="utf-8")
    assert taken(tmp_path / "models--me--x").startswith(f"snapshots/{'b' * 40}")


@pytest.mark.parametrize(
    ("files", "words", "hint"),
    [
        ([], "is empty", "check the path"),
        (["a.txt", "b.txt"], "holds no file of weights; it has a.txt, b.txt", ".safetensors"),
        (["__0_0.distcp"], "torch.distributed.checkpoint, and lacks .metadata", "where the parts of tensors are"),
        (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "ZeRO-3", "zero_to_fp32.py"),
        (["transformer/config.json", "vae/config.json"], "lacks model_index.json", "whole folder"),
        (["a.pt", "b.pt"], "several files of weights: a.pt, b.pt", "a.pt`"),
    ],
)
def test_a_folder_that_holds_no_model_is_called_what_it_is(
    tmp_path: Path, files: list[str], words: str, hint: str
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(DitkitError, match=words) as caught:
        find_model(tmp_path)
    assert hint in str(caught.value.hint)


@pytest.mark.usefixtures("links")
def test_a_folder_whose_only_entry_leads_back_to_it_holds_no_model(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/again").symlink_to(tmp_path / "x")
    with pytest.raises(CheckpointError, match="holds no file of weights"):
        find_model(tmp_path / "x")


# --- settings beside the weights


def test_what_is_said_beside_the_weights_is_believed_and_named(tmp_path: Path) -> None:
    state = Meta(width=64, heads=2, classes=3).state_dict()
    path = write(tmp_path / "x/checkpoints/model.safetensors", state)
    with pytest.raises(UsageError, match="how many heads"):
        read_foreign(path)
    (tmp_path / "x/args.json").write_text('{"num_heads": 2, "class_dropout_prob": 0}', encoding="utf-8")
    foreign = read_foreign(path)
    assert foreign.info.config.model.heads == 2 and len(foreign.info.labels) == 4
    assert "what args.json beside it says is believed" in foreign.notes
    (tmp_path / "x/args.json").write_text('{"num_heads": 2, "architectures": ["CLIPModel"]}', encoding="utf-8")
    with pytest.raises(UsageError, match="how many heads"):
        read_foreign(path)
    header = {"config": json.dumps({"num_heads": 2})}
    path.write_bytes(b"".join(map(bytes, safetensors.pieces(state, header))))
    assert read_foreign(path).info.config.model.heads == 2
