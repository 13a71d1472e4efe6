"""The constant baseline of least variance."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class Optimal(Baseline):
    """b = E[‖∇ log π‖² R̂] / E[‖∇ log π‖²] over the steps of the other episodes of the group.

    This constant minimises Σ_t Var[∇ log π(a_t | s_t) (R̂_t − b)], which ignores covariances between steps (Greensmith
    et al. 2004; Peters & Schaal 2008). The gradient is taken with respect to the outputs of the
    action head. Without groups, the batch is one group. If there is no other episode, b = 0.
    """

    name = "optimal"
    needs = frozenset({Need.COMPLETE_EPISODES, Need.SCORES})
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N), constant within an episode."""
        weights = rollout.episode_sums(rollout.score_sq_norms)
        weighted = rollout.episode_sums(rollout.score_sq_norms * returns)
        denominator = rollout.group_sums(weights) - weights
        numerator = rollout.group_sums(weighted) - weighted
        has_others = rollout.group_sums(np.ones_like(weights)) > 1
        b: Array = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=(denominator > 0) & has_others)
        return b[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [Optimal]
