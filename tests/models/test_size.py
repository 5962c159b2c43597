"""What a network will cost, computed before it is built."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from patience import scaled

from ditkit import recipes
from ditkit.config import RunConfig
from ditkit.errors import UsageError
from ditkit.estimation import fits
from ditkit.models import presets, size
from ditkit.models.dit import DiT
from ditkit.runtime import memory

SWITCHES = [
    {},
    {"norm": "rms"},
    {"mlp": "swiglu"},
    {"mlp": "gelu", "mlp_ratio": 2.7},
    {"qk_norm": True},
    {"rope": True, "positions": "1d"},
    {"learned_sigma": True},
    {"patch": 14, "heads": 4, "depth": 3},
    {"frequency_size": 40, "frequency_shift": 1},
    {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "rope": True, "learned_sigma": True, "mlp_ratio": 3.3},
]


def _config(model: dict, channels: int = 1) -> RunConfig:
    base = {"width": 48, "depth": 2, "heads": 6, "patch": 7, **model}
    sigma = {"process": "diffusion", "objective": "learned-sigma"} if base.get("learned_sigma") else {}
    sampler = {"sampler": "ddpm"} if sigma else {}
    return recipes.load("mnist", {"model": base, "data": {"channels": channels}, "diffusion": sigma, "sample": sampler})


def _counted(config: RunConfig, labels: int) -> int:
    with torch.device("meta"):
        network = DiT(config.model, channels=config.data.channels, size=config.data.image_size, classes=labels)
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("conditioning", ["in-context", "cross-attention", "adaln", "adaln-zero"])
@pytest.mark.parametrize("switches", SWITCHES, ids=str)
def test_parameters_are_counted_exactly(conditioning: str, switches: dict):
    for channels, labels in ((1, 10), (3, 0)):
        config = _config({**switches, "conditioning": conditioning}, channels)
        assert size.parameters(config, labels) == _counted(config, labels)


@pytest.mark.parametrize("preset", presets.names())
def test_every_preset_is_counted_exactly(preset: str):
    patch = int(preset.partition("/")[2])
    config = recipes.load("mnist", {"model": {"preset": preset}, "data": {"image_size": 8 * patch}})
    assert size.parameters(config, 1000) == _counted(config, 1000)


def test_a_checkpoint_is_four_floats_a_parameter_and_training_more():
    config = _config({})
    count = size.parameters(config, 10)
    assert size.checkpoint_bytes(config, 10) == 16 * count
    assert fits.training_bytes(config, 10) > 20 * count
    larger = dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=640))
    images = 640 - config.train.batch_size
    assert fits.training_bytes(larger, 10) - fits.training_bytes(config, 10) == images * 2 * 4 * 28 * 28


def test_a_batch_that_fits_only_in_parts_is_not_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(fits, "GPU_DEVICES", ())
    tokens = {"data": {"image_size": 128}, "model": {"preset": "dit-s/4"}, "train": {"batch_size": 256}}
    fits.check_size(recipes.load("folder", tokens), 10)  # 34 GB of activations at once


def test_the_estimate_is_below_what_training_really_takes(tmp_path: Path):
    """A model must never be refused that would have fitted: weights, gradients, moments and EMA alone are the floor."""
    config = _config({"width": 192, "depth": 8})
    network = DiT(config.model, channels=1, size=(28, 28), classes=10)
    optimizer = torch.optim.AdamW(network.parameters())
    x_BCHW, timestep_B, label_B = torch.zeros(32, 1, 28, 28), torch.zeros(32), torch.zeros(32, dtype=torch.int64)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(x_BCHW, timestep_B, label_B).square().mean().backward()
    optimizer.step()
    weights = sum(parameter.nbytes for parameter in network.parameters())
    held = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    activations = sum(nbytes for pointer, nbytes in kept.items() if pointer not in held)
    estimate = fits.training_bytes(
        dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=32)), 10
    )
    assert estimate <= 5 * weights + activations + x_BCHW.nbytes


# --- refusing


def test_a_model_larger_than_the_machine_is_refused_with_the_estimate(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(fits, "GPU_DEVICES", ())
    config = recipes.load("mnist", {"model": {"width": 8192, "depth": 128, "heads": 64}})
    with pytest.raises(UsageError) as caught:
        fits.check_size(config, 10)
    count = size.parameters(config, 10)
    assert 150e9 < count < 160e9
    assert caught.value.message == (
        "this model has 155 G parameters and needs about 3.1 TB to train; this machine has 16 GB"
    )
    assert "model.width" in str(caught.value.hint)


def test_a_batch_larger_than_the_machine_is_refused_with_another_hint(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(fits, "GPU_DEVICES", ())
    config = recipes.load("folder", {"train": {"batch_size": 1_000_000}})
    with pytest.raises(UsageError, match=r"7\.46 M parameters and needs about 98.5 GB to train") as caught:
        fits.check_size(config, 10)
    assert "--batch-size" in str(caught.value.hint)


def test_where_there_is_a_gpu_only_what_no_gpu_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(fits, "machine_memory", lambda: 10**6)
    monkeypatch.setattr(fits, "GPU_DEVICES", (str(tmp_path),))
    fits.check_size(recipes.load("paper"), 10)
    with pytest.raises(UsageError, match=r"no GPU has more than 288 GB"):
        fits.check_size(recipes.load("mnist", {"model": {"width": 8192, "depth": 128, "heads": 64}}), 10)


@pytest.mark.parametrize("name", recipes.descriptions())
def test_every_recipe_fits_a_small_machine(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fits, "machine_memory", lambda: 16 * 10**9)
    monkeypatch.setattr(fits, "GPU_DEVICES", ())
    fits.check_size(recipes.load(name), 1000)


def test_a_machine_that_does_not_say_refuses_nothing(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise OSError("this system does not say")

    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    assert memory.machine_memory() is None and memory.free_memory() is None
    fits.check_size(recipes.load("mnist", {"model": {"width": 8192, "depth": 128, "heads": 64}}), 10)


def test_memory_is_that_of_the_machine_or_of_the_container(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(memory, "_container_limits", list)
    physical = memory.machine_memory()
    assert physical and 2**28 < physical < 2**50
    monkeypatch.setattr(memory, "_container_limits", lambda: [2**63 - 4096, 12345])
    assert memory.machine_memory() == 12345


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/a/b\n", {"a/memory.max": "2000", "a/b/memory.max": "max", "memory.max": "3000\n"}, [2000, 3000]),
        ("4:memory:/x\n0::/\n", {"memory/x/memory.limit_in_bytes": "77", "memory.max": "junk"}, [77]),
        ("garbage\n", {}, []),
    ],
)
def test_a_container_s_limits_are_read_of_both_interfaces(
    tmp_path: Path, groups: str, files: dict[str, str], expected: list[int]
):
    for name, text in files.items():
        (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sys" / name).write_text(text, encoding="utf-8")
    (tmp_path / "cgroup").write_text(groups, encoding="utf-8")
    assert sorted(memory._container_limits(tmp_path / "sys", tmp_path / "cgroup")) == expected


def test_a_size_bomb_is_refused_before_torch_loads_and_before_a_folder_exists(tmp_path: Path):
    code = (
        "import sys; from ditkit.cli.app import main; code = main(sys.argv[1:]);"
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    words = "train mnist --set model.width=8192 --set model.depth=128 --set model.heads=64 --set data.image_size=16380"
    command = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=scaled(60))
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: this model has 155 G parameters and needs about ")
    assert len(done.stderr.splitlines()) == 2 and list(tmp_path.iterdir()) == []
