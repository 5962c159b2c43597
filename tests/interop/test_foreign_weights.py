"""Other projects' weights: their networks, written anew in foreign.py, agree with ditkit's of the converted tensors."""

from __future__ import annotations

import argparse
import os
import pickle
import types
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers_folder import edit, write_stock
from foreign import Meta, Original
from torch import Tensor

from ditkit import load, recipes
from ditkit.checkpoint.loading import build_network
from ditkit.errors import CheckpointError, DataError, UsageError
from ditkit.interop.base import ForeignModel, class_names, imagenet, short_names
from ditkit.interop.detect import read_foreign
from ditkit.interop.import_model import write_foreign_as_run
from ditkit.io import safetensors
from ditkit.latents.codec import check_same_autoencoder
from ditkit.models.dit import DiT
from ditkit.objectives.contract import open_objective, to_clean_and_noise
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import METADATA_KEY, LatentStats, ModelInfo
from ditkit.samplers.contract import open_scheduler, set_steps
from ditkit.sampling.generate import draw

HEADS = {"model": {"heads": 4}}


def network_of(foreign: ForeignModel, tensors: dict[str, Tensor] | None = None) -> DiT:
    network = build_network(foreign.info.config, len(foreign.info.labels))
    network.load_state_dict(tensors or foreign.ema)
    return network.eval().requires_grad_(False)


def noisy(count: int, channels: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(7))


def sampler_timesteps(foreign: ForeignModel, steps: int = 6) -> Tensor:
    """Where ditkit's own sampler calls the network."""
    config = foreign.info.config
    process = open_objective(config.diffusion).process
    return set_steps(open_scheduler(config.sample.sampler, process), process, steps)


# --- the original


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_the_original_and_its_import_agree_at_the_samplers_timesteps(tmp_path: Path, prefix: str) -> None:
    original = Original(size=(8, 12)).eval()
    original.save(tmp_path / "ckpt.pt", prefix=prefix)
    foreign = read_foreign(tmp_path / "ckpt.pt")
    network, timestep_N = network_of(foreign), sampler_timesteps(foreign)
    assert len(timestep_N) == 6 and timestep_N[0] == 998
    label_N = torch.tensor([0, 1, 2, 0, 1, 2])
    x_NCHW = noisy(6, 3, (8, 12))
    with torch.no_grad():
        expected = original(x_NCHW, timestep_N + 1, label_N)  # its abar_0 is 1
    found = network(x_NCHW, timestep_N, label_N)
    assert expected.std() > 0.3 and (found - expected).abs().max() < 1e-5
    table_NLF = network.modulation_table(timestep_N, torch.arange(3))
    by_table = network(x_NCHW, timestep_N, label_N, table_NLF[torch.arange(6), label_N])
    assert (by_table - expected).abs().max() < 1e-5
    with torch.no_grad():
        assert (found - original(x_NCHW, timestep_N, label_N)).abs().max() > 1e-2


def test_the_original_at_its_full_number_of_tokens(tmp_path: Path) -> None:
    original = Original(size=(128, 128), patch=4, width=32, depth=1).eval()
    original.save(tmp_path / "ckpt.pt")
    x_NCHW, timestep_N, label_N = noisy(2, 3, (128, 128)), torch.tensor([0.0, 998.0]), torch.tensor([1, 2])
    found = network_of(read_foreign(tmp_path / "ckpt.pt"))(x_NCHW, timestep_N, label_N)
    with torch.no_grad():
        assert (found - original(x_NCHW, timestep_N + 1, label_N)).abs().max() < 1e-5


def test_the_originals_noise_levels_labels_losses_and_raw_weights_come_along(tmp_path: Path) -> None:
    original, path = Original(), tmp_path / "celeba/ckpt.pt"  # as its repository has it
    path.parent.mkdir()
    original.save(path, step=700, losses=500)
    foreign = read_foreign(path)
    config = foreign.info.config
    assert (foreign.info.labels, foreign.info.step, foreign.info.latents) == (("female", "male"), 700, None)
    assert foreign.losses[0] == (201, 1.0) and foreign.losses[-1] == (700, 1 / 500) and len(foreign.losses) == 500
    betas = torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)
    abar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)])[: config.diffusion.timesteps + 1]
    timestep_N = torch.arange(config.diffusion.timesteps)
    signal_N, noise_N = open_objective(config.diffusion).process.signal_noise(timestep_N)
    assert len(signal_N) == 999  # its t is below 1000
    assert torch.allclose(signal_N.double() ** 2, abar[1:], atol=1e-7) and torch.allclose(
        noise_N.double() ** 2, 1 - abar[1:], atol=1e-7
    )
    assert foreign.raw is not None
    assert torch.equal(foreign.raw["blocks.1.mlp.first.weight"], 2 * foreign.ema["blocks.1.mlp.first.weight"])


def test_an_original_that_never_dropped_a_label_has_a_null_label_that_adds_nothing(tmp_path: Path) -> None:
    original = Original(size=(28, 28), channels=1, patch=7, rows=10).eval()
    original.save(tmp_path / "ckpt.pt", drop=0.0)
    foreign = read_foreign(tmp_path / "ckpt.pt")
    assert foreign.info.labels == tuple("0123456789") and foreign.info.config.sample.guidance == 1
    x_NCHW, timestep_N = noisy(2, 1, (28, 28)), torch.tensor([3.0, 500.0])
    found = network_of(foreign)(x_NCHW, timestep_N, torch.tensor([10, 10]))
    with torch.no_grad():
        assert (found - original(x_NCHW, timestep_N + 1, None)).abs().max() < 1e-5


# --- Meta's DiT and SiT


def test_metas_dit_and_its_import_agree(tmp_path: Path) -> None:
    meta = Meta().eval()
    foreign = read_foreign(meta.save(tmp_path / "DiT-XL-2-256x256.pt"), HEADS)
    config, network = foreign.info.config, network_of(foreign)
    assert config.model.learned_sigma and config.diffusion.objective == "learned-sigma"
    assert config.shape == (4, 8, 8) and config.data.image_size == (64, 64)
    timestep_N, label_N = sampler_timesteps(foreign), torch.tensor([0, 7, 207, 1000, 999, 1])
    assert timestep_N[0] == 999
    x_NCHW = noisy(6, 4, (8, 8))
    with torch.no_grad():
        expected = meta(x_NCHW, timestep_N, label_N)
    assert expected.shape[1] == 8 and expected.std() > 0.3
    assert (network(x_NCHW, timestep_N, label_N) - expected).abs().max() < 1e-5


def test_metas_dit_without_learned_sigma_predicts_noise(tmp_path: Path) -> None:
    meta = Meta(twice=False, classes=3).eval()
    foreign = read_foreign(meta.save(tmp_path / "0400000.pt"), HEADS)
    assert foreign.info.config.diffusion.objective == "epsilon" and foreign.info.labels == ("0", "1", "2")
    assert foreign.info.step == 400_000
    x_NCHW, timestep_N, label_N = noisy(2, 4, (8, 8)), torch.tensor([0.0, 999.0]), torch.tensor([2, 3])
    with torch.no_grad():
        expected = meta(x_NCHW, timestep_N, label_N)
    assert (network_of(foreign)(x_NCHW, timestep_N, label_N) - expected).abs().max() < 1e-5


def test_a_training_checkpoint_of_meta_gives_both_weights_and_its_arguments_the_heads(tmp_path: Path) -> None:
    meta = Meta(width=384, heads=6, depth=1, classes=2)
    raw = {name: value * 3 for name, value in meta.state_dict().items()}
    raw["pos_embed"] = meta.state_dict()["pos_embed"]
    arguments = argparse.Namespace(model="DiT-S/2", num_classes=2)
    torch.save({"model": raw, "ema": meta.state_dict(), "opt": {}, "args": arguments}, tmp_path / "0000100.pt")
    foreign = read_foreign(tmp_path / "0000100.pt")
    assert foreign.info.config.model.heads == 6 and foreign.raw is not None
    assert torch.equal(foreign.raw["patch_in.bias"], 3 * foreign.ema["patch_in.bias"])


def test_sit_goes_the_other_way_and_its_import_agrees(tmp_path: Path) -> None:
    sit = Meta(seed=1).eval()
    foreign = read_foreign(sit.save(tmp_path / "weights.pt"), HEADS, "sit")
    network, diffusion = network_of(foreign), foreign.info.config.diffusion
    assert foreign.origin == "SiT" and (diffusion.process, diffusion.objective) == ("flow", "velocity")
    assert not foreign.info.config.model.learned_sigma
    noise_N, label_N = sampler_timesteps(foreign), torch.tensor([0, 7, 207, 1000, 999, 1])
    assert noise_N.max() < 1
    x_NCHW = noisy(6, 4, (8, 8))
    with torch.no_grad():
        velocity = sit(x_NCHW, 1 - noise_N, label_N)[:, :4]  # t = 1 is data, and the velocity points to it
    output = network(x_NCHW, noise_N, label_N)
    assert velocity.std() > 0.3 and (output + velocity).abs().max() < 1e-5
    level = noise_N[:, None, None, None]
    clean, _ = to_clean_and_noise("velocity", output, x_NCHW, 1 - level, level)
    assert (clean - (x_NCHW + level * velocity)).abs().max() < 1e-5  # what is left of its path, at once


def test_a_drawing_of_an_imported_sit_is_the_one_of_its_own_path(tmp_path: Path) -> None:
    sit = Meta(seed=1, classes=3).eval()
    settings = {**HEADS, "sample": {"sampler": "flow-euler", "steps": 5}}
    foreign = read_foreign(sit.save(tmp_path / "weights.pt"), settings, "sit")
    settings = recipes.build({"sample": {"sampler": "flow-euler", "steps": 5, "guidance": 1.0}}).sample
    drawn = draw(
        network_of(foreign),
        foreign.info.config.diffusion,
        shape=(4, 8, 8),
        labels=[2],
        null_label=3,
        seeds=[5],
        settings=settings,
        device="cpu",
    )
    levels = [*sampler_timesteps(foreign, 5).tolist(), 0.0]
    x = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))[None]
    with torch.no_grad():
        for now, after in pairwise(levels):
            x = x + (now - after) * sit(x, torch.tensor([1 - now]), torch.tensor([2]))[:, :4]
    assert (drawn - x).abs().max() < 1e-4


def test_a_sit_by_any_name_is_known_by_its_unused_channels(tmp_path: Path) -> None:
    sit = Meta()
    linear: Any = sit.final_layer.linear
    assert read_foreign(sit.save(tmp_path / "weights.pt"), HEADS).origin == "Meta's DiT"
    for one in (linear.weight, linear.bias):
        one.data.view(4, 8, -1)[:, 4:] = 0
    assert read_foreign(sit.save(tmp_path / "weights.pt"), HEADS).origin == "SiT"


def test_latents_of_an_unknown_encoder_are_not_compared() -> None:
    autoencoder: Any = types.SimpleNamespace(fingerprint="abc")
    check_same_autoencoder(autoencoder, LatentStats(mean=(0.0,), std=(1.0,), autoencoder=""))
    with pytest.raises(DataError, match="not those that the network was trained with"):
        check_same_autoencoder(autoencoder, LatentStats(mean=(0.0,), std=(1.0,), autoencoder="abd"))


# --- names


def test_imagenet_has_a_thousand_different_names() -> None:
    names = imagenet()
    assert len(names) == len({name.lower() for name in names}) == 1000 and all(name.strip() == name for name in names)
    assert not any(set(name) & set(",*") for name in names)  # they mean something after --labels
    known = {
        0: "tench",
        2: "white shark",
        134: "crane bird",
        207: "golden retriever",
        517: "crane",
        999: "toilet tissue",
    }
    assert {index: names[index] for index in known} == known
    assert class_names(3) == ("0", "1", "2") and class_names(1000) is names
    assert short_names([f"{name}, Synonymus latinus" for name in names]) == names
    others = tuple(f"kind {number}" for number in range(1000))
    assert short_names(others) == others and short_names(["tench, Tinca tinca"]) == ("tench, Tinca tinca",)


# --- recognition


def test_other_forms_of_known_files_are_read(tmp_path: Path) -> None:
    meta = Meta()
    pieces = safetensors.pieces(dict(meta.state_dict()))
    (tmp_path / "model.safetensors").write_bytes(b"".join(bytes(one) for one in pieces))
    by_safetensors = read_foreign(tmp_path / "model.safetensors", HEADS)
    torch.save(meta.state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    old = read_foreign(tmp_path / "old.pt", HEADS)
    (tmp_path / "folder").mkdir()
    torch.save({f"module.{name}": value.half() for name, value in meta.state_dict().items()}, tmp_path / "folder/x.pt")
    half = read_foreign(tmp_path / "folder", HEADS)
    for name, value in by_safetensors.ema.items():
        assert torch.equal(old.ema[name], value) and torch.allclose(half.ema[name], value, atol=2e-3)
        assert half.ema[name].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_any_type_of_numbers_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in Meta(width=384, heads=6, side=32, classes=2).state_dict().items()}
    torch.save(state, tmp_path / "x.pt")
    (tmp_path / "y.safetensors").write_bytes(b"".join(map(bytes, safetensors.pieces(state))))
    for name in ("x.pt", "y.safetensors"):
        foreign = read_foreign(tmp_path / name)
        assert torch.equal(foreign.ema["patch_in.bias"], state["x_embedder.proj.bias"].float())
    state["pos_embed"] = state["pos_embed"] + 0.01
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="not the usual sines and cosines"):
        read_foreign(tmp_path / "x.pt")


def test_the_projectors_of_a_training_are_left_out(tmp_path: Path) -> None:
    state = Meta().state_dict()
    torch.save({"ema": {**state, "projectors.0.0.weight": torch.ones(4, 4)}, "steps": 12}, tmp_path / "x.pt")
    foreign = read_foreign(tmp_path / "x.pt", HEADS)
    assert foreign.info.step == 12 and any("projectors.0.0.weight" in note for note in foreign.notes)


def test_a_weights_file_of_ditkit_comes_in_as_it_is(tmp_path: Path, tiny) -> None:
    info = ModelInfo(config=tiny(), labels=("a", "b"), step=9)
    tensors = dict(build_network(info.config, 2).state_dict())
    pieces = safetensors.pieces(
        {name: value.bfloat16() for name, value in tensors.items()}, {METADATA_KEY: info.to_json()}
    )
    (tmp_path / "mine.safetensors").write_bytes(b"".join(bytes(one) for one in pieces))
    foreign = read_foreign(tmp_path / "mine.safetensors")
    assert foreign.info == info and foreign.ema.keys() == tensors.keys()
    assert all(torch.equal(foreign.ema[name], value.bfloat16().float()) for name, value in tensors.items())


def test_a_pipeline_that_diffusers_saved_again_has_imagenets_names(tmp_path: Path) -> None:
    stock = write_stock(tmp_path / "stock")
    edit(stock / "model_index.json", id2label=None)  # which it does not save
    found = read_foreign(stock)
    assert found.info.labels == imagenet() and found.names_are_assumed


def test_a_pipeline_of_diffusers_goes_to_its_own_reader(tmp_path: Path) -> None:
    write_stock(tmp_path / "good")
    found = read_foreign(tmp_path / "good", {"sample": {"steps": 3}})
    assert found.origin == "diffusers DiTPipeline" and found.info.config.sample.steps == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no DiTPipeline"):
        read_foreign(tmp_path / "other")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("init_conv.weight", "U-Net of lucidrains"),
        ("inner_model.proj_in.weight", "k-diffusion"),
        ("model.diffusion_model.input_blocks.0.0.weight", "U-Net of Stable Diffusion"),
        ("transformer_blocks.0.norm1.linear.weight", "folder of its whole pipeline"),
        ("something.else", "no model that ditkit knows"),
    ],
)
def test_what_ditkit_does_not_read_is_reported_by_name(tmp_path: Path, name: str, what: str) -> None:
    for tree in ({name: torch.ones(2)}, {"step": 3, "model": {f"model.{name}": torch.ones(2)}}):
        torch.save(tree, tmp_path / "model.pt")
        with pytest.raises(CheckpointError, match=what) as caught:
            read_foreign(tmp_path / "model.pt")
        assert "Meta's DiT" in str(caught.value.hint)


def test_what_does_not_fit_together_is_one_line(tmp_path: Path) -> None:
    def refused(change: dict[str, Tensor | None], match: str, kind: type[Exception] = CheckpointError) -> None:
        state = {**Meta().state_dict(), **change}
        torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "m.pt")
        with pytest.raises(kind, match=match):
            read_foreign(tmp_path / "m.pt", HEADS)

    hostile = {**Original().state_dict(), "label_embed.label_embed.weight": torch.ones(0, 32)}
    for arguments in ({"num_timesteps": 1}, {"num_timesteps": 10**15}, {"H": 0}, {"var_range": ("a", 2)}, {"H": "x"}):
        torch.save({"ema_state": hostile, "model_args": {"num_heads": 4, **arguments}, "step": 1}, tmp_path / "m.pt")
        with pytest.raises((CheckpointError, UsageError)):
            read_foreign(tmp_path / "m.pt")
    refused({"t_embedder.mlp.2.bias": None}, "lacks 't_embedder.mlp.2.bias'")
    refused({"blocks.1.attn.qkv.weight": None}, "lacks 'blocks.1.attn.qkv.weight'")
    refused({"blocks.0.attn.q_norm.weight": torch.ones(16)}, "queries and keys are normalised")
    refused({"blocks.0.attn.bias_table": torch.ones(16)}, "do not belong to that")
    refused({"pos_embed": torch.zeros(1, 16, 64)}, "not the usual sines and cosines")
    refused({"blocks.0.attn.qkv.weight": torch.zeros(10, 64)}, "another network than Meta's DiT: .* has the shape")
    refused({"blocks.1.mlp.fc1.bias": torch.full((256,), torch.nan)}, "not finite")
    torch.save(Meta(width=48).state_dict(), tmp_path / "m.pt")
    with pytest.raises(UsageError, match="how many heads") as caught:
        read_foreign(tmp_path / "m.pt")
    assert "--set model.heads" in str(caught.value.hint)


# --- pickles


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_hostile_pickle_is_read_without_being_executed() -> None:
    meta = Meta()
    torch.save({**meta.state_dict(), "evil": _Evil()}, "zipped.pt")
    torch.save({**meta.state_dict(), "evil": _Evil()}, "old.pt", _use_new_zipfile_serialization=False)
    for path in ("zipped.pt", "old.pt"):
        foreign = read_foreign(Path(path), HEADS)
        assert torch.equal(foreign.ema["patch_in.bias"], meta.state_dict()["x_embedder.proj.bias"])
    for protocol in (0, 2, 4, 5):
        Path(f"bare-{protocol}.pt").write_bytes(pickle.dumps({"ema": _Evil()}, protocol))
        with pytest.raises(CheckpointError, match=r"but (posix|nt)\.mkdir, which ditkit neither imports nor calls"):
            read_foreign(Path(f"bare-{protocol}.pt"))
    assert not Path("executed").exists()
    pickle.loads(Path("bare-4.pt").read_bytes())  # noqa: S301
    assert Path("executed").is_dir()  # the trap works


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".pth.tar", ""])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "is empty"),
        (b"nothing" * 99, "was not written by torch.save, or it is damaged|is no .safetensors file"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 675129633\n", "is a pointer of Git LFS"),
        (b"PK\x03\x04" + bytes(99), "is cut short"),
        (b"\x80\x04.", "was not written by torch.save, or it is damaged|is no .safetensors file"),
        (b"\x1f\x8b" + bytes(99), "is compressed by gzip"),
        (bytes(257) + b"ustar" + bytes(99), "is a tar archive"),
    ],
)
def test_a_file_that_is_none_of_weights_is_called_what_it_is(
    tmp_path: Path, content: bytes, what: str, suffix: str
) -> None:
    (tmp_path / f"model{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match=what) as caught:
        read_foreign(tmp_path / f"model{suffix}")
    assert caught.value.hint


def test_a_checkpoint_cut_short_is_damaged(tmp_path: Path) -> None:
    whole = Meta().save(tmp_path / "model.pt").read_bytes()
    (tmp_path / "model.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cut short"):
        read_foreign(tmp_path / "model.pt")


# --- keeping


def test_what_is_kept_is_whole_and_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITKIT_RUNS", str(tmp_path / "runs"))
    original = Original().eval()
    original.save(tmp_path / "ckpt.pt")
    folder = RunFolder(tmp_path / "runs/faces")
    write_foreign_as_run(folder, read_foreign(tmp_path / "ckpt.pt"), "somewhere")
    assert folder.is_imported() and [row["step"] for row in folder.metrics()][-1] == 700
    trained, raw = load("faces"), load("faces", ema=False)
    x_NCHW, timestep_N, label_N = noisy(1, 3, (8, 8)), torch.tensor([9.0]), torch.tensor([1])
    with torch.no_grad():
        expected = original(x_NCHW, timestep_N + 1, label_N)
        assert (trained.network(x_NCHW, timestep_N, label_N) - expected).abs().max() < 1e-5
    assert torch.equal(raw.network.label.weight, 2 * trained.network.label.weight)
    damaged = folder.checkpoint(700) / "ema.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load("faces")


def test_a_failure_while_keeping_leaves_nothing_and_the_old_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = read_foreign(Meta().save(tmp_path / "model.pt"), HEADS)
    folder = RunFolder(tmp_path / "runs/meta")
    write_foreign_as_run(folder, foreign, "first")
    before = sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*"))

    def refuse(*_: Any) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ditkit.runs.manifest.write", refuse)
    with pytest.raises(Exception, match="No space left"):
        write_foreign_as_run(folder, foreign, "second")
    assert sorted((path, path.stat().st_mtime_ns) for path in (tmp_path / "runs").rglob("*")) == before


def test_safetensors_of_any_type_of_numbers_are_read(tmp_path: Path) -> None:
    pytest.importorskip("safetensors", "0.7", "earlier ones do not write all of them")
    from safetensors.torch import save_file

    numbers = {
        str(dtype): torch.tensor([1.0, 2.0]).to(dtype)
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16, torch.uint32, torch.uint64, torch.int8)
    }
    save_file(numbers, tmp_path / "x.safetensors")
    tensors = safetensors.parse(bytearray((tmp_path / "x.safetensors").read_bytes()), tmp_path)
    assert all(tensors[name].dtype == value.dtype for name, value in numbers.items())
    assert all(torch.equal(tensors[name].float(), value.float()) for name, value in numbers.items())
