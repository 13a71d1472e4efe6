"""What a VecEnv returns, in SB3's conventions. The sampling loop calls these functions right after the VecEnv.

Environments return dones as integers, rewards as lists, infos as tuples, and arrays whose memory they use again. Every
consumer (sampling modes, the step record, SB3's buffer, callbacks) gets the same converted values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from pgzoo.errors import EnvironmentFailure, describe
from pgzoo.interface.types import Array

BOOL, FLOAT32 = np.dtype(bool), np.dtype(np.float32)
ONLY_DICTS = frozenset({dict})
NUMERIC = frozenset("biuf")
"""NumPy's kinds of numbers: bool, signed and unsigned integers, floats."""


def converted_step(
    result: Any, n_envs: int, space: spaces.Space[Any]
) -> tuple[Any, Array, Array, list[dict[str, Any]]]:
    """Return the observations, rewards, dones and infos of `VecEnv.step` in SB3's types.

    Observations are copies. rewards is float32 (N,), dones is bool (N,), and infos is a list of N dicts. Arrays that
    already have these types are not converted.

    Args:
        result: what `VecEnv.step` returned.
        n_envs: N.
        space: the observation space.

    Raises:
        EnvironmentFailure: the result cannot be converted.
    """
    if not isinstance(result, (tuple, list)) or len(result) != 4:
        raise EnvironmentFailure(
            f"the VecEnv's step returned {_count(result)}; an SB3 VecEnv returns observations, rewards, dones and "
            "infos. Wrap a Gymnasium vector environment in pgzoo.sampling.gymnasium_vec_env.GymnasiumVecEnv"
        )
    observations, rewards, dones, infos = result
    if type(rewards) is not np.ndarray or rewards.dtype is not FLOAT32 or rewards.shape != (n_envs,):
        rewards = _numbers("rewards", rewards, n_envs).astype(np.float32)
    if type(dones) is not np.ndarray or dones.dtype is not BOOL or dones.shape != (n_envs,):
        dones = _booleans("dones", dones, n_envs)
    if type(infos) is not list or len(infos) != n_envs or not ONLY_DICTS.issuperset(map(type, infos)):
        infos = _dicts(infos, n_envs)
    return converted_observations(observations, space, (n_envs,)), rewards, dones, infos


def converted_reset(result: Any, n_envs: int, space: spaces.Space[Any]) -> Any:
    """Return a copy of the observations of `VecEnv.reset`, which may have returned `(observations, infos)`.

    Raises:
        EnvironmentFailure: the result is another tuple, or the observations do not belong to the space.
    """
    if isinstance(result, tuple):
        if len(result) != 2 or not isinstance(result[1], (Mapping, list, tuple, type(None))):
            raise EnvironmentFailure(f"the VecEnv's reset returned {_count(result)} instead of observations")
        result = result[0]
    return converted_observations(result, space, (n_envs,))


def converted_observations(
    x: Any, space: spaces.Space[Any], leading: tuple[int, ...], what: str = "observation"
) -> Any:
    """Return copies of observations as NumPy arrays, whose memory has the same order: torch's kernels depend on it.

    Args:
        x: an array or tensor, or a mapping of them for a Dict space.
        space: the observation space.
        leading: (N,) for the observations of a VecEnv, () for a single one.
        what: what an error calls it.

    Raises:
        EnvironmentFailure: the observations are not numbers, or have another shape than the space's.
    """
    if type(x) is np.ndarray and x.shape == (*leading, *(space.shape or ())) and x.dtype.kind in NUMERIC:
        return np.array(x)
    if isinstance(space, spaces.Dict):
        if not isinstance(x, Mapping) or not space.spaces.keys() <= x.keys():
            raise EnvironmentFailure(f"the VecEnv returned an {what} without the keys {', '.join(space.spaces)}")
        return {k: converted_observations(x[k], inner, leading, f"{what} {k!r}") for k, inner in space.spaces.items()}
    try:
        array = np.array(_on_cpu(x))
    except (TypeError, ValueError, RuntimeError) as error:
        raise EnvironmentFailure(f"the VecEnv returned an {what} that is no array: {describe(error)}") from error
    if array.dtype.kind not in NUMERIC:
        raise EnvironmentFailure(f"the VecEnv returned an {what} of type {array.dtype}, which is not numeric")
    if array.shape != (*leading, *(space.shape or ())):
        expected = (*leading, *(space.shape or ()))
        raise EnvironmentFailure(f"the VecEnv returned an {what} of shape {array.shape}, not {expected}")
    return array


def _on_cpu(x: Any) -> Any:
    return x.detach().cpu().numpy() if hasattr(x, "detach") else x


def _numbers(name: str, values: Any, n_envs: int) -> Array:
    """Return one number per environment, (N,)."""
    try:
        array = np.asarray(_on_cpu(values))
        if array.dtype.kind not in "biuf":
            array = array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise EnvironmentFailure(f"the VecEnv returned {name} that are not numbers: {describe(error)}") from error
    if array.size != n_envs:
        raise EnvironmentFailure(f"the VecEnv returned {name} of shape {array.shape} for {n_envs} environments")
    return array.reshape(n_envs)


def _booleans(name: str, values: Any, n_envs: int) -> Array:
    array = _numbers(name, values, n_envs)
    if not np.isfinite(array).all():
        raise EnvironmentFailure(f"the VecEnv returned {name} that are neither true nor false: {array.tolist()}")
    true: Array = array != 0
    return true


def _dicts(infos: Any, n_envs: int) -> list[dict[str, Any]]:
    """Return one dict per environment. None is an empty dict, and an empty list is one for each environment."""
    if infos is None:
        return [{} for _ in range(n_envs)]
    if isinstance(infos, Mapping):
        raise EnvironmentFailure(
            "the VecEnv returned one dict of infos; an SB3 VecEnv returns a list with one dict per environment. Wrap a "
            "Gymnasium vector environment in pgzoo.sampling.gymnasium_vec_env.GymnasiumVecEnv"
        )
    try:
        entries = list(infos)
    except TypeError as error:
        raise EnvironmentFailure(f"the VecEnv returned infos of type {type(infos).__name__}, not a list") from error
    if not entries:
        return [{} for _ in range(n_envs)]
    if len(entries) != n_envs:
        raise EnvironmentFailure(f"the VecEnv returned {len(entries)} infos for {n_envs} environments")
    for n, info in enumerate(entries):
        if not isinstance(info, (Mapping, type(None))):
            raise EnvironmentFailure(f"environment {n} returned an info of type {type(info).__name__}, not a dict")
    return [dict(info or {}) for info in entries]


def _count(result: Any) -> str:
    return f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
