"""The blocks by kernels against eager torch: outputs and gradients of any network, at any shape, of odd numbers."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ditkit.config import ModelConfig
from ditkit.kernels.blocks import FastBlocks, why_not
from ditkit.kernels.library import KernelsUnavailable, open_library
from ditkit.models.dit import DiT

CONDITIONINGS, NORMS = ("adaln-zero", "adaln", "in-context"), ("rms", "layer")
ACTIVATIONS = ("swiglu", "gelu", "gelu-tanh")
# Of all gradients together: the norm of the difference over their norm. A number of bfloat16 is rounded by up to 4e-3:
# a branch without a gate hands that on.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1.5e-2}
# Of each parameter alone, over its own norm and a thousandth of all: a wrong scale of the QK norm is lost in the sum.
TENSOR_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
GRIDS = {1: (1, 1), 6: (3, 2), 16: (4, 4), 49: (7, 7), 64: (8, 8), 100: (10, 10), 256: (16, 16), 324: (18, 18)}
HEAD_WIDTHS = (8, 12, 16, 24, 32, 64, 96, 128)


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


def model(**settings: object) -> ModelConfig:
    given = {"conditioning": "adaln-zero", "norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}
    return ModelConfig(**{"patch": 2, "width": 32, "depth": 2, "heads": 2, **given, **settings})  # type: ignore


def network(config: ModelConfig, grid: tuple[int, int] = (3, 2), noise: float = 0.05) -> DiT:
    """A network of few tokens whose weights are no special case."""
    torch.manual_seed(0)
    made = DiT(config, channels=1, size=(grid[0] * config.patch, grid[1] * config.patch), classes=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=noise)
    return made


def images_for(made: DiT, images: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    height, width = (side * made.config.patch for side in made.grid)
    source = torch.Generator().manual_seed(1)
    labels = torch.arange(images) % 4
    return torch.randn(images, 1, height, width, generator=source), torch.arange(images) * 300.0 + 1, labels


@dataclass
class Outcome:
    """A network's output, and the gradients of its parameters and of the images."""

    output: Tensor
    gradients: dict[str, Tensor]

    def norm(self) -> float:
        return sum(float(gradient.double().square().sum()) for gradient in self.gradients.values()) ** 0.5

    def error(self, other: Outcome) -> float:
        """The norm of the difference of all gradients over their norm."""
        pairs = ((gradient, other.gradients[name]) for name, gradient in self.gradients.items())
        return sum(float((a.double() - b.double()).square().sum()) for a, b in pairs) ** 0.5 / self.norm()


def outcome(made: DiT, dtype: torch.dtype | None, inputs: tuple[Tensor, ...], scale: float = 1.0) -> Outcome:
    """What a copy of the network gives, by kernels of a dtype or by eager torch, in the network's own precision."""
    made = copy.deepcopy(made)
    made.fast_blocks = None if dtype is None else FastBlocks(made.config, dtype)
    x = inputs[0].to(made.final.linear.weight.dtype, copy=True).requires_grad_()
    output = made(x, *inputs[1:])
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(2)) * scale
    (output * weight).sum().backward()
    gradients = {name: parameter.grad for name, parameter in made.named_parameters() if parameter.grad is not None}
    return Outcome(output.detach().float(), {**gradients, "image": x.grad})  # type: ignore


def compare(made: DiT, images: int = 3, dtype: torch.dtype = torch.float32) -> None:
    inputs = images_for(made, images)
    eager, fast = outcome(made, None, inputs), outcome(made, dtype, inputs)
    assert fast.gradients.keys() == eager.gradients.keys()
    assert (fast.output - eager.output).norm() < TOLERANCE[dtype] * eager.output.norm()
    assert eager.error(fast) < TOLERANCE[dtype]
    for name, gradient in eager.gradients.items():
        allowed = TENSOR_TOLERANCE[dtype] * (gradient.norm() + 1e-3 * eager.norm())
        assert (fast.gradients[name] - gradient).norm() < allowed, name


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_kind_of_block_has_the_gradients_of_eager_torch(conditioning, dtype):
    for norm, mlp, rope, qk_norm in itertools.product(NORMS, ACTIVATIONS, (True, False), (True, False)):
        compare(network(model(conditioning=conditioning, norm=norm, mlp=mlp, rope=rope, qk_norm=qk_norm)), dtype=dtype)


@pytest.mark.parametrize("tokens", GRIDS)
def test_token_counts_and_head_widths_that_are_no_multiple_of_a_vector(tokens, threads, long_mode):
    """With fewer images than threads, one image, one block; of every second width one combination, with --long all."""
    rest = list(itertools.product(CONDITIONINGS, (1, 2, 3, 5), (1, 2, 7), TOLERANCE, (1, 2)))
    for number, head_width in enumerate(HEAD_WIDTHS):
        if not long_mode and (number + list(GRIDS).index(tokens)) % 2:
            continue
        start = 37 * number + 11 * tokens
        for conditioning, count, images, dtype, depth in rest if long_mode else [rest[start % len(rest)]]:
            threads(count)
            mlp = ACTIVATIONS[number % 3]
            config = model(
                width=2 * head_width, depth=depth, conditioning=conditioning, mlp=mlp, norm=NORMS[number % 2]
            )
            compare(network(config, GRIDS[tokens]), min(images, 3) if tokens > 200 else images, dtype)


@pytest.mark.parametrize("count", (1, 2, 3, 5))
def test_one_image_of_one_token_through_one_block_on_several_threads(count, threads):
    threads(count)
    for conditioning in CONDITIONINGS:
        compare(network(model(conditioning=conditioning, depth=1), (1, 1)), 1)


@pytest.mark.parametrize(("width", "heads"), ((8, 8), (20, 4), (28, 4), (44, 4), (60, 5), (132, 4)))
def test_widths_of_any_number(width, heads):
    """Also heads of one number, and of odd ones, which have no rotary positions."""
    for mlp_ratio in (1.0, 2.7):
        compare(network(model(width=width, heads=heads, rope=False, mlp_ratio=mlp_ratio, mlp="gelu")))


def test_gated_gradients_in_bfloat16_differ_by_less_than_two_thousandths():
    made = network(model(width=128, heads=4), (4, 4))
    inputs = images_for(made, 8)
    assert outcome(made, None, inputs).error(outcome(made, torch.bfloat16, inputs)) < 2e-3


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("tokens", (1, 16, 100))
def test_gradients_in_bfloat16_are_closer_to_float32_than_those_of_autocast(conditioning, tokens):
    for number, head_width in enumerate((8, 32, 96)):
        config = model(width=2 * head_width, conditioning=conditioning, mlp=ACTIVATIONS[number], norm=NORMS[number % 2])
        made = network(config, GRIDS[tokens])
        inputs = images_for(made)
        exact, fast = outcome(made, None, inputs), outcome(made, torch.bfloat16, inputs)
        with torch.autocast("cpu", torch.bfloat16):
            autocast = outcome(made, None, inputs)
        assert exact.error(fast) < exact.error(autocast)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_kernels_are_as_close_to_double_precision_as_eager_torch_is(conditioning):
    for norm, mlp in itertools.product(NORMS, ACTIVATIONS):
        made = network(model(conditioning=conditioning, norm=norm, mlp=mlp), (5, 5))
        inputs = images_for(made, 4)
        eager, fast = outcome(made, None, inputs), outcome(made, torch.float32, inputs)
        double = copy.deepcopy(made).double()
        if double.rotary is not None:  # angles in double precision are others: the same table
            double.rotary = made.rotary.double()  # type: ignore
        exact = outcome(double, None, inputs)
        assert exact.error(fast) < 1.5 * exact.error(eager) + 1e-7


def test_a_fresh_network_has_the_same_zero_gradients_and_trains_on_as_eager_does():
    """adaLN-Zero begins with gates and a last layer of 0, so that almost all first gradients are exactly 0."""
    torch.manual_seed(0)
    fresh = DiT(model(depth=2), channels=1, size=(8, 8), classes=3)
    inputs = images_for(fresh, 4)
    eager, fast = outcome(fresh, None, inputs), outcome(fresh, torch.float32, inputs)
    zero = {name for name, gradient in eager.gradients.items() if not gradient.any()}
    assert len(zero) > len(eager.gradients) / 2
    assert zero == {name for name, gradient in fast.gradients.items() if not gradient.any()}
    ends = []
    for blocks in (None, FastBlocks(fresh.config)):
        made = copy.deepcopy(fresh)
        made.fast_blocks = blocks
        optimizer = torch.optim.AdamW(made.parameters(), lr=1e-3, eps=1e-6)
        for _ in range(6):
            optimizer.zero_grad()
            (made(*inputs) - inputs[0]).square().mean().backward()
            optimizer.step()
        ends.append(torch.cat([parameter.detach().flatten() for parameter in made.parameters()]))
    assert torch.isfinite(ends[1]).all()
    assert (ends[0] - ends[1]).norm() < 1e-4 * ends[0].norm()


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_numbers_too_small_to_be_normal_stay_so(dtype):
    """They have fewer digits the smaller they are."""
    loose = {torch.float32: 1e-4, torch.bfloat16: 0.2}[dtype]
    made = network(model())
    inputs = images_for(made)
    eager, fast = outcome(made, None, inputs, 1e-39), outcome(made, dtype, inputs, 1e-39)
    assert 0 < eager.norm() < 1e-35
    assert eager.error(fast) < loose
    tiny = (inputs[0] * 1e-42, *inputs[1:])
    made.patch_in.bias.data.zero_()
    made.positions.zero_()
    eager, fast = outcome(made, None, tiny), outcome(made, dtype, tiny)
    assert torch.isfinite(fast.output).all() and eager.error(fast) < loose


@pytest.mark.parametrize("value", (float("nan"), float("inf"), float("-inf")))
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_not_finite_stays_so_in_its_own_image(value, dtype):
    for conditioning, mlp in zip(CONDITIONINGS, ACTIVATIONS, strict=True):
        made = network(model(conditioning=conditioning, mlp=mlp), (4, 4))
        inputs = images_for(made)
        clean = outcome(made, dtype, inputs)
        inputs[0][1, 0, 3, 5] = value
        eager, fast = outcome(made, None, inputs), outcome(made, dtype, inputs)
        assert torch.equal(fast.output.isnan(), eager.output.isnan()) and fast.output[1].isnan().all()
        assert torch.equal(fast.output[[0, 2]], clean.output[[0, 2]])
        for name, gradient in eager.gradients.items():
            assert not (fast.gradients[name].isfinite() & ~gradient.isfinite()).any(), name


@pytest.mark.parametrize(
    "name", ("modulation.bias", "attention.qkv.bias", "attention.qk_scale", "attention.out.bias", "mlp.first.bias")
)
def test_a_weight_that_is_not_a_number_is_seen(name):
    made = network(model(), (4, 4))
    dict(made.blocks[1].named_parameters())[name].data.view(-1)[-1] = float("nan")
    inputs = images_for(made)
    eager, fast = outcome(made, None, inputs), outcome(made, torch.float32, inputs)
    assert torch.equal(fast.output.isnan(), eager.output.isnan()) and fast.output.isnan().any()


def test_a_gradient_that_is_not_a_number_is_seen_in_every_weight_before_it():
    made = network(model())
    inputs = images_for(made)
    eager, fast = (outcome(made, dtype, inputs, float("nan")) for dtype in (None, torch.float32))
    for name, gradient in eager.gradients.items():
        assert torch.equal(fast.gradients[name].isnan(), gradient.isnan()), name


@pytest.mark.parametrize("conditioning", ("adaln-zero", "adaln"))
def test_modulations_may_be_views_of_a_table(conditioning):
    made = network(model(conditioning=conditioning))
    x, timestep, label = images_for(made)
    with torch.no_grad():
        table = made.modulation_table(timestep, label)
        own = table[range(3), range(3)]
        rows = {
            "of each image": own,
            "one of all images": table[:1, 0].expand(3, -1),
            "every second number": torch.stack([own, own + 1], dim=2).flatten(1)[:, ::2],
            "turned": own.t().contiguous().t(),
        }
        for name, modulation in rows.items():
            made.fast_blocks = None
            eager = made(x, timestep, label, modulation)
            made.fast_blocks = FastBlocks(made.config)
            assert (made(x, timestep, label, modulation) - eager).norm() < 1e-6 * eager.norm(), name


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_without_gradients_the_output_has_the_same_bits_and_training_goes_on_after_it(dtype):
    made = network(model())
    inputs = images_for(made)
    expected = outcome(made, dtype, inputs)
    made.fast_blocks = FastBlocks(made.config, dtype)
    with torch.inference_mode():  # first: what it keeps of the weights must be of use to training, too
        assert torch.equal(made(*inputs), expected.output)
    with torch.no_grad():
        assert torch.equal(made(*inputs), expected.output)
    output = made(*inputs)
    assert torch.equal(output, expected.output)
    output.sum().backward()
    assert made.blocks[0].mlp.first.weight.grad is not None
    with torch.inference_mode():
        fresh = network(model())
        fresh.fast_blocks = FastBlocks(fresh.config, dtype)
        assert torch.equal(fresh(*inputs), expected.output)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradients_add_up_over_backward_passes_and_over_two_uses_of_a_network(dtype):
    made = network(model())
    made.fast_blocks = FastBlocks(made.config, dtype)
    inputs = images_for(made)
    losses = [lambda: made(*inputs).square().sum(), lambda: made(inputs[0] + 1, *inputs[1:]).sum()]

    def gradients(*groups: list[Callable[[], Tensor]]) -> Tensor:
        made.zero_grad()
        for group in groups:
            sum(loss() for loss in group).backward()  # type: ignore
        return torch.cat([parameter.grad.flatten() for parameter in made.parameters()])  # type: ignore

    alone = gradients(losses[:1]) + gradients(losses[1:])
    for together in (gradients(losses[:1], losses[1:]), gradients(losses)):
        assert (together - alone).norm() < 1e-6 * alone.norm()


def test_frozen_parameters_get_no_gradient_and_the_others_the_same():
    made = network(model())
    inputs = images_for(made)
    every = outcome(made, torch.float32, inputs).gradients
    for part in ("qkv", "modulation", "bias", "blocks.0", "qk_scale"):
        chosen = {name for name, _ in made.named_parameters() if part in name}
        for frozen in (chosen, every.keys() - chosen):
            for name, parameter in made.named_parameters():
                parameter.requires_grad_(name not in frozen)
            got = outcome(made, torch.float32, inputs).gradients
            assert got.keys() == every.keys() - (frozen - {"image"})
            assert all(torch.equal(gradient, every[name]) for name, gradient in got.items())


@pytest.mark.parametrize("again", (copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))))  # noqa: S301
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_copy_of_a_network_has_weights_of_its_own(again, dtype):
    made = network(model())
    inputs = images_for(made)
    made.fast_blocks = FastBlocks(made.config, dtype)
    with torch.no_grad():
        before = made(*inputs)
        copied = again(made)
        assert torch.equal(copied(*inputs), before)
        for parameter in copied.parameters():
            parameter.mul_(1.5)
        assert torch.equal(made(*inputs), before) and not torch.equal(copied(*inputs), before)
        made.load_state_dict(copied.state_dict())
        assert torch.equal(made(*inputs), copied(*inputs))


def test_an_image_has_the_same_bits_alone_and_among_others():
    """Of the kernels themselves; torch's products of other shapes may differ in the last bits."""
    made = network(model(conditioning="adaln-zero"), (4, 4))
    calls = dataclasses.replace(FastBlocks(made.config)._calls(torch.zeros(3, 16, 32), made.rotary), parts=2)
    alone = dataclasses.replace(calls, images=1)
    h, qkv, bias, modulation = torch.randn(48, 32), torch.randn(48, 96), torch.randn(96), torch.randn(3, 64)
    shift, scale = modulation.chunk(2, dim=1)
    whole = (calls.norm(h, None, shift, scale)[1], calls.attention(qkv, bias, None))
    for image in range(3):
        rows = slice(16 * image, 16 * image + 16)
        single = slice(image, image + 1)
        assert torch.equal(alone.norm(h[rows], None, shift[single], scale[single])[1], whole[0][rows])
        assert torch.equal(alone.attention(qkv[rows], bias, None), whole[1][rows])


@pytest.mark.parametrize("where", (torch.float64, torch.bfloat16, torch.float16, "meta"))
def test_a_network_that_was_moved_since_is_run_by_eager_torch(where):
    made = network(model()).to(where)
    x, timestep, label = (given.to(made.positions.device) for given in images_for(made))
    with torch.no_grad():
        expected = made(x.to(made.positions.dtype), timestep, label)
        made.fast_blocks = FastBlocks(made.config)
        got = made(x.to(made.positions.dtype), timestep, label)
        assert got.dtype == expected.dtype and (got.is_meta or torch.equal(got, expected))


@pytest.mark.filterwarnings("ignore:Graph break")  # of early versions of torch
def test_torch_exports_a_network_that_kernels_run():
    made = network(model())
    inputs = images_for(made)
    made.fast_blocks = FastBlocks(made.config)
    with torch.no_grad():
        exported = torch.export.export(made.eval(), inputs).module()
        assert (exported(*inputs) - made(*inputs)).norm() < 1e-5 * made(*inputs).norm()


@pytest.mark.filterwarnings("ignore")  # those of torch.jit
def test_what_traces_or_transforms_a_network_sees_eager_torch():
    made = network(model()).requires_grad_(False)
    x, timestep, label = images_for(made)
    expected = made(x, timestep, label)
    made.fast_blocks = FastBlocks(made.config)
    traced = torch.jit.trace(made, (x, timestep, label))
    assert torch.equal(traced(x, timestep, label), expected)
    mapped = torch.func.vmap(lambda x: made(x[None], timestep[:1], label[:1])[0])(x[:1])
    assert (mapped - expected[:1]).abs().max() < 1e-5
    slope = torch.func.grad(lambda x: made(x, timestep, label).sum())(x)
    assert slope.isfinite().all()
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert made(mode.from_tensor(x), timestep, label).shape == x.shape


def test_cross_attention_is_left_to_eager_torch():
    assert why_not(model(conditioning="cross-attention")) and not why_not(model())
