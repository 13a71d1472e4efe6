"""The baseline of each step that has the least variance, with scores summed from the start of the episode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl
from pgzoo_plugins._optional_leave_one_out import OptionalLeaveOneOut


@dataclass(frozen=True)
class OptimalToken(OptionalLeaveOneOut):
    """b_t = Σ_i W_t^i R̂_t^i / Σ_i W_t^i over the group's episodes i that reach step t.

    W_t = Σ_{j≤t} ‖∇ log π(a_j | s_j)‖², with respect to the outputs of the action head, takes the scores of the steps
    up to t to be uncorrelated (Li et al. 2026, arXiv:2602.07078). The published form contains the episode's own return,
    which biases the gradient. With `leave_one_out`, the sums are over the other episodes, and b_t = 0 where no other
    one reaches step t. Without groups, the batch is one group.
    """

    name = "optimal_token"
    needs = frozenset({Need.COMPLETE_EPISODES, Need.SCORES})

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N)."""
        scores = np.where(rollout.mask, rollout.score_sq_norms, 0.0)
        sums = np.cumsum(scores, axis=0)
        before_episode = rollout.episode_sums(np.where(rollout.step == 0, sums - scores, 0.0))
        weights = sums - before_episode[rollout.episode]
        place = rollout.group * (rollout.step.max() + 1) + rollout.step  # the same for equal groups and steps
        numerator, denominator = (
            np.bincount(rollout.flat(place), rollout.flat(x))[place] for x in (weights * returns, weights)
        )
        if self.leave_one_out:
            alone = np.bincount(rollout.flat(place))[place] == 1
            numerator, denominator = numerator - weights * returns, np.where(alone, 0.0, denominator - weights)
        b: Array = np.divide(numerator, denominator, out=np.zeros(rollout.shape), where=denominator > 0)
        return b


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [OptimalToken]
