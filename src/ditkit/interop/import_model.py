"""Import_model(): fetch, convert, write as a run."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..autoencoders.files import IN_PIPELINE
from ..autoencoders.files import settings as autoencoder_settings
from ..errors import MachineError, UsageError, unknown
from ..io import atomic, text
from ..io.hub import COMMIT, is_hub, parse
from ..io.locks import exclusive
from ..io.paths import check_space, claim_free, expanded, is_empty
from ..io.progress import LOADING_TORCH, Watch, no_progress
from ..io.snapshot import source_of
from ..runs import folder as run_folder
from ..runs import manifest
from ..runs.folder import RunFolder
from ..runs.lookup import METRICS, WEIGHTS, fetch_model
from ..runs.metrics import numbers_line, read_rows
from ..runs.model_info import METADATA_KEY, ModelInfo, read_model_info
from ..runs.stored import config_text
from .projects import PROJECTS
from .sources import find_source

if TYPE_CHECKING:
    from torch import Tensor

    from .base import ForeignModel

_TEMPORARY = ".tmp-placed-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportedModel:
    """A model that was written as a run: where, what it is (`origin`, in words), and how many losses came with it."""

    run: Path
    checkpoint: Path
    info: ModelInfo
    origin: str
    parameters: int
    losses: int
    notes: tuple[str, ...] = ()  # what was taken, left out or assumed: a line each


def import_model(
    source: str | Path,
    *,
    name: str | None = None,
    runs_dir: str | Path | None = None,
    settings: Mapping[str, Any] = {},
    project: str | None = None,
    autoencoder: str | Path | None = None,
    class_names: str | Path | None = None,
    state_dict: str | None = None,
    force: bool = False,
    progress: Watch = no_progress,
) -> ImportedModel:
    """Convert a model of another project into a run: the original's ckpt.pt, Meta's DiT, SiT, a DiTPipeline.

    Nothing in a pickle is executed. Downloads report and ask as `io.progress.reporting_to` says.

    Args:
        source: a file of weights, the folder of a pipeline or of a training's results, a repository of the hub
            (user/name[@revision], hf://user/name/file), or a web address of any of these.
        name: of the run; after the file, folder or repository if None.
        runs_dir: where runs live: DITKIT_RUNS, else ./runs if None.
        settings: what the file does not say, as nested settings: {"model": {"heads": 4}}.
        project: whose training a file that does not say it is from: dit, sit, repa, lightningdit or original.
        autoencoder: whose latents the model draws: a name, a folder or a repository; "pixel" for none.
        class_names: names of the classes: a file, a folder, or words with commas (see `class_names`).
        state_dict: where in the file the weights are, if it has those of several networks: "ema_0.999".
        force: replace an earlier import of this name.
        progress: shown what is being done.

    Raises UsageError for a source that is no model and a name that is taken, CheckpointError for files that are damaged
    or of an unknown format, MachineError for the network and the disk.
    """
    if project is not None and project not in PROJECTS:
        raise unknown("project", project, PROJECTS)
    if autoencoder is not None:
        settings = {**settings, "autoencoder": autoencoder_settings(str(autoencoder))}
    runs = run_folder.runs_dir(None if runs_dir is None else Path(runs_dir))
    called = text.run_name(name, "--as") if name is not None else None
    place = find_source(str(source))
    folder = RunFolder(runs / called if called else claim_free(runs / place.name(), folder=True))
    _check_name(folder, force=force)
    path, origin = place.fetched()
    with progress(LOADING_TORCH):
        from .class_names import named
        from .detect import read_foreign
    with progress(f"reading {path.name} …"):
        foreign = named(read_foreign(path, settings, project, state_dict), class_names)
        foreign = _with_autoencoder_on_hub(foreign, path, origin)
    with progress(f"writing {folder.path} …"):
        checkpoint = write_foreign_as_run(folder, foreign, origin, force=force)
    return ImportedModel(
        run=folder.path,
        checkpoint=checkpoint,
        info=foreign.info,
        origin=foreign.origin,
        parameters=sum(tensor.numel() for tensor in foreign.ema.values()),
        losses=len(foreign.losses),
        notes=foreign.notes,
    )


def _with_autoencoder_on_hub(foreign: ForeignModel, path: Path, origin: str) -> ForeignModel:
    """A pipeline's model that names its autoencoder on the hub, if it is from there, not in this machine's cache.

    `path` is where the repository's files are: …/models--user--name/snapshots/COMMIT.
    """
    section = foreign.info.config.autoencoder
    if (
        not is_hub(origin)
        or section.source is None
        or expanded(section.source).resolve() != (path / IN_PIPELINE).resolve()
    ):
        return foreign
    repo = parse(source_of(path)).repo
    changed = dataclasses.replace(section, source=repo, revision=path.name if COMMIT.fullmatch(path.name) else None)
    config = dataclasses.replace(foreign.info.config, autoencoder=changed)
    return dataclasses.replace(foreign, info=dataclasses.replace(foreign.info, config=config))


def pull(
    source: str, *, name: str | None = None, runs_dir: str | Path | None = None, progress: Watch = no_progress
) -> tuple[Path, ModelInfo]:
    """Fetch a model of ditkit's from the hub and write it as a run; returns its folder, and what its weights say.

    Pulled again, it becomes what the repository has by then. `source` is user/name, perhaps with @revision; `name` and
    `runs_dir` are as in `import_model`. Raises UsageError for a name that is taken by another model and a repository
    that is not there or holds no model of ditkit's, CheckpointError for weights that are not what they say they are,
    MachineError for the network and the disk.
    """
    place = parse(source)
    runs = run_folder.runs_dir(None if runs_dir is None else Path(runs_dir))
    folder = RunFolder(
        runs / (text.run_name(name, "--as") if name is not None else text.slug(place.repo.rpartition("/")[2]))
    )
    earlier = folder.imported_from().get("source")
    same = earlier is not None and is_hub(earlier) and parse(earlier).repo == place.repo
    if os.path.lexists(folder.path) and not same:
        raise UsageError(f"{folder.path} is there already, and is another model", "choose another name with --as")
    fetched = fetch_model(place, (METRICS,))
    with progress(LOADING_TORCH):
        from ..checkpoint.loading import check_fits, read_tensors
    path = fetched / WEIGHTS
    with progress(f"writing {folder.path} …"):
        info, tensors = read_model_info(path), read_tensors(path)
        check_fits(info, tensors, path)
        about = {"origin": "a model of ditkit's", "source": source_of(fetched)}
        write_as_run(folder, info=info, files={WEIGHTS: tensors}, metrics=read_rows(fetched / METRICS), about=about)
    return folder.path, info


def _is_claimed(folder: Path) -> bool:
    """Whether it is the empty folder that `claim_free` has made, or one like it."""
    return folder.is_dir() and is_empty(folder)


def _check_name(folder: RunFolder, *, force: bool) -> None:
    """Raise UsageError, before anything is fetched, where something would be lost."""
    if not os.path.lexists(folder.path) or _is_claimed(folder.path):
        return
    if not folder.is_imported():
        raise UsageError(f"{folder.path} is there already, and was not imported", "choose another name with --as")
    if not force:
        raise UsageError(f"{folder.path} is there already", "replace it with --force, or choose another name with --as")


def write_as_run(
    folder: RunFolder,
    *,
    info: ModelInfo,
    files: Mapping[str, Mapping[str, Tensor]],
    metrics: Sequence[Mapping[str, Any]] = (),
    about: Mapping[str, Any] = {},
    force: bool = True,
) -> Path:
    """Write settings, metrics and weights, whole or not at all, instead of what is there; returns the checkpoint.

    Without `force` nothing may be there, nor come there from another process that imports under this name. `files` are
    tensors by their names, of "ema.safetensors" and perhaps "model.safetensors"; `about` says in words where they come
    from. Of metrics only finite numbers are kept. Raises MachineError for the disk, UsageError for what is there.
    """
    runs = folder.path.parent
    new = RunFolder(runs / f"{_TEMPORARY}{folder.path.name}-{uuid.uuid4().hex[:8]}")
    old = new.path.with_name(f"{new.path.name}-old")
    try:
        atomic.make_folder(runs)
        with exclusive(folder.path):
            _check_name(folder, force=force)
            _remove_leftovers(folder)
            needed = sum(tensor.nbytes for tensors in files.values() for tensor in tensors.values())
            check_space(runs, needed + (1 << 20), f"{folder.path.name} needs")
            _write(new, info, files, metrics, about)
            if _is_claimed(folder.path):  # Windows does not rename to what is there
                folder.path.rmdir()
            _check_name(folder, force=force)  # a run may have begun there in the meantime
            atomic.replace_folder(new.path, folder.path, old)
            atomic.sync_folder(runs)
    except OSError as error:
        raise MachineError(
            f"cannot write to {folder.path}: {error.strerror or error}", "free some space, or choose another --runs-dir"
        ) from None
    finally:
        for path in (new.path, old):
            shutil.rmtree(path, ignore_errors=True)
    return folder.checkpoint(info.step)


def write_foreign_as_run(folder: RunFolder, foreign: ForeignModel, source: str, *, force: bool = True) -> Path:
    """As `write_as_run`, of another project's model; `source` says where it comes from."""
    files = {"ema.safetensors": foreign.ema, **({"model.safetensors": foreign.raw} if foreign.raw else {})}
    metrics = [{"step": step, "loss": float(f"{loss:.7g}")} for step, loss in foreign.losses]
    about = {"origin": foreign.origin, "source": source}
    return write_as_run(folder, info=foreign.info, files=files, metrics=metrics, about=about, force=force)


def _write(
    new: RunFolder,
    info: ModelInfo,
    files: Mapping[str, Mapping[str, Tensor]],
    metrics: Sequence[Mapping[str, Any]],
    about: Mapping[str, Any],
) -> None:
    from ..io import safetensors

    checkpoint = new.checkpoint(info.step)
    atomic.make_folder(checkpoint)
    written = {}
    for name, tensors in files.items():
        own = dataclasses.replace(info, weights=name.partition(".")[0])
        content = safetensors.pieces(tensors, {METADATA_KEY: own.to_json()})
        written[name] = atomic.write_synced(checkpoint / name, content)
    atomic.write_synced(checkpoint / manifest.NAME, manifest.write(info.step, written))
    atomic.sync_folder(checkpoint)
    atomic.write_synced(new.metrics_file, "".join(map(numbers_line, metrics)).encode())
    atomic.write_synced(new.import_file, json.dumps(about, indent=1).encode())
    atomic.write_synced(new.config_file, config_text(info.config).encode())
    atomic.sync_folder(new.path)


def _remove_leftovers(folder: RunFolder) -> None:
    """Remove what a process left behind that was killed while it wrote a model of this name."""
    for path in folder.path.parent.glob(f"{_TEMPORARY}*"):
        if re.fullmatch(re.escape(folder.path.name) + r"-[0-9a-f]{8}(-old)?", path.name.removeprefix(_TEMPORARY)):
            shutil.rmtree(path, ignore_errors=True)
