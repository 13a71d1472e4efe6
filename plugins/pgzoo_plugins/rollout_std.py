"""Advantages with mean 0 and standard deviation 1 over the whole rollout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pgzoo import Scale, State, hookimpl
from pgzoo_plugins._normalized import normalized

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RolloutStd(Scale):
    """Ψ ← (Ψ − mean Ψ) / (std Ψ + 1e-8) over the rollout, the same numbers for all minibatches."""

    name = "rollout_std"
    unbiased = False
    bias = "the mean and the standard deviation depend on the advantages that they normalise"
    per_episode = True

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        """Return the normalised advantages of the rollout."""
        return normalized(advantages) if over == "rollout" else advantages


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [RolloutStd]
