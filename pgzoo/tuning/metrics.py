"""What a trial is judged by: one number from the evaluations of a training run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pgzoo.errors import ConfigError, unknown


@dataclass(frozen=True)
class Point:
    """One evaluation during training, on environments of its own.

    Attributes:
        steps: environment steps so far.
        seconds: of training so far, evaluations left out.
        value: the mean return.
    """

    steps: int
    seconds: float
    value: float


NEVER_SECONDS = 1e6

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
    - best: the highest mean return of an evaluation.
    - auc: the mean return over training, by the trapezoidal rule over steps, from the first evaluation on.
    - wall: seconds of training.
    - steps_to:X: environment steps until an evaluation reaches X and the next one, where there is one, does too: on
      the way up single evaluations are lucky, and a search finds those.
    - wall_to:X: seconds until then.

    A run that does not reach X gets its whole length (of seconds, 10⁶) times 2 − p, p the part of the way from the
    first evaluation to X that its best one went: no better than one that does at its end, and ordered by p.

    Attributes:
        kind: one of DIRECTIONS.
        target: X, or None.
    """

    kind: str
    target: float | None = None

    @property
    def name(self) -> str:
        """As it is written on the command line."""
        return self.kind if self.target is None else f"{self.kind}:{self.target:g}"

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether more is better."""
        return DIRECTIONS[self.kind]

    def __call__(self, points: Sequence[Point], share: float = 1.0) -> float:
        """Return the number of one training run, or what its first part promises, for a pruner.

        Args:
            points: its evaluations in order, the last one at its end; at least one.
            share: the part of the run that they cover; what has not reached X is charged for the whole run.
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
        for cost, now, then in zip(costs, reached, [*reached[1:], True], strict=True):
            if now and then:
                return cost
        first = points[0].value
        best = min(max(point.value for point in points), self.target)
        if self.kind == "wall_to":  # seconds of its own would reward what fails fast
            costs[-1], share = NEVER_SECONDS, 1.0
        way = (best - first) / (self.target - first) if first < self.target else 1.0
        return costs[-1] / share * (2 - way)


def parse_metric(text: str) -> Metric:
    """Read `final`, `best`, `auc`, `wall`, `steps_to:475` or `wall_to:475`.

    Raises:
        ConfigError: an unknown name, or a target that is missing, is no number, or is not taken.
    """
    kind, colon, target = text.partition(":")
    if kind not in DIRECTIONS:
        raise ConfigError(unknown("metric", kind, DIRECTIONS))
    if not kind.endswith("_to"):
        if colon:
            raise ConfigError(f"metric {kind!r} takes no target, not {text!r}")
        return Metric(kind)
    try:
        if not math.isfinite(float(target)):
            raise ValueError(target)
        return Metric(kind, float(target))
    except ValueError as error:
        raise ConfigError(f"metric {kind!r} takes the return to reach, such as {kind}:475, not {text!r}") from error
