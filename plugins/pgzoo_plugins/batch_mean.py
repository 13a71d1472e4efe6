"""The batch's own mean return."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Rollout, State, hookimpl


@dataclass(frozen=True)
class BatchMean(Baseline):
    """b = the mean of R̂ over all steps of the batch (Williams 1992; Greensmith et al. 2004)."""

    name = "batch_mean"
    unbiased = False
    per_episode = True
    bias = "the mean contains the own episode's return"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[float, float]:
        """Return one number for b, and c = 1."""
        return rollout.mean(returns), 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [BatchMean]
