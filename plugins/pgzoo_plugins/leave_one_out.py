"""The mean return of the other episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class LeaveOneOut(Baseline):
    """b = the mean, over the group's other episodes, of each one's mean R̂ over its steps; no other: 0.

    Without groups the whole batch is one. For `full_return` b is the mean of the others' returns: RLOO (Kool et
    al. 2019; Ahmadian et al. 2024), which is K/(K − 1) (R − mean) for K episodes.
    """

    name = "leave_one_out"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, float]:
        """Return b (T, N), the same over an episode, and c = 1."""
        means = rollout.episode_means(returns)
        others = rollout.group_sums(np.ones_like(means)) - 1
        b = np.where(others > 0, rollout.group_sums(means) - means, 0.0) / np.maximum(others, 1)
        return b[rollout.episode], 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [LeaveOneOut]
