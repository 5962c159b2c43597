"""Memory that runs out outside the step: looks go on with fewer images or without, and what ends a run saves first."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from training_runs import digest, run

from ditkit.autoencoders.contract import Posterior, encode_in_parts
from ditkit.data.batches import Batches
from ditkit.data.resident import BatchTarget
from ditkit.events import Finished, Sampled, Validated, Warned
from ditkit.latents import codec, reader
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import LatentStats
from ditkit.runtime import at_once
from ditkit.runtime.at_once import halving
from ditkit.sampling.generate import _Sampler
from ditkit.training import saving
from ditkit.training.validation_set import ValidationSet

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = torch.device("cpu")


def test_fewer_images_at_once_are_tried_until_they_fit_and_the_device_is_emptied_between(monkeypatch):
    emptied, tried = [], []
    monkeypatch.setattr(at_once, "give_back", emptied.append)

    def work(images: int) -> str:
        tried.append(images)
        if images > 2:
            raise FULL
        return "done"

    assert halving(work, 9, CPU) == "done"
    assert tried == [9, 4, 2] and emptied == [CPU, CPU]
    with pytest.raises(torch.OutOfMemoryError):
        halving(lambda images: (_ for _ in ()).throw(FULL), 4, CPU)
    with pytest.raises(RuntimeError, match="shapes"):
        halving(lambda images: (_ for _ in ()).throw(RuntimeError("shapes")), 4, CPU)


def test_looks_that_do_not_fit_at_once_are_taken_in_parts(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "roomy")
    real_loss, real_draw, sizes = ValidationSet.loss, _Sampler.draw, set()

    def loss(self, network, device, dtype, batch_size):
        if batch_size > 4:
            raise FULL
        return real_loss(self, network, device, dtype, batch_size)

    def draw(self, shape, labels, *rest):
        if len(labels) > 5:
            raise FULL
        sizes.add(len(labels))
        return real_draw(self, shape, labels, *rest)

    monkeypatch.setattr(ValidationSet, "loss", loss)
    monkeypatch.setattr(_Sampler, "draw", draw)
    listener = run(tiny(), tmp_path / "r")
    assert not listener.of(Warned) and len(listener.of(Sampled)) == 2 and len(listener.of(Validated)) == 3
    assert max(sizes) == 5
    ends = [digest(tmp_path / name) for name in ("roomy", "r")]
    assert ends[0]["model.safetensors"] == ends[1]["model.safetensors"]


@pytest.mark.parametrize("look", [(ValidationSet, "loss"), (_Sampler, "draw")], ids=["validating", "drawing"])
def test_a_look_that_does_not_fit_at_all_is_left_out_and_the_run_goes_on(tiny, tmp_path, monkeypatch, look):
    def never(*_, **__):
        raise FULL

    monkeypatch.setattr(*look, never)
    listener = run(tiny(), tmp_path / "r")
    assert listener.of(Finished)[0].reason == "done" and listener.step == 12
    assert all("out of memory" in event.text and "goes on without" in event.text for event in listener.of(Warned))
    assert "validation_loss" in str(RunFolder(tmp_path / "r").metrics()) or look[0] is ValidationSet


@pytest.mark.parametrize(
    "error", [FULL, MemoryError("no room"), RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)")]
)
def test_memory_that_runs_out_while_a_batch_is_made_ends_the_run_after_it_was_saved(tiny, tmp_path, monkeypatch, error):
    original = Batches.batch

    def batch(self, step):
        if step == 3:
            raise error
        return original(self, step)

    monkeypatch.setattr(Batches, "batch", batch)
    with pytest.raises(type(error)):
        run(tiny(), tmp_path / "r")
    assert RunFolder(tmp_path / "r").last_step() == 3
    monkeypatch.undo()
    run(tiny(), tmp_path / "r")
    run(tiny(), tmp_path / "straight")
    assert digest(tmp_path / "r") == digest(tmp_path / "straight")


class Decoder:
    """An autoencoder that has room for two images."""

    shrink = 2

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def decode(self, latent_BCHW: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(latent_BCHW))
        if len(latent_BCHW) > 2:
            raise FULL
        return latent_BCHW.repeat_interleave(2, -1).repeat_interleave(2, -2)

    def encode(self, image_BCHW: torch.Tensor) -> Posterior:
        self.sizes.append(len(image_BCHW))
        if len(image_BCHW) > 2:
            raise FULL
        return Posterior(image_BCHW[..., ::2, ::2], image_BCHW[..., ::2, ::2] * 0.1)


def test_latents_are_decoded_in_as_small_parts_as_memory_asks():
    decoder = Decoder()
    stats = LatentStats(mean=(0.5,), std=(2.0,), autoencoder="x")
    latent_BCHW = torch.arange(5.0)[:, None, None, None].expand(5, 1, 2, 2)
    images_BCHW = codec.Codec(decoder, stats).to_images(latent_BCHW)
    assert decoder.sizes == [5, 2, 2, 1]
    assert torch.equal(images_BCHW, (0.5 + 2 * torch.arange(5.0))[:, None, None, None].expand(5, 1, 4, 4))


class Latents:
    """Latents of four images in two shards."""

    images, shard_images, bad = 4, 2, {}
    shards = ({"bytes": 8}, {"bytes": 8})
    label_ids = np.zeros(4, dtype=np.int64)

    def __init__(self, fits: int) -> None:
        self.fits, self.loaded = fits, 0

    def shard(self, number: int) -> dict[str, np.ndarray]:
        self.loaded += 1
        if self.loaded > self.fits:
            raise FULL
        return {"mean": np.full((2, 1, 1, 1, 1), number, dtype=np.float16)}


@pytest.mark.parametrize("fits", [2, 1])
def test_latents_are_on_the_device_before_training_or_stay_in_their_files(fits):
    latents, stats = Latents(fits), LatentStats(mean=(0.0,), std=(1.0,), autoencoder="x")
    in_files = reader.LatentReader(latents, stats, 0)
    placed = in_files.at(BatchTarget(CPU, most_bytes=16))
    assert latents.loaded == 2
    assert (placed is in_files) == (fits == 1)
    if fits == 2:
        x_BCHW = placed.read(np.array([3]), np.zeros(1, dtype=bool), np.zeros(1, dtype=int)).x_BCHW
        assert float(x_BCHW) == 1.0 and latents.loaded == 2


def test_images_are_encoded_in_as_small_parts_as_memory_asks():
    encoder, image_BCHW = Decoder(), torch.rand(5, 1, 4, 4)
    posterior = halving(partial(encode_in_parts, encoder, image_BCHW), 5, CPU)
    assert encoder.sizes == [5, 2, 2, 1]
    assert posterior.std_BCHW is not None and torch.equal(posterior.mean_BCHW, image_BCHW[..., ::2, ::2])


@pytest.mark.parametrize("answer", [True, False])
def test_a_run_that_ends_saves_only_what_a_device_can_still_give(tiny, tmp_path, monkeypatch, answer):
    monkeypatch.setattr(saving, "answers", lambda device, seconds: answer)
    original = Batches.batch

    def batch(self, step):
        if step == 3:
            raise FULL
        return original(self, step)

    monkeypatch.setattr(Batches, "batch", batch)
    with pytest.raises(torch.OutOfMemoryError):
        run(tiny(), tmp_path / "r")
    assert RunFolder(tmp_path / "r").last_step() == (3 if answer else 0)
