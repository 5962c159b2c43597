"""What the proofs of durability share: a tiny run, processes to fork from, and checks that use no code of ditkit's."""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import hashlib
import importlib.metadata
import json
import os
import pkgutil
import random
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from patience import Limit

HERE = Path(__file__).parent
LONGEST = 120.0  # seconds after which a child counts as hanging
WEIGHTS = ("ema.safetensors", "model.safetensors", "optimizer.safetensors")

# --- a run that trains in a tenth of a second

SETTINGS = {
    "model.patch": 14,
    "model.width": 16,
    "model.depth": 1,
    "model.heads": 2,
    "data.validation": 8,
    "sample.steps": 1,
    "train.batch_size": 8,
    "train.sample_columns": 1,
    "train.sample_every": 1000,
    "train.validate_every": 6,
    "train.save_every": 2,
    "train.steps": 24,
}


def write_digits(folder: Path) -> Path:
    """160 training and 32 validation images of noise, as IDX files."""
    folder.mkdir(parents=True, exist_ok=True)
    source = random.Random(0)
    for stem, count in (("train", 160), ("t10k", 32)):
        pixels, labels = source.randbytes(count * 784), bytes(index % 10 for index in range(count))
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, count, 28, 28) + pixels)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, count) + labels)
    return folder


def words(run: Path, digits: Path, settings: dict[str, Any] | None = None) -> list[str]:
    """The command line of the tiny run; the same one starts and continues it."""
    line = ["train", "mnist", "--quiet", "--device", "cpu", "--data-dir", str(digits)]
    line += ["--runs-dir", str(run.parent), "--name", run.name]
    for key, value in {**SETTINGS, **(settings or {})}.items():
        line += ["--set", f"{key}={value}"]
    return line


def config(digits: Path, settings: dict[str, Any] | None = None) -> Any:
    """The RunConfig of the same run."""
    from ditkit import recipes

    tiny = [f"{key}={value}" for key, value in {**SETTINGS, **(settings or {})}.items()]
    return recipes.load("mnist", recipes.merge_settings([*tiny, f"data.path='{digits}'"]))


# --- checks that know the files, not the code that wrote them


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that a checkpoint's manifest lists is there with that length and SHA-256."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_bytes())
        contents = {name: (checkpoint / name).read_bytes() for name in manifest["files"]}
    except (OSError, ValueError, KeyError):
        return False
    sums = {name: {"bytes": len(one), "sha256": hashlib.sha256(one).hexdigest()} for name, one in contents.items()}
    return sums == manifest["files"] and {*WEIGHTS, "state.json"} <= set(sums)


def newest_whole(run: Path) -> int:
    """The step of the newest checkpoint that is whole; 0 without one."""
    named = (re.fullmatch(r"step-(\d+)", path.name) for path in run.glob("checkpoints/*"))
    steps = sorted((int(match[1]) for match in named if match), reverse=True)
    return next((step for step in steps if is_whole(run / f"checkpoints/step-{step:07d}")), 0)


def tensors_of(weights: Path) -> str:
    """A hash of the names, shapes and bytes in a .safetensors file, whatever its metadata says."""
    content = weights.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode() + content[8 + length :]).hexdigest()


def ending(run: Path) -> dict[str, str]:
    """What must be equal, to the last bit, however often a run was killed: weights, EMA, optimiser, metrics, images."""
    step = newest_whole(run)
    sums = {name: tensors_of(run / f"checkpoints/step-{step:07d}" / name) for name in WEIGHTS} if step else {}
    for path in [run / "metrics.jsonl", *sorted(run.glob("samples/*"))]:
        sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
    return {**sums, "step": str(step)}


def litter(run: Path) -> list[str]:
    """What a crash left behind and the next start should have removed."""
    names = [path.name for folder in (run, run / "checkpoints", run / "samples") for path in folder.glob(".*")]
    return [name for name in names if not name.startswith(".corrupt-")]


# --- processes


def in_fresh_process(function: str, seconds: float = 280, **arguments: Any) -> Any:
    """The JSON-able result of `module:function(**arguments)` in a process that has imported all and computed nothing.

    Only such a process can be forked from: once torch has computed anything, its threads do not survive a fork. One
    with one thread is kept for all the tests, and forks for each call.
    """
    server = _server()
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        server.stdin.write(json.dumps([function, arguments, str(answer)], default=str) + "\n")
        server.stdin.flush()
        limit = Limit(seconds)
        while not select.select([server.stdout], [], [], max(0.0, limit.left()))[0]:
            if not limit.is_over():
                continue
            os.killpg(server.pid, signal.SIGKILL)
            _server.cache_clear()
            raise AssertionError(f"{function} has not ended after {seconds} seconds")
        code = server.stdout.readline().strip()
        assert code, f"the process to fork from has ended with {server.wait()}; its stderr says why"
        assert code == "0", f"{function} failed ({code}):\n{answer.with_suffix('.log').read_text('utf-8')[-6000:]}"
        return json.loads(answer.read_text("utf-8"))


@functools.cache
def _server() -> Any:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("DITKIT_DEBUG", None)
    places = [str(HERE.parent / "support"), *filter(None, [environment.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(places)
    server = subprocess.Popen(
        [sys.executable, str(HERE / "harness.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        env=environment,
        start_new_session=True,
    )

    def end() -> None:
        server.stdin.close()
        server.wait()
        server.stdout.close()

    atexit.register(end)
    return server


def serve() -> None:
    """Do what comes on stdin, each in a fork; say its exit code on stdout."""
    asks = os.getppid()
    preload()
    for line in sys.stdin:
        function, arguments, answer = json.loads(line)

        def work(function: str = function, arguments: Any = arguments, answer: str = answer) -> None:
            module, _, name = function.partition(":")
            result = getattr(importlib.import_module(module), name)(**arguments)
            Path(answer).write_text(json.dumps(result), encoding="utf-8")

        child = fork(work, Path(answer).with_suffix(".log"))
        while not (done := os.waitpid(child, os.WNOHANG))[0]:
            time.sleep(0.01)
            if os.getppid() != asks:  # nobody waits for the answer any more
                os.killpg(0, signal.SIGKILL)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(done[1])}\n")
        sys.stdout.flush()


def preload() -> None:
    """Import all that a training process imports, without computing anything, so that each fork begins at once.

    What each fork would measure for its display alone, the peak of the CPU, is a quarter of its time: that is given.
    """
    importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # 10 ms, many times a run
    import ditkit

    for module in pkgutil.walk_packages(ditkit.__path__, "ditkit."):
        if not module.name.endswith("__main__") and not module.name.startswith("ditkit.jax"):  # may not be installed
            importlib.import_module(module.name)
    sys.modules["ditkit.runtime.peak_flops"].measured_peak = lambda dtype: 1e11
    for name in ("torch._dynamo", "torch.utils.data", "rich.console", "pytest", "PIL.Image"):
        importlib.import_module(name)
    sys.modules["PIL.Image"].preinit()
    for name in ("flow_match_heun_discrete", "dpmsolver_multistep"):
        importlib.import_module(f"diffusers.schedulers.scheduling_{name}")
    for family in ("DATASETS", "OBJECTIVES", "SAMPLERS", "AUTOENCODERS"):
        getattr(sys.modules["ditkit.registry"], family).names()
    gc.freeze()  # else collecting garbage in a fork would copy most of the memory


def fork(work: Callable[[], int | None], log: Path) -> int:
    """Start `work` in a child whose output is appended to `log` and whose exit code is what it returns."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        code = work() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, seconds: float) -> int | None:
    """The exit code of a child (minus the signal that ended it), or None if it is still running after `seconds`."""
    limit = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= limit:
            return None
        time.sleep(0.0005)


def finish(child: int, seconds: float = LONGEST) -> int:
    """The exit code of a child that must end by itself; one that hangs is killed, and -9."""
    limit = Limit(seconds)
    while (code := ended(child, 1)) is None and not limit.is_over():
        pass
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return -9
    return code


def command(line: Sequence[str], mutant: str | None = None) -> Callable[[], int]:
    """`ditkit LINE` as work for a fork, with a protection switched off if `mutant` names one."""

    def work() -> int:
        from ditkit.cli.app import main

        with without_protection(mutant):
            return main(list(line))

    return work


@contextlib.contextmanager
def without_protection(mutant: str | None) -> Iterator[None]:
    """A protection of ditkit's switched off while inside: a function of mutants.py that replaces attributes."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        if mutant:
            getattr(importlib.import_module("mutants"), mutant)(patch)
        yield


def side_by_side(work: Callable[[int, int], list[Any]], folder: Path, processes: int | None = None) -> list[Any]:
    """The results of work(part, parts) for every part, each in a fork of its own, one a core."""
    parts = processes or max(2, os.cpu_count() or 1)
    folder.mkdir(parents=True, exist_ok=True)

    def write(part: int) -> int:
        (folder / f"part-{part}.json").write_text(json.dumps(work(part, parts)), encoding="utf-8")
        return 0

    children = [fork(lambda part=part: write(part), folder / f"part-{part}.log") for part in range(parts)]
    results = []
    for part, child in enumerate(children):
        _, status = os.waitpid(child, 0)
        log = (folder / f"part-{part}.log").read_text(encoding="utf-8")
        assert os.waitstatus_to_exitcode(status) == 0, log[-4000:]
        results += json.loads((folder / f"part-{part}.json").read_text(encoding="utf-8"))
    return results


def tell(what: str, figures: dict[str, Any]) -> None:
    """One line of figures; `pytest -rP` and `pytest -s` show it."""
    shown = ", ".join(f"{value} {name}" for name, value in figures.items() if not isinstance(value, (list, dict)))
    sys.stdout.write(f"\n{what}: {shown}\n")


if __name__ == "__main__":
    serve()
