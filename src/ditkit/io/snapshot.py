"""Files of a hub repository in the cache that tools share: looked up, asked for, downloaded, checked.

huggingface_hub downloads, several files at a time, so that what another tool has fetched is not fetched again. ditkit
asks before a large download, shows its progress, and compares every file with the hash that the hub states before it
is first used, whoever fetched it. What it knows of a commit is a note in its own cache,
`hub/USER--NAME-COMMIT/about.json`. After a download that was stopped, the same call keeps the files that are whole and
fetches the others from their beginning. Files that an earlier ditkit kept beside that note are used where they are.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import MachineError, UsageError
from . import atomic, paths
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
)
from .parallel import in_threads
from .paths import cache_dir, cache_folder, check_room
from .progress import confirm, progress
from .shared import INCOMPLETE, arriving, remember_branch, size_of, stamp_of
from .text import format_size, plural, why_not_on_windows

Wanted = Callable[[str], bool] | Collection[str]  # a test of a path in a repository, or the paths themselves
NOTE = "about.json"
ASK_FROM = 50e6  # bytes
_MOST_FILES = 20_000  # in one snapshot
_ABANDONED = 600  # seconds without a write after which nobody downloads a file any more
_SPARE = 64 << 20  # bytes of the disk that stay free
_resolved: dict[tuple[str, ...], str] = {}  # a process sees one commit of a branch, even if it moves on


def snapshot(
    repo: str,
    *,
    kind: Kind = "dataset",
    revision: str | None = None,
    wanted: Wanted,
    by_hand: str | None = None,
    patience: Patience = Patience(),
) -> Path:
    """The folder that holds the wanted files of a repository, whole and checked, downloaded where missing.

    Other files, which other tools have fetched, may be there, too.

    Args:
        wanted: paths in the repository, of which those are fetched that it has; or a test of a path
        revision: a branch, tag or commit; without it that of the newest commit, or of the last one seen while the hub
            cannot be reached. Files that are all there need no network.
        by_hand: what to do when the network or the disk refuses

    Raises:
        UsageError: for a repository that does not exist or has nothing that is wanted
        MachineError: for network and disk
    """
    is_wanted = wanted if callable(wanted) else frozenset(wanted).__contains__
    started = time.time()
    note = _look_up(repo, kind, revision, by_hand, patience, wanted)
    files = {path: remote for path, remote in note.files.items() if is_wanted(path) and _is_plain(path)}
    if not files:
        raise UsageError(f"{address(repo, revision)} has none of the files that are needed", "check its name")
    _check_names(files, address(repo, revision))
    if all(size_of(note.folder / path) == remote.size for path, remote in files.items()):
        return note.folder  # of an earlier ditkit
    unchecked = {path: remote for path, remote in files.items() if not note.has(path)}
    if unchecked:
        patience = replace(patience, delays=patience.delays[:2])  # huggingface_hub tries again itself
        hub = Repository(repo, kind, by_hand or "", patience)
        _complete(note, hub, unchecked)
        name = revision or "main"
        if _is_plain(name) and not COMMIT.fullmatch(name):
            remember_branch(hub.folder, name, note.commit, is_new=note.revisions.get(name, 0) >= started)
    return note.snapshot


def files_of(
    repo: str,
    *,
    kind: Kind = "dataset",
    revision: str | None = None,
    by_hand: str | None = None,
    needed: Wanted = (),
) -> dict[str, Remote]:
    """All files of a repository by their path in it, as they were when the hub was last asked about this commit.

    Paths that would leave the folder, or are not possible on every system, are left out.

    While the hub cannot be reached and never was, those that other tools have fetched of a model, if what is
    `needed` is among them. Raises as `snapshot` does.
    """
    files = _look_up(repo, kind, revision, by_hand, Patience(), needed).files
    return {path: remote for path, remote in files.items() if _is_plain(path)}


def source_of(folder: Path) -> str:
    """Where a folder that `snapshot` gave comes from, with the commit: hf://user/name@0123456789ab."""
    if note := _read_note(folder):
        return address(note.repo, note.commit)
    return address(folder.parents[1].name.partition("--")[2].replace("--", "/"), folder.name)


@dataclass(frozen=True, kw_only=True)
class _Note:
    """What is known of a commit; `checked` are the files whose content in the shared cache was the hub's.

    It counts for files of that size and time of change in one folder, which the note on disk names.
    """

    kind: Kind
    repo: str
    commit: str
    revisions: Mapping[str, float]  # names that were this commit, and when the hub said so
    files: dict[str, Remote]
    checked: dict[str, tuple[int, int]]

    @property
    def folder(self) -> Path:
        return _note_folder(self.repo, self.commit)

    @property
    def snapshot(self) -> Path:
        return Repository(self.repo, self.kind, "", Patience()).folder / "snapshots" / self.commit

    def has(self, path: str) -> bool:
        """Whether a file is in the shared cache, and was checked."""
        stamp = stamp_of(self.snapshot / path)
        return stamp is not None and stamp == self.checked.get(path) and stamp[0] == self.files[path].size

    def check(self, path: str) -> None:
        """Note that a file's content was compared with the hub's."""
        if stamp := stamp_of(self.snapshot / path):
            self.checked[path] = stamp

    def write(self) -> None:
        """Replace the note on disk. Raises MachineError."""
        tree = {
            "format": 1,
            "source": address(self.repo, self.commit),
            **vars(self),
            "files": {path: vars(remote) for path, remote in self.files.items()},
            "snapshot": str(self.snapshot) if self.checked else None,
        }
        try:
            atomic.make_folder(self.folder)
            atomic.write_atomically(self.folder / NOTE, json.dumps(tree, indent=1))
        except OSError as error:
            raise MachineError(f"cannot write to {self.folder}: {error.strerror or error}", paths.NO_ROOM) from None


def _read_note(folder: Path) -> _Note | None:
    try:
        tree = json.loads((folder / NOTE).read_bytes())
        if tree.pop("format") != 1 or not tree.pop("source"):
            return None
        folder_checked = tree.pop("snapshot", None)
        files = {path: Remote(**remote) for path, remote in tree["files"].items()}
        checked = {path: (size, changed) for path, (size, changed) in dict(tree.get("checked") or {}).items()}
        note = _Note(**{**tree, "files": files, "checked": checked})
        return note if folder_checked == str(note.snapshot) else replace(note, checked={})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def shared_files(folder: Path) -> tuple[Path, list[Path]] | None:
    """The snapshot that a note in a folder is about, and the checked files in it; None if there are none."""
    note = _read_note(folder)
    files = [note.snapshot / path for path in note.checked if _is_plain(path)] if note else []
    present = [path for path in files if size_of(path) is not None]
    return (note.snapshot, present) if note and present else None


def leftovers() -> list[Path]:
    """Parts of files in the shared cache that nobody writes any more, of repositories that have a note."""
    notes = [note for folder in (cache_dir() / "hub").glob("*") if (note := _read_note(folder))]
    folders = sorted({note.snapshot.parents[1] / "blobs" for note in notes})
    parts = [part for folder in folders for part in sorted(folder.glob(f"*{INCOMPLETE}"))]
    return [part for part in parts if (stamp := stamp_of(part)) and time.time() - stamp[1] / 1e9 > _ABANDONED]


def _look_up(
    repo: str, kind: Kind, revision: str | None, by_hand: str | None, patience: Patience, wanted: Wanted
) -> _Note:
    """What is known of the commit that a revision is now; of what other tools have, only if it has what is wanted."""
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
        if last or (last := _of_other_tools(hub, name, wanted)):
            return last
        raise
    before = _read_note(_note_folder(repo, commit))
    revisions = {**(before.revisions if before else {}), name: time.time()}
    checked = before.checked if before else {}
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


def _of_other_tools(hub: Repository, name: str, wanted: Wanted) -> _Note | None:
    """A model that only other tools have fetched, if what is wanted is there; there is nothing to check it by.

    Not a data set: nobody would notice if a part of it were missing.
    """
    with contextlib.suppress(OSError):
        commit = name if COMMIT.fullmatch(name) else (hub.folder / "refs" / name).read_text(encoding="utf-8").strip()
        root = hub.folder / "snapshots" / commit
        paths = [path for path in root.rglob("*") if path.is_file()] if hub.kind == "model" else []
        stamps = {path.relative_to(root).as_posix(): stamp for path in paths if (stamp := stamp_of(path))}
        if any(map(wanted, stamps)) if callable(wanted) else wanted and stamps.keys() >= set(wanted):
            files = {path: Remote(size, None, None) for path, (size, _) in stamps.items()}
            return _Note(kind=hub.kind, repo=hub.repo, commit=commit, revisions={}, files=files, checked=stamps)
    return None


def _is_plain(path: str) -> bool:
    """Whether a path stays inside the folder and means the same on every system."""
    parts = path.split("/")
    return path != NOTE and not any(
        part in ("", ".", "..") or re.search(r'[<>:"|?*\\\x00-\x1f]', part) for part in parts
    )


def _check_names(paths: Iterable[str], place: str) -> None:
    """Raise UsageError for a file that Windows cannot have, on Windows: without it a label might be missing."""
    for path in paths if os.name == "nt" else ():
        if why := next(filter(None, map(why_not_on_windows, path.split("/"))), None):
            raise UsageError(f"{place} has the file {path!r}: {why}", "use another system, or ask its author")


def _complete(note: _Note, hub: Repository, files: dict[str, Remote]) -> None:
    """Check the files that are in the shared cache; download the others, and those with wrong content."""
    try:
        _check(note, hub, files)
        missing = {path: remote for path, remote in files.items() if not note.has(path)}
        if missing:
            with progress(f"downloading {_agree(note, hub, missing)}") as show, progress_bars(shown=False):
                since = time.time()

                def download(path: str) -> None:
                    hub.download(path, files[path], note.commit)

                for path in in_threads(download, _sizes(missing), show, lambda: arriving(hub.folder, since)):
                    note.check(path)
    except Exception:
        atexit.register(hub.stop)  # until the process ends, the other threads may finish their files
        raise
    except BaseException:
        hub.stop()
        raise
    finally:
        with contextlib.suppress(MachineError):  # then they are checked again
            note.write()


def _check(note: _Note, hub: Repository, files: Mapping[str, Remote]) -> None:
    """Compare the files that are in the shared cache with the hub's. Raises MachineError for a wrong one, offline."""
    present = {path: remote for path, remote in files.items() if size_of(note.snapshot / path) == remote.size}
    if not present:
        return
    mismatches = dict[str, str | None]()

    def compare(path: str) -> None:
        mismatches[path] = files[path].mismatch(note.snapshot / path)

    what = f"checking {plural(len(present), 'file')} of {address(note.repo, note.commit)} in {hub.folder}"
    with progress(what) as show:
        for path in in_threads(compare, _sizes(present), show):
            target, mismatch = note.snapshot / path, mismatches[path]
            if mismatch and offline():
                raise MachineError(f"{target} {mismatch}", f"delete {target} to download it again")
            if not mismatch:
                note.check(path)


def _sizes(files: Mapping[str, Remote]) -> dict[str, int]:
    return {path: remote.size for path, remote in files.items()}


def _agree(note: _Note, hub: Repository, files: dict[str, Remote]) -> str:
    """Ask for a download, in words that are given back. Raises what forbids it."""
    place, size = address(note.repo, note.commit), sum(remote.size for remote in files.values())
    if len(files) > _MOST_FILES:
        raise UsageError(
            f"{place} has {len(files):,} files, which would take days one by one", PARQUET.format(note.repo)
        )
    if name := offline():
        raise Unreachable(f"{place} is not downloaded, because {name} is set", hub.by_hand or f"unset {name}")
    what = f"{plural(len(files), 'file')}, {format_size(size)}, from {place} to {hub.folder}"
    check_room(place, hub.folder, size + _SPARE, NO_ROOM)
    hub.check_access(next(iter(files)), note.commit)
    if size > ASK_FROM:
        confirm(f"download {what}", hub.by_hand or "download them by hand and give their folder")
    return what
