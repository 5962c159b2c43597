"""Runs that compute with the kernels: exact resumes, what checkpoints record, and machines that have none."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from training_runs import digest, run

from ditkit.errors import MachineError, UsageError
from ditkit.events import Started, Stepped, Warned
from ditkit.io import atomic
from ditkit.io.progress import no_progress, reporting_to
from ditkit.kernels import choice, for_run, library
from ditkit.recipes import load
from ditkit.runs import manifest, run_state
from ditkit.runs.folder import RunFolder
from ditkit.training.step import SpeedOptions

ON, OFF, AUTO = (SpeedOptions(kernels=word) for word in ("on", "off", "auto"))


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --kernels auto means is measured, as outside of tests."""
    monkeypatch.delenv("DITKIT_KERNELS", raising=False)
    try:
        library.open_library()
    except library.KernelsUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without the kernels."""

    def none() -> Any:
        raise library.KernelsUnavailable("there is no C compiler (cc, gcc or clang)")

    monkeypatch.setattr(choice, "open_library", none)


def state(folder, step: int) -> dict[str, Any]:
    return json.loads((RunFolder(folder).checkpoint(step) / "state.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("stops", [(5,), (3, 7, 11)])
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_and_continued_equals_never_stopped_to_the_last_bit(tiny, tmp_path, stops, workers):
    config = tiny(data={"validation": 24, "workers": workers}, train={"snapshot_every": 4})
    run(config, tmp_path / "whole", speed=ON)
    for stop in stops:
        run(config, tmp_path / "parts", stop_after=stop, speed=ON)
    run(config, tmp_path / "parts", speed=AUTO)  # goes on as it was
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")
    assert state(tmp_path / "parts", 12)["kernels"] is True


def test_kernels_change_rounding_only(tiny, tmp_path):
    fast, eager = (run(tiny(), tmp_path / name, speed=speed) for name, speed in (("fast", ON), ("eager", OFF)))
    losses = [[event.loss for event in events.of(Stepped)] for events in (fast, eager)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_checkpoint_says_how_its_run_computes_and_the_first_event_does_too(tiny, tmp_path):
    started = run(tiny(), tmp_path / "fast", speed=ON).of(Started)[0]
    assert started.device == "cpu, kernels" and "times as fast as eager" in started.kernels
    assert {key: state(tmp_path / "fast", 12)[key] for key in ("kernels", "dtype")} == {
        "kernels": True,
        "dtype": "float32",
    }
    run(tiny(), tmp_path / "eager", speed=OFF)
    assert state(tmp_path / "eager", 12)["kernels"] is False


def test_a_run_whose_checkpoint_names_no_kernels_stays_eager(tiny, tmp_path):
    run(tiny(), tmp_path / "whole", speed=OFF)
    run(tiny(), tmp_path / "parts", stop_after=5, speed=OFF)
    place = RunFolder(tmp_path / "parts").checkpoint(5)
    old = {key: value for key, value in state(tmp_path / "parts", 5).items() if key not in ("kernels", "dtype")}
    (place / "state.json").write_text(json.dumps(old), encoding="utf-8")
    files = {name: atomic.describe((place / name).read_bytes()) for name in manifest.FILES}
    (place / manifest.NAME).write_bytes(manifest.write(5, files))
    run(tiny(), tmp_path / "parts", speed=AUTO)
    assert digest(tmp_path / "parts") == digest(tmp_path / "whole")


def test_an_older_run_in_bfloat16_on_a_cpu_is_said_to_round_otherwise():
    said: list[str] = []
    with reporting_to(lambda text: no_progress(said.append(text) or text)):
        for noise in ("cpu", None):
            state = run_state.State(
                step=5, metrics_bytes=0, timing_bytes=0, fingerprint="", labels=(), versions={}, noise=noise
            )
            compute = for_run.choose_again(load("mnist"), torch.device("cpu"), "bfloat16", "off", state)
    assert compute.dtype == torch.bfloat16 and not compute.kernels
    assert len(said) == 1 and "rounds otherwise than when this run began" in said[0]


def test_a_run_goes_on_without_kernels_where_there_are_none_and_says_what_differs(tiny, tmp_path, nowhere):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "open_library", library.open_library)
        run(tiny(), tmp_path / "run", stop_after=5, speed=ON)
    events = run(tiny(), tmp_path / "run", speed=AUTO)
    assert any("kernels True is now False" in warning.text for warning in events.of(Warned))
    assert events.of(Started)[0].kernels == "there is no C compiler (cc, gcc or clang)"
    assert state(tmp_path / "run", 12)["kernels"] is False


def test_a_run_goes_on_with_another_library_of_kernels_and_says_what_differs(tiny, tmp_path, monkeypatch):
    run(tiny(), tmp_path / "run", stop_after=5, speed=ON)
    assert not run(tiny(), tmp_path / "run", stop_after=8, speed=AUTO).of(Warned)
    monkeypatch.setattr(library, "fingerprint", lambda: "another")
    warnings = run(tiny(), tmp_path / "run", speed=AUTO).of(Warned)
    assert any("kernel library" in warning.text and "is now another" in warning.text for warning in warnings)


@pytest.mark.parametrize(
    ("speed", "message"),
    [
        (SpeedOptions(kernels="on", compile="on"), "does not go together with --compile on"),
        (SpeedOptions(kernels="on", grad_checkpointing="on"), "does not go together with --grad-checkpointing on"),
    ],
)
def test_kernels_do_not_go_together_with_other_ways_to_compute(tiny, tmp_path, speed, message):
    with pytest.raises(UsageError, match=message):
        run(tiny(), tmp_path / "run", speed=speed)


def test_kernels_that_must_be_used_and_cannot_be_are_one_clear_error(tiny, tmp_path, nowhere):
    with pytest.raises(MachineError, match="the kernels cannot be used: there is no C compiler"):
        run(tiny(), tmp_path / "run", speed=ON)


def test_cross_attention_trains_eagerly(tiny, tmp_path):
    config = tiny(model={"patch": 7, "width": 32, "depth": 2, "heads": 2, "conditioning": "cross-attention"})
    assert run(config, tmp_path / "auto", speed=AUTO).of(Started)[0].kernels == "they have no cross-attention"
    with pytest.raises(UsageError, match="they have no cross-attention"):
        run(config, tmp_path / "on", speed=ON)


def test_previews_and_validation_of_a_run_go_through_the_kernels(tiny, tmp_path, monkeypatch):
    from ditkit.kernels import blocks

    calls, grads = [], []
    original = blocks.FastBlocks.__call__

    def counted(self, *arguments):
        calls.append(1)
        grads.append(torch.is_grad_enabled())
        return original(self, *arguments)

    monkeypatch.setattr(blocks.FastBlocks, "__call__", counted)
    run(tiny(), tmp_path / "run", speed=ON)
    assert grads.count(True) >= 12 and grads.count(False) >= 4
