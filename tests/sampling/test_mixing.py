"""Guidance that does not saturate: compared with diffusers', and with what the papers' equations say."""

from __future__ import annotations

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.guider_utils import rescale_noise_cfg

from ditkit.config import DiffusionConfig, SampleConfig
from ditkit.errors import UsageError
from ditkit.jax.limits import check_sampling
from ditkit.objectives.contract import PREDICTIONS, from_clean_and_noise, process_of, to_clean_and_noise
from ditkit.recipes import load
from ditkit.sampling.generate import draw
from ditkit.sampling.mixing import Mixing

GENERATOR = torch.Generator().manual_seed(0)
NOISY, STRONG, WEAK = torch.randn(3, 2, 3, 8, 8, generator=GENERATOR)
SIGNAL, NOISE = torch.tensor(0.6), torch.tensor(0.8)


def test_without_the_settings_guidance_is_plain():
    mixer = Mixing(SampleConfig(), "v").at(NOISY, SIGNAL, NOISE)
    assert torch.equal(mixer(WEAK, STRONG, 3.0), WEAK.lerp(STRONG, 3.0))


@pytest.mark.parametrize("part", [0.3, 1.0])
def test_rescaled_guidance_is_diffusers(part: float):
    mixed = Mixing(SampleConfig(guidance_rescale=part), "v").at(NOISY, SIGNAL, NOISE)(WEAK, STRONG, 9.0)
    theirs = rescale_noise_cfg(WEAK + 9.0 * (STRONG - WEAK), STRONG, part)
    assert torch.allclose(mixed, theirs, atol=1e-5)
    assert (mixed.std((1, 2, 3)) < WEAK.lerp(STRONG, 9.0).std((1, 2, 3))).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("norm", "momentum"), [(None, 0.0), (2.0, 0.0), (5.0, -0.5)])
def test_projected_guidance_is_diffusers_on_estimates_of_the_image(prediction: str, norm, momentum: float):
    mixing = Mixing(SampleConfig(apg=True, apg_norm=norm, apg_momentum=momentum), prediction)
    buffer = MomentumBuffer(momentum)
    for strong, weak in ((STRONG, WEAK), (WEAK, STRONG)):
        found = mixing.at(NOISY, SIGNAL, NOISE)(weak, strong, 4.0)
        clean, weaker = (to_clean_and_noise(prediction, output, NOISY, SIGNAL, NOISE)[0] for output in (strong, weak))
        right = normalized_guidance(clean, weaker, 3.0, buffer, 0.0, norm or 0.0, use_original_formulation=True)
        right = from_clean_and_noise(prediction, right, (NOISY - SIGNAL * right) / NOISE, SIGNAL, NOISE)
        assert torch.allclose(found, right, atol=1e-4)
    mixing.reset()
    again = mixing.at(NOISY, SIGNAL, NOISE)(WEAK, STRONG, 4.0)
    assert torch.equal(again, Mixing(mixing._settings, prediction).at(NOISY, SIGNAL, NOISE)(WEAK, STRONG, 4.0))


@pytest.mark.parametrize("changed", [{"guidance_rescale": 0.7}, {"apg": True, "apg_momentum": -0.5}])
def test_an_image_does_not_depend_on_its_batch(changed):
    def network(x_BCHW, timestep_B, label_B):
        return torch.tanh(x_BCHW + 0.3 * label_B[:, None, None, None])

    settings = SampleConfig(sampler="flow-euler", steps=4, guidance=12.0, **changed)
    common = {"shape": (1, 4, 4), "null_label": 2, "settings": settings, "device": "cpu"}
    whole = draw(network, DiffusionConfig(), labels=[0, 1, 1], seeds=[1, 2, 3], **common)
    alone = draw(network, DiffusionConfig(), labels=[0, 1, 1], seeds=[1, 2, 3], batch_size=1, **common)
    assert torch.allclose(whole, alone, atol=1e-6)
    plain = {**common, "settings": SampleConfig(sampler="flow-euler", steps=4, guidance=12.0)}
    assert (
        whole.abs().mean() < draw(network, DiffusionConfig(), labels=[0, 1, 1], seeds=[1, 2, 3], **plain).abs().mean()
    )


def test_a_model_that_dropped_no_label_is_not_guided():
    def network(x_BCHW, timestep_B, label_B):
        assert int(label_B.max()) < 2, "the null label, which was never learnt"
        return x_BCHW * 0.1

    settings = SampleConfig(sampler="flow-euler", steps=2, guidance=3.0)
    draw(
        network, DiffusionConfig(label_drop=0), shape=(1, 4, 4), labels=[1], null_label=2, seeds=[0],
        settings=settings, device="cpu",
    )  # fmt: skip


@pytest.mark.parametrize(("key", "named"), [("guidance_rescale=0.5", "guidance rescale"), ("apg=true", "APG")])
def test_jax_refuses_them_by_name(key: str, named: str):
    name, _, value = key.partition("=")
    config = load("mnist", {"sample": {name: True if value == "true" else float(value)}})
    with pytest.raises(UsageError, match=f"the JAX backend knows no {named}"):
        check_sampling(config)
    assert process_of(DiffusionConfig()).kind == "flow"
