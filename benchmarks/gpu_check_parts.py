"""The parts of `gpu_check.py`: each is a function that takes a `Bench` and notes figures as soon as it has them.

B batch, C channels, H W image.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ditkit import recipes
from ditkit.config import RunConfig
from ditkit.data import workers
from ditkit.data.contract import Datasets
from ditkit.data.from_python import with_data
from ditkit.errors import MachineError
from ditkit.events import Event, Warned
from ditkit.runs.resume import start_or_resume
from ditkit.runtime.distributed import ProcessGroup
from ditkit.training import loop
from ditkit.training.session import TrainingSession
from ditkit.training.setup import open_session
from ditkit.training.step import SpeedOptions

LABELS = ("female", "male")


@dataclass
class Bench:
    """Where a part works, and with what."""

    device: torch.device
    folder: Path
    note: Callable[..., None]
    warned: list[str] = field(default_factory=list)  # by runs, so far

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, on_gpu: Any, here: Any) -> Any:
        """A size for a GPU, or a small one."""
        return on_gpu if self.is_gpu else here

    def listen(self, event: Event) -> None:
        if isinstance(event, Warned):
            self.warned.append(event.text)

    def now(self) -> float:
        if self.is_gpu:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def forget_peak(self) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak_mb(self) -> float | None:
        """The most that torch had of the GPU's memory since `forget_peak`."""
        return round(torch.cuda.max_memory_allocated(self.device) / 2**20, 1) if self.is_gpu else None


def work_of(name: str, device: str, folder: Path) -> Callable[[Callable[..., None]], None]:
    """What a process is to do for a part; CUDA is not touched before it runs."""
    return partial(_do, name, device, folder)


def _do(name: str, device: str, folder: Path, note: Callable[..., None]) -> None:
    torch.manual_seed(0)
    bench = Bench(torch.device(device), folder, note)
    if bench.is_gpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device")
    globals()[f"part_{name}"](bench)
    if bench.warned:
        note(warned=list(dict.fromkeys(bench.warned))[:10])


# --- a run on generated images


def images(count: int, side: int) -> list[tuple[np.ndarray, int]]:
    """Noise that is smooth, uint8 (H, W, C), the same each time, with labels."""
    source = np.random.default_rng(0)
    coarse = source.integers(0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8)
    return [(image.repeat(8, 0).repeat(8, 1), number % 2) for number, image in enumerate(coarse)]


def random_tiny(folder: Path, bench: Bench) -> Path:
    """An autoencoder like TAESD3, with random weights, in diffusers' layout."""
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    if not folder.is_dir():
        torch.manual_seed(0)
        width, depth = bench.pick((64, 3), (8, 1))
        sizes = {f"{part}_block_out_channels": (width,) * 4 for part in ("encoder", "decoder")}
        encoder, decoder = (1, depth, depth, depth), (depth, depth, depth, 1)
        blocks = {"num_encoder_blocks": encoder, "num_decoder_blocks": decoder}
        AutoencoderTiny(latent_channels=16, **sizes, **blocks).save_pretrained(folder, safe_serialization=True)
    return folder


def random_kl(folder: Path, bench: Bench) -> Path:
    """An autoencoder like Stable Diffusion's, with random weights, in diffusers' layout."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    if not folder.is_dir():
        torch.manual_seed(0)
        widths = bench.pick((128, 256, 512, 512), (8, 8, 8, 8))
        kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
        about = {
            "block_out_channels": widths,
            "layers_per_block": bench.pick(2, 1),
            "norm_num_groups": bench.pick(32, 4),
        }
        AutoencoderKL(latent_channels=4, **kinds, **about).save_pretrained(folder, safe_serialization=True)
    return folder


def faces(bench: Bench, count: int | None = None, **settings: Any) -> tuple[RunConfig, Datasets]:
    """The recipe celeba-gpu on generated images; on a CPU a much smaller network."""
    few: dict[str, Any] = {
        "data": {"validation": 8, "image_size": bench.pick(128, 32)},
        "autoencoder": {"source": str(random_tiny(bench.folder / "tiny", bench))},
        "sample": {"steps": 4},
        "optim": {"warmup_steps": 2, "lr": 1e-3},  # so that losses soon depend on what was computed
        "train": {"sample_columns": 1, "batch_size": bench.pick(256, 8)},
    }
    if not bench.is_gpu:
        few["model"] = {"width": 64, "depth": 2, "heads": 2}
    config = recipes.build(recipes.tree("celeba-gpu"), few, settings)
    return with_data(config, images(count or bench.pick(512, 32), config.data.image_size[0]), LABELS)


@contextlib.contextmanager
def session(
    bench: Bench, config: RunConfig, datasets: Datasets, name: str, dtype: str = "auto", **speed: Any
) -> Iterator[TrainingSession]:
    """A run that is open, as `train` opens it, in a folder of its own."""
    options = SpeedOptions(**{"compile": "off", "kernels": "off", **speed})
    with start_or_resume(config, bench.folder / name) as plan:
        opened = open_session(
            plan.config,
            plan.folder,
            ProcessGroup(),
            bench.listen,
            bench.device,
            dtype,
            speed=options,
            datasets=datasets,
        )
        with contextlib.closing(opened.logs):
            yield opened


class Steps:
    """The steps of a session, as the loop takes them."""

    def __init__(self, bench: Bench, opened: TrainingSession):
        self.bench, self.session = bench, opened
        self.losses: list[float] = []
        self.norms: list[float] = []  # of the gradients
        self._batches = workers.iterate(opened.batches, opened.step, opened.config.data)

    def take(self, count: int) -> float:
        """Take some steps; the seconds of one, by the clock from the first to the last."""
        began = self.bench.now()
        for _ in range(count):
            _, metrics = loop.take_step(self.session, next(self._batches), lambda: [False, False])
            self.losses.append(metrics["loss"])
            self.norms.append(metrics["grad_norm"])
        return (self.bench.now() - began) / count

    def close(self) -> None:
        self._batches.close()


@contextlib.contextmanager
def steps_of(bench: Bench, config: RunConfig, datasets: Datasets, name: str, **speed: Any) -> Iterator[Steps]:
    with session(bench, config, datasets, name, **speed) as opened, contextlib.closing(Steps(bench, opened)) as steps:
        yield steps


def off(right: Steps, got: Steps) -> dict[str, float]:
    """The largest differences of the same steps, in the loss and in the gradients' norm, as parts of them."""
    rows = {"loss": (right.losses, got.losses), "norm": (right.norms, got.norms)}
    return {name: max(abs(a - b) / abs(a) for a, b in zip(*pair, strict=True)) for name, pair in rows.items()}


# --- the parts


def part_doctor(bench: Bench) -> None:
    """What the machine is, and what `estimate` says of the recipe for GPUs."""
    from ditkit.estimation.report import estimate
    from ditkit.runtime.installation import describe_devices
    from ditkit.selftest.machine import describe_machine

    bench.note(machine=describe_machine(bench.device), doctor=list(describe_devices(str(bench.device))))
    config, datasets = faces(bench)
    report = estimate(
        config, datasets=datasets, device=str(bench.device), folder=bench.folder, seconds=bench.pick(5, 1)
    )
    bench.note(estimate={key: report[key] for key in ("parameters", "dtype", "memory", "time", "fits")})


def part_eager(bench: Bench) -> None:
    """Steps of the recipe for GPUs: how long, how often the host waits, and how much of the time the GPU computes."""
    with steps_of(bench, *faces(bench), "eager") as steps:
        first = steps.take(1)
        steps.take(bench.pick(5, 1))
        seconds = steps.take(bench.pick(50, 3))
        use = steps.session.utilization.of_peak(steps.session.config.train.batch_size / seconds)
        bench.note(first_step_s=round(first, 3), step_ms=round(1000 * seconds, 2), of_peak=use)
        bench.note(losses=steps.losses[:10], dtype=str(steps.session.compute.dtype), peak_mb=bench.peak_mb())
        if bench.is_gpu:
            bench.note(host_waits_in_a_step=host_waits(steps))
            bench.note(**device_time(steps, seconds))


def host_waits(steps: Steps) -> dict[str, int]:
    """The places where the host waits for the GPU in one step, by torch's own warnings."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            steps.take(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return dict(
        Counter(f"{Path(each.filename).name}:{each.lineno}" for each in seen if "synchroniz" in str(each.message))
    )


def device_time(steps: Steps, seconds: float) -> dict[str, Any]:
    """How much of a step's time the GPU computes, and how many kernels and copies that takes, by torch's profiler."""
    from torch.profiler import ProfilerActivity, profile

    count = 5
    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            steps.take(count)
    except (RuntimeError, AssertionError) as error:  # where the driver lets nobody measure
        return {"profiler": str(error)}
    rows = list(profiler.key_averages())
    busy = sum(getattr(row, "self_device_time_total", 0) for row in rows) / 1e6 / count
    return {
        "busy_ms": round(1000 * busy, 2),
        "busy_share": round(busy / seconds, 3),
        "kernels_a_step": round(sum(row.count for row in rows) / count),
    }


def part_compiled(bench: Bench) -> None:
    """The same steps compiled: how long that takes, how fast they are, and whether the losses are eager's."""
    config, datasets = faces(bench)
    few = bench.pick(10, 3)
    with steps_of(bench, config, datasets, "plain") as plain:
        plain.take(few)
        seconds = plain.take(bench.pick(20, 3))
        bench.note(eager_step_ms=round(1000 * seconds, 2))
    with steps_of(bench, config, datasets, "compiled", compile="on") as steps:
        bench.note(is_compiled=steps.session.step_context.compiled is not None)
        first = steps.take(1)
        bench.note(first_step_s=round(first, 1))
        steps.take(few - 1)
        seconds = steps.take(bench.pick(20, 3))
        bench.note(compiled_step_ms=round(1000 * seconds, 2), off=off(plain, steps))
        if bench.is_gpu:
            bench.note(**device_time(steps, seconds))


def part_memory(bench: Bench) -> None:
    """Memory that is predicted against what torch takes, for networks of several sizes, and with recomputation."""
    for preset in bench.pick(("dit-s/2", "dit-b/2", "dit-xl/2"), (None,)):
        bench.note(**{str(preset): _memory_of(bench, preset)})


def _memory_of(bench: Bench, preset: str | None) -> dict[str, Any]:
    from ditkit.estimation.report import estimate

    model = {"model": {"preset": preset}} if preset else {}
    config, datasets = faces(bench, train={"keep": 1}, **model)
    report = estimate(config, datasets=datasets, device=str(bench.device), folder=bench.folder, seconds=None)
    predicted = report["memory"]["total"] - report["memory"]["process"]
    bench.forget_peak()
    with steps_of(bench, config, datasets, f"memory-{preset}".replace("/", "-")) as steps:
        steps.take(2)
        plain, peak = steps.take(2), bench.peak_mb()
        bench.forget_peak()
        steps.session.step_context.network.recompute = True
        steps.take(1)
        return {
            "predicted_mb": round(predicted / 2**20, 1),
            "peak_mb": peak,
            "step_ms": round(1000 * plain, 1),
            "recomputing_step_ms": round(1000 * steps.take(2), 1),
            "recomputing_peak_mb": bench.peak_mb(),
        }


def part_room(bench: Bench) -> None:
    """Memory that runs out in a step and in a sample grid: the step is done in parts, the grid costs no step."""
    from ditkit.training.previews import show

    config, datasets = faces(bench)
    with steps_of(bench, config, datasets, "roomy") as roomy:
        roomy.take(2)
        bench.forget_peak()
        roomy.take(2)
        needed = 0  # beyond what stays from step to step
        if bench.is_gpu:
            needed = torch.cuda.max_memory_allocated(bench.device) - torch.cuda.memory_allocated(bench.device)
    with steps_of(bench, config, datasets, "narrow") as steps:
        steps.take(2)
        before = steps.session.step_context.micro_batches
        with running_out(bench, steps.session, 6 * needed // 10):
            steps.take(2)
        bench.note(parts=[before, steps.session.step_context.micro_batches], off=off(roomy, steps))
        with running_out(bench, steps.session, 8 << 20) if bench.is_gpu else contextlib.nullcontext():
            show(steps.session)
        bench.note(
            grid=sorted(path.name for path in steps.session.folder.samples.glob("*")),
            loss=steps.take(1) and steps.losses[-1],
        )
    _note_grid_by_kl(bench)


def _note_grid_by_kl(bench: Bench) -> None:
    """The memory of a sample grid that a large autoencoder decodes, beside that of a step."""
    from ditkit.training.previews import show

    about = {"name": "kl", "source": str(random_kl(bench.folder / "kl", bench)), "channels": 4, "shrink": 8}
    few = {"train": {"sample_columns": 8, "batch_size": bench.pick(32, 8)}, "data": {"image_size": bench.pick(256, 32)}}
    config, datasets = faces(bench, 64, autoencoder=about, **few)
    with steps_of(bench, config, datasets, "run of kl") as steps:
        bench.forget_peak()
        steps.take(2)
        peaks = [bench.peak_mb()]
        bench.forget_peak()
        began = bench.now()
        show(steps.session)
        bench.note(kl_peaks_mb_of_step_and_grid=[*peaks, bench.peak_mb()], kl_grid_s=round(bench.now() - began, 2))


@contextlib.contextmanager
def running_out(bench: Bench, opened: TrainingSession, room: int) -> Iterator[None]:
    """While inside, a GPU has so many bytes of `room` beyond what is taken; on a CPU one call fails."""
    if bench.is_gpu:
        torch.cuda.empty_cache()
        most = torch.cuda.memory_allocated(bench.device) + room
        whole = torch.cuda.get_device_properties(bench.device).total_memory
        torch.cuda.set_per_process_memory_fraction(most / whole, bench.device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, bench.device)
        return
    context, failed = opened.step_context, []
    right = context.objective

    class FailsOnce:
        process, prediction = right.process, right.prediction

        def loss_at(self, *arguments: Tensor) -> Tensor:
            if not failed:
                failed.append(True)
                raise torch.OutOfMemoryError("made up")
            return right.loss_at(*arguments)

    context.objective = FailsOnce()  # type: ignore[assignment]
    try:
        yield
    finally:
        context.objective = right


def part_exact(bench: Bench) -> None:
    """Runs that are stopped or killed and go on; and one that goes on here after it was begun on a CPU."""
    from ditkit.selftest.findings import find
    from ditkit.selftest.runs import Runs
    from ditkit.selftest.subject import Subject

    subject = Subject(bench.device, bench.folder, bench.folder)
    runs = Runs(subject)
    for name, work in (("resumed", runs.resumed_holds), ("killed", runs.killed_holds)):
        finding = find(name, work)
        bench.note(**{name: f"{finding.verdict}: {finding.text}"})
    bench.note(killed_process=runs.notes)
    folder, done = bench.folder / "moved", [0]

    def count(event: Event) -> None:
        done[0] = getattr(event, "step", done[0])

    few = replace(subject.config, train=replace(subject.config.train, batch_size=16))
    loop.train(few, folder, count, device="cpu", should_stop=lambda: done[0] >= 2, datasets=subject.datasets)
    with session(bench, few, subject.datasets, "moved") as opened:
        bench.note(begun_on_a_cpu={"step": opened.step, "parts": opened.step_context.micro_batches})


def part_resident(bench: Bench) -> None:
    """Pixels and latents that are kept on the device equal those that the CPU makes, to the last bit."""
    from ditkit.data.resident import BatchTarget, make_store
    from ditkit.latents.reader import LatentReader
    from ditkit.runs.model_info import LatentStats

    source, count, shape = np.random.default_rng(0), bench.pick(4096, 64), (32, 32, 3)
    pixels = source.integers(0, 256, (count, *shape), dtype=np.uint8)
    targets = BatchTarget(bench.device, most_bytes=bench.pick(1 << 30, 0)), BatchTarget()
    indices, mirrored = source.permutation(count), source.integers(0, 2, count).astype(bool)
    read = []
    for target in targets:
        store = make_store(count, shape, target)
        assert store is not None
        store.put(np.arange(count), pixels)
        read.append(store.read(indices, mirrored).cpu())
    bench.note(pixels_equal=torch.equal(*read))

    latents = _Latents(source, count)
    stats = LatentStats(mean=(0.1, -0.2, 0.3, 0.0), std=(1.1, 0.9, 1.3, 0.7), autoencoder="")
    readers = [LatentReader(latents, stats, 0, device) for device in (bench.device, None)]  # type: ignore[arg-type]
    few = min(256, count)
    batches = [reader.read(indices[:few], mirrored[:few], np.arange(few)).x_BCHW.cpu() for reader in readers]
    bench.note(latents_equal=torch.equal(*batches), latents_off=float((batches[0] - batches[1]).abs().max()))


class _Latents:
    """As `latents.cache.Latents`, in memory: means and deviations of 4 x 8 x 8 values, mirrored too."""

    shard_images, bad = 1 << 20, {}  # type: ignore[var-annotated]

    def __init__(self, source: np.random.Generator, count: int):
        shape = (count, 2, 4, 8, 8)
        self._shard = {name: source.random(shape).astype(np.float16) for name in ("mean", "std")}
        self.images, self.label_ids = count, np.zeros(count, dtype=np.int64)
        self.shards = [{"bytes": 2 * self._shard["mean"].nbytes}]

    def shard(self, number: int) -> dict[str, np.ndarray]:
        return self._shard


def part_samplers(bench: Bench) -> None:
    """Every sampler in every precision: images a second, alone and in a batch, and how far from the CPU's images."""
    from ditkit.checkpoint.loading import load_network
    from ditkit.registry import SAMPLERS
    from ditkit.runs.lookup import bundled_weights
    from ditkit.runs.model_info import read_model_info
    from ditkit.selftest.subject import network_with_open_gates

    path = bundled_weights("mnist")
    assert path is not None
    info = read_model_info(path)
    # The speed is that of a network of the paper's, the images are a trained one's: a random one magnifies rounding.
    model = bench.pick({"preset": "dit-s/4"}, {"patch": 16, "depth": 2})
    fast = recipes.load("mnist", {"data": {"image_size": 32, "channels": 3}, "model": model})
    networks = (
        (network_with_open_gates(fast).eval().requires_grad_(False), fast),
        (load_network(info, path), info.config),
    )
    precisions = {"float32": ("highest", torch.float32)}
    if bench.is_gpu:
        precisions |= {"tf32": ("high", torch.float32), "bfloat16": ("highest", torch.bfloat16)}
    for name in SAMPLERS.names():
        bench.note(**{name: _sampled(bench, networks, name, precisions)})


def _sampled(bench: Bench, networks: Any, name: str, precisions: dict[str, Any]) -> dict[str, Any]:
    """Of a sampler, for each precision: images a second alone and in a batch; mean and largest difference in levels."""
    (fast, fast_config), (trained, trained_config) = networks
    many, figures = bench.pick(64, 4), {}
    torch.set_float32_matmul_precision("highest")
    trained.autocast = torch.float32
    right = _drawn(trained, trained_config, name, 8, torch.device("cpu"))
    for precision, (matmul, dtype) in precisions.items():
        torch.set_float32_matmul_precision(matmul)
        fast.autocast = trained.autocast = dtype
        _drawn(fast, fast_config, name, many, bench.device)  # the first one sets things up
        rates = []
        for count in (1, many):
            began = bench.now()
            _drawn(fast, fast_config, name, count, bench.device)
            rates.append(round(count / (bench.now() - began), 1))
        levels = (_drawn(trained, trained_config, name, 8, bench.device) - right).clamp(-2, 2).abs() * 127.5
        off_by = [round(float(levels.mean()), 4), round(float(levels.max()), 2)]
        figures[precision] = {"alone": rates[0], "batch": rates[1], "levels_off": off_by}
    return figures


def _drawn(network: Any, config: RunConfig, sampler: str, count: int, device: torch.device) -> Tensor:
    """Images by a sampler in ten steps, of either process."""
    from ditkit.sampling.generate import draw

    process = "flow" if sampler.startswith("flow") else "diffusion"
    return draw(
        network.to(device),
        replace(config.diffusion, process=process),
        shape=config.shape,
        labels=[number % 2 for number in range(count)],
        null_label=network.classes,
        seeds=range(count),
        settings=replace(config.sample, sampler=sampler, steps=10),
        device=device,
        batch_size=count,
    )


def part_autoencoders(bench: Bench) -> None:
    """Autoencoders of both kinds: time and memory of encoding and decoding, in both layouts of memory."""
    from ditkit.autoencoders.contract import open_autoencoder

    side, count = bench.pick((256, 16), (32, 2))
    x_BCHW = torch.rand(count, 3, side, side, device=bench.device) * 2 - 1
    for kind, source, channels in (
        ("tiny", random_tiny(bench.folder / "tiny", bench), 16),
        ("kl", random_kl(bench.folder / "kl", bench), 4),
    ):
        about = {"name": kind, "source": str(source), "channels": channels, "shrink": 8}
        config = recipes.build(recipes.tree("celeba-gpu"), {"data": {"image_size": side}, "autoencoder": about})
        autoencoder = open_autoencoder(config, bench.device)
        figures: dict[str, Any] = {}
        for layout in ("channels_last", "contiguous_format"):
            autoencoder.network.to(memory_format=getattr(torch, layout))  # type: ignore[attr-defined]
            with torch.inference_mode():
                latent_BCHW = autoencoder.encode(x_BCHW).mean_BCHW
                for name, work in (
                    ("encode", lambda: autoencoder.encode(x_BCHW)),  # noqa: B023
                    ("decode", lambda: [autoencoder.decode(few) for few in latent_BCHW.split(4)]),  # noqa: B023
                ):
                    work()
                    bench.forget_peak()
                    times = []
                    for _ in range(3):
                        began = bench.now()
                        work()
                        times.append(bench.now() - began)
                    figures[f"{name}, {layout}"] = [round(1000 * statistics.median(times) / count, 2), bench.peak_mb()]
        bench.note(**{f"{kind}: ms an image, peak MB": figures})


def part_exchange(bench: Bench) -> None:
    """What several processes exchange, by one process alone: gradients, objects, and weights that are split (FSDP2)."""
    import torch.distributed as dist

    from ditkit.runtime.gradient_sync import GradientSync

    at = {"device_id": bench.device} if bench.is_gpu and bench.device.index is not None else {}
    if bench.is_gpu:
        torch.cuda.set_device(bench.device)
    backend = bench.pick("nccl", "gloo")
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, **at)
    try:
        values: list[Any] = [{"a": 1}]
        dist.broadcast_object_list(values, src=0)
        gathered: list[Any] = [None]
        dist.all_gather_object(gathered, "all")
        bench.note(backend=backend, objects=values == [{"a": 1}] and gathered == ["all"])
        config, datasets = faces(bench)
        few = bench.pick(10, 2)
        with steps_of(bench, config, datasets, "alone") as alone:
            alone.take(2)
            seconds = alone.take(few)
        with steps_of(bench, config, datasets, "exchanging") as steps:
            parameters = steps.session.trainable.network.parameters()
            steps.session.step_context.gradient_sync = GradientSync(parameters)
            steps.take(2)
            exchanging = steps.take(few)
        bench.note(step_ms=[round(1000 * seconds, 2), round(1000 * exchanging, 2)], off=off(alone, steps))
        _note_sharded(bench, config)
    finally:
        dist.destroy_process_group()


def _note_sharded(bench: Bench, config: RunConfig) -> None:
    """A network that is split over the processes gives the loss of the whole one."""
    from ditkit.objectives.contract import open_objective
    from ditkit.runtime import fsdp
    from ditkit.runtime.device import autocast
    from ditkit.selftest.subject import batch_of_noise, network_with_open_gates

    dtype = bench.pick(torch.bfloat16, torch.float32)
    inputs = [tensor.to(bench.device) for tensor in batch_of_noise(config, 8)]
    losses, whole = [], network_with_open_gates(config).to(bench.device)
    for sharded in (False, True):
        if sharded:
            try:
                fsdp.shard(whole, bench.device, dtype)
            except MachineError as error:  # a torch that is too old
                bench.note(sharded=error.message)
                return
        with autocast(bench.device, dtype):
            loss = open_objective(config.diffusion).loss_at(whole, *inputs).mean()
        loss.backward()
        whole.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    bench.note(sharded_loss_off=abs(losses[0] - losses[1]) / losses[0])


def part_whole(bench: Bench) -> None:
    """All that `ditkit doctor --try` tries."""
    from ditkit.selftest.everything import try_machine

    for finding in try_machine(str(bench.device), bench.folder / "runs"):
        bench.note(**{finding.name: f"{finding.verdict}: {finding.text}"})
