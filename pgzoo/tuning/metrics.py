"""The metrics of a study: one number from the evaluations of a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pgzoo.errors import ConfigError, unknown


@dataclass(frozen=True)
class Point:
    """One evaluation during training, on separate environments.

    Attributes:
        steps: environment steps so far.
        seconds: seconds of training so far, without evaluations.
        value: the mean return.
    """

    steps: int
    seconds: float
    value: float


NEVER_SECONDS = 1e6
"""What `wall_to` charges a training that does not reach its target."""

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "final": "maximize",
    "best": "maximize",
    "auc": "maximize",
    "wall": "minimize",
    "steps_to": "minimize",
    "wall_to": "minimize",
}


@dataclass(frozen=True)
class Metric:
    """A named objective of a study.

    - final: the mean return of the last evaluation.
    - best: the highest mean return of any evaluation.
    - auc: the mean return over training, by the trapezoidal rule over steps, starting at the first evaluation.
    - wall: seconds of training.
    - steps_to:X: environment steps until an evaluation reaches X and the next one, if any, reaches it too. A single
      evaluation can reach X by luck, and a search would select such trainings.
    - wall_to:X: seconds until then.

    A training that does not reach X is charged L (2 − p), where L is its total steps, or 10⁶ seconds, and p is how far
    its best evaluation came from the first one towards X, between 0 and 1. It is never better than a training that
    reaches X at the end, and a larger p is better.

    Attributes:
        kind: one of DIRECTIONS.
        target: X, or None.
    """

    kind: str
    target: float | None = None

    @property
    def name(self) -> str:
        """The metric as written on the command line."""
        return self.kind if self.target is None else f"{self.kind}:{self.target:g}"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether the study maximizes or minimizes the metric."""
        return DIRECTIONS[self.kind]

    def __call__(self, points: Sequence[Point], share: float = 1.0) -> float:
        """Return the metric of a training, or an estimate from its first part for a pruner.

        Args:
            points: the evaluations in order, at least one.
            share: the fraction of the training that they cover. If X is not reached, the whole training is charged.
        """
        values = [point.value for point in points]
        if self.kind == "final":
            return values[-1]
        if self.kind == "best":
            return max(values)
        if self.kind == "wall":
            return points[-1].seconds
        if self.kind == "auc":
            steps = np.array([point.steps for point in points], dtype=float)
            width = steps[-1] - steps[0]
            return float(np.trapezoid(values, steps) / width) if width else values[-1]
        return self._cost_to_target(points, share)

    def _cost_to_target(self, points: Sequence[Point], share: float) -> float:
        costs = [float(point.steps) if self.kind == "steps_to" else point.seconds for point in points]
        assert self.target is not None
        reached = [point.value >= self.target for point in points]
        for cost, reaches, next_reaches in zip(costs, reached, [*reached[1:], True], strict=True):
            if reaches and next_reaches:
                return cost
        first = points[0].value
        best = min(max(point.value for point in points), self.target)
        if self.kind == "wall_to":  # the actual seconds would reward trainings that fail quickly
            costs[-1], share = NEVER_SECONDS, 1.0
        progress = (best - first) / (self.target - first) if first < self.target else 1.0
        return costs[-1] / share * (2 - progress)


def parse_metric(text: str) -> Metric:
    """Parse `final`, `best`, `auc`, `wall`, `steps_to:475` or `wall_to:475`.

    Raises:
        ConfigError: the name is unknown, or the target is missing, superfluous or not a number.
    """
    kind, colon, target = text.partition(":")
    if kind not in DIRECTIONS:
        raise ConfigError(unknown("metric", kind, DIRECTIONS))
    if not kind.endswith("_to"):
        if colon:
            raise ConfigError(f"metric {kind!r} does not take a target: use {kind}, not {text}")
        return Metric(kind)
    try:
        if not math.isfinite(float(target)):
            raise ValueError(target)
        return Metric(kind, float(target))
    except ValueError as error:
        raise ConfigError(f"metric {kind!r} needs the return to reach, such as {kind}:475, not {text!r}") from error
