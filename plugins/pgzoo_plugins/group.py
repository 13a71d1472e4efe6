"""GRPO's baseline: the mean of the group, and its standard deviation as the scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, Search, State, hookimpl

EPS = 1e-4
"""Added to a standard deviation, as in TRL's GRPO trainer; a standard deviation is the sample one (n − 1)."""


@dataclass(frozen=True)
class Group(Baseline):
    """Ψ = (R − mean_g R) / (std_g R + 1e-4), over the episodes of the group g (GRPO, Shao et al. 2024, sec. 4.1).

    outcome (sec. 4.1.2): R is an episode's mean R̂, which for `full_return` is its return.
    process (sec. 4.1.3): each reward is centred and scaled by the mean and standard deviation of all rewards
    of the group, then summed to go with γ; for `reward_to_go`, b_t = mean_g r · Σ_{k≥t} γ^{k−t}.

    With `scale` "batch" the standard deviation is that of the whole batch, with "none" c = 1 (Dr. GRPO, Liu et
    al. 2025). A group of one episode, or of equal returns, gets Ψ = 0.
    """

    name = "group"
    unbiased = False
    form: Annotated[Literal["outcome", "process"], "compare returns of episodes, or rewards of steps"] = "outcome"
    scale: Annotated[
        Literal["group", "batch", "none"],
        Search(choices=("group", "batch", "none")),
        "whose standard deviation Ψ is divided by",
    ] = "group"

    @property
    def needs(self) -> frozenset[Need]:
        """Groups; and returns to go for the process form."""
        return frozenset({Need.GROUPS, Need.STEP_RETURNS} if self.form == "process" else {Need.GROUPS})

    @property
    def bias(self) -> str:
        """Why it is biased."""
        own = "the mean contains the own episode's return"
        return own if self.scale == "none" else f"{own}, and the standard deviation weighs groups"

    @property
    def per_episode(self) -> bool:
        """Only in its outcome form."""
        return self.form == "outcome"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, Array]:
        """Return b (T, N), and c (T, N), the same over a group."""
        if self.form == "process":
            rewards = rollout.rewards.astype(np.float64)
            mean, std = self._moments(rollout, rewards, rollout.lengths)
            return rollout.discounted_sums(np.where(rollout.mask, mean, 0.0)), std
        means = rollout.episode_means(returns)[rollout.episode]
        return self._moments(rollout, means, np.ones(rollout.n_episodes))

    def _moments(self, rollout: Rollout, x: Array, counts: Array) -> tuple[Array, Array]:
        """Return the mean of x over each step's group, and its scale, both (T, N).

        x (T, N) is averaged over steps where `counts` (n_episodes,) are the lengths, over episodes where they are 1.
        """
        per_episode = counts / rollout.lengths
        over = rollout.group_sums if self.scale != "batch" else lambda sums: np.full(len(sums), sums.sum())
        mean = (rollout.group_sums(rollout.episode_sums(x) * per_episode) / rollout.group_sums(counts))[rollout.episode]
        if self.scale == "none":
            return mean, np.ones(rollout.shape)
        centre = mean if self.scale == "group" else rollout.episode_sums(x) @ per_episode / counts.sum()
        squares = rollout.episode_sums((x - centre) ** 2) * per_episode
        std = np.sqrt(over(squares) / np.maximum(over(counts) - 1, 1))
        return mean, (std + EPS)[rollout.episode]


@hookimpl
def pgzoo_baselines() -> Iterable[type[Baseline]]:
    """Offer the baseline."""
    return [Group]
