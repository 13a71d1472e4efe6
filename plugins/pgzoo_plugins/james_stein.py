"""The mean return of the other episodes of a group, shrunk towards the other groups (James and Stein)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, State, hookimpl


@dataclass(frozen=True)
class JamesStein(Baseline):
    """b_i = (1 − λ) m_i + λ m, with m_i the mean of the group's others and m that of the other groups' means.

    λ = v / (v + s) minimises the mean squared error of b as an estimate of the group's expected return (Zeng et al.
    2025, arXiv:2511.03710). v is the variance of m_i, and s that of expected returns between groups. Both come from the
    other groups: v from their sample variances, s from the variance of their means minus the part that is due to v.
    Nothing depends on episode i. With fewer than three groups s is unknown, and λ = 0. A group of one has λ = 1.
    """

    name = "james_stein"
    needs = frozenset({Need.COMPLETE_EPISODES, Need.GROUPS})
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        """Return b (T, N), constant within an episode."""
        outcomes = rollout.episode_means(returns)
        size = rollout.group_sums(np.ones_like(outcomes))
        mean = rollout.group_sums(outcomes) / size
        variance = rollout.group_sums((outcomes - mean) ** 2) / np.maximum(size - 1, 1)

        def over_other_groups(x: Array) -> Array:
            """Return the mean of x, one number per group, over the groups other than an episode's own."""
            mean: Array = ((x / size).sum() - x) / max(n_others, 1)
            return mean

        n_others = round((1 / size).sum()) - 1
        center, noise = over_other_groups(mean), over_other_groups(variance)
        spread = (over_other_groups(mean**2) - center**2) * n_others / max(n_others - 1, 1)
        s = np.maximum(spread - over_other_groups(variance / size), 0.0)
        v = noise / np.maximum(size - 1, 1)
        shrinkage = np.divide(v, v + s, out=np.zeros_like(v), where=v + s > 0) if n_others > 1 else np.zeros_like(v)
        of_group = np.divide(mean * size - outcomes, size - 1, out=center.copy(), where=size > 1)
        b: Array = of_group + shrinkage * (center - of_group)
        return b[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [JamesStein]
