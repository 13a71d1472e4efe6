"""Gymnasium's vector environments as SB3 VecEnvs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.errors import ConfigError
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.types import Array


class GymnasiumVecEnv(VecEnv):
    """A `gymnasium.vector.VectorEnv` as an SB3 VecEnv: an environment whose episode ends is reset in the same step.

    If the vector environment does this itself (SAME_STEP), it reports the terminal observations. Otherwise (NEXT_STEP,
    DISABLED) it must support partial resets, `reset(options={"reset_mask": …})`, as Gymnasium's sync and async vector
    environments do.

    `get_attr`, `set_attr` and `env_method` act on the separate environments of a `SyncVectorEnv` or `AsyncVectorEnv`.
    Other vector environments have attributes for all environments together, or their own `get_attr` and `set_attr`.

    Args:
        vector_env: the environments.
        spec: Gymnasium's spec of one environment, for `get_attr("spec")`; by default the vector environment's.
    """

    def __init__(self, vector_env: VectorEnv[Any, Any, Any], spec: Any = None) -> None:
        self.vector_env, self.spec = vector_env, spec if spec is not None else vector_env.spec
        self.mode = vector_env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self.render_mode = vector_env.render_mode
        inner: Any = vector_env.unwrapped
        if isinstance(inner, AsyncVectorEnv) and not inner.shared_memory and self.mode == AutoresetMode.NEXT_STEP:
            raise ConfigError(  # its workers forget that they were reset, and ignore the next action
                "AsyncVectorEnv(shared_memory=False) cannot be reset at the end of an episode; use shared memory, or "
                "autoreset_mode=AutoresetMode.SAME_STEP"
            )
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)

    def reset(self) -> Any:
        """Reset all environments, with the seeds and options that were set.

        Raises:
            ConfigError: the options of two environments differ.
        """
        seeds = self._seeds if any(seed is not None for seed in self._seeds) else None
        options = self._options[0] or None
        if any((other or None) != options for other in self._options):
            raise ConfigError("a Gymnasium vector environment takes the same reset options for all its environments")
        # Gymnasium's annotation does not allow None among the seeds. Its vector environments do.
        observations, infos = self.vector_env.reset(seed=seeds, options=options)  # type: ignore[arg-type]
        self.reset_infos = self._split(infos)
        self._reset_seeds()
        self._reset_options()
        return deepcopy(observations)

    @property
    def resets_one(self) -> bool:
        """Whether `reset_one` works: partial resets accept seeds."""
        venv = self.vector_env.unwrapped
        return isinstance(venv, (SyncVectorEnv, AsyncVectorEnv)) or bool(venv.metadata.get("partial_reset_seeds"))

    def reset_one(self, n: int, *, seed: int | None, options: Mapping[str, Any] | None = None) -> Any:
        """Reset environment n with a seed while the others go on. Return its observation."""
        mask = np.arange(self.num_envs) == n
        seeds = [seed if reset else None for reset in mask]
        observations, infos = self.vector_env.reset(seed=seeds, options={**(options or {}), "reset_mask": mask})  # type: ignore[arg-type]
        self.reset_infos[n] = self._split(infos)[n]
        return deepcopy(_element(observations, n))

    @property
    def resting(self) -> Any:
        """The environments that the next step leaves as they are, a mask (N,) or None.

        Raises:
            AttributeError: the vector environment has no such attribute, so it always steps all environments.
        """
        return self.vector_env.unwrapped.resting  # type: ignore[attr-defined]

    @resting.setter
    def resting(self, mask: Array | None) -> None:
        self.vector_env.unwrapped.resting = mask  # type: ignore[attr-defined]

    def step_async(self, actions: Array) -> None:
        """Store the actions (N, …) for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
        """Step all environments. Everything returned is a copy, because the environments may use their memory again."""
        observations, rewards, terminated, truncated, vector_infos = self.vector_env.step(self._actions)
        terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
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
        return deepcopy(observations), np.array(rewards, dtype=np.float32), dones, infos

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
                split[n][key] = self._split(values)[n] if isinstance(values, Mapping) else _element(values, n)
        return split

    def close(self) -> None:
        """Close the environments."""
        self.vector_env.close()

    # ---------------------------------------------------------------- attributes and methods of the environments

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute once per environment.

        Raises:
            AttributeError: the environments do not have it.
        """
        env_indices = list(self._get_indices(indices))
        if attr_name in ("spec", "render_mode"):
            return [getattr(self, attr_name)] * len(env_indices)
        vector_env: Any = self.vector_env.unwrapped
        if isinstance(vector_env, SyncVectorEnv):
            return [vector_env.envs[n].get_wrapper_attr(attr_name) for n in env_indices]
        if isinstance(vector_env, AsyncVectorEnv):
            _check_attribute(vector_env, env_indices, attr_name)
            return _ask_workers(vector_env, env_indices, "_call", (attr_name, (), {}))
        if hasattr(vector_env, "get_attr"):
            values = vector_env.get_attr(attr_name)
            return [values[n] for n in env_indices]
        return [getattr(vector_env, attr_name)] * len(env_indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of each environment, on the wrapper or environment that has it.

        Raises:
            AttributeError: the environments have no such attribute of their own.
        """
        env_indices = list(self._get_indices(indices))
        vector_env: Any = self.vector_env.unwrapped
        if isinstance(vector_env, SyncVectorEnv):
            for n in env_indices:
                vector_env.envs[n].set_wrapper_attr(attr_name, value)
        elif isinstance(vector_env, AsyncVectorEnv):
            _ask_workers(vector_env, env_indices, "_setattr", (attr_name, value))
        elif hasattr(vector_env, "set_attr"):
            values = list(vector_env.get_attr(attr_name))
            for n in env_indices:
                values[n] = value
            vector_env.set_attr(attr_name, values)
        elif hasattr(vector_env, attr_name) and len(env_indices) == self.num_envs:
            setattr(vector_env, attr_name, value)
        else:
            raise AttributeError(
                f"{type(vector_env).__name__} steps all environments as arrays: {attr_name} can only be set for all of "
                "them, and only if it exists; use --vec-env dummy"
            )

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each environment and return the results.

        Raises:
            AttributeError: the environments are not separate objects, or lack the method.
        """
        env_indices = list(self._get_indices(indices))
        vector_env: Any = self.vector_env.unwrapped
        if isinstance(vector_env, SyncVectorEnv):
            return [vector_env.envs[n].get_wrapper_attr(method_name)(*args, **kwargs) for n in env_indices]
        if isinstance(vector_env, AsyncVectorEnv):
            _check_attribute(vector_env, env_indices, method_name)
            return _ask_workers(vector_env, env_indices, "_call", (method_name, args, kwargs))
        raise AttributeError(
            f"{type(vector_env).__name__} has no separate environments to call {method_name} of; use --vec-env dummy"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Any = None) -> list[bool]:
        """Return which environments have the wrapper. None has it if they are stepped as arrays."""
        env_indices = list(self._get_indices(indices))
        if wrapper_class is Monitor or not isinstance(self.vector_env.unwrapped, SyncVectorEnv):
            return [False] * len(env_indices)
        from stable_baselines3.common.env_util import is_wrapped

        return [is_wrapped(self.vector_env.unwrapped.envs[n], wrapper_class) for n in env_indices]

    def get_images(self) -> Sequence[Any]:
        """Return one image per environment; None for each if the environment cannot be rendered."""
        images = self.vector_env.render()
        return list(images) if images is not None else [None] * self.num_envs


def _check_attribute(vector_env: AsyncVectorEnv, indices: Sequence[int], name: str) -> None:
    """Raise AttributeError if an environment lacks an attribute. Asking for it would end the worker's process."""
    if not all(_ask_workers(vector_env, indices, "_call", ("has_wrapper_attr", (name,), {}))):
        raise AttributeError(f"the environments have no attribute {name!r}")


def _ask_workers(vector_env: AsyncVectorEnv, indices: Sequence[int], command: str, data: Any) -> list[Any]:
    """Send a command to some of the worker processes, as AsyncVectorEnv sends it to all, and return the answers.

    Raises:
        AttributeError: a worker failed.
    """
    for n in indices:
        vector_env.parent_pipes[n].send((command, data))
    answers = [vector_env.parent_pipes[n].recv() for n in indices]
    if not all(successful for _, successful in answers):
        failures = [vector_env.error_queue.get() for _, successful in answers if not successful]
        n, error_type, message, *_ = failures[0]
        raise AttributeError(f"{data[0]} of environment {n} failed: {error_type.__name__}: {message}")
    return [answer for answer, _ in answers]


def _element(batched: Any, n: int) -> Any:
    """Return a copy of element n of an array, or of each array of a mapping; numbers as Python's."""

    def element(array: Any) -> Any:
        value = array[n]
        if isinstance(value, np.generic):
            return value.item()
        return value.copy() if isinstance(value, np.ndarray) else value

    return map_observations(element, batched)
