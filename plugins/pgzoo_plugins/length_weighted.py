"""The mean return of a group, weighted by the lengths of its episodes (OPO)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl
from pgzoo_plugins._optional_leave_one_out import OptionalLeaveOneOut


@dataclass(frozen=True)
class LengthWeighted(OptionalLeaveOneOut):
    """b = Σ_i l_i R_i / Σ_i l_i over a group, l_i the length of episode i and R_i the mean of its R̂.

    This is the constant baseline of least variance if the squared norm of an episode's score is proportional to its
    length (OPO, Hao et al. 2025, arXiv:2505.23585). The published form contains the episode itself, which biases the
    gradient. With `leave_one_out` it does not, and a group of one has b = 0. Without groups, the batch is one group.
    """

    name = "length_weighted"
    needs = frozenset({Need.COMPLETE_EPISODES})
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N), constant within an episode."""
        lengths, sums = rollout.lengths.astype(float), rollout.episode_sums(returns)
        numerator, denominator = rollout.group_sums(sums), rollout.group_sums(lengths)
        if self.leave_one_out:
            numerator, denominator = numerator - sums, denominator - lengths
        b: Array = np.where(denominator > 0, numerator, 0.0) / np.maximum(denominator, 1)
        return b[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [LengthWeighted]
