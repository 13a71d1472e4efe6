"""The standard deviation of returns or rewards, which the scales of GRPO share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np

from pgzoo import Array, Rollout

Of: TypeAlias = Literal["outcomes", "rewards"]

EPS = 1e-4
"""Added to the standard deviation, as in TRL's GRPO trainer."""


def std(rollout: Rollout, returns: Array, of: Of, total: Callable[[Array], Array]) -> Array:
    """Return (n_episodes,): the sample standard deviation (n − 1) plus EPS; EPS alone if there is a single number.

    Args:
        rollout: what was sampled.
        returns: R̂ (T, N).
        of: "outcomes" compares the means of R̂ over each episode, "rewards" the rewards of all steps.
        total: maps x (n_episodes,) to sums (n_episodes,): over the group of each episode, or over the batch.
    """
    if of == "outcomes":
        outcomes = rollout.episode_means(returns)
        n = total(np.ones_like(outcomes))
        squares = (outcomes - total(outcomes) / n) ** 2
    else:
        rewards = rollout.rewards.astype(np.float64)
        n = total(rollout.lengths)
        mean = total(rollout.episode_sums(rewards)) / n
        squares = rollout.episode_sums((rewards - mean[rollout.episode]) ** 2)
    result: Array = np.sqrt(total(squares) / np.maximum(n - 1, 1)) + EPS
    return result
