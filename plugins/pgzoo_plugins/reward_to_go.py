"""Reward-to-go: an action is credited with the rewards that follow it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Estimator, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class RewardToGo(Estimator):
    """R̂_t = Σ_{k≥t} γ^{k−t} r_k (Williams 1992; Sutton et al. 2000; GPOMDP, Baxter & Bartlett 2001).

    With `bootstrap`, γ V(s_{k+1}) is added at a step k where a time limit or the end of a fragment cuts the episode.
    """

    name = "reward_to_go"
    bootstrap: Annotated[bool, "sample steps instead of episodes, and add V where an episode is cut"] = False

    @property
    def needs(self) -> frozenset[Need]:
        """Complete episodes, or V with `bootstrap`."""
        return frozenset({Need.VALUES if self.bootstrap else Need.COMPLETE_EPISODES})

    @property
    def unbiased(self) -> bool:
        """True without `bootstrap`."""
        return not self.bootstrap

    @property
    def bias(self) -> str:
        """Why it is biased with `bootstrap`."""
        return "a learned V replaces the rewards after a cut" if self.bootstrap else ""

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) by the recursion R̂_t = r_t + γ R̂_{t+1} within each episode."""
        rewards = rollout.rewards.astype(np.float64)
        if self.bootstrap:
            rewards += np.where(rollout.last, rollout.gamma * rollout.next_values, 0.0)
        return rollout.discounted_sums(rewards)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [RewardToGo]
