"""The scale of MaxRL: the mean return of the group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pgzoo import Array, Need, Rollout, Scale, State, hookimpl

ROUNDING = 1e-9
"""A sum of returns that is smaller than this share of their magnitudes is 0."""


@dataclass(frozen=True)
class GroupMean(Scale):
    """c = |μ_g|, where μ_g is the mean over the group g of each episode's mean R̂ (MaxRL, Tajwar et al. 2026).

    With `full_return` and the baseline `group`, Ψ = (R − μ_g) / μ_g, and 0 where μ_g = 0. With rewards of 0 and 1, μ_g
    estimates the probability of success, and g approaches the gradient of its logarithm: rare successes count more.
    MaxRL has no returns below 0. Elsewhere the magnitude keeps the gradient's direction.
    """

    name = "group_mean"
    needs = frozenset({Need.GROUPS})
    unbiased = False
    bias = "the mean reweights the groups: rare successes count more"
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, deviations: Array, state: State = None) -> Array:
        """Return c (T, N), constant within a group. An infinite c makes Ψ 0."""
        outcomes = rollout.episode_means(returns)
        sums, magnitudes = np.abs(rollout.group_sums(outcomes)), rollout.group_sums(np.abs(outcomes))
        mean = sums / rollout.group_sums(np.ones_like(outcomes))
        return np.where(sums <= ROUNDING * magnitudes, np.inf, mean)[rollout.episode]


@hookimpl
def pgzoo_plugins() -> Iterable[type[Scale]]:
    """Register the scale."""
    return [GroupMean]
