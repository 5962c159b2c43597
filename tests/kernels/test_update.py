"""The update of the weights by a kernel against torch's fused AdamW and lerp, and what is left to torch after it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from training_runs import digest, run

from ditkit import optim
from ditkit.checkpoint.tensors import Trainable
from ditkit.config import OptimConfig
from ditkit.ema import Ema, PowerEmas
from ditkit.kernels import update as kernel_update
from ditkit.kernels.blocks import FastBlocks
from ditkit.kernels.library import KernelsUnavailable, open_library
from ditkit.kernels.update import OnePass, WeightUpdate
from ditkit.models.dit import DiT
from ditkit.runs.folder import RunFolder
from ditkit.training.step import SpeedOptions

CHUNK = kernel_update._CHUNK
SIZES = (1, 3, 17, 64, 1000, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5)
DECAYS = (0.5, 0.999, 0.1)  # of the averages: of half, little and much of the way to the weight


@pytest.fixture(scope="module", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The library is compiled once for the whole file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DITKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        try:
            open_library()
        except KernelsUnavailable as error:
            pytest.skip(f"no kernels: {error}")
    yield


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """`threads(n)`: torch computes with n threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@dataclass
class Learner:
    """Weights of many sizes with their optimiser and averages, and the two ways to update them."""

    network: nn.Module
    optimizer: torch.optim.AdamW
    averages: list[nn.Module]

    @classmethod
    def new(cls, averages: int = len(DECAYS), beta2: float = 0.99) -> Learner:
        torch.manual_seed(0)
        network = nn.ParameterList([torch.randn(size) for size in SIZES])
        groups = [
            {"params": list(network)[::2], "weight_decay": 0.1},
            {"params": list(network)[1::2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, beta2), fused=True)
        copies = [copy.deepcopy(network).requires_grad_(False) for _ in range(averages)]
        return cls(network, optimizer, copies)

    def __post_init__(self) -> None:
        self.kernel = OnePass(self.network, self.optimizer, self.averages)

    def give(self, step: int, scale: float = 1.0) -> None:
        """Gradients that are a function of the step."""
        source = torch.Generator().manual_seed(step)
        for weight in self.network.parameters():
            weight.grad = torch.randn(weight.shape, generator=source) * scale

    def by_torch(self, clip: float | None = None, decays: tuple[float, ...] = DECAYS) -> float:
        norm = optim.norm(self.network)
        optim.clip(self.network, clip, norm)
        self.optimizer.step()
        for average, decay in zip(self.averages, decays, strict=True):
            for mean, weight in zip(average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight.detach(), 1 - decay)
        return float(norm)

    def by_kernel(self, clip: float | None = None, decays: tuple[float, ...] = DECAYS) -> float:
        norm = self.kernel.norm()
        self.kernel.step(decays, clip, norm)
        return float(norm)

    def tensors(self) -> dict[str, Tensor]:
        """All that a step changes."""
        found = {f"weight {n}": weight.detach() for n, weight in enumerate(self.network.parameters())}
        for n, weight in enumerate(self.network.parameters()):
            found |= {f"{slot} {n}": value for slot, value in self.optimizer.state.get(weight, {}).items()}
        for k, average in enumerate(self.averages):
            found |= {f"average {k} {n}": mean for n, mean in enumerate(average.parameters())}
        return found


def assert_near(learner: Learner, other: Learner, tolerance: float = 2e-6) -> None:
    """The same names, and numbers equal to rounding, of the largest one of each tensor."""
    a, b = learner.tensors(), other.tensors()
    assert a.keys() == b.keys()
    for name in a:
        error = (a[name] - b[name]).abs().max() / b[name].abs().max().clamp_min(1e-30)
        assert error < (tolerance if "step" not in name else 1e-30), f"{name}: {float(error):.1e}"


def assert_equal(learner: Learner, other: Learner) -> None:
    a, b = learner.tensors(), other.tensors()
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


@pytest.mark.parametrize("clip", [None, 0.5, 1e6])
@pytest.mark.parametrize("beta2", [0.99, 0.999])
def test_twenty_steps_by_the_kernel_are_twenty_of_torch(clip, beta2):
    learner, reference = Learner.new(beta2=beta2), Learner.new(beta2=beta2)
    for step in range(20):
        decays = (min(0.9, (step + 1) / (step + 10)), (1 - 1 / (step + 1)) ** 7, 0.5)  # the first move is all the way
        rate = 0.01 * (step + 1) / 20
        norms = []
        for one in (learner, reference):
            optim.set_rate(one.optimizer, rate)
            one.give(step, scale=1 / (step + 1))
        norms = learner.by_kernel(clip, decays), reference.by_torch(clip, decays)
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        if step == 0:  # (1 - 1/1)^7 = 0
            pairs = zip(learner.averages[1].parameters(), learner.network.parameters(), strict=True)
            assert all(torch.equal(mean, weight) for mean, weight in pairs)
    assert_near(learner, reference)


def test_gradients_stay_as_they_are_though_they_count_as_clipped():
    learner = Learner.new()
    learner.give(0)
    before = [weight.grad.clone() for weight in learner.network.parameters()]
    learner.by_kernel(clip=0.1)
    assert all(map(torch.equal, before, [weight.grad for weight in learner.network.parameters()]))


def test_any_number_of_threads_gives_the_same_bits(threads):
    learners, norms = [], []
    for count in (1, 2, 3, 7):
        threads(count)
        learner = Learner.new()
        for step in range(3):
            learner.give(step)
            norms.append((step, learner.by_kernel(clip=1.0)))
        learners.append(learner)
        assert_equal(learner, learners[0])
    assert len(set(norms)) == 3


def test_bits_do_not_depend_on_where_tensors_lie():
    learner, other = Learner.new(), Learner.new()
    for weight in other.network.parameters():  # loaded tensors may lie anywhere
        room = torch.empty(weight.numel() + 1)[1:]
        weight.data = room.copy_(weight.detach())
    norms = []
    for step in range(2):
        for one in (learner, other):
            one.give(step)
        for weight in other.network.parameters():
            weight.grad = torch.empty(weight.numel() + 3)[3:].copy_(weight.grad)
        norms.append((learner.by_kernel(), other.by_kernel()))
    assert all(a == b for a, b in norms)
    assert_equal(learner, other)


def test_a_weight_without_gradient_stays_and_only_its_averages_move():
    learner, reference = Learner.new(), Learner.new()
    for step in range(4):
        for one in (learner, reference):
            one.give(step)
            if step != 2:
                one.network[5].grad = None
            one.network[1].grad = None
        assert learner.by_kernel(1.0) == pytest.approx(reference.by_torch(1.0), rel=1e-5)
    assert_near(learner, reference)
    assert learner.network[1] not in learner.optimizer.state
    assert [float(learner.optimizer.state[learner.network[n]]["step"]) for n in (0, 5)] == [4, 1]
    assert torch.equal(learner.network[1], Learner.new().network[1])


def test_gradients_need_not_be_contiguous():
    learner, other = Learner.new(), Learner.new()
    for one in (learner, other):
        one.give(0)
    weight = other.network[4]
    weight.grad = torch.stack([weight.grad, torch.full_like(weight.grad, math.nan)], 1)[:, 0]
    assert not weight.grad.is_contiguous()
    assert learner.by_kernel(1.0) == other.by_kernel(1.0)
    assert_equal(learner, other)


def test_a_learning_rate_of_0_leaves_the_weights_as_they_are():
    learner, untouched = Learner.new(), Learner.new()
    optim.set_rate(learner.optimizer, 0.0)
    for step in range(3):
        learner.give(step)
        learner.by_kernel()
    for weight, before in zip(learner.network.parameters(), untouched.network.parameters(), strict=True):
        assert torch.equal(weight, before)
        assert learner.optimizer.state[weight]["step"] == 3
        assert bool((learner.optimizer.state[weight]["exp_avg"] != 0).all())


@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-22, 1e-15])
def test_gradients_of_zero_and_denormal_numbers_are_treated_as_by_torch(scale):
    learner, reference = Learner.new(), Learner.new()
    for step in range(5):
        for one in (learner, reference):
            one.give(step, scale)
        learner.by_kernel(1.0)
        reference.by_torch(1.0)
    a, b = learner.tensors(), reference.tensors()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=3e-44 if "exp" in name else 1e-12)
    if scale == 1e-40:
        assert bool((a["exp_avg 4"] != 0).any())


@pytest.mark.parametrize(
    ("value", "norm"),
    [(math.nan, math.nan), (math.inf, math.inf), (-math.inf, math.inf), (3e19, math.inf), (3e18, 3e18)],
)
@pytest.mark.parametrize("place", [0, CHUNK, -1])
def test_the_norm_says_what_is_not_finite(value, norm, place):
    learner = Learner.new()
    learner.give(0)
    learner.network[8].grad[place] = value
    assert learner.kernel.norm() == pytest.approx(norm, nan_ok=True)
    assert float(optim.norm(learner.network)) == pytest.approx(norm, nan_ok=True)


def test_one_step_may_be_eager_and_the_next_one_not_and_all_is_kept_by_state_dict():
    learner, reference = Learner.new(), Learner.new()
    ways = [Learner.by_torch, Learner.by_kernel, Learner.by_kernel, Learner.by_torch, Learner.by_kernel]
    for step, way in enumerate(ways):
        for one in (learner, reference):
            one.give(step)
        way(learner, 1.0)
        reference.by_torch(1.0)
        if step == 2:
            learner.optimizer.load_state_dict(copy.deepcopy(learner.optimizer.state_dict()))
    assert_near(learner, reference)
    assert learner.optimizer.state_dict()["param_groups"] == reference.optimizer.state_dict()["param_groups"]


def test_a_state_that_is_loaded_goes_on_to_the_last_bit():
    straight, resumed = Learner.new(), Learner.new()
    for step in range(6):
        straight.give(step)
        straight.by_kernel(1.0)
        if step == 2:
            saved = copy.deepcopy((straight.network, straight.averages, straight.optimizer.state_dict()))
    resumed.by_kernel()  # its tables are of tensors that are replaced now
    for one, weights in zip([resumed.network, *resumed.averages], [saved[0], *saved[1]], strict=True):
        one.load_state_dict(weights.state_dict())
    resumed.optimizer.state.clear()
    resumed.optimizer.load_state_dict(saved[2])
    for step in range(3, 6):
        resumed.give(step)
        resumed.by_kernel(1.0)
    assert_equal(straight, resumed)


def with_groups(**settings: Any) -> Learner:
    learner = Learner.new()
    learner.optimizer.param_groups[0].update(settings)
    return learner


def with_another_parameter() -> Learner:
    learner = Learner.new()
    return Learner(nn.ParameterList([*learner.network, torch.zeros(3)]), learner.optimizer, learner.averages)


def with_moments(dtype: torch.dtype, shape: tuple[int, ...]) -> Learner:
    learner = Learner.new()
    learner.give(0)
    learner.by_torch()
    learner.optimizer.state[learner.network[4]]["exp_avg"] = torch.zeros(shape, dtype=dtype)
    return learner


def with_strides() -> Learner:
    learner = Learner.new()
    learner.network[4].data = torch.zeros(1000, 2)[:, 0]
    return learner


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda: Learner.new(averages=5), "at most 4 averages, not 5"),
        (lambda: with_groups(betas=(0.5, 0.9)), "the same betas and eps"),
        (lambda: with_groups(amsgrad=True), "nothing else"),
        (lambda: with_groups(maximize=True), "nothing else"),
        (with_another_parameter, "other parameters than the network"),
        (lambda: with_moments(torch.bfloat16, (1000,)), "contiguous float32 .* not torch.bfloat16 on cpu"),
        (lambda: with_moments(torch.float32, (999,)), r"of \(1000,\); not .* of \(999,\)"),
        (with_strides, r"contiguous .* with strides \(2,\)"),
    ],
)
def test_what_the_kernel_cannot_update_is_refused(build, why):
    with pytest.raises(ValueError, match=why):
        learner = build()
        learner.give(0)
        learner.kernel.step((0.5,) * len(learner.averages))


def test_as_many_decays_as_averages():
    learner = Learner.new()
    learner.give(0)
    with pytest.raises(ValueError, match="argument"):
        learner.kernel.step((0.5,))


def test_changes_of_weights_and_averages_raise_their_versions():
    learner = Learner.new()
    learner.give(0)
    changed = [*learner.network.parameters(), *(mean for one in learner.averages for mean in one.parameters())]
    before = [tensor._version for tensor in changed]
    learner.by_kernel()
    assert all(tensor._version > old for tensor, old in zip(changed, before, strict=True))


def test_an_eager_average_raises_the_versions_of_its_weights_too():
    network = nn.Linear(3, 2)
    ema, powers = Ema(network, 0.9), PowerEmas(network, (0.1,))
    changed = [*ema.network.parameters(), *powers.networks[0.1].parameters()]
    before = [tensor._version for tensor in changed]
    ema.update(network, 1)
    powers.update(network, 1)
    assert all(tensor._version > old for tensor, old in zip(changed, before, strict=True))


def test_copies_in_bfloat16_are_made_again_after_an_update(tiny):
    learner = Learner.new()
    blocks = FastBlocks(tiny().model, torch.bfloat16)
    weight, mean = learner.network[8], learner.averages[0][8]
    old = blocks._in_dtype(weight).clone(), blocks._in_dtype(mean).clone()
    learner.give(0)
    learner.by_kernel()
    for tensor, before in zip((weight, mean), old, strict=True):
        now = blocks._in_dtype(tensor)
        assert torch.equal(now, tensor.detach().bfloat16()) and not torch.equal(now, before)


def dit_update(tiny: Callable[..., Any], *, fast: bool) -> WeightUpdate:
    torch.manual_seed(0)
    config = tiny()
    network = DiT(config.model, channels=1, size=(28, 28), classes=10)
    network.fast_blocks = FastBlocks(config.model) if fast else None
    settings = OptimConfig(weight_decay=0.1)
    averages = PowerEmas(network, (0.05, 0.1))
    return WeightUpdate(network, optim.adamw(network, settings), Ema(network, 0.9), averages, clip=1.0)


def all_tensors(update: WeightUpdate) -> dict[str, Tensor]:
    """Everything that a checkpoint would hold."""
    trainable = Trainable(
        network=update.network, ema=update.ema.network, optimizer=update.optimizer, averages=update.averages
    )
    return {f"{file} {name}": value for file, tensors in trainable.tensors().items() for name, value in tensors.items()}


def test_an_update_of_a_network_with_kernels_is_the_eager_one_to_rounding(tiny, monkeypatch):
    fast, eager = dit_update(tiny, fast=True), dit_update(tiny, fast=False)
    calls = []
    real = OnePass.step
    monkeypatch.setattr(OnePass, "step", lambda self, *given: calls.append(self) or real(self, *given))
    for step in range(1, 5):
        for update in (fast, eager):
            source = torch.Generator().manual_seed(step)
            for parameter in update.network.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=source)
            update(0.01 / step, update.norm(), step)
    assert len(calls) == 4 and len(set(calls)) == 1
    assert {group["lr"] for group in fast.optimizer.param_groups} == {0.01 / 4}
    a, b = all_tensors(fast), all_tensors(eager)
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name] - b[name]).abs().max() <= 3e-6 * b[name].abs().max(), name


@pytest.fixture
def updates(monkeypatch: pytest.MonkeyPatch) -> list[OnePass]:
    """The kernel's steps, one entry each."""
    calls, real = [], OnePass.step
    monkeypatch.setattr(OnePass, "step", lambda self, *given: calls.append(self) or real(self, *given))
    return calls


def test_a_run_with_kernels_that_stops_goes_on_to_the_last_bit(tiny, tmp_path, updates, monkeypatch):
    monkeypatch.delenv("DITKIT_KERNELS", raising=False)
    settings = {"steps": 20, "save_every": 20, "sample_every": 20, "validate_every": 10, "snapshot_every": 20}
    config, speed = tiny(train=settings), SpeedOptions(kernels="on")
    run(config, tmp_path / "straight", speed=speed)
    assert len(updates) == 20 and len(set(updates)) == 1
    run(config, tmp_path / "parts", stop_after=10, speed=speed)
    run(config, tmp_path / "parts")  # with kernels again, as its checkpoint says
    assert len(updates) == 40 and len(set(updates)) == 3
    assert digest(tmp_path / "straight") == digest(tmp_path / "parts")
    newest = [
        tmp_path / name / "checkpoints" / "step-0000020" / "averages.safetensors" for name in ("straight", "parts")
    ]
    assert newest[0].read_bytes() == newest[1].read_bytes()


def test_losses_with_kernels_are_those_without_to_rounding(tiny, tmp_path, updates):
    losses = {}
    for word in ("on", "off"):
        run(tiny(), tmp_path / word, speed=SpeedOptions(kernels=word))
        losses[word] = [row["loss"] for row in RunFolder(tmp_path / word).metrics() if "loss" in row]
    assert len(updates) == len(losses["on"]) == 12
    assert losses["on"] == pytest.approx(losses["off"], rel=1e-4)


def test_a_step_that_is_skipped_moves_only_the_power_averages(tiny, tmp_path, updates, monkeypatch):
    real, seen = kernel_update.OnePass.norm, []
    config = tiny(train={"steps": 6, "save_every": 1, "keep": 6, "snapshot_every": 6})

    def norm(self: OnePass) -> float:
        seen.append(self)
        return math.nan if len(seen) == 4 else real(self)

    monkeypatch.setattr(OnePass, "norm", norm)
    run(config, tmp_path / "r", speed=SpeedOptions(kernels="on"))
    assert len(seen) == 6 and len(updates) == 5

    def same(name: str) -> bool:
        files = [tmp_path / "r" / "checkpoints" / f"step-000000{step}" / f"{name}.safetensors" for step in (3, 4)]
        return all(map(torch.equal, *(load_file(file).values() for file in files)))

    assert {name: same(name) for name in ("model", "ema", "optimizer", "averages")} == {
        "model": True, "ema": True, "optimizer": True, "averages": False,
    }  # fmt: skip
