"""The command line: words, errors, help, flags, completion. What trains and draws is in test_train_command.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import FLAGS, said, walk, write_run

from ditkit import recipes
from ditkit.cli import app

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
        ("ditkit show ce", ["celeba", "celeba-gpu", "celeba-large", "celeba-latent"]),
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
