"""CISPO: the ratio is clipped as a weight, so that every step keeps its gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Objective, Range, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch

POSITIVE = Range(0, open_low=True)


@dataclass(frozen=True)
class CISPO(Objective):
    """L = −mean(sg(min(ρ, 1 + ε_high)) Ψ log π), sg: no gradient (MiniMax-M1, 2025, eq. 4 and 5).

    PPO's clip gives a step beyond it no gradient at all; here it only limits the step's weight. The report
    names no ε_high; the default is DAPO's.
    """

    name = "cispo"
    multi_epoch = True
    clip_range_high: Annotated[float | Schedule, Range(0), Search(choices=(0.2, 0.28, 1.0, 4.0)), "ε_high"] = 0.28

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        limit = 1 + batch.scheduled(self.clip_range_high)
        weight = batch.ratio.detach().clamp(max=limit)
        loss = -batch.aggregate(weight * batch.advantages * batch.log_probs)
        return loss, {"policy_gradient_loss": loss, "clip_fraction": (batch.ratio > limit).float().mean()}


@hookimpl
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Offer the objective."""
    return [CISPO]
