"""V-trace: returns that are corrected for the difference between the current policy and the one that sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pgzoo import Array, Estimator, Need, Range, Rollout, Search, State, hookimpl


@dataclass(frozen=True)
class VTrace(Estimator):
    """R̂_t = r_t + γ v_{t+1}, with the targets v_t of IMPALA (Espeholt et al. 2018, eq. 1 and sec. 4.2).

        v_t = V(s_t) + δ_t + γ c_t (v_{t+1} − V(s_{t+1})),    δ_t = ρ_t (r_t + γ V(s_{t+1}) − V(s_t)),

    where ρ_t = min(ρ̄, π/π_old) and c_t = λ min(c̄, π/π_old), with λ = `trace_decay` (remark 2). At the last step of an
    episode or fragment v_{t+1} = V(s_{t+1}). V is trained on v_t. Ψ_t is multiplied by ρ_t, unless the objective has a
    ratio. On-policy, v_t is the λ-return.
    """

    name = "vtrace"
    recompute = "epoch"
    needs = frozenset({Need.VALUES, Need.RATIOS})
    unbiased = False
    bias = "a learned V replaces the rewards after a cut, and truncated ratios target another policy"
    rho_bar: Annotated[float, Range(0, open_low=True, infinite=True), Search(1.0, 2.0), "ρ̄, the limit of ρ_t"] = 1.0
    c_bar: Annotated[float, Range(0, open_low=True, infinite=True), "c̄, the limit of c_t"] = 1.0
    trace_decay: Annotated[float, Range(0, 1), "λ, from bias (0) to variance (1)"] = 1.0

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        """Return R̂ (T, N)."""
        v = self._targets(rollout)
        following = np.roll(v, -1, axis=0)
        return rollout.rewards + rollout.gamma * np.where(rollout.last, rollout.next_values, following)

    def critic_targets(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return v_t (T, N)."""
        return self._targets(rollout)

    def importance_weights(self, rollout: Rollout, state: State = None) -> Array:
        """Return ρ_t (T, N)."""
        return np.minimum(self.rho_bar, rollout.ratios)

    def _targets(self, rollout: Rollout) -> Array:
        values, next_values = rollout.values.astype(np.float64), rollout.next_values.astype(np.float64)
        delta = self.importance_weights(rollout) * (rollout.rewards + rollout.gamma * next_values - values)
        c = self.trace_decay * np.minimum(self.c_bar, rollout.ratios)
        return values + rollout.discounted_sums(delta, c)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Estimator]]:
    """Register the estimator."""
    return [VTrace]
