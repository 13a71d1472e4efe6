"""Environments for training and evaluation, built from a run's settings."""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from pgzoo.errors import ConfigError
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.vec_envs import make_columns, make_envpool

VEC_ENVS: dict[str, Any] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}
"""Of separate environments."""
COLUMNS: dict[str, Any] = {"vector": make_columns, "envpool": make_envpool}
"""Of arrays, stepped together."""


def make_env(
    config: ExperimentConfig,
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
        vec_env: "dummy", "subproc", "vector" or "envpool".
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

    atari = "stable_baselines3.common.atari_wrappers.AtariWrapper"
    if (config.env.startswith("ALE/") or "NoFrameskip" in config.env) and atari not in dict(named(run.env_wrapper)):
        wrappers.insert(0, load_object(atari, {}))
    arguments = {**(run.env_kwargs or {}), **(env_kwargs or {})}
    try:
        if vec_env in COLUMNS:
            if wrappers:
                names = ", ".join(wrapper.__name__ for wrapper, _ in wrappers)
                raise ConfigError(
                    f"--vec-env {vec_env} steps arrays, which env_wrapper cannot wrap ({names}); "
                    "use --vec-env dummy or subproc"
                )
            venv = _columns(config, n_envs, seed, vec_env, monitor_dir, arguments)
        else:
            venv = _separate(config, n_envs, seed, vec_env, monitor_dir, arguments, wrapped if wrappers else None)
    except (gym.error.Error, TypeError, ImportError, AssertionError) as error:
        raise ConfigError(f"cannot make {config.env}: {describe(error)}") from error
    for path, kwargs in named(run.vec_env_wrapper):
        venv = build(path, kwargs, venv)
    if run.normalize:
        venv = _normalized(venv, config, training, statistics)
    if run.frame_stack is not None:
        venv = VecFrameStack(venv, run.frame_stack)
    return OnPolicyAlgorithm._wrap_env(venv)  # images with channels first, as the model will see them


def _separate(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    monitor_dir: Path | None,
    arguments: Mapping[str, Any],
    wrapped: Any,
) -> VecEnv:
    spec = gym.registry[config.env.rpartition(":")[2]]  # itself, since another process may not have registered it
    return make_vec_env(
        lambda **kwargs: gym.make(spec, **kwargs),
        n_envs=n_envs,
        seed=seed,
        monitor_dir=str(monitor_dir) if monitor_dir else None,
        wrapper_class=wrapped,
        env_kwargs=dict(arguments),
        vec_env_cls=VEC_ENVS[vec_env],
        monitor_kwargs=config.run.monitor_kwargs or {},
    )


def _columns(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    monitor_dir: Path | None,
    arguments: Mapping[str, Any],
) -> VecEnv:
    columns = COLUMNS[vec_env](config.env, n_envs, arguments)
    columns.seed(seed)
    columns.action_space.seed(seed)
    keywords = (config.run.monitor_kwargs or {}).get("info_keywords", ())
    return VecMonitor(columns, str(monitor_dir / "0") if monitor_dir else None, info_keywords=tuple(keywords))


def _normalized(venv: VecEnv, config: ExperimentConfig, training: bool, statistics: Path | None) -> VecNormalize:
    if statistics is not None and statistics.is_file():
        normalized = VecNormalize.load(str(statistics), venv)
    else:
        given = config.run.normalize if isinstance(config.run.normalize, dict) else {}
        try:
            normalized = VecNormalize(venv, **{"gamma": config.combination.algorithm.gamma, **given})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"normalize: {describe(error)}") from error
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
        for path, kwargs in value.items():
            if not isinstance(kwargs, (Mapping, type(None))):
                raise ConfigError(f"{path} takes its arguments as a mapping, not {kwargs!r}")
        return [(str(path), dict(kwargs or {})) for path, kwargs in value.items()]
    if isinstance(value, list):
        return [pair for item in value for pair in named(item)]
    raise ConfigError(f"a wrapper or callback is an import path or {{path: arguments}}, not {value!r}")


def load_object(path: str, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class or function at an import path, and its arguments.

    Raises:
        ConfigError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name), kwargs
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot import {path!r}: {describe(error)}") from error


def build(path: str, kwargs: dict[str, Any], *first: Any) -> Any:
    """Return what the class or function at an import path makes.

    Raises:
        ConfigError: there is none, or it does not take the arguments.
    """
    function, kwargs = load_object(path, kwargs)
    try:
        return function(*first, **kwargs)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"{path}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return an error's first line and where it was raised, so that the author of a part finds it."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    if text[0].endswith(":") and len(text) > 1:  # torch heads a list of mismatches so
        text = [f"{text[0]} {text[1].strip()}"]
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text[0]} ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else text[0]
