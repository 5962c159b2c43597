"""The house rules: layers, laziness, sizes, and what must never appear. Each test lists all violations."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "ditkit"
FILES = sorted(PACKAGE.rglob("*.py"))

# A module imports from its own layer or below. A longer name wins over the package that it is in.
LAYERS = {
    0: "config errors registry events recipes io runs runtime.launch runtime.threads runtime.memory runtime.clock "
    "estimation.fits models.presets models.size autoencoders.files interop.diffusers_config interop.readme "
    "interop.diffusers_scheduler",
    1: "models objectives samplers autoencoders trackers data seeding kernels",
    2: "runtime latents checkpoint visual interop ema optim sampling.guidance sampling.block_cache "
    "data.balance data.batches data.resident data.workers kernels.choice kernels.for_run kernels.update",
    3: "training sampling evaluation estimation selftest jax interop.export interop.import_model interop.push",
    4: "cli __main__",
}
FAMILIES = {"models", "objectives", "samplers", "autoencoders", "trackers", "data"}
BETWEEN_FAMILIES = {("samplers", "objectives")}  # for Process
HEAVY = {"torch", "diffusers", "numpy", "PIL", "matplotlib", "safetensors", "jax", "flax", "optax"}
# What has to be understood before training can be changed, and the part of it that is read from top to bottom.
CORE = "config seeding ema optim models objectives samplers training sampling.generate sampling.guidance checkpoint "
CORE += "data.contract data.mnist data.batches data.image_dataset errors registry events recipes"
MUST_READ = "config seeding models objectives.contract objectives.regression training.step training.loop "
MUST_READ += "training.session training.setup ema optim sampling.guidance sampling.generate samplers.contract "
MUST_READ += "checkpoint.store checkpoint.loading"
OPENS_WITHOUT_ENCODING = {"os.open", "Image.open", "gzip.open", "archive.open", "director.open"}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file) for file in FILES}


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def layer_of(name: str) -> int | None:
    """The layer of a module or package, by its longest listed prefix."""
    listed = {prefix: layer for layer, names in LAYERS.items() for prefix in names.split()}
    matching = [prefix for prefix in listed if f"{name}.".startswith(f"{prefix}.")]
    return listed[max(matching, key=len)] if matching else None


def at_import(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements that run when the module is imported; not those for type checkers only."""
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            pending += node.body + getattr(node, "orelse", [])


def targets(file: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """What an import statement imports: other packages by their names, our own modules with a leading dot."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not node.level:
        return [node.module or ""]
    parts = file.relative_to(PACKAGE).parent.parts
    base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
    inner = [f"{base}.{alias.name}".strip(".") for alias in node.names]
    return [f".{module if module in MODULES else base}" for module in inner]


def imported(file: Path) -> list[str]:
    return [target for node in at_import(tree_of(file)) for target in targets(file, node)]


def test_every_import_points_to_its_own_layer_or_below():
    wrong = []
    for file in FILES:
        name = name_of(file)
        layer = layer_of(name)
        if not name or (file.name == "__init__.py" and not tree_of(file).body[1:]):
            continue
        if layer is None:
            wrong.append(f"{name} belongs to no layer")
            continue
        for target in (target[1:] for target in imported(file) if target.startswith(".") and target != "."):
            other = layer_of(target)
            if other is None or other > layer:
                wrong.append(f"{name} (layer {layer}) imports {target} (layer {other})")
            pair = (name.partition(".")[0], target.partition(".")[0])
            if layer == other == 1 and set(pair) <= FAMILIES and pair[0] != pair[1] and pair not in BETWEEN_FAMILIES:
                wrong.append(f"{name} imports {target} of another family")
        if layer in (0, 4) and (heavy := {target.partition(".")[0] for target in imported(file)} & HEAVY):
            wrong.append(f"{name} imports {', '.join(heavy)}, which takes seconds to load")
    assert not wrong, "\n".join(wrong)


def test_no_module_below_the_command_line_imports_it_at_all():
    wrong = [
        f"{name_of(file)}:{node.lineno}"
        for file in FILES
        if layer_of(name_of(file)) != 4
        for node in ast.walk(tree_of(file))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        and any(target.startswith(".cli") for target in targets(file, node))
    ]
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports():
    graph = {name_of(file): {target[1:] for target in imported(file)} & MODULES - {""} for file in FILES}
    done: set[str] = set()
    circles = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in done:
            for target in graph[name] - {name}:
                visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())
    assert not circles, "\n".join(circles)


def test_files_and_functions_stay_small_and_say_what_they_are_for():
    wrong = []
    for file in FILES:
        name, tree, lines = name_of(file), tree_of(file), file.read_text(encoding="utf-8").count("\n")
        if lines > 350:
            wrong.append(f"{name} has {lines} lines")
        if not ast.get_docstring(tree):
            wrong.append(f"{name} has no docstring")
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    wrong.append(f"{name}.{node.name} has {length} lines")
        for node in tree.body:
            public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if public and not ast.get_docstring(node) and node.name != "names" and len(node.body) > 2:
                wrong.append(f"{name}.{node.name} has no docstring")
    entries = {path.name for path in PACKAGE.iterdir()} - {"py.typed"}
    entries = {entry for entry in entries if not entry.startswith("__")}
    if len(entries) > 32:
        wrong.append(f"{len(entries)} entries in the root of the package")
    assert not wrong, "\n".join(wrong)


def test_the_core_fits_in_one_head():
    must_read, core = lines_of(MUST_READ), lines_of(CORE)
    whole = sum(file.read_text(encoding="utf-8").count("\n") for file in FILES)
    print(f"lines of Python: {must_read:,} must be read, {core:,} are the core, {whole:,} in all")
    assert must_read <= 2800
    assert core <= 5000


def lines_of(names: str) -> int:
    """Lines of Python in modules and packages."""
    prefixes = tuple(f"{name}." for name in names.split())
    missing = [prefix for prefix in prefixes if not any(f"{name}.".startswith(prefix) for name in MODULES)]
    assert not missing
    files = [file for file in FILES if f"{name_of(file)}.".startswith(prefixes)]
    return sum(file.read_text(encoding="utf-8").count("\n") for file in files)


def test_nothing_dangerous_and_nothing_platform_dependent():
    wrong = []
    for file in FILES:
        for node in ast.walk(tree_of(file)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = {alias.name.partition(".")[0] for alias in node.names} | {getattr(node, "module", "") or ""}
                wrong += [f"{name_of(file)}: import {name}" for name in names & {"pickle", "torchvision", "pyplot"}]
            if isinstance(node, ast.Call):
                wrong += [f"{name_of(file)}:{node.lineno}: {why}" for why in _wrong_calls(node)]
    assert not wrong, "\n".join(wrong)


def test_commands_in_words_have_quotation_marks_that_every_shell_knows():
    wrong = [
        f"{name_of(file)}:{node.lineno}: {node.value}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Constant) and re.search(r"(pip install|--[a-z-]+) '([^ ]|$)", str(node.value))
    ]
    assert not wrong, "cmd takes ' for a letter:\n" + "\n".join(wrong)


def _wrong_calls(node: ast.Call) -> Iterator[str]:
    called = ast.unparse(node.func)
    if called in {"eval", "exec", "torch.save", "torch.load"}:  # pickles are read as data, by interop/unpickle
        yield called
    words = [ast.unparse(argument) for argument in (*node.args, *(keyword.value for keyword in node.keywords))]
    binary = any("b'" in word or "'b" in word or word in {"'rb'", "'wb'", "'ab'"} for word in words)
    opens = called.rpartition(".")[2] in {"open", "read_text", "write_text"} and called not in OPENS_WITHOUT_ENCODING
    if opens and not binary and not any(keyword.arg == "encoding" for keyword in node.keywords):
        yield f"{called} without encoding"
