"""Drawing images: one loop over any sampler of the model's process, and `sample`, which takes and gives plain data.

N network calls or images, B batch, C channels, H W image, x_t noisy, clean the estimate of x_0, eps the noise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ..config import DiffusionConfig, SampleConfig, from_dict, to_dict
from ..data.pixels import to_uint8
from ..latents.codec import Codec
from ..objectives.contract import Network, Process, from_clean_and_noise, open_objective, to_clean_and_noise
from ..runs.model_info import ModelInfo, check_guide, resolve_labels
from ..samplers.contract import open_scheduler, set_steps, wanted_prediction
from .batch_size import batches_of, default_batch_size
from .block_cache import CachedDenoiser
from .guidance import Guidance, guided
from .mixing import Mixing
from .samples import Sample

if TYPE_CHECKING:
    from .edit import Edit

# (network call, counted from 0; calls in all; estimate of the clean images, noisy images that it was made from: BCHW)
OnStep = Callable[[int, int, Tensor, Tensor], None]

FAINT_SIGNAL = 0.05  # below it an epsilon network on a flow hardly determines the image


class TrainedModel(Protocol):
    """What `checkpoint.load` returns, as far as sampling looks at it."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def network(self) -> nn.Module: ...

    @property
    def codec(self) -> Codec: ...


def sample(
    trained: TrainedModel,
    labels: Sequence[str | int] | int,
    *,
    settings: SampleConfig | None = None,
    seed: int = 0,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    reuse: int | None = None,
    guide: TrainedModel | None = None,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> list[Sample]:
    """Draw one image per label, the i-th with seed `seed + i`.

    Args:
        labels: names or class numbers; or how many images, going round the labels. An unconditional model takes that,
            or the word "any" as often as there are images to draw.
        settings: those of the weights file if None; the arguments below replace single ones.
        guidance: 1 is plain conditional sampling, 0 ignores the label; a model with label_drop 0 has no other.
        guidance_interval: noise levels in [0, 1] between which to guide.
        reuse: N goes through the network's blocks in every N-th call only: faster, not quite the same images.
        guide: a worse model of the same images (an early checkpoint, a smaller network); guidance then leads away
            from what that one draws (see `sampling.guidance`).

    Raises UsageError for an unknown label or sampler, for a sampler that does not fit the model's process, and for a
    guide of something else.
    """
    changes: dict[str, Any] = {"sampler": sampler, "steps": steps, "guidance": guidance, "reuse": reuse}
    if guidance_interval is not None:
        changes["guidance_from"], changes["guidance_to"] = guidance_interval
    changes = {name: value for name, value in changes.items() if value is not None}
    config = trained.info.config
    settings = from_dict({**to_dict(config), "sample": {**asdict(settings or config.sample), **changes}}).sample
    words = resolve_labels(trained.info.labels, labels)
    batches = sample_batches(
        trained, words, settings=settings, seed=seed, guide=guide, batch_size=batch_size, on_step=on_step
    )
    return list(chain.from_iterable(batches))


def sample_batches(
    trained: TrainedModel,
    labels: Sequence[str | None],
    *,
    settings: SampleConfig | None = None,
    seed: int = 0,
    guide: TrainedModel | None = None,
    edit: Edit | None = None,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
    part: tuple[int, int] = (0, 1),
) -> Iterator[list[Sample]]:
    """What `sample` returns, a batch at a time, so that memory stays bounded; `settings` are the model's if None.

    `labels` are those of the images, as `resolve_labels` returns them: the caller has checked them.
    `part` (k, n) draws the batches k, k + n, k + 2n … only: n processes make up the whole. `edit` starts from an image
    instead of pure noise, or keeps a part of one.
    """
    info, config = trained.info, trained.info.config
    device = next(trained.network.parameters()).device
    ids = [0 if label is None else info.labels.index(label) for label in labels]
    seeds = [seed + index for index in range(len(labels))]
    batches = batches_of(len(labels), batch_size or default_batch_size(trained.network, config.shape, device))
    if guide is not None:
        check_guide(info, guide.info)
    settings, guiding = settings or config.sample, guide.network if guide is not None else None
    sampler = _Sampler(trained.network, config.diffusion, settings, len(info.labels), ids, device, guiding, edit)
    own = range(part[0], len(batches), part[1])
    for number, index in enumerate(own):
        batch = batches[index]
        latent_BCHW = sampler.draw(config.shape, ids[batch], seeds[batch], on_step, number, len(own))
        images = to_uint8(trained.codec.to_images(latent_BCHW.to(device)))
        yield [Sample(*fields) for fields in zip(images, labels[batch], seeds[batch], strict=True)]


def draw(
    network: Network,
    objective_config: DiffusionConfig,
    *,
    shape: tuple[int, int, int],
    labels: Sequence[int],
    null_label: int,
    seeds: Sequence[int],
    settings: SampleConfig,
    device: torch.device | str,
    noise_NCHW: Tensor | None = None,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> Tensor:
    """Draw (N, C, H, W), float32 on the CPU: pixels in about [-1, 1], or latents, not clipped; C, H, W is `shape`.

    Image i depends on its seed, label and the settings, not on its batch; it starts from its part of `noise_NCHW` if
    that is given. The global random state is not touched. Raises UsageError for a sampler that is unknown or does not
    fit the process.
    """
    if len(labels) != len(seeds):
        raise ValueError(f"{len(labels)} labels but {len(seeds)} seeds")
    device = torch.device(device)
    batches = batches_of(len(seeds), batch_size or default_batch_size(network, shape, device))
    sampler = _Sampler(network, objective_config, settings, null_label, labels, device)
    images = []
    for number, batch in enumerate(batches):
        noise_BCHW = noise_NCHW[batch] if noise_NCHW is not None else None
        images.append(sampler.draw(shape, labels[batch], seeds[batch], on_step, number, len(batches), noise_BCHW))
    return torch.cat(images) if images else torch.empty(0, *shape)


class _Sampler:
    """Everything that the batches of one request share."""

    def __init__(
        self,
        network: Network,
        config: DiffusionConfig,
        settings: SampleConfig,
        null_label: int,
        labels: Sequence[int],
        device: torch.device,
        guide: Network | None = None,
        edit: Edit | None = None,
    ):
        objective = open_objective(config)
        self._process: Process = objective.process
        self._prediction = objective.prediction
        self._settings, self._device = settings, device
        self._guidance = Guidance(
            scale=settings.guidance,
            start=settings.guidance_from,
            stop=settings.guidance_to,
            null_label=null_label if config.label_drop else 0,
            has_guide=guide is not None,
        )
        self._scheduler = open_scheduler(
            settings.sampler, self._process, learned_variance=config.objective == "learned-sigma"
        )
        self._takes_generator = "generator" in inspect.signature(self._scheduler.step).parameters
        timestep_N = set_steps(self._scheduler, self._process, settings.steps)
        self._denoiser = CachedDenoiser(network, timestep_N, [*labels, null_label], reuse=settings.reuse)
        self._guide = CachedDenoiser(guide, timestep_N, labels, reuse=settings.reuse) if guide is not None else None
        self._edit, self._mixing = edit, Mixing(settings, self._prediction)

    @torch.inference_mode()
    def draw(
        self,
        shape: tuple[int, int, int],
        labels: Sequence[int],
        seeds: Sequence[int],
        on_step: OnStep | None,
        batch: int,
        batches: int,
        noise_BCHW: Tensor | None = None,
    ) -> Tensor:
        """One batch, from pure noise to the last estimate of the clean images."""
        # One generator an image, so that an image does not depend on its batch; on the CPU, so not on the device.
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if noise_BCHW is None:
            noise_BCHW = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
        noise_BCHW = noise_BCHW.to(self._device)
        label_B = torch.tensor(labels, dtype=torch.int64, device=self._device)
        scheduler, edit = self._scheduler, self._edit
        timestep_N = set_steps(scheduler, self._process, self._settings.steps)
        extra = {"generator": generators} if self._takes_generator else {}
        calls, first = len(timestep_N), edit.first_step(len(timestep_N)) if edit else 0
        first += -first % scheduler.order  # of Heun's two calls at a noise level, steps begin with the second
        for denoiser in filter(None, (self._denoiser, self._guide)):
            denoiser.reset()
        self._mixing.reset()
        if first and hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        x_BCHW = edit.noisy(noise_BCHW, self._process, timestep_N[first]) if edit else noise_BCHW
        clean_BCHW = x_BCHW
        for call in range(first, calls):
            clean_BCHW, output_BCHW = self._predict(call, x_BCHW, timestep_N[call], label_B)
            if on_step is not None:
                on_step(batch * calls + call, batches * calls, clean_BCHW, x_BCHW)
            # The last step is skipped: every sampler's goes to noise level 0, which is this very estimate of the clean
            # images, without more noise.
            if call + 1 < calls:
                x_BCHW = scheduler.step(output_BCHW, scheduler.timesteps[call], x_BCHW, **extra).prev_sample
                if edit:
                    x_BCHW = edit.blend_known(x_BCHW, edit.noisy(noise_BCHW, self._process, timestep_N[call + 1]))
        if edit:
            clean_BCHW = edit.blend_known(clean_BCHW, edit.source_CHW.to(self._device))
        return clean_BCHW.float().cpu()

    def _predict(self, call: int, x_BCHW: Tensor, timestep: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """The estimate of the clean images at a call's timestep (), and what the scheduler's step takes."""
        # Signal and noise level stay on the CPU: as single numbers they reach a GPU without a copy that waits for it.
        signal, noise = self._process.signal_noise(timestep)
        timestep_B = torch.full((len(x_BCHW),), timestep.item(), dtype=timestep.dtype, device=x_BCHW.device)
        guide = self._guide.for_step(call) if self._guide is not None else None
        network = self._denoiser.for_step(call)
        mixer = self._mixing.at(x_BCHW, signal, noise)
        output = guided(network, x_BCHW, timestep_B, label_B, float(noise), self._guidance, guide, mixer)
        channels = x_BCHW.shape[1]
        predicted, variance = output[:, :channels], output[:, channels:]
        clean_BCHW, eps_BCHW = to_clean_and_noise(self._prediction, predicted, x_BCHW, signal, noise)
        if self._process.kind == "flow" and self._prediction == "epsilon":
            # x_0 = (x_t - noise eps) / signal magnifies an error of eps up to a thousandfold where the signal is faint.
            clean_BCHW = clean_BCHW * (signal / FAINT_SIGNAL).clamp(max=1)
        if self._settings.clamp:
            clean_BCHW = clean_BCHW.clamp(-1, 1)
            eps_BCHW = (x_BCHW - signal * clean_BCHW) / noise
        prediction = wanted_prediction(self._scheduler)
        step_input = from_clean_and_noise(prediction, clean_BCHW, eps_BCHW, signal, noise)
        if self._scheduler.config.get("variance_type") == "learned_range":
            step_input = torch.cat([step_input, variance], dim=1)
        return clean_BCHW, step_input
