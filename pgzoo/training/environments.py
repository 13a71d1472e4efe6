"""Environments for training and evaluation, made from a run's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from pgzoo._sb3 import images_channels_first
from pgzoo.errors import ConfigError, describe
from pgzoo.training.config import ExperimentConfig
from pgzoo.training.imports import build, load_object, named
from pgzoo.training.keyword_arguments import check_norm_obs_keys
from pgzoo.training.vec_envs import make_envpool, make_vector_env

VEC_ENV_CLASSES: dict[str, type[VecEnv]] = {"dummy": DummyVecEnv, "subproc": SubprocVecEnv}
"""By `--vec-env`: SB3's VecEnvs, which consist of separate environments."""
VECTOR_ENV_MAKERS = {"vector": make_vector_env, "envpool": make_envpool}
"""By `--vec-env`: functions that make a vector environment, which steps arrays."""


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
    """Return the run's VecEnv: wrapped, monitored, normalised and stacked, in RL Zoo's order.

    Args:
        config: the run's configuration.
        n_envs: number of parallel environments.
        seed: the first environment's seed; the i-th gets seed + i.
        vec_env: "dummy", "subproc", "vector" or "envpool".
        monitor_dir: the folder for Monitor's files; None: write none.
        training: whether VecNormalize updates its statistics and normalises rewards.
        statistics: a file of VecNormalize's statistics to start from.
        env_kwargs: arguments of gymnasium.make, which replace those of the run.

    Raises:
        ConfigError: the environment or a wrapper does not accept its arguments.
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
        if vec_env in VECTOR_ENV_MAKERS:
            if wrappers:
                names = ", ".join(wrapper.__name__ for wrapper, _ in wrappers)
                raise ConfigError(
                    f"--vec-env {vec_env} steps arrays, which env_wrapper cannot wrap ({names}); "
                    "use --vec-env dummy or subproc"
                )
            venv = _vector_env(config, n_envs, seed, vec_env, monitor_dir, arguments)
        else:
            venv = _separate_envs(config, n_envs, seed, vec_env, monitor_dir, arguments, wrapped if wrappers else None)
    except (gym.error.Error, TypeError, ImportError, AssertionError) as error:
        raise ConfigError(f"cannot make {config.env}: {describe(error)}") from error
    for path, kwargs in named(run.vec_env_wrapper):
        venv = build(path, kwargs, venv, returns=VecEnv)
    if run.normalize:
        venv = _normalized(venv, config, training, statistics)
    if run.frame_stack is not None:
        venv = VecFrameStack(venv, run.frame_stack)
    return images_channels_first(venv)


def _separate_envs(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    monitor_dir: Path | None,
    arguments: Mapping[str, Any],
    wrapped: Any,
) -> VecEnv:
    # A worker process may not have registered the environment, so it gets the spec instead of the name.
    spec = gym.registry[config.env.rpartition(":")[2]]
    return make_vec_env(
        lambda **kwargs: gym.make(spec, **kwargs),
        n_envs=n_envs,
        seed=seed,
        monitor_dir=str(monitor_dir) if monitor_dir else None,
        wrapper_class=wrapped,
        env_kwargs=dict(arguments),
        vec_env_cls=VEC_ENV_CLASSES[vec_env],  # type: ignore[arg-type]  # SB3 annotates the two classes only
        monitor_kwargs=config.run.monitor_kwargs or {},
    )


def _vector_env(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    monitor_dir: Path | None,
    arguments: Mapping[str, Any],
) -> VecEnv:
    venv = VECTOR_ENV_MAKERS[vec_env](config.env, n_envs, arguments)
    venv.seed(seed)
    venv.action_space.seed(seed)
    keywords = (config.run.monitor_kwargs or {}).get("info_keywords", ())
    return VecMonitor(venv, str(monitor_dir / "0") if monitor_dir else None, info_keywords=tuple(keywords))


def _normalized(venv: VecEnv, config: ExperimentConfig, training: bool, statistics: Path | None) -> VecNormalize:
    if statistics is not None and statistics.is_file():
        normalized = VecNormalize.load(str(statistics), venv)
    else:
        arguments = config.run.normalize if isinstance(config.run.normalize, dict) else {}
        check_norm_obs_keys(arguments, venv.observation_space)
        try:
            normalized = VecNormalize(venv, **{"gamma": config.combination.algorithm.gamma, **arguments})
        except (TypeError, ValueError) as error:
            raise ConfigError(f"normalize: {describe(error)}") from error
    normalized.training = training
    if not training:
        normalized.norm_reward = False
    return normalized
