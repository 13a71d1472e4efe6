"""The standard deviation over all episodes of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Need, Rollout, Scale, State, hookimpl
from pgzoo_plugins._std import Of, std


@dataclass(frozen=True)
class BatchStd(Scale):
    """c = std R + 1e-4, the sample standard deviation over the episodes of the batch, whatever their groups.

    All advantages are divided by the same number, and groups of different returns keep their weight. TRL's GRPO trainer
    calls this `scale_rewards="batch"`. `of` chooses the numbers R as in `group_std`.
    """

    name = "batch_std"
    needs = frozenset({Need.COMPLETE_EPISODES})
    unbiased = False
    bias = "the standard deviation depends on the returns that it divides"
    per_episode = True
    of: Annotated[Of, "the returns of episodes, or the rewards of steps"] = "outcomes"

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> float:
        """Return c, a number."""
        return float(std(rollout, returns, self.of, lambda x: np.full(len(x), x.sum()))[0])


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [BatchStd]
