"""Dr. GRPO: clipped, summed over steps and divided by a constant length."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np

from pgzoo import AggregateParam, Array, Batch, Metrics, Objective, Range, Rollout, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch

POSITIVE = Range(0, open_low=True)


@dataclass(frozen=True)
class DrGRPO(Objective):
    """L = −(1/E) Σ_e (1/L) Σ_t min(ρ Ψ, clip(ρ, 1−ε, 1+ε) Ψ), L a constant (Liu et al. 2025).

    Dividing by an episode's own length, as GRPO does, weighs the steps of short good episodes more and of long
    bad ones less. It goes with the baseline `group` at `scale` "none".
    """

    name = "dr_grpo"
    multi_epoch = True
    aggregate: AggregateParam = "episode_sum"
    clip_range: Annotated[float | Schedule, POSITIVE, Search(choices=(0.1, 0.2, 0.3, 0.4)), "ε"] = 0.2
    length: Annotated[float, POSITIVE, "L, steps: the longest episode, or any constant"] = 100.0

    def weights(self, rollout: Rollout) -> Array:
        """Return those of `aggregate` divided by L, for the loss and the entropy bonus."""
        weights = super().weights(rollout)
        return (np.full(rollout.lengths.sum(), 1 / rollout.lengths.sum()) if weights is None else weights) / self.length

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
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Offer the objective."""
    return [DrGRPO]
