"""Advantages with mean 0 and standard deviation 1 in each minibatch, as in SB3's PPO."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pgzoo import Scale, State, hookimpl
from pgzoo_plugins._normalized import normalized

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MinibatchStd(Scale):
    """Ψ ← (Ψ − mean Ψ) / (std Ψ + 1e-8) over each minibatch: SB3's `normalize_advantage=True`."""

    name = "minibatch_std"
    unbiased = False
    bias = "the mean and the standard deviation depend on the advantages that they normalise"
    per_episode = True

    def rescaled(
        self, advantages: torch.Tensor, over: Literal["rollout", "minibatch"], state: State = None
    ) -> torch.Tensor:
        """Return the normalised advantages of a minibatch."""
        return normalized(advantages) if over == "minibatch" else advantages


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [MinibatchStd]
