"""DAPO: a clip range that extends further up than down, and no groups of equal returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Batch, Metrics, Need, Objective, Positive, Range, Schedule, Search, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DAPO(Objective):
    """L = −mean(min(ρ Ψ, clip(ρ, 1−ε_low, 1+ε_high) Ψ)) over all steps (Yu et al. 2025, eq. 8).

    In a group of equal returns Ψ = 0, and nothing can be learned from it. Such groups are dropped, and others are
    sampled in their place, at most `resample_budget` times the groups of an update (dynamic sampling, sec. 3.2).
    The default ε are the paper's. Its reward shaping for overlong answers is not included.
    """

    name = "dapo"
    needs = frozenset({Need.GROUPS})
    multi_epoch = True
    clip_range_low: Annotated[float | Schedule, Positive, Search(0.1, 0.3), "ρ ≥ 1 − ε_low"] = 0.2
    clip_range_high: Annotated[float | Schedule, Positive, Search(0.2, 0.4), "ρ ≤ 1 + ε_high"] = 0.28
    resample_budget: Annotated[float, Range(0, 100), "replacement groups per group of an update, at most"] = 2.0

    def __call__(self, batch: Batch, state: State = None) -> tuple[torch.Tensor, Metrics]:
        """Return the loss."""
        surrogate, clip_fraction = batch.clipped_surrogate(self.clip_range_low, self.clip_range_high)
        loss = -batch.aggregate(surrogate)
        return loss, {"policy_gradient_loss": loss, "clip_fraction": clip_fraction}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Objective]]:
    """Register the objective."""
    return [DAPO]
