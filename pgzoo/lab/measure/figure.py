"""The figure of `pgzoo variance`: relative variance, steps and bias, with one row per plugin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pgzoo.files import atomic_write

if TYPE_CHECKING:
    from pgzoo.lab.measure.statistics import Estimate
    from pgzoo.lab.measure.variance import Report

COLOUR = "#1f5fa8"


def draw(report: Report, title: str, path: Path) -> None:
    """Write the figure. Matplotlib's backend and settings stay as they are.

    Raises:
        MachineError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    names = list(report.summaries)
    rows = list(report.summaries.values())
    figure = Figure(figsize=(11, 1.6 + 0.36 * len(names)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, sharey=True)
    _dots(left, [row.relative_variance for row in rows], log=True)
    left.set_xlabel("variance of a gradient / ‖E g‖²")
    _dots(middle, [row.steps_for_snr for row in rows], log=True)
    middle.set_xlabel("steps for a signal-to-noise ratio of 1")
    _dots(right, [row.bias for row in rows], factor=100.0)
    right.set_xlabel("bias, % of ‖∇J‖")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    figure.suptitle(f"{title}: {report.n_batches} gradients each, 95 % bootstrap intervals", fontsize="medium")
    with atomic_write(path) as partial:
        figure.savefig(partial, dpi=150)


def _dots(axes: Any, estimates: list[Estimate], *, log: bool = False, factor: float = 1.0) -> None:
    """Draw each number with its interval. An interval without an upper end extends to the right edge."""
    finite = [e.high for e in estimates if np.isfinite(e.high)] + [e.value for e in estimates if np.isfinite(e.value)]
    edge = max(finite, default=1.0) * (3 if log else 1.05)
    for row, estimate in enumerate(estimates):
        low, value, high = (min(x, edge) * factor for x in (estimate.low, estimate.value, estimate.high))
        axes.plot([low, high], [row, row], color=COLOUR, linewidth=2, alpha=0.5, solid_capstyle="butt")
        axes.plot([value], [row], "o" if np.isfinite(estimate.value) else ">", color=COLOUR, markersize=6)
    if log:
        from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3), numticks=8))
        thousands = EngFormatter(sep="")  # 30k; it would write 0.3 as 300m
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: thousands(x) if x >= 1 else f"{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(left=min(0.0, *axes.get_xlim()))
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
