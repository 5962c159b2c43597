"""What happens while a run trains: the loop sends events, and bars, trackers and files listen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Started:
    """The run is about to take its first step."""

    folder: Path
    step: int  # steps already done; above 0 when an unfinished run continues
    steps: int
    device: str
    dtype: str
    parameters: int
    images: int
    labels: tuple[str, ...]
    kernels: str = ""  # what the kernels for CPUs gain, or why there are none


@dataclass(frozen=True, kw_only=True)
class Stepped:
    """One optimiser step is done."""

    step: int
    loss: float
    lr: float
    images_per_second: float
    utilisation: float | None = None  # part of the device's peak; None where that is unknown
    metrics: dict[str, float] = field(default_factory=dict)  # as written to metrics.jsonl


@dataclass(frozen=True, kw_only=True)
class Validated:
    """The validation loss was measured (with the EMA weights)."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Images drawn with the EMA weights were compared with the real ones."""

    step: int
    kid: float
    error: float  # standard error of it
    of: str = ""  # how many images, and of which labels


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """A sample grid was written."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A checkpoint is durably on disk."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class Warned:
    """Something went wrong or is not as it was, and the run continues; one line for people."""

    step: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """The loop has ended: all steps done, out of time, or asked to stop."""

    step: int
    steps: int
    seconds: float
    reason: str  # "done", "time" or "stopped"
    folder: Path


Event = Started | Stepped | Validated | Evaluated | Sampled | Saved | Warned | Finished
OnEvent = Callable[[Event], None]
