"""The plain policy gradient, without a ratio."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgzoo import Batch, Metrics, Objective, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PolicyGradientLoss(Objective):
    """L = −mean(Ψ_t log π(a_t | s_t)) (Williams 1992), correct for one pass over a rollout."""

    name = "policy_gradient"

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss, logged under the name that SB3's A2C uses."""
        loss = -batch.aggregate(batch.advantages * batch.log_probs)
        return loss, {"policy_loss": loss}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [PolicyGradientLoss]
