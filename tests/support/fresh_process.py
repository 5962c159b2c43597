"""Command lines in one fresh process, and which modules they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from patience import scaled

RUNNER = """
import contextlib, io, json, os, sys
from ditkit.cli.app import main
lines, watched = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for line in lines:
    os.environ.update(line["environment"])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            code = main(line["words"])
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, sorted(name for name in watched if name in sys.modules)]))
"""


def run_lines(lines: list[str], watched: set[str], place: Path, **environment: str) -> list[tuple[int, list[str]]]:
    """(exit code, watched modules loaded so far) after each command line, all in one fresh process."""
    asked = [{"words": line.split(), "environment": environment} for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", RUNNER, json.dumps(asked), json.dumps(sorted(watched))],
        capture_output=True,
        encoding="utf-8",
        cwd=place,
        env={name: value for name, value in os.environ.items() if not name.startswith("DITKIT")},
        check=False,
        timeout=scaled(120),
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]
