"""The mean return of the other episodes (RLOO)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class LeaveOneOut(Baseline):
    """b_i = 1/(K−1) Σ_{j≠i} R_j over the K episodes of a group, R_j the mean of R̂ over episode j (Kool et al. 2019).

    With `full_return`, R_j is the return of episode j. This is RLOO (Ahmadian et al. 2024), and
    R_i − b_i = K/(K−1) (R_i − mean R). Without groups, the batch is one group. If K = 1, b = 0.
    """

    name = "leave_one_out"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N), constant within an episode."""
        means = rollout.episode_means(returns)
        n_others = rollout.group_sums(np.ones_like(means)) - 1
        b: Array = np.where(n_others > 0, rollout.group_sums(means) - means, 0.0) / np.maximum(n_others, 1)
        return b[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [LeaveOneOut]
