"""Random rollouts made from arrays instead of an environment, so that a check can change one of them at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.interface.action_distribution import ActionDistribution
from pgzoo.interface.parts import Part, Spaces
from pgzoo.interface.rollout import OPTIONAL, Rollout, reverse_scan
from pgzoo.interface.types import Array

N_STATES, N_ACTIONS = 4, 3
GROUP_SIZE = 3
GAMMA = 0.9


def make_spaces(*, continuous: bool = False) -> Spaces:
    """Return one-hot observations, one discrete or two continuous actions, and a small policy."""
    import torch

    observation = spaces.Box(0.0, 1.0, (N_STATES,), np.float32)
    action: spaces.Space[Any] = spaces.Discrete(N_ACTIONS)
    if continuous:
        action = spaces.Box(-1.0, 1.0, (2,), np.float32)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy = ActorCriticPolicy(observation, action, lambda _: 1e-3, net_arch=[4])
    return Spaces(observation, action, policy)


@dataclass(frozen=True, eq=False)
class SyntheticRollout:
    """Everything that a rollout can contain, as (T, N) arrays that a check can replace.

    With whole episodes, each column has two or more of them, then padding, and column j belongs to group j // 3. With
    fragments, episodes end by termination or at a time limit, and the last row cuts the ones that are still running.
    """

    arrays: Mapping[str, Array] = field(repr=False)
    gamma: float = GAMMA

    def rollout(self, part: Part, **changes: Array) -> Rollout:
        """Return a rollout with the optional arrays that the part declares; `changes` replace arrays."""
        a = {**self.arrays, **changes}
        mask = a["mask"]
        optional: dict[str, Any] = {
            "values": np.where(mask, a["values"], 0).astype(np.float32),
            "next_values": np.where(mask & ~a["terminated"], a["next_values"], 0).astype(np.float32),
            "next_observations": a["next_observations"].astype(np.float32),
            "ratios": np.where(mask, a["ratios"], 0),
            "score_sq_norms": np.where(mask, a["score_sq_norms"], 0),
            "distribution": _distribution(a["observations"], a["actions"]),
            "next_distribution": _distribution(a["next_observations"], a["actions"]),
        }
        return Rollout(
            rewards=np.where(mask, a["rewards"], 0).astype(np.float32),
            terminated=a["terminated"] & mask,
            truncated=a["truncated"] & mask,
            mask=mask.copy(),
            step=np.where(mask, a["step"], 0),
            log_probs=np.where(mask, a["log_probs"], 0).astype(np.float32),
            gamma=self.gamma,
            actions=np.where(mask[..., None], a["actions"], 0),
            observations=a["observations"].astype(np.float32),
            group=a["group"].copy(),
            **{name: array for name, array in optional.items() if part.needs.issuperset(OPTIONAL[name])},
        )

    def returns(self, *, per_episode: bool = False, **changes: Array) -> Array:
        """Return the discounted reward-to-go (T, N), or, if `per_episode`, the return of each step's whole episode."""
        a = {**self.arrays, **changes}
        rewards = np.where(a["mask"], a["rewards"], 0).astype(np.float32).astype(float)
        to_go = reverse_scan(rewards, np.where(self.last(**changes), 0.0, self.gamma))
        if not per_episode:
            return np.where(a["mask"], to_go, 0.0)
        episode = self.episode(**changes)
        full_returns = np.zeros(episode.max() + 1)
        starts = (a["step"] == 0) & a["mask"]
        full_returns[episode[starts]] = to_go[starts]
        return np.where(a["mask"], full_returns[episode], 0.0)

    def last(self, **changes: Array) -> Array:
        """Return whether each step is the last of its episode or fragment, (T, N)."""
        a = {**self.arrays, **changes}
        continues = np.zeros_like(a["mask"])
        continues[:-1] = a["mask"][1:]
        last: Array = (a["terminated"] | a["truncated"] | ~continues) & a["mask"]
        return last

    def episode(self, **changes: Array) -> Array:
        """Return the index of each step's episode (T, N), counted column by column; −1 on padding."""
        a = {**self.arrays, **changes}
        ends = self.last(**changes).T.ravel()
        index = np.concatenate([[0], np.cumsum(ends)[:-1]]).reshape(a["mask"].T.shape).T
        return np.where(a["mask"], index, -1)


def _distribution(observations: Array, actions: Array) -> ActionDistribution:
    """Return a distribution that is a function of the one-hot observations."""
    if actions.shape[2] > 1:
        mean = observations[..., :2]
        return ActionDistribution(mean=mean, log_std=np.full_like(mean, -0.5))
    table = np.random.default_rng(0).dirichlet(np.ones(N_ACTIONS), N_STATES)
    return ActionDistribution(probs=observations @ table)


def synthetic_rollout(
    seed: int,
    *,
    whole_episodes: bool,
    n_steps: int = 12,
    n_envs: int = 6,
    continuous: bool = False,
    padding: int = 0,
) -> SyntheticRollout:
    """Return a random rollout.

    Args:
        seed: of its numbers. `padding` does not change them.
        whole_episodes: whole episodes with padding after the last one; otherwise fragments without padding.
        n_steps: T, without the rows of `padding`.
        n_envs: N.
        continuous: two continuous actions instead of one discrete action.
        padding: further rows of padding, for whole episodes.
    """
    rng = np.random.default_rng(seed)
    shape = (n_steps, n_envs)
    ends, mask = _ends_and_mask(rng, shape, whole_episodes)
    truncated = ends & (rng.random(shape) < 0.4) & mask
    terminated = ends & ~truncated & mask
    step = np.zeros(shape, dtype=int)
    for t in range(1, n_steps):
        step[t] = np.where(ends[t - 1], 0, step[t - 1] + 1)
    states = rng.integers(0, N_STATES, shape)
    values = rng.normal(size=shape)
    next_values = rng.normal(size=shape)
    next_values[:-1] = np.where(ends[:-1], next_values[:-1], values[1:])
    eye = np.eye(N_STATES)
    observations, next_observations = eye[states], eye[rng.integers(0, N_STATES, shape)]
    next_observations[:-1] = np.where(ends[:-1, :, None], next_observations[:-1], observations[1:])
    actions = rng.normal(size=(*shape, 2)) if continuous else rng.integers(0, N_ACTIONS, (*shape, 1))
    arrays: dict[str, Array] = {
        "rewards": rng.normal(0.5, 1.0, shape),
        "terminated": terminated,
        "truncated": truncated,
        "mask": mask,
        "step": step,
        "log_probs": -rng.random(shape),
        "actions": actions,
        "observations": observations,
        "next_observations": next_observations,
        "values": values,
        "next_values": next_values,
        "group": np.broadcast_to(np.arange(n_envs) // GROUP_SIZE, shape).copy(),
        "score_sq_norms": rng.random(shape) + 0.1,
        "ratios": np.ones(shape),
    }
    if padding:
        rows = {name: np.zeros((padding, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
        arrays = {name: np.concatenate([array, rows[name]]) for name, array in arrays.items()}
    return SyntheticRollout(arrays)


def _ends_and_mask(rng: np.random.Generator, shape: tuple[int, int], whole_episodes: bool) -> tuple[Array, Array]:
    """Return where episodes end, and where there is no padding, both (T, N)."""
    n_steps, n_envs = shape
    ends = rng.random(shape) < 0.25
    if not whole_episodes:
        return ends, np.ones(shape, dtype=bool)
    ends[0], ends[-1] = False, False
    stop = rng.integers(n_steps // 2, n_steps, n_envs)
    stop[0] = n_steps - 1
    ends[stop, np.arange(n_envs)] = True
    ends[np.minimum(1, stop), np.arange(n_envs)] = True  # at least two episodes, the first of two steps
    return ends, np.arange(n_steps)[:, None] <= stop
