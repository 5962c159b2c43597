"""Autoencoders: what a word stands for, files that are not what they should be, and scales both ways."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from autoencoders import MAKERS, SHRINK, write_kl, write_tiny

from ditkit import recipes
from ditkit.autoencoders.contract import at_once, decode_in_parts, open_autoencoder
from ditkit.autoencoders.files import autoencoder_folder, descriptions, settings
from ditkit.config import RunConfig
from ditkit.errors import DitkitError
from ditkit.registry import AUTOENCODERS


def config_of(folder: Path, size: int = 16, channels: int = 3) -> RunConfig:
    data = {"image_size": size, "channels": channels}
    return recipes.load("mnist", {"data": data, "model": {"patch": 1}, "autoencoder": settings(str(folder))})


def images(count: int = 2, size: int = 16) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_every_autoencoder_of_the_family_is_tested_here():
    assert set(AUTOENCODERS.names()) == {"pixel", *MAKERS}


def test_pixel_is_the_identity():
    config = recipes.load("celeba")
    opened = open_autoencoder(config)
    assert torch.equal(opened.decode(opened.encode(images()).mean_BCHW), images())
    assert opened.encode(images()).std_BCHW is None and config.shape == (3, 64, 64)


@pytest.mark.parametrize("kind", MAKERS)
def test_latents_have_the_size_that_the_settings_say(kind: str, tmp_path: Path):
    config = config_of(MAKERS[kind](tmp_path / "a"))
    opened = open_autoencoder(config)
    posterior = opened.encode(images())
    assert tuple(posterior.mean_BCHW.shape[1:]) == config.shape == (opened.channels, 16 // SHRINK, 16 // SHRINK)
    assert (posterior.std_BCHW is not None) == (kind == "kl")
    assert opened.decode(posterior.mean_BCHW).shape == images().shape


@pytest.mark.parametrize("kind", MAKERS)
def test_scale_and_shift_of_its_own_config_are_applied_one_way_and_undone_the_other(kind: str, tmp_path: Path):
    plain = open_autoencoder(config_of(MAKERS[kind](tmp_path / "plain", scaling_factor=1.0, shift_factor=0.0)))
    scaled = open_autoencoder(config_of(MAKERS[kind](tmp_path / "scaled", scaling_factor=0.5, shift_factor=0.25)))
    one, other = plain.encode(images()), scaled.encode(images())
    assert torch.allclose(other.mean_BCHW, (one.mean_BCHW - 0.25) * 0.5, atol=1e-6)
    if one.std_BCHW is not None and other.std_BCHW is not None:
        assert torch.allclose(other.std_BCHW, one.std_BCHW * 0.5, atol=1e-6)
    assert torch.allclose(scaled.decode(other.mean_BCHW), plain.decode(one.mean_BCHW), atol=1e-5)


def test_any_number_of_latents_is_decoded_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = open_autoencoder(config_of(write_tiny(tmp_path / "a")))
    latent_BCHW = opened.encode(images(5)).mean_BCHW
    whole, seen, real = opened.decode(latent_BCHW), [], opened.decode
    monkeypatch.setattr(opened, "decode", lambda some: (seen.append(len(some)), real(some))[1])
    assert torch.allclose(decode_in_parts(opened, latent_BCHW, 2), whole, atol=1e-5) and seen == [2, 2, 1]


def test_memory_is_bounded_by_pixels_and_one_image_always_goes():
    assert at_once(64, 64) == 256 and at_once(8192, 8192) == 1


def test_large_images_go_through_the_posterior_autoencoder_in_tiles(tmp_path: Path):
    folder = write_kl(tmp_path / "a")
    small, large = (open_autoencoder(config_of(folder, size)) for size in (512, 1024))
    assert not small.network.use_tiling and large.network.use_tiling  # pyright: ignore[reportAttributeAccessIssue]


def test_the_fingerprint_follows_the_weights_and_not_the_place(tmp_path: Path):
    first, same, other = (
        open_autoencoder(config_of(write_tiny(tmp_path / name, seed=seed))).fingerprint
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == same != other


# --- words


def test_a_word_stands_for_settings(tmp_path: Path):
    assert settings("pixel") == {"name": "pixel", "source": None, "revision": None, "channels": None, "shrink": 1}
    assert settings("taesd3") | {"revision": None} == {
        "name": "tiny",
        "source": "madebyollin/taesd3",
        "revision": None,
        "channels": 16,
        "shrink": 8,
    }
    folder = write_kl(tmp_path / "pipeline" / "vae")
    found = settings(str(folder.parent))
    assert (found["name"], found["channels"], found["shrink"]) == ("kl", 3, SHRINK)
    assert Path(found["source"]) == folder.resolve()
    assert next(iter(descriptions())) == "pixel" and "16 channels" in descriptions()["taesd3"]


@pytest.mark.parametrize(
    ("word", "message", "hint"),
    [("taesd33", "unknown autoencoder 'taesd33'", "taesd3"), ("./nowhere", "there is no folder ./nowhere", "path")],
)
def test_a_wrong_word_is_reported_with_what_is_near(word: str, message: str, hint: str):
    with pytest.raises(DitkitError) as caught:
        settings(word)
    assert caught.value.message == message and hint in str(caught.value.hint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read"),
        ("[]", "it is not a JSON object"),
        ('{"_class_name": "UNet2DModel"}', "UNet2DModel is not an autoencoder"),
        ('{"_class_name": "AutoencoderKL", "block_out_channels": 3}', "the config of the autoencoder is damaged"),
    ],
)
def test_a_config_that_is_none_is_reported(content: str, message: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(DitkitError) as caught:
        settings(str(tmp_path))
    assert message in caught.value.message


def test_a_folder_without_an_autoencoder_is_reported(tmp_path: Path):
    with pytest.raises(DitkitError) as caught:
        autoencoder_folder(tmp_path)
    assert "holds no autoencoder" in caught.value.message


def test_damaged_missing_and_foreign_files_are_reported_in_one_line(tmp_path: Path):
    config = config_of(write_tiny(tmp_path / "a"))
    weights = tmp_path / "a" / "diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()

    def message() -> str:
        with pytest.raises(DitkitError) as caught:
            open_autoencoder(config)
        assert caught.value.hint
        return caught.value.message

    weights.write_bytes(content[:-40])
    assert "cannot read the autoencoder" in message()
    weights.unlink()
    assert "has no weights: no diffusion_pytorch_model.safetensors" in message()
    write_tiny(tmp_path / "a", channels=7)
    assert "has channels 7, the settings say 5" in message()
    settings_file = tmp_path / "a" / "config.json"
    tree = json.loads(settings_file.read_text(encoding="utf-8"))
    settings_file.write_text(json.dumps({**tree, "latent_channels": 5, "in_channels": 1}), encoding="utf-8")
    assert "for images of 1 channels, not of 3" in message()
    weights.parent.rename(tmp_path / "b")
    assert "does not exist" in message()


def test_grey_images_need_a_grey_autoencoder_or_none(tmp_path: Path):
    config = config_of(write_tiny(tmp_path / "a"), channels=1)
    with pytest.raises(DitkitError) as caught:
        open_autoencoder(config)
    assert "for images of 3 channels, not of 1" in caught.value.message
