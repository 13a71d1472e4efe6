"""An exponential average of earlier batches' mean returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pgzoo import Array, Baseline, Metrics, Range, Rollout, Search, Spaces, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MovingAverage(Baseline):
    """b = m / w with m ← decay·m + (1−decay)·mean(R̂), w ← decay·w + (1−decay), both 0 at first.

    Williams 1992 (reinforcement comparison); dividing by w corrects for the start at 0. The present batch is
    not in it, so it is unbiased; before the first batch b = 0.
    """

    name = "moving_average"
    unbiased = True
    per_episode = True
    decay: Annotated[float, Range(0, 1, open_high=True), Search(0.5, 0.99), "share kept of the average"] = 0.9

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return the two sums, as buffers."""
        import torch

        state = torch.nn.Module()
        state.register_buffer("total", torch.zeros(()))
        state.register_buffer("weight", torch.zeros(()))
        return state

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[float, float]:
        """Return one number for b, and c = 1."""
        return (float(state.total / state.weight) if state.weight > 0 else 0.0), 1.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        """Take the batch's mean in."""
        state.total.mul_(self.decay).add_((1 - self.decay) * rollout.mean(returns))
        state.weight.mul_(self.decay).add_(1 - self.decay)
        return {"moving_average": float(state.total / state.weight)}


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [MovingAverage]
