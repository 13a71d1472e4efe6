"""The plain policy gradient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgzoo import Batch, Metrics, Objective, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PolicyGradientLoss(Objective):
    """L = −mean(Ψ_t log π(a_t | s_t)) (Williams 1992); right for one pass over a rollout."""

    name = "policy_gradient"

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss, and log it as SB3's A2C does."""
        loss = -batch.aggregate(batch.advantages * batch.log_probs)
        return loss, {"policy_loss": loss}


@hookimpl
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Offer the objective."""
    return [PolicyGradientLoss]
