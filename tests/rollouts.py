"""Rollouts written by hand, and random ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from pgzoo import Rollout


def make_rollout(
    rewards: Any,
    *,
    values: Any = None,
    next_values: Any = None,
    terminated: Any = None,
    truncated: Any = None,
    mask: Any = None,
    step: Any = None,
    group: Any = None,
    ratios: Any = None,
    scores: Any = None,
    gamma: float = 1.0,
) -> Rollout:
    """Return a rollout from lists, (T,) for one environment or (T, N). Actions alternate between 0 and 1.

    `next_values` defaults to the values of the next row, and to 0 where terminated and in the last row.
    """

    def column(x: Any, kind: Any) -> Any:
        array = np.asarray(x, dtype=kind)
        return array[:, None] if array.ndim == 1 else array

    def optional_column(x: Any, kind: Any) -> Any:
        return None if x is None else column(x, kind)

    rewards = column(rewards, np.float32)
    shape = rewards.shape
    terminated = np.zeros(shape, bool) if terminated is None else column(terminated, bool)
    truncated = np.zeros(shape, bool) if truncated is None else column(truncated, bool)
    mask = np.ones(shape, bool) if mask is None else column(mask, bool)
    if step is None:
        step = np.zeros(shape, dtype=int)
        for t in range(1, shape[0]):
            step[t] = np.where(terminated[t - 1] | truncated[t - 1], 0, step[t - 1] + 1)
    if values is not None:
        values = column(values, np.float32)
        if next_values is None:
            next_values = np.zeros(shape, np.float32)
            next_values[:-1] = np.where(terminated[:-1], 0, values[1:])
        next_values = column(next_values, np.float32)
    return Rollout(
        rewards=rewards,
        terminated=terminated,
        truncated=truncated,
        mask=mask,
        step=column(step, int),
        log_probs=np.zeros(shape, np.float32),
        gamma=gamma,
        actions=(np.arange(rewards.size).reshape(*shape, 1) % 2),
        observations=np.arange(rewards.size, dtype=np.float32).reshape(*shape, 1),
        next_observations=np.zeros((*shape, 1), np.float32),
        values=values,
        next_values=next_values,
        group=optional_column(group, int),
        ratios=np.ones(shape) if ratios is None else column(ratios, float),
        score_sq_norms=optional_column(scores, float),
    )


# Two environments: the first has episodes of 2 steps and 1 step and then padding, the second has one of 4 steps.
RAGGED: dict[str, Any] = {
    "rewards": [[1, 10], [2, 20], [3, 30], [0, 40]],
    "terminated": [[0, 0], [1, 0], [1, 0], [0, 1]],
    "mask": [[1, 1], [1, 1], [1, 1], [0, 1]],
}

# Four environments with one episode each, of 1, 2, 5 and 3 steps. The first three form a group, the fourth is alone.
LENGTHS = [1, 2, 5, 3]
GROUPS: dict[str, Any] = {
    "rewards": [[4, 1, 1, 7], [0, 1, 0, 7], [0, 0, 2, 7], [0, 0, 0, 0], [0, 0, 3, 0]],
    "mask": np.arange(5)[:, None] < LENGTHS,
    "terminated": np.arange(5)[:, None] == np.array(LENGTHS) - 1,
    "group": [[0, 0, 0, 1]] * 5,
}


@st.composite
def random_rollouts(draw: st.DrawFn) -> Rollout:
    """Draw rollouts of up to 12 steps and 3 environments, with terminated and truncated episodes, values and any γ."""
    n_steps, n_envs = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ends = rng.random((n_steps, n_envs)) < draw(st.floats(0, 0.6))
    terminated = ends & (rng.random((n_steps, n_envs)) < 0.5)
    values = rng.normal(size=(n_steps, n_envs)).astype(np.float32)
    next_values = rng.normal(size=(n_steps, n_envs)).astype(np.float32)
    next_values[:-1] = np.where(ends[:-1], next_values[:-1], values[1:])
    next_values[terminated] = 0
    waiting = np.array([draw(st.integers(0, n_steps - 1)) for _ in range(n_envs)])  # padding at the end
    waiting[0] = 0
    mask = np.arange(n_steps)[:, None] < n_steps - waiting
    return make_rollout(
        np.where(mask, rng.normal(size=(n_steps, n_envs)), 0),
        values=np.where(mask, values, 0),
        next_values=np.where(mask, next_values, 0),
        terminated=terminated & mask,
        truncated=ends & ~terminated & mask,
        mask=mask,
        gamma=draw(st.floats(0, 1)),
    )
