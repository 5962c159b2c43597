"""Checkpoints that somebody made to do harm, or that a disk made so: refused at once, in one line, or passed over."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import harness
import pytest
from harness import ending, litter, words, write_digits

from ditkit.cli import app

SETTINGS = {"train.steps": 6, "train.validate_every": 3}
OLDER, NEWEST = "step-0000002", "step-0000004"
DEEP = b"[" * 200_000


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """digits/, a run that ended at step 6, and the same run as it was at step 4."""
    from ditkit.training.loop import train

    place = tmp_path_factory.mktemp("hostile")
    digits = write_digits(place / "digits")
    config = harness.config(digits, SETTINGS)
    steps: list[int] = []
    train(config, place / "ended", device="cpu")
    train(
        config, place / "run", lambda event: steps.append(event.step), device="cpu", should_stop=lambda: max(steps) > 3
    )
    assert sorted(path.name for path in (place / "run/checkpoints").iterdir()) == [OLDER, NEWEST]
    assert app.main(sample(place / "run/checkpoints" / NEWEST, place / "first")) == 0  # imports what it needs
    return place


@pytest.fixture
def run(ground: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run at step 4, and an alarm for what would wait for ever."""
    shutil.copytree(ground / "run", tmp_path / "run")

    def hangs(*_: object) -> None:
        raise AssertionError("it hangs")

    signal.signal(signal.SIGALRM, hangs)
    signal.alarm(20)
    yield tmp_path / "run"
    signal.alarm(0)


def sample(model: Path, out: Path) -> list[str]:
    return ["sample", "--model", str(model), "--labels", "1", "--steps", "1", "--out", str(out), "--quiet"]


# --- what is done to a checkpoint


def manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of the manifest's tree; what it returns, if anything, takes the tree's place."""

    def work(place: Path) -> None:
        file = place / "manifest.json"
        tree = json.loads(file.read_bytes())
        changed = change(tree)
        file.write_text(json.dumps(tree if changed is None else changed), encoding="utf-8")

    return work


def entry(name: str, **fields: object) -> Callable[[Path], None]:
    return manifest(lambda tree: tree["files"][name].update(fields))


def content(name: str, made: bytes | Callable[[bytes], bytes], *, fits: bool = False) -> Callable[[Path], None]:
    """Another content of a file; `fits` makes the manifest vouch for it."""

    def work(place: Path) -> None:
        file = place / name
        new = made(file.read_bytes()) if callable(made) else made
        file.write_bytes(new)
        if fits:
            entry(name, bytes=len(new), sha256=hashlib.sha256(new).hexdigest())(place)

    return work


def state(**fields: object) -> Callable[[Path], None]:
    """Other fields of state.json, with a manifest that vouches for them."""
    return content("state.json", lambda before: json.dumps({**json.loads(before), **fields}).encode(), fits=True)


def instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something that is no plain file under a file's name; its content waits beside it, as `other`."""

    def work(place: Path) -> None:
        (place / name).rename(place / "other")
        make(place / name)

    return work


def header(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Another header of a .safetensors file."""

    def work(before: bytes) -> bytes:
        (length,) = struct.unpack("<Q", before[:8])
        tree = json.loads(before[8 : 8 + length])
        change(tree)
        text = json.dumps(tree).encode()
        return struct.pack("<Q", len(text)) + text + before[8 + length :]

    return work


def info(change: Callable[[dict], object]) -> Callable[[bytes], bytes]:
    """Another card in a weights file."""

    def work(tree: dict) -> None:
        inner = json.loads(tree["__metadata__"]["ditkit"])
        change(inner)
        tree["__metadata__"]["ditkit"] = json.dumps(inner)

    return header(work)


def sparse(name: str, size: int) -> Callable[[Path], None]:
    return lambda place: os.truncate(place / name, size)


def tensors(dtype: str, value: float) -> bytes:
    """The weights of the tiny network, all of one value."""
    import safetensors.torch
    import torch

    from ditkit.checkpoint.loading import build_network

    network = build_network(harness.config(Path("/nowhere"), SETTINGS), 10)
    filled = {key: torch.full_like(one, value).to(getattr(torch, dtype)) for key, one in network.state_dict().items()}
    return safetensors.torch.save(filled)


def larger(before: bytes) -> bytes:
    import safetensors.torch

    return safetensors.torch.save(
        {
            key: one.repeat(2, *[1] * (one.dim() - 1)) if one.dim() else one
            for key, one in safetensors.torch.load(before).items()
        }
    )


def away(name: str) -> Callable[[Path], None]:
    return lambda place: (place / name).unlink()


def no_folder(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def work(place: Path) -> None:
        shutil.rmtree(place)
        make(place)

    return work


EMA, MODEL, OPTIMIZER = harness.WEIGHTS
HOSTILE: dict[str, Callable[[Path], None]] = {
    # the manifest
    "an absolute name": manifest(lambda tree: tree["files"].update({"/etc/passwd": tree["files"]["state.json"]})),
    "a name that climbs": manifest(lambda tree: tree["files"].update({f"../{OLDER}/{EMA}": tree["files"].pop(EMA)})),
    "one file more": manifest(lambda tree: tree["files"].update({"more.bin": tree["files"]["state.json"]})),
    "one file less": manifest(lambda tree: tree["files"].pop(EMA)),
    "2**62 bytes": entry(EMA, bytes=2**62),
    "bytes below zero": entry(EMA, bytes=-1),
    "bytes that are a text": entry(EMA, bytes="68728"),
    "bytes that are true": entry(EMA, bytes=True),
    "bytes not finite": entry(EMA, bytes=float("inf")),
    "a number for a sum": entry(EMA, sha256=5),
    "no sum": entry(EMA, sha256=None),
    "a sum too short": entry(EMA, sha256="ab"),
    "files in a list": manifest(lambda tree: tree.update(files=[tree["files"]])),
    "files that are null": manifest(lambda tree: tree.update(files=None)),
    "a list": manifest(lambda tree: [tree]),
    "null": manifest(lambda tree: tree.clear()),
    "another step": manifest(lambda tree: tree.update(step=5)),
    "the step as a text": manifest(lambda tree: tree.update(step="4")),
    "a step not a number": manifest(lambda tree: tree.update(step=float("nan"))),
    "the format as a text": manifest(lambda tree: tree.update(format="1")),
    "no format": manifest(lambda tree: tree.pop("format")),
    "a manifest of 1 GB": sparse("manifest.json", 2**30),
    "nested 200,000 deep": content("manifest.json", DEEP),
    "a number of 6,000 digits": content("manifest.json", b'{"format":1,"step":' + b"9" * 6000 + b',"files":{}}'),
    "keys twice": content("manifest.json", lambda before: before.rstrip()[:-1] + b',"files":{}}'),
    "an empty manifest": content("manifest.json", b""),
    "a manifest that is no text": content("manifest.json", lambda before: b"\xff\xfe" + before),
    "a manifest with \\ud800": content("manifest.json", b'{"format":1,"step":4,"files":{"\\ud800":{}}}'),
    "no manifest": away("manifest.json"),
    # files that are none
    "a link": instead(EMA, lambda path: path.symlink_to("other")),
    "the manifest a link": instead("manifest.json", lambda path: path.symlink_to("other")),
    "a circle of links": instead(EMA, lambda path: path.symlink_to(path.name)),
    "a pipe": instead(EMA, os.mkfifo),
    "the manifest a pipe": instead("manifest.json", os.mkfifo),
    "a folder": instead(EMA, Path.mkdir),
    "the manifest a folder": instead("manifest.json", Path.mkdir),
    "a device": instead(EMA, lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))),
    "the manifest a device": instead("manifest.json", lambda path: os.mknod(path, 0o20666, os.makedev(1, 5))),
    "a checkpoint that is a pipe": no_folder(os.mkfifo),
    "an empty folder": no_folder(Path.mkdir),
    # files that are not as the manifest says
    "no weights": away(EMA),
    "weights of 1 GB": sparse(EMA, 2**30),
    "empty weights": content(EMA, b""),
    "one bit": content(EMA, lambda before: before[:-1] + bytes([before[-1] ^ 1])),
    # files that the manifest vouches for
    "a header of 2**62 bytes": content(EMA, struct.pack("<Q", 2**62) + b"{}", fits=True),
    "a header of 50 MB": content(EMA, struct.pack("<Q", 5 * 10**7) + b" " * 5 * 10**7, fits=True),
    "a header nested deep": content(EMA, struct.pack("<Q", len(DEEP)) + DEEP, fits=True),
    "offsets beyond the end": content(
        EMA, header(lambda tree: tree[max(tree)].update(data_offsets=[0, 2**62])), fits=True
    ),
    "tensors that overlap": content(EMA, header(lambda tree: tree[max(tree)].update(data_offsets=[0, 64])), fits=True),
    "a shape of 2**62": content(EMA, header(lambda tree: tree[max(tree)].update(shape=[2**62])), fits=True),
    "a shape of nothing times 2**62": content(
        EMA,
        header(lambda tree: tree.update(more={"dtype": "F32", "shape": [0, 2**62, 4], "data_offsets": [0, 0]})),
        fits=True,
    ),
    "an unknown type": content(EMA, header(lambda tree: tree[max(tree)].update(dtype="F7")), fits=True),
    "weights of another network": content(EMA, larger, fits=True),
    "weights not finite": content(EMA, lambda before: tensors("float32", float("nan")), fits=True),
    "weights of another type": content(EMA, lambda before: tensors("int32", 1), fits=True),
}

# What only continuing a run reads.
HOSTILE_TO_CONTINUE: dict[str, Callable[[Path], None]] = {
    "a checkpoint that is a file": no_folder(lambda path: path.write_bytes(b"")),
    "no optimiser": away(OPTIMIZER),
    "an optimiser that is a pipe": instead(OPTIMIZER, os.mkfifo),
    "the state a pipe": instead("state.json", os.mkfifo),
    "an optimiser of another network": content(OPTIMIZER, larger, fits=True),
    "an optimiser with other slots": content(
        OPTIMIZER, header(lambda tree: tree.update({"x|exp_avg": tree.pop(max(tree))})), fits=True
    ),
    "raw weights not finite": content(MODEL, lambda before: tensors("float32", float("inf")), fits=True),
    "a state of another step": state(step=5),
    "a state of a step below zero": state(step=-4),
    "a step as a word": state(step="four"),
    "a step of 2**62": state(step=2**62),
    "metrics shorter than nothing": state(metrics_bytes=-1),
    "metrics of 10**30 bytes": state(metrics_bytes=10**30),
    "labels that are a number": state(labels=7),
    "versions in a list": state(versions=["2.0"]),
    "a recovery that is a text": state(recovery="none"),
    "a validation loss that is none": state(validation_loss="low"),
    "a state that is a list": content("state.json", b"[]", fits=True),
    "a state nested deep": content("state.json", DEEP, fits=True),
    "a state of 6,000 digits": content("state.json", b'{"step":' + b"9" * 6000 + b"}", fits=True),
    "a state that is empty": content("state.json", b"", fits=True),
    "one bit of the optimiser": content(OPTIMIZER, lambda before: before[:-1] + bytes([before[-1] ^ 1])),
}


def harm(work: Callable[[Path], None], checkpoint: Path) -> None:
    try:
        work(checkpoint)
    except PermissionError:
        pytest.skip("only root can make a device")


@pytest.mark.parametrize("name", HOSTILE)
def test_named_outright_it_is_refused_with_exit_code_4(
    name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm(HOSTILE[name], run / "checkpoints" / NEWEST)
    before = time.thread_time()
    code = app.main(sample(run / "checkpoints" / NEWEST, tmp_path / "out"))
    seconds, said = time.thread_time() - before, capsys.readouterr()
    lines = [line.partition(":")[0] for line in said.err.splitlines()]
    assert (code, lines, said.out) == (4, ["error", "hint"], ""), said.err
    assert len(said.err) < 1500
    assert seconds < 0.5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [*HOSTILE, *HOSTILE_TO_CONTINUE])
def test_a_run_that_continues_sets_it_aside_with_one_warning_and_ends_as_usual(
    name: str, ground: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm({**HOSTILE, **HOSTILE_TO_CONTINUE}[name], run / "checkpoints" / NEWEST)
    before = time.thread_time()
    code = app.main([word for word in words(run, ground / "digits", SETTINGS) if word != "--quiet"])
    seconds, said = time.thread_time() - before, capsys.readouterr().err
    assert code == 0, said
    assert len([line for line in said.splitlines() if line.startswith("warning: ")]) == 1, said
    assert [path.name[:21] for path in (run / "checkpoints").glob(".corrupt-*")] == [f".corrupt-{NEWEST}"]
    assert ending(run) == ending(ground / "ended")
    assert litter(run) == []
    assert seconds < 3


@pytest.mark.parametrize("where", ["manifest", "card"])
def test_one_of_a_newer_ditkit_is_named_as_such_and_left_alone(
    where: str, ground: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = run / "checkpoints" / NEWEST
    newer = {"manifest": manifest(lambda tree: tree.update(format=3)),
             "card": content(EMA, info(lambda inner: inner.update(format=3)), fits=True)}  # fmt: skip
    newer[where](newest)
    assert app.main(sample(newest, tmp_path / "out")) == 4
    said = capsys.readouterr().err
    assert "format 3 is newer than this ditkit understands (1)" in said and "pip install -U ditkit" in said
    if where == "manifest":
        assert app.main(words(run, ground / "digits", SETTINGS)) == 4
        assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [OLDER, NEWEST]


CARDS: dict[str, Callable[[bytes], bytes]] = {
    "no card": header(lambda tree: tree.pop("__metadata__")),
    "a card that is no JSON": header(lambda tree: tree["__metadata__"].update(ditkit="no")),
    "a card nested deep": header(lambda tree: tree["__metadata__"].update(ditkit="[" * 200_000)),
    "a card of 6,000 digits": header(lambda tree: tree["__metadata__"].update(ditkit="9" * 6000)),
    "a card that is a list": header(lambda tree: tree["__metadata__"].update(ditkit="[]")),
    "a format not a number": info(lambda inner: inner.update(format="x")),
    "a step without end": info(lambda inner: inner.update(step=float("inf"))),
    "labels that are a number": info(lambda inner: inner.update(labels=3)),
    "labels without end": info(lambda inner: inner.update(labels=["1"] + ["x"] * 300_000)),
    "no config": info(lambda inner: inner.pop("config")),
    "an unknown setting": info(lambda inner: inner["config"]["model"].update(widht=16)),
    "a width of 10**9": info(lambda inner: inner["config"]["model"].update(width=10**9)),
    "a network of 100 GB": info(lambda inner: inner["config"]["model"].update(width=8192, depth=128)),
    "an image of a gigapixel": info(lambda inner: inner["config"]["data"].update(image_size=[16384, 16384])),
    "a header nested deep": lambda before: struct.pack("<Q", len(DEEP)) + DEEP,
    "a header of 2**63 bytes": lambda before: struct.pack("<Q", 2**63) + before[8:],
    "an empty file": lambda before: b"",
    "a web page": lambda before: b"<!doctype html><html>Too many requests</html>",
}


@pytest.mark.parametrize("name", CARDS)
def test_a_weights_file_on_its_own_is_refused_for_its_card(
    name: str, ground: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import resource

    file = tmp_path / "alone.safetensors"
    file.write_bytes(CARDS[name]((run / "checkpoints" / NEWEST / EMA).read_bytes()))
    before, limits = time.thread_time(), resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, limits[1]))
    try:
        code = app.main(sample(file, tmp_path / "out"))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
    seconds, said = time.thread_time() - before, capsys.readouterr()
    lines = [line.partition(":")[0] for line in said.err.splitlines()]
    assert (code, lines, said.out) == (4, ["error", "hint"], ""), said.err
    assert len(said.err) < 1500
    assert seconds < 2  # of one thread; a network of that size takes minutes to fill


def test_an_older_checkpoint_that_waits_for_ever_does_not_stop_pruning(
    ground: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    instead("state.json", os.mkfifo)(run / "checkpoints" / OLDER)
    assert app.main(words(run, ground / "digits", {**SETTINGS, "train.keep": 1})) == 0
    assert ending(run) == ending(ground / "ended")
