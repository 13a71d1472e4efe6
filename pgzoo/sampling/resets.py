"""Resets with a seed of its own for each environment: of all of them, or of one while the others go on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from pgzoo._sb3 import set_reset_seeds, takes_reset_seeds
from pgzoo.errors import ConfigError
from pgzoo.interface.observations import map_observations
from pgzoo.interface.plans import Episode
from pgzoo.sampling.conventions import converted_reset
from pgzoo.sampling.resting import replaced_methods


def resets_one(env: VecEnv) -> bool:
    """Whether the VecEnv can reset one environment with a seed while the others go on.

    SB3's VecEnvs can. Another one says so with an attribute `resets_one`, and has a method
    `reset_one(n, *, seed, options=None)`, which returns an observation.
    """
    venv = env.unwrapped
    return isinstance(venv, (DummyVecEnv, SubprocVecEnv)) or getattr(venv, "resets_one", False)


@contextmanager
def seeded_resets(env: VecEnv, next_episode: Callable[[int], Episode | None]) -> Iterator[None]:
    """Begin the episodes of a queue in the same step in which an environment's last episode ends.

    A VecEnv resets an environment at the end of its episode, without a seed. In this context it is reset again, with
    the seed and the options of its next episode, before any wrapper sees the observation. VecNormalize, VecFrameStack
    and VecMonitor therefore see one reset per episode.

    Args:
        env: a VecEnv of which `resets_one` is true.
        next_episode: called with the number of an environment whose episode has ended. Returns the next episode, or
            None for an episode without a seed.
    """
    venv: Any = env.unwrapped
    step_wait = venv.step_wait

    def step_and_reset() -> tuple[Any, Any, Any, Any]:
        observations, rewards, dones, infos = step_wait()
        begun = [(n, next_episode(n)) for n in np.flatnonzero(dones).tolist()]
        episodes = {n: episode for n, episode in begun if episode is not None}
        if episodes:
            with _preserved_generators():
                rows = {n: _reset_one(venv, n, episode) for n, episode in episodes.items()}
            observations = _with_rows(observations, rows)
        return observations, rewards, dones, infos

    with replaced_methods(venv, step_wait=step_and_reset):
        yield


def reset_with_seeds(env: VecEnv, episodes: Sequence[Episode | None]) -> Any:
    """Reset every environment for an episode of its own and return the observations.

    An environment without an episode continues its random generator, with the options of the first episode, because
    some VecEnvs take the same options for all environments.

    Raises:
        ConfigError: the VecEnv does not support one seed per environment, or the environment refuses the options.
    """
    if not takes_reset_seeds(env):
        raise ConfigError(f"{type(env.unwrapped).__name__} does not support one seed per environment, as groups need")
    set_reset_seeds(env, [None if episode is None else episode.seed for episode in episodes])
    first = next((episode.options for episode in episodes if episode is not None), None)
    options = [first if episode is None else episode.options for episode in episodes]
    if any(options):
        env.set_options([dict(o or {}) for o in options])
    with _preserved_generators(), _option_errors(env, first):
        return converted_reset(env.reset(), env.num_envs, env.observation_space)


def _reset_one(venv: Any, n: int, episode: Episode) -> Any:
    """Reset environment n and return its observation."""
    options = {} if episode.options is None else {"options": dict(episode.options)}
    with _option_errors(venv, episode.options):
        if hasattr(venv, "reset_one"):
            return venv.reset_one(n, seed=episode.seed, **options)
        observation, info = venv.env_method("reset", seed=episode.seed, indices=n, **options)[0]
        infos = list(venv.reset_infos)  # a SubprocVecEnv has a tuple
        infos[n], venv.reset_infos = info, infos
        return observation


def _with_rows(observations: Any, rows: Mapping[int, Any]) -> Any:
    """Return copies of the observations, which may be the VecEnv's own memory, with others for some environments."""

    def replaced(array: Any, *new: Any) -> Any:
        array = np.array(array)
        for n, row in zip(rows, new, strict=True):
            array[n] = row
        return array

    return map_observations(replaced, observations, *rows.values())


@contextmanager
def _preserved_generators() -> Iterator[None]:
    """Restore the global random number generators, in case an environment seeds them: actions must be independent."""
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(generators[0])
        np.random.set_state(generators[1])
        random.setstate(generators[2])


@contextmanager
def _option_errors(env: VecEnv, options: Mapping[str, Any] | None) -> Iterator[None]:
    """Raise ConfigError if an environment refuses reset options."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AssertionError, gym.error.Error) as error:
        if options is None:
            raise
        raise ConfigError(f"{env_name(env)} does not accept group_options {dict(options)}: {error}") from error


def env_name(env: VecEnv) -> str:
    """Return the environment's registered name, or the name of its class."""
    try:
        spec = env.get_attr("spec", 0)[0]
        return spec.id if spec is not None else str(env.env_method("__str__", indices=0)[0])
    except (AttributeError, NotImplementedError):
        return type(env.unwrapped).__name__
