"""Peers: SB3's algorithms with RL Zoo's hyperparameters, trained as RL Zoo trains them, and random actions."""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.benchmark.config import RANDOM, Job
from pgzoo.errors import ConfigError, converted, unknown
from pgzoo.interface.hyperparameters import declared, read_schedule
from pgzoo.registry.combination import resolve
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import RL_ZOO_N_ENVS, ExperimentConfig, RunConfig
from pgzoo.training.keyword_arguments import checked_arguments
from pgzoo.training.python_literals import with_data
from pgzoo.training.yaml_files import read_yaml_mapping

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

    from pgzoo.training.run_folder import RunFolder

PEERS: Mapping[str, tuple[str, str]] = {
    "sb3:a2c": ("stable_baselines3", "A2C"),
    "sb3:ppo": ("stable_baselines3", "PPO"),
    "contrib:trpo": ("sb3_contrib", "TRPO"),
    "contrib:ppo_mask": ("sb3_contrib", "MaskablePPO"),
    "contrib:ppo_lstm": ("sb3_contrib", "RecurrentPPO"),
}
"""Module and class of each peer that learns."""


def check_peer(name: str) -> None:
    """Raise ConfigError unless the peer exists and its package is installed."""
    if name == RANDOM:
        return
    if name not in PEERS:
        raise ConfigError(unknown("peer", name, [*PEERS, RANDOM]))
    if importlib.util.find_spec(PEERS[name][0]) is None:
        raise ConfigError(f"the peer {name} needs {PEERS[name][0].replace('_', '-')}, which is not installed")


def peer_config(job: Job, registry: Registry) -> tuple[ExperimentConfig, dict[str, Any]]:
    """Return the configuration of a peer's run, and the keyword arguments of its class.

    Raises:
        ConfigError: there are no hyperparameters for this environment, or a value is wrong.
    """
    found, source = _entry(job)
    entry = with_data({"n_envs": RL_ZOO_N_ENVS, **found, **job.hyperparams})
    params = declared(RunConfig)
    run = checked_arguments({key: params[key].validate(value) for key, value in entry.items() if key in params})
    for key in ("vec_env_wrapper", "callback", "monitor_kwargs"):
        if run.get(key):
            raise ConfigError(f"{source}: {key} of {job.algorithm} is not supported in a benchmark")
    kwargs = {key: value for key, value in entry.items() if key not in params}
    gamma = {"gamma": kwargs["gamma"]} if "gamma" in kwargs else {}
    combination = resolve(registry, "ppo", overrides=gamma)  # VecNormalize needs the discount
    return ExperimentConfig(job.env, combination, RunConfig(**run), entry, source), kwargs


def _entry(job: Job) -> tuple[dict[str, Any], str]:
    """Return the peer's hyperparameters on an environment, and where they come from."""
    algorithm, file = job.algorithm.partition(":")[2], job.benchmark.peer_hyperparams
    if file is not None and job.algorithm in (by_peer := read_yaml_mapping(file)):
        entries, source = by_peer[job.algorithm], file.name
    else:
        path = _rl_zoo_file(algorithm)
        if path is None:
            raise ConfigError(
                f"no hyperparameters found for {job.algorithm}; pass a file with --peer-hyperparams, or try RL Zoo's: "
                "pip install 'pgzoo[rl-zoo]'"
            )
        entries, source = read_yaml_mapping(path), f"RL Zoo, {path.name}"
    key = _nearest(job.env, entries)
    if key is None:
        raise ConfigError(f"{source} has no hyperparameters of {job.algorithm} for {job.env}")
    return dict(entries[key]), f"{source}, {key}"


def _nearest(env: str, entries: Mapping[str, Any]) -> str | None:
    """Return the key of an environment: its own, that of its latest other version, `atari` or `default`."""
    name = re.sub(r"-v\d+$", "", env)
    versions = [key for key in entries if re.fullmatch(rf"{re.escape(name)}-v\d+", key)]
    versions.sort(key=lambda key: int(key.rpartition("-v")[2]))
    atari = ["atari"] if env.startswith("ALE/") or "NoFrameskip" in env else []
    return next((key for key in (env, *reversed(versions), *atari, "default") if key in entries), None)


def _rl_zoo_file(algorithm: str) -> Path | None:
    """Return RL Zoo's file of hyperparameters, without importing it; None if it is not installed."""
    spec = importlib.util.find_spec("rl_zoo3")
    file = Path(spec.origin).parent / "hyperparams" / f"{algorithm}.yml" if spec and spec.origin else None
    return file if file is not None and file.is_file() else None


def make_peer(job: Job, registry: Registry, folder: RunFolder) -> tuple[BaseAlgorithm, ExperimentConfig]:
    """Return a peer's model, built as RL Zoo builds it.

    Raises:
        PgzooError: the environment, the policy or the algorithm does not take its arguments.
    """
    from pgzoo.training.keyword_arguments import load_policy, policy_arguments

    config, kwargs = peer_config(job, registry)
    module, name = PEERS[job.algorithm]
    policy_kwargs = policy_arguments(config.run.policy_kwargs or {})
    with converted(f"cannot build {job.algorithm}"):
        algorithm: type[BaseAlgorithm] = getattr(importlib.import_module(module), name)
        env = _training_env(config, job.seed, folder)
        model = algorithm(
            policy=load_policy("MlpPolicy" if config.run.policy == "auto" else config.run.policy),
            env=env,
            seed=job.seed,
            device="cpu",
            policy_kwargs=policy_kwargs,
            **{key: _value(key, value) for key, value in kwargs.items()},
        )
    return model, config


def _value(key: str, value: Any) -> Any:
    """Return a keyword argument, with a function for a schedule."""
    from pgzoo.interface.schedules import as_schedule

    schedule = read_schedule(value, key)
    return value if schedule is None else as_schedule(schedule)


def _training_env(config: ExperimentConfig, seed: int, folder: RunFolder) -> VecEnv:
    """Return the environments of a peer. They are SB3's alone, so that a peer's time has nothing of pgzoo in it."""
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

    from pgzoo.training.environments import atari_arguments
    from pgzoo.training.imports import imported, load_object, named

    run = config.run
    wrappers = [load_object(*item) for item in named(run.env_wrapper)]

    def wrapped(env: gym.Env[Any, Any]) -> gym.Env[Any, Any]:
        for wrapper, kwargs in wrappers:
            env = wrapper(env, **kwargs)
        return env

    limit = {} if run.max_episode_steps is None else {"max_episode_steps": run.max_episode_steps}
    venv: VecEnv = make_vec_env(
        imported(config.env),
        n_envs=run.n_envs,
        seed=seed,
        monitor_dir=str(folder.path),
        wrapper_class=wrapped if wrappers else None,
        env_kwargs={**atari_arguments(config), **(run.env_kwargs or {}), **limit},  # as in its evaluations
    )
    if run.normalize:
        arguments = run.normalize if isinstance(run.normalize, dict) else {}
        venv = VecNormalize(venv, **{"gamma": config.combination.algorithm.gamma, **arguments})
    return venv if run.frame_stack is None else VecFrameStack(venv, run.frame_stack)
