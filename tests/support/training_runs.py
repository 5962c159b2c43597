"""A run of the training loop that listens to its events, and the sums of what it wrote."""

from __future__ import annotations

import hashlib
import json

from ditkit.events import Stepped
from ditkit.io import atomic
from ditkit.runs import manifest
from ditkit.runs.folder import RunFolder
from ditkit.training.loop import train


class Listener:
    """Collects events; asks to stop after a step."""

    def __init__(self, stop_after: int | None = None):
        self.events, self.stop_after, self.step = [], stop_after, 0

    def __call__(self, event) -> None:
        self.events.append(event)
        if isinstance(event, Stepped):
            self.step = event.step

    def should_stop(self) -> bool:
        return self.stop_after is not None and self.step >= self.stop_after

    def of(self, kind) -> list:
        return [event for event in self.events if isinstance(event, kind)]


def digest(folder) -> dict[str, str]:
    """SHA-256 of the newest weights, EMA, optimiser state and of the metrics."""
    run = RunFolder(folder)
    newest = run.checkpoint(run.last_step())
    files = [newest / f"{name}.safetensors" for name in ("ema", "model", "optimizer")] + [run.metrics_file]
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def run(config, folder, stop_after=None, **settings) -> Listener:
    listener = Listener(stop_after)
    train(config, folder, listener, device="cpu", should_stop=listener.should_stop, **settings)
    return listener


def change_state(folder, **changes) -> None:
    """Give the newest checkpoint's state other values (None: no such field), as if it had been written so."""
    run = RunFolder(folder)
    place, step = run.checkpoint(run.last_step()), run.last_step()
    state = {**json.loads((place / "state.json").read_text(encoding="utf-8")), **changes}
    state = {key: value for key, value in state.items() if key not in changes or value is not None}
    (place / "state.json").write_text(json.dumps(state), encoding="utf-8")
    files = {**manifest.read(place), "state.json": atomic.describe((place / "state.json").read_bytes())}
    (place / manifest.NAME).write_bytes(manifest.write(step, files))
