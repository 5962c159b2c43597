"""Editing and interpolation: what is to stay stays, what is asked for comes, and the way is smooth."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import ditkit
from ditkit.cli.app import main
from ditkit.data.contract import open_dataset
from ditkit.errors import UsageError
from ditkit.evaluation.features import open_extractor
from ditkit.recipes import load
from ditkit.sampling.edit import edit
from ditkit.sampling.generate import sample
from ditkit.sampling.interpolate import interpolate, slerp


@pytest.fixture(scope="module")
def mnist():
    return ditkit.load("mnist")


@pytest.fixture(scope="module")
def three() -> np.ndarray:
    digits = open_dataset(load("mnist").data, "train")
    return next(image for image, label in (digits[index] for index in range(100)) if label == 3)


def read(images: list[np.ndarray]) -> list[str]:
    """The digits that a classifier sees."""
    return [str(digit) for digit in open_extractor("lenet").extract(images).logits_NL.argmax(axis=1)]


def test_inpainting_keeps_every_other_pixel_and_makes_the_label(mnist, three):
    paint = np.zeros((28, 28), bool)
    paint[13:] = True
    drawn = edit(mnist, three, ["3"] * 6 + ["2"] * 6, paint=paint, seed=1)
    assert all((one.image[~paint] == three[~paint]).all() for one in drawn)
    assert len({one.image.tobytes() for one in drawn}) == 12
    assert sum(map(str.__eq__, read([one.image for one in drawn]), ["3"] * 6 + ["2"] * 6)) >= 9


@pytest.mark.parametrize("sampler", ["flow-dpmpp", "flow-heun", "flow-euler"])
def test_little_strength_changes_little_and_all_of_it_is_a_new_image(mnist, three, sampler):
    from dataclasses import replace

    settings = replace(mnist.info.config.sample, sampler=sampler, steps=10)
    changes = []
    for strength in (0.1, 0.5, 1.0):
        (one,) = edit(mnist, three, ["3"], strength=strength, settings=settings, seed=4)
        changes.append(np.abs(one.image.astype(float) - three).mean())
    assert changes[0] < 10 and changes[0] < changes[1] < changes[2], changes
    (whole,) = sample(mnist, ["3"], seed=4, sampler=sampler, steps=10)
    assert np.abs(one.image.astype(int) - whole.image).max() <= 40  # the first timestep holds a trace of the image


def test_samplers_agree_on_an_image_of_any_strength(mnist, three):
    from dataclasses import replace

    for strength in (0.3, 0.5, 0.7):
        images = [
            edit(mnist, three, ["3"] * 4, strength=strength, seed=4, settings=settings)
            for settings in (
                replace(mnist.info.config.sample, sampler=sampler, steps=20) for sampler in ("flow-dpmpp", "flow-heun")
            )
        ]
        apart = [np.abs(a.image.astype(float) - b.image).mean() for a, b in zip(*images, strict=True)]
        assert np.mean(apart) < 1, (strength, apart)


def test_reused_blocks_are_those_of_the_same_batch(mnist, three):
    from dataclasses import replace

    settings = replace(mnist.info.config.sample, sampler="flow-euler", steps=5, reuse=3)
    together, apart = (  # begins with call 1, which is not one that goes through the blocks as such
        edit(mnist, three, ["3", "8"], strength=0.8, settings=settings, batch_size=size) for size in (2, 1)
    )
    for one, other in zip(together, apart, strict=True):
        assert np.abs(one.image.astype(int) - other.image).max() <= 1


def test_an_image_that_keeps_its_noise_is_redrawn_as_another_label(mnist, three):
    drawn = edit(mnist, three, ["8"] * 8, strength=0.9)
    assert read([one.image for one in drawn]).count("8") >= 6


def test_latents_are_edited_too(three):
    from dataclasses import replace

    from ditkit.autoencoders.contract import Posterior
    from ditkit.latents.codec import Codec
    from ditkit.runs.model_info import LatentStats

    class Halves:
        """Every second pixel, doubled again."""

        channels, shrink, fingerprint = 1, 2, "halves"

        def encode(self, image_BCHW):
            return Posterior(image_BCHW[:, :, ::2, ::2])

        def decode(self, latent_BCHW):
            return latent_BCHW.repeat_interleave(2, 2).repeat_interleave(2, 3)

    from ditkit.checkpoint.loading import Trained, build_network
    from ditkit.recipes import build, tree

    size = {"model": {"width": 16, "depth": 1, "heads": 2, "patch": 7}, "sample": {"steps": 2, "guidance": 1.0}}
    latent = {"autoencoder": {"name": "tiny", "source": "x", "channels": 1, "shrink": 2}}
    config = build(tree("mnist"), size, latent)
    codec = Codec(Halves(), LatentStats(mean=(0.5,), std=(2.0,), autoencoder="halves"))
    info = replace(ditkit.load("mnist").info, config=config, latents=codec.stats)
    trained = Trained(info=info, network=build_network(config, 10).eval(), codec=codec, source=None)  # type: ignore
    x = torch.rand(2, 1, 28, 28) * 2 - 1
    torch.testing.assert_close(codec.to_images(codec.from_images(x))[:, :, ::2, ::2], x[:, :, ::2, ::2])
    paint = np.zeros((28, 28), bool)
    paint[5:9, 5:9] = True
    (one,) = edit(trained, three, ["3"], paint=paint)
    assert (one.image[~paint] == three[~paint]).all()


def test_the_way_is_smooth_and_passes_through_what_was_asked_for(mnist):
    way = interpolate(mnist, ["1", "7", "0"], frames=6, seed=3)
    images = np.stack([one.image for one in way]).astype(float)
    assert len(way) == 18 and [one.part for one in way[:3]] == pytest.approx([0, 1 / 6, 2 / 6])
    assert (way[6].start, way[6].end, way[17].end) == ("7", "0", "1")
    for stop, label in ((0, "1"), (6, "7"), (12, "0")):
        (single,) = sample(mnist, [label], seed=3 + stop // 6)
        assert np.abs(images[stop] - single.image).max() <= 2
    steps = np.abs(images - np.roll(images, -1, axis=0)).mean(axis=(1, 2, 3))
    far = np.abs(images[[0, 6, 12]] - images[[6, 12, 0]]).mean(axis=(1, 2, 3))
    assert np.median(steps) < 0.3 * far.min(), "neighbours are alike but where one digit turns into another"


def test_slerp_keeps_the_length_of_noise():
    a, b = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    middle = slerp(a, b, 0.5)
    assert float(middle.std()) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-4, rtol=1e-4)


def test_the_image_and_the_strength_are_checked(mnist, three):
    with pytest.raises(UsageError, match="the model draws 28x28"):
        edit(mnist, three[:20], ["3"])
    with pytest.raises(UsageError, match="strength"):
        edit(mnist, three, ["3"], strength=float("nan"))
    with pytest.raises(UsageError, match="nothing to paint"):
        edit(mnist, three, ["3"], paint=np.zeros((28, 28), bool))


@pytest.fixture
def files(tmp_path, three):
    big = Image.fromarray(three[:, :, 0]).resize((80, 60)).convert("RGB")
    big.save("photo.jpg")
    for name, size, shade in (("half.png", (80, 60), None), ("black.png", (80, 60), 0), ("small.png", (9, 9), 255)):
        mask = Image.new("L", size, shade or 0)
        if shade is None:
            mask.paste(255, (0, 30, 80, 60))
        mask.save(name)
    Image.new("RGBA", (80, 60), (255, 255, 255, 0)).save("clear.png")
    return tmp_path


def test_the_commands_write_images_and_a_grid_that_begins_with_the_original(files, capsys):
    line = ["edit", "inpaint", "photo.jpg", "--mask", "half.png", "--model", "mnist", "--labels", "3", "5"]
    assert main([*line, "--device", "cpu", "--steps", "3", "--out", "new", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [one["label"] for one in answer["images"]] == ["3", "5"]
    with Image.open(files / "new/000-3.png") as image:
        assert image.size == (28, 28) and image.text["edited"] == "photo.jpg" and image.text["label"] == "3"
    assert main([*line, "--out", "new"]) == 2
    line = ["edit", "img2img", "photo.jpg", "--model", "mnist", "--labels", "8", "--steps", "3", "--device", "cpu"]
    assert main([*line, "--strength", "0.5"]) == 0 and list(files.glob("edits/*/000-8.png"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("inpaint photo.jpg", "the part to paint"),
        ("inpaint photo.jpg --mask small.png", "9 x 9 pixels, the image 80 x 60"),
        ("inpaint photo.jpg --mask black.png", "there is nothing to paint"),
        ("inpaint photo.jpg --mask clear.png", "has transparent parts"),
        ("inpaint photo.jpg --mask none.png", "no file none.png"),
        ("img2img", "the image to change"),
        ("img2img none.png", "no file none.png"),
        ("img2img photo.jpg --strength 0", "not above 0"),
        ("img2img photo.jpg --strength 1.5", "not above 0"),
        ("img2img photo.jpg --labels cat", "unknown label"),
    ],
)
def test_mistakes_are_said_in_one_line(files, capsys, line, said):
    code = main(["edit", *line.split(), "--model", "mnist"])
    error = capsys.readouterr().err
    assert code == 2 and said in error and len(error.splitlines()) == 2


def test_a_gif_of_the_way_has_all_its_frames(files, capsys):
    words = ["make-gif", "interpolate", "--model", "mnist", "--labels", "3", "8", "--frames", "4", "--steps", "2"]
    assert main([*words, "--out", "way.gif", "--device", "cpu"]) == 0
    with Image.open(files / "way.gif") as gif:
        assert gif.n_frames == 8 and gif.info["loop"] == 0
    assert main([*words, "--sampler", "ddpm"]) == 2 and main(["make-gif", "denoise", "--frames", "3"]) == 2
