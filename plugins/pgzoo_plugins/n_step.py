"""The n-step return: n rewards, then V."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class NStep(Estimator):
    """R̂_t = Σ_{k<n} γ^k r_{t+k} + γ^n V(s_{t+n}) (Sutton & Barto 2018, eq. 7.1; A3C, Mnih et al. 2016).

    If the episode or fragment ends within n steps, the sum stops there.
    """

    name = "n_step"
    needs = frozenset({Need.VALUES})
    unbiased = False
    bias = "a learned V replaces the rewards after n steps"
    horizon: Annotated[int, Range(1), Search(1, 20, log=True), "n, the number of rewards before V"] = 5
    recompute: Annotated[Literal["rollout", "epoch"], "take V at sampling, or before each epoch"] = "rollout"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) by the recursion R^(n)_t = r_t + γ R^(n−1)_{t+1} from the one-step target R^(1)."""
        rewards = rollout.rewards.astype(np.float64)
        one_step = rewards + rollout.gamma * rollout.next_values
        returns = one_step
        for _ in range(min(self.horizon, len(rewards)) - 1):
            following = np.roll(returns, -1, axis=0)  # the last row is a last step, where `one_step` is used
            returns = np.where(rollout.last, one_step, rewards + rollout.gamma * following)
        return returns


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [NStep]
