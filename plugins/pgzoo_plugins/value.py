"""The learned state value, the classic critic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class Value(Baseline):
    """b_t = V(s_t) from before the update, trained with vf_coef · mean (V − R̂)² (Sutton et al. 2000)."""

    name = "value"
    needs = frozenset({Need.VALUES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, float]:
        """Return b = V(s_t) (T, N), and c = 1."""
        return rollout.values, 1.0


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [Value]
