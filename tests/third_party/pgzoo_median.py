"""The batch's median return."""

from dataclasses import dataclass

import numpy as np

from pgzoo import Baseline, hookimpl


@dataclass(frozen=True)
class Median(Baseline):
    """b = the median of R̂ over the batch's steps."""

    name = "median"
    plugin_api = "1.0"
    bias = "the median contains the own episode's return"

    def __call__(self, rollout, returns, state=None):
        """Return one number for b, and c = 1."""
        return float(np.median(returns[rollout.mask])), 1.0


@hookimpl
def pgzoo_baselines():
    """Offer the baseline."""
    return [Median]
