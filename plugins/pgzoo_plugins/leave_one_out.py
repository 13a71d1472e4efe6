"""The mean return of the other episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class LeaveOneOut(Baseline):
    """b = the mean, over the batch's other episodes, of each one's mean R̂ over its steps; no other: 0.

    For `full_return` that is the mean of the others' returns (Kool et al. 2019; RLOO, Ahmadian et al. 2024).
    """

    name = "leave_one_out"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array | float, float]:
        """Return b (T, N), the same over an episode, and c = 1."""
        means = rollout.episode_means(returns)
        if len(means) == 1:
            return 0.0, 1.0
        others = (means.sum() - means) / (len(means) - 1)
        return others[rollout.episode], 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [LeaveOneOut]
