"""What a run takes, against what it then took: memory, operations, files, and how a batch is split to fit."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from patience import scaled
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditkit import recipes
from ditkit.checkpoint.loading import build_network
from ditkit.config import RunConfig
from ditkit.estimation import activations
from ditkit.estimation import memory as estimation_memory
from ditkit.estimation.speed import process_bytes
from ditkit.objectives.contract import open_objective
from ditkit.runtime import peak_flops

CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")
SWITCHES = (
    {"norm": "rms", "mlp": "swiglu", "qk_norm": True, "rope": True},
    {"norm": "layer", "mlp": "gelu-tanh", "qk_norm": False, "rope": False},
)
EACH = [(conditioning, switches) for conditioning in CONDITIONINGS for switches in SWITCHES]


def _config(conditioning: str = "adaln-zero", train: dict | None = None, **model) -> RunConfig:
    base = {"width": 48, "depth": 4, "heads": 4, "patch": 4, "conditioning": conditioning, **model}
    return recipes.load("mnist", {"model": base, "train": train or {}})


def _case(config: RunConfig, images: int) -> tuple[torch.Tensor, ...]:
    x_BCHW = torch.zeros(images, *config.shape)
    label_B = torch.zeros(images, dtype=torch.int64)
    return x_BCHW, label_B, torch.full((images,), 500.0), torch.zeros_like(x_BCHW)


# --- operations


@pytest.mark.parametrize(("conditioning", "switches"), EACH, ids=str)
def test_operations_are_those_that_torch_counts(conditioning: str, switches: dict) -> None:
    config = _config(conditioning, **switches)
    network, objective = build_network(config, 10), open_objective(config.diffusion)
    # attention by plain products: those of the fused kernel are not counted
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        loss_B = objective.loss_at(network, *_case(config, 4))
        forward = counter.get_total_flops() / 4
        loss_B.sum().backward()
    assert peak_flops.forward_flops(config) == pytest.approx(forward, rel=0.01)
    gauge = peak_flops.Utilization(image_flops=3 * peak_flops.forward_flops(config), peak=1e9)
    assert gauge.image_flops == pytest.approx(counter.get_total_flops() / 4, rel=0.1)


# --- memory


@pytest.mark.parametrize(("conditioning", "switches"), EACH, ids=str)
def test_a_rehearsal_finds_what_a_real_step_of_the_whole_network_takes(
    conditioning: str, switches: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(conditioning, **switches)
    activations.activation_bytes.cache_clear()
    rehearsed = activations.activation_bytes(config, 10, 6, torch.float32, again=False)
    activations.activation_bytes.cache_clear()
    monkeypatch.setattr(activations, "FakeTensorMode", contextlib.nullcontext)
    monkeypatch.setattr(activations, "_DEPTHS", (config.model.depth,))
    really = activations.activation_bytes(config, 10, 6, torch.float32, again=False)
    activations.activation_bytes.cache_clear()
    assert rehearsed == pytest.approx(really, rel=0.02)
    assert rehearsed > _kept_by_autograd(config, 6)


def _kept_by_autograd(config: RunConfig, images: int) -> int:
    """Bytes that backward needs, by another way of counting."""
    network, objective = build_network(config, 10), open_objective(config.diffusion)
    weights = {one.untyped_storage().data_ptr() for one in (*network.parameters(), *network.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss_B = objective.loss_at(network, *_case(config, images))
    assert loss_B.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.slow
def test_more_parts_take_less_and_gradients_of_an_earlier_part_count() -> None:
    config = _config(train={"batch_size": 64})
    setting = estimation_memory.RunSetup(config=config, labels=10, images=60_000, process_bytes=10**8)
    totals = [estimation_memory.memory_needed(setting, parts).total for parts in (1, 2, 4, 8)]
    assert totals == sorted(totals, reverse=True)
    once, again = (activations.activation_bytes(config, 10, 16, torch.float32, again=again) for again in (False, True))
    assert again > once


def test_half_precision_keeps_less() -> None:
    config = _config(train={"batch_size": 64})
    both = [
        activations.activation_bytes(config, 10, 64, dtype, again=False) for dtype in (torch.bfloat16, torch.float32)
    ]
    assert both[0] < 0.85 * both[1]


def test_a_rehearsal_draws_no_random_number() -> None:
    before = torch.random.get_rng_state()
    activations.activation_bytes.cache_clear()
    activations.activation_bytes(_config(), 10, 3, torch.float32, again=False)
    peak_flops.measured_peak(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.slow
def test_a_batch_is_split_into_the_fewest_even_parts_that_fit() -> None:
    config = _config(train={"batch_size": 96})
    setting = estimation_memory.RunSetup(config=config, labels=10, images=0)
    needs = {parts: estimation_memory.memory_needed(setting, parts).total for parts in (1, 2, 3, 96)}
    assert estimation_memory.fitting_parts(setting, needs[1]) == 1
    assert estimation_memory.fitting_parts(setting, needs[1] - 1) == 2
    assert estimation_memory.fitting_parts(setting, needs[2] - 1) == 3
    assert estimation_memory.fitting_parts(setting, needs[96] - 1) is None
    assert estimation_memory.fitting_parts(setting, needs[1], at_least=4) == 4


# The peak of this program: ru_maxrss is no less than that of the process which started it.
RUN = (
    "import sys; from ditkit.cli.app import main; code = main(sys.argv[1:]);"
    "lines = open('/proc/self/status', encoding='ascii').read().splitlines();"
    "print(next(int(line.split()[1]) * 1024 for line in lines if line.startswith('VmHWM'))); sys.exit(code)"
)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured with glibc's allocator")
@pytest.mark.parametrize(
    "words",
    [
        "--set model.patch=4",
        "--batch-size 32 --set model.patch=2 --set model.depth=2",
        "--batch-size 64 --set model.patch=2 --set model.depth=2 --set model.width=96 --set train.accumulate=4 "
        "--set model.conditioning=cross-attention --set model.mlp=gelu-tanh --set model.norm=layer",
    ],
)
def test_a_run_takes_the_memory_that_was_estimated_within_a_tenth(words: str, tmp_path: Path) -> None:
    words = f"mnist --steps 2 --device cpu {words} --set sample.steps=1"
    trained = _output(tmp_path, "-c", RUN, "train", *words.split(), "--quiet")
    memory = json.loads(_output(tmp_path, "-m", "ditkit", "estimate", *words.split(), "--no-probe", "--json"))["memory"]
    # two steps decode few of the images that a whole run keeps
    assert memory["total"] - memory["images"] == pytest.approx(int(trained), rel=0.1)


def _output(place: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, encoding="utf-8", cwd=place, timeout=scaled(300)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- files


def test_a_checkpoint_is_as_large_as_was_said(tmp_path: Path, tiny) -> None:
    from ditkit.training.loop import train

    config = tiny(train={"steps": 12, "keep": 2})
    folder = train(config, tmp_path / "run", device="cpu")
    said = estimation_memory.disk(config, 10, 60_000)
    sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in (folder / "checkpoints").iterdir()]
    assert said.checkpoint == pytest.approx(max(sizes), rel=0.1)
    assert max(sizes) * len(sizes) <= said.checkpoints <= said.checkpoint * (len(sizes) + 2)
    rows = sum((folder / name).stat().st_size for name in ("metrics.jsonl", "timing.jsonl"))
    assert said.metrics == pytest.approx(rows, rel=0.35)


def test_checkpoints_that_are_kept_permanently_need_room() -> None:
    def checkpoints(**train) -> int:
        config = _config(train={"steps": 10_000, "save_every": 1000, **train})
        said = estimation_memory.disk(config, 10, 0)
        return said.checkpoints // said.checkpoint

    assert checkpoints(keep=2) == 4  # the last two, the best, and the one that is being written
    assert checkpoints(keep=2, keep_every=5000) == 6
    assert checkpoints(keep=900) == 11
    assert checkpoints(steps=10) == 2
    assert checkpoints(keep=900, keep_every=1500) == 10 + 6 - 3 + 1  # those of both count once


def test_latents_of_mirrored_images_with_a_spread_are_four_halves_a_value() -> None:
    sizes = {"name": "kl", "source": "somewhere", "channels": 4, "shrink": 8}
    settings = {"autoencoder": sizes, "data": {"image_size": 64, "flip": True, "validation": 100, "channels": 3}}
    config = recipes.load("mnist", {**settings, "model": {"patch": 2}})
    assert estimation_memory.disk(config, 10, 1000).latents == 2 * 4 * 8 * 8 * (1000 * 4 + 100 * 2)
    assert estimation_memory.disk(_config(), 10, 1000).latents == 0


# --- the peak


@pytest.mark.parametrize(
    ("name", "bfloat16", "float32", "tf32"),
    [
        ("NVIDIA A100-SXM4-80GB", 312, 19.5, 156),
        ("NVIDIA A10G", 70, 35, 35),
        ("NVIDIA A10", 125, 31.2, 62.5),
        ("NVIDIA L4", 121, 30.3, 60),
        ("NVIDIA L40S", 362, 91.6, 183),
        ("NVIDIA H100 80GB HBM3", 989.4, 67, 494.7),
        ("NVIDIA H100 PCIe", 756, 51, 378),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6, 82.6),
        ("Tesla V100-SXM2-16GB", None, 15.7, 15.7),
        ("NVIDIA GeForce RTX 3090 Ti", 80, 40, 40),
        ("NVIDIA GeForce RTX 4080 SUPER", 104.4, 52.2, 52.2),
        ("NVIDIA H20", 148, 44, 74),
        ("NVIDIA H200", 989.4, 67, 494.7),
        ("NVIDIA H200 NVL", 835.5, 60, 417.5),
        ("NVIDIA B300 SXM6 AC", 2250, 75, 1125),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None, None),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None, None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None, None),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q", None, None, None),
        ("Some Other GPU L400", None, None, None),
    ],
)
def test_data_sheets_are_found_by_the_devices_name(
    name: str, bfloat16: float | None, float32: float | None, tf32: float | None
) -> None:
    found = [
        peak_flops.data_sheet(name, torch.bfloat16, tf32=True),
        peak_flops.data_sheet(name, torch.float32, tf32=False),
        peak_flops.data_sheet(name, torch.float32, tf32=True),
    ]
    assert found == [None if one is None else one * 1e12 for one in (bfloat16, float32, tf32)]


def test_the_share_of_the_peak_is_operations_a_second_over_it() -> None:
    assert peak_flops.Utilization(image_flops=2e9, peak=1e11).of_peak(25) == 0.5
    assert peak_flops.Utilization(image_flops=2e9, peak=None).of_peak(25) is None
    two = peak_flops.open_utilization(_config(), torch.device("cpu"), torch.float32, processes=2)
    assert two.image_flops == 3 * peak_flops.forward_flops(_config())
    assert two.peak and 1e8 < two.peak < 1e14


def test_bfloat16_that_is_slow_does_not_hold_up_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = []
    monkeypatch.setattr(peak_flops.torch, "mm", lambda matrix, _other, out: sides.append(len(matrix)))
    clock = iter(range(10_000))
    monkeypatch.setattr(peak_flops.time, "perf_counter", lambda: float(next(clock)))
    assert peak_flops.measured_peak(torch.float32) == 2 * 256**3
    assert set(sides) == {256}


def test_kept_images_are_those_of_pixels_that_fit() -> None:
    setting = estimation_memory.RunSetup(config=_config(), labels=10, images=1000)
    assert estimation_memory.memory_needed(setting, 1).images == 1000 * 28 * 28
    workers = dataclasses.replace(setting.config, data=dataclasses.replace(setting.config.data, workers=2))
    assert estimation_memory.memory_needed(dataclasses.replace(setting, config=workers), 1).images == 0
    assert estimation_memory.memory_needed(dataclasses.replace(setting, images=10**9), 1).images == 0


def test_kept_images_on_a_gpu_are_pixels_or_latents_that_fit_into_its_room() -> None:
    latents = recipes.load("celeba-latent")  # float16, and mirrored
    with_spread = recipes.load("celeba-latent", {"autoencoder": {"name": "kl"}})
    one = 2 * 2 * math.prod(latents.shape)
    for config, each in ((_config(), 28 * 28), (latents, one), (with_spread, 2 * one)):
        device = torch.device("cuda")
        for most, kept in ((1000 * each, 1000 * each), (1000 * each - 1, 0)):
            setting = estimation_memory.RunSetup(config=config, labels=10, images=1000, device=device, room=most)
            assert estimation_memory.memory_needed(setting, 1).images == kept
    assert (
        estimation_memory.memory_needed(estimation_memory.RunSetup(config=latents, labels=10, images=1000), 1).images
        == 0
    )


def test_a_process_measures_its_peak_once_for_each_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_flops, "_peak_of_process", functools.cache(peak_flops._peak_of_process.__wrapped__))
    measured = iter([1e9, 2e9])
    monkeypatch.setattr(peak_flops, "measured_peak", lambda _dtype: next(measured))
    threads = [1, 1, 2, 1]
    monkeypatch.setattr(peak_flops.torch, "get_num_threads", lambda: threads.pop(0))
    found = [peak_flops.peak_flops(torch.device("cpu"), torch.float32) for _ in range(4)]
    assert found == [1e9, 1e9, 2e9, 1e9]


def test_what_this_process_holds_is_known_without_files_of_linux(monkeypatch):
    def missing(path, **_options):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    assert 50e6 < process_bytes() < 50e9
