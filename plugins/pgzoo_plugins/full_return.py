"""REINFORCE's return: every action is credited with the whole episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Estimator, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class FullReturn(Estimator):
    """R̂_t = Σ_{k=0}^{end} γ^k r_k, the same for every t of the episode (Williams 1992, REINFORCE)."""

    name = "full_return"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True
    discounted_from = "start"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N): the rewards, each discounted from the episode's start, summed."""
        discounted = rollout.gamma**rollout.step * rollout.rewards
        return rollout.episode_sums(discounted)[rollout.episode]


@hookimpl
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Offer the estimator."""
    return [FullReturn]
