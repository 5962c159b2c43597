"""Snapshots of repositories on the Hugging Face hub: the wanted files of one commit, in a folder of ditkit's cache."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from .. import durable
from ..errors import UsageError
from ..paths import cache_dir, cache_folder, check_room
from .fetch import Patience, offline
from .place import COMMIT, address, check_repository
from .repository import PARQUET, Kind, Remote, Repository, Unreachable
from .watch import agree, watching

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
        durable.make_folder(folder)
        tree = {
            "format": 1,
            "source": address(self.repo, self.commit),
            **vars(self),
            "files": {path: vars(remote) for path, remote in self.files.items()},
        }
        durable.write_atomically(folder / NOTE, json.dumps(tree, indent=1))


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
        agree(f"download {what}", by_hand or "download them by hand and give their folder")
    with watching(f"downloading {what}") as show:
        for path, remote in files.items():
            if _size(entry / path) not in (None, remote.size):
                (entry / path).unlink()  # nobody's: what ditkit puts there has its size
            hub.get(path, remote, note.commit, entry, lambda now, _, done=done: show(done + now, size))
            done += remote.size
            show(done, size)


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
