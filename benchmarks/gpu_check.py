"""What only a GPU can tell, in at most eight minutes: one line of JSON for each part, on stdout and in a file.

    python benchmarks/gpu_check.py --out results.jsonl

Parts that the file has already are not run again, so that the same command goes on after an interruption; `--only`
and `--again` choose. Each part runs in a process of its own and within a time of its own: one that fails, hangs or
spoils the device does not end the rest. Images are generated and autoencoders have random weights: no network is
needed. `--wheels` is a folder of wheels for what Python lacks, which are installed into a temporary folder.

On a machine that is lent for a moment, the wheels that it lacks fetched before (for its Python, here 3.12), and then
one command:

    pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_17_x86_64 -d wheels \\
        diffusers importlib-metadata zipp requests charset-normalizer platformdirs tomli-w \\
        pydantic annotated-types typing-inspection typing-extensions pydantic-core==THE-ONE-THAT-PYDANTIC-REQUIRES
    python3 benchmarks/gpu_check.py --wheels wheels --out results.jsonl

`--device cpu` does a small version of all of it in about two minutes; `--quick` leaves out what compiles.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NEEDED = (
    "diffusers",
    "importlib_metadata",
    "requests",
    "safetensors",
    "pydantic",
    "pydantic_core",
    "typing_inspection",
)
NEEDED += ("annotated_types", "platformdirs", "tomli_w", "huggingface_hub", "psutil", "rich", "typer", "pyarrow")
SOURCE = Path(__file__).resolve().parents[1] / "src"
SECONDS = 480.0
# Part, the seconds that it may take on a GPU, and whether --quick leaves it out.
PARTS = (
    ("doctor", 30, False),
    ("eager", 50, False),
    ("compiled", 90, True),
    ("memory", 60, False),
    ("room", 60, False),
    ("exact", 50, False),
    ("resident", 20, False),
    ("samplers", 70, False),
    ("autoencoders", 30, False),
    ("exchange", 60, False),
    ("whole", 110, True),
)
_END = 5.0  # seconds that are left for the last lines


def make_importable(wheels: Path | None, folder: Path) -> None:
    """Let Python find ditkit beside this file, and install the wheels where something that it needs is missing."""
    if importlib.util.find_spec("ditkit") is None:
        sys.path.insert(0, str(SOURCE))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return
    files = sorted(map(str, wheels.glob("*.whl"))) if wheels else []
    if not files:
        sys.exit(f"missing: {', '.join(missing)}; give a folder of their wheels with --wheels")
    site = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--no-cache-dir"]
    subprocess.run([*pip, "--target", str(site), *files], check=True, stdout=sys.stderr)
    sys.path.insert(0, str(site))  # first: what is there may be too old for the others
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # for the process that is killed on trial
    importlib.invalidate_caches()


def done_before(out: Path) -> set[str]:
    """Parts that a file has results of, but for those that failed."""
    lines = out.read_text(encoding="utf-8").splitlines() if out.is_file() else []
    done = set()
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that was cut off
            row = json.loads(line)
            done |= {row["part"]} if row["status"] == "done" else set()
    return done


def in_own_process(work: Callable[[Callable[..., None]], None], notes: Path, seconds: float) -> dict[str, Any]:
    """Do some work in a fork of this process; what it noted until it ended, and how it ended."""
    began = time.monotonic()
    process = multiprocessing.get_context("fork").Process(target=_forked, args=(work, notes))
    process.start()
    assert process.pid is not None
    try:
        process.join(max(1.0, seconds))
        status = {None: "out of time", 0: "done"}.get(process.exitcode, "failed")
    finally:  # also after Ctrl-C
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # with all that it has begun
        process.kill()  # where it has not got so far as to have a group
        process.join()
    result: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    if status == "failed":
        result["exit"] = process.exitcode
    for line in notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []:
        with contextlib.suppress(ValueError):
            result |= json.loads(line)
    return result


def _forked(work: Callable[[Callable[..., None]], None], notes: Path) -> None:
    os.setpgid(0, 0)
    os.dup2(2, 1)  # stdout has lines of JSON alone
    with notes.open("a", encoding="utf-8") as file:

        def note(**figures: Any) -> None:
            file.write(json.dumps(figures, default=str) + "\n")
            file.flush()

        try:
            work(note)
        except BaseException as error:
            traceback.print_exc()
            note(error=f"{type(error).__name__}: {error}"[:500], at=_where(error))
            raise SystemExit(1) from None


def _where(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def chosen(options: argparse.Namespace) -> list[tuple[str, float]]:
    """The parts that are to run, with the seconds that each may take."""
    known = [name for name, _, _ in PARTS]
    if unknown := [name for name in options.only or () if name not in known]:
        sys.exit(f"there is no part {unknown[0]}; the parts are {', '.join(known)}")
    done = set() if options.again else done_before(options.out)
    return [
        (name, seconds)
        for name, seconds, compiles in PARTS
        if name not in done and not (options.quick and compiles) and (not options.only or name in options.only)
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts; 0 if all of them ended well."""
    began = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu")
    parser.add_argument("--out", type=Path, default=Path("gpu_check.jsonl"), help="results, to which lines are added")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels for what is missing")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="that all parts may take together")
    parser.add_argument("--only", nargs="+", metavar="PART", help=", ".join(name for name, _, _ in PARTS))
    parser.add_argument("--again", action="store_true", help="also parts that the file has already")
    parser.add_argument("--quick", action="store_true", help="leave out what compiles, and the whole trial")
    options = parser.parse_args(words)
    bad = 0
    with tempfile.TemporaryDirectory(prefix="gpu-check-", ignore_cleanup_errors=True) as place:
        folder = Path(place)
        os.environ |= {"DITKIT_CACHE": str(folder / "cache"), "DITKIT_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # else a look for a GPU at an import would spoil the forks
        make_importable(options.wheels, folder)
        import gpu_check_parts

        for name, seconds in chosen(options):
            left = options.seconds - _END - (time.monotonic() - began)
            row: dict[str, Any] = {"part": name, "device": options.device}
            if left < 5:
                row |= {"status": "not begun", "why": f"{options.seconds:.0f} seconds are over"}
            else:
                own = folder / name
                own.mkdir()
                most = seconds if options.device != "cpu" else 2 * seconds
                work = gpu_check_parts.work_of(name, options.device, own)
                row |= in_own_process(work, folder / f"{name}.jsonl", min(most, left))
            bad += row["status"] != "done"
            line = json.dumps(row)
            print(line, flush=True)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
