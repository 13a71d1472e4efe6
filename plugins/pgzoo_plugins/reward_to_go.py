"""Reward-to-go: an action is credited with what came after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Estimator, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class RewardToGo(Estimator):
    """R̂_t = Σ_{k≥t} γ^{k−t} r_k (Williams 1992; Sutton et al. 2000; Baxter & Bartlett 2001, GPOMDP).

    With `bootstrap`, γ V(s_{t+1}) is added where a time limit or a fragment's edge cuts the sum.
    """

    name = "reward_to_go"
    bootstrap: Annotated[bool, "sample steps and add V at a cut, which is biased"] = False

    @property
    def needs(self) -> frozenset[Need]:
        """Whole episodes, or V."""
        return frozenset({Need.VALUES if self.bootstrap else Need.COMPLETE_EPISODES})

    @property
    def unbiased(self) -> bool:
        """Only without the bootstrap."""
        return not self.bootstrap

    @property
    def bias(self) -> str:
        """Why it is biased."""
        return "a learned V stands for what a cut left out" if self.bootstrap else ""

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) by R̂_t = r_t + γ R̂_{t+1} within the episode."""
        rewards = rollout.rewards.astype(np.float64)
        if self.bootstrap:
            rewards += np.where(rollout.last, rollout.gamma * rollout.next_values, 0.0)
        return rollout.discounted_sums(rewards)


@hookimpl
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Offer the estimator."""
    return [RewardToGo]
