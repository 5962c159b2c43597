"""Words of messages: figures with their errors, settings as files have them, and what a mistyped path may be."""

from __future__ import annotations

import pytest

from ditkit.cli.app import main
from ditkit.io.paths import not_there
from ditkit.io.text import as_toml, format_count, parameter_count, plural, plus_minus
from ditkit.recipes import tomllib


@pytest.mark.parametrize(
    ("value", "error", "percent", "written"),
    [
        (0.00191, 0.00102, False, "0.0019 ± 0.0010"),
        (0.1337, 0.0099, False, "0.1337 ± 0.0099"),
        (153.7, 12.4, False, "154 ± 12"),
        (-0.004, 1e-17, False, "-0.004000000000000000 ± 0.000000000000000010"),
        (0.978, 0.0015, True, "97.80 ± 0.15 %"),
        (1.0, 0.033, True, "100.0 ± 3.3 %"),
        (0.14159, None, False, "0.1416"),
        (0.14159, 0.0, False, "0.1416"),
        (0.5, None, True, "50 %"),
        (0.5, float("inf"), False, "0.5"),
    ],
)
def test_a_figure_is_written_to_two_digits_of_its_error(value, error, percent, written):
    assert plus_minus(value, error, percent=percent) == written


@pytest.mark.parametrize("value", [True, False, 3, 0.001, 1e-05, "center", 'a "b"', (64, 96), ["x", "y"]])
def test_settings_are_written_as_toml(value):
    read = tomllib.loads(f"value = {as_toml(value)}")["value"]
    assert read == (list(value) if isinstance(value, tuple) else value)


def test_a_mistyped_path_is_compared_with_what_is_beside_it(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "Holiday.zip").touch()
    monkeypatch.chdir(tmp_path)
    assert not_there("./Photos") == "did you mean './photos'?"
    assert not_there("Photos/") == "did you mean 'photos'?"
    assert not_there("photos/holyday.zip") == "did you mean 'photos/Holiday.zip'?"
    assert not_there("./other") == "check the path"
    assert not_there("fotos/cats") == "check the path: there is no folder fotos either"


@pytest.mark.parametrize(
    "line", ["train ./Photos", "train mnist --data-dir ./Photos", "estimate ./Photos", "data show ./Photos"]
)
def test_commands_name_the_folder_that_was_meant(tmp_path, monkeypatch, capsys, line):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    assert "did you mean './photos'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (999, "999 "),
        (40_500_000, "40.5 M"),
        (1_049_000_000_000, "1.05 T"),
        (999_400_000, "999 M"),
        (999_600_000, "1 G"),
        (3 * 10**15, "3 P"),
    ],
)
def test_large_numbers_have_three_digits_and_a_letter(number: int, expected: str) -> None:
    assert format_count(number) == expected


def test_one_is_not_plural_and_small_networks_have_a_size():
    assert [plural(count, "image") for count in (0, 1, 2, 1200)] == ["0 images", "1 image", "2 images", "1,200 images"]
    sizes = [parameter_count(count) for count in (1, 31_402, 412_345, 7_446_000, 675_129_632)]
    assert sizes == ["1 parameter", "31,402 parameters", "0.412M parameters", "7.45M parameters", "675M parameters"]
