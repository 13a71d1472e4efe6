"""The return of REINFORCE: every action is credited with the rewards of the whole episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Estimator, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class FullReturn(Estimator):
    """R̂_t = Σ_{k=0}^{T−1} γ^k r_k, the same for all T steps of an episode (REINFORCE, Williams 1992)."""

    name = "full_return"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True
    discounted_from = "start"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N)."""
        discounted = rollout.gamma**rollout.step * rollout.rewards
        return rollout.episode_sums(discounted)[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [FullReturn]
