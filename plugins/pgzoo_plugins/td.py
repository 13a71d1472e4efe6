"""The one-step target of temporal-difference learning."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Estimator, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class TD(Estimator):
    """R̂_t = r_t + γ V(s_{t+1}). Minus V(s_t) it is the TD residual δ_t (Schulman et al. 2016, eq. 10)."""

    name = "td"
    needs = frozenset({Need.VALUES})
    unbiased = False
    bias = "a learned V replaces all rewards but one"
    recompute: Annotated[Literal["rollout", "epoch"], "take V at sampling, or before each epoch"] = "rollout"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N)."""
        return rollout.rewards.astype(np.float64) + rollout.gamma * rollout.next_values


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [TD]
