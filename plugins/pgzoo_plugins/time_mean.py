"""The mean return at the same time step of all episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Rollout, State, hookimpl
from pgzoo_plugins._optional_leave_one_out import OptionalLeaveOneOut


@dataclass(frozen=True)
class TimeMean(OptionalLeaveOneOut):
    """b_t = mean of R̂_t over the episodes of the batch that reach step t (Greensmith et al. 2004).

    With `leave_one_out`, the mean excludes the episode that it is compared with. If no other episode reaches step t,
    b_t = 0.
    """

    name = "time_mean"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N)."""
        steps = rollout.flat(rollout.step)
        count = np.bincount(steps)[rollout.step]
        total = np.bincount(steps, rollout.flat(returns))[rollout.step]
        if self.leave_one_out:
            return np.where(count > 1, total - returns, 0.0) / np.maximum(count - 1, 1)
        return total / np.maximum(count, 1)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [TimeMean]
