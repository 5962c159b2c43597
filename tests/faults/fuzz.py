"""Damaged files by the thousand: each must be refused in ditkit's own words, or read as if nothing had happened."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import signal
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import harness
import mutations
from patience import call_after, call_off

PATIENCE = 5.0  # seconds for one case
MEMORY = 4 << 30  # bytes more than at the beginning


class TakesTooLong(BaseException):
    """Raised by the alarm inside a case."""


class Ground:
    """Whole files to damage, and what they hold: a run with two checkpoints, digits, attributes of faces."""

    def __init__(self, place: Path):
        from ditkit.checkpoint.loading import load
        from ditkit.checkpoint.store import restore_newest
        from ditkit.runs.folder import RunFolder
        from ditkit.training.loop import train

        self.place = place
        self.digits = harness.write_digits(place / "digits")
        self.config = harness.config(self.digits, {"train.steps": 4, "train.validate_every": 2})
        self.run = RunFolder(place / "run")
        train(self.config, self.run.path, device="cpu")
        self.steps = self.run.checkpoint_steps()
        self.newest, self.older = (self.run.checkpoint(step) for step in (self.steps[-1], self.steps[-2]))
        self.learner = _learner(self.config)
        self.held: dict[int, str] = {}  # step to what the learner holds after it is restored
        self.states: dict[int, Any] = {}
        for step in self.steps:
            hidden = [self.run.checkpoint(one).rename(place / f"{one}") for one in self.steps if one > step]
            self.states[step] = restore_newest(self.run, self.learner, lambda state: None, lambda path: None)
            self.held[step] = held(self.learner)
            for one in hidden:
                one.rename(self.run.checkpoint(int(one.name)))
        self.restored = self.states[self.steps[-1]]
        self.trained = load(self.newest)
        self.faces = _write_faces(place / "faces")
        self.weights = place / "alone.safetensors"

    def md5(self) -> dict[str, str]:
        """Sums of the digits, as those of the digits inside ditkit."""
        return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in self.digits.iterdir()}


def _learner(config: Any) -> Any:
    from ditkit import optim
    from ditkit.checkpoint.loading import build_network
    from ditkit.checkpoint.tensors import Trainable
    from ditkit.ema import Ema

    network = build_network(config, 10)
    return Trainable(network=network, ema=Ema(network, 0.9).network, optimizer=optim.adamw(network, config.optim))


def held(learner: Any) -> str:
    """A hash of every number in a learner."""
    digest = hashlib.sha256()
    for tensors in learner.tensors().values():
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def numbers(network: Any) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


def _write_faces(root: Path) -> Path:
    names = [f"{number:06d}.jpg" for number in range(1, 41)]
    (root / "img_align_celeba").mkdir(parents=True)
    for name in names:
        (root / "img_align_celeba" / name).write_bytes(b"")
    rows = [f"{name} {1 if index % 2 else -1:2d} {1 if index % 3 else -1:2d}" for index, name in enumerate(names)]
    (root / "list_attr_celeba.txt").write_text("\n".join(["40", "Male Smiling", *rows]) + "\n", encoding="utf-8")
    splits = [f"{name} {0 if index < 30 else 1}" for index, name in enumerate(names)]
    (root / "list_eval_partition.txt").write_text("\n".join(splits) + "\n", encoding="utf-8")
    return root


@contextlib.contextmanager
def written(path: Path, content: bytes) -> Iterator[None]:
    """Another content in a file while inside."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


# --- what is damaged, and what a reader may then say: each returns "same", "older" or "wrong: …", or raises


def checkpoint_file(source: Random, ground: Ground) -> str:
    """Any file of the newest checkpoint."""
    path = source.choice(sorted(ground.newest.iterdir()))
    content = mutations.bytes_of(source, path.read_bytes())
    if path.suffix == ".json" and source.random() < 0.5:
        content = mutations.json_of(source, path.read_bytes())
    with written(path, content):
        return _loaded(ground) if source.random() < 0.3 else _restored(ground)


def checkpoint_that_fits_its_manifest(source: Random, ground: Ground) -> str:
    """The same, with a manifest that belongs to it: what it says must still make sense."""
    from ditkit.runs.logs import RunLogs

    path = source.choice([one for one in sorted(ground.newest.iterdir()) if one.name != "manifest.json"])
    before = path.read_bytes()
    content = mutations.bytes_of(source, before)
    if path.suffix == ".json":
        content = mutations.json_of(source, before)
    elif source.random() < 0.7:
        content = _with_header(source, before)
    manifest = ground.newest / "manifest.json"
    tree = json.loads(manifest.read_bytes())
    tree["files"][path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    kept = {file: file.read_bytes() for file in (ground.run.metrics_file, ground.run.timing_file)}
    with written(path, content), written(manifest, json.dumps(tree).encode()):
        outcome = _restored(ground)
        if outcome.startswith("wrong: a state") and ground.restored.step == ground.steps[-1]:
            outcome = "same"  # other numbers in the right places: nothing but the sums could tell
        RunLogs(ground.run, ground.restored, writes=True).close()
    for file, content in kept.items():
        file.write_bytes(content)
    return outcome


def weights_alone(source: Random, ground: Ground) -> str:
    """The header and the card of a weights file without a manifest; nothing vouches for its numbers."""
    from ditkit.checkpoint.loading import load

    content = (ground.newest / "ema.safetensors").read_bytes()
    ground.weights.write_bytes(_with_header(source, content) if source.random() < 0.8 else _early(source, content))
    load(ground.weights)
    return "same"


def _early(source: Random, content: bytes) -> bytes:
    (length,) = struct.unpack("<Q", content[:8])
    return mutations.bytes_of(source, content[: 8 + length]) + content[8 + length :]


def _with_header(source: Random, content: bytes) -> bytes:
    """A .safetensors file with another header: in its tensors' entries or, if it has one, in its card."""
    (length,) = struct.unpack("<Q", content[:8])
    header, rest = json.loads(content[8 : 8 + length]), content[8 + length :]
    info = header.get("__metadata__", {}).get("ditkit")
    if info and source.random() < 0.6:
        header["__metadata__"]["ditkit"] = mutations.json_of(source, info.encode()).decode("utf-8", "replace")
    else:
        header = mutations.tree_of(source, header)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest


def metrics(source: Random, ground: Ground) -> str:
    """metrics.jsonl or timing.jsonl, read for a plot, then continued from a checkpoint."""
    from ditkit.runs.metrics import MetricsFile, read_rows
    from ditkit.visual.plots import series

    path = source.choice((ground.run.metrics_file, ground.run.timing_file))
    before = path.read_bytes()
    content = mutations.bytes_of(source, before)
    with written(path, content):
        rows = read_rows(path)
        series(ground.run.metrics(), "loss")
        whole = set(before.splitlines()) & set(content.splitlines())
        if not all(json.loads(line) in rows for line in whole):
            return "wrong: an undamaged row is missing"
        file = MetricsFile(path, source.choice((0, len(before), len(content), 2**62)))
        file.append({"step": 5, "loss": 1.0})
        file.close()
        return "same" if read_rows(path)[-1] == {"step": 5, "loss": 1.0} else "wrong: a new row is not read"


def config(source: Random, ground: Ground) -> str:
    """config.toml: its text, or its values."""
    import tomli_w

    from ditkit import recipes
    from ditkit.recipes import tomllib

    path = ground.run.config_file
    content = mutations.bytes_of(source, path.read_bytes())
    if source.random() < 0.6:
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # a tree that TOML has no words for
            content = tomli_w.dumps(mutations.tree_of(source, tomllib.loads(path.read_text("utf-8")))).encode()
    with written(path, content):
        found = ground.run.read_config()
        again = recipes.build(tomllib.loads(recipes.dump(found)))
        return "same" if again == found else "wrong: it is another when written and read again"


def digits(source: Random, ground: Ground) -> str:
    """An IDX file, packed or not, of the user's or of ditkit's own."""
    import gzip

    from ditkit.data import mnist

    path, sums_of_ours = source.choice(sorted(ground.digits.iterdir())), ground.md5()
    before = path.read_bytes()
    packed = path.with_name(f"{path.name}.gz")
    own = source.random() < 0.5
    shipped, sums = mnist.SHIPPED, mnist.MD5
    expected = [array.tobytes() for array in mnist.read_images("train", ground.digits)]
    content = mutations.bytes_of(source, gzip.compress(before, 1, mtime=0) if source.random() < 0.3 else before)
    try:
        if content[:2] == b"\x1f\x8b":
            path.unlink()
            packed.write_bytes(content)
        else:
            path.write_bytes(content)
        if own:
            mnist.SHIPPED, mnist.MD5 = ground.digits, sums_of_ours
        found = [array.tobytes() for array in mnist.read_images("train", None if own else ground.digits)]
        mnist.read_images("validation", None if own else ground.digits)
        if own or content[:2] == b"\x1f\x8b":
            return "same" if found == expected or path.name.startswith("t10k") else "wrong: other digits"
        return "same"
    finally:
        mnist.SHIPPED, mnist.MD5 = shipped, sums
        packed.unlink(missing_ok=True)
        path.write_bytes(before)


def faces(source: Random, ground: Ground) -> str:
    """CelebA's attributes or its official split: what is accepted says what the file says."""
    from ditkit.config import DataConfig
    from ditkit.data import celeba

    path = ground.faces / source.choice(("list_attr_celeba.txt", "list_eval_partition.txt"))
    content = mutations.bytes_of(source, path.read_bytes())
    with written(path, content):
        data = celeba.dataset(DataConfig(name="celeba", path=str(ground.faces), validation=5), "train")
        text = (ground.faces / "list_attr_celeba.txt").read_text(encoding="utf-8-sig", errors="replace")
        said = {(row[0], row[1] == "1") for row in map(str.split, text.splitlines()) if len(row) == 3}
        wrong = [name for name, label in zip(data.names, data.label_ids, strict=True) if (name, label == 1) not in said]
        return f"wrong: {wrong[:3]}" if wrong else "same"


def _loaded(ground: Ground) -> str:
    """The newest checkpoint named outright, as `ditkit sample --model` does."""
    from ditkit.checkpoint.loading import load

    trained = load(ground.newest)
    same = trained.info == ground.trained.info and numbers(trained.network) == numbers(ground.trained.network)
    return "same" if same else "wrong: another network"


def _restored(ground: Ground) -> str:
    """The newest whole checkpoint, as continuing a run does; what was set aside is put back."""
    from ditkit.checkpoint.store import restore_newest
    from ditkit.errors import CheckpointError
    from ditkit.runs.manifest import NewerFormat

    try:
        state = restore_newest(ground.run, ground.learner, lambda state: None, lambda path: None)
    except NewerFormat:
        raise
    except CheckpointError as error:
        return f"wrong: refused though the one before is whole ({error.message[:200]})"
    finally:
        for aside in ground.run.checkpoints.glob(".corrupt-step-*"):
            aside.rename(ground.newest)
    ground.restored = state
    for step, outcome in ((ground.steps[-1], "same"), (ground.steps[-2], "older")):
        if state == ground.states[step] and held(ground.learner) == ground.held[step]:
            return outcome
    return f"wrong: a state of step {state.step if state else None} that nobody saved"


# --- many of them

CASES: dict[Callable[[Random, Ground], str], int] = {
    checkpoint_file: 35,
    checkpoint_that_fits_its_manifest: 15,
    weights_alone: 15,
    metrics: 10,
    config: 10,
    digits: 8,
    faces: 7,
}


def fuzz(folder: str, first: int = 0, last: int = 5000, mutant: str | None = None) -> dict[str, Any]:
    """The cases `first` to `last - 1`; each is a function of its number alone."""
    began, place = time.monotonic(), Path(folder)

    def some(part: int, parts: int) -> list[Any]:
        ground = Ground(place / f"ground-{part}")
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.signal(signal.SIGALRM, _too_long)
        with harness.without_protection(mutant):
            return [_case(number, ground) for number in range(first + part, last, parts)]

    results = harness.side_by_side(some, place / "parts")
    bad = [
        f"case {number} {kind}: {outcome}" for number, kind, outcome, _ in results if outcome.partition(":")[0] in BAD
    ]
    kinds = Counter(f"{kind} {outcome.partition(':')[0]}" for _, kind, outcome, _ in results)
    return {
        "files": len(results),
        **{name: sum(count for kind, count in kinds.items() if kind.split()[1] == name) for name in BAD},
        "slowest": f"{max(seconds for *_, seconds in results):.2f} s",
        "seconds": round(time.monotonic() - began, 1),
        "kinds": dict(sorted(kinds.items())),
        "why": bad,
    }


BAD = ("traceback", "hang", "wrong")


def _too_long() -> None:
    raise TakesTooLong


def _case(number: int, ground: Ground) -> tuple[int, str, str, float]:
    """Number, what was damaged, what came of it, and the seconds that it took."""
    from ditkit.errors import DitkitError

    source = Random(f"ditkit {number}")
    case = source.choices(list(CASES), list(CASES.values()))[0]
    began = time.monotonic()
    call_after(PATIENCE, _too_long)
    try:
        outcome = case(source, ground)
    except DitkitError as error:
        plain = type(error) is not DitkitError and 0 < len(error.message) < 4000 and error.hint
        outcome = f"refused: {error.message}" if plain else f"wrong: says {error.message[:300]!r}, {error.hint!r}"
    except TakesTooLong:
        outcome = f"hang: {''.join(traceback.format_exc())[-900:]}"
    except Exception:
        outcome = f"traceback: {traceback.format_exc()[-900:]}"
    finally:
        call_off()
    return number, case.__name__, outcome, time.monotonic() - began
