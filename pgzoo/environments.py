"""Environments for training and evaluation, built from a run's settings."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from pgzoo.config import RunConfig
from pgzoo.errors import ConfigError

VEC_ENVS: dict[str, Any] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}


def make_env(
    config: RunConfig,
    *,
    n_envs: int,
    seed: int | None,
    vec_env: str = "dummy",
    monitor_dir: Path | None = None,
    training: bool = True,
    statistics: Path | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
) -> VecEnv:
    """Return the run's VecEnv: wrapped, monitored, normalised, stacked, in RL Zoo's order.

    Args:
        config: the run.
        n_envs: environments side by side.
        seed: of the first environment; the i-th gets seed + i.
        vec_env: "dummy" or "subproc".
        monitor_dir: where Monitor writes its files, if anywhere.
        training: whether VecNormalize updates its statistics and normalises rewards.
        statistics: a saved VecNormalize to begin with.
        env_kwargs: arguments of gymnasium.make, over the run's own.

    Raises:
        ConfigError: a wrapper or argument that does not fit.
    """
    run = config.run
    wrappers = [load_object(*item) for item in named(run.env_wrapper)]

    def wrapped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        for wrapper, kwargs in wrappers:
            env = wrapper(env, **kwargs)
        return env

    if config.env.startswith("ALE/") or "NoFrameskip" in config.env:
        from stable_baselines3.common.atari_wrappers import AtariWrapper

        wrappers.insert(0, (AtariWrapper, {}))
    spec = gym.registry[config.env.rpartition(":")[2]]  # itself, since another process may not have registered it
    try:
        venv: VecEnv = make_vec_env(
            lambda **kwargs: gym.make(spec, **kwargs),
            n_envs=n_envs,
            seed=seed,
            monitor_dir=str(monitor_dir) if monitor_dir else None,
            wrapper_class=wrapped if wrappers else None,
            env_kwargs={**(run.env_kwargs or {}), **(env_kwargs or {})},
            vec_env_cls=VEC_ENVS[vec_env],
            monitor_kwargs=run.monitor_kwargs or {},
        )
    except (gym.error.Error, TypeError, ImportError, AssertionError) as error:
        raise ConfigError(f"cannot make {config.env}: {first_line(error)}") from error
    for path, kwargs in named(run.vec_env_wrapper):
        wrapper, kwargs = load_object(path, kwargs)
        venv = wrapper(venv, **kwargs)
    if run.normalize:
        venv = _normalized(venv, config, training, statistics)
    if run.frame_stack is not None:
        venv = VecFrameStack(venv, run.frame_stack)
    return venv


def _normalized(venv: VecEnv, config: RunConfig, training: bool, statistics: Path | None) -> VecNormalize:
    if statistics is not None and statistics.is_file():
        normalized = VecNormalize.load(str(statistics), venv)
    else:
        given = config.run.normalize if isinstance(config.run.normalize, dict) else {}
        try:
            normalized = VecNormalize(venv, **{"gamma": config.spec.settings.gamma, **given})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"normalize: {first_line(error)}") from error
    normalized.training = training
    if not training:
        normalized.norm_reward = False
    return normalized


def named(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return a YAML wrapper or callback entry as (import path, arguments) pairs.

    >>> named(["a.B", {"c.D": {"n": 3}}])
    [('a.B', {}), ('c.D', {'n': 3})]
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [(value, {})]
    if isinstance(value, Mapping):
        return [(str(path), dict(kwargs or {})) for path, kwargs in value.items()]
    return [pair for item in value for pair in named(item)]


def load_object(path: str, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class or function at an import path, and its arguments.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name), kwargs
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import {path!r}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """Return an error's first line, with its type where the line alone says too little."""
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
