"""The mean of the estimator's Q(s, a) over the policy's actions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Array, Baseline, Need, Range, Rollout, State, hookimpl


@dataclass(frozen=True)
class ExpectedQ(Baseline):
    """b_t = Σ_a π(a|s_t) Q(s_t, a), with the Q of the estimator (Sutton et al. 2000).

    Q(s_t, a) − b_t has mean 0 in every state, which is not true of a separately trained V(s_t). The sum is exact for
    Discrete actions. For others it is a mean over `n_actions` samples.
    """

    name = "expected_q"
    needs = frozenset({Need.ACTION_VALUES, Need.DISTRIBUTION})
    unbiased = True
    n_actions: Annotated[int, Range(1), "samples of the mean over actions that are not Discrete"] = 16

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N). `state` is that of the estimator."""
        from pgzoo_plugins._q_network import expected_q

        return expected_q(state, rollout, rollout.observations, rollout.distribution, rollout.mask, self.n_actions)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [ExpectedQ]
