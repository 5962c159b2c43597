"""JAX and torch are one model: the same weights file, the same outputs, images and losses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ditkit import recipes
from ditkit import train as train_in_torch
from ditkit.checkpoint import loading
from ditkit.cli import app
from ditkit.config import RunConfig
from ditkit.errors import CheckpointError, MachineError, UsageError
from ditkit.io import atomic, packages, safetensors
from ditkit.jax import limits
from ditkit.models.dit import DiT
from ditkit.objectives.contract import process_of
from ditkit.runs import lookup
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import METADATA_KEY, ModelInfo, read_model_info
from ditkit.samplers.contract import open_scheduler, set_steps
from ditkit.sampling import generate

jax = pytest.importorskip("jax", reason='the JAX backend is not installed: pip install "ditkit[jax]"')
pytest.importorskip("optax", reason='the JAX backend is not installed: pip install "ditkit[jax]"')

pytestmark = pytest.mark.extras

import jax.numpy as jnp  # noqa: E402

from ditkit.jax.files import initialize, load, save, shape_of, to_tree  # noqa: E402
from ditkit.jax.sampling import draw, draw_path, open_sampler, sample  # noqa: E402
from ditkit.jax.training import train  # noqa: E402

DIFFUSION = {"process": "diffusion", "objective": "epsilon", "weighting": "none"}
OPTIONS = {
    "as in the paper": ({"norm": "layer", "mlp": "gelu-tanh", "rope": False, "qk_norm": False}, {}),
    "modern": ({"norm": "rms", "mlp": "swiglu", "rope": True, "qk_norm": True}, {}),
    "the original": (
        {"norm": "layer", "mlp": "gelu", "rope": False, "qk_norm": False, "positions": "1d-interleaved"}
        | {"time_activation": "selu", "final_activation": "selu"},
        {},
    ),
    "rest": (
        {"norm": "layer", "mlp": "gelu", "rope": False, "qk_norm": True, "positions": "1d", "time_activation": "selu"}
        | {"frequency_shift": 1, "frequency_size": 64, "learned_sigma": True},
        DIFFUSION | {"objective": "learned-sigma"},
    ),
}


def small(model: dict | None = None, **sections: dict) -> RunConfig:
    """Images of 8x12 pixels and two narrow blocks."""
    base = {"patch": 4, "width": 32, "depth": 2, "heads": 2}
    return recipes.load("mnist", {"data": {"image_size": "8x12"}, "model": base | (model or {}), **sections})


def random_network(config: RunConfig, classes: int = 3) -> DiT:
    """A network whose every number matters."""
    network = loading.build_network(config, classes)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.data.normal_(std=0.1, generator=generator)
    return network.eval().requires_grad_(False)


def write(path: Path, network: DiT, config: RunConfig, labels: tuple[str, ...], dtype: torch.dtype) -> Path:
    tensors = {name: value.to(dtype) for name, value in network.state_dict().items()}
    info = ModelInfo(config=config, labels=labels, step=7)
    atomic.write_synced(path, safetensors.pieces(tensors, {METADATA_KEY: info.to_json()}))
    return path


# --- the network


@pytest.mark.parametrize("conditioning", ["in-context", "cross-attention", "adaln", "adaln-zero"])
@pytest.mark.parametrize("option", OPTIONS)
def test_outputs_are_those_of_torch(conditioning, option):
    model, diffusion = OPTIONS[option]
    config = small(model | {"conditioning": conditioning}, diffusion=diffusion)
    network = random_network(config)
    x_BCHW = torch.randn(4, 1, 8, 12, generator=torch.Generator().manual_seed(2))
    timestep_B, label_B = torch.tensor([0.0, 1.5, 500.25, 999.0]), torch.tensor([0, 3, 1, 2])
    expected = network(x_BCHW, timestep_B, label_B)
    arrays = [jnp.asarray(one.numpy()) for one in (x_BCHW, timestep_B, label_B)]
    given = jax.jit(shape_of(config, 3))(to_tree(network.state_dict()), *arrays)
    assert given.shape == expected.shape and expected.std() > 0.05
    assert np.abs(np.asarray(given) - expected.numpy()).max() <= 1e-4


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    with pytest.raises(MachineError, match=r"cannot write .*a\.safetensors"):
        save(tmp_path / "gone" / "a.safetensors", {}, ModelInfo(config=small(), labels=(), step=0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_weights_file_is_read_and_written_as_torch_does(tmp_path, dtype):
    config, labels = small(), ("cat", "dog")
    path = write(tmp_path / "a.safetensors", random_network(config, 2), config, labels, dtype)
    trained = load(path)
    assert trained.info == read_model_info(path)
    again = loading.load(save(tmp_path / "b.safetensors", trained.weights, trained.info))
    assert again.info == trained.info and save(again.source, trained.weights, trained.info) == again.source
    expected = loading.load(path).network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.network.state_dict().items())


def test_a_file_that_does_not_fit_its_card_is_refused(tmp_path):
    path = write(tmp_path / "a.safetensors", random_network(small(), 3), small(), ("cat", "dog"), torch.float32)
    with pytest.raises(CheckpointError, match=r"does not fit its own card \(at label.weight\)"):
        load(path)


def test_a_fresh_network_is_the_one_that_training_begins_with(tiny):
    config, digits = tiny(seed=3), tuple("0123456789")
    network, weights = initialize(config, digits)
    assert network == shape_of(config, 10)
    assert float(jnp.abs(weights["final"]["linear"]["weight"]).max()) == 0
    other = initialize(replace(config, seed=4), digits)[1]
    assert not np.array_equal(weights["patch_in"]["weight"], other["patch_in"]["weight"])


# --- drawing

DRAWINGS = [  # sampler, steps, guidance, interval, clamp, what the network predicts
    ("flow-dpmpp", 5, 1.5, (0.0, 1.0), False, {}),
    ("flow-dpmpp", 1, 1.0, (0.0, 1.0), False, {}),
    ("flow-dpmpp", 6, 2.0, (0.3, 0.7), True, {"objective": "velocity"}),
    ("flow-euler", 4, 2.0, (0.3, 0.7), False, {"objective": "velocity"}),
    ("flow-euler", 4, 1.0, (0.0, 1.0), False, {"objective": "epsilon"}),
    ("flow-heun", 4, 2.0, (0.0, 1.0), False, {"objective": "v"}),
    ("flow-heun", 1, 1.0, (0.0, 1.0), False, {}),
    ("ddim", 7, 2.0, (0.0, 1.0), True, DIFFUSION),
    ("dpmpp", 6, 2.0, (0.0, 0.5), True, DIFFUSION | {"objective": "v"}),
]


@pytest.mark.parametrize(("sampler", "steps", "guidance", "interval", "clamp", "diffusion"), DRAWINGS)
def test_images_are_those_of_torch(sampler, steps, guidance, interval, clamp, diffusion):
    settings = {"sampler": sampler, "steps": steps, "guidance": guidance, "clamp": clamp}
    settings |= {"guidance_from": interval[0], "guidance_to": interval[1]}
    config = small({"depth": 1}, diffusion=diffusion, sample=settings)
    network = random_network(config)
    common = {"labels": [0, 2], "seeds": [5, 2**32 - 1], "settings": config.sample}
    expected = generate.draw(network, config.diffusion, shape=config.shape, null_label=3, device="cpu", **common)
    given = draw(shape_of(config, 3), to_tree(network.state_dict()), config.diffusion, **common)
    assert expected.std() > 0.05
    assert np.abs(np.asarray(given) - expected.numpy()).max() <= 1e-3 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("steps", [1, 2, 20, 61])
@pytest.mark.parametrize("name", [*limits.FLOW_SAMPLERS, *limits.DIFFUSION_SAMPLERS])
def test_timesteps_are_those_of_torch(name, steps):
    process = process_of(small(diffusion={} if name.startswith("flow") else DIFFUSION).diffusion)
    expected = set_steps(open_scheduler(name, process), process, steps)
    np.testing.assert_allclose(open_sampler(name, process, steps)[0]["timestep"], expected.numpy(), atol=1e-3)


def test_the_path_begins_at_the_noise_and_has_every_call():
    config = small({"depth": 1}, sample={"sampler": "flow-heun", "steps": 3})
    network = shape_of(config, 3), to_tree(random_network(config).state_dict())
    settings = {"settings": config.sample, "labels": [1], "seeds": [9]}
    clean_BCHW, path_NBCHW = draw_path(*network, config.diffusion, **settings)
    noise = torch.randn(config.shape, generator=torch.Generator().manual_seed(9))
    assert path_NBCHW.shape == (5, 1, 1, 8, 12)
    assert np.array_equal(path_NBCHW[0, 0], noise.numpy())
    assert np.array_equal(clean_BCHW, draw(*network, config.diffusion, **settings))


def test_the_model_inside_the_package_draws_the_same_digits():
    path = lookup.bundled_weights("mnist")
    ours, theirs = load(path), loading.load(path)
    settings = replace(ours.info.config.sample, steps=6)
    given = sample(ours, ["3", "1", "4"], settings=settings, seed=7, batch_size=2)
    expected = generate.sample(theirs, ["3", "1", "4"], seed=7, steps=6)
    assert [(one.label, one.seed) for one in given] == [(one.label, one.seed) for one in expected]
    for one, other in zip(given, expected, strict=True):
        assert other.image.std() > 30
        assert np.abs(one.image.astype(int) - other.image.astype(int)).max() <= 1


# --- training


def test_training_takes_the_steps_of_torch_and_writes_what_torch_draws_with(tiny, tmp_path):
    config = tiny(optim={"lr": 3e-3, "weight_decay": 0.1, "clip": 0.5, "schedule": "linear"}, train={"steps": 12})
    losses: list[float] = []
    path = train(config, tmp_path / "digits.safetensors", on_step=lambda step, loss: losses.append(loss))
    folder = RunFolder(train_in_torch(config, tmp_path / "run"))
    expected = [row["loss"] for row in folder.metrics() if "loss" in row]
    assert len(losses) == 12 and sum(losses[-3:]) < 0.8 * sum(losses[:3])
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
    ours, theirs = loading.load(path), loading.load(folder.path)
    assert ours.info == theirs.info
    known = theirs.network.state_dict()
    for name, value in ours.network.state_dict().items():
        assert (value - known[name]).abs().max() < 1e-3, name
    (image,) = generate.sample(ours, ["3"], steps=2)
    assert image.image.shape == (28, 28, 1)


# --- what it cannot do


def test_what_torch_alone_does_is_refused():
    config = small()
    limits.check_sampling(config)
    refused = {
        "goes through all blocks": replace(config, sample=replace(config.sample, reuse=2)),
        "no sampler 'ddpm'": small(diffusion=DIFFUSION, sample={"sampler": "ddpm"}),
        "a model of latents": recipes.load("celeba-latent"),
    }
    for text, one in refused.items():
        with pytest.raises(UsageError, match=text) as caught:
            limits.check_sampling(one)
        assert "--backend torch" in (caught.value.hint or "")
    for one in (small(OPTIONS["rest"][0], diffusion=OPTIONS["rest"][1]), recipes.load("celeba-latent")):
        with pytest.raises(UsageError, match=r"learned-sigma|latents"):
            train(one, "nowhere")
    with pytest.raises(UsageError, match="there is no folder gone"):
        train(config, "gone/digits.safetensors")


def test_the_command_line_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    assert app.main(["sample", "--model", "mnist", "--backend", "jax"]) == 2
    assert 'hint: `pip install "ditkit[jax]"`, or use --backend torch' in capsys.readouterr().err


def test_the_command_line_draws_with_it(capsys):
    common = ["sample", "--model", "mnist", "--labels", "7", "--steps", "2", "--quiet", "--device", "cpu"]
    assert app.main([*common, "--backend", "jax", "--out", "jax"]) == 0
    assert app.main([*common, "--out", "torch"]) == 0
    images = [np.asarray(Image.open(f"{name}/000-7.png"), dtype=int) for name in ("jax", "torch")]
    assert np.abs(images[0] - images[1]).max() <= 1
    assert app.main([*common, "--backend", "jax", "--out", "again", "--device", "cuda"]) == 2
    assert "JAX finds no device cuda" in capsys.readouterr().err
