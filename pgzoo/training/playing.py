"""Plays a model for a number of steps or episodes, and reports each episode when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.backends.masks import action_masks, mask_arguments, uses_masks
from pgzoo.errors import ConfigError


@dataclass(frozen=True)
class Episode:
    """An episode that has ended.

    Attributes:
        env: the number of its environment.
        total: the sum of its rewards.
        length: its steps.
        success: whether it was a success; None if the environment does not report it.
    """

    env: int
    total: float
    length: int
    success: bool | None


def play(
    model: BaseAlgorithm,
    env: VecEnv,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    deterministic: bool = True,
    raw_rewards: bool = True,
    episode_bound: int,
) -> Iterator[Episode]:
    """Play until one of the limits is reached, and yield each episode that ends. Episodes follow without another reset.

    Args:
        model: a model with `predict`.
        env: the environments.
        n_steps: steps of each environment; None: no limit.
        n_episodes: episodes over all environments; None: no limit.
        deterministic: whether to take the most likely actions.
        raw_rewards: whether to sum the environment's own rewards, instead of what VecNormalize makes of them.
        episode_bound: a longer episode is an error unless `n_steps` ends it.

    Raises:
        ConfigError: an episode did not end within `episode_bound` steps.
    """
    has_lives, masked = env.env_is_wrapped(EpisodicLifeEnv), uses_masks(model, env)
    observations, states, starts = env.reset(), None, np.ones(env.num_envs, dtype=bool)
    totals, lengths = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=int)
    step = n_ended = 0
    while (n_steps is None or step < n_steps) and (n_episodes is None or n_ended < n_episodes):
        masks = mask_arguments(action_masks(env, env.action_space) if masked else None)
        actions, states = model.predict(observations, states, starts, deterministic, **masks)  # type: ignore[arg-type]
        observations, rewards, dones, infos = env.step(actions)
        starts, step = np.array(dones, dtype=bool).reshape(-1), step + 1
        totals, lengths = totals + rewards, lengths + 1
        for n in np.flatnonzero(starts).tolist():
            monitored = infos[n].get("episode")
            if has_lives[n] and monitored is None:
                continue  # a life was lost, but the game goes on
            total = float(monitored["r"]) if monitored is not None and raw_rewards else float(totals[n])
            success = infos[n].get("is_success")
            length = int(monitored["l"]) if monitored is not None else int(lengths[n])
            totals[n], lengths[n], n_ended = 0, 0, n_ended + 1
            if n_episodes is None or n_ended <= n_episodes:
                yield Episode(n, total, length, None if success is None else bool(success))
        if n_steps is None and (lengths >= episode_bound).any():
            raise ConfigError(f"an episode has not ended after {episode_bound} steps; play a number of steps with -n")
