"""What a disk may hold after the power fails, at every moment of a run, by the calls that the run made.

Of a file, only what was there at its last fsync is sure; of a folder, only the names at its own last fsync. Whatever
came later may be there, or not, or in part.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
from disk import Call, Watch
from harness import ending, finish, fork, write_digits

STATES = ("nothing unsynced", "names, empty files", "names, files of zeros", "names, files of garbage", "everything")
MIXED = "chance"  # for each name and each file another of these


@dataclass
class Node:
    """A file (`names` is None) or a folder; `kept_…` is what its last fsync made sure."""

    names: dict[str, Node] | None = None
    data: bytearray = field(default_factory=bytearray)
    kept_names: dict[str, Node] = field(default_factory=dict)
    kept_data: bytes = b""


class Disk:
    """A file system in memory that takes the calls of a run and knows what would survive."""

    def __init__(self, root: str):
        self.root, self.top = root, Node(names={})
        self.open: dict[int, tuple[Node, bool]] = {}  # handle -> node, whether it appends
        self.places: dict[int, int] = {}

    def take(self, call: Call) -> None:
        """Do what a call did; what lies outside the root, or was not written through `os`, is left out."""
        if call.name in ("write", "fsync", "ftruncate"):
            if call.handle in self.open:
                self._on_open(call, *self.open[call.handle])
            return
        if call.name not in ("open", "mkdir", "replace", "unlink", "rmdir") or not self._is_inside(call.path):
            return
        folder, name = self._folder(call.path)
        if folder is None or folder.names is None:
            return
        if call.name == "open":
            self._open(call, folder, name)
        elif call.name == "mkdir":
            folder.names.setdefault(name, Node(names={}))
        elif call.name == "replace" and name in folder.names:
            target, new = self._folder(call.target)
            assert target is not None and target.names is not None
            target.names[new] = folder.names.pop(name)
        elif call.name in ("unlink", "rmdir"):
            folder.names.pop(name, None)

    def _is_inside(self, path: str) -> bool:
        return path == self.root or path.startswith(self.root + "/")

    def _folder(self, path: str) -> tuple[Node | None, str]:
        parts = path.removeprefix(self.root).strip("/").split("/")
        node: Node | None = self.top
        for part in parts[:-1]:
            node = node.names.get(part) if node and node.names is not None else None
        return node, parts[-1]

    def _open(self, call: Call, folder: Node, name: str) -> None:
        node = self.top if name == "" else folder.names.get(name) if folder.names else None
        if node is None and call.flags & os.O_CREAT and folder.names is not None:
            node = folder.names[name] = Node()
        if node is None:
            return
        if call.flags & os.O_TRUNC:
            node.data.clear()
        self.open[call.handle], self.places[call.handle] = (node, bool(call.flags & os.O_APPEND)), 0

    def _on_open(self, call: Call, node: Node, appends: bool) -> None:
        if call.name == "write":
            place = len(node.data) if appends else self.places[call.handle]
            node.data[place : place + len(call.data)] = call.data
            self.places[call.handle] = place + len(call.data)
        elif call.name == "ftruncate":
            del node.data[call.number :]
        elif node.names is None:
            node.kept_data = bytes(node.data)
        else:
            node.kept_names = dict(node.names)

    def after(self, state: str, source: random.Random | None = None) -> dict[str, bytes | None]:
        """Path to content (None for a folder) of everything that is there in a state; by chance for a `source`."""
        return dict(_tree(self.top, "", state, source))


def _tree(node: Node, path: str, state: str, source: random.Random | None) -> Iterator[tuple[str, bytes | None]]:
    if node.names is None:
        yield path, _content(node, state, source)
        return
    if path:
        yield path, None
    names = node.kept_names if state == STATES[0] else node.names
    if source:  # each name by itself may be the old or the new
        both = {name: source.choice((node.kept_names, node.names)) for name in {**node.kept_names, **node.names}}
        names = {name: chosen[name] for name, chosen in sorted(both.items()) if name in chosen}
    for name, child in sorted(names.items()):
        yield from _tree(child, f"{path}/{name}" if path else name, state, source)


def _content(node: Node, state: str, source: random.Random | None) -> bytes:
    kept, live = node.kept_data, bytes(node.data)
    if source:
        state = source.choice(STATES)
        if live.startswith(kept) and source.random() < 0.5:
            return live[: source.randint(len(kept), len(live))]
    if state == STATES[4]:
        return live
    missing = max(0, len(live) - len(kept))
    if kept != live[: len(kept)]:  # cut or changed since: the old is still there, as far as anyone knows
        return kept
    filler = {STATES[2]: b"\0", STATES[3]: b"\xa5"}.get(state, b"")
    return kept + filler * missing


def power_loss(
    folder: str, steps: int = 8, every: int = 1, mutant: str | None = None, without: str = ""
) -> dict[str, Any]:
    """The disk after the power failed at every moment of a run of `steps / 2` saves, in several states each.

    The run then continues on what is left. Lost is a state in which it begins before the newest checkpoint that was
    told to be saved, or does not end as a straight run does. Stuck is a state, before any checkpoint was told to be
    saved, in which the same command does not even begin anew. `every` takes each n-th moment only, `without` leaves out
    the fsync of "files" or "folders".
    """
    began, place = time.monotonic(), Path(folder)
    digits = write_digits(place / "digits")
    settings = {"train.steps": steps, "train.validate_every": 2, "train.keep": 1}
    line = {"digits": digits, "settings": settings}
    assert finish(fork(lambda: _train(place / "straight", **line), place / "log")) == 0, (place / "log").read_text()
    expected = ending(place / "straight")

    def some(part: int, parts: int) -> list[Any]:
        run = place / f"watched-{part}" / "run"
        calls = _watched(run, mutant, without, **line)
        return _judge(calls, run, place / f"after-{part}" / "run", part * every, parts * every, expected, **line)

    results = harness.side_by_side(some, place / "parts")
    lost = [one["why"] for one in results if one["why"] and one["saved"]]
    stuck = [one["why"] for one in results if one["why"] and not one["saved"]]
    return {
        "moments": max(one["moment"] for one in results) + 1,
        "states": sum(one["states"] for one in results),
        "different": len(results),
        "lost": len(lost),
        "stuck": len(stuck),
        "seconds": round(time.monotonic() - began, 1),
        "why": lost + stuck,
    }


def _train(run: Path, digits: Path, settings: dict[str, Any], on_event: Any = lambda event: None) -> None:
    from ditkit.training.loop import train

    train(harness.config(digits, settings), run, on_event, device="cpu")


def _watched(run: Path, mutant: str | None, without: str, **line: Any) -> list[Call]:
    """The calls of a whole run, the moments at which a checkpoint was told to be saved among them."""
    from ditkit.events import Saved

    run.parent.mkdir()
    with harness.without_protection(mutant), Watch() as watch:
        _train(run, **line, on_event=lambda event: isinstance(event, Saved) and watch.note("saved", event.step))
    disk = Disk(str(run))
    for call in watch.calls:
        disk.take(call)
    real = {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}
    simulated = {path: content for path, content in disk.after(STATES[4]).items() if content is not None}
    bypassing = {name for name in real if real[name] != simulated.get(name)} | (simulated.keys() - real.keys())
    assert all(name.startswith("samples/") or name == "run.lock" for name in bypassing), bypassing
    folders = {call.handle for call in watch.calls if call.name == "open" and not call.flags & os.O_CREAT}
    skipped = {"": lambda call: False, "files": lambda call: call.handle not in folders}
    skipped["folders"] = lambda call: call.handle in folders
    return [call for call in watch.calls if call.name != "fsync" or not skipped[without](call)]


def _judge(
    calls: list[Call], source: Path, run: Path, part: int, parts: int, expected: dict[str, str], **line: Any
) -> list[dict[str, Any]]:
    """Every state that is another than those before, at this part's share of the moments."""
    disk, saved, seen, results = Disk(str(source)), 0, {}, []
    for moment in range(len(calls) + 1):
        filled = STATES[2 + moment // parts % 2]  # one of the two suffices at each moment
        for state in (*STATES[:2], filled, STATES[4], MIXED) if moment % parts == part else ():
            tree = disk.after(state, random.Random(moment) if state == MIXED else None)
            key = _key(tree), saved
            if key not in seen:
                why = _continue(tree, saved, run, expected, **line)
                after = f"{calls[moment - 1].name} {Path(calls[moment - 1].path).name}" if moment else "nothing"
                why = why and f"{state} after {moment} calls ({after}), step {saved} saved: {why}"
                results.append({"moment": moment, "saved": saved, "why": why, "states": 0})
                seen[key] = results[-1]
            seen[key]["states"] += 1
        if moment < len(calls):
            disk.take(calls[moment])
            saved = calls[moment].number if calls[moment].name == "saved" else saved
    return results


def _key(tree: dict[str, bytes | None]) -> str:
    """A hash of all that is there; of what only waits to be removed, of the folders' names."""
    digest = hashlib.sha256()
    for path, content in tree.items():
        if not path.startswith(("checkpoints/.tmp-", "checkpoints/.trash-")) or content is None:
            digest.update(f"{path}\0{-1 if content is None else len(content)}\0".encode() + (content or b""))
    return digest.hexdigest()


def _continue(tree: dict[str, bytes | None], saved: int, run: Path, expected: dict[str, str], **line: Any) -> str:
    """What is wrong with a run that continues on what a disk has kept; nothing if nothing is."""
    from ditkit.errors import DitkitError
    from ditkit.events import Started

    shutil.rmtree(run.parent, ignore_errors=True)
    run.mkdir(parents=True)
    for path, content in tree.items():
        if content is None:
            (run / path).mkdir(parents=True)
        else:
            (run / path).write_bytes(content)
    if not tree:
        run.rmdir()
    steps: list[int] = []
    try:
        _train(run, **line, on_event=lambda event: steps.append(event.step) if isinstance(event, Started) else None)
    except DitkitError as error:
        return f"refused: {error.message}"
    if not steps or steps[0] < saved:
        return f"began at step {steps}"
    return "" if _without_images(ending(run)) == _without_images(expected) else "ended otherwise"


def _without_images(sums: dict[str, str]) -> dict[str, str]:
    """Sample grids may be lost with the power: they are written to be looked at, and by Pillow."""
    return {name: value for name, value in sums.items() if not name.endswith(".png")}
