"""The house rules: layers, laziness, sizes, and what must never appear in the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "ditkit"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("ditkit", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__") for file in FILES
}

# A module imports from its own layer or below; families (layer 1) never import each other.
_CHECKPOINTS = ("checkpoint", "learner", "tensor_files", "recovery", "latents", "latent_cache", "journal", "compiling")
_PROCESSES = ("world", "board", "exchange", "sharding")
LAYERS = {
    0: (
        "errors",
        "launch",
        "registry",
        "config",
        "card",
        "durable",
        "manifest",
        "events",
        "metrics",
        "paths",
        "downloads",
        "cache",
        "run_folder",
        "starting",
        "power_ema",
        "bundled",
        "threads",
        "autoencoders.presets",
        "autoencoders.files",
        "recipes",
        "models.presets",
        "models.size",
        "model_card",
    ),
    1: ("models", "data", "objectives", "samplers", "autoencoders", "trackers"),
    2: (
        "ema",
        "post_hoc",
        "optim",
        "seeding",
        "device",
        "images",
        "plots",
        "terminal_plots",
        "gifs",
        "sheets",
        "guidance",
        "trajectory",
        *_CHECKPOINTS,
        *_PROCESSES,
        "rehearsal",
        "peak",
        "weights",
        "initial",
        "tracking",
    ),
    3: (
        "training",
        "session",
        "saving",
        "material",
        "steps",
        "reports",
        "sampling",
        "jax",
        "previews",
        "lr_finder",
        "reconstruction",
        "evaluation",
        "looks",
        "run_report",
        "editing",
        "interpolation",
        "cost",
        "probe",
    ),
    4: ("cli", "__main__"),
}
FAMILIES = LAYERS[1]
ALLOWED_BETWEEN_FAMILIES = {("samplers", "objectives")}  # for Process
HEAVY = {"torch", "diffusers", "numpy", "PIL", "matplotlib", "safetensors", "jax", "flax", "optax"}


def name_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def place(name: str) -> tuple[int, str] | None:
    """(layer, listed name) of a module, by its longest listed prefix."""
    found = [
        (len(one), layer, one) for layer, names in LAYERS.items() for one in names if f"{name}.".startswith(f"{one}.")
    ]
    return max(found)[1:] if found else None


def top_level(tree: ast.Module):
    """Import statements that run when the module is imported; not those for type checkers only."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            pending += node.body + getattr(node, "orelse", [])


def targets(file: Path, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Absolute names of what an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = ["ditkit", *file.relative_to(PACKAGE).parent.parts]
        base = ".".join(parts[: len(parts) - node.level + 1] + ([base] if base else []))
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base for alias in node.names]


def imports(file: Path) -> list[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [target for node in top_level(tree) for target in targets(file, node)]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_arrow_points_down(file):
    name = name_of(file)
    if not name:  # the package itself loads its names on first use
        return
    own = place(name)
    assert own, f"{name} belongs to no layer"
    for target in imports(file):
        other = place(target.removeprefix("ditkit.")) if target.startswith("ditkit.") else None
        if other is None:
            continue
        assert other[0] <= own[0], f"{name} (layer {own[0]}) imports {target} (layer {other[0]})"
        if own[0] == other[0] == 1:
            pair = (own[1].partition(".")[0], other[1].partition(".")[0])
            assert pair[0] == pair[1] or pair in ALLOWED_BETWEEN_FAMILIES, f"{name} imports {target}"


@pytest.mark.parametrize("file", [file for file in FILES if (place(name_of(file)) or (0,))[0] in (0, 4)], ids=name_of)
def test_plain_data_and_the_command_line_import_nothing_heavy(file):
    assert {target.partition(".")[0] for target in imports(file)} & HEAVY == set()


def test_no_circle_of_imports():
    graph = {f"ditkit.{name_of(file)}": set(imports(file)) & MODULES for file in FILES if name_of(file)}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for target in graph.get(name, ()):
                if target != name:
                    visit(target, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_stay_small(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_dangerous_and_nothing_platform_dependent(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = {alias.name.partition(".")[0] for alias in node.names} | {(getattr(node, "module", "") or "")}
            assert not names & {"pickle", "torchvision", "pyplot"}
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.save"}, called
            if called == "torch.load":  # of other people's pickles, in one place, which executes nothing
                assert name_of(file) == "weights.pickles"
                assert [ast.unparse(one.value) for one in node.keywords if one.arg == "weights_only"] == ["True"]
            mode = [ast.unparse(one) for one in node.args] + [ast.unparse(one.value) for one in node.keywords]
            text = not any(
                "b'" in one or "'b" in one or "'rb'" in one or "'wb'" in one or "'ab'" in one for one in mode
            )
            if called.rpartition(".")[2] in {"open", "read_text", "write_text"} and text and called not in _OTHER_OPENS:
                assert any(one.arg == "encoding" for one in node.keywords), f"{called} without encoding"


_OTHER_OPENS = {"os.open", "Image.open", "gzip.open", "archive.open", "director.open"}


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_every_module_and_public_function_says_what_it_is_for(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node) or node.name in {"names"} or len(node.body) <= 2, node.name
