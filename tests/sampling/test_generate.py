from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ditkit import recipes
from ditkit.autoencoders.pixel import Pixel
from ditkit.config import DiffusionConfig, ModelConfig, SampleConfig
from ditkit.errors import UsageError
from ditkit.latents.codec import Codec
from ditkit.models.dit import DiT
from ditkit.objectives.contract import process_of
from ditkit.registry import SAMPLERS
from ditkit.runs.model_info import ModelInfo, resolve_labels
from ditkit.samplers.contract import open_scheduler, set_steps
from ditkit.sampling import generate
from ditkit.sampling.batch_size import default_batch_size
from ditkit.sampling.generate import draw, sample, sample_batches
from ditkit.sampling.guidance import Guidance, guided


def _config_for(sampler: str) -> DiffusionConfig:
    flow = DiffusionConfig(process="flow", objective="velocity")
    try:
        open_scheduler(sampler, process_of(flow))
    except UsageError:
        return DiffusionConfig(process="diffusion", objective="epsilon")
    return flow


CONFIGS = {name: _config_for(name) for name in SAMPLERS.names()}


class Tiny(nn.Module):
    """A smooth network whose output depends on everything it is given, image by image; it notes its calls."""

    def __init__(self, outputs: int = 1):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.4))
        self.outputs = outputs
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.inference: list[bool] = []

    def forward(self, x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        self.calls.append((x_BCHW, timestep_B, label_B))
        self.inference.append(torch.is_inference_mode_enabled())
        shift_B = torch.sin(timestep_B / 300) + 0.3 * label_B
        return torch.tanh(self.scale * x_BCHW + shift_B[:, None, None, None]).repeat(1, self.outputs, 1, 1)


def _draw(sampler: str, seeds: Sequence[int], *, network=None, steps: int = 6, guidance: float = 1.7, **more) -> Tensor:
    settings = SampleConfig(
        sampler=sampler,
        steps=steps,
        guidance=guidance,
        guidance_from=more.pop("guidance_from", 0.0),
        guidance_to=more.pop("guidance_to", 1.0),
    )
    return draw(
        network or Tiny(),
        CONFIGS[sampler],
        shape=(1, 5, 4),
        labels=[seed % 3 for seed in seeds],
        null_label=more.pop("null_label", 3),
        seeds=seeds,
        settings=settings,
        device="cpu",
        **more,
    )


@pytest.mark.parametrize("sampler", CONFIGS)
def test_a_seed_gives_the_same_image_whatever_the_batch_and_its_companions(sampler):
    seeds = list(range(10, 17))
    together = _draw(sampler, seeds)
    assert together.shape == (7, 1, 5, 4) and together.dtype == torch.float32 and not together.is_inference()
    for batch_size in (1, 3, 7, 100):
        torch.testing.assert_close(_draw(sampler, seeds, batch_size=batch_size), together, rtol=0, atol=1e-6)
    torch.testing.assert_close(_draw(sampler, [14]), together[4:5], rtol=0, atol=1e-6)
    assert (together[1:] - together[:-1]).abs().amax(dim=(1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("sampler", CONFIGS)
def test_drawing_leaves_the_global_random_state_alone_and_ignores_it(sampler):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = _draw(sampler, [0, 1])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(_draw(sampler, [0, 1]), first)


@pytest.mark.parametrize("sampler", CONFIGS)
def test_the_network_is_called_in_inference_mode_with_the_documented_types(sampler):
    network = Tiny()
    _draw(sampler, [0, 1], network=network, guidance=1)
    assert all(network.inference)
    timesteps = CONFIGS[sampler].timesteps
    for x_BCHW, timestep_B, label_B in network.calls:
        assert x_BCHW.shape == (2, 1, 5, 4) and x_BCHW.dtype == torch.float32
        assert timestep_B.shape == (2,) and timestep_B.dtype == torch.float32
        assert timestep_B.min() >= 0 and timestep_B.max() < timesteps
        assert label_B.tolist() == [0, 1] and label_B.dtype == torch.int64


@pytest.mark.parametrize("sampler", CONFIGS)
def test_guidance_doubles_the_batch_only_inside_its_interval(sampler):
    network = Tiny()
    _draw(sampler, [0, 1, 2], network=network, guidance_from=0.3, guidance_to=0.8)
    process = process_of(CONFIGS[sampler])
    sizes = set()
    for x_BCHW, timestep_B, label_B in network.calls:
        noise = process.signal_noise(timestep_B[:1])[1].item()
        sizes.add(len(x_BCHW))
        assert len(x_BCHW) == len(timestep_B) == len(label_B) == (6 if 0.3 <= noise <= 0.8 else 3)
        assert label_B.tolist() == [0, 1, 2] + ([3, 3, 3] if len(x_BCHW) == 6 else [])
        assert torch.equal(x_BCHW[:3], x_BCHW[-3:])
    assert sizes == {3, 6}


@pytest.mark.parametrize(("guidance", "null_label"), [(1.0, 3), (4.0, 0)])
def test_nothing_is_guided_at_scale_one_or_without_labels(guidance, null_label):
    network = Tiny()
    _draw("flow-heun", [0, 0], network=network, guidance=guidance, null_label=null_label)
    assert {len(call[0]) for call in network.calls} == {2}


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_guidance_is_the_papers_formula_and_leaves_the_variance_alone(scale):
    def network(x_BCHW: Tensor, timestep_B: Tensor, label_B: Tensor) -> Tensor:
        value_B = torch.where(label_B == 7, 0.25, label_B.float())
        return torch.cat([x_BCHW * value_B[:, None, None, None], x_BCHW + value_B[:, None, None, None]], dim=1)

    x_BCHW = torch.rand(2, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    guidance = Guidance(scale=scale, start=0, stop=1, null_label=7)
    output = guided(network, x_BCHW, torch.zeros(2), torch.tensor([1, 2]), 0.5, guidance)
    label = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    # (1 + w) conditional - w unconditional, with w = scale - 1 (Ho & Salimans 2022, eq. 6)
    torch.testing.assert_close(output[:, :3], scale * x_BCHW * label - (scale - 1) * x_BCHW * 0.25)
    torch.testing.assert_close(output[:, 3:], x_BCHW + label)


@pytest.mark.parametrize("sampler", CONFIGS)
def test_every_network_call_is_reported_and_the_last_estimate_is_the_image(sampler):
    network, seen = Tiny(), []
    images = _draw(
        sampler, [0, 1, 2], network=network, guidance=1, batch_size=2, on_step=lambda *step: seen.append(step)
    )
    calls = 2 * (11 if sampler == "flow-heun" else 6)
    assert [step[:2] for step in seen] == [(call, calls) for call in range(calls)] and len(network.calls) == calls
    assert torch.equal(torch.cat([seen[calls // 2 - 1][2], seen[-1][2]]), images)
    assert torch.equal(seen[0][3][1], torch.randn(seen[0][3][1].shape, generator=torch.Generator().manual_seed(1)))


def test_a_half_precision_network_still_gives_float32_images():
    images = draw(
        lambda x, t, label: (0.1 * x).to(torch.bfloat16),
        DiffusionConfig(),
        shape=(1, 2, 2),
        labels=[0],
        null_label=0,
        seeds=[0],
        settings=SampleConfig(steps=3),
        device="cpu",
    )
    assert images.dtype == torch.float32 and images.isfinite().all()


def _dit(conditioning: str = "adaln-zero", **more) -> DiT:
    """A small network whose every part matters."""
    config = ModelConfig(patch=2, width=16, depth=3, heads=2, conditioning=conditioning, **more)
    network = DiT(config, channels=1, size=(6, 4), classes=3).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network


def _draw_dit(network, seeds: Sequence[int] = range(5), *, batch_size: int | None = None, **settings) -> Tensor:
    own = {"sampler": "flow-dpmpp", "steps": 6, "guidance": 1.7, "guidance_from": 0.3, **settings}
    return draw(
        network,
        DiffusionConfig(),
        shape=(1, 6, 4),
        labels=[seed % 3 for seed in seeds],
        null_label=3,
        seeds=seeds,
        settings=SampleConfig(**own),
        device="cpu",
        batch_size=batch_size,
    )


@pytest.mark.parametrize("conditioning", ["in-context", "cross-attention", "adaln", "adaln-zero"])
@pytest.mark.parametrize("sampler", ["flow-dpmpp", "flow-heun"])
def test_what_is_computed_once_for_all_images_changes_none(conditioning, sampler):
    network = _dit(conditioning)
    plain = _draw_dit(lambda *given: network(*given), sampler=sampler)
    torch.testing.assert_close(_draw_dit(network, sampler=sampler), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(_draw_dit(network, sampler=sampler, batch_size=2), plain, rtol=0, atol=1e-5)


def test_timesteps_and_labels_are_embedded_once_for_a_trajectory_unless_the_table_would_be_large(monkeypatch):
    network, calls = _dit(), []
    network.blocks[0].modulation.register_forward_hook(lambda *_: calls.append(1))
    plain = _draw_dit(network, batch_size=2)
    assert len(calls) == 1
    monkeypatch.setattr("ditkit.sampling.block_cache._LARGEST_TABLE", 64)
    torch.testing.assert_close(_draw_dit(network, batch_size=2), plain, rtol=0, atol=1e-5)
    assert len(calls) == 1 + 3 * 6


@pytest.mark.parametrize("conditioning", ["in-context", "adaln-zero"])
def test_reuse_goes_through_the_blocks_in_every_nth_call_and_where_guidance_begins(conditioning):
    network, rows = _dit(conditioning), []
    network.blocks[0].register_forward_hook(lambda _, given, __: rows.append(len(given[0])))
    noise_levels = "0.999, 0.83, 0.67, 0.5, 0.33, 0.17"  # of the six calls
    exact = _draw_dit(network)
    assert rows == [10, 10, 10, 10, 10, 5], noise_levels
    rows.clear()
    reused = _draw_dit(network, reuse=2)
    assert rows == [10, 10, 10]
    assert 1e-4 < (reused - exact).abs().max() < 1.0
    rows.clear()
    _draw_dit(network, reuse=4, guidance_from=0.0, guidance_to=0.6)
    assert rows == [5, 10, 10]  # begins unguided; guided from the fourth call on; every fourth
    rows.clear()
    _draw_dit(network, reuse=100, batch_size=3)
    assert rows == [6, 4]  # each batch begins anew


def test_reuse_is_exact_where_the_blocks_add_the_same_at_every_call():
    network = _dit()
    for one in network.blocks:
        one.modulation.weight.zero_()
        one.modulation.bias.zero_()  # closed gates
    torch.testing.assert_close(_draw_dit(network, reuse=3), _draw_dit(network), rtol=0, atol=1e-6)


def test_only_blocks_can_be_reused():
    with pytest.raises(ValueError, match="only a DiT"):
        _draw_dit(Tiny(), reuse=2)


def test_batches_are_about_equally_large_and_make_up_the_whole(monkeypatch):
    network, sizes = _dit(), []
    network.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    _draw_dit(network, range(9), batch_size=8, steps=1, guidance=1.0)
    assert sizes == [5, 4]


def test_the_default_batch_stays_in_a_processors_cache_and_fits_a_gpus_free_memory(monkeypatch):
    shapes = {2: (1, 28, 28), 7: (1, 28, 28), 1: (4, 64, 64)}
    config = ModelConfig(width=288, depth=1)
    networks = {
        patch: DiT(replace(config, patch=patch), channels=shape[0], size=shape[1:], classes=1)
        for patch, shape in shapes.items()
    }
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [default_batch_size(networks[patch], shapes[patch], cpu) for patch in shapes] == [15, 192, 4]
    for free, sizes in ((80 << 30, [256, 256, 189]), (1 << 30, [49, 256, 2]), (1 << 20, [1, 1, 1])):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 80 << 30))
        assert [default_batch_size(networks[patch], shapes[patch], cuda) for patch in shapes] == sizes
    assert default_batch_size(Tiny(), (3, 64, 64), cpu) == 64


PIXELS = Codec(Pixel(3), None)


@dataclass(frozen=True)
class Trained:
    """What loading a checkpoint returns, without the checkpoint."""

    info: ModelInfo
    network: nn.Module
    codec: Codec = PIXELS


def _trained(labels: tuple[str, ...] = ("cat", "dog"), **overrides) -> Trained:
    settings = {"data": {"image_size": [14, 28], "channels": 3}, "sample": {"steps": 3}} | overrides
    return Trained(ModelInfo(config=recipes.load("mnist", settings), labels=labels, step=1), Tiny())


def test_sample_gives_labelled_pictures_of_the_models_own_size():
    samples = sample(_trained(), ["dog", "cat", "dog"], seed=5)
    assert [(one.label, one.seed) for one in samples] == [("dog", 5), ("cat", 6), ("dog", 7)]
    assert all(one.image.shape == (14, 28, 3) and one.image.dtype == np.uint8 for one in samples)
    assert not np.array_equal(samples[0].image, samples[2].image)


def test_any_one_image_can_be_drawn_again_alone():
    trained = _trained()
    several = sample(trained, ["dog", "cat", "dog"], seed=5, batch_size=2)
    (again,) = sample(trained, ["dog"], seed=7)
    assert np.abs(again.image.astype(int) - several[2].image).max() <= 1


def test_parts_make_up_the_whole_to_the_last_bit():
    trained = _trained()
    trained = replace(trained, network=DiT(trained.info.config.model, channels=3, size=(14, 28), classes=2))
    labels = resolve_labels(trained.info.labels, 7)
    whole = list(sample_batches(trained, labels, seed=3, batch_size=2))
    assert [len(batch) for batch in whole] == [2, 2, 2, 1]
    parts = [list(sample_batches(trained, labels, seed=3, batch_size=2, part=(k, 3))) for k in range(3)]
    assert [len(part) for part in parts] == [2, 1, 1]
    for index, batch in enumerate(whole):
        again = parts[index % 3][index // 3]
        assert [(one.label, one.seed) for one in again] == [(one.label, one.seed) for one in batch]
        assert all(np.array_equal(one.image, other.image) for one, other in zip(again, batch, strict=True))


def test_sample_passes_on_each_setting_that_is_given():
    trained = _trained()
    plain = sample(trained, ["dog"])[0].image
    changed = (
        {"seed": 1},
        {"sampler": "flow-euler"},
        {"steps": 9},
        {"guidance": 6.0},
        {"guidance_interval": (0.9, 1.0)},
    )
    for setting in changed:
        assert not np.array_equal(sample(trained, ["dog"], **setting)[0].image, plain), setting
    own = trained.info.config.sample
    given = {"sampler": own.sampler, "steps": own.steps, "guidance": own.guidance, "guidance_interval": (0.0, 1.0)}
    given["batch_size"] = 9
    assert np.array_equal(sample(trained, ["dog"], **given)[0].image, plain)


def test_a_number_draws_that_many_going_round_the_labels():
    assert [one.label for one in sample(_trained(), 5)] == ["cat", "dog", "cat", "dog", "cat"]
    assert [one.label for one in sample(_trained(labels=()), 2)] == [None, None]
    assert [one.label for one in sample(_trained(labels=()), ["any", "any"])] == [None, None]


def test_one_word_is_one_label_not_its_letters():
    assert [one.label for one in sample(_trained(), "dog")] == ["dog"]


@pytest.mark.parametrize(
    ("labels", "asked", "message", "hint"),
    [
        (("cat", "dog"), ["dgo"], "unknown label 'dgo'", "did you mean 'dog'?"),
        ((), ["dog"], "this model has no labels, so there is no 'dog'", "say how many images to draw"),
        (("cat",), 0, "cannot draw 0 images", "ask for one or more"),
    ],
)
def test_wrong_labels_are_refused_in_words(labels, asked, message, hint):
    with pytest.raises(UsageError) as caught:
        sample(_trained(labels), asked)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"sampler": "ddim"}, "sampler 'ddim' needs a diffusion process, this model is a flow"),
        ({"sampler": "flow-huen"}, "unknown sampler 'flow-huen'"),
        ({"steps": 0}, "sample.steps: input should be greater than or equal to 1"),
        ({"guidance_interval": (0.5, 0.1)}, "sample.guidance_from is above sample.guidance_to"),
    ],
)
def test_wrong_settings_are_refused_in_words_before_any_network_call(setting, message):
    trained = _trained()
    with pytest.raises(UsageError) as caught:
        sample(trained, ["dog"], **setting)
    assert caught.value.message.startswith(message) and caught.value.hint
    assert not trained.network.calls


class Uploads(TorchDispatchMode):
    """Counts copies to another device, for each of which a GPU would have to be waited for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given = [tensor for tensor in tree_leaves(args) if isinstance(tensor, Tensor)]
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            self.count += any(tensor.device != result.device for tensor in given)
        return result


@pytest.mark.parametrize("apg", [False, True])
@pytest.mark.parametrize("config", [DiffusionConfig(process="diffusion", objective="v"), DiffusionConfig()])
def test_a_call_of_the_network_copies_nothing_to_the_device(config, apg):
    meta = torch.device("meta")
    name = "ddim" if config.process == "diffusion" else "flow-euler"
    settings = SampleConfig(sampler=name, steps=4, guidance=2.0, apg=apg)
    sampler = generate._Sampler(Tiny().to(meta), config, settings, 3, [0, 1], meta)
    x_BCHW, label_B = torch.empty(2, 1, 4, 4, device=meta), torch.zeros(2, dtype=torch.int64, device=meta)
    timestep_N = set_steps(sampler._scheduler, sampler._process, 4)
    sampler._predict(0, x_BCHW, timestep_N[1], label_B)
    with Uploads() as uploads:
        clean_BCHW, _ = sampler._predict(1, x_BCHW, timestep_N[1], label_B)
    assert clean_BCHW.is_meta and uploads.count == 0
