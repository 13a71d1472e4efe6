"""The baseline of GRPO: the mean return of the group, with its standard deviation as the scale."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pgzoo import Array, Baseline, Need, Rollout, Search, State, hookimpl

EPS = 1e-4
"""Added to the sample standard deviation (n − 1), as in TRL's GRPO trainer."""


@dataclass(frozen=True)
class Group(Baseline):
    """Ψ = (R − mean_g R) / (std_g R + 1e-4) over the episodes of a group g (GRPO, Shao et al. 2024, sec. 4.1).

    `form` chooses what is compared:

    - outcome (sec. 4.1.2): R is the mean of R̂ over an episode. With `full_return` this is the return.
    - process (sec. 4.1.3): each reward minus the mean of all rewards of the group, divided by their standard
      deviation. These are summed and discounted as in `reward_to_go`: b_t = mean_g r · Σ_{k≥t} γ^{k−t}.

    `scale` chooses the standard deviation: of the group, of the whole batch, or none, c = 1 (Dr. GRPO, Liu et al.
    2025). In a group of one episode, or of equal returns, Ψ = 0.
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
        """Groups, and one return per step for the process form."""
        return frozenset({Need.GROUPS, Need.STEP_RETURNS} if self.form == "process" else {Need.GROUPS})

    @property
    def bias(self) -> str:
        """Why it is biased."""
        reason = "the mean includes the return it is compared with"
        return reason if self.scale == "none" else f"{reason}, and the standard deviation reweights the groups"

    @property
    def per_episode(self) -> bool:
        """True in the outcome form."""
        return self.form == "outcome"

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> tuple[Array, Array]:
        """Return b and c, both (T, N)."""
        if self.form == "process":
            rewards = rollout.rewards.astype(np.float64)
            mean, std = self._mean_and_std(rollout, rewards, rollout.lengths)
            return rollout.discounted_sums(np.where(rollout.mask, mean, 0.0)), std
        outcomes = rollout.episode_means(returns)[rollout.episode]
        return self._mean_and_std(rollout, outcomes, np.ones(rollout.n_episodes))

    def _mean_and_std(self, rollout: Rollout, x: Array, counts: Array) -> tuple[Array, Array]:
        """Return the mean of x over each step's group, and the standard deviation that `scale` chooses, both (T, N).

        Args:
            rollout: what was sampled.
            x: (T, N), the numbers to compare.
            counts: (n_episodes,), how many numbers an episode contributes: its length, or 1 if x is constant in it.
        """
        weights = counts / rollout.lengths  # the weight of one step of each episode

        def mean_over(sums: Callable[[Array], Array]) -> Array:
            return (sums(rollout.episode_sums(x) * weights) / sums(counts))[rollout.episode]

        mean = mean_over(rollout.group_sums)
        if self.scale == "none":
            return mean, np.ones(rollout.shape)
        sums = rollout.group_sums if self.scale == "group" else _batch_sums
        squares = rollout.episode_sums((x - mean_over(sums)) ** 2) * weights
        std = np.sqrt(sums(squares) / np.maximum(sums(counts) - 1, 1))
        return mean, (std + EPS)[rollout.episode]


def _batch_sums(x: Array) -> Array:
    """Return (n_episodes,): the sum of x (n_episodes,) over the batch, once for each episode."""
    return np.full(len(x), x.sum())


@hookimpl
def pgzoo_plugins() -> Iterable[type[Baseline]]:
    """Register the baseline."""
    return [Group]
