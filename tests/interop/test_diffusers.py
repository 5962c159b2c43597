"""DiTPipeline folders: the same numbers both ways, the same images, and a clear word about what cannot be expressed."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from autoencoders import write_kl, write_tiny
from diffusers_folder import edit, randomized, write_stock

from ditkit import recipes
from ditkit.autoencoders.files import fingerprint
from ditkit.autoencoders.files import settings as autoencoder_settings
from ditkit.checkpoint.loading import Trained, build_network
from ditkit.checkpoint.tensors import load_into
from ditkit.errors import CheckpointError, MachineError, UsageError
from ditkit.interop import diffusers, diffusers_config
from ditkit.interop.approximate import approximated
from ditkit.interop.base import ForeignModel
from ditkit.io import atomic, safetensors
from ditkit.latents.codec import open_codec
from ditkit.runs.model_info import LatentStats, ModelInfo
from ditkit.sampling.generate import draw

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SMALL = {"preset": "diffusers", "width": 32, "depth": 2, "heads": 2, "patch": 2}
FLOW = {"process": "flow", "objective": "velocity"}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def trained(
    labels: int = 3, *, latents: LatentStats | None = None, names: tuple[str, ...] | None = None, **sections: Any
) -> Trained:
    """A model with random weights, 8x8 pixels of one channel unless the sections say otherwise."""
    base = {"data": {"image_size": 8}, "model": SMALL, "diffusion": FLOW, "sample": {"sampler": "flow-dpmpp"}}
    config = recipes.load("mnist", {key: {**base.get(key, {}), **sections.get(key, {})} for key in {*base, *sections}})
    names = names or tuple(f"label {number}" for number in range(labels))
    network = build_network(config, len(names))
    randomized(network)
    info = ModelInfo(config=config, labels=names, step=7, latents=latents)
    network.eval().requires_grad_(False)
    return Trained(info=info, network=network, codec=open_codec(info, "cpu"), source=Path("x.safetensors"))


def with_autoencoder(
    make: Callable[..., Path], folder: Path, stats: tuple[tuple[float, ...], tuple[float, ...]], **changes: Any
) -> Trained:
    """A model of 4x4 latents with these means and standard deviations."""
    place = make(folder, channels=len(stats[0]), **changes)
    latents = LatentStats(mean=stats[0], std=stats[1], autoencoder=fingerprint(place))
    found = autoencoder_settings(str(place))
    return trained(latents=latents, data={"image_size": 16, "channels": 3}, autoencoder=found)


def as_trained(foreign: ForeignModel, source: Path) -> Trained:
    network = build_network(foreign.info.config, len(foreign.info.labels))
    load_into(network, foreign.ema, source)
    network.eval().requires_grad_(False)
    return Trained(info=foreign.info, network=network, codec=open_codec(foreign.info, "cpu"), source=source)


def load_pipeline(folder: Path) -> Any:
    from diffusers import DiTPipeline

    pipeline = DiTPipeline.from_pretrained(str(folder))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    return safetensors.parse(bytearray(path.read_bytes()), path)


# --- diffusers -> ditkit -> diffusers


@pytest.mark.parametrize("kind", ["kl", "tiny"])
@pytest.mark.parametrize("changes", [{}, {"out_channels": 4, "activation_fn": "gelu", "norm_eps": 1e-6}])
def test_a_stock_pipeline_comes_back_with_the_same_bits(kind: str, changes: dict[str, Any], tmp_path: Path):
    stock = write_stock(tmp_path / "stock", kind=kind, **changes)
    foreign = diffusers.read(stock)
    diffusers.write(as_trained(foreign, stock), tmp_path / "back")
    for name in (WEIGHTS, "vae/diffusion_pytorch_model.safetensors"):
        before, after = tensors_in(stock / name), tensors_in(tmp_path / "back" / name)
        assert set(before) == set(after)
        assert all(torch.equal(before[one], after[one]) for one in before)
    again = diffusers.read(tmp_path / "back").info
    assert again.config.model == foreign.info.config.model and len(again.labels) == 1000


@pytest.mark.parametrize("changes", [{"norm_eps": 1e-6}, {"norm_eps": 1e-6, "activation_fn": "gelu"}, {}])
def test_a_stock_transformer_predicts_the_same(changes: dict[str, Any], tmp_path: Path):
    stock = write_stock(tmp_path / "stock", **changes)
    network = as_trained(diffusers.read(stock), stock).network
    x_BCHW, timestep_B = torch.randn(4, 4, 4, 4), torch.tensor([0.0, 3.0, 500.0, 999.0])
    label_B = torch.tensor([0, 7, 999, 1000])
    with torch.inference_mode():
        theirs = load_pipeline(stock).transformer(x_BCHW, timestep=timestep_B, class_labels=label_B).sample
        assert float(theirs.std()) > 0.05
        assert torch.allclose(network(x_BCHW, timestep_B, label_B), theirs, atol=1e-5, rtol=0)


def test_a_stock_pipeline_becomes_a_card(tmp_path: Path):
    schedule = {"beta_start": 2e-4, "beta_end": 0.03, "num_train_timesteps": 500}
    stock = write_stock(tmp_path / "stock", scheduler=schedule)
    info = diffusers.read(stock).info
    config = info.config
    assert info.labels[:5] == ("tench", "crane 1", "crane 2", "goldfish", "4")
    assert (config.model.width, config.model.heads, config.model.depth, config.model.patch) == (32, 2, 3, 2)
    assert config.model.learned_sigma and config.model.frequency_shift == 1 and config.model.mlp == "gelu-tanh"
    assert config.diffusion.objective == "learned-sigma" and config.diffusion.process == "diffusion"
    found = (config.diffusion.beta_start, config.diffusion.beta_end, config.diffusion.timesteps)
    assert found == (2e-4, 0.03, 500) and config.sample.sampler == "ddim" and not config.sample.clamp
    assert config.data.image_size == (16, 16) and config.data.channels == 3 and config.shape == (4, 4, 4)
    assert info.latents is not None and info.latents.autoencoder == fingerprint(stock / "vae")


def test_a_flow_leaves_the_channels_that_mean_nothing(tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    schedule = {"_class_name": "DPMSolverMultistepScheduler", "prediction_type": "flow_prediction"}
    edit(stock / "scheduler/scheduler_config.json", **schedule, use_flow_sigmas=True)
    model = as_trained(diffusers.read(stock), stock)
    assert model.info.config.diffusion.objective == "velocity" and model.info.config.sample.sampler == "flow-dpmpp"
    x_BCHW, timestep_B, label_B = torch.randn(2, 4, 4, 4), torch.tensor([3.0, 500.5]), torch.tensor([5, 1000])
    with torch.inference_mode():
        theirs = load_pipeline(stock).transformer(x_BCHW, timestep=timestep_B, class_labels=label_B).sample
        assert torch.allclose(model.network(x_BCHW, timestep_B, label_B), theirs[:, :4], atol=1e-5, rtol=0)


def test_images_of_a_stock_pipeline_are_those_that_diffusers_draws(tmp_path: Path):
    """The scale of the autoencoder counts, its shift does not: DiTPipeline ignores it."""
    from diffusers import DPMSolverMultistepScheduler

    stock = write_stock(tmp_path / "stock")
    edit(stock / "vae/config.json", shift_factor=0.4, scaling_factor=0.7)
    pipeline = load_pipeline(stock)
    settings = {"timestep_spacing": "trailing", "solver_order": 1}  # ditkit's `ddim`
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config, **settings)
    assert_same_images(as_trained(diffusers.read(stock), stock), pipeline, [0, 3], steps=5)


@pytest.mark.parametrize(
    ("place", "changes", "word"),
    [
        ("model_index.json", {"_class_name": "StableDiffusionPipeline"}, "StableDiffusionPipeline"),
        ("transformer/config.json", {"norm_elementwise_affine": True}, "norm_elementwise_affine=true"),
        ("transformer/config.json", {"attention_bias": False}, "attention_bias=false"),
        ("transformer/config.json", {"activation_fn": "geglu", "norm_eps": 1e-3}, "activation_fn=geglu, norm_eps"),
        ("transformer/config.json", {"out_channels": 5}, "out_channels=5"),
        ("transformer/config.json", {"num_layers": 4}, "transformer_blocks.3."),
        ("transformer/config.json", {"num_layers": 2}, "transformer_blocks.2."),
        ("transformer/config.json", {"num_layers": "many"}, "damaged"),
        ("transformer/config.json", {"patch_size": None}, "damaged"),
        ("model_index.json", {"id2label": {"tench": 0}}, "damaged"),
        ("model_index.json", {"id2label": ["tench"]}, "id2label"),
        ("transformer/config.json", {"num_attention_heads": 5, "attention_head_dim": 7}, "width"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule=squaredcos_cap_v2"),
        ("scheduler/scheduler_config.json", {"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "prediction_type=flow_prediction"),
        ("vae/config.json", {"latent_channels": 3}, "3 channels"),
    ],
)
def test_what_ditkit_has_not_is_named(place: str, changes: dict[str, Any], word: str, tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    edit(stock / place, **changes)
    with pytest.raises((CheckpointError, UsageError)) as caught:
        diffusers.read(stock)
    assert word in caught.value.message and caught.value.hint


def test_blocks_with_different_embeddings_are_refused(tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    tensors = tensors_in(stock / WEIGHTS)
    tensors["transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"][3] += 1e-6
    atomic.write_file(stock / WEIGHTS, safetensors.pieces(tensors))
    with pytest.raises(CheckpointError, match=r"in its own way \(norm1\.emb\.timestep_embedder\.linear_2"):
        diffusers.read(stock)


@pytest.mark.parametrize("name", ["norm1.linear.weight", "norm1.emb.class_embedder.embedding_table.weight"])
def test_tensors_of_another_shape_are_refused(name: str, tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    tensors = tensors_in(stock / WEIGHTS)
    tensors[f"transformer_blocks.0.{name}"] = torch.zeros(4)
    atomic.write_file(stock / WEIGHTS, safetensors.pieces(tensors))
    with pytest.raises(CheckpointError):
        diffusers.read(stock)


def test_only_folders_of_the_pipeline_are_taken_for_one(tmp_path: Path):
    assert not diffusers_config.is_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text("[", encoding="utf-8")
    assert not diffusers_config.is_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "DiTPipeline"}', encoding="utf-8")
    assert diffusers_config.is_pipeline(tmp_path)


# --- ditkit -> diffusers


def drawn_by(pipeline: Any, ids: list[int], steps: int, **more: Any) -> torch.Tensor:
    """What DiTPipeline draws, in [0, 1]: float32 (B, C, H, W). Early versions give no tensors."""
    images_BHWC = pipeline(class_labels=ids, num_inference_steps=steps, output_type="np", **more).images
    return torch.from_numpy(images_BHWC).permute(0, 3, 1, 2)


def assert_same_images(model: Trained, pipeline: Any, ids: list[int], *, steps: int, guidance: float = 1.7) -> None:
    """DiTPipeline and ditkit's sampler, from the same noise in the same steps, draw the same images to 1e-4."""
    info, seeds = model.info, [11, 12][: len(ids)]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theirs = drawn_by(pipeline, ids, steps, generator=generators, guidance_scale=guidance)
    times = pipeline.scheduler.timesteps.float()

    def network(x_BCHW: torch.Tensor, timestep_B: torch.Tensor, label_B: torch.Tensor) -> torch.Tensor:
        # of a flow, diffusers hands the network timesteps without what is after the point
        nearest_B = times[(times - timestep_B[:, None]).abs().argmin(dim=1)]
        assert float((nearest_B - timestep_B).abs().max()) <= 1
        return model.network(x_BCHW, nearest_B, label_B)

    latent_BCHW = draw(
        network,
        info.config.diffusion,
        shape=info.config.shape,
        labels=ids,
        null_label=len(info.labels),
        seeds=seeds,
        settings=dataclasses.replace(info.config.sample, steps=steps, guidance=guidance),
        device="cpu",
    )
    ours = (model.codec.to_images(latent_BCHW) / 2 + 0.5).clamp(0, 1)
    assert float(ours.std()) > 0.02
    assert float((ours - theirs).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("process", "objective", "sampler"),
    [
        ("flow", "velocity", "flow-dpmpp"),
        ("flow", "velocity", "flow-euler"),
        ("flow", "x0", "flow-dpmpp"),
        ("diffusion", "epsilon", "dpmpp"),
        ("diffusion", "epsilon", "unipc"),
        ("diffusion", "v", "ddim"),
        ("diffusion", "x0", "dpmpp"),
        ("diffusion", "learned-sigma", "dpmpp"),
    ],
)
def test_the_pipeline_draws_what_ditkit_draws(process: str, objective: str, sampler: str, tmp_path: Path):
    model = trained(
        model={"learned_sigma": objective == "learned-sigma"},
        diffusion={"process": process, "objective": objective},
        sample={"sampler": sampler},
    )
    diffusers.write(model, tmp_path / "out")
    pipeline = load_pipeline(tmp_path / "out")
    assert pipeline.get_label_ids(["label 2", "label 0"]) == [2, 0]
    assert_same_images(model, pipeline, [2, 0], steps=9)
    assert_same_images(model, pipeline, [1], steps=20, guidance=1.0)
    again = diffusers.read(tmp_path / "out")
    assert (again.info.config.sample.sampler, again.notes) == (sampler, ())


def test_ancestral_sampling_is_exported_with_the_variance_that_ditkit_uses(tmp_path: Path):
    diffusion = {"process": "diffusion", "objective": "epsilon"}
    model = trained(diffusion=diffusion, sample={"sampler": "ddpm"})
    diffusers.write(model, tmp_path / "out")
    pipeline = load_pipeline(tmp_path / "out")
    settings = pipeline.scheduler.config
    assert (settings.variance_type, settings.clip_sample, settings.timestep_spacing) == (
        "fixed_small",
        False,
        "trailing",
    )
    torch.manual_seed(0)
    images = drawn_by(pipeline, [1, 2], 20)
    assert images.shape == (2, 1, 8, 8) and float(images.std()) > 0.02
    assert diffusers.read(tmp_path / "out").info.config.sample.sampler == "ddpm"


def test_clamped_estimates_stay_clamped(tmp_path: Path):
    diffusion = {"process": "diffusion", "objective": "epsilon"}
    model = trained(diffusion=diffusion, sample={"sampler": "dpmpp", "clamp": True})
    diffusers.write(model, tmp_path / "out")
    assert_same_images(model, load_pipeline(tmp_path / "out"), [2, 0], steps=6)
    assert diffusers.read(tmp_path / "out").info.config.sample.clamp


@pytest.mark.parametrize("parts", [{}, {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.3}])
def test_statistics_of_latents_are_folded_into_a_kl_autoencoder(parts: dict[str, Any], tmp_path: Path):
    stats = ((0.4, -1.1, 0.2), (0.5, 2.0, 1.3))
    model = with_autoencoder(write_kl, tmp_path / "vae", stats, scaling_factor=0.6, **parts)
    diffusers.write(model, tmp_path / "out")
    pipeline = load_pipeline(tmp_path / "out")
    assert_same_images(model, pipeline, [2, 0], steps=9)
    image_BCHW = torch.rand(2, 3, 16, 16) * 2 - 1
    ours, theirs = model.codec.autoencoder.encode(image_BCHW), pipeline.vae.encode(image_BCHW).latent_dist
    mean_C, std_C = (torch.tensor(one)[:, None, None] for one in stats)
    assert torch.allclose(theirs.mean, (ours.mean_BCHW - mean_C) / std_C, atol=1e-5)
    assert ours.std_BCHW is not None and torch.allclose(theirs.std, ours.std_BCHW / std_C, atol=1e-5)
    again = diffusers.read(tmp_path / "out")
    assert again.info.latents is not None and again.info.latents.std == (1.0, 1.0, 1.0)
    assert_same_images(as_trained(again, tmp_path / "out"), pipeline, [2, 0], steps=9)


def test_one_scale_for_all_channels_is_what_a_tiny_autoencoder_can_have(tmp_path: Path):
    model = with_autoencoder(write_tiny, tmp_path / "vae", ((0.0, 0.0), (0.5, 0.5)), scaling_factor=0.6)
    diffusers.write(model, tmp_path / "out")
    assert_same_images(model, load_pipeline(tmp_path / "out"), [2, 0], steps=9)
    for number, stats in enumerate((((0.0, 0.0), (0.5, 0.6)), ((0.1, 0.1), (0.5, 0.5)))):
        other = with_autoencoder(write_tiny, tmp_path / f"vae{number}", stats)
        with pytest.raises(UsageError, match="squashes") as caught:
            diffusers.write(other, tmp_path / "refused")
        assert "sd-vae-ft-mse" in caught.value.message + str(caught.value.hint)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_model_of_pixels_gets_an_autoencoder_that_changes_nothing(channels: int, tmp_path: Path):
    model = trained(data={"channels": channels})
    diffusers.write(model, tmp_path / "out")
    vae = load_pipeline(tmp_path / "out").vae
    image_BCHW = torch.rand(2, channels, 8, 8) * 2.2 - 1.1
    scale = vae.config.scaling_factor
    with torch.inference_mode():
        assert torch.allclose(vae.decode(image_BCHW / scale).sample, image_BCHW, atol=1e-6, rtol=0)
        assert torch.allclose(vae.encode(image_BCHW).latents * scale, image_BCHW, atol=1e-6, rtol=0)
    info = diffusers.read(tmp_path / "out").info
    assert info.latents is None and info.config.autoencoder.name == "pixel" and info.config.data.channels == channels


def test_a_model_of_ditkit_comes_back_as_it_was(tmp_path: Path):
    names = ("white, small", "black")
    diffusion = {"process": "diffusion", "objective": "v", "beta_end": 0.03, "timesteps": 400}
    model = trained(names=names, model={"mlp": "gelu"}, diffusion=diffusion, sample={"sampler": "ddim"})
    diffusers.write(model, tmp_path / "out")
    foreign = diffusers.read(tmp_path / "out")
    before, after = model.info.config, foreign.info.config
    assert after.model == before.model and after.data.image_size == before.data.image_size
    for key in ("process", "objective", "timesteps", "betas"):
        assert getattr(after.diffusion, key) == getattr(before.diffusion, key)
    assert after.sample.sampler == "ddim"
    assert foreign.info.labels == ("white; small", "black")  # a comma is diffusers' sign between two names of a label
    assert all(torch.equal(foreign.ema[name], value) for name, value in model.network.state_dict().items())
    assert len(foreign.ema) == len(model.network.state_dict())


def test_a_model_without_labels_draws_with_any_number_and_has_none_again(tmp_path: Path):
    model = trained(labels=0)
    diffusers.write(model, tmp_path / "out")
    pipeline = load_pipeline(tmp_path / "out")
    with torch.inference_mode():
        x_BCHW, timestep_B = torch.randn(3, 1, 8, 8), torch.full((3,), 500.0)
        labels = torch.tensor([0, 77, 1000])
        theirs = pipeline.transformer(x_BCHW, timestep=timestep_B, class_labels=labels).sample
        assert torch.allclose(theirs, model.network(x_BCHW, timestep_B, torch.zeros(3, dtype=torch.long)), atol=1e-5)
    assert diffusers.read(tmp_path / "out").info.labels == ()


def test_half_precision_is_written_and_read(tmp_path: Path):
    model = trained()
    diffusers.write(model, tmp_path / "out", torch.float16)
    assert {one.dtype for one in tensors_in(tmp_path / "out" / WEIGHTS).values()} == {torch.float16}
    ema = diffusers.read(tmp_path / "out").ema
    for name, value in model.network.state_dict().items():
        assert ema[name].dtype == torch.float32 and torch.equal(ema[name], value.half().float())


WRONG = {
    "model.conditioning": {"model": {"conditioning": "adaln"}},
    "model.norm": {"model": {"norm": "rms"}},
    "model.mlp": {"model": {"mlp": "swiglu"}},
    "model.mlp_ratio": {"model": {"mlp_ratio": 3.0}},
    "model.positions": {"model": {"positions": "1d"}},
    "model.rope": {"model": {"rope": True}},
    "model.qk_norm": {"model": {"qk_norm": True}},
    "model.time_activation": {"model": {"time_activation": "selu"}},
    "model.final_activation": {"model": {"final_activation": "selu"}},
    "model.frequency_size": {"model": {"frequency_size": 128}},
    "model.frequency_shift": {"model": {"frequency_shift": 0}},
    "diffusion.objective": {"diffusion": {"objective": "epsilon"}},
    "diffusion.timesteps": {"diffusion": {"timesteps": 1}},
    "data.image_size": {"data": {"image_size": (8, 4)}},
}


@pytest.mark.parametrize("setting", WRONG)
def test_every_setting_that_diffusers_cannot_express_is_refused_by_name(setting: str, tmp_path: Path):
    with pytest.raises(UsageError) as caught:
        diffusers.write(trained(**WRONG[setting]), tmp_path / "out")
    assert f"{setting}=" in caught.value.message and caught.value.message.count("it needs") == 1
    assert ("--set model.preset=diffusers" in str(caught.value.hint)) == setting.startswith("model.")
    assert not (tmp_path / "out").exists()


def test_all_of_them_are_named_at_once_with_their_values(tmp_path: Path):
    names = tuple(map(str, range(1001)))
    model = trained(names=names, model={"norm": "rms", "frequency_shift": 0}, data={"image_size": (8, 4)})
    with pytest.raises(UsageError) as caught:
        diffusers.write(model, tmp_path / "out")
    for word in ("model.norm=rms", "model.frequency_shift=0", "data.image_size=8x4", "labels=1001"):
        assert word in caught.value.message


def test_velocity_of_a_diffusion_is_none_of_diffusers(tmp_path: Path):
    model = trained(diffusion={"process": "diffusion", "objective": "velocity"}, sample={"sampler": "dpmpp"})
    with pytest.raises(UsageError, match=r"diffusion\.objective=velocity"):
        diffusers.write(model, tmp_path / "out")


def test_a_full_disk_leaves_the_old_pipeline_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diffusers.write(trained(), tmp_path / "out")
    before = tensors_in(tmp_path / "out" / WEIGHTS)
    write = atomic.write_synced

    def full(path: Path, content: Any) -> Any:
        if path.parent.name == "vae":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(atomic, "write_synced", full)
    with pytest.raises(MachineError, match="No space left"):
        diffusers.write(trained(labels=5), tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    after = tensors_in(tmp_path / "out" / WEIGHTS)
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- approximations


def test_a_flow_of_other_timesteps_is_fitted_almost_exactly(tmp_path: Path):
    model = trained(model={"frequency_shift": 0}, diffusion={"timesteps": 1})  # as an import of SiT
    fitted, difference = approximated(model)
    assert difference is not None and difference < 1e-3
    diffusers.write(fitted, tmp_path / "out")
    transformer = load_pipeline(tmp_path / "out").transformer
    x_BCHW, timestep_B, label_B = (
        torch.randn(4, 1, 8, 8),
        torch.tensor([0.0, 3.0, 500.0, 999.0]),
        torch.tensor([0, 1, 2, 2]),
    )
    with torch.inference_mode():
        theirs = transformer(x_BCHW, timestep=timestep_B, class_labels=label_B).sample
        ours = model.network(x_BCHW, timestep_B / 1000, label_B)
    assert (theirs - ours).abs().max() < 2e-3 * ours.abs().max()


def test_other_frequencies_are_fitted_better_than_by_leaving_the_weights_as_they_are():
    diffusion = {"process": "diffusion", "objective": "epsilon"}
    model = trained(model={"frequency_shift": 0}, diffusion=diffusion, sample={"sampler": "dpmpp"})
    fitted, difference = approximated(model)
    kept = build_network(fitted.info.config, len(model.info.labels)).eval()
    kept.load_state_dict(model.network.state_dict())
    x_BCHW, timestep_B, label_B = torch.randn(50, 1, 8, 8), torch.arange(0.0, 1000, 20), torch.zeros(50).long()
    with torch.inference_mode():
        ours = model.network(x_BCHW, timestep_B, label_B)
        apart = [(network(x_BCHW, timestep_B, label_B) - ours).std() for network in (fitted.network, kept)]
    assert difference and 0 < apart[0] < 0.7 * apart[1]


def test_a_model_that_is_expressible_is_left_alone_and_others_are_refused(tmp_path: Path):
    model = trained()
    assert approximated(model) == (model, None)
    near, far = trained(model={"frequency_shift": 0}).info, trained(model={"frequency_shift": 0, "norm": "rms"}).info
    diffusers_config.check_expressible(near, approximately=True)
    with pytest.raises(UsageError, match="other frequencies than the paper's DiT") as caught:
        diffusers_config.check_expressible(near)
    assert "--approximate" in str(caught.value.hint)
    with pytest.raises(UsageError, match="not even approximately") as caught:
        diffusers_config.check_expressible(far, approximately=True)
    assert "--approximate" not in str(caught.value.hint)


# --- schedulers


def read_with(stock: Path, **scheduler: Any) -> ForeignModel:
    (stock / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler), encoding="utf-8")
    return diffusers.read(stock)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [("FlowMatchEulerDiscreteScheduler", "flow-euler"), ("FlowMatchHeunDiscreteScheduler", "flow-heun")],
)
def test_a_flow_matching_scheduler_is_a_flow_that_predicts_velocity(name: str, sampler: str, tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    found = read_with(stock, _class_name=name, num_train_timesteps=1000, shift=1.0)
    config = found.info.config
    assert (config.diffusion.process, config.diffusion.objective) == ("flow", "velocity")
    assert (config.sample.sampler, config.diffusion.timesteps, found.notes) == (sampler, 1000, ())
    assert "shift=3.0" in read_with(stock, _class_name=name, shift=3.0).notes[0]
    with pytest.raises(CheckpointError, match="invert_sigmas"):
        read_with(stock, _class_name=name, invert_sigmas=True)


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("DDIMScheduler", "ddim", "leading"),
        ("DDPMScheduler", "ddpm", "leading"),
        ("PNDMScheduler", "dpmpp", "leading"),
        ("EulerDiscreteScheduler", "ddim", "linspace"),
        ("EulerAncestralDiscreteScheduler", "ddpm", "linspace"),
        ("UniPCMultistepScheduler", "unipc", "linspace"),
        ("DPMSolverMultistepScheduler", "dpmpp", "linspace"),
        ("DEISMultistepScheduler", "dpmpp", "linspace"),
    ],
)
def test_a_scheduler_of_the_same_process_is_taken_and_what_differs_is_said(
    name: str, sampler: str, spacing: str, tmp_path: Path
):
    stock = write_stock(tmp_path / "stock")
    found = read_with(stock, _class_name=name)
    assert found.info.config.sample.sampler == sampler and found.info.config.diffusion.process == "diffusion"
    (note,) = found.notes
    assert f"drawn with {sampler}, where the pipeline has {name}" in note and f"timestep_spacing={spacing}" in note
    assert ("clip_sample=true" in note) == name.startswith("DD")  # the class's default, of latents
    plain = read_with(stock, _class_name=name, timestep_spacing="trailing", clip_sample=False)
    taken = name in ("DDIMScheduler", "DDPMScheduler", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler")
    assert plain.notes == () if taken else name in plain.notes[0]


@pytest.mark.parametrize("name", ["EDMEulerScheduler", "LCMScheduler", "CogVideoXDDIMScheduler", "None"])
def test_a_scheduler_of_another_process_is_refused_by_name(name: str, tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    with pytest.raises(CheckpointError, match=f"process of {name}"):
        read_with(stock, _class_name=name)


def test_betas_that_are_listed_are_read_where_they_are_linear(tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    betas = torch.linspace(2e-4, 0.03, 300).tolist()
    diffusion = read_with(stock, _class_name="DDIMScheduler", trained_betas=betas).info.config.diffusion
    assert (diffusion.timesteps, diffusion.beta_start, diffusion.beta_end) == (300, 2e-4, 0.03)
    with pytest.raises(CheckpointError, match="trained_betas=a list that is not linear"):
        read_with(stock, _class_name="DDIMScheduler", trained_betas=[beta**2 for beta in betas])


def test_noise_of_a_flow_is_read_but_not_written(tmp_path: Path):
    stock = write_stock(tmp_path / "stock")
    settings = {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "prediction_type": "epsilon"}
    config = read_with(stock, **settings).info.config
    assert (config.diffusion.process, config.diffusion.objective, config.model.learned_sigma) == (
        "flow",
        "epsilon",
        False,
    )


def test_pixels_are_clamped_as_the_class_clips_by_default(tmp_path: Path):
    model = trained(diffusion={"process": "diffusion", "objective": "epsilon"}, sample={"sampler": "dpmpp"})
    diffusers.write(model, tmp_path / "out")
    found = read_with(tmp_path / "out", _class_name="DDIMScheduler", timestep_spacing="trailing")
    assert found.info.config.sample.clamp and found.notes == ()
