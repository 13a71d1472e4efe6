"""Metrics, computed by hand."""

from __future__ import annotations

import pytest

from pgzoo import ConfigError
from pgzoo.tuning.metrics import Metric, Point, parse_metric

POINTS = [Point(100, 1.0, 20.0), Point(200, 2.5, 80.0), Point(400, 5.0, 60.0)]


@pytest.mark.parametrize(
    ("text", "value", "direction"),
    [
        ("final", 60.0, "maximize"),
        ("best", 80.0, "maximize"),
        # 100 steps at a mean of 50 and 200 at 70: (5000 + 14000) / 300.
        ("auc", 19_000 / 300, "maximize"),
        ("wall", 5.0, "minimize"),
        ("steps_to:60", 200.0, "minimize"),
        ("wall_to:60", 2.5, "minimize"),
        # Reached once, at 200, but not at the next evaluation: p = 1, so 400 · (2 − 1).
        ("steps_to:70", 400.0, "minimize"),
        ("steps_to:20", 100.0, "minimize"),
        # Never reached: the best came 60 of the 100 from 20 to 120, so 400 · (2 − 0.6).
        ("steps_to:120", 560.0, "minimize"),
        ("wall_to:120", 1.4e6, "minimize"),
    ],
)
def test_metrics_by_hand(text: str, value: float, direction: str) -> None:
    metric = parse_metric(text)
    assert metric(POINTS) == pytest.approx(value)
    assert metric.direction == direction
    assert metric.name == text


def test_a_run_that_reaches_its_target_beats_one_that_does_not() -> None:
    metric = Metric("steps_to", 81.0)
    last_moment = [*POINTS, Point(500, 6.0, 81.0)]
    assert metric(last_moment) == 500.0 < metric([*POINTS[:2], Point(500, 6.0, 80.99)])


def test_a_run_that_gets_worse_from_its_first_evaluation() -> None:
    # p = 0, so 300 · (2 − 0).
    assert Metric("steps_to", 90.0)([Point(100, 1, 50.0), Point(300, 2, 10.0)]) == 600.0


def test_the_estimate_from_the_first_part_of_a_training() -> None:
    # A quarter of the training has not reached 100. The best came 60 of 80: (400 / 0.25) · (2 − 0.75).
    assert Metric("steps_to", 100.0)(POINTS, 0.25) == 2000.0
    # The last evaluation so far counts, because the next one is not known.
    assert Metric("steps_to", 80.0)(POINTS[:2], 0.25) == 200.0


def test_one_evaluation_is_enough() -> None:
    assert parse_metric("auc")(POINTS[:1]) == 20.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("finale", "unknown metric 'finale'; did you mean 'final'"),
        ("steps_to", "needs the return to reach, such as steps_to:475"),
        ("wall_to:soon", "needs the return to reach"),
        ("steps_to:nan", "needs the return to reach"),
        ("best:3", "does not take a target: use best, not best:3"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_metric(text)
