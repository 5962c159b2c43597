"""A model as diffusers' DiTPipeline can have it, where that is not the very same: its first layer of time, fitted anew.

diffusers computes the features of a timestep with frequencies that end at 1/10000, the paper's DiT with others, and
numbers the noise levels of a flow from 0 to 999. The layer that takes these features is linear, so that the weights
which come closest to it on diffusers' features are found by least squares. diffusers' own conversion of Meta's weights
keeps them as they are, which is further off. N timesteps, F features, D width.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from ..checkpoint.loading import Trained, build_network
from ..models.dit import DiT
from ..models.layers import timestep_frequencies
from ..models.presets import OF_DIFFUSERS
from ..runs.model_info import ModelInfo
from .diffusers_scheduler import FINE

_NEGLIGIBLE = 1e-3  # singular values below this part of the largest: fitting them takes huge weights
_LAYER = "time.first.weight"


def approximated(trained: Trained) -> tuple[Trained, float | None]:
    """The model that DiTPipeline can express, and by how much its prediction differs; None for the very same model.

    The difference is the largest on random inputs, as a part of the largest prediction.
    """
    info = _expressible(trained.info)
    if info == trained.info:
        return trained, None
    tensors = dict(trained.network.state_dict())
    timestep_N = torch.arange(info.config.diffusion.timesteps).double()
    before_NF = _features(timestep_N * _per_timestep(trained.info, info), trained.info)
    after_NF = _features(timestep_N, info)
    tensors[_LAYER] = (torch.linalg.pinv(after_NF, rtol=_NEGLIGIBLE) @ before_NF @ tensors[_LAYER].double().T).T.float()
    network = build_network(info.config, len(info.labels))
    network.load_state_dict(tensors)
    network = network.eval().requires_grad_(False)
    return dataclasses.replace(trained, info=info, network=network), _difference(trained, info, network)


def _expressible(info: ModelInfo) -> ModelInfo:
    """The description with diffusers' frequencies and, of a flow, as many timesteps as it needs."""
    config = info.config
    wanted = {key: OF_DIFFUSERS[key] for key in ("frequency_size", "frequency_shift")}
    is_coarse = config.diffusion.process == "flow" and config.diffusion.timesteps < FINE
    timesteps = FINE if is_coarse else config.diffusion.timesteps
    changed = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, **wanted),
        diffusion=dataclasses.replace(config.diffusion, timesteps=timesteps),
    )
    return dataclasses.replace(info, config=changed)


def _per_timestep(old: ModelInfo, new: ModelInfo) -> float:
    return old.config.diffusion.timesteps / new.config.diffusion.timesteps


def _features(timestep_N: Tensor, info: ModelInfo) -> Tensor:
    """Cosines, then sines, (N, F), float64."""
    model = info.config.model
    frequency_F = timestep_frequencies(model.frequency_size // 2, model.frequency_shift).double()
    angle_NF = timestep_N[:, None] * frequency_F
    return torch.cat([angle_NF.cos(), angle_NF.sin()], dim=1)


@torch.inference_mode()
def _difference(trained: Trained, info: ModelInfo, network: DiT) -> float:
    """The largest difference of both networks' predictions, in float32 on the CPU, as a part of the largest."""
    generator, batch = torch.Generator().manual_seed(0), 8
    x_BCHW = torch.randn(batch, *info.config.shape, generator=generator)
    timestep_B = torch.linspace(0, info.config.diffusion.timesteps - 1, batch).round()
    label_B = torch.randint(len(info.labels) + 1, (batch,), generator=generator)
    before = trained.network.cpu()(x_BCHW, timestep_B * _per_timestep(trained.info, info), label_B)
    after = network(x_BCHW, timestep_B, label_B)
    return float((after - before).abs().max() / before.abs().max())
