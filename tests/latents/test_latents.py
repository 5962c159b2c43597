"""The cache of latents: right, whole, continued, checked and found again; and training and drawing with it."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import MAKERS, SHRINK, write_tiny
from PIL import Image
from platforms import open_files
from training_runs import Listener, digest, run

from ditkit.autoencoders.contract import open_autoencoder
from ditkit.autoencoders.files import settings
from ditkit.checkpoint import loading
from ditkit.config import RunConfig
from ditkit.data.batches import Batches
from ditkit.data.contract import open_dataset, open_datasets
from ditkit.data.resident import BatchTarget
from ditkit.data.workers import iterate
from ditkit.errors import DataError, MachineError
from ditkit.events import Finished
from ditkit.io import atomic, paths
from ditkit.io.cache import entries
from ditkit.latents import cache as latent_cache
from ditkit.latents import reader
from ditkit.latents.cache import Interrupted, Latents, LatentSpec, open_latents
from ditkit.latents.codec import Codec
from ditkit.latents.reader import LatentReader
from ditkit.runs.folder import RunFolder
from ditkit.runs.model_info import LatentStats, read_model_info
from ditkit.sampling.generate import sample
from ditkit.training.loop import train
from ditkit.training.training_data import open_training_data

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(latent_cache, "_checked", set())
    return tmp_path / "cache" / "latents"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """OpenMP hangs in a forked process whose parent had more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty coloured images of two classes, 16x16."""
    drawn = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = drawn.integers(0, 256, (4, 4, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return tmp_path / "photos"


@pytest.fixture
def latent_run(tiny, photos: Path, tmp_path: Path):
    """`latent_run(kind, **sections)`: a config of a small latent run on the photos."""

    def build(kind: str = "tiny", **sections) -> RunConfig:
        folder = tmp_path / kind
        if not folder.exists():
            MAKERS[kind](folder)
        data = {"name": "folder", "path": str(photos), "image_size": 16, "channels": 3, "flip": True, "validation": 4}
        return tiny(
            **{
                **sections,
                "autoencoder": settings(str(folder)),
                "data": data | sections.get("data", {}),
                "model": {"patch": 2} | sections.get("model", {}),
            }
        )

    return build


def recipe_of(config: RunConfig, split="train", **changes) -> LatentSpec:
    made = LatentSpec(
        dataset=open_dataset(config.data, split),
        split=split,
        config=config,
        autoencoder=open_autoencoder(config),
        device=CPU,
        shard_images=8,
    )
    return replace(made, **changes)


def counted(recipe: LatentSpec, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images the autoencoder is asked to encode from now on, call by call."""
    real, calls = recipe.autoencoder.encode, []
    monkeypatch.setattr(recipe.autoencoder, "encode", lambda some: (calls.append(len(some)), real(some))[1])
    return calls


def everything(latents: Latents) -> list[np.ndarray]:
    shards = [latents.shard(number) for number in range(len(latents.shards))]
    return [np.concatenate([shard[name] for shard in shards]) for name in shards[0]]


# --- the cache


@pytest.mark.parametrize("kind", MAKERS)
def test_latents_are_those_of_the_autoencoder_for_the_image_and_its_mirror_image(kind: str, latent_run):
    recipe = recipe_of(latent_run(kind))
    latents = open_latents(recipe)
    for index in (0, 9, len(recipe.dataset) - 1):
        image, label = recipe.dataset[index]
        x_BCHW = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        shard, row = latents.shard(index // 8), index % 8
        for version, seen_BCHW in enumerate((x_BCHW, x_BCHW.flip(-1))):
            posterior = recipe.autoencoder.encode(seen_BCHW)
            assert np.allclose(shard["mean"][row, version], posterior.mean_BCHW[0].numpy(), atol=2e-3, rtol=2e-3)
            if posterior.std_BCHW is not None:
                assert np.allclose(shard["std"][row, version], posterior.std_BCHW[0].numpy(), atol=2e-3, rtol=2e-3)
        assert latents.label_ids[index] == label
    assert ("std" in latents.shard(0)) == (kind == "kl")


def test_channels_come_out_with_mean_zero_and_variance_one(latent_run):
    config = latent_run()
    latents = open_latents(recipe_of(config))
    reader = LatentReader(latents, latents.statistics("x"), seed=0)
    every = np.arange(len(reader))
    both = [reader.read(every, np.full(len(every), version), every).x_BCHW for version in (False, True)]
    x_NCHW = torch.cat(both)
    assert x_NCHW.mean((0, 2, 3)).abs().max() < 1e-3 and (x_NCHW.std((0, 2, 3)) - 1).abs().max() < 1e-2


def test_where_there_is_a_posterior_each_showing_is_another_draw_and_the_spread_counts(latent_run):
    latents = open_latents(recipe_of(latent_run("kl")))
    reader = LatentReader(latents, latents.statistics("x"), seed=0)
    same, plain = np.zeros(3000, dtype=np.int64), np.zeros(3000, dtype=bool)
    x_NCHW = reader.read(same, plain, np.arange(3000)).x_BCHW
    stats, shard = latents.statistics("x"), latents.shard(0)
    std_C = np.array(stats.std)[:, None, None]
    mean_CHW = (shard["mean"][0, 0] - np.array(stats.mean)[:, None, None]) / std_C
    spread_CHW = shard["std"][0, 0] / std_C
    assert np.allclose(x_NCHW.mean(0), mean_CHW, atol=5 * spread_CHW.max() / 3000**0.5)
    assert np.allclose(x_NCHW.std(0), spread_CHW, rtol=0.1)
    assert torch.equal(reader.read(same[:2], plain[:2], np.array([5, 6])).x_BCHW, x_NCHW[5:7])


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux, which lists open files")
def test_few_shards_are_open_at_once_however_many_there_are(latent_run, monkeypatch: pytest.MonkeyPatch):
    latents = open_latents(recipe_of(latent_run("kl")))
    assert len(latents.shards) > 2 and not shards_open(), "labels are copied"
    every, plain = np.arange(latents.images), np.zeros(latents.images, dtype=bool)
    wanted = LatentReader(latents, latents.statistics("x"), seed=0).read(every, plain, every).x_BCHW
    gc.collect()
    monkeypatch.setattr(reader, "most_open_files", lambda: 2 * reader._READERS)
    few = LatentReader(latents, latents.statistics("x"), seed=0)
    for _ in range(2):
        assert torch.equal(few.read(every, plain, every).x_BCHW, wanted)
        assert len(shards_open()) == 2, "one file a shard, though it holds several tensors"
    again = ForkingPickler.loads(ForkingPickler.dumps(few))
    assert torch.equal(again.read(every, plain, every).x_BCHW, wanted)
    del few, again
    assert not shards_open(), "without waiting for the collector of garbage"


def shards_open() -> list[str]:
    return [name for name in open_files() if "/shard-" in name]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM], ids=errno.errorcode.get)
def test_too_many_open_files_are_no_damage(number: int, latent_run, monkeypatch: pytest.MonkeyPatch):
    latents = open_latents(recipe_of(latent_run()))

    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    for place in ("os.open", "mmap.mmap"):
        with monkeypatch.context() as patch:
            patch.setattr(place, refuse)
            with pytest.raises(MachineError, match=f"cannot open .*shard-00000.*{os.strerror(number)}") as caught:
                latents.shard(0)
        assert "ulimit -n" in str(caught.value.hint)


def test_a_second_use_encodes_nothing_and_changes_nothing(latent_run, cache: Path, monkeypatch: pytest.MonkeyPatch):
    config = latent_run()
    first = everything(open_latents(recipe_of(config)))
    before = {path.name: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}
    recipe = recipe_of(config)
    calls = counted(recipe, monkeypatch)
    again = everything(open_latents(recipe))
    assert not calls and all(np.array_equal(one, other) for one, other in zip(first, again, strict=True))
    assert before == {path.name: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_what_was_encoded_before_a_stop_is_kept_and_the_rest_is_the_same(latent_run, monkeypatch):
    config = latent_run()
    straight = everything(open_latents(recipe_of(config)))
    shutil.rmtree(paths.cache_folder("latents"))
    asked: list[bool] = []
    with pytest.raises(Interrupted):
        open_latents(recipe_of(config, should_stop=lambda: asked.append(True) or len(asked) > 3))
    assert [entry.unfinished for entry in entries()] == [True]
    recipe = recipe_of(config)
    calls = counted(recipe, monkeypatch)
    resumed = everything(open_latents(recipe))
    assert [entry.unfinished for entry in entries()] == [False]
    assert sum(calls) == 2 * (len(recipe.dataset) - 3 * 8)
    assert all(np.array_equal(one, other) for one, other in zip(straight, resumed, strict=True))


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_shard_is_made_again_and_no_other(damage: str, latent_run, monkeypatch: pytest.MonkeyPatch):
    config = latent_run()
    latents = open_latents(recipe_of(config))
    whole = everything(latents)
    path = latents.folder / latents.shards[1]["file"]
    content = bytearray(path.read_bytes())
    content[-9] ^= 16
    {
        "flipped": lambda: path.write_bytes(content),
        "cut": lambda: path.write_bytes(content[:-50]),
        "gone": path.unlink,
    }[damage]()
    monkeypatch.setattr(latent_cache, "_checked", set())  # as in a new process
    recipe = recipe_of(config)
    calls = counted(recipe, monkeypatch)
    assert all(np.array_equal(one, other) for one, other in zip(whole, everything(open_latents(recipe)), strict=True))
    assert sum(calls) == 2 * 8


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99, "images": 36, "shards": {}}', '{"shards": 3}'])
def test_an_index_that_is_none_is_made_again(content: str, latent_run):
    config = latent_run()
    latents = open_latents(recipe_of(config))
    whole = everything(latents)
    (latents.folder / "index.json").write_text(content, encoding="utf-8")
    assert all(
        np.array_equal(one, other)
        for one, other in zip(whole, everything(open_latents(recipe_of(config))), strict=True)
    )


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_any_change_of_the_disk_the_rest_is_made_and_nothing_else_differs(
    latent_run, cache: Path, one_thread: None
):
    config = latent_run()
    straight = everything(open_latents(recipe_of(config)))
    for moment in range(100):
        shutil.rmtree(cache)
        child = os.fork()
        if not child:
            _die_at(moment)
            open_latents(recipe_of(config))
            os._exit(0)
        died = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        found = everything(open_latents(recipe_of(config)))
        assert all(np.array_equal(one, other) for one, other in zip(straight, found, strict=True)), moment
        assert [entry.unfinished for entry in entries()] == [False], moment
        if not died:
            break
    assert 20 < moment < 99, "every change was tried"


def _die_at(moment: int) -> None:
    """End this process, as kill -9 does, at one of the changes of the disk."""
    left = [moment]

    def dying(real):
        def change(*arguments, **options):
            if not left[0]:
                os._exit(9)
            left[0] -= 1
            return real(*arguments, **options)

        return change

    for name in ("write_synced", "rename", "sync_folder", "make_folder"):
        setattr(atomic, name, dying(getattr(atomic, name)))


def test_a_full_disk_is_reported_and_what_was_made_is_kept(latent_run, monkeypatch: pytest.MonkeyPatch):
    config, real, written = latent_run(), atomic.write_synced, []

    def write(path: Path, content):
        if path.name.startswith(".shard-00002"):
            raise OSError(28, "No space left on device")
        written.append(path.name)
        return real(path, content)

    monkeypatch.setattr(atomic, "write_synced", write)
    with pytest.raises(MachineError, match="cannot keep latents in"):
        open_latents(recipe_of(config))
    monkeypatch.setattr(atomic, "write_synced", real)
    recipe = recipe_of(config)
    calls = counted(recipe, monkeypatch)
    open_latents(recipe)
    assert sum(calls) == 2 * (len(recipe.dataset) - 2 * 8)


def test_everything_that_latents_depend_on_gives_them_another_place(latent_run, photos: Path, tmp_path: Path):
    config = latent_run()
    other = write_tiny(tmp_path / "other", seed=1)
    changed = [
        config,
        latent_run(data={"image_size": 32}),
        latent_run(data={"crop": "top"}),
        latent_run(data={"flip": False}),
        replace(config, autoencoder=replace(config.autoencoder, source=str(other))),
    ]
    names = [recipe_of(one).folder_name for one in changed]
    names.append(recipe_of(config, "validation").folder_name)
    (photos / "cat" / "01.png").unlink()
    names.append(recipe_of(config).folder_name)
    assert len(set(names)) == len(names)


def test_the_place_says_what_it_holds(latent_run, cache: Path):
    open_latents(recipe_of(latent_run()))
    (entry,) = cache.iterdir()
    assert entry.name.startswith("photos-train-")
    assert "latents of 36 images" in json.loads((entry / "about.json").read_text(encoding="utf-8"))["source"]


def test_an_unreadable_image_gives_way_to_another_and_is_left_out_of_validation(latent_run, photos: Path):
    config = latent_run(data={"validation": 0})
    bad = photos / "dog" / "00.png"
    bad.write_bytes(b"nothing" * bad.stat().st_size)
    latents = open_latents(recipe_of(config))
    (index,) = latents.bad
    reader = LatentReader(latents, latents.statistics("x"), seed=0)
    both = np.array([index, index]), np.zeros(2, dtype=bool), np.arange(2)
    batch = reader.read(*both)
    assert "00.png" in batch.bad[index] and torch.equal(batch.x_BCHW[0], batch.x_BCHW[1])
    assert torch.equal(batch.x_BCHW, LatentReader(latents, latents.statistics("x"), seed=0).read(*both).x_BCHW)
    x_NCHW, label_N, left_out = reader.all_means()
    assert len(x_NCHW) == len(label_N) == len(reader) - 1 and list(left_out) == [index]


def test_latents_that_are_not_finite_are_refused(latent_run, monkeypatch: pytest.MonkeyPatch):
    recipe = recipe_of(latent_run())
    real = recipe.autoencoder.encode
    monkeypatch.setattr(
        recipe.autoencoder, "encode", lambda some: real(some)._replace(mean_BCHW=real(some).mean_BCHW / 0)
    )
    with pytest.raises(DataError, match="not finite"):
        open_latents(recipe)


# --- training


@pytest.mark.parametrize("kind", MAKERS)
def test_a_latent_run_that_was_stopped_ends_as_one_that_was_not(kind: str, latent_run, tmp_path: Path):
    config = latent_run(kind)
    run(config, tmp_path / "straight")
    run(config, tmp_path / "stopped", stop_after=5)
    shutil.rmtree(paths.cache_folder("latents"))
    run(config, tmp_path / "stopped")
    assert digest(tmp_path / "straight") == digest(tmp_path / "stopped")


@pytest.mark.parametrize("kind", MAKERS)
def test_latents_that_fit_on_the_device_are_read_once_and_are_the_same_there(
    kind: str, latent_run, monkeypatch: pytest.MonkeyPatch
):
    config = latent_run(kind)
    material = open_training_data(config, open_datasets(config.data), CPU)
    where_they_lie = Batches(material.train, 8, seed=3, flip=True)
    real, reads = Latents.shard, []
    monkeypatch.setattr(Latents, "shard", lambda self, number: (reads.append(number), real(self, number))[1])
    there, too_large = (Batches(material.train, 8, 3, flip=True, place=BatchTarget(CPU, size)) for size in (1 << 30, 1))
    assert len(reads) == len(set(reads)), "all for the device, before the first batch"
    for step in range(12):
        one, other, same = (batches.batch(step) for batches in (where_they_lie, there, too_large))
        assert torch.equal(one.x_BCHW, other.x_BCHW) and torch.equal(one.label_B, other.label_B)
        assert torch.equal(one.x_BCHW, same.x_BCHW)
    assert reads.count(0) == 2, "once where they lie, by one reader, and once for the device"
    x_BCHW = there.without_cache().batch(2).x_BCHW
    assert torch.equal(x_BCHW, where_they_lie.batch(2).x_BCHW)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_run_with_its_latents_on_the_device_ends_as_one_without(
    kind: str, latent_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = latent_run(kind)
    run(config, tmp_path / "straight")
    run(config, tmp_path / "there", stop_after=5)
    monkeypatch.setattr("ditkit.training.setup.batch_target", lambda device, workers: BatchTarget(device, 1 << 30))
    run(config, tmp_path / "there")
    assert digest(tmp_path / "straight") == digest(tmp_path / "there")


def test_workers_give_the_same_latents_as_a_thread(latent_run):
    config = latent_run("kl")
    material = open_training_data(config, open_datasets(config.data), CPU)
    batches = Batches(material.train, 8, seed=3, flip=True)
    plain, processes = (
        iterate(batches, 2, replace(config.data, workers=workers, worker_start="fork")) for workers in (0, 2)
    )
    for _ in range(3):
        one, other = next(plain), next(processes)
        assert torch.equal(one.x_BCHW, other.x_BCHW) and torch.equal(one.label_B, other.label_B)
    plain.close(), processes.close()


def test_the_weights_carry_the_statistics_and_draw_images_of_the_full_size(latent_run, tmp_path: Path):
    config = latent_run()
    run(config, tmp_path / "r")
    newest = RunFolder(tmp_path / "r").checkpoint(12)
    info = read_model_info(newest / "ema.safetensors")
    assert info.latents and len(info.latents.mean) == 5 and info.latents.autoencoder
    trained = loading.load(tmp_path / "r")
    images = sample(trained, ["cat", "dog"], seed=1)
    assert [one.image.shape for one in images] == [(16, 16, 3)] * 2
    alone = sample(trained, ["dog"], seed=2)
    assert np.array_equal(alone[0].image, images[1].image)
    assert config.shape == (5, 16 // SHRINK, 16 // SHRINK)


def test_the_codec_undoes_what_the_reader_does(latent_run):
    config = latent_run()
    material = open_training_data(config, open_datasets(config.data), CPU)
    dataset, reader = open_dataset(config.data, "train"), material.train
    assert isinstance(reader, LatentReader)
    image, _ = dataset[3]
    x_BCHW = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    autoencoder = open_autoencoder(config)
    wanted = autoencoder.decode(autoencoder.encode(x_BCHW).mean_BCHW)
    found = reader.read(np.array([3]), np.array([False]), np.array([0])).x_BCHW
    assert torch.allclose(material.codec.to_images(found), wanted, atol=2e-2)
    assert torch.equal(Codec(autoencoder, None).to_images(x_BCHW), x_BCHW)


def test_another_autoencoder_than_the_runs_is_refused_and_one_that_moved_can_be_named(latent_run, tmp_path: Path):
    config = latent_run()
    run(config, tmp_path / "r")
    moved = (tmp_path / "tiny").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        loading.load(tmp_path / "r")
    assert sample(loading.load(tmp_path / "r", autoencoder=moved), 1)
    with pytest.raises(DataError, match="not those that the network was trained with"):
        loading.load(tmp_path / "r", autoencoder=write_tiny(tmp_path / "other", seed=7))
    write_tiny(tmp_path / "tiny", seed=8)
    with pytest.raises(DataError, match="not those that the network was trained with"):
        run(config, tmp_path / "r", stop_after=1)


def test_a_stop_while_latents_are_made_ends_in_good_order(latent_run, tmp_path: Path):
    listener = run(latent_run(), tmp_path / "r", stop_after=0)
    (finished,) = listener.of(Finished)
    assert (finished.step, finished.reason) == (0, "stopped")
    run(latent_run(), tmp_path / "r")
    assert RunFolder(tmp_path / "r").last_step() == 12


def test_the_time_that_a_run_may_take_counts_from_the_first_image_encoded(latent_run, tmp_path: Path):
    listener = Listener()
    train(latent_run(), tmp_path / "r", listener, device="cpu", max_seconds=0)
    (finished,) = listener.of(Finished)
    assert (finished.step, finished.reason) == (0, "time")


def test_statistics_survive_the_card_and_nonsense_does_not():
    stats = LatentStats(mean=(0.5, -1.0), std=(1.0, 2.0), autoencoder="x")
    assert LatentStats.from_tree(json.loads(json.dumps(vars(stats)))) == stats
    for tree in ({"mean": [0], "std": [0], "autoencoder": ""}, {"mean": [0], "std": [], "autoencoder": ""}):
        with pytest.raises(ValueError, match="none"):
            LatentStats.from_tree(tree)


def test_without_images_held_out_a_latent_run_goes_without_validation(latent_run, tmp_path: Path):
    run(latent_run("kl", data={"validation": 0}), tmp_path / "r")
    assert not [row for row in RunFolder(tmp_path / "r").metrics() if "validation_loss" in row]
