"""Gymnasium's vector environments, and EnvPool's, as SB3 VecEnvs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.errors import ConfigError
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.types import Array

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

    Raises:
        gymnasium.error.Error: there is no such environment, or it does not accept the arguments.
    """
    from pgzoo.envs import vector

    spec = gym.spec(name)
    if name in NUMPY_VECTOR_ENVS:
        vector_env = getattr(vector, NUMPY_VECTOR_ENVS[name])
        return GymnasiumVecEnv(vector_env(num_envs, **{"max_episode_steps": spec.max_episode_steps, **kwargs}), spec)
    mode: dict[str, Any] = {"vectorization_mode": "vector_entry_point"}
    if spec.vector_entry_point is None:
        mode = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    return GymnasiumVecEnv(gym.make_vec(name, num_envs, **mode, **kwargs), spec)


def make_envpool(name: str, num_envs: int, kwargs: Mapping[str, Any]) -> GymnasiumVecEnv:
    """Return EnvPool's environments of a name.

    Raises:
        ConfigError: EnvPool is not installed, or does not have this environment.
    """
    try:
        import envpool
    except ImportError as error:
        raise ConfigError(f"--vec-env envpool needs EnvPool: pip install 'pgzoo[envpool]' ({error})") from error
    if name not in envpool.list_all_envs():
        raise ConfigError(f"EnvPool does not have {name}, see envpool.list_all_envs(); use --vec-env vector")
    return GymnasiumVecEnv(EnvPoolVectorEnv(name, num_envs, **kwargs), gym.registry.get(name))


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
        self.action_space = self.single_action_space = self._pool.action_space

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


class GymnasiumVecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` as an SB3 VecEnv: an environment whose episode ends is reset in the same step.

    If the vector environment does this itself (SAME_STEP), it reports the terminal observations. Otherwise (NEXT_STEP,
    DISABLED) it must support partial resets, `reset(options={"reset_mask": …})`, as Gymnasium's sync and async vector
    environments do.

    Args:
        vector_env: the environments.
        spec: Gymnasium's spec of one environment, for `get_attr("spec")`; by default the vector environment's.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any], spec: Any = None) -> None:
        self.vector_env, self.spec = vector_env, spec if spec is not None else vector_env.spec
        self.mode = vector_env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.render_mode = vector_env.render_mode
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> Any:
        """Reset all environments, with the seeds and options that were set."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        options = next((options for options in self._options if options), None)
        # Gymnasium's annotation does not allow None among the seeds. Its vector environments do.
        observations, infos = self.vector_env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return deepcopy(observations)

    def step_async(self, actions: Array) -> None:
        """Store the actions (N, …) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Step all environments."""
        observations, rewards, terminated, truncated, vector_infos = self.vector_env.step(self._actions)
        final, dones = vector_infos.pop("final_obs", None), terminated | truncated
        vector_infos.pop("_final_obs", None)
        final_infos = vector_infos.pop("final_info", {})
        vector_infos.pop("_final_info", None)
        infos = self._split(vector_infos)
        if dones.any():
            if self.mode != AutoresetMode.SAME_STEP:
                final, observations = deepcopy(observations), self._reset_ended(dones, observations)
            final_infos = self._split(final_infos)
            for n in np.flatnonzero(dones).tolist():
                infos[n] |= final_infos[n]
                infos[n]["terminal_observation"] = _element(final, n)
                infos[n]["TimeLimit.truncated"] = bool(truncated[n] and not terminated[n])
        return deepcopy(observations), np.asarray(rewards, dtype=np.float32), dones, infos

    def _reset_ended(self, dones: Array, observations: Any) -> Any:
        """Reset the environments whose episodes ended and return all observations.

        Raises:
            ConfigError: the observation of another environment changed, so the reset was not partial.
        """
        before = deepcopy(observations)
        after, _ = self.vector_env.reset(options={"reset_mask": dones.copy()})
        for old, new in zip(observation_leaves(before), observation_leaves(after), strict=True):
            if not np.array_equal(old[~dones], new[~dones], equal_nan=np.issubdtype(old.dtype, np.inexact)):
                raise ConfigError(
                    f"{type(self.vector_env).__name__} resets at the next step and ignores reset_mask, so the last "
                    "observations are lost; use --vec-env dummy, or an environment with autoreset mode SAME_STEP"
                )
        return after

    def _split(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return one mapping per environment from Gymnasium's arrays and their masks."""
        split: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, values in infos.items():
            if key.startswith("_"):
                continue
            for n in np.flatnonzero(infos.get(f"_{key}", np.ones(self.num_envs, dtype=bool))).tolist():
                split[n][key] = _element(values, n)
        return split

    def close(self) -> None:
        """Close the environments."""
        self.vector_env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute once per environment: the environment's own, or else the vector environment's."""
        env_indices = list(self._get_indices(indices))
        if attr_name in ("spec", "render_mode"):
            return [getattr(self, attr_name)] * len(env_indices)
        if isinstance(self.vector_env, SyncVectorEnv):
            return [self.vector_env.get_attr(attr_name)[n] for n in env_indices]
        return [getattr(self.vector_env, attr_name)] * len(env_indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment. Raise AttributeError if indices leave out an environment."""
        if indices is not None and len(list(self._get_indices(indices))) < self.num_envs:
            raise AttributeError(f"{attr_name} cannot be set for some of the environments only")
        setattr(self.vector_env, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment. Raise AttributeError if there are no separate environments."""
        if not isinstance(self.vector_env, SyncVectorEnv):
            raise AttributeError(f"{type(self.vector_env).__name__} has no separate environments to call {method_name}")
        results = self.vector_env.call(method_name, *args, **kwargs)
        return [results[n] for n in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return which environments have the wrapper; False for each if there are no separate environments."""
        env_indices = list(self._get_indices(indices))
        if wrapper_class is Monitor or not isinstance(self.vector_env, SyncVectorEnv):
            return [False] * len(env_indices)
        from stable_baselines3.common.env_util import is_wrapped

        return [is_wrapped(self.vector_env.envs[n], wrapper_class) for n in env_indices]

    def get_images(self) -> Sequence[Any]:
        """Return one image per environment; None for each if the environment cannot be rendered."""
        images = self.vector_env.render()
        return list(images) if images is not None else [None] * self.num_envs


def _element(batched: Any, n: int) -> Any:
    """Return element n of an array, or of each array of a mapping; numbers as Python's."""

    def element(array: Any) -> Any:
        return array[n].item() if isinstance(array[n], np.generic) else array[n]

    return map_observations(element, batched)
