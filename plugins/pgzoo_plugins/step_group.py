"""The mean return of the group's other episodes at the same time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Baseline, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class StepGroup(Baseline):
    """b_t = mean of R̂_u over the group's other episodes at all steps u with ⌊u/k⌋ = ⌊t/k⌋, k the `bin_size`.

    Episodes of a group begin in the same state, so that their states at equal times are similar at first. The mean over
    a group and a bin of steps replaces the critic of PPO in Chen et al. 2025 (arXiv:2510.03679), where it contains the
    episode itself. Without groups, the batch is one group. If no other episode reaches the bin, b_t = 0.
    """

    name = "step_group"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = True
    bin_size: Annotated[int, Range(1), Search(1, 64, scale="pow2"), "k, steps that share a mean"] = 1

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N)."""
        bins = rollout.step // self.bin_size
        n_bins = bins.max() + 1
        in_group, in_episode = rollout.group * n_bins + bins, rollout.episode * n_bins + bins

        def over_others(x: Array) -> Array:
            """Return the sum of x (T, N) over the bin's steps of the group's other episodes."""
            total: Array = np.bincount(rollout.flat(in_group), rollout.flat(x))[in_group]
            own: Array = np.bincount(rollout.flat(in_episode), rollout.flat(x))[in_episode]
            return total - own

        n_others = over_others(np.ones(rollout.shape))
        return np.where(n_others > 0, over_others(returns), 0.0) / np.maximum(n_others, 1)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [StepGroup]
