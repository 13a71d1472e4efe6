"""The scale of GRPO: the standard deviation within the group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Array, Need, Rollout, Scale, State, hookimpl
from pgzoo_plugins._std import Of, std


@dataclass(frozen=True)
class GroupStd(Scale):
    """c = std_g R + 1e-4, the sample standard deviation over the episodes of a group g (GRPO, Shao et al. 2024).

    `of` chooses the numbers R: outcomes are the means of R̂ over each episode, which are the returns with `full_return`
    (sec. 4.1.2). Rewards are those of all steps of the group, which the process form divides by (sec. 4.1.3). The
    standard deviation of a single number counts as 0.
    """

    name = "group_std"
    needs = frozenset({Need.GROUPS})
    unbiased = False
    bias = "the standard deviation reweights the groups"
    per_episode = True
    of: Annotated[Of, "the returns of episodes, or the rewards of steps"] = "outcomes"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Array:
        """Return c (T, N), constant within a group."""
        return std(rollout, returns, self.of, rollout.group_sums)[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [GroupStd]
