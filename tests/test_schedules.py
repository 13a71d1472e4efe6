"""Schedules: what they see when a rollout exceeds the steps of training, and what they may return."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from pgzoo import ConfigError, PolicyGradient
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.schedules import as_schedule, value_at
from pgzoo.registry.settings import AlgorithmConfig

LEARNING_RATE = declared(AlgorithmConfig)["learning_rate"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"schedule": "linear", "initial": 4.0, "final": 2.0}, 3.0),
        ({"schedule": "linear", "initial": 4.0, "end_fraction": 0.5}, 0.0),
        ({"schedule": "constant", "initial": 4.0}, 4.0),
        (lambda left: 1.0 + left, 1.5),
        (0.5, 0.5),
    ],
)
def test_the_value_in_the_middle_of_training(value: Any, expected: float) -> None:
    assert as_schedule(value)(0.5) == expected
    assert value_at(LEARNING_RATE, as_schedule(value), 0.5) == expected


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


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"learning_rate": lambda left: 1e-3 if left == 1 else -0.1},
            r"learning_rate .* must lie in",
        ),
        (
            {"learning_rate": lambda left: 1e-3 if left == 1 else math.nan},
            r"learning_rate .* must be a number",
        ),
        ({"clip_range": lambda left: math.nan}, r"clip_range .* must be a number, not nan"),
        ({"clip_range": lambda left: -0.1}, r"clip_range .* must lie in"),
        ({"clip_range": lambda left: 1 / 0}, r"clip_range .*: ZeroDivisionError"),
    ],
)
def test_schedules_are_checked_at_every_update(options: Any, message: str, fast: Any) -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", n_steps=16, fast=fast, device="cpu", **options)
    before = {name: x.clone() for name, x in model.policy.state_dict().items()}
    with pytest.raises(ConfigError, match=message):
        model.learn(16)
    assert all(torch.equal(x, before[name]) for name, x in model.policy.state_dict().items())


def test_what_a_schedule_may_return() -> None:
    import numpy as np

    assert value_at(LEARNING_RATE, lambda left: np.float32(left), 0.5) == 0.5  # type: ignore[arg-type,return-value]
    with pytest.raises(ConfigError, match=r"must be a number, not 'fast'"):
        value_at(LEARNING_RATE, lambda left: "fast", 0.5)  # type: ignore[arg-type,return-value]
