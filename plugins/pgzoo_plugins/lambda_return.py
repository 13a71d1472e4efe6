"""The λ-return of TD(λ); minus V it is generalized advantage estimation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class LambdaReturn(Estimator):
    """R̂_t = r_t + γ[(1−λ) V(s_{t+1}) + λ R̂_{t+1}], and r_t + γ V(s_{t+1}) at a last step.

    Sutton & Barto 2018, ch. 12, eq. 12.18; R̂ − V is GAE(λ), Schulman et al. 2016, eq. 16.
    """

    name = "lambda_return"
    needs = frozenset({Need.VALUES})
    unbiased = False
    bias = "a learned V stands in for later rewards; at λ=1 only where a step is cut"
    gae_lambda: Annotated[float, Range(0, 1), Search(0.8, 1.0), "λ: 0 trusts V, 1 the rewards"] = 0.95

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N) as V + A with A_t = δ_t + γλ A_{t+1}.

        A is summed in float32 as in SB3: other rounding would grow until training diverged from its A2C and PPO.
        """
        values = rollout.values
        delta = rollout.rewards + rollout.gamma * rollout.next_values - values
        return rollout.discounted_sums(delta, self.gae_lambda).astype(np.float64) + values


@hookimpl
def pgzoo_estimators() -> Iterable[type[Estimator]]:
    """Offer the estimator."""
    return [LambdaReturn]
