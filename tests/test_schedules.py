"""Schedules: what they see when a rollout exceeds the steps of training, and what they may return."""

from __future__ import annotations

import math
from typing import Any

import pytest

from pgzoo import ConfigError
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.schedules import as_schedule, value_at
from pgzoo.registry.settings import AlgorithmConfig

LEARNING_RATE = declared(AlgorithmConfig)["learning_rate"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (lambda left: 1e-3 * left, 0.0),
        (lambda left: 1.0 + left, 1.0),
        ({"schedule": "linear", "initial": 4.0, "final": 2.0}, 2.0),
        ({"schedule": "linear", "initial": 4.0, "end_fraction": 0.5}, 0.0),
        ({"schedule": "constant", "initial": 4.0}, 4.0),
        (0.5, 0.5),
    ],
)
def test_a_schedule_never_sees_less_than_zero(value: Any, expected: float) -> None:
    """SB3's progress is −0.1 when a rollout of 110 steps is the only one of 100. Finds a negative learning rate."""
    assert as_schedule(value)(-0.1) == expected
    assert as_schedule(as_schedule(value))(-0.1) == expected
    assert value_at(LEARNING_RATE, as_schedule(value), -0.1) == expected


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            lambda left: math.nan,
            "learning_rate (its schedule, with 0.5 of training remaining) must be a number, not nan",
        ),
        (lambda left: -left, "remaining) must lie in [0, ∞), not -0.5"),
        (lambda left: math.inf, "remaining) must lie in [0, ∞), not inf"),
        (lambda left: None, "remaining): TypeError: "),
        (lambda left: 1 / 0, "remaining): ZeroDivisionError: division by zero"),
        (lambda: 1.0, "remaining): TypeError: "),
    ],
)
def test_what_a_schedule_must_not_return(schedule: Any, message: str) -> None:
    """Finds a policy that is destroyed by one update with a step size of NaN."""
    with pytest.raises(ConfigError) as error:
        value_at(LEARNING_RATE, as_schedule(schedule), 0.5)
    assert message in str(error.value)


def test_what_a_schedule_may_return() -> None:
    import numpy as np

    assert value_at(LEARNING_RATE, lambda left: np.float32(left), 0.5) == 0.5  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"must be a number, not 'fast'"):
        value_at(LEARNING_RATE, lambda left: "fast", 0.5)  # type: ignore[arg-type,return-value]
