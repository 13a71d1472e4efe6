"""The learned state value V(s), the critic of actor-critic methods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class Value(Baseline):
    """b_t = V(s_t) of the critic before the update (Sutton et al. 2000; Sutton & Barto 2018, eq. 13.11).

    The update trains V with the loss vf_coef · mean (V(s_t) − R̂_t)².
    """

    name = "value"
    needs = frozenset({Need.VALUES})
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b = V(s_t) (T, N)."""
        return rollout.values


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [Value]
