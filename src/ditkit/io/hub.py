"""Hugging Face hub: address, listing, snapshot."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from ..errors import MachineError, UsageError
from . import atomic
from .download import Patience, fetch, offline, seconds, words
from .paths import cache_dir, cache_folder, check_room
from .progress import Progress, confirm, progress

SCHEME = "hf://"
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubAddress:
    """A repository, perhaps at a revision, and perhaps one of its configurations or folders."""

    repo: str
    revision: str | None = None
    subset: str = ""


def is_hub(place: str | None) -> bool:
    """Whether a place is on the hub."""
    return place is not None and place.startswith(SCHEME)


def parse(place: str) -> HubAddress:
    """`hf://user/dataset`, `hf://user/dataset/folder`, either with `@revision` behind. Raises UsageError."""
    words, _, revision = place.removeprefix(SCHEME).removeprefix("datasets/").partition("@")
    user, _, rest = words.strip("/").partition("/")
    name, _, subset = rest.partition("/")
    repo = f"{user}/{name}" if name else user
    check_repository(repo)
    if subset and any(part in ("", ".", "..") for part in subset.split("/")):
        raise UsageError(f"{place} names no folder of a repository", "e.g. hf://user/dataset")
    return HubAddress(repo, revision or None, subset)


def address(repo: str, revision: str | None = None) -> str:
    """The other way round; a commit is shortened."""
    return f"{SCHEME}{repo}" + (f"@{revision[:12] if COMMIT.fullmatch(revision) else revision}" if revision else "")


def check_repository(repo: str) -> None:
    """Raises UsageError for what cannot be the name of a repository."""
    if not re.fullmatch(r"[\w.-]{1,96}(/[\w.-]{1,96})?", repo, re.ASCII) or ".." in repo or "--" in repo:
        raise UsageError(f"{repo[:200]!r} is not the name of a repository on the hub", "it looks like user/name")


Kind = Literal["dataset", "model"]
PARQUET = "try hf://{}@refs/convert/parquet, where the hub keeps many datasets as few large files"
OFFICIAL = "https://huggingface.co"
_TIMEOUT = 30  # seconds
_TOO_MANY = 50_000  # files, from which the hub's list is not whole
_ANSWER = TypeVar("_ANSWER")
_CLIENTS = ("httpx", "httpcore", "requests", "urllib3")  # huggingface_hub has used several
_LOGIN = "for what is not public set HF_TOKEN to a token of yours, or `hf auth login`"


class Unreachable(MachineError):
    """The hub cannot be asked: no network, an outage, or the user forbids it."""


@dataclass(frozen=True)
class Remote:
    """A file of a repository: its size in bytes, and the SHA-256 (of large ones) or the name that git has for it."""

    size: int
    sha256: str | None
    git: str | None


class Repository:
    """One on the hub that HF_ENDPOINT names, or on that of Hugging Face; `by_hand` is what to do if that fails."""

    def __init__(self, repo: str, kind: Kind, by_hand: str, patience: Patience):
        self.repo, self.kind, self.by_hand, self.patience = repo, kind, by_hand, patience

    @property
    def endpoint(self) -> str:
        """The hub's address."""
        return _endpoint() or OFFICIAL

    @property
    def page(self) -> str:
        """Where people read about the repository."""
        return f"{self.endpoint}/{'datasets/' if self.kind == 'dataset' else ''}{self.repo}"

    def look_up(self, revision: str) -> tuple[str, dict[str, Remote]]:
        """The hash of the commit that a branch, a tag or a part of a hash means, and all its files."""

        def read(api: Any) -> tuple[str, dict[str, Remote]]:
            info = api.repo_info(
                self.repo, repo_type=self.kind, revision=revision, files_metadata=True, timeout=_TIMEOUT
            )
            if not COMMIT.fullmatch(info.sha):
                raise ValueError
            return info.sha, {one.rfilename: _remote(one) for one in info.siblings}

        commit, files = self.asked(read)
        if len(files) >= _TOO_MANY:
            raise UsageError(f"{address(self.repo)} has too many files for the hub to list", PARQUET.format(self.repo))
        return commit, files

    def check_access(self, path: str, commit: str) -> None:
        """Raises UsageError where a file is kept from the user: everybody may list those of a gated repository."""

        def check(api: Any) -> None:
            from huggingface_hub import get_hf_file_metadata

            try:
                get_hf_file_metadata(self._url(path, commit), timeout=_TIMEOUT)
            except Exception as error:
                if getattr(getattr(error, "response", None), "status_code", 404) in (401, 403):
                    raise

        self.asked(check)

    def get(self, path: str, remote: Remote, commit: str, folder: Path, on_progress: Progress) -> None:
        """One file, unless it is there."""
        target = folder / path
        if remote.size == 0:
            atomic.make_folder(target.parent)
            target.touch()
            return
        from huggingface_hub.utils import build_hf_headers

        token = {name: value for name, value in build_hf_headers().items() if name.lower() == "authorization"}
        fetch(
            self._url(path, commit),
            target,
            sha256=remote.sha256,
            git=remote.git,
            headers=token,
            by_hand=self.by_hand or None,
            on_progress=on_progress,
            patience=self.patience,
        )

    def _url(self, path: str, commit: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repo, path, repo_type=self.kind, revision=commit, endpoint=_endpoint())

    def asked(
        self, ask: Callable[[Any], _ANSWER], explain: Callable[[Exception], Exception | None] = lambda _: None
    ) -> _ANSWER:
        """What the hub answers, asked again while that may help. Raises Unreachable, or UsageError for what is not.

        `explain` may have other words for an error.
        """
        if name := offline():
            raise Unreachable(f"{address(self.repo)} is not looked up, because {name} is set", self.by_hand)
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # or it asks the hub first who else may be using it
        from huggingface_hub import HfApi

        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        api = HfApi(endpoint=_endpoint(), library_name="ditkit")
        for delay in (*self.patience.delays, None):
            try:
                return ask(api)
            except Exception as error:
                wait = _wait(error)
                if delay is None or wait is None or wait > self.patience.longest:
                    raise explain(error) or self._explained(error) from None
                time.sleep(max(delay, wait))
        raise AssertionError

    def _explained(self, error: Exception) -> Exception:
        """An error of huggingface_hub, or of what it asks with, in ditkit's words; others as they are."""
        place, endpoint, page = address(self.repo), self.endpoint, self.page
        name, code = type(error).__name__, status(error)
        if name == "RevisionNotFoundError":
            return UsageError(f"{place} has no such revision", f"{page}/commits lists them")
        if name == "GatedRepoError" or code == 403:
            return UsageError(f"{place} may be read only by those let in", f"accept its terms at {page}; {_LOGIN}")
        if code in (401, 404):
            return UsageError(
                f"there is no {self.kind} {self.repo} on the hub, or it is private", f"check it; {_LOGIN}"
            )
        if code is not None:
            return Unreachable(f"cannot look up {place}: {endpoint} answers {code}", self.by_hand)
        if isinstance(error, (ValueError, KeyError, TypeError, AttributeError)):
            return Unreachable(f"cannot look up {place}: {endpoint} does not answer as the hub does", self.by_hand)
        if (why := connection_words(error)) is not None:
            return Unreachable(f"cannot reach {endpoint} for {place}: {why}", self.by_hand)
        return error


def connection_words(error: Exception) -> str | None:
    """What went wrong with a connection of huggingface_hub's; None for an error of another kind."""
    if not type(error).__module__.startswith(_CLIENTS) and not isinstance(error, OSError):
        return None
    name = type(error).__name__
    why = "nothing came for too long" if "Timeout" in name else (str(error).splitlines() or [name])[0]
    if re.search("getaddrinfo|[Nn]ame or service|name resolution|nodename", why):
        why = words(socket.gaierror())
    return why


def status(error: Exception) -> int | None:
    """What the hub answered, if an error is its answer."""
    return getattr(getattr(error, "response", None), "status_code", None)


def _remote(file: Any) -> Remote:
    return Remote(int(file.size), file.lfs.sha256 if file.lfs else None, None if file.lfs else file.blob_id)


def _wait(error: Exception) -> float | None:
    """Seconds to wait before another try; None if another would be as bad."""
    response = getattr(error, "response", None)
    if response is None:
        return 0.0 if re.search("Timeout|Protocol", type(error).__name__) else None
    code = response.status_code
    return seconds(response.headers.get("Retry-After")) if code in (408, 425, 429) or code >= 500 else None


def _endpoint() -> str | None:
    """The hub's address from the environment, read now and not when huggingface_hub was imported."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


NOTE = "about.json"  # in every snapshot's folder: where it comes from, and which files the repository has
ASK_FROM = 50e6  # bytes
_SPARE = 64 << 20
_MOST_FILES = 20_000  # in one snapshot
_resolved: dict[tuple[str, ...], str] = {}  # a process sees one commit of a branch, even if it moves on


def snapshot(
    repo: str,
    *,
    kind: Kind = "dataset",
    revision: str | None = None,
    wanted: Callable[[str], bool],
    by_hand: str | None = None,
    patience: Patience = Patience(),
) -> Path:
    """The folder that holds the wanted files of a repository, whole and checked, downloaded where missing.

    `wanted` is asked about every file by its path in the repository. Without a revision it is that of the newest
    commit, or of the last one seen while the hub cannot be reached. Files that are all there need no network. Raises
    UsageError for a repository that does not exist or has nothing that is wanted, and MachineError for network and
    disk; `by_hand` says what to do then.
    """
    entry, note = _entry(repo, kind, revision, by_hand, patience)
    files = {path: remote for path, remote in note.files.items() if wanted(path) and _is_plain(path)}
    if not files:
        raise UsageError(f"{address(repo, revision)} has none of the files that are needed", "check its name")
    missing = {path: remote for path, remote in files.items() if _size(entry / path) != remote.size}
    if missing:
        _download(entry, note, missing, by_hand, patience)
    return entry


def files_of(
    repo: str, *, kind: Kind = "dataset", revision: str | None = None, by_hand: str | None = None
) -> dict[str, Remote]:
    """All files of a repository by their path in it, as they were when the hub was last asked about this commit."""
    return _entry(repo, kind, revision, by_hand, Patience())[1].files


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is known of a commit."""

    kind: Kind
    repo: str
    commit: str
    revisions: Mapping[str, float]  # names that were this commit, and when the hub said so
    files: dict[str, Remote]

    def write(self, folder: Path) -> None:
        atomic.make_folder(folder)
        tree = {
            "format": 1,
            "source": address(self.repo, self.commit),
            **vars(self),
            "files": {path: vars(remote) for path, remote in self.files.items()},
        }
        atomic.write_atomically(folder / NOTE, json.dumps(tree, indent=1))


def _read_note(folder: Path) -> _Note | None:
    try:
        tree = json.loads((folder / NOTE).read_bytes())
        if tree.pop("format") != 1 or not tree.pop("source"):
            return None
        return _Note(**{**tree, "files": {path: Remote(**remote) for path, remote in tree["files"].items()}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _entry(repo: str, kind: Kind, revision: str | None, by_hand: str | None, patience: Patience) -> tuple[Path, _Note]:
    """The folder of the commit that a revision is now, and what is known of it."""
    check_repository(repo)
    name = revision or "main"
    asked = (str(cache_dir()), kind, repo, name)
    commit = name if COMMIT.fullmatch(name) else _resolved.get(asked)
    if commit and (note := _read_note(_folder(repo, commit))):
        return _folder(repo, commit), note
    known = _last_seen(repo, kind, name)
    if known:  # then a hub that is away is no reason to wait long
        patience = replace(patience, delays=patience.delays[:1])
    hub = Repository(repo, kind, by_hand or "check the network, or set HF_ENDPOINT to a mirror", patience)
    try:
        commit, files = hub.look_up(commit or name)
    except Unreachable:
        if known is None:
            raise
        return known
    folder = _folder(repo, commit)
    before = _read_note(folder)
    revisions = {**(before.revisions if before else {}), name: time.time()}
    note = _Note(kind=kind, repo=repo, commit=commit, revisions=revisions, files=files)
    cache_folder("hub")
    note.write(folder)
    _resolved[asked] = commit
    return folder, note


def _folder(repo: str, commit: str) -> Path:
    return cache_dir() / "hub" / f"{repo.replace('/', '--')}-{commit[:12]}"


def _last_seen(repo: str, kind: Kind, name: str) -> tuple[Path, _Note] | None:
    """The commit that a revision last was, of those in the cache."""
    found = []
    for folder in (cache_dir() / "hub").glob(f"{repo.replace('/', '--')}-*"):
        note = _read_note(folder)
        if note is not None and (note.repo, note.kind) == (repo, kind) and name in note.revisions:
            found.append((note.revisions[name], folder, note))
    return max(found, key=lambda one: one[0])[1:] if found else None


def _is_plain(path: str) -> bool:
    """Whether a path stays inside the folder and means the same on every system."""
    parts = path.split("/")
    return path != NOTE and not any(
        part in ("", ".", "..") or re.search(r'[<>:"|?*\\\x00-\x1f]', part) for part in parts
    )


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _download(entry: Path, note: _Note, files: dict[str, Remote], by_hand: str | None, patience: Patience) -> None:
    place, size = address(note.repo, note.commit), sum(remote.size for remote in files.values())
    if len(files) > _MOST_FILES:
        raise UsageError(
            f"{place} has {len(files):,} files, which would take days one by one",
            PARQUET.format(note.repo),
        )
    if name := offline():
        raise Unreachable(f"{place} is not downloaded, because {name} is set", by_hand or f"unset {name}")
    what = f"{len(files)} {'file' if len(files) == 1 else 'files'}, {_amount(size)}, from {place} to {entry}"
    check_room(place, entry, size + _SPARE)
    hub, done = Repository(note.repo, note.kind, by_hand or "", patience), 0
    hub.check_access(next(iter(files)), note.commit)
    if size > ASK_FROM:
        confirm(f"download {what}", by_hand or "download them by hand and give their folder")
    with progress(f"downloading {what}") as show:
        for path, remote in files.items():
            if _size(entry / path) not in (None, remote.size):
                (entry / path).unlink()  # nobody's: what ditkit puts there has its size
            hub.get(path, remote, note.commit, entry, lambda now, _, done=done: show(done + now, size))
            done += remote.size
            show(done, size)


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
