"""The mean return of the batch's episodes at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Baseline, Rollout, State, hookimpl


@dataclass(frozen=True)
class TimeMean(Baseline):
    """b_t = the mean of R̂_t over the batch's episodes that reach step t (Greensmith et al. 2004).

    With `leave_one_out` the own episode is left out; where no other reaches t, b_t = 0.
    """

    name = "time_mean"
    leave_one_out: Annotated[bool, "leave the own episode out, which makes it unbiased"] = False

    @property
    def unbiased(self) -> bool:
        """Only if the own episode is left out."""
        return self.leave_one_out

    @property
    def bias(self) -> str:
        """Why it is biased."""
        return "" if self.leave_one_out else "the mean contains the own episode's return"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, float]:
        """Return b (T, N), and c = 1."""
        steps = rollout.flat(rollout.step)
        count = np.bincount(steps)[rollout.step]
        total = np.bincount(steps, rollout.flat(returns))[rollout.step]
        if self.leave_one_out:
            return np.where(count > 1, total - returns, 0.0) / np.maximum(count - 1, 1), 1.0
        return total / np.maximum(count, 1), 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [TimeMean]
