"""An exponential moving average of the mean returns of earlier batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pgzoo import Array, Baseline, Metrics, Range, Rollout, Search, Spaces, State, hookimpl

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MovingAverage(Baseline):
    """b = total / weight, with total ← decay · total + (1 − decay) · mean(R̂), weight ← decay · weight + (1 − decay).

    This is reinforcement comparison (Williams 1992). Both sums start at 0 and grow after each update, and the division
    corrects for the start at 0. The current batch is not included, and therefore b is unbiased. At first, b = 0.
    """

    name = "moving_average"
    unbiased = True
    per_episode = True
    decay: Annotated[float, Range(0, 1, open_high=True), Search(0.5, 0.99), "share of the average that is kept"] = 0.9

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        """Return both sums as buffers."""
        import torch

        state = torch.nn.Module()
        state.register_buffer("total", torch.zeros(()))
        state.register_buffer("weight", torch.zeros(()))
        return state

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> float:
        """Return b, a number."""
        return float(state.total / state.weight) if state.weight > 0 else 0.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        """Add the mean return of this batch."""
        state.total.mul_(self.decay).add_((1 - self.decay) * rollout.mean(returns))
        state.weight.mul_(self.decay).add_(1 - self.decay)
        return {"moving_average": float(state.total / state.weight)}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [MovingAverage]
