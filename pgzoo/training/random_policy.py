"""Random actions: the returns with which learned policies are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from pgzoo.training.config import ExperimentConfig
from pgzoo.training.environments import close_all, make_env
from pgzoo.training.evaluation import Evaluation, evaluate


class RandomPolicy:
    """Takes uniformly random actions.

    Args:
        space: the space of actions, whose generator draws them.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self._space = space

    def predict(self, observations: Any, *_: Any) -> tuple[Any, None]:
        """Return an action for each environment."""
        first = next(iter(observations.values())) if isinstance(observations, dict) else observations
        return np.array([self._space.sample() for _ in range(len(first))]), None


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
        env.action_space.seed(actions)
        policy: Any = RandomPolicy(env.action_space)
        return evaluate(policy, env, n_episodes, episode_bound=config.combination.episode_bound)
    finally:
        close_all(env)
