"""The baseline of GRPO: the mean return of the group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class Group(Baseline):
    """b = mean_g R over the episodes of a group g (GRPO, Shao et al. 2024, sec. 4.1).

    `form` chooses what is compared:

    - outcome (sec. 4.1.2): R is the mean of R̂ over an episode. With `full_return` this is the return.
    - process (sec. 4.1.3): each reward minus the mean of all rewards of the group. These differences are summed and
      discounted as in `reward_to_go`: b_t = mean_g r · Σ_{k≥t} γ^{k−t}.

    GRPO divides by the standard deviation, the scale `group_std`. Dr. GRPO does not (Liu et al. 2025).
    """

    name = "group"
    unbiased = False
    bias = "the mean includes the return it is compared with"
    form: Annotated[Literal["outcome", "process"], "compare returns of episodes, or rewards of steps"] = "outcome"

    @property
    def needs(self) -> frozenset[Need]:
        """Groups, and one return per step for the process form."""
        return frozenset({Need.GROUPS, Need.STEP_RETURNS} if self.form == "process" else {Need.GROUPS})

    @property
    def per_episode(self) -> bool:
        """True in the outcome form."""
        return self.form == "outcome"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N)."""
        if self.form == "process":
            mean = rollout.group_sums(rollout.episode_sums(rollout.rewards)) / rollout.group_sums(rollout.lengths)
            return rollout.discounted_sums(np.where(rollout.mask, mean[rollout.episode], 0.0))
        outcomes = rollout.episode_means(returns)
        return (rollout.group_sums(outcomes) / rollout.group_sums(np.ones_like(outcomes)))[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [Group]
