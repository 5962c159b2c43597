"""Training in JAX with Optax: the same steps as `ditkit train`, from the same images, noise and dropped labels."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import torch
from jax import Array

from ..config import OptimConfig, RunConfig
from ..data.balance import balanced
from ..data.batches import Batch, Batches
from ..data.contract import open_dataset
from ..data.settle import settled_by
from ..ema import decay_at
from ..errors import UsageError
from ..objectives.contract import Objective, from_clean_and_noise, loss_weight, open_objective
from ..optim import learning_rate
from ..runs.model_info import ModelInfo
from ..runs.run_state import LossHealth
from ..runtime.noise import draw_noise_and_timesteps
from ..training.step import drop_labels
from .dit import DiT
from .files import initialize, save
from .layers import Weights
from .limits import check_training

_from_clean_and_noise: Any = from_clean_and_noise  # arithmetic that works for arrays of both libraries


class Case(NamedTuple):
    """A batch of images with its timesteps, noise and dropped labels; B batch, C channels, H W image."""

    x_BCHW: Array  # clean, in [-1, 1]
    label_B: Array  # some replaced by the null label
    timestep_B: Array
    eps_BCHW: Array
    signal_B: Array
    noise_B: Array
    weight_B: Array


def train(config: RunConfig, path: str | Path, *, on_step: Callable[[int, float], None] | None = None) -> Path:
    """Train a network and write its EMA weights to `path`, which torch's ditkit reads too; returns the path.

    An example, not a second `ditkit train`: one device, no checkpoints, no validation, no handling of spikes. The
    losses are those of `ditkit train` with these settings and this seed, until rounding makes the two diverge.

    Args:
        config: the settings, of pixels.
        path: the weights file to write.
        on_step: called with the number of each step, from 1, and its loss.

    Raises:
        UsageError: for settings of latents or learned-sigma, and when the folder of `path` does not exist.
    """
    check_training(config)
    if not Path(path).parent.is_dir():
        raise UsageError(f"there is no folder {Path(path).parent}", "make it first, or choose another path")
    dataset = open_dataset(config.data, "train")
    config = settled_by(config, dataset)
    objective = open_objective(config.diffusion)
    network, weights = initialize(config, dataset.labels)
    optimizer = adamw(config.optim, config.train.steps)
    ema, state = weights, optimizer.init(weights)
    batches = Batches(balanced(config, dataset), config.train.batch_size, config.seed, config.data.flip)
    with closing(batches.iterate()) as stream:
        for step in range(config.train.steps):
            case = case_of(config, objective, next(stream), step, null_label=network.classes)
            decay = decay_at(step + 1, config.optim.ema_decay)
            weights, ema, state, value = update(
                network, objective.prediction, optimizer, weights, ema, state, case, decay
            )
            if on_step is not None:
                on_step(step + 1, float(value))
    return save(path, ema, ModelInfo(config=config, labels=tuple(dataset.labels), step=config.train.steps))


def case_of(config: RunConfig, objective: Objective, batch: Batch, step: int, *, null_label: int) -> Case:
    """Noise, timesteps and dropped labels of a step, drawn by the functions of `ditkit train`."""
    timestep_B, eps_BCHW = draw_noise_and_timesteps(
        objective, tuple(batch.x_BCHW.shape), config.seed, LossHealth().stream("noise"), step
    )
    label_B = drop_labels(batch.label_B, null_label, config.diffusion.label_drop, config.seed, step)
    signal_B, noise_B = objective.process.signal_noise(timestep_B)
    weight_B = loss_weight(config.diffusion, objective.prediction, signal_B, noise_B)
    tensors: tuple[torch.Tensor, ...] = (batch.x_BCHW, label_B, timestep_B, eps_BCHW, signal_B, noise_B, weight_B)
    return Case(*(jnp.asarray(tensor.numpy()) for tensor in tensors))


def loss(network: DiT, prediction: str, weights: Weights, case: Case) -> Array:
    """The mean weighted squared error of the prediction for noisy images (see `objectives.regression`)."""
    signal, noise = case.signal_B[:, None, None, None], case.noise_B[:, None, None, None]
    x_t_BCHW = signal * case.x_BCHW + noise * case.eps_BCHW
    target_BCHW = _from_clean_and_noise(prediction, case.x_BCHW, case.eps_BCHW, signal, noise)
    error_BCHW = network(weights, x_t_BCHW, case.timestep_B, case.label_B) - target_BCHW
    return jnp.mean(case.weight_B * jnp.mean(jnp.square(error_BCHW), axis=(1, 2, 3)))


@partial(jax.jit, static_argnums=(0, 1, 2))
def update(
    network: DiT,
    prediction: str,
    optimizer: optax.GradientTransformation,
    weights: Weights,
    ema: Weights,
    state: optax.OptState,
    case: Case,
    decay: Array | float,
) -> tuple[Weights, Weights, optax.OptState, Array]:
    """One step: weights, their moving average and the optimiser's state after it, and its loss."""
    value, gradient = jax.value_and_grad(loss, argnums=2)(network, prediction, weights, case)
    changes, state = optimizer.update(gradient, state, weights)
    updated: Any = optax.apply_updates(weights, changes)
    average: Any = optax.incremental_update(updated, ema, 1 - decay)
    return updated, average, state, value


def adamw(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, then AdamW with the rate of each step; weight decay on matrices only, without the label table."""
    rate_S = jnp.array([learning_rate(config, step, steps) for step in range(steps)])
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip is not None else optax.identity(),
        optax.adamw(
            lambda step: rate_S[step],
            b1=config.beta1,
            b2=config.beta2,
            weight_decay=config.weight_decay,
            mask=partial(jax.tree_util.tree_map_with_path, _is_decayed),
        ),
    )


def _is_decayed(path: tuple[Any, ...], weight: Array) -> bool:
    return weight.ndim == 2 and path[0].key != "label"
