"""The README (model card) of a published model, and its settings without paths of its author's machine."""

from __future__ import annotations

import json
import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from ..autoencoders.files import PIXEL
from ..config import DataConfig, to_dict
from ..errors import UsageError
from ..io.hub import SCHEME, is_hub, parse
from ..io.text import plural
from ..models.size import parameters
from ..runs.model_info import ModelInfo
from ..runs.public import public_setting, without_places

LOSSES, GRID = "loss.png", "samples.png"
_MOST_LABELS = 60
_MNIST = "MNIST by Y. LeCun, C. Cortes and C. Burges: [CC BY-SA 3.0](https://creativecommons.org/licenses/by-sa/3.0/)"
_CELEBA = "[CelebA](https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html) by Z. Liu et al.: non-commercial research only"
_UNKNOWN = "unknown: the author states none"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What the README says of a model; `info` is that of its weights, with paths of its author's machine."""

    info: ModelInfo
    repo: str
    images: int | None = None  # that it was trained on
    validation: tuple[int, float] | None = None  # step, loss
    dtype: str = "float32"
    origin: str | None = None  # of weights that come from elsewhere, in words
    data_licence: str | None = None
    pictures: Collection[str] = ()  # file names beside the README

    @property
    def name(self) -> str:
        return self.repo.rpartition("/")[2]


def check_licence(text: str | None) -> str | None:
    """The text of --data-licence. Raises UsageError unless it is one line."""
    if text is not None and (not text.strip() or not text.isprintable() or len(text) > 500):
        raise UsageError("--data-licence is one line of words", 'e.g. --data-licence "CC BY 4.0, photos by …"')
    return text


def write(model: Model) -> str:
    """The README: YAML for the hub at its top, then Markdown."""
    parts = [_front(model), f"# {model.name}", _summary(model)]
    if GRID in model.pictures:
        parts.append(f"![Drawn by this model while it was trained]({GRID})")
    parts += ["## Draw", _use(model), "## Training", _table(_facts(model))]
    if LOSSES in model.pictures:
        parts.append(f"![The losses by step]({LOSSES})")
    parts += ["## Licence", _licence(model)]
    return "\n\n".join(parts) + "\n"


def _front(model: Model) -> str:
    """YAML front matter; strings are written as JSON, which is YAML too."""
    data = model.info.config.data
    lines = [
        "library_name: ditkit",
        "pipeline_tag: unconditional-image-generation",
        "license: other",
        "license_name: see-model-card",
        f"tags: {json.dumps(['ditkit', 'diffusion-transformer', 'dit', *_topics(data)])}",
    ]
    if is_hub(data.path):
        lines.append(f"datasets: {json.dumps([parse(str(data.path)).repo])}")
    return "\n".join(["---", *lines, "---"])


def _topics(data: DataConfig) -> list[str]:
    return [data.name] if data.name in ("mnist", "celeba") else []


def _summary(model: Model) -> str:
    info, config = model.info, model.info.config
    count = f"{_millions(parameters(config, len(info.labels)))} parameters"
    height, width = config.data.image_size
    kind = {1: "grey", 3: "colour"}[config.data.channels]
    made = (
        f"Its weights come from {model.origin}." if model.origin else f"It was trained on {_data_words(config.data)}."
    )
    if to_dict(config)["train"].get("init_from"):
        made += " Its training began with the weights of another model."
    labels = ""
    if info.labels:
        listed = ", ".join(_code(label) for label in info.labels[:_MOST_LABELS])
        more = f" and {len(info.labels) - _MOST_LABELS:,} more" if len(info.labels) > _MOST_LABELS else ""
        labels = f"\n\nLabels: {listed}{more}."
    return (
        f"A Diffusion Transformer ([DiT](https://arxiv.org/abs/2212.09748)) of {count} that draws {kind} images of "
        f"{width}×{height} pixels, made with ditkit. {made}{labels}"
    )


def _use(model: Model) -> str:
    info, autoencoder = model.info, model.info.config.autoencoder
    words = [shlex.quote(label) for label in info.labels[:4] if label.isprintable()]
    command = f"ditkit sample --model {SCHEME}{model.repo}{' --labels ' + ' '.join(words) if words else ''}"
    text = f"```\npip install ditkit\n{command}\n```"
    if autoencoder.name != PIXEL and without_places(info.config).autoencoder.source is None and info.latents:
        text += (
            "\n\nIt draws latents, which an autoencoder turns into images: that with the SHA-256 "
            f"`{info.latents.autoencoder}`. Name its folder with `--autoencoder FOLDER`."
        )
    return text


def _facts(model: Model) -> Mapping[str, str]:
    info, config = model.info, model.info.config
    network, diffusion, optim, sample = config.model, config.diffusion, config.optim, config.sample
    channels, height, width = config.shape
    seen = f"{channels}×{height}×{width}"
    latent = config.autoencoder.name != PIXEL
    source = without_places(config).autoencoder.source or "an autoencoder of its author"
    facts = {
        "data": _data_words(config.data),
        "images": f"{model.images:,}" if model.images else "",
        "labels": f"{len(info.labels):,}" if info.labels else "none",
        "the network sees": f"latents of {source}, {seen}" if latent else f"pixels, {seen}",
        "network": f"width {network.width}, depth {network.depth}, {network.heads} heads, patch {network.patch}, "
        f"{network.conditioning}",
        "parameters": f"{parameters(config, len(info.labels)):,}",
        "process": f"{diffusion.process}, the network predicts {diffusion.objective}",
        "batch": f"{plural(config.train.batch_size, 'image')}",
        "learning rate": f"{optim.lr:g}, {optim.schedule}, {plural(optim.warmup_steps, 'step')} of warm-up",
        "weights": f"moving average, decay {optim.ema_decay:g}, {model.dtype}",
        "labels dropped": f"{diffusion.label_drop:.0%}" if info.labels else "",
        "sampler": f"{sample.sampler}, {plural(sample.steps, 'step')}, guidance {sample.guidance:g}",
        "steps": f"{info.step:,}",
        "validation loss": f"{model.validation[1]:.4g} at step {model.validation[0]:,}" if model.validation else "",
    }
    if model.origin:  # how others trained is not known
        for key in ("data", "batch", "learning rate", "labels dropped"):
            facts[key] = ""
        facts["weights"] = model.dtype
    return {key: value for key, value in facts.items() if value}


def _table(facts: Mapping[str, str]) -> str:
    rows = [f"| {key} | {value.replace('|', chr(92) + '|')} |" for key, value in facts.items()]
    config = "`config.toml` has every setting."
    return "\n".join(["| | |", "|---|---|", *rows]) + f"\n\n{config}"


def _data_words(data: DataConfig) -> str:
    """The data set, in Markdown."""
    if is_hub(data.path):
        repo = parse(str(data.path)).repo
        return f"[{repo}](https://huggingface.co/datasets/{repo})"
    if data.name == "mnist":
        return "MNIST, handwritten digits" if data.path is None else "digits of its author"
    if data.name == "celeba":
        return "CelebA, photos of faces"
    address = public_setting("data.path", data.path)
    return f"<{address}>" if address else "images of its author"


def _licence(model: Model) -> str:
    if model.origin:
        return (
            f"The weights were made by others: {model.origin}. Their licence holds.\n\nData: "
            f"{model.data_licence or _UNKNOWN}."
        )
    return (
        f"Data: {model.data_licence or _known_licence(model.info.config.data)}.\n\nThe weights were learnt from these "
        "data, whose licence may bind those who use them; their author states no other."
    )


def _known_licence(data: DataConfig) -> str:
    if data.name == "mnist" and data.path is None:
        return _MNIST
    if data.name == "celeba":
        return _CELEBA
    return f"as {_data_words(data)} states" if is_hub(data.path) else _UNKNOWN


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"


def _code(text: str) -> str:
    """Text as Markdown code, in which nothing has a meaning to Markdown."""
    plain = " ".join(text.split())
    return f"`{plain}`" if "`" not in plain else f"`` {plain} ``"
