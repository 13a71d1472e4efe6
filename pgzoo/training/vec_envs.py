"""Gymnasium's vector environments and EnvPool's as SB3's VecEnv."""

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
from pgzoo.interface.types import Array

COLUMNS = {
    "CartPole-v0": "CartPoleColumns",
    "CartPole-v1": "CartPoleColumns",
    "Pendulum-v1": "PendulumColumns",
    "pgzoo/Addition-v0": "AdditionColumns",
}
"""Those of `pgzoo.envs.vector`; Gymnasium's own CartPole resets at the next step and has one seed for all."""


def make_columns(name: str, num_envs: int, kwargs: Mapping[str, Any]) -> GymnasiumVecEnv:
    """Return an environment's columns: pgzoo's, else its vector entry point's, else one after the other.

    Raises:
        gymnasium.error.Error: there is no such environment, or it does not take the arguments.
    """
    from pgzoo.envs import vector

    if name in COLUMNS:
        limit = gym.spec(name).max_episode_steps
        columns = getattr(vector, COLUMNS[name])
        return GymnasiumVecEnv(columns(num_envs, **{"max_episode_steps": limit, **kwargs}), gym.spec(name))
    has_own = gym.spec(name).vector_entry_point is not None
    mode: dict[str, Any] = {"vectorization_mode": "vector_entry_point"}
    if not has_own:
        mode = {"vectorization_mode": "sync", "vector_kwargs": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    return GymnasiumVecEnv(gym.make_vec(name, num_envs, **mode, **kwargs), gym.spec(name))


def make_envpool(name: str, num_envs: int, kwargs: Mapping[str, Any]) -> GymnasiumVecEnv:
    """Return EnvPool's environments of this name.

    Raises:
        ConfigError: EnvPool is not installed, or has no such environment.
    """
    try:
        import envpool
    except ImportError as error:
        raise ConfigError(f"--vec-env envpool needs EnvPool: pip install 'pgzoo[envpool]' ({error})") from error
    if name not in envpool.list_all_envs():
        raise ConfigError(f"EnvPool has no {name} (envpool.list_all_envs() names what it has); take --vec-env vector")
    return GymnasiumVecEnv(EnvPoolColumns(name, num_envs, **kwargs), gym.registry.get(name))


class EnvPoolColumns(VectorEnv[Any, Any, Any]):
    """EnvPool's environments (Weng et al. 2022) with a seed for each and a reset of some.

    EnvPool takes seeds only when it is made, so that a reset with seeds makes it anew; and it resets what ended at
    the next step, but not what was reset before that. An episode that ends by itself at the step of its time limit
    is told as truncated, which Gymnasium tells as both.

    Args:
        name: as EnvPool has it.
        num_envs: environments side by side.
        kwargs: of `envpool.make`, such as max_episode_steps.
    """

    def __init__(self, name: str, num_envs: int, **kwargs: Any) -> None:
        import envpool

        self._make = partial(envpool.make, name, env_type="gymnasium", num_envs=num_envs, **kwargs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._pool: Any
        self._begin([None] * num_envs)
        self.num_envs, self.render_mode = num_envs, self._pool.render_mode
        self.observation_space = self.single_observation_space = self._pool.observation_space
        self.action_space = self.single_action_space = self._pool.action_space

    def _begin(self, seeds: Sequence[int | None]) -> None:
        self.close_extras()
        given = [np.random.randint(2**31) if seed is None else seed % 2**31 for seed in seeds]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the bounds of its spaces are float64
            self._pool = self._make(env_seed=given)

    def reset(self, *, seed: Any = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every column, or in those of options["reset_mask"] (N,); it has no other options."""
        if unknown := set(options or {}) - {"reset_mask"}:
            raise ValueError(f"EnvPool's reset takes no options, and was given {', '.join(sorted(unknown))}")
        if seed is not None:
            self._begin(seed)
        mask = (options or {}).get("reset_mask")
        if mask is None:
            observations, infos = self._pool.reset()
            self._observations = observations
        else:
            some, infos = self._pool.reset(np.flatnonzero(mask).astype(np.int32))
            for whole, part in zip(_leaves(self._observations), _leaves(some), strict=True):
                whole[mask] = part
            infos = {}
        return self._observations, self._kept(infos)

    def step(self, actions: Array) -> tuple[Any, Array, Array, Array, dict[str, Any]]:
        """Step every column."""
        self._observations, rewards, terminated, truncated, infos = self._pool.step(actions)
        return self._observations, rewards, terminated, truncated, self._kept(infos)

    def render(self) -> Any:
        """Return pictures, where EnvPool draws them."""
        return self._pool.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Let go of the environments, and so of their threads."""
        self._pool = None

    def _kept(self, infos: Mapping[str, Any]) -> dict[str, Any]:
        """Return what infos say of each column beside its number and its steps."""
        return {
            key: value
            for key, value in infos.items()
            if key not in ("env_id", "players", "elapsed_step") and len(value) == self.num_envs
        }


class GymnasiumVecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` with SB3's conventions: what ended begins anew in the same step.

    An environment that does that itself (SAME_STEP) says what its last observation was; one that does not
    (NEXT_STEP, DISABLED) must reset some of its columns alone, `reset(options={"reset_mask": …})`, as Gymnasium's
    sync and async ones do.

    Args:
        columns: the environments.
        spec: Gymnasium's, for those who ask `get_attr("spec")`.
    """

    def __init__(self, columns: VectorEnv[Any, Any, Any], spec: Any = None) -> None:
        self.columns, self.spec = columns, spec if spec is not None else columns.spec
        self.mode = columns.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.render_mode = columns.render_mode
        super().__init__(columns.num_envs, columns.single_observation_space, columns.single_action_space)

    def reset(self) -> Any:
        """Begin an episode in every column, with the seeds and options that were set."""
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        options = next((options for options in self._options if options), None)
        observations, infos = self.columns.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return deepcopy(observations)

    def step_async(self, actions: Array) -> None:
        """Take the actions (N, …)."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Step every column."""
        observations, rewards, terminated, truncated, vector_infos = self.columns.step(self._actions)
        final, dones = vector_infos.pop("final_obs", None), terminated | truncated
        vector_infos.pop("_final_obs", None)
        final_infos = vector_infos.pop("final_info", {})
        vector_infos.pop("_final_info", None)
        infos = self._split(vector_infos)
        if dones.any():
            if self.mode != AutoresetMode.SAME_STEP:
                final, observations = deepcopy(observations), self._reset_some(dones, observations)
            lasts = self._split(final_infos)
            for n in np.flatnonzero(dones).tolist():
                infos[n] |= lasts[n]
                infos[n]["terminal_observation"] = _row(final, n)
                infos[n]["TimeLimit.truncated"] = bool(truncated[n] and not terminated[n])
        return deepcopy(observations), np.asarray(rewards, dtype=np.float32), dones, infos

    def _reset_some(self, dones: Array, before: Any) -> Any:
        """Return observations after the columns that ended were reset; raises ConfigError if others were too."""
        before = deepcopy(before)
        observations, _ = self.columns.reset(options={"reset_mask": dones.copy()})
        for old, new in zip(_leaves(before), _leaves(observations), strict=True):
            if not np.array_equal(old[~dones], new[~dones], equal_nan=np.issubdtype(old.dtype, np.inexact)):
                raise ConfigError(
                    f"{type(self.columns).__name__} resets at the next step and takes no reset_mask, so that its true "
                    "successors are lost; take --vec-env dummy, or one whose autoreset mode is SAME_STEP"
                )
        return observations

    def _split(self, infos: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return one mapping a column from Gymnasium's arrays with a mask each."""
        found: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for key, values in infos.items():
            if key.startswith("_"):
                continue
            for n in np.flatnonzero(infos.get(f"_{key}", np.ones(self.num_envs, dtype=bool))).tolist():
                found[n][key] = _row(values, n)
        return found

    def close(self) -> None:
        """Close the environments."""
        self.columns.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute for each column; one of its own where the columns are separate environments."""
        chosen = list(self._get_indices(indices))
        if attr_name in ("spec", "render_mode"):
            return [getattr(self, attr_name)] * len(chosen)
        if isinstance(self.columns, SyncVectorEnv):
            return [self.columns.get_attr(attr_name)[n] for n in chosen]
        return [getattr(self.columns, attr_name)] * len(chosen)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of all columns; raises AttributeError for some of them alone."""
        if indices is not None and len(list(self._get_indices(indices))) < self.num_envs:
            raise AttributeError(f"{attr_name} cannot be set for some columns alone")
        setattr(self.columns, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each column; raises AttributeError where they have none of their own."""
        if not isinstance(self.columns, SyncVectorEnv):
            raise AttributeError(f"{type(self.columns).__name__} has no {method_name} for each column")
        found = self.columns.call(method_name, *args, **kwargs)
        return [found[n] for n in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return False for each, but where the columns are separate environments."""
        chosen = list(self._get_indices(indices))
        if wrapper_class is Monitor or not isinstance(self.columns, SyncVectorEnv):
            return [False] * len(chosen)
        from stable_baselines3.common.env_util import is_wrapped

        return [is_wrapped(self.columns.envs[n], wrapper_class) for n in chosen]

    def get_images(self) -> Sequence[Any]:
        """Return a picture of each column, where it can be drawn."""
        pictures = self.columns.render()
        return list(pictures) if pictures is not None else [None] * self.num_envs


def _row(x: Any, n: int) -> Any:
    if isinstance(x, Mapping):
        return {key: _row(value, n) for key, value in x.items()}
    value = x[n]
    return value.item() if isinstance(value, np.generic) else value


def _leaves(x: Any) -> list[Array]:
    return [leaf for value in x.values() for leaf in _leaves(value)] if isinstance(x, Mapping) else [x]
