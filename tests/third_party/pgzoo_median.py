"""The median return of the batch."""

from dataclasses import dataclass

import numpy as np

from pgzoo import Baseline, hookimpl


@dataclass(frozen=True)
class Median(Baseline):
    """b = median of R̂ over the steps of the batch."""

    name = "median"
    plugin_api = "2.0"
    bias = "the median includes the return it is compared with"

    def __call__(self, rollout, returns, state=None):
        """Return b, a number, and c = 1."""
        return float(np.median(returns[rollout.mask])), 1.0


@hookimpl
def pgzoo_plugins():
    """Register the baseline."""
    return [Median]
