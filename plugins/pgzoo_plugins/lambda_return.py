"""The λ-return of TD(λ). Minus V it is generalized advantage estimation (GAE)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class LambdaReturn(Estimator):
    """R̂_t = r_t + γ [(1−λ) V(s_{t+1}) + λ R̂_{t+1}] (Sutton & Barto 2018, eq. 12.18).

    At the last step of an episode or fragment R̂_t = r_t + γ V(s_{t+1}). R̂_t − V(s_t) is GAE(λ), Schulman et al. 2016,
    eq. 16.
    """

    name = "lambda_return"
    needs = frozenset({Need.VALUES})
    unbiased = False
    bias = "a learned V replaces later rewards; at λ=1 only where the rollout cuts an episode"
    gae_lambda: Annotated[
        float, Range(0, 1), Search(0.8, 0.9999, scale="log1m"), "λ, from bias (0) to variance (1)"
    ] = 0.95
    recompute: Annotated[Literal["rollout", "epoch"], "take V at sampling, or before each epoch"] = "rollout"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) as V + A, with A_t = δ_t + γλ A_{t+1} and δ_t = r_t + γ V(s_{t+1}) − V(s_t).

        A is summed in float32 as in SB3. Different rounding would grow until training diverged from SB3's.
        """
        values = rollout.values
        delta = rollout.rewards + rollout.gamma * rollout.next_values - values
        return rollout.discounted_sums(delta, self.gae_lambda).astype(np.float64) + values


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [LambdaReturn]
