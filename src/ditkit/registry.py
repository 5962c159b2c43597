"""Names to code without importing it: a plug-in is one file, its name is its command-line name.

A file belongs to a family when it defines the family's entry function at top level. Names and descriptions are
read from the source with `ast`, so that listing and completing them imports nothing.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
from collections.abc import Callable, Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from .errors import UsageError, unknown


@cache
def _inspect(path: Path) -> tuple[str, frozenset[str]]:
    """First line of the file's docstring, and the names of its top-level functions."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise UsageError(f"{path} is not valid Python: {error.msg} (line {error.lineno})", "mend the plug-in") from None
    doc = (ast.get_docstring(tree) or "").strip().splitlines()
    return doc[0] if doc else "", frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


class Registry:
    """One family of plug-ins: files added at run time, then entry points, then the files of its folder."""

    def __init__(self, kind: str, package: str, entry: str):
        self.kind, self.package, self.entry = kind, package, entry
        self._added: dict[str, Path] = {}

    def add_file(self, path: Path) -> str:
        """Add one plug-in file; returns its command-line name. Raises DitkitError if it lacks the entry function."""
        if not path.is_file():
            raise UsageError(f"plug-in {path} does not exist", "give the path of a Python file")
        if self.entry not in _inspect(path)[1]:
            raise UsageError(f"{path} defines no function `{self.entry}`", f"a {self.kind} plug-in needs one")
        name = _as_word(path.stem)
        self._added[name] = path.absolute()
        return name

    def added(self) -> tuple[Path, ...]:
        """The files that were added in this process; another one must add them before it reads what they made."""
        return tuple(self._added.values())

    def descriptions(self) -> dict[str, str]:
        """Every known name with the first line of its docstring, sorted by name."""
        folder = Path(__file__).parent / self.package.rpartition(".")[2]
        files = {_as_word(path.stem): path for path in folder.glob("*.py") if self.entry in _inspect(path)[1]}
        described = {name: _inspect(path)[0] for name, path in (files | self._added).items()}
        for point in _entry_points(self.package):
            described.setdefault(_as_word(point.name), f"from {point.value}")
        return dict(sorted(described.items()))

    def names(self) -> tuple[str, ...]:
        return tuple(self.descriptions())

    def load_files(self, paths: Iterable[Path]) -> None:
        """Add files as another process has, and import them."""
        for path in paths:
            self._module(self.add_file(path))

    def load(self, name: str) -> Callable[..., Any]:
        """The entry function of a plug-in. Raises UsageError with the nearest names if there is none."""
        return getattr(self._module(name), self.entry)

    def check(self, name: str) -> str:
        """The name itself when it is known, without importing anything; raises UsageError otherwise."""
        if name not in self.names():
            raise unknown(self.kind, name, self.names())
        return name

    def _module(self, name: str) -> ModuleType:
        self.check(name)
        if name in self._added:
            return _import_file(self._added[name])
        for point in _entry_points(self.package):
            if _as_word(point.name) == name:
                return point.load()
        return importlib.import_module(f"{self.package}.{name.replace('-', '_')}")


@cache
def _entry_points(group: str):
    """What other packages have registered; cached, because listing takes 10 ms and a setting is checked many times."""
    return entry_points(group=group)


@cache
def _import_file(path: Path) -> ModuleType:
    name = f"ditkit_plugin_{path.stem}_{hashlib.sha256(str(path).encode(errors='surrogateescape')).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where what is sent to workers is looked up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _as_word(stem: str) -> str:
    return stem.replace("_", "-")


DATASETS = Registry("dataset", "ditkit.data", entry="dataset")
OBJECTIVES = Registry("objective", "ditkit.objectives", entry="objective")
SAMPLERS = Registry("sampler", "ditkit.samplers", entry="scheduler")
AUTOENCODERS = Registry("autoencoder", "ditkit.autoencoders", entry="autoencoder")
TRACKERS = Registry("tracker", "ditkit.trackers", entry="tracker")
