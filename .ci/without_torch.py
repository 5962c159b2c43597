"""What needs no torch, on any Python: every file compiles, the lower layers import, and commands say what they do."""

from __future__ import annotations

import contextlib
import importlib
import io
import pkgutil
import platform
import sys
from pathlib import Path

import ditkit
from ditkit.cli.app import main

for file in Path("src").rglob("*.py"):
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
count = 0
for package in ("cli", "io", "recipes", "runs"):
    for module in pkgutil.walk_packages([str(Path(ditkit.__path__[0], package))], f"ditkit.{package}."):
        importlib.import_module(module.name)
        count += 1
for line in ("--help", "--version", "train --help", "sample --help", "list", "show mnist", "doctor --help"):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = main(line.split())
    assert code == 0 and said.getvalue(), line
assert "torch" not in sys.modules
print(f"Python {platform.python_version()}: {count} modules without torch, and the commands that need none, are well")
