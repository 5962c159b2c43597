"""Which files in a folder are the model: of a training's results, a library's checkpoint, the hub's cache; no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, UsageError
from ..io.text import shell_words
from ..io.weight_files import grouped, shards_beside, whole
from ..runs.lookup import PICKLES
from .file_kinds import KNOWN_FILES

INDEX = "model_index.json"  # of a pipeline of diffusers
METADATA = ".metadata"  # of torch.distributed.checkpoint
_ENDINGS = (".safetensors", *PICKLES, ".tar")
_BESIDE = re.compile(  # what trainings keep beside the weights
    r"(optimizer|scheduler|random_states|rng_state|scaler|training_args|sampler|custom_checkpoint|dl_state)\w*\."
    r"|.*optim_states\.pt$|args\.|.*discriminator|.*lpips",
    re.IGNORECASE,
)
_STEP = re.compile(r"(?:.*[a-z_=-])?(\d+)(?:\.\w+)*", re.IGNORECASE)
_STEPS = re.compile(r"(checkpoint|ckpt|step|epoch|iter|global_step)s?[-_=]?\d+", re.IGNORECASE)
_LISTED = 6
_DEEPEST = 6  # folders in each other


@dataclass(frozen=True, kw_only=True)
class Model:
    """Where a model is: the folder of a pipeline, or the files of one set of weights."""

    pipeline: Path | None = None
    files: Sequence[Path] = ()
    note: str = ""  # which was taken of several, in words


def find_model(place: Path) -> Model:
    """The model in a file or a folder.

    Raises UsageError where several could be meant, CheckpointError for a folder that holds none or cannot be read, or
    one of a kind that ditkit does not read, which it names.
    """
    try:
        return _find(place, 0)
    except OSError as error:
        raise CheckpointError(f"cannot read {place}: {error.strerror or error}", "check its permissions") from None


def _find(place: Path, depth: int) -> Model:
    """As `find_model`, so many folders inside of the one that was named."""
    if not place.is_dir():
        return Model(files=shards_beside(place))
    if (place / INDEX).is_file():
        return Model(pipeline=place)
    if (place / "snapshots").is_dir() and depth < _DEEPEST:
        return _find(_snapshot(place), depth + 1)
    names = [path.name for path in place.iterdir() if path.is_file() and not path.name.startswith(".")]
    if (place / METADATA).is_file() and any(name.endswith(".distcp") for name in names):
        return Model(files=[place / METADATA])
    _refuse_parts(place, names)
    groups = candidates(names)
    if not groups:
        return _in_subfolder(place, depth)
    if len(groups) == 1:
        return Model(files=[place / name for name in whole(groups[0], place)])
    numbered = [(_number(names[0]), names) for names in groups]
    if place.name == "checkpoints" and all(number is not None for number, _ in numbered):
        newest = max(numbered, key=lambda pair: pair[0] or 0)[1]
        note = f"of {len(groups)} checkpoints in {place} the newest: {newest[0]}"
        return Model(files=[place / name for name in newest], note=note)
    listed = ", ".join(names[0] for names in groups[:_LISTED]) + (" …" if len(groups) > _LISTED else "")
    raise UsageError(
        f"{place} holds several files of weights: {listed}",
        f"name one: `ditkit import {shell_words(str(place / groups[0][0]))}`",
    )


def is_weights(name: str) -> bool:
    """Whether a file's name is one that weights have."""
    return name.lower().endswith(_ENDINGS)


def candidates(names: Iterable[str]) -> list[list[str]]:
    """Those among the files of one folder that may be a model, the shards of one together.

    What is there as .safetensors, too, is taken as that, as in repositories of the hub.
    """
    weights = [name for name in names if is_weights(name) and not _BESIDE.match(name)]
    groups = list(grouped(weights).values())
    groups += [[name] for name in sorted(set(weights) - {name for group in groups for name in group})]
    if any(group[0].endswith(".safetensors") for group in groups):
        groups = [group for group in groups if not re.match(r"(pytorch_|diffusion_pytorch_)?model\b.*\.bin$", group[0])]
    return groups


def _snapshot(folder: Path) -> Path:
    """The folder of the files in a repository's folder of the hub's cache: of its main branch, or the only one."""
    snapshots = sorted(path for path in (folder / "snapshots").iterdir() if path.is_dir())
    try:
        main = folder / "snapshots" / (folder / "refs/main").read_text(encoding="utf-8").strip()
    except OSError:
        main = None
    if main and main.is_dir():
        return main
    if len(snapshots) == 1:
        return snapshots[0]
    listed = ", ".join(path.name[:12] for path in snapshots) or "none"
    raise UsageError(
        f"{folder} is a repository in the cache of the hub, with the snapshots {listed}", "name the folder of one"
    )


def _refuse_parts(folder: Path, names: Sequence[str]) -> None:
    """Raise CheckpointError for checkpoints in parts that only the program that wrote them puts together."""
    if any(name.endswith(".distcp") for name in names):
        raise CheckpointError(
            f"{folder} is a checkpoint of torch.distributed.checkpoint, and lacks {METADATA}",
            "get that file, too: it says where the parts of tensors are",
        )
    if any(re.match(r"(bf16_)?zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt", name) for name in names):
        raise CheckpointError(
            f"{folder} is a checkpoint of DeepSpeed's ZeRO-3, in parts",
            f"put it together: `python zero_to_fp32.py {folder.parent} weights.pt`; DeepSpeed put that file beside it",
        )


def _in_subfolder(folder: Path, depth: int) -> Model:
    """The model in a folder that holds no weights itself: below `checkpoints`, in the newest step, in its only one."""
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    parts = [path for path in folders if any(path.glob("*.distcp")) and not path.name.startswith("optim")]
    if len(parts) == 1:  # as accelerate writes them for FSDP
        return _find(parts[0], depth + 1)
    if depth >= _DEEPEST:  # or a link leads back
        raise CheckpointError(f"{folder} holds no file of weights, and neither does what is around it", KNOWN_FILES)
    if (folder / "checkpoints").is_dir():
        return _find(folder / "checkpoints", depth + 1)
    steps = [path for path in folders if _STEPS.fullmatch(path.name)]
    if steps:
        newest = max(steps, key=lambda path: _number(path.name) or 0)
        model = _find(newest, depth + 1)
        note = f"of {len(steps)} checkpoints in {folder} the newest: {newest.name}" if len(steps) > 1 else model.note
        return Model(pipeline=model.pipeline, files=model.files, note=note)
    entries = sorted(path.name for path in folder.iterdir())
    if len(entries) == 1 and folders:
        return _find(folders[0], depth + 1)
    if not entries:
        raise CheckpointError(f"{folder} is empty", "check the path")
    if any(path.name == "transformer" for path in folders):
        raise CheckpointError(
            f"{folder} looks like a pipeline of diffusers, and lacks {INDEX}", "get the whole folder of the pipeline"
        )
    listed = ", ".join(entries[:_LISTED]) + (" …" if len(entries) > _LISTED else "")
    raise CheckpointError(f"{folder} holds no file of weights; it has {listed}", KNOWN_FILES)


def _number(name: str) -> int | None:
    match = _STEP.fullmatch(name)
    return int(match[1]) if match else None
