"""Which curves to draw: what `pgzoo plot` and `pgzoo.plot` share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pgzoo.training.arguments import Arguments, Count

X_AXES = ("steps", "episodes", "time")
AGGREGATES = ("mean", "iqm")


@dataclass(frozen=True, kw_only=True)
class CurveArguments(Arguments):
    """Which curves to draw.

    Attributes:
        x: the horizontal axis: environment steps, training episodes, or wall time.
        y: `return` or `length` of training episodes; `eval`, `eval-length` or `eval-success`, the means of evaluations;
            or a column of progress.csv, such as `train/value_loss`.
        window: training episodes over which `return` and `length` are averaged.
        group: whether the seeds of an experiment are one curve.
        aggregate: the mean of the seeds, or their interquartile mean (`iqm`).
    """

    x: Annotated[str, X_AXES] = "steps"
    y: str = "return"
    window: Count = 100
    group: bool = True
    aggregate: Annotated[str, AGGREGATES] = "mean"
