"""Sampling in JAX: one compiled `lax.scan` from noise to images, with the samplers that torch has from diffusers.

B batch, C channels, H W image, N network calls. Everywhere x_t = signal * x_0 + noise * eps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

from ..config import DiffusionConfig, SampleConfig
from ..data.pixels import to_uint8
from ..objectives.contract import FLOW_MARGIN, Process, open_objective, to_clean_and_noise
from ..runs.model_info import resolve_labels
from ..sampling.batch_size import batches_of, images_in_cache
from ..sampling.generate import FAINT_SIGNAL, Sample
from ..sampling.guidance import Guidance
from .dit import DiT
from .files import Trained
from .layers import Weights
from .limits import check_sampling

Call = Mapping[str, Any]  # the numbers of one network call by name; of all calls: arrays (N,)
# (call, x_t, estimate of x_0, estimate of eps, memory) to (next x_t, next memory)
Step = Callable[[Call, Array, Array, Array, Any], tuple[Array, Any]]
_to_clean_and_noise: Any = to_clean_and_noise  # arithmetic that works for arrays of both libraries


def sample(
    trained: Trained,
    labels: Sequence[str | int] | int,
    *,
    settings: SampleConfig | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> list[Sample]:
    """Draw one image per label: the images that torch draws, up to rounding.

    Args:
        trained: the model, from `load`.
        labels: names of classes, or a number of images, which go round the classes.
        settings: of sampling; those of the model if None.
        seed: image i is drawn with seed `seed + i`.
        batch_size: images drawn at once; chosen if None.

    Raises:
        UsageError: for an unknown label, and for a sampler, setting or model that only torch samples with.
    """
    batches = sample_batches(trained, labels, settings=settings, seed=seed, batch_size=batch_size)
    return list(chain.from_iterable(batches))


def sample_batches(
    trained: Trained,
    labels: Sequence[str | int] | int,
    *,
    settings: SampleConfig | None = None,
    seed: int = 0,
    batch_size: int | None = None,
) -> Iterator[list[Sample]]:
    """What `sample` returns, a batch at a time, so that memory stays bounded."""
    info, network = trained.info, trained.network
    config = replace(info.config, sample=settings or info.config.sample)
    check_sampling(config)
    words = resolve_labels(info.labels, labels)
    ids = [0 if word is None else info.labels.index(word) for word in words]
    batches = batches_of(len(words), batch_size or images_in_cache(network.grid[0] * network.grid[1]))
    size = max(batch.stop - batch.start for batch in batches)
    for batch in batches:
        indices = [*range(batch.start, batch.stop)]
        indices += indices[-1:] * (size - len(indices))  # each other batch size would be compiled separately
        image_BCHW = draw(
            network,
            trained.weights,
            config.diffusion,
            settings=config.sample,
            labels=[ids[index] for index in indices],
            seeds=[seed + index for index in indices],
        )
        images = to_uint8(torch.tensor(np.asarray(image_BCHW)))
        drawn = zip(images, words[batch], range(seed + batch.start, seed + batch.stop), strict=False)
        yield [Sample(*fields) for fields in drawn]


def draw(
    network: DiT,
    weights: Weights,
    config: DiffusionConfig,
    *,
    settings: SampleConfig,
    labels: Sequence[int],
    seeds: Sequence[int],
) -> Array:
    """The last estimate of the clean images, (B, C, H, W), not clipped to [-1, 1], from the noise of the seeds.

    `labels` are the ids of B labels, `seeds` are B seeds.
    """
    return _draw(network, weights, config, settings, labels, seeds, keep_path=False)[0]


def draw_path(
    network: DiT,
    weights: Weights,
    config: DiffusionConfig,
    *,
    settings: SampleConfig,
    labels: Sequence[int],
    seeds: Sequence[int],
) -> tuple[Array, Array]:
    """What `draw` returns, and the input of each network call, (N, B, C, H, W)."""
    return _draw(network, weights, config, settings, labels, seeds, keep_path=True)


def _draw(
    network: DiT,
    weights: Weights,
    config: DiffusionConfig,
    settings: SampleConfig,
    labels: Sequence[int],
    seeds: Sequence[int],
    *,
    keep_path: bool,
) -> tuple[Array, Any]:
    objective = open_objective(config)
    guidance = Guidance(
        scale=settings.guidance,
        start=settings.guidance_from,
        stop=settings.guidance_to,
        null_label=network.classes if config.label_drop else 0,
    )
    calls, step = open_sampler(settings.sampler, objective.process, settings.steps)
    guided = np.array([guidance.active(noise) for noise in calls["noise"].tolist()])
    rule = Rule(
        network=network,
        step=step,
        prediction=objective.prediction,
        clamp=settings.clamp,
        faint=FAINT_SIGNAL if config.process == "flow" and objective.prediction == "epsilon" else 0.0,
        guided=frozenset(guided.tolist()),
        keep_path=keep_path,
    )
    shape = (network.channels, *network.size)  # torch's noise, so that a seed means the same image
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed)).numpy() for seed in seeds]
    return _denoise(rule, weights, jnp.array(noise), jnp.array(labels), {**calls, "guided": guided}, settings.guidance)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What is static in the compiled program: another value compiles it again."""

    network: DiT
    step: Step
    prediction: str
    clamp: bool
    faint: float  # signal below which an estimate is damped; 0: nowhere
    guided: frozenset[bool]  # whether calls are guided: {True}, {False}, or both
    keep_path: bool


@partial(jax.jit, static_argnums=0)
def _denoise(
    rule: Rule, weights: Weights, x_BCHW: Array, label_B: Array, calls: Call, scale: Array | float
) -> tuple[Array, Any]:
    def network_call(carry: tuple[Array, Array, Any], call: Call) -> tuple[tuple[Array, Array, Any], Any]:
        x_BCHW, _, memory = carry
        clean_BCHW, eps_BCHW = _predict(rule, weights, x_BCHW, label_B, call, scale)
        next_BCHW, memory = rule.step(call, x_BCHW, clean_BCHW, eps_BCHW, memory)
        return (next_BCHW, clean_BCHW, memory), x_BCHW if rule.keep_path else None

    memory = (x_BCHW, x_BCHW) if rule.step is heun else x_BCHW  # of the right shape; without effect on the first step
    (_, clean_BCHW, _), path_NBCHW = jax.lax.scan(network_call, (x_BCHW, x_BCHW, memory), calls)
    return clean_BCHW, path_NBCHW


def _predict(
    rule: Rule, weights: Weights, x_BCHW: Array, label_B: Array, call: Call, scale: Array | float
) -> tuple[Array, Array]:
    """The estimates of the clean images and of the noise (Ho & Salimans 2022 where guided)."""
    network, signal, noise = rule.network, call["signal"], call["noise"]

    def plain(x_BCHW: Array) -> Array:
        return network(weights, x_BCHW, jnp.full(len(x_BCHW), call["timestep"]), label_B)

    def guided(x_BCHW: Array) -> Array:
        twice = jnp.concatenate([x_BCHW, x_BCHW])
        labels = jnp.concatenate([label_B, jnp.full_like(label_B, network.classes)])
        both = network(weights, twice, jnp.full(len(twice), call["timestep"]), labels)
        conditional, unconditional = jnp.split(both, 2)
        return unconditional + scale * (conditional - unconditional)

    if len(rule.guided) == 2:
        output = jax.lax.cond(call["guided"], guided, plain, x_BCHW)
    else:
        output = guided(x_BCHW) if True in rule.guided else plain(x_BCHW)
    predicted = output[:, : network.channels]  # more channels are a learned variance, which is not used here
    clean_BCHW, eps_BCHW = _to_clean_and_noise(rule.prediction, predicted, x_BCHW, signal, noise)
    if rule.faint:
        clean_BCHW = clean_BCHW * jnp.minimum(signal / rule.faint, 1)
    if rule.clamp:
        clean_BCHW = jnp.clip(clean_BCHW, -1, 1)
        eps_BCHW = (x_BCHW - signal * clean_BCHW) / noise
    return clean_BCHW, eps_BCHW


def open_sampler(name: str, process: Process, steps: int) -> tuple[Call, Step]:
    """The network calls of a sampler, (N,) of each number, and its step; the step of the last call is not used."""
    timestep_S, signal, noise = _levels(process, steps)
    call_N = np.arange(2 * steps - 1 if name == "flow-heun" else steps)
    level_N = (call_N + 1) // 2 if name == "flow-heun" else call_N  # index of the noise level of a call
    calls = {"timestep": timestep_S[level_N], "signal": signal[level_N], "noise": noise[level_N]}
    if name in ("flow-euler", "flow-heun"):
        start_N = call_N // 2 if name == "flow-heun" else call_N  # index of the level where its step starts
        step, own = heun, {"length": np.diff(noise)[start_N], "corrects": level_N > start_N}
    else:
        ratio, second = noise[1:] / noise[:-1], np.zeros(steps)
        if name != "ddim":
            width = np.diff(np.log(signal[:-1] / noise[:-1]))  # of the steps before the last
            second[1:-1] = width[1:] / (2 * width[:-1])
        step, own = dpm_solver, {"keep": ratio, "gain": signal[1:] - signal[:-1] * ratio, "second": second}
    return {key: jnp.asarray(value) for key, value in (calls | own).items()}, step


def _levels(process: Process, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Timesteps (steps,), and signal and noise levels (steps + 1,) that end at the clean image."""
    if process.kind == "flow":
        noise = np.linspace(1 - FLOW_MARGIN, 0, steps + 1)
        return noise[:-1] * process.timesteps, 1 - noise, noise
    # The noisiest timestep first; [:steps] because rounding may give one too many, at t = -1.
    timestep = np.round(np.arange(process.timesteps, 0, -process.timesteps / steps))[:steps] - 1
    signal, noise = (level.double().numpy() for level in process.signal_noise(torch.from_numpy(timestep)))
    return timestep, np.append(signal, 1), np.append(noise, 0)


def dpm_solver(call: Call, x: Array, clean: Array, eps: Array, previous: Array) -> tuple[Array, Array]:
    """DPM-Solver++ 2M (Lu et al. 2022, algorithm 2); of order one, which is DDIM, where `second` is 0.

    Its memory is the previous estimate of x_0, from which it extrapolates.
    """
    extrapolated = clean + call["second"] * (clean - previous)
    return call["keep"] * x + call["gain"] * extrapolated, clean


def heun(
    call: Call, x: Array, clean: Array, eps: Array, memory: tuple[Array, Array]
) -> tuple[Array, tuple[Array, Array]]:
    """Heun's method along the flow's velocity (Karras et al. 2022, algorithm 1); Euler's where nothing `corrects`.

    Its memory is the start of the step and the velocity there: the correction repeats it with the mean of both ends.
    """
    velocity = eps - clean
    start, first = memory
    corrected = start + call["length"] * (first + velocity) / 2
    return jnp.where(call["corrects"], corrected, x + call["length"] * velocity), (x, velocity)
