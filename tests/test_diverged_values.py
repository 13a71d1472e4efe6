"""If V is not finite, training diverged: the estimator that added V up is not to blame."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pgzoo_plugins.lambda_return import LambdaReturn
from pgzoo_plugins.none import NoBaseline, NoScale
from rollouts import make_rollout

from pgzoo import Estimator, PluginError
from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.errors import DivergenceError

STATES: Any = {"estimator": None, "baseline": None, "scale": None}


@pytest.mark.parametrize("name", ["values", "next_values"])
def test_the_first_value_that_is_not_finite_is_named(name: str) -> None:
    numbers: dict[str, Any] = {"values": np.zeros((3, 2)), "next_values": np.zeros((3, 2))}
    numbers[name][1, 1] = np.nan
    rollout = make_rollout(np.ones((3, 2)), **numbers)
    with pytest.raises(DivergenceError, match="training diverged: V is nan at step 1 of environment 1; lower"):
        compute_advantages(LambdaReturn(), NoBaseline(), NoScale(), rollout, STATES)


class Broken(Estimator):
    """R̂ = ∞ whatever V is."""

    name = "broken"

    def __call__(self, rollout: Any, state: Any = None) -> Any:
        return np.full(rollout.shape, np.inf)


def test_a_part_is_to_blame_if_v_is_finite() -> None:
    rollout = make_rollout([1, 2], values=[3, 4])
    with pytest.raises(PluginError, match="estimator 'broken': R̂ is inf at step 0"):
        compute_advantages(Broken(), NoBaseline(), NoScale(), rollout, STATES)
