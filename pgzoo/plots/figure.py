"""Learning curves as a figure: one panel per environment, one line per experiment, with 95 % intervals over seeds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.errors import ConfigError, converted
from pgzoo.files import atomic_write
from pgzoo.plots.arguments import CurveArguments
from pgzoo.plots.curves import OF_EPISODES, OF_EVALUATIONS, Curve, curves
from pgzoo.training.arguments import as_path, as_paths
from pgzoo.training.run_logs import find_runs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colours for all kinds of colour vision, without yellow, which is faint on white."""
STYLES = ("-", "--", ":", "-.")
"""Line styles: a new one each time the colours are used up."""
STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.fonttype": "none",
}
MAX_MARKED = 30
"""A line with more points has no markers."""
MAX_COLUMNS = 3
LETTERS_PER_INCH = 13
MINUTES, HOURS = 180, 10_800
"""Seconds from which a time axis is in minutes, and in hours."""


def plot(
    *folders: str | os.PathLike[str],
    x: str = "steps",
    y: str = "return",
    window: int = 100,
    group: bool = True,
    aggregate: str = "mean",
    out: str | os.PathLike[str] | None = None,
) -> Figure:
    """Draw learning curves of runs of pgzoo, RL Zoo or SB3, as `pgzoo plot` does.

        pgzoo.plot("logs/ppo", "logs/a2c", y="eval")

    Args:
        *folders: folders of runs, or folders above them.
        x: `steps`, `episodes` or `time`.
        y: `return` or `length` of training episodes; `eval`, `eval-length` or `eval-success`; or a column of
            progress.csv.
        window: training episodes over which `return` and `length` are averaged.
        group: whether the seeds of an experiment are one curve with an interval.
        aggregate: `mean` or `iqm` of the seeds.
        out: the file to write, .png, .svg or .pdf; None: write none.

    Raises:
        ConfigError: a folder has no logs, a log is damaged, or no run has such values.
    """
    arguments = CurveArguments(x=x, y=y, window=window, group=group, aggregate=aggregate)
    drawn, _ = curves(find_runs(as_paths(list(folders))), arguments)
    figure = draw(drawn, arguments)
    if out is not None:
        save(figure, as_path(out))
    return figure


def draw(drawn: Sequence[Curve], arguments: CurveArguments) -> Figure:
    """Return the figure of curves. Matplotlib's backend and settings stay as they are."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    envs = list(dict.fromkeys(curve.env for curve in drawn))
    labels = list(dict.fromkeys(curve.label for curve in drawn))
    columns = min(len(envs), MAX_COLUMNS)
    rows = -(-len(envs) // columns)
    with mpl.rc_context(STYLE):
        width = max(7.0, 4.6 * columns)
        legend_columns = max(1, min(len(labels), int(width * LETTERS_PER_INCH / (max(map(len, labels)) + 14))))
        height = (3.4 if len(envs) > 1 else 4.0) * rows + 0.6 + 0.24 * -(-len(labels) // legend_columns)
        figure = Figure(figsize=(width, height), layout="constrained")
        panels = np.ravel(figure.subplots(rows, columns, squeeze=False))
        for panel in panels[len(envs) :]:
            panel.remove()
        divisor, unit = _scale(drawn, arguments.x)
        for env, panel in zip(envs, panels, strict=False):
            members = [curve for curve in drawn if curve.env == env]
            for curve in members:
                _line(panel, curve, labels.index(curve.label), divisor)
            _name_axes(panel, env, unit, arguments)
        for panel in panels[: len(envs)][::columns]:
            panel.set_ylabel(_plain(y_label(arguments)))
        handles = {line.get_label(): line for panel in panels[: len(envs)] for line in panel.get_lines()}
        figure.legend(
            [handles[label] for label in labels],
            [_plain(f"{label}{_seeds(label, drawn)}") for label in labels],
            loc="outside lower center",
            ncols=legend_columns,
        )
        if caption := _caption(drawn, arguments):
            figure.suptitle(caption, fontsize=10, color="0.35")
        with converted("the curves cannot be drawn"):  # such as numbers that are too large for an axis
            figure.draw_without_rendering()  # the layout, with these settings
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure.

    Raises:
        ConfigError: the name does not end in .png, .svg or .pdf.
        MachineError: the file cannot be written.
    """
    import matplotlib as mpl

    check_suffix(path)
    with atomic_write(path) as partial, mpl.rc_context(STYLE):
        figure.savefig(partial, dpi=150)


def check_suffix(path: Path) -> None:
    """Raise ConfigError if the name of a figure does not end in .png, .svg or .pdf."""
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a figure is a .png, .svg or .pdf file, not {path}")


def y_label(arguments: CurveArguments) -> str:
    """Return what the vertical axis shows, with its unit where it has one."""
    names = {
        "return": "return of training episodes",
        "length": "steps per training episode",
        "eval": "mean return of evaluations",
        "eval-length": "steps per episode of evaluations",
        "eval-success": "success rate of evaluations",
    }
    name = names.get(arguments.y, arguments.y)
    if arguments.y in OF_EPISODES and arguments.window > 1:
        return f"{name}\n(mean of the last {arguments.window})"
    return name


def _line(panel: Axes, curve: Curve, number: int, divisor: float) -> None:
    colour, style = COLOURS[number % len(COLOURS)], STYLES[number // len(COLOURS) % len(STYLES)]
    marker = "." if len(curve.x) <= MAX_MARKED else ""
    x = curve.x / divisor
    panel.plot(x, curve.y, color=colour, linestyle=style, marker=marker, linewidth=1.8, label=curve.label)
    if curve.low is not None and curve.high is not None:
        panel.fill_between(x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0)


def _name_axes(panel: Axes, env: str, unit: str, arguments: CurveArguments) -> None:
    from matplotlib.ticker import EngFormatter

    panel.set_title(_plain(env))
    panel.set_xlabel(unit)
    panel.margins(x=0.02)
    if arguments.x != "time":
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    if arguments.y in (*OF_EPISODES, *OF_EVALUATIONS):
        panel.yaxis.get_major_formatter().set_useOffset(False)  # type: ignore[attr-defined]  # a ScalarFormatter


def _plain(text: str) -> str:
    """Return a text in which Matplotlib sees no formulas."""
    return text.replace("$", r"\$")


def _scale(drawn: Sequence[Curve], x: str) -> tuple[float, str]:
    """Return the unit of the horizontal axis, and how many steps, episodes or seconds it is."""
    if x != "time":
        return 1.0, {"steps": "environment steps", "episodes": "training episodes"}[x]
    longest = max(float(curve.x[-1]) for curve in drawn)
    if longest >= HOURS:
        return 3600.0, "wall time in hours"
    return (60.0, "wall time in minutes") if longest >= MINUTES else (1.0, "wall time in seconds")


def _seeds(label: str, drawn: Sequence[Curve]) -> str:
    """Return the number of seeds of an experiment, or their range over the panels; empty for single runs."""
    numbers = sorted({curve.n_runs for curve in drawn if curve.label == label})
    if numbers == [1]:
        return ""
    return f", {numbers[0]} seeds" if len(numbers) == 1 else f", {numbers[0]} to {numbers[-1]} seeds"


def _caption(drawn: Sequence[Curve], arguments: CurveArguments) -> str:
    if all(curve.n_runs == 1 for curve in drawn):
        return ""
    if arguments.aggregate == "iqm":
        return "interquartile mean over seeds with its 95 % bootstrap interval"
    return "mean over seeds with its 95 % interval (Student's t)"
