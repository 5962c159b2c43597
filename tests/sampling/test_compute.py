"""How a network computes where it draws: kernels and dtypes, on every way to an image, and what files say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from command_line import said
from PIL import Image
from torch import Tensor

import ditkit
from ditkit.checkpoint.loading import Trained
from ditkit.errors import UsageError
from ditkit.io.progress import no_progress, reporting_to
from ditkit.kernels import choice
from ditkit.kernels.library import KernelsUnavailable, open_library
from ditkit.models.blocks import AdaLNBlock
from ditkit.recipes import load
from ditkit.sampling.edit import edit
from ditkit.sampling.generate import draw, sample
from ditkit.sampling.interpolate import interpolate

DIGITS = ["3", "1", "4"]


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


@pytest.fixture(scope="module")
def fast(kernels: None) -> Trained:
    return ditkit.load("mnist", kernels="on")


@pytest.fixture(scope="module")
def eager() -> Trained:
    return ditkit.load("mnist", kernels="off")


@pytest.fixture
def check_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels pass their check without a measurement."""
    verdict = choice._Verdict(error=0.0, gain=2.0, why="as measured")
    monkeypatch.setattr(choice, "_kept_or_checked", lambda *_: verdict)


def images(samples: list) -> np.ndarray:
    return np.stack([one.image for one in samples]).astype(int)


WAYS = {
    "guided": lambda model: images(sample(model, DIGITS, steps=3, guidance=3.0)),
    "in an interval": lambda model: images(sample(model, DIGITS, steps=4, guidance=3.0, guidance_interval=(0.3, 0.7))),
    "unguided": lambda model: images(sample(model, DIGITS, steps=3, guidance=1.0)),
    "reuse": lambda model: images(sample(model, DIGITS, steps=5, guidance=2.0, reuse=2)),
    "autoguided": lambda model: images(sample(model, DIGITS, steps=3, guidance=2.0, guide=model)),
    "edited": lambda model: images(edit(model, np.zeros((28, 28, 1), np.uint8), DIGITS, strength=0.5)),
    "interpolated": lambda model: images(interpolate(model, DIGITS[:2], frames=2)),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_an_image_goes_through_the_kernels_and_leads_to_the_same_image(way, fast, eager, monkeypatch):
    expected = WAYS[way](eager)
    monkeypatch.setattr(AdaLNBlock, "forward", lambda *_: pytest.fail("an eager block"))
    assert np.abs(WAYS[way](fast) - expected).max() <= 1  # of 255 levels


def floats(model: Trained, at_once: int) -> Tensor:
    """Eight digits as a sampler leaves them, in [-1, 1], drawn so many at a time."""
    config = model.info.config
    return draw(
        model.network, config.diffusion, shape=config.shape, labels=range(8), null_label=10, seeds=range(8),
        settings=config.sample, device="cpu", batch_size=at_once,
    )  # fmt: skip


def test_the_same_seed_is_the_same_image_alone_and_among_others_with_kernels_as_without(fast, eager):
    together, without = floats(fast, 8), floats(eager, 8)
    largest = max(float((floats(fast, at_once) - together).abs().max()) for at_once in (1, 3))
    print(f"1, 3, 8 at a time: {largest:.1e} at most; without kernels: {(together - without).abs().max():.1e}")
    assert largest < 1e-3 and (together - without).abs().max() < 1e-3  # an eighth of a level of 255


def test_products_are_reduced_by_autocast_where_there_are_no_kernels(eager):
    reduced = ditkit.load("mnist", dtype="bfloat16", kernels="off")
    seen = []
    reduced.network.blocks[0].mlp.first.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    drawn = images(sample(reduced, DIGITS[:1], steps=2))
    difference = np.abs(drawn - images(sample(eager, DIGITS[:1], steps=2)))
    assert set(seen) == {torch.bfloat16} and 0 < difference.max() < 64
    assert reduced.compute.record == {"dtype": "bfloat16", "kernels": "off"}


def test_bfloat16_on_a_processor_that_does_not_compute_in_it_is_said_once(monkeypatch):
    told = []

    def watch(text: str):
        told.append(text)
        return no_progress(text)

    monkeypatch.setattr(choice, "computes_bfloat16", lambda: False)
    choice._say_slow.cache_clear()
    with reporting_to(watch):
        for _ in range(2):
            choice.choose_to_draw(load("mnist"), "cpu", "bfloat16", "off")
    assert [text.partition(":")[0] for text in told] == ["warning"] and "slow" in told[0]


def test_auto_is_float32_on_a_gpu_where_there_are_no_kernels():
    compute = choice.choose_to_draw(load("mnist"), "cuda", "auto", "auto")
    assert (compute.dtype, compute.kernels) == (torch.float32, False)
    with pytest.raises(UsageError, match="--kernels on: they run on CPUs, not on cuda"):
        choice.choose_to_draw(load("mnist"), "cuda", "auto", "on")


@pytest.mark.parametrize(("word", "kernels"), [("off", False), ("on", True), ("auto", True)])
def test_the_environment_says_what_auto_is(word, kernels, monkeypatch, check_once):
    monkeypatch.setenv("DITKIT_KERNELS", word)
    config = load("mnist", {"model": {"width": 16, "heads": 2}})
    assert choice.choose(config, torch.device("cpu")).kernels is kernels
    assert not choice.choose(config, torch.device("cpu"), kernels="off").kernels
    crossed = load("mnist", {"model": {"conditioning": "cross-attention"}})
    assert not choice.choose(crossed, torch.device("cpu")).kernels  # what the environment says is no error anywhere
    monkeypatch.setenv("DITKIT_KERNELS", "yes")
    with pytest.raises(UsageError, match="DITKIT_KERNELS: 'yes'"):
        choice.choose(config, torch.device("cpu"))


@pytest.mark.parametrize("word", ["on", "off"])
def test_images_and_sweeps_say_what_drew_them(word, capsys, check_once):
    expected = {"dtype": "float32", "kernels": word}
    Image.fromarray(np.zeros((28, 28), np.uint8)).save("black.png")
    for command in ("sample", "edit img2img black.png"):
        line = f"{command} --model mnist --labels 3 --steps 2 --kernels {word} --out {command[:4]} --device cpu"
        assert said(capsys, line)[0] == 0
        for name in ("000-3.png", "grid.png"):
            text = Image.open(f"{command[:4]}/{name}").text  # type: ignore
            assert {key: text[key] for key in expected} == expected
    code, out, err = said(capsys, f"sweep mnist --steps 1,2 --labels 3 --kernels {word} --device cpu --json --out all")
    assert code == 0, err
    assert all({key: way[key] for key in expected} == expected for way in json.loads(out)["ways"])


def test_gifs_are_drawn_by_the_kernels_too(capsys, monkeypatch, check_once):
    monkeypatch.setattr(AdaLNBlock, "forward", lambda *_: pytest.fail("an eager block"))
    for kind in ("denoise", "interpolate --frames 2"):
        line = f"make-gif {kind} --model mnist --labels 3 1 --steps 2 --kernels on --out {kind[:5]}.gif --device cpu"
        assert said(capsys, line)[0] == 0
