"""`ditkit doctor --try`: each line holds on a healthy machine, and says so where something is broken on purpose."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from patience import scaled

from ditkit.checkpoint import store
from ditkit.cli import app
from ditkit.errors import MachineError, UsageError
from ditkit.kernels import choice, compiler, library
from ditkit.models import layers
from ditkit.runtime.signals import leaving_on_signals
from ditkit.selftest import everything, gradients, machine, runs, subject
from ditkit.selftest.findings import DIFFERS, HOLDS, NOT_TRIED, Differs, Finding, NotTried, anonymous, find, lines
from ditkit.selftest.runs import Runs
from ditkit.selftest.subject import Subject

CPU = torch.device("cpu")


@pytest.fixture
def tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Subject:
    """A network that is smaller still."""
    monkeypatch.setattr(subject, "_SMALL", {"width": 32, "depth": 1, "heads": 2, "patch": 16})
    return Subject(CPU, tmp_path / "runs", tmp_path)


def found(work: Callable[[], str]) -> tuple[str, str]:
    finding = find("it", work)
    assert finding.hint or finding.verdict != DIFFERS
    return finding.verdict, finding.text


# --- what is said


def test_whatever_is_raised_is_a_finding_of_one_line(tmp_path: Path) -> None:
    def broken() -> str:
        raise RuntimeError(f"CUDA error: an illegal\nmemory access in {tmp_path}/file")

    def full() -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "file"))

    def missing() -> str:
        raise MachineError("this machine has none", "buy one")

    assert found(broken) == (DIFFERS, "RuntimeError: CUDA error: an illegal")
    assert found(full) == (DIFFERS, "<path>: no space left on device")
    assert find("it", missing) == Finding(name="it", verdict=DIFFERS, text="this machine has none", hint="buy one")


def test_neither_paths_nor_names_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "orion")
    monkeypatch.setattr("getpass.getuser", lambda: "maria")
    said = anonymous(
        "cannot read /home/maria/x y.png or 'C:\\Users\\maria\\z' on orion: maria's 3/4, TF32/bf16, marias"
    )
    assert "maria/" not in said and "maria\\" not in said and "orion" not in said and "maria's" not in said
    assert "3/4" in said and "TF32/bf16" in said and "marias" in said


def test_no_line_is_wider_than_a_screen() -> None:
    finding = Finding(name="share of the peak", verdict=NOT_TRIED, text="word " * 60, hint="do this " * 20)
    assert max(map(len, lines(finding))) <= 80
    about = {"software": "torch 2.13 " * 30, "device": "a-name-" * 20}
    assert max(map(len, machine.about_lines(about))) <= 80


# --- what is tried


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_right_gradients_hold_and_wrong_ones_are_found(
    dtype: torch.dtype, tried: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(lambda: gradients.gradients_hold(tried, dtype))[0] == HOLDS
    silu = layers.F.silu
    monkeypatch.setattr(layers.F, "silu", lambda x: silu(x) * (1 if x.dtype == torch.float64 else 1.1))
    verdict, text = found(lambda: gradients.gradients_hold(tried, dtype))
    allowed = "1e-05" if dtype == torch.float32 else "2e-02"
    assert verdict == DIFFERS and f"from float64's, where {allowed} is allowed" in text


def test_bfloat16_is_not_tried_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "computes_bfloat16", lambda: False)
    with pytest.raises(NotTried, match="does not compute in it"):
        gradients.check_computes(CPU, torch.bfloat16)
    gradients.check_computes(CPU, torch.float32)


def test_without_a_compiler_the_kernels_are_not_tried(
    tried: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DITKIT_KERNELS", "auto")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler, "prebuilt_libraries", list)
    monkeypatch.setattr(library, "_library", functools.lru_cache(library._library.__wrapped__))
    finding = find("kernels", lambda: gradients.kernels_hold(tried))
    assert (finding.verdict, finding.text) == (NOT_TRIED, "there is no C compiler (cc, gcc or clang)")
    assert finding.hint and "install a C compiler" in finding.hint


@pytest.mark.skipif(not compiler.compilers(), reason="no C compiler")
def test_kernels_that_miscompute_differ(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DITKIT_KERNELS", "auto")
    monkeypatch.setattr(choice, "_fastest", lambda work, rounds: 1.0)
    monkeypatch.setattr(gradients, "computes_bfloat16", lambda: False)
    config = tried.config
    monkeypatch.setattr(gradients.recipes, "load", lambda name: config)
    assert found(lambda: gradients.kernels_hold(tried))[0] == HOLDS
    fast = choice.FastBlocks.__call__
    monkeypatch.setattr(choice.FastBlocks, "__call__", lambda *arguments: fast(*arguments).flip(0))
    verdict, text = found(lambda: gradients.kernels_hold(tried))
    assert verdict == DIFFERS and "their gradients differ from torch's" in text


@pytest.mark.faults
@pytest.mark.skipif(not compiler.compilers(), reason="no C compiler")
def test_kernels_of_a_wrong_source_differ(tried: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = shutil.copytree(compiler.SOURCE, tmp_path / "source")
    norm = (source / "norm.h").read_text(encoding="utf-8")
    assert "- n * along);" in norm, "the source has changed: change this test, too"
    (source / "norm.h").write_text(norm.replace("- n * along);", "- n * along * 0.99f);"), encoding="utf-8")
    monkeypatch.setenv("DITKIT_KERNELS", "auto")
    monkeypatch.setattr(compiler, "SOURCE", source)
    monkeypatch.setattr(compiler, "_FLAGS", ("-O1", *compiler._FLAGS[1:]))
    monkeypatch.setattr(library, "_library", functools.lru_cache(library._library.__wrapped__))
    finding = find("kernels", lambda: gradients.kernels_hold(tried))
    assert finding.verdict == DIFFERS and finding.text.startswith("their gradients differ from torch's by ")
    assert finding.hint and "report it" in finding.hint


def test_other_devices_have_no_kernels_and_cpus_do_not_compile(tried: Subject) -> None:
    elsewhere = dataclasses.replace(tried, device=torch.device("meta"))
    assert found(lambda: gradients.kernels_hold(elsewhere)) == (NOT_TRIED, "they run on CPUs, not on meta")
    assert found(lambda: gradients.compiling_holds(tried))[0] == NOT_TRIED
    assert found(lambda: machine.share_holds(elsewhere))[0] == NOT_TRIED


@pytest.mark.parametrize(
    ("reason", "factor", "verdict"), [("no triton", 1.0, NOT_TRIED), (None, 1.001, HOLDS), (None, 1.1, DIFFERS)]
)
def test_compiling_is_tried_on_cuda_where_something_compiles(
    reason: str | None, factor: float, verdict: str, tried: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, on_cuda = tried.config, dataclasses.replace(tried, device=torch.device("cuda"))
    vars(on_cuda).update(compute=choice.EAGER, opened=(config, None))
    monkeypatch.setattr(gradients, "why_not", lambda device: reason)
    monkeypatch.setattr(
        gradients, "_on_device", lambda *_: lambda make: [torch.ones(3) * (factor if make is gradients.compiled else 1)]
    )
    assert found(lambda: gradients.compiling_holds(on_cuda))[0] == verdict


def test_samples_that_are_others_than_the_cpus_differ(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(lambda: gradients.samples_hold(tried))[0] == NOT_TRIED  # the same by the same
    levels = iter((0, 40, 0, 3))
    monkeypatch.setattr(gradients, "sample", lambda *_, **__: [SimpleNamespace(image=np.full((4, 4, 1), next(levels)))])
    tried = dataclasses.replace(tried, device=torch.device("meta"))
    loaded = SimpleNamespace(compute=choice.EAGER)
    monkeypatch.setattr(gradients, "load_weights", lambda *_, **__: loaded)
    assert found(lambda: gradients.samples_hold(tried))[0] == DIFFERS
    assert found(lambda: gradients.samples_hold(tried))[0] == HOLDS


def test_a_run_that_stopped_ends_as_one_that_did_not(tried: Subject) -> None:
    tried_runs = Runs(tried)
    verdict, text = found(lambda: tried_runs.steps_hold(torch.float32))
    assert verdict == HOLDS and text.startswith("loss ")
    assert found(tried_runs.resumed_holds) == (HOLDS, "8 + 8 steps: the same bits as 16")


def test_a_resumed_run_that_lost_its_moments_differs(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    load = store.load_file
    forget = lambda trainable, file, *rest: None if "optimizer" in file else load(trainable, file, *rest)  # noqa: E731
    monkeypatch.setattr(store, "load_file", forget)
    verdict, text = found(Runs(tried).resumed_holds)
    assert verdict == DIFFERS and text.startswith("8 + 8 steps: ") and text.endswith(" from 16 steps")


def test_a_device_that_never_repeats_itself_is_told_as_such(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    tried_runs = Runs(dataclasses.replace(tried, device=torch.device("meta")))
    ends = {"straight": {"a": torch.ones(2)}, "again": {"a": torch.tensor([1.0, 1.1])}}
    monkeypatch.setattr(tried_runs, "straight", lambda dtype, again=False: (ends["again" if again else "straight"], ()))
    monkeypatch.setattr(runs, "ending", lambda folder: {"a": torch.tensor([1.0, 1.2])})
    vars(tried_runs.subject)["compute"] = choice.EAGER
    with pytest.raises(NotTried, match="does not repeat itself"):
        tried_runs._compared(Path(), "8 + 8 steps:")
    ends["again"] = ends["straight"]
    with pytest.raises(Differs, match=r"1\.4e-01 from 16 steps"):
        tried_runs._compared(Path(), "8 + 8 steps:")


def test_a_process_that_ends_by_itself_differs(tried: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho all is well >&2; echo illegal instruction >&2; exit 3\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    tried_runs = Runs(tried)
    assert found(tried_runs.killed_holds) == (DIFFERS, "a process of its own ended with 3: illegal instruction")
    assert found(lambda: machine.memory_holds(tried_runs))[0] == NOT_TRIED


def test_a_machine_is_tried_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="one process tries a machine"):
        next(everything.try_machine("cpu", tmp_path))


@pytest.mark.parametrize(
    ("memory", "step", "verdicts"),
    [(95, 0.11, (HOLDS, HOLDS)), (140, 0.5, (DIFFERS, DIFFERS)), (0, 0.01, (NOT_TRIED, DIFFERS))],
)
def test_what_took_more_or_less_than_was_estimated_differs(
    tried: Subject, memory: float, step: float, verdicts: tuple[str, str]
) -> None:
    tried_runs = Runs(tried)
    tried_runs.notes = {"estimated_memory": 100e6, "memory": memory * 1e6, "estimated_step": 0.1, "step": step}
    works = (machine.memory_holds, machine.time_holds)
    assert tuple(found(functools.partial(work, tried_runs))[0] for work in works) == verdicts


@pytest.mark.parametrize(("share", "verdict"), [(0.3, HOLDS), (0.001, DIFFERS), (8.0, DIFFERS), (None, NOT_TRIED)])
def test_a_share_of_the_peak_that_cannot_be_differs(
    tried: Subject, share: float | None, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = {"time": {"utilisation": share}, "dtype": "float32"}
    monkeypatch.setattr(machine, "estimate", lambda *_, **__: report)
    assert found(lambda: machine.share_holds(tried))[0] == verdict


def test_a_cache_that_cannot_be_written_to_differs(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(lambda: machine.cache_disk_holds(tried))[0] == HOLDS
    monkeypatch.setenv("DITKIT_CACHE", "/proc/nowhere")
    finding = find("cache", lambda: machine.cache_disk_holds(tried))
    assert finding.verdict == DIFFERS and finding.text.startswith("cannot be written to: ")
    assert finding.hint and "DITKIT_CACHE" in finding.hint


def test_a_full_disk_differs_and_nothing_is_left(tried: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    assert found(lambda: machine.runs_disk_holds(tried))[0] == HOLDS
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert found(lambda: machine.runs_disk_holds(tried)) == (
            DIFFERS,
            "cannot be written to: No space left on device",
        )
    with monkeypatch.context() as patch:
        patch.setattr(store.atomic, "write_synced", lambda *_: full(0))
        verdict, text = found(Runs(tried).resumed_holds)
    assert verdict == DIFFERS and "No space left on device" in text
    monkeypatch.setattr(machine, "free_disk", lambda folder: 5_000_000)
    assert found(lambda: machine.runs_disk_holds(tried)) == (DIFFERS, "only 5.0 MB free")
    assert not list(tried.folder.rglob(".ditkit-try-*"))


# --- the command


def pieces(**works: Callable[[], str]) -> Callable[[Subject], dict[str, Callable[[], str]]]:
    return lambda subject: works


def differing() -> str:
    raise Differs("by 3e-1", "do something")


def not_tried() -> str:
    raise NotTried("there is none")


def test_the_command_prints_a_screen_and_exits_with_6_when_something_differs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(everything, "_pieces", pieces(steps=lambda: "to the last bit", gpu=not_tried))
    assert app.main(["doctor", "--try", "--device", "cpu"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["steps               holds: to the last bit", "gpu                 not tried: there is none"]
    assert (
        out[2] == "" and out[3].startswith("software: ditkit ") and any(line.startswith("device: cpu") for line in out)
    )
    assert max(map(len, out)) <= 80
    monkeypatch.setattr(everything, "_pieces", pieces(steps=differing))
    assert app.main(["doctor", "--try", "--device", "cpu"]) == 6
    assert capsys.readouterr().out.startswith("steps               differs: by 3e-1\n" + " " * 20 + "-> do something\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_the_report_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        everything, "_pieces", pieces(steps=lambda: "to the last bit", gpu=not_tried, kernels=differing)
    )
    assert app.main(["doctor", "--try", "--json", "--device", "cpu"]) == 6
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert captured.err == "" and report.keys() == {"findings", "differing", "machine"}
    assert report["differing"] == ["kernels"]
    assert report["findings"] == [
        {"name": "steps", "verdict": HOLDS, "text": "to the last bit", "hint": None},
        {"name": "gpu", "verdict": NOT_TRIED, "text": "there is none", "hint": None},
        {"name": "kernels", "verdict": DIFFERS, "text": "by 3e-1", "hint": "do something"},
    ]
    assert report["machine"].keys() == {"software", "system", "processor", "device"}
    assert all(isinstance(text, str) and text for text in report["machine"].values())


def test_json_alone_and_a_device_that_is_not_there_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["doctor", "--json"]) == 2
    assert "--json goes with --try" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert app.main(["doctor", "--try", "--device", "cuda"]) == 6
        assert "this machine has no cuda device" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(subject: Subject) -> str:
        (subject.folder / "file").write_bytes(b"some")
        assert len(list(tmp_path.glob(".ditkit-try-*"))) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(everything, "_pieces", lambda subject: {"it": functools.partial(interrupted, subject)})
    assert app.main(["doctor", "--try", "--device", "cpu"]) == 130
    assert "interrupted" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_sigterm_removes_what_was_made(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left, leaving_on_signals(), everything._working_folder(tmp_path) as folder:
        assert folder.parent == tmp_path
        os.kill(os.getpid(), 15)
    assert left.value.code == 143 and not list(tmp_path.iterdir())


def test_where_runs_cannot_be_written_the_systems_temporary_folder_is_taken() -> None:
    with everything._working_folder(Path("/proc/nowhere")) as folder:
        assert folder.is_dir() and Path("/proc") not in folder.parents
    assert not folder.exists()


def test_after_two_minutes_nothing_more_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everything, "_pieces", pieces(steps=lambda: "fine"))
    (late,) = everything.try_machine("cpu", tmp_path, seconds=0)
    assert late.verdict == NOT_TRIED and late.text == "the 0s are over"


@pytest.mark.slow
def test_the_whole_of_it_on_this_machine(tmp_path: Path) -> None:
    environment = {**os.environ, "DITKIT_KERNELS": "auto"}
    command = [sys.executable, "-m", "ditkit", "doctor", "--try", "--json", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, timeout=scaled(240))
    assert done.returncode == 0, done.stdout + done.stderr
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert not done.stderr and list(findings) == list(everything._pieces(Subject(CPU, tmp_path, tmp_path)))
    for name in ("float32", "stopped, resumed", "killed, resumed", "memory", "time", "cache"):
        assert findings[name]["verdict"] == HOLDS, findings[name]
    assert str(tmp_path) not in done.stdout and not list(tmp_path.glob(".ditkit-try-*"))
