"""Files of a hub repository in the cache that tools share: looked up, asked for, downloaded, checked.

huggingface_hub downloads, several files at a time, so that what another tool has fetched is not fetched again. ditkit
asks before a large download, shows its progress, and compares every file with the hash that the hub states before it
is first used, whoever fetched it. What it knows of a commit is a note in its own cache,
`hub/USER--NAME-COMMIT/about.json`. A download that was stopped goes on with the file it stopped in. Files that an
earlier ditkit kept beside that note are used where they are.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue

from ..errors import UsageError
from . import atomic
from .download import Patience, offline
from .hub import (
    COMMIT,
    NO_ROOM,
    PARQUET,
    Kind,
    Remote,
    Repository,
    Unreachable,
    address,
    check_repository,
    progress_bars,
    size_of,
)
from .paths import cache_dir, cache_folder, check_room
from .progress import confirm, progress
from .text import format_size, plural

NOTE = "about.json"
ASK_FROM = 50e6  # bytes
_MOST_FILES = 20_000  # in one snapshot
_AT_ONCE = 8  # files that are downloaded at the same time
_TICK = 0.2  # seconds between two looks at the progress
_SPARE = 64 << 20  # bytes of the disk that stay free
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

    Other files, which other tools have fetched, may be there, too.

    Args:
        wanted: asked about every file by its path in the repository
        revision: a branch, tag or commit; without it that of the newest commit, or of the last one seen while the hub
            cannot be reached. Files that are all there need no network.
        by_hand: what to do when the network or the disk refuses

    Raises:
        UsageError: for a repository that does not exist or has nothing that is wanted
        MachineError: for network and disk
    """
    note = _look_up(repo, kind, revision, by_hand, patience)
    files = {path: remote for path, remote in note.files.items() if wanted(path) and _is_plain(path)}
    if not files:
        raise UsageError(f"{address(repo, revision)} has none of the files that are needed", "check its name")
    if all(size_of(note.folder / path) == remote.size for path, remote in files.items()):
        return note.folder  # of an earlier ditkit
    unchecked = {path: remote for path, remote in files.items() if not note.has(path)}
    if unchecked:
        patience = replace(patience, delays=patience.delays[:2])  # huggingface_hub tries again itself
        hub = Repository(repo, kind, by_hand or "", patience)
        _complete(note, hub, unchecked, by_hand)
        _remember_branch(hub.folder, revision or "main", note.commit)
    return note.snapshot


def files_of(
    repo: str, *, kind: Kind = "dataset", revision: str | None = None, by_hand: str | None = None
) -> dict[str, Remote]:
    """All files of a repository by their path in it, as they were when the hub was last asked about this commit."""
    return _look_up(repo, kind, revision, by_hand, Patience()).files


def source_of(folder: Path) -> str:
    """Where a folder that `snapshot` gave comes from, with the commit: hf://user/name@0123456789ab."""
    if note := _read_note(folder):
        return address(note.repo, note.commit)
    return address(folder.parents[1].name.partition("--")[2].replace("--", "/"), folder.name)


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is known of a commit; `checked` are the files whose content in the shared cache was the hub's."""

    kind: Kind
    repo: str
    commit: str
    revisions: Mapping[str, float]  # names that were this commit, and when the hub said so
    files: dict[str, Remote]
    checked: set[str]

    @property
    def folder(self) -> Path:
        return _note_folder(self.repo, self.commit)

    @property
    def snapshot(self) -> Path:
        return Repository(self.repo, self.kind, "", Patience()).folder / "snapshots" / self.commit

    def has(self, path: str) -> bool:
        """Whether a file is in the shared cache, and was checked."""
        return path in self.checked and size_of(self.snapshot / path) == self.files[path].size

    def write(self) -> None:
        atomic.make_folder(self.folder)
        tree = {
            "format": 1,
            "source": address(self.repo, self.commit),
            **vars(self),
            "files": {path: vars(remote) for path, remote in self.files.items()},
            "checked": sorted(self.checked),
            "snapshot": str(self.snapshot) if self.checked else None,
        }
        atomic.write_atomically(self.folder / NOTE, json.dumps(tree, indent=1))


def _read_note(folder: Path) -> _Note | None:
    try:
        tree = json.loads((folder / NOTE).read_bytes())
        if tree.pop("format") != 1 or not tree.pop("source"):
            return None
        tree.pop("snapshot", None)
        files = {path: Remote(**remote) for path, remote in tree["files"].items()}
        return _Note(**{**tree, "files": files, "checked": set(tree.get("checked", ()))})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _look_up(repo: str, kind: Kind, revision: str | None, by_hand: str | None, patience: Patience) -> _Note:
    """What is known of the commit that a revision is now."""
    check_repository(repo)
    name = revision or "main"
    key = (str(cache_dir()), kind, repo, name)
    commit = name if COMMIT.fullmatch(name) else _resolved.get(key)
    if commit and (note := _read_note(_note_folder(repo, commit))):
        return note
    last = _last_seen(repo, kind, name)
    if last:  # then a hub that is away is no reason to wait long
        patience = replace(patience, delays=patience.delays[:1])
    hub = Repository(repo, kind, by_hand or "check the network, or set HF_ENDPOINT to a mirror", patience)
    try:
        commit, files = hub.look_up(commit or name)
    except Unreachable:
        last = last or _of_other_tools(hub, name)
        if last is None:
            raise
        return last
    before = _read_note(_note_folder(repo, commit))
    revisions = {**(before.revisions if before else {}), name: time.time()}
    checked = before.checked if before else set()
    note = _Note(kind=kind, repo=repo, commit=commit, revisions=revisions, files=files, checked=checked)
    cache_folder("hub")
    note.write()
    _resolved[key] = commit
    return note


def _note_folder(repo: str, commit: str) -> Path:
    return cache_dir() / "hub" / f"{repo.replace('/', '--')}-{commit[:12]}"


def _last_seen(repo: str, kind: Kind, name: str) -> _Note | None:
    """The commit that a revision last was, of those that ditkit knows."""
    folders = (cache_dir() / "hub").glob(f"{repo.replace('/', '--')}-*")
    notes = [note for folder in folders if (note := _read_note(folder))]
    notes = [note for note in notes if (note.repo, note.kind) == (repo, kind) and name in note.revisions]
    return max(notes, key=lambda note: note.revisions[name], default=None)


def _of_other_tools(hub: Repository, name: str) -> _Note | None:
    """A model that only other tools have fetched, as far as it is in the shared cache; there is nothing to check it by.

    Not a data set: nobody would notice if a part of it were missing.
    """
    with contextlib.suppress(OSError):
        commit = name if COMMIT.fullmatch(name) else (hub.folder / "refs" / name).read_text(encoding="utf-8").strip()
        root = hub.folder / "snapshots" / commit
        paths = [path for path in root.rglob("*") if path.is_file()] if hub.kind == "model" else []
        files = {path.relative_to(root).as_posix(): Remote(path.stat().st_size, None, None) for path in paths}
        if files:
            return _Note(kind=hub.kind, repo=hub.repo, commit=commit, revisions={}, files=files, checked=set(files))
    return None


def _is_plain(path: str) -> bool:
    """Whether a path stays inside the folder and means the same on every system."""
    parts = path.split("/")
    return path != NOTE and not any(
        part in ("", ".", "..") or re.search(r'[<>:"|?*\\\x00-\x1f]', part) for part in parts
    )


def _remember_branch(folder: Path, revision: str, commit: str) -> None:
    """Tell other tools which commit a branch is, so that they find its files without a network."""
    if not COMMIT.fullmatch(revision) and _is_plain(revision):
        path = folder / "refs" / revision
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            atomic.write_atomically(path, commit)


def _complete(note: _Note, hub: Repository, files: dict[str, Remote], by_hand: str | None) -> None:
    """Check the files that are in the shared cache, and download the others."""
    missing = {path: remote for path, remote in files.items() if size_of(note.snapshot / path) != remote.size}
    total = sum(remote.size for remote in files.values())
    what = f"checking {plural(len(files), 'file')} of {address(note.repo, note.commit)} in {hub.folder}"
    if missing:
        what = f"downloading {_agree(note, hub, missing, by_hand)}"
    with progress(what) as show:
        try:
            for path in _fetched(hub, files, note, lambda done: show(done, total)):
                note.checked.add(path)
        finally:
            note.write()


def _agree(note: _Note, hub: Repository, files: dict[str, Remote], by_hand: str | None) -> str:
    """Ask for a download, in words that are given back. Raises what forbids it."""
    place, size = address(note.repo, note.commit), sum(remote.size for remote in files.values())
    if len(files) > _MOST_FILES:
        raise UsageError(
            f"{place} has {len(files):,} files, which would take days one by one", PARQUET.format(note.repo)
        )
    if name := offline():
        raise Unreachable(f"{place} is not downloaded, because {name} is set", by_hand or f"unset {name}")
    what = f"{plural(len(files), 'file')}, {format_size(size)}, from {place} to {hub.folder}"
    check_room(place, hub.folder, size + _SPARE, NO_ROOM)
    hub.check_access(next(iter(files)), note.commit)
    if size > ASK_FROM:
        confirm(f"download {what}", by_hand or "download them by hand and give their folder")
    return what


def _fetched(
    hub: Repository, files: Mapping[str, Remote], note: _Note, on_bytes: Callable[[int], None]
) -> Iterator[str]:
    """The paths of files as they come. Raises the first error; what other threads are at is left to them.

    The threads do not keep the process alive: an interrupt need not wait for a large file.
    """
    waiting, finished, stopped = SimpleQueue[str](), SimpleQueue[tuple[str, Exception | None]](), threading.Event()
    for path in files:
        waiting.put(path)
    started, done, shown = time.time(), 0, 0

    def work() -> None:
        with contextlib.suppress(Empty):
            while not stopped.is_set():
                path, error = waiting.get_nowait(), None
                try:
                    hub.download(path, files[path], note.commit)
                except Exception as raised:
                    error = raised
                finished.put((path, error))

    left = set(files)
    with progress_bars(shown=False):
        for _ in range(min(_AT_ONCE, len(files))):
            threading.Thread(target=work, daemon=True).start()
        try:
            while left:
                with contextlib.suppress(Empty):
                    path, error = finished.get(timeout=_TICK)
                    if error:
                        raise error
                    left.remove(path)
                    done += files[path].size
                    yield path
                shown = max(shown, done + (_arriving(hub.folder, started) if left else 0))
                on_bytes(shown)
        finally:
            stopped.set()


def _arriving(folder: Path, since: float) -> int:
    """Bytes so far of the files that are on their way to the shared cache."""
    with contextlib.suppress(OSError):
        statuses = [path.stat() for path in (folder / "blobs").glob("*.incomplete")]
        return sum(status.st_size for status in statuses if status.st_mtime >= since)
    return 0
