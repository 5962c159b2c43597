"""The command line: words, errors, help, flags, completion. What trains and draws is in test_cli_train.py."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ditkit import recipes
from ditkit.cli import app
from ditkit.io import atomic
from ditkit.runs import manifest
from ditkit.runs.model_info import METADATA_KEY, ModelInfo

FLAGS = {
    "train": "--steps --max-time --batch-size --lr --seed --data-dir --label-by --label-file --image-size "
    "--autoencoder --config --set --name --runs-dir --fresh --yes --sample-every --evaluate-every --keep-every "
    "--snapshot-every --track --force-change --shard --preempt-signal --dry-run --quiet --device --dtype "
    "--threads --compile --grad-checkpointing --init-from --debug",
    "estimate": "--steps --batch-size --data-dir --label-by --label-file --image-size --autoencoder --config --set "
    "--sample-every --keep-every --device --dtype --no-probe --runs-dir --json --quiet --debug",
    "sample": "--autoencoder --autoguide --labels --steps --guidance --guidance-interval --sampler --reuse --seed "
    "--model --ema --no-ema --out --force --yes --json --runs-dir --device --backend --batch-size --quiet --debug",
    "evaluate": "--autoguide --samples --features --neighbours --steps --guidance --guidance-interval --sampler "
    "--reuse --seed --ema --no-ema --data-dir --out --yes --json --runs-dir --device --batch-size --quiet --debug",
    "sweep": "--labels --guidance --steps --sampler --reuse --seed --samples --features --ema --no-ema --data-dir "
    "--out --force --yes --json --runs-dir --device --batch-size --quiet --debug",
    "lr-find": "--label-by --label-file --image-size --autoencoder "
    "--yes --config --set --data-dir --batch-size --seed --steps --device --out --force --runs-dir --json "
    "--quiet --debug",
    "plot-loss": "--log --by-noise --smooth --terminal --out --force --runs-dir --quiet --debug",
    "report": "--out --force --runs-dir --quiet --debug",
    "compare": "--labels --seed --no-ema --out --force --json --runs-dir --device --quiet --debug",
    "make-gif": "--frames --kind --model --no-ema --labels --steps --guidance --sampler --seed --out --force "
    "--runs-dir --device --quiet --debug",
    "edit": "--debug",
    "edit inpaint": "--mask --labels --steps --guidance --sampler --seed --model --no-ema --out --force --yes --json "
    "--runs-dir --device --quiet --debug",
    "edit img2img": "--strength --labels --steps --guidance --sampler --seed --model --no-ema --out --force --yes "
    "--json --runs-dir --device --quiet --debug",
    "export": "--format --out --dtype --no-ema --autoencoder --force --runs-dir --json --quiet --debug",
    "data": "--debug",
    "data show": "--data-dir --label-by --label-file --image-size --limit --config --set --runs-dir --out --force "
    "--json --quiet --debug",
    "data reconstruct": "--data-dir --label-file --image-size --autoencoder --count --config --set --runs-dir --out "
    "--force --device --json --quiet --debug",
    "data list": "--json --debug",
    "data remove": "--all --unfinished --yes --json --quiet --debug",
    "import": "--as --set --runs-dir --force --yes --json --quiet --debug",
    "hub": "--debug",
    "hub push": "--private --message --dtype --data-licence --yes --dry-run --runs-dir --quiet --debug",
    "hub pull": "--as --yes --runs-dir --quiet --debug",
    "show": "--runs-dir --debug",
    "list": "--debug",
    "doctor": "--runs-dir --debug",
}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("DITKIT_RUNS", "DITKIT_DEBUG", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DITKIT_CACHE", str(tmp_path / "cache"))


def write_weights(path: Path, *, labels: tuple[str, ...] = ("cat", "dog"), recipe: str = "mnist") -> Path:
    """A weights file without tensors: the card is all that the command line reads before torch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    info = ModelInfo(config=recipes.load(recipe), labels=labels, step=100)
    header = json.dumps({"__metadata__": {METADATA_KEY: info.to_json()}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


def write_run(runs: Path, name: str = "pets", recipe: str = "mnist") -> Path:
    """A run folder with one checkpoint, as far as anything can tell without torch."""
    folder = runs / name
    write_weights(folder / "checkpoints/step-0000100/ema.safetensors", recipe=recipe)
    checkpoint = folder / "checkpoints/step-0000100"
    for name in manifest.FILES:
        (checkpoint / name).touch()
    files = {name: atomic.describe((checkpoint / name).read_bytes()) for name in manifest.FILES}
    (checkpoint / manifest.NAME).write_bytes(manifest.write(100, files))
    (folder / "config.toml").write_text(recipes.dump(recipes.load(recipe)), encoding="utf-8")
    rows = [json.dumps({"step": step, "loss": 1.0 / step}) for step in range(1, 9)]
    (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def said(capsys: pytest.CaptureFixture[str], line: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command line."""
    code = app.main(line.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def walk(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its words, and those of groups after their group."""
    for name, command in group.commands.items():
        yield f"{prefix}{name}", command
        yield from walk(command, f"{prefix}{name} ") if hasattr(command, "commands") else ()


# --- flags, help, version, completion


def test_the_flags_of_every_command_are_frozen() -> None:
    found = {
        name: [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        for name, command in walk(app.command())
    }
    assert {name: sorted(options) for name, options in found.items()} == {
        name: sorted(line.split()) for name, line in FLAGS.items()
    }


def test_commands_come_in_the_order_of_work() -> None:
    assert list(app.command().commands) == [
        "train",
        "estimate",
        "sample",
        "evaluate",
        "sweep",
        "lr-find",
        "plot-loss",
        "report",
        "compare",
        "make-gif",
        "edit",
        "import",
        "export",
        "data",
        "hub",
        "show",
        "list",
        "doctor",
    ]
    assert list(app.command().commands["data"].commands) == ["show", "reconstruct", "list", "remove"]
    assert list(app.command().commands["hub"].commands) == ["push", "pull"]


def test_sample_takes_no_positional_argument() -> None:
    assert not [one for one in app.command().commands["sample"].params if one.param_type_name == "argument"]


@pytest.mark.parametrize("command", FLAGS)
def test_help_shows_every_flag_its_panels_and_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, f"{command} --help")
    assert (code, err) == (0, "")
    assert all(flag in out for flag in FLAGS[command].split())
    assert f"Examples:\n \n ditkit {command}" in "\n".join(line.rstrip() or " " for line in out.splitlines())
    assert "<bool>" not in out


def test_help_names_panels_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "train --help")[1] + said(capsys, "sample --help")[1]
    for panel in ("Model, diffusion and all other settings", "Optimiser", "Data", "Output", "Machine", "Diffusion"):
        assert f"─ {panel} ─" in out
    assert "[default: auto]" in out
    assert "[default: (the recipe's)]" in out
    assert "[default: (the newest run)]" in out


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "")
    assert code == 0
    assert "plot-loss" in out


def test_a_group_without_a_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "data")
    assert (code, err) == (0, "")
    assert out.strip() == said(capsys, "data --help")[1].strip()
    assert "Usage: ditkit data [OPTIONS] COMMAND" in out and "remove" in out


def test_version_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    from ditkit import __version__

    assert said(capsys, "--version") == (0, f"ditkit {__version__}\n", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ditkit tr", ["train"]),
        ("ditkit train mn", ["mnist"]),
        ("ditkit train pe", ["pets"]),
        ("ditkit list s", ["samplers"]),
        ("ditkit sample --sampler flow-h", ["flow-heun"]),
        ("ditkit sample --model p", ["pets"]),
        ("ditkit plot-loss pets p", ["pets"]),
        ("ditkit make-gif d", ["denoise"]),
        ("ditkit show ce", ["celeba", "celeba-gpu", "celeba-latent"]),
        ("ditkit train --max", ["--max-time"]),
        ("ditkit data rem", ["remove"]),
        ("ditkit data show mn", ["mnist"]),
        ("ditkit data remove d", ["downloads/dogs.zip"]),
        ("ditkit data remove --unf", ["--unfinished"]),
        ("ditkit train ./da", ["./data"]),
    ],
)
def test_completion_knows_the_names(
    line: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "runs")
    (tmp_path / "data").mkdir()
    (tmp_path / "cache/downloads").mkdir(parents=True)
    (tmp_path / "cache/downloads/dogs.zip").touch()
    monkeypatch.setenv("_DITKIT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    with pytest.raises(SystemExit):
        app.main([])
    assert capsys.readouterr().out.split() == expected


# --- show and list


def test_show_prints_toml_that_builds_the_same_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, "show mnist")
    assert (code, err) == (0, "")
    (tmp_path / "mine.toml").write_text(out, encoding="utf-8")
    assert recipes.build(recipes.parse(tmp_path / "mine.toml")) == recipes.load("mnist")


def test_show_prints_a_run_and_by_default_the_newest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "runs", "faces", recipe="celeba")
    expected = recipes.dump(recipes.load("celeba"))
    for line in ("show", "show faces", "show runs/faces", "show faces --runs-dir runs"):
        assert said(capsys, line) == (0, expected, "")


def test_list_names_every_family(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = said(capsys, "list")
    for word in ("datasets:", "  mnist", "recipes:", "  paper", "models:", "  dit-xl/2", "objectives:", "samplers:"):
        assert f"{word}" in out
    for name, described in recipes.descriptions().items():
        line = next(line for line in said(capsys, "list recipes")[1].splitlines() if line.startswith(name))
        assert described in line
