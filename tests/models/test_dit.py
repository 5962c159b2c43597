"""The network against the paper's counts, its initialisation, and any size of image."""

from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ditkit.config import ModelConfig
from ditkit.errors import UsageError
from ditkit.models import presets
from ditkit.models.blocks import AdaLNBlock
from ditkit.models.dit import DiT
from ditkit.models.layers import attend, position_table, rotary_table, rotate
from ditkit.models.size import flops

CONDITIONINGS = ("in-context", "cross-attention", "adaln", "adaln-zero")
MODERN = {"mlp": "swiglu", "norm": "rms", "rope": True, "qk_norm": True}


def small(**settings) -> ModelConfig:
    return ModelConfig(**{"patch": 4, "width": 64, "depth": 2, "heads": 4, **settings})


def awake(network: DiT) -> DiT:
    """All parameters away from their zeros, so that everything in the network shows in its output."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    return network


def paper(name: str, conditioning: str = "adaln-zero") -> tuple[float, float]:
    """(millions of parameters, G multiply-adds) at the paper's 256x256 images, that is 32x32x4 latents."""
    config = ModelConfig(**presets.settings(name), conditioning=conditioning, learned_sigma=True)
    with torch.device("meta"):
        network = DiT(config, channels=4, size=(32, 32), classes=1000)
    return sum(one.numel() for one in network.parameters()) / 1e6, flops(config, channels=4, size=(32, 32)) / 1e9


@pytest.mark.parametrize(
    ("name", "conditioning", "millions"),
    [
        ("dit-xl/2", "in-context", 449),
        ("dit-xl/2", "cross-attention", 598),
        ("dit-xl/2", "adaln", 600),
        ("dit-xl/2", "adaln-zero", 675),
        ("dit-s/2", "adaln-zero", 33),
        ("dit-b/2", "adaln-zero", 130),
        ("dit-l/2", "adaln-zero", 458),
    ],
)
def test_parameter_counts_are_the_papers(name, conditioning, millions):
    assert round(paper(name, conditioning)[0]) == millions


@pytest.mark.parametrize(
    ("name", "giga"), [("dit-s/2", 6.06), ("dit-b/2", 23.01), ("dit-l/2", 80.71), ("dit-xl/2", 118.64)]
)
def test_multiply_adds_are_the_papers(name, giga):
    assert paper(name)[1] == pytest.approx(giga, rel=0.01)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("options", [{}, MODERN, {"learned_sigma": True}], ids=["plain", "modern", "learned-sigma"])
def test_flops_agree_with_torchs_own_counter(conditioning, options):
    config = small(conditioning=conditioning, **options)
    network = DiT(config, channels=3, size=(16, 24), classes=5)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(torch.randn(2, 3, 16, 24), torch.tensor([1.0, 2.0]), torch.tensor([0, 5]))
    assert counter.get_total_flops() == 2 * 2 * flops(config, channels=3, size=(16, 24))


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_fresh_network_predicts_zero(conditioning):
    network = DiT(small(conditioning=conditioning), channels=1, size=(8, 12), classes=3)
    out = network(torch.randn(2, 1, 8, 12), torch.tensor([3.0, 900.0]), torch.tensor([0, 3]))
    assert out.shape == (2, 1, 8, 12)
    assert out.abs().max() == 0


def test_fresh_adaln_zero_blocks_are_the_identity_and_fresh_adaln_blocks_are_not():
    x_BTD, condition_BD = torch.randn(2, 6, 64), torch.randn(2, 64)
    for conditioning, identity in (("adaln-zero", True), ("adaln", False)):
        network = DiT(small(conditioning=conditioning), channels=1, size=(8, 12), classes=3)
        assert torch.equal(network.blocks[0](x_BTD, condition_BD, None), x_BTD) is identity


def test_initialisation_is_really_applied():
    network = DiT(ModelConfig(patch=2, width=128, depth=2, heads=4), channels=3, size=(8, 8), classes=50)
    block = network.blocks[0]
    assert isinstance(block, AdaLNBlock)
    xavier = (6 / (128 + 128)) ** 0.5
    for weight in (*block.attention.qkv.weight.chunk(3), block.attention.out.weight):
        assert float(weight.detach().abs().max()) == pytest.approx(xavier, rel=0.02)
        assert float(weight.detach().std()) == pytest.approx(xavier / 3**0.5, rel=0.05)
    assert float(block.mlp.first.weight.detach().abs().max()) == pytest.approx((6 / (128 + 512)) ** 0.5, rel=0.02)
    for weight in (network.label.weight, network.time.first.weight, network.time.second.weight):
        assert float(weight.detach().std()) == pytest.approx(0.02, rel=0.05)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            assert module.bias.abs().max() == 0


def test_initialisation_is_a_function_of_the_generator():
    networks = [DiT(small(), channels=1, size=(8, 8), classes=3) for _ in range(2)]
    for network in networks:
        network.initialize(torch.Generator().manual_seed(5))
    pairs = zip(networks[0].parameters(), networks[1].parameters(), strict=True)
    assert all(torch.equal(first, second) for first, second in pairs)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (8, 20)])
def test_unpatchify_undoes_patchify_for_any_size(channels, size):
    network = DiT(small(), channels=channels, size=size, classes=2)
    x_BCHW = torch.randn(3, channels, *size)
    assert torch.equal(network.unpatchify(network.patchify(x_BCHW)), x_BCHW)


def test_a_token_holds_one_patch_row_by_row():
    network = DiT(small(patch=2), channels=1, size=(4, 6), classes=2)
    tokens = network.patchify(torch.arange(24.0).view(1, 1, 4, 6))
    assert tokens[0, 1].tolist() == [2, 3, 8, 9]
    assert tokens[0, 3].tolist() == [12, 13, 18, 19]


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("options", [{}, MODERN, {"positions": "1d", "mlp": "gelu", "time_activation": "selu"}])
def test_timestep_label_and_position_reach_the_output(conditioning, options):
    network = awake(DiT(small(conditioning=conditioning, **options), channels=1, size=(8, 8), classes=3))
    x_BCHW, t, y = torch.randn(1, 1, 8, 8), torch.tensor([100.0]), torch.tensor([0])
    out = network(x_BCHW, t, y)
    assert not torch.allclose(out, network(x_BCHW, torch.tensor([900.0]), y), atol=1e-4)
    assert not torch.allclose(out, network(x_BCHW, t, torch.tensor([3])), atol=1e-4)
    moved = network(x_BCHW.roll((4, 4), (2, 3)), t, y).roll((-4, -4), (2, 3))
    assert not torch.allclose(out, moved, atol=1e-4)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_gradients_reach_every_parameter(conditioning):
    network = awake(DiT(small(conditioning=conditioning, **MODERN), channels=1, size=(8, 8), classes=2))
    network(torch.randn(3, 1, 8, 8), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0, 1, 2])).square().mean().backward()
    silent = [name for name, one in network.named_parameters() if one.grad is None or one.grad.abs().max() == 0]
    assert silent == []


def test_two_dimensional_positions_tell_rows_from_columns():
    table = position_table("2d", 3, 5, 16).view(3, 5, 16)
    assert torch.equal(table[0, 2, :8], table[1, 2, :8])  # same column: same first half
    assert torch.equal(table[1, 0, 8:], table[1, 4, 8:])  # same row: same second half
    assert len(torch.unique(table.view(15, 16), dim=0)) == 15


def test_rotary_attention_depends_on_relative_position_only():
    rotary = rotary_table(4, 4, 8, extra=0)
    query, key = torch.randn(8), torch.randn(8)
    q_TK, k_TK = (rotate(one.expand(16, 8), rotary) for one in (query, key))
    score = (q_TK @ k_TK.T).view(4, 4, 4, 4)
    assert torch.allclose(score[0, 0, 1, 2], score[2, 1, 3, 3], atol=1e-5)
    assert not torch.allclose(score[0, 0, 1, 2], score[0, 0, 2, 1], atol=1e-3)


def test_frequency_shift_is_diffusers_convention():
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    timestep = torch.tensor([0.0, 7.0, 999.0])
    for shift in (0, 1):
        network = DiT(small(frequency_shift=shift), channels=1, size=(8, 8), classes=1)
        theirs = embeddings.get_timestep_embedding(timestep, 256, flip_sin_to_cos=True, downscale_freq_shift=shift)
        captured = []
        network.time.first.register_forward_hook(lambda _m, args, _o, seen=captured: seen.append(args[0]))
        network.time(timestep)
        assert torch.allclose(captured[0], theirs, atol=1e-4)


def test_a_size_that_patches_do_not_divide_is_refused():
    with pytest.raises(UsageError, match="not divisible by the patch size 4"):
        DiT(small(), channels=1, size=(10, 8), classes=1)


def test_a_network_comes_by_the_name_of_its_size():
    network = DiT.from_preset("dit-pico/4", size=(16, 8), classes=10)
    assert (network.config.width, network.config.patch, network.channels, network.grid) == (128, 4, 3, (4, 2))
    with pytest.raises(UsageError, match="unknown model preset 'dit-m/4'"):
        DiT.from_preset("dit-m/4", size=(16, 8), classes=10)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("keys", [5, 600])
def test_attention_in_bfloat16_on_a_cpu_is_that_of_float32_to_its_rounding(autocast: bool, keys: int):
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, 3, tokens, 8), generator=source) for tokens in (7, keys, keys))
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    dtype = torch.float32 if autocast else torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.profiler.profile() as profile:
        mixed = attend(*(each.to(dtype) for each in (q, k, v)))
    assert mixed.dtype == torch.bfloat16
    assert torch.linalg.vector_norm(mixed.float() - wanted) < 0.02 * torch.linalg.vector_norm(wanted)
    fused = any("scaled_dot_product" in event.key for event in profile.key_averages())
    assert fused == (keys > 512)  # the scores of many tokens would fill the memory
