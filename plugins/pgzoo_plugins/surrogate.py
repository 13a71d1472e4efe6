"""The surrogate of TRPO: the policy gradient with a ratio, and without a clip."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgzoo import Batch, Metrics, Objective, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Surrogate(Objective):
    """L = −mean(ρ Ψ), ρ = π/π_old (Schulman et al. 2015, eq. 14).

    Its gradient at π_old is the policy gradient. Nothing in it limits an update, so use it with an update that does.
    """

    name = "surrogate"
    multi_epoch = True

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        loss = -batch.aggregate(batch.ratio * batch.advantages)
        return loss, {"policy_gradient_loss": loss}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [Surrogate]
