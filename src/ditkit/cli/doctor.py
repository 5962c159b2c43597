"""`ditkit doctor`: what is installed, what of it is broken, what this machine has, and whether it works."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from . import console
from .opt import examples, only, opt
from .options import Device, Output

if TYPE_CHECKING:
    from ..selftest.findings import Finding


@dataclass(frozen=True, kw_only=True)
class Trial(Device):
    """Machine: what computes, and whether it is tried."""

    really: bool = opt("--try", "Train, save, resume and draw on trial, for at most two minutes.")


@examples("ditkit doctor", "ditkit doctor --try")
def run(
    machine: Annotated[Trial, only("really device")],
    output: Annotated[Output, only("json runs_dir", json=opt("--json", "With --try: one JSON object on stdout."))],
) -> None:
    """Say what is installed, what of it is broken, and what this machine has; a report for bug reports."""
    from ..errors import UsageError

    if output.json and not machine.really:
        raise UsageError("--json goes with --try", "`ditkit doctor --try --json`")
    if _try(machine, output) if machine.really else _describe(machine, output):
        raise typer.Exit(6)


def _describe(machine: Trial, output: Output) -> list[str]:
    """Print what is there; the names of broken parts."""
    from ..runtime import installation

    console.data(installation.describe_software())
    broken = []
    with console.loading_torch():
        for name, module, needed in installation.PARTS:
            line, works = installation.describe_part(name, module, needed=needed)
            console.data(line)
            broken += [] if works else [name]
    if "torch" not in broken:
        for line in installation.describe_devices(machine.device):
            console.data(line)
    for line in installation.describe_folders(output.runs):
        console.data(line)
    if broken:
        console.data(f"broken: {', '.join(broken)}; `pip install --force-reinstall` what is needed, uninstall the rest")
    return broken


def _try(machine: Trial, output: Output) -> list[str]:
    """Print what works and what does not; the names of what does not."""
    from ..runtime.signals import leaving_on_signals
    from .estimate import load_torch

    load_torch(quiet=output.json)
    from ..runtime.device import find_device
    from ..selftest.everything import try_machine
    from ..selftest.findings import differing, lines
    from ..selftest.machine import about_lines, describe_machine

    findings: list[Finding] = []
    with leaving_on_signals():
        for finding in try_machine(machine.device, output.runs, console.watch(quiet=output.json)):
            findings.append(finding)
            for line in [] if output.json else lines(finding):
                console.data(line)
    about, wrong = describe_machine(find_device(machine.device)), differing(findings)
    if output.json:
        report = {"findings": [asdict(finding) for finding in findings], "differing": wrong, "machine": about}
        console.data(json.dumps(report, allow_nan=False))
        return wrong
    for line in ("", *about_lines(about)):
        console.data(line)
    return wrong
