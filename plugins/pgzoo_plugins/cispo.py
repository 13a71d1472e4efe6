"""CISPO: the clipped ratio is a constant weight, and every step keeps a gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Objective, Range, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CISPO(Objective):
    """L = −mean(sg(min(ρ, 1 + ε_high)) Ψ log π), where sg stops the gradient (MiniMax-M1, 2025, eq. 4 and 5).

    PPO's clip removes the gradient of a step whose ratio is clipped. Here the clip only limits the weight of the step.
    The paper does not state ε_high. The default is DAPO's.
    """

    name = "cispo"
    multi_epoch = True
    clip_range_high: Annotated[float | Schedule, Range(0), Search(0.2, 4.0, log=True), "clip ρ at 1 + ε_high"] = 0.28

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        limit = 1 + batch.scheduled(self.clip_range_high)
        weight = batch.ratio.detach().clamp(max=limit)
        loss = -batch.aggregate(weight * batch.advantages * batch.log_probs)
        return loss, {"policy_gradient_loss": loss, "clip_fraction": (batch.ratio > limit).float().mean()}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [CISPO]
