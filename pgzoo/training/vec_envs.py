"""Vector environments by name: pgzoo's in numpy, Gymnasium's, and EnvPool's."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from pgzoo.errors import ConfigError
from pgzoo.interface.observations import observation_leaves
from pgzoo.interface.types import Array
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.training.imports import imported

NUMPY_VECTOR_ENVS = {
    "CartPole-v0": "CartPoleVectorEnv",
    "CartPole-v1": "CartPoleVectorEnv",
    "Pendulum-v1": "PendulumVectorEnv",
    "pgzoo/Addition-v0": "AdditionVectorEnv",
}
"""Classes of `pgzoo.envs.vector` by environment.

Gymnasium's own vectorised CartPole resets at the next step and takes a single seed.
"""


def make_vector_env(name: str, num_envs: int, kwargs: Mapping[str, Any]) -> GymnasiumVecEnv:
    """Return the fastest vector environment of a name.

    This is pgzoo's numpy version, else the environment's registered vector entry point, else a `SyncVectorEnv`, which
    steps one environment after the other.

    Args:
        name: the environment. In `module:name`, the module registers it.
        num_envs: the number of environments.
        kwargs: arguments of the environment.

    Raises:
        gymnasium.error.Error: there is no such environment, or it does not accept the arguments.
        ImportError: the module cannot be imported.
    """
    from pgzoo.envs import vector

    name = imported(name)
    spec = gym.spec(name)
    if name in NUMPY_VECTOR_ENVS:
        vector_env = getattr(vector, NUMPY_VECTOR_ENVS[name])
        return GymnasiumVecEnv(vector_env(num_envs, **{"max_episode_steps": spec.max_episode_steps, **kwargs}), spec)
    if spec.vector_entry_point is not None:
        vector_env = gym.make_vec(name, num_envs, vectorization_mode="vector_entry_point", **kwargs)
        return GymnasiumVecEnv(vector_env, spec)
    limited = replace(spec, max_episode_steps=kwargs.get("max_episode_steps", spec.max_episode_steps))
    arguments = {key: value for key, value in kwargs.items() if key != "max_episode_steps"}
    same_step = {"autoreset_mode": AutoresetMode.SAME_STEP}
    return GymnasiumVecEnv(
        gym.make_vec(limited, num_envs, vectorization_mode="sync", vector_kwargs=same_step, **arguments), spec
    )


def make_envpool(name: str, num_envs: int, kwargs: Mapping[str, Any]) -> GymnasiumVecEnv:
    """Return EnvPool's environments of a name.

    Raises:
        ConfigError: EnvPool is not installed, or does not have this environment.
    """
    envpool = import_envpool()
    name = imported(name)
    if name not in envpool.list_all_envs():
        raise ConfigError(f"EnvPool does not have {name}, see envpool.list_all_envs(); use --vec-env vector")
    return GymnasiumVecEnv(EnvPoolVectorEnv(name, num_envs, **kwargs), gym.registry.get(name))


def import_envpool() -> Any:
    """Return EnvPool.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import envpool
    except ImportError as error:
        raise ConfigError(f"--vec-env envpool needs EnvPool: pip install 'pgzoo[envpool]' ({error})") from error
    return envpool


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """EnvPool's environments (Weng et al. 2022), with one seed per environment and partial resets.

    EnvPool takes seeds only in its constructor, so a reset with seeds constructs it again. Its own autoreset acts at
    the next step, but leaves out environments that `reset` has already reset. An episode that terminates in the last
    step of its time limit is reported as truncated only, where Gymnasium reports both.

    Args:
        name: EnvPool's name of the environment.
        num_envs: number of parallel environments.
        **kwargs: arguments of `envpool.make`, such as max_episode_steps.
    """

    def __init__(self, name: str, num_envs: int, **kwargs: Any) -> None:
        import envpool

        self._make = partial(envpool.make, name, env_type="gymnasium", num_envs=num_envs, **kwargs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._pool: Any
        self._construct([None] * num_envs)
        self.num_envs, self.render_mode = num_envs, self._pool.render_mode
        self.observation_space = self.single_observation_space = self._pool.observation_space
        self.action_space = self.single_action_space = _as_in_gymnasium(self._pool.action_space)

    def _construct(self, seeds: Sequence[int | None]) -> None:
        self.close_extras()
        env_seeds = [np.random.randint(2**31) if seed is None else seed % 2**31 for seed in seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its spaces have float64 bounds
            self._pool = self._make(env_seed=env_seeds)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those where options["reset_mask"] (N,) is true. No other options are accepted."""
        if unknown := set(options or {}) - {"reset_mask"}:
            raise ValueError(f"EnvPool's reset does not accept options such as {', '.join(sorted(unknown))}")
        if seed is not None:
            self._construct(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            self._observations, infos = self._pool.reset()
            return self._observations, self._without_bookkeeping(infos)
        reset_observations, _ = self._pool.reset(np.flatnonzero(mask).astype(np.int32))
        for old, new in zip(
            observation_leaves(self._observations), observation_leaves(reset_observations), strict=True
        ):
            old[mask] = new
        return self._observations, {}

    def step(self, actions: Array) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step all environments."""
        actions = np.asarray(actions, dtype=self._pool.action_space.dtype)
        self._observations, rewards, terminated, truncated, infos = self._pool.step(actions)
        return self._observations, rewards, terminated, truncated, self._without_bookkeeping(infos)

    def render(self) -> Any:
        """Return images, if EnvPool can render the environment."""
        return self._pool.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Release the environments and their threads."""
        self._pool = None

    def _without_bookkeeping(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        """Return the infos that have one value per environment, without EnvPool's numbering and step count."""
        return {
            key: value
            for key, value in infos.items()
            if key not in ("env_id", "players", "elapsed_step") and len(value) == self.num_envs
        }


def _as_in_gymnasium(space: gym.Space[Any]) -> gym.Space[Any]:
    """Return an action space of EnvPool with float32, which Gymnasium's MuJoCo environments have, for float64."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.float64:
        return space
    return gym.spaces.Box(space.low.astype(np.float32), space.high.astype(np.float32), dtype=np.float32)
