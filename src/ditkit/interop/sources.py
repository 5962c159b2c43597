"""Where a model to import comes from (a path, the hub, a web address), and what to call it; no torch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

from ..autoencoders.files import is_repository
from ..data.sources.location import entry_name, is_address
from ..errors import UsageError
from ..io import text
from ..io.download import check_address, fetch, shown
from ..io.hub import OFFICIAL, HubAddress, address, is_hub, parse
from ..io.paths import cache_dir, cache_folder, expanded
from ..io.progress import confirm, progress
from ..io.snapshot import ASK_FROM, files_of, snapshot
from ..io.weight_files import component_files
from ..runs.folder import RunFolder
from .file_kinds import is_text
from .folders import INDEX, candidates, is_weights

_CHOSEN = {"vachanvy/Diffusion_Transformer": "celeba/ckpt.pt"}  # of repositories with several models
_HUB_HOSTS = ("huggingface.co", "hf.co", "www.huggingface.co")
_SAYS_NOTHING = re.compile(  # names of files and folders after which nobody would call a model
    r"((ckpt|checkpoints?|models?|ema|raw|net|weights?|state(_dict)?|last|latest|best|final|step|iter|epoch|global_step|"
    r"pytorch_model|diffusion_pytorch_model|snapshots|mp_rank|\d+k?|of|states|main)[-_=.]?)+|[0-9a-f]{40}",
    re.IGNORECASE,
)
SETTINGS = ("config.json", "args.json")  # beside weights: what some libraries say about them
_BY_HAND = "check the network, or download the file by hand and import that"


@dataclass(frozen=True, kw_only=True)
class Source:
    """One of these: a path, a place on the hub, a web address."""

    path: Path | None = None
    hub: HubAddress | None = None
    url: str | None = None

    def name(self) -> str:
        """What to call the model: the last part of where it is that says something."""
        if self.hub:
            parts = [*self.hub.repo.split("/"), *PurePosixPath(self.hub.subset).parts]
        elif self.url:
            parts = [urlsplit(self.url).hostname or "", *PurePosixPath(unquote(urlsplit(self.url).path)).parts]
        else:
            parts = list((self.path or Path()).absolute().parts)
            if (self.path or Path()).is_dir():
                parts.append("")
        stems = [_stem(part) if place == 0 else _repository(part) for place, part in enumerate(reversed(parts))]
        speaking = (stem for stem in stems[:5] if stem and not _SAYS_NOTHING.fullmatch(stem))
        return text.slug(next(speaking, ""), "imported")

    def fetched(self) -> tuple[Path, str]:
        """The file or folder, downloaded where it is elsewhere, and where it is from.

        Raises UsageError where several could be meant or the user says no, MachineError for network and disk.
        """
        if self.hub:
            return _from_hub(self.hub)
        if self.url:
            return _downloaded(self.url), shown(self.url)
        return self.path or Path(), str((self.path or Path()).absolute())


def find_source(word: str) -> Source:
    """What the argument of an import means. Raises UsageError for what is nothing, or ditkit's own already."""
    path = expanded(word)
    if is_address(word) and not is_hub(word):
        return _web(word)
    if is_hub(word):
        return Source(hub=parse(word))
    if path.exists():
        if RunFolder(path).is_run():
            draw = f"`ditkit sample --model {text.shell_words(word)}`"
            raise UsageError(f"{word} is a run of ditkit already", f"draw with {draw}")
        if not path.is_file() and not path.is_dir():
            raise UsageError(f"{word} is neither a file nor a folder", "name a file of weights")
        if path.is_file() and not is_weights(path.name) and is_text(path):
            raise UsageError(f"{word} is not a file of weights", "those end in .safetensors, .pt, .pth, .ckpt or .bin")
        return Source(path=path)
    repository = word.partition("@")[0]
    if is_repository(repository) and not is_weights(repository):
        return Source(hub=parse(f"hf://{word}"))
    raise UsageError(f"there is no file or folder {word}", "check the path; a repository of the hub is user/name")


def _web(url: str) -> Source:
    """A web address; one of the hub's pages or files is the place on the hub that it shows."""
    url = quote(url, safe="!#$%&'()*+,/:;=?@[]~")
    check_address(url)
    host, parts = urlsplit(url).hostname, urlsplit(url).path.strip("/").split("/")
    if host not in (*_HUB_HOSTS, urlsplit(OFFICIAL).hostname):
        return Source(url=url)
    if len(parts) < 2 or parts[0] in ("datasets", "spaces"):
        raise UsageError(f"{url} is no model on the hub", "it looks like https://huggingface.co/user/name")
    revision = parts[3] if len(parts) > 3 and parts[2] in ("tree", "blob", "resolve", "raw") else ""
    subset = "/".join(map(unquote, parts[4:]))
    return Source(hub=parse("/".join(filter(None, [*parts[:2], subset])) + (f"@{revision}" if revision else "")))


def _stem(part: str) -> str:
    """The name of a file without its endings."""
    while is_weights(part) or part.lower().endswith(".tar"):
        part = part[: part.rindex(".")]
    return part


def _repository(part: str) -> str:
    """The repository's name of its folder in the hub's cache; other names as they are."""
    return part.rpartition("--")[2] if part.startswith("models--") else part


def _downloaded(url: str) -> Path:
    """The file of a web address in the cache. Raises UsageError if the user does not want a large one."""
    name = PurePosixPath(unquote(urlsplit(url).path)).name
    file = cache_dir() / "downloads" / (entry_name(_stem(name), url) + PurePosixPath(name).suffix.lower())
    if file.is_file():
        return file
    cache_folder("downloads")
    asked = False
    with progress(f"downloading {shown(url)} to {file}") as show:

        def on_progress(done: float, total: float | None) -> None:
            nonlocal asked
            if total and total > ASK_FROM and not asked:
                asked = True
                confirm(f"download {text.format_size(int(total))} from {shown(url)} to {file}", _BY_HAND)
            show(done, total)

        return fetch(url, file, on_progress=on_progress)


def _from_hub(place: HubAddress) -> tuple[Path, str]:
    names = files_of(place.repo, kind="model", revision=place.revision, by_hand=_BY_HAND, needed=is_weights)
    below, wanted = _choose(place, sorted(names))
    folders = {name.rpartition("/")[0] for name in wanted}
    beside = [f"{folder}/{file}".lstrip("/") for folder in folders for file in SETTINGS]
    wanted = [*wanted, *(name for name in beside if name in names)]
    root = snapshot(place.repo, kind="model", revision=place.revision, wanted=wanted, by_hand=_BY_HAND)
    return root / below, f"{address(place.repo, place.revision)}/{below}".rstrip("/")


def _choose(place: HubAddress, names: Sequence[str]) -> tuple[str, list[str]]:
    """The file or folder of a repository that is the model, and all files that it needs."""
    subset = place.subset or _CHOSEN.get(place.repo, "")
    if subset in names:
        folder, _, file = subset.rpartition("/")
        return subset, next(group for group in _groups(names) if subset in group) if file else [folder]
    inside = [name for name in names if not place.subset or name.startswith(f"{place.subset}/")]
    if (f"{place.subset}/" if place.subset else "") + INDEX in inside:
        return place.subset, _of_pipeline(inside)
    groups = _groups(inside)
    if len(groups) == 1:
        return groups[0][0], groups[0]
    where = address(place.repo) + (f"/{place.subset}" if place.subset else "")
    if not groups:
        raise UsageError(f"{where} has no file of weights that ditkit reads", "it reads .pt and .safetensors")
    files = [group[0] for group in groups]
    listed = ", ".join(files[:6]) + (" …" if len(files) > 6 else "")
    example = f"`ditkit import {address(place.repo)}/{files[0]}`"
    raise UsageError(f"{where} has several files of weights: {listed}", f"name one: {example}")


def _groups(names: Sequence[str]) -> list[list[str]]:
    """The sets of weights among all paths of a repository."""
    folders: dict[str, list[str]] = {}
    for name in names:
        folder, slash, file = name.rpartition("/")
        folders.setdefault(folder + slash, []).append(file)
    return [[folder + file for file in group] for folder, files in folders.items() for group in candidates(files)]


def _of_pipeline(names: Sequence[str]) -> list[str]:
    """The files of a pipeline that are needed: its settings, and one set of weights of each part."""
    wanted = [name for name in names if name.endswith(".json")]
    for part in ("transformer", "vae"):
        folders = {name.rpartition("/")[0] for name in names if f"/{name}".rpartition("/")[0].endswith(f"/{part}")}
        for folder in folders:
            inside = [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == folder]
            wanted += [f"{folder}/{name}" for name in component_files(inside, folder)]
    return wanted
