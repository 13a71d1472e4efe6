"""Random actions: the returns with which learned policies are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.backends.masks import action_masks, allowed_action, has_masks
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import close_all, make_env
from pgzoo.training.evaluation import Evaluation, evaluate


class RandomPolicy:
    """Takes uniformly random actions, among those that are allowed if the environments have action masks.

    Args:
        env: the environments.
        seed: the seed of the actions.
    """

    def __init__(self, env: VecEnv, seed: int) -> None:
        self._env, self._space, self._rng = env, env.action_space, np.random.default_rng(seed)
        self._space.seed(seed)
        self._masked = has_masks(env)

    def predict(self, observations: Any, *_: Any) -> tuple[Any, None]:
        """Return an action for each environment."""
        if self._masked:
            masks = action_masks(self._env, self._space)
            return np.array([allowed_action(mask, self._space, self._rng) for mask in masks]), None
        return np.array([self._space.sample() for _ in range(self._env.num_envs)]), None


def evaluate_random(config: ExperimentConfig, n_episodes: int, *, n_envs: int, seed: int, actions: int) -> Evaluation:
    """Play episodes with random actions in the environments of a configuration.

    Args:
        config: the configuration.
        n_episodes: the number of episodes.
        n_envs: parallel environments, which share them.
        seed: the seed of the first environment.
        actions: the seed of the actions.
    """
    env = make_env(config, n_envs=n_envs, seed=seed, training=False)
    try:
        policy: Any = RandomPolicy(env, actions)
        return evaluate(policy, env, n_episodes, episode_bound=config.combination.episode_bound)
    finally:
        close_all(env)
