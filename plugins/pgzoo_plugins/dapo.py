"""DAPO: more room upwards than downwards, and no group without a signal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Need, Objective, Range, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch

POSITIVE = Range(0, open_low=True)


@dataclass(frozen=True)
class DAPO(Objective):
    """L = −mean(min(ρ Ψ, clip(ρ, 1−ε_low, 1+ε_high) Ψ)) over all steps (Yu et al. 2025, eq. 8).

    Groups of equal returns have Ψ = 0: they are dropped, and others sampled in their place, up to
    `resample_budget` times the update's groups (dynamic sampling, sec. 3.2). The paper's shaping of overlong
    answers is left out; its ε are the defaults.
    """

    name = "dapo"
    needs = frozenset({Need.GROUPS})
    multi_epoch = True
    clip_range_low: Annotated[float | Schedule, POSITIVE, Search(choices=(0.1, 0.2, 0.3)), "ε_low"] = 0.2
    clip_range_high: Annotated[float | Schedule, POSITIVE, Search(choices=(0.2, 0.28, 0.4)), "ε_high"] = 0.28
    resample_budget: Annotated[float, Range(0, 100), "groups that may be sampled anew, times those of an update"] = 2.0

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range_low, self.clip_range_high)
        loss = -batch.aggregate(surrogate)
        return loss, {"policy_gradient_loss": loss, "clip_fraction": clip_fraction}


@hookimpl
def pgzoo_objectives() -> Iterable[type[Objective]]:
    """Offer the objective."""
    return [DAPO]
