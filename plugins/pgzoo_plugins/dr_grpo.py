"""Dr. GRPO: the clipped surrogate, summed over the steps of an episode and divided by a constant length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pgzoo import AggregateParam, Array, Batch, Metrics, Objective, Positive, Rollout, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DrGRPO(Objective):
    """L = −(1/E) Σ_e (1/L) Σ_t min(ρ Ψ, clip(ρ, 1−ε, 1+ε) Ψ) (Liu et al. 2025).

    E is the number of episodes and L a constant. GRPO divides by the length T_e of each episode instead, which gives
    more weight to short good episodes and less to long bad ones. Use it with the baseline `group` and the scale `none`.
    """

    name = "dr_grpo"
    multi_epoch = True
    aggregate: AggregateParam = "episode_sum"
    clip_range: Annotated[float | Schedule, Positive, Search(0.1, 0.4), "clip ρ at 1 ± ε"] = 0.2
    length: Annotated[float, Positive, "L in steps: the longest possible episode, or any constant"] = 100.0

    def weights(self, rollout: Rollout, state: State = None) -> Array:
        """Return the weights of `aggregate` (M,) divided by L. They apply to the loss and the entropy bonus."""
        weights = super().weights(rollout, state)
        if weights is None:  # the plain mean over M steps
            n_steps = rollout.lengths.sum()
            weights = np.full(n_steps, 1 / n_steps)
        return weights / self.length

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range, self.clip_range)
        loss = -batch.aggregate(surrogate)
        return loss, {
            "policy_gradient_loss": loss,
            "clip_fraction": clip_fraction,
            "clip_range": batch.scheduled(self.clip_range),
        }


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [DrGRPO]
