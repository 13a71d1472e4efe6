"""The mean return over all steps of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Rollout, State, hookimpl


@dataclass(frozen=True)
class BatchMean(Baseline):
    """b = mean of R̂ over all steps of the batch (Williams 1992; Greensmith et al. 2004)."""

    name = "batch_mean"
    unbiased = False
    per_episode = True
    bias = "the mean includes the return it is compared with"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> float:
        """Return b, a number."""
        return rollout.mean(returns)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [BatchMean]
