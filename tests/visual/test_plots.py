"""Plots: which lines they hold, what range they show, and the terminal's version."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ditkit.errors import DitkitError, UsageError
from ditkit.visual.plots import plot_losses, plot_lr, save_figure, series, smoothed
from ditkit.visual.terminal_plot import terminal_plot


def rows(losses: list[float], **more: float) -> list[dict]:
    return [{"step": index + 1, "loss": loss, **more} for index, loss in enumerate(losses)]


def lines(figure) -> dict[str, tuple[list[float], list[float]]]:
    """Every curve with a name in the legend: its steps and values."""
    axes = figure.axes[0]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    curves = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_child")]
    return {
        name: (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for name, line in zip(names, curves, strict=True)
    }


def test_smoothing_is_the_bias_corrected_average_in_closed_form():
    values, decay = np.array([4.0, 1.0, 7.0, 2.0]), 0.9
    for count in range(1, 5):
        weights = decay ** np.arange(count - 1, -1, -1.0)
        assert smoothed(values, decay)[count - 1] == pytest.approx((weights * values[:count]).sum() / weights.sum())
    assert smoothed(values, 0.0).tolist() == values.tolist()
    assert smoothed(np.full(50, 3.0), 0.98) == pytest.approx(3.0), "a constant is dragged towards zero"


def test_a_smoothing_of_one_is_a_wrong_setting():
    with pytest.raises(UsageError, match="below 1"):
        plot_losses({"a": rows([1.0])}, smooth=1.0)


def test_a_loss_plot_holds_the_raw_and_the_smoothed_training_loss():
    figure = plot_losses({"a": rows([4.0, 1.0])}, smooth=0.5)
    assert lines(figure)["training"] == ([1, 2], pytest.approx([4.0, 2.0]))
    assert [4.0, 1.0] in [list(line.get_ydata()) for line in figure.axes[0].get_lines()]


def test_validation_of_both_weights_is_drawn_where_it_was_measured():
    measured = {"step": 2, "validation_loss": 0.5, "validation_loss_raw": 0.6}
    drawn = lines(plot_losses({"a": [*rows([3.0, 2.0, 1.0]), measured]}))
    assert drawn["validation (EMA weights)"] == ([2], [0.5])
    assert drawn["validation (raw)"] == ([2], [0.6])
    assert set(lines(plot_losses({"a": rows([3.0, 2.0])}))) == {"training"}
    assert set(lines(plot_losses({"a": [measured]}))) == {"validation (EMA weights)", "validation (raw)"}


def test_runs_are_distinguished_by_colour_and_by_names_taken_as_they_are(tmp_path: Path):
    names = ["mnist", r"_$\frac", "数"]
    figure = plot_losses({name: rows([2.0, 1.0]) for name in names})
    assert set(lines(figure)) == {f"{name} · training" for name in names}
    assert len({line.get_color() for line in figure.axes[0].get_lines()}) == 3
    save_figure(figure, tmp_path / "a.png")
    save_figure(plot_losses({r"$\frac$": rows([1.0])}), tmp_path / "b.png")
    assert (tmp_path / "a.png").stat().st_size > 5000 and (tmp_path / "b.png").stat().st_size > 5000


def test_missing_nan_and_foreign_values_are_left_out():
    odd = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": float("nan")}, {"step": 3, "loss": None}, {"loss": 1.0}]
    odd += [{"step": 5, "loss": "x"}, {"step": 4, "loss": 3.0}, {"step": 6, "loss": float("inf")}]
    steps, values = series(odd, "loss")
    assert steps.tolist() == [1, 4] and values.tolist() == [1.0, 3.0]
    assert lines(plot_losses({"a": odd}, smooth=0.0))["training"] == ([1, 4], [1.0, 3.0])


def test_the_spike_of_the_first_steps_does_not_set_the_range():
    losses = [500.0] * 5 + [0.2 + 0.01 * (index % 3) for index in range(400)]
    low, high = plot_losses({"a": rows(losses)}).axes[0].get_ylim()
    assert 0 <= low < 0.2 and 0.22 < high < 0.4


def test_a_logarithmic_plot_is_one_and_shows_the_whole_fall():
    axes = plot_losses({"a": rows([10.0 ** (-index / 40) for index in range(100)])}, log=True).axes[0]
    assert axes.get_yscale() == "log" and axes.get_ylim()[1] > 0.9 and axes.get_ylim()[0] < 0.01


def test_four_curves_by_quarter_of_the_noise_range():
    data = [{"step": s, "loss": 1.0, **{f"loss_q{q}": float(q) for q in (1, 2, 3, 4)}} for s in (1, 2)]
    drawn = lines(plot_losses({"a": data}, by_noise=True))
    assert list(drawn) == ["noise 0–25 %", "noise 25–50 %", "noise 50–75 %", "noise 75–100 %"]
    assert [values for _, values in drawn.values()] == [pytest.approx([q, q]) for q in (1, 2, 3, 4)]
    with pytest.raises(DitkitError, match="no loss to plot"):
        plot_losses({"a": rows([1.0])}, by_noise=True)


def test_the_learning_rate_has_axes_of_its_own_only_where_it_changes():
    assert len(plot_losses({"a": rows([1.0, 2.0], lr=1e-3)}).axes) == 1
    changing = [{"step": 1, "loss": 1.0, "lr": 1e-3}, {"step": 2, "loss": 1.0, "lr": 5e-4}]
    figure = plot_losses({"a": changing})
    assert list(figure.axes[1].get_lines()[0].get_ydata()) == [1e-3, 5e-4]


def test_nothing_to_plot_is_an_error_with_words():
    for runs in ({}, {"a": []}, {"a": [{"step": 1, "lr": 1.0}]}, {"a": [{"step": 1, "loss": float("nan")}]}):
        with pytest.raises(DitkitError, match="no loss to plot"):
            plot_losses(runs)
        with pytest.raises(DitkitError, match="no loss to plot"):
            terminal_plot(runs, 60, 12)


def curve(**changes):
    rates = np.geomspace(1e-5, 1.0, 40)
    losses = 1.0 - 0.5 / (1 + (1e-3 / rates) ** 2) + 50 * rates**2
    found = {"rates": rates.tolist(), "losses": losses.tolist(), "smoothed": losses.tolist()}
    return SimpleNamespace(**{**found, "suggestion": 7.5e-4, "lowest": 0.02, "configured": 6e-3, **changes})


def test_a_range_test_is_drawn_over_log_rates_with_its_rates_and_the_settings_own_marked():
    figure = plot_lr(curve())
    assert figure.axes[0].get_xscale() == "log"
    drawn = lines_without_dots(figure)
    assert drawn["half that rate, to begin with: 7.5e-4"] == [7.5e-4, 7.5e-4] and drawn["lowest loss: 2.0e-2"] == [
        0.02,
        0.02,
    ]
    assert drawn["the settings' own: 6.0e-3"] == [6e-3, 6e-3]
    assert figure.axes[0].get_ylim()[1] < 2.0, "the divergence squashes the fall"


def lines_without_dots(figure) -> dict[str, list[float]]:
    return {str(line.get_label()): list(line.get_xdata()) for line in figure.axes[0].get_lines()}


def test_a_range_test_without_advice_or_with_nan_is_drawn_all_the_same(tmp_path: Path):
    broken = curve(suggestion=None, lowest=None, configured=None)
    broken.losses[-1] = broken.smoothed[-1] = float("nan")
    figure = plot_lr(broken)
    assert not [name for name in lines_without_dots(figure) if "lowest" in name or "half" in name or "own" in name]
    save_figure(figure, tmp_path / "a.png")
    with pytest.raises(DitkitError, match="no finite loss"):
        plot_lr(curve(losses=[float("nan")] * 40))


def test_a_figure_is_saved_in_the_format_of_its_ending_whole_or_not_at_all(tmp_path: Path):
    figure = plot_losses({"é": rows([2.0, 1.0])})
    save_figure(figure, tmp_path / "a.png")
    save_figure(figure, tmp_path / "a.pdf")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"
    with pytest.raises(DitkitError, match=r"cannot write a plot as a\.xyz"):
        save_figure(figure, tmp_path / "a.xyz")
    with pytest.raises(DitkitError, match="cannot write"):
        save_figure(figure, tmp_path / "a.png" / "b.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.png"]


@pytest.mark.parametrize(("width", "height", "count"), [(100, 20, 1), (60, 12, 3), (24, 6, 1), (80, 24, 30)])
def test_a_terminal_plot_has_the_asked_size(width: int, height: int, count: int):
    runs = {f"a run with a long name {n}": rows([2.0 / (s + 1) for s in range(200)]) for n in range(count)}
    drawn = terminal_plot(runs, width, height).split("\n")
    assert len(drawn) == height
    assert max(len(line) for line in drawn) <= width


def test_a_terminal_plot_falls_from_the_top_left_to_the_bottom_right():
    text = terminal_plot({"run": rows(np.linspace(1.0, 0.25, 101).tolist())}, 60, 14, smooth=0.0)
    drawn = text.split("\n")
    plot = [line.split("┤")[1] for line in drawn if "┤" in line]
    inked = [[x for x, sign in enumerate(line) if sign > "\u2800"] for line in plot]
    assert 0 not in inked[-1] and max(inked[-1]) == max(map(max, filter(None, inked)))
    assert inked[0] and min(inked[0]) < min(inked[-1])
    top, bottom = (float(drawn[row].split()[0]) for row in (0, 14 - 4))
    assert 0.9 < top < 1.0 and bottom == 0.25
    assert drawn[-2].split() == ["step", "1", "101"] and drawn[-1].startswith("run  0.25")


def test_runs_in_a_terminal_plot_carry_the_letters_of_the_legend():
    text = terminal_plot({"first": rows([2.0] * 50), "second": rows([1.0] * 50)}, 60, 14)
    plot = "".join(line for line in text.split("\n") if "┤" in line)
    assert plot.count("A") == plot.count("B") == 3
    assert text.split("\n")[-2:] == ["A first  2", "B second  1"]


def test_a_terminal_plot_of_one_row_shows_a_dot():
    assert sum(sign > "\u2800" for sign in terminal_plot({"a": rows([0.5])}, 40, 10) if sign < "\u2900") == 1
