"""What SB3 does with an environment's observations before the policy sees them, and random raw observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import ConfigError
from pgzoo.interface.types import Array

Wrapper: TypeAlias = "VecNormalize | VecTransposeImage"
Observations: TypeAlias = "Array | dict[str, Array]"
"""A batch of observations: one array (N, *shape), or one for each key of a Dict space."""

WIDEST = 1e6
"""Bounds that are further apart are treated as absent, such as the ±3.4e38 of some environments."""


class OnlySpaces(gym.Env[Any, Any]):
    """An environment that has a model's spaces and cannot be played."""

    def __init__(self, model: PolicyGradient) -> None:
        self.observation_space, self.action_space = model.observation_space, model.action_space


def environment_of(model: PolicyGradient) -> VecEnv:
    """Return the model's environments, or if it has none, spaces with the normalisation with which it was saved.

    Raises:
        ConfigError: the normalised observations were changed before the policy saw them.
    """
    if (env := model.get_env()) is not None:
        return env
    raw, normalizer = DummyVecEnv([lambda: OnlySpaces(model)]), model.normalizer
    if normalizer is None or not normalizer.norm_obs:
        return raw
    try:
        return normalizer.wrap(raw)
    except ConfigError as error:
        raise ConfigError(f"the model has no environment, and without one, it is not known how normalised observations "
                          f"were transposed or stacked ({error}); pass env=") from error  # fmt: skip


def split(env: VecEnv) -> tuple[list[Wrapper], spaces.Space[Any]]:
    """Return the wrappers that change observations on their way to the policy, innermost first, and the space before.

    Raises:
        ConfigError: observations are normalised inside another wrapper, such as one with a memory.
    """
    wrappers: list[Wrapper] = []
    while isinstance(env, (VecTransposeImage, VecNormalize)):
        if not env.skip if isinstance(env, VecTransposeImage) else env.norm_obs:
            wrappers.insert(0, env)
        env = env.venv
    inner = env
    while isinstance(inner, VecEnvWrapper):
        if isinstance(inner, VecNormalize) and inner.norm_obs:
            raise ConfigError(
                f"observations are normalised before {type(env).__name__} changes them, which an exported policy "
                "cannot do; train without frame_stack, or with -P normalize:'{norm_obs: false}'"
            )
        inner = inner.venv
    return wrappers, env.observation_space


def preprocessed(observations: Any, wrappers: Sequence[Wrapper]) -> Any:
    """Return what the policy sees of raw observations, computed by SB3."""
    for wrapper in wrappers:
        if isinstance(wrapper, VecNormalize):
            observations = wrapper.normalize_obs(observations)
        else:
            observations = wrapper.transpose_observations(observations)
    return observations


def random_observations(space: spaces.Space[Any], n: int, wrappers: Sequence[Wrapper], seed: int) -> Observations:
    """Return n random raw observations.

    Half of those that are normalised are drawn around the running mean: from a tenth to 30 standard deviations away,
    which also reaches the bounds at which they are clipped. The others are uniform in the space.
    """
    rng = np.random.default_rng(seed)
    moments: dict[str, RunningMeanStd] = {}
    for wrapper in wrappers:
        if isinstance(wrapper, VecNormalize):
            moments = wrapper.obs_rms if isinstance(wrapper.obs_rms, dict) else {"": wrapper.obs_rms}
    if not isinstance(space, spaces.Dict):
        return _random(space, n, rng, moments.get(""))
    return {key: _random(entry, n, rng, moments.get(key)) for key, entry in space.spaces.items()}


def _random(space: spaces.Space[Any], n: int, rng: np.random.Generator, rms: RunningMeanStd | None) -> Array:
    if not isinstance(space, spaces.Box):
        space = deepcopy(space)  # sampling changes the state of its generator
        space.seed(int(rng.integers(2**31)))
        return np.stack([np.asarray(space.sample()) for _ in range(n)])
    shape = (n, *space.shape)
    mean, std = (0.0, 1.0) if rms is None else (rms.mean, np.sqrt(rms.var))
    spread = 10 ** rng.uniform(-1, 1.5, (n, *[1] * len(space.shape)))
    near = mean + std * spread * rng.standard_normal(shape)
    low, high = np.asarray(space.low, dtype=np.float64), np.asarray(space.high, dtype=np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = high - low <= WIDEST
    uniform = np.where(narrow, rng.uniform(np.where(narrow, low, 0), np.where(narrow, high, 1), shape), near)
    if rms is not None:
        uniform[::2] = near[::2]
    if np.issubdtype(space.dtype, np.integer):
        uniform = np.round(uniform)
    return np.clip(uniform, low, high).astype(space.dtype)


def rows(observations: Any, which: Any) -> Any:
    """Return some rows of a batch of observations."""
    if isinstance(observations, Mapping):
        return {key: array[which] for key, array in observations.items()}
    return observations[which]
