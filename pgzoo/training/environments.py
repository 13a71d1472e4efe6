"""Environments for training and evaluation, made from a run's configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    unwrap_vec_normalize,
)

import pgzoo.envs  # noqa: F401 (registers them)
from pgzoo._sb3 import images_channels_first
from pgzoo.errors import ConfigError, converted
from pgzoo.model_file.normalizer import Normalizer
from pgzoo.training.atari import AtariPreprocessing, AtariVecEnv, make_atari
from pgzoo.training.config import ExperimentConfig, is_atari
from pgzoo.training.guarded import GuardedVecEnv
from pgzoo.training.imports import build, imported, load_object, named
from pgzoo.training.keyword_arguments import check_norm_obs_keys
from pgzoo.training.processes import ProcessVecEnv
from pgzoo.training.vec_envs import make_envpool, make_vector_env

VEC_ENV_CLASSES: dict[str, type[VecEnv]] = {"dummy": DummyVecEnv, "subproc": ProcessVecEnv}
"""By `--vec-env`: VecEnvs that consist of separate environments."""
VECTOR_ENV_MAKERS = {"vector": make_vector_env, "envpool": make_envpool}
"""By `--vec-env`: functions that make a vector environment, which steps arrays."""
ATARI_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"


@dataclass(frozen=True)
class _Monitored:
    """What Monitors are for: the folder of their files, training or evaluation, and whether they continue files."""

    folder: Path | None
    training: bool
    append: bool


def make_env(
    config: ExperimentConfig,
    *,
    n_envs: int,
    seed: int | None,
    vec_env: str = "dummy",
    monitor_dir: Path | None = None,
    training: bool = True,
    statistics: Normalizer | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    append: bool = False,
) -> VecEnv:
    """Return the run's VecEnv: guarded, wrapped, monitored, normalised and stacked, in RL Zoo's order.

    Training and evaluation call this function with the same configuration, and so have the same wrappers.

    Args:
        config: the run's configuration.
        n_envs: number of parallel environments.
        seed: the first environment's seed; the i-th gets seed + i.
        vec_env: "dummy", "subproc", "vector" or "envpool".
        monitor_dir: the folder for Monitor's files; None: write none.
        training: whether VecNormalize updates its statistics and normalises rewards.
        statistics: the statistics of VecNormalize to start from; None: new statistics.
        env_kwargs: arguments of gymnasium.make, which replace those of the run.
        append: whether Monitors continue their files.

    Raises:
        PgzooError: the environment or a wrapper does not accept its arguments, or raises. Environments that were
            already made are closed.
    """
    run = config.run
    arguments = {**(run.env_kwargs or {}), **(env_kwargs or {})}
    if run.max_episode_steps is not None:
        arguments["max_episode_steps"] = run.max_episode_steps
    with converted(f"cannot make {config.env}"):
        make = _vector_env if vec_env in VECTOR_ENV_MAKERS else _separate_envs
        monitored = _Monitored(monitor_dir, training, append)
        venv: VecEnv = make(config, n_envs, seed, vec_env, arguments, monitored)
    try:
        return _wrapped(venv, config, training, statistics)
    except BaseException:
        venv.close()
        raise


def _wrapped(venv: VecEnv, config: ExperimentConfig, training: bool, statistics: Normalizer | None) -> VecEnv:
    run = config.run
    for path, kwargs in named(run.vec_env_wrapper):
        venv = GuardedVecEnv(build(path, kwargs, venv, returns=VecEnv), f"{config.env} (through {path})")
    if unwrap_vec_normalize(venv) is not None:
        raise ConfigError(
            "vec_env_wrapper contains VecNormalize, whose statistics would not be saved with each model; use normalize"
        )
    if run.normalize:
        venv = _normalized(venv, config, training, statistics)
    if run.frame_stack is not None:
        with converted(f"frame_stack: {config.env} cannot be stacked"):
            venv = VecFrameStack(venv, run.frame_stack)
    with converted(f"{config.env} cannot be used"):
        return images_channels_first(venv)


def _separate_envs(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    arguments: Mapping[str, Any],
    monitored: _Monitored,
) -> VecEnv:
    wrappers = _env_wrappers(config)
    arguments = {**atari_arguments(config), **arguments}

    def wrapped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        for wrapper, kwargs in wrappers:
            env = wrapper(env, **kwargs)
        return env

    # A worker process may not have registered the environment, so it gets the spec instead of the name.
    spec = gym.spec(imported(config.env))
    venv = make_vec_env(
        lambda **kwargs: gym.make(spec, **kwargs),
        n_envs=n_envs,
        seed=seed,
        monitor_dir=str(monitored.folder) if monitored.folder else None,
        wrapper_class=wrapped if wrappers else None,
        env_kwargs=dict(arguments),
        vec_env_cls=VEC_ENV_CLASSES[vec_env],  # type: ignore[arg-type]  # SB3 annotates its own two classes only
        monitor_kwargs=_monitor_kwargs(config, monitored),
    )
    return GuardedVecEnv(venv, config.env)


def _env_wrappers(config: ExperimentConfig) -> list[tuple[Callable[..., Any], dict[str, Any]]]:
    """Return the wrappers of each environment, innermost first. An Atari game always has SB3's AtariWrapper."""
    wrappers = [load_object(*item) for item in named(config.run.env_wrapper)]
    if is_atari(config.env) and ATARI_WRAPPER not in dict(named(config.run.env_wrapper)):
        wrappers.insert(0, load_object(ATARI_WRAPPER, {}))
    return wrappers


def atari_arguments(config: ExperimentConfig) -> dict[str, Any]:
    """Return the arguments of an Atari game: the frames are skipped by AtariWrapper, and not by the game as well."""
    return {"frameskip": 1} if is_atari(config.env) else {}


def _monitor_kwargs(config: ExperimentConfig, monitored: _Monitored) -> dict[str, Any]:
    """Return the arguments of Monitor. Evaluations reset environments in mid-episode."""
    kwargs = dict(config.run.monitor_kwargs or {})
    if monitored.append:
        kwargs["override_existing"] = False
    return kwargs if monitored.training else {**kwargs, "allow_early_resets": True}


def _vector_env(
    config: ExperimentConfig,
    n_envs: int,
    seed: int | None,
    vec_env: str,
    arguments: Mapping[str, Any],
    monitored: _Monitored,
) -> VecEnv:
    wrappers = dict(named(config.run.env_wrapper))
    atari = wrappers.pop(ATARI_WRAPPER, {}) if is_atari(config.env) else None
    if wrappers:
        names = ", ".join(path.rpartition(".")[2] for path in wrappers)
        raise ConfigError(
            f"--vec-env {vec_env} steps arrays, which env_wrapper cannot wrap ({names}); use --vec-env dummy or subproc"
        )
    kwargs = dict(config.run.monitor_kwargs or {})
    keywords = kwargs.pop("info_keywords", ())
    if kwargs:
        raise ConfigError(f"monitor_kwargs.{min(kwargs)} has no effect with --vec-env {vec_env}; use dummy or subproc")
    has_fire, preprocessing = False, None
    if atari is None:
        venv = VECTOR_ENV_MAKERS[vec_env](config.env, n_envs, arguments)
    else:
        preprocessing = AtariPreprocessing.of(atari, vec_env)
        venv, has_fire = make_atari(config.env, n_envs, arguments, preprocessing, envpool=vec_env == "envpool")
    venv.seed(seed)
    venv.action_space.seed(seed)
    file = str(monitored.folder / "0") if monitored.folder else None
    monitor = VecMonitor(venv, None if monitored.append else file, info_keywords=keywords)
    if file and monitored.append:
        monitor.results_writer = ResultsWriter(file, extra_keys=keywords, override_existing=False)
    if preprocessing is not None:
        return GuardedVecEnv(AtariVecEnv(monitor, preprocessing, has_fire=has_fire), config.env)
    return GuardedVecEnv(monitor, config.env)


def _normalized(venv: VecEnv, config: ExperimentConfig, training: bool, statistics: Normalizer | None) -> VecNormalize:
    arguments = config.run.normalize if isinstance(config.run.normalize, dict) else {}
    check_norm_obs_keys(arguments, venv.observation_space)
    with converted("normalize"):
        normalized = VecNormalize(venv, **{"gamma": config.combination.algorithm.gamma, **arguments})
    if statistics is not None:
        _set_statistics(normalized, statistics)
    normalized.training = training
    if not training:
        normalized.norm_reward = False
    return normalized


def _set_statistics(normalized: VecNormalize, normalizer: Normalizer) -> None:
    """Copy the statistics of a saved model. The arguments, such as `clip_obs`, remain those of the run.

    Raises:
        ConfigError: they are of another environment or not finite, or the model normalises other observations.
    """
    for name in ("norm_obs", "norm_obs_keys"):
        if (expected := getattr(normalizer, name)) != getattr(normalized, name):
            raise ConfigError(f"the model has statistics for normalize.{name}={expected!r}; train with the same value")
    normalizer.check(normalized.venv.observation_space, "the model")
    normalizer.copy_to(normalized)


def close_all(*envs: VecEnv) -> None:
    """Close VecEnvs, even if one of them cannot be closed."""
    for env in envs:
        with suppress(Exception):  # GuardedVecEnv has warned; a user's wrapper must not keep the others open
            env.close()
