"""Stable-Baselines3's private names, each with the reason why no public name is enough.

The algorithm classes inherit from SB3's and use its private attributes as `self._…`. Everything else is here.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


def takes_reset_seeds(env: VecEnv) -> bool:
    """Whether the VecEnv passes a separate seed to each environment at the next reset."""
    return hasattr(env.unwrapped, "_seeds")


def set_reset_seeds(env: VecEnv, seeds: Sequence[int | None]) -> None:
    """Set the seed of each environment for the next reset.

    `VecEnv.seed` gives environment i the seed `seed + i`. The environments of a group need the same seed.
    """
    env.unwrapped._seeds = list(seeds)


def action_distribution(policy: ActorCriticPolicy, latent: torch.Tensor) -> Distribution:
    """Return the distribution of actions for the actor's latent features.

    `ActorCriticPolicy.get_distribution` computes the features again from observations, which for images costs as much
    as everything else.
    """
    distribution: Any = policy._get_action_dist_from_latent(latent)
    return distribution  # type: ignore[no-any-return]


def update_count(model: BaseAlgorithm) -> int:
    """Return how many updates, or epochs of updates, the model has made. SB3 only logs this number."""
    return model._n_updates


def images_channels_first(env: VecEnv) -> VecEnv:
    """Return the VecEnv as SB3's algorithms wrap it: images have their channels first.

    Wrapping with `VecTransposeImage` is public. The rule for which observations need it, including dicts, is not.
    """
    return BaseAlgorithm._wrap_env(env)


def prepare_learning(model: OnPolicyAlgorithm) -> None:
    """Reset the environment and the counters, for collecting rollouts without training.

    SB3 does this at the beginning of `learn`, which always updates the policy as well.
    """
    model._setup_learn(1, None)


def failing_environment(error: BaseException) -> int | None:
    """Return the number of the environment in which a `DummyVecEnv` raised; None if it is not known.

    SB3 steps its environments in a loop, and only the loop's variable says which of them raised.
    """
    methods = {DummyVecEnv.step_wait.__code__, DummyVecEnv.reset.__code__}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code in methods and isinstance(n := frame.f_locals.get("env_idx"), int):
            return n
    return None
