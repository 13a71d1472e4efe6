"""Sampling modes: a fixed number of steps, whole episodes, or groups of episodes from one start.

A VecEnv steps all its environments together. A sampling mode says which of them are recorded at each step, when all
of them are reset, and when the rollout is complete. An environment that has contributed all its episodes is still
stepped, but not recorded.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from pgzoo._sb3 import set_reset_seeds, takes_reset_seeds
from pgzoo.errors import ConfigError
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.types import Array
from pgzoo.registry.combination import Combination
from pgzoo.sampling.conventions import converted_reset

NO_GROUP = -1


class SamplingMode(ABC):
    """Which steps are recorded, and when the rollout is complete.

    Attributes:
        whole_episodes: whether a rollout consists of whole episodes only.
        active: (N,) whether the next step of each environment is recorded.
        group: (N,) the group of each environment's current episode; 0 where there are no groups.
    """

    whole_episodes = True
    active: Array
    group: Array
    _env_that_resets: VecEnv | None = None

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        self.active = np.ones(n_envs, dtype=bool)
        self.group = np.zeros(n_envs, dtype=int)

    def reset(self, env: VecEnv, all_at_start: bool) -> Any:
        """Reset the environments if this is due before the next step. Return their observations, or None if not.

        Args:
            env: the VecEnv.
            all_at_start: whether every environment is at the beginning of an episode.
        """
        return None

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the rollout is complete."""

    @abstractmethod
    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Record one step.

        Args:
            rewards: (N,).
            dones: (N,).
            infos: one per environment.
            episode_steps: (N,) the length of each episode so far.
        """

    def _check_early_resets(self, env: VecEnv) -> None:
        """Refuse a Monitor that does not allow resets in mid-episode. It would end the process of a SubprocVecEnv."""
        if env is self._env_that_resets:
            return
        venv = env.unwrapped
        if venv.has_attr("allow_early_resets") and False in venv.get_attr("allow_early_resets"):
            raise ConfigError(
                "whole episodes and groups reset environments in mid-episode, which a Monitor with "
                "allow_early_resets=False refuses; use allow_early_resets=True, or a recipe that samples steps"
            )
        self._env_that_resets = env

    def update_mask(self, group: Array) -> Array:
        """Return which recorded steps enter the update, given the group of each step, both (T, N)."""
        return np.ones(group.shape, dtype=bool)

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics of the rollout, to be logged under `rollout/`."""
        return {}


class Steps(SamplingMode):
    """n_steps steps of every environment. A rollout may begin and end in mid-episode."""

    whole_episodes = False

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        super().begin(n_envs)
        self._n_taken = 0

    @property
    def finished(self) -> bool:
        """Whether n_steps steps were taken."""
        return self._n_taken >= self.n_steps

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Count the step."""
        self._n_taken += 1


class Episodes(SamplingMode):
    """The same number of whole episodes from every environment.

    Taking the first K episodes that end, from any environment, would favour short ones.

    Args:
        n_episodes: episodes per rollout, a multiple of the number of environments.
        max_steps: a longer episode is an error.
    """

    def __init__(self, n_episodes: int, max_steps: int) -> None:
        self.n_episodes, self.max_steps = n_episodes, max_steps

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        super().begin(n_envs)
        self._n_left = np.full(n_envs, self.n_episodes // n_envs)
        self._started = False

    def reset(self, env: VecEnv, all_at_start: bool) -> Any:
        """Reset before the first step, unless every environment has just been reset."""
        due = not self._started and not all_at_start
        self._started = True
        if not due:
            return None
        self._check_early_resets(env)
        return converted_reset(env.reset(), env.num_envs, env.observation_space)

    @property
    def finished(self) -> bool:
        """Whether all episodes have ended."""
        return not self._n_left.any()

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Count the episodes that ended. Raise ConfigError for one that exceeds `max_steps`."""
        _check_episode_lengths(self.active & ~dones, episode_steps, self.max_steps)
        self._n_left -= self.active & dones
        self.active = self._n_left > 0


class Groups(SamplingMode):
    """Groups of episodes from the same initial state: all environments of a group are reset with the group's seed.

    The environments play in rounds of one episode each. A group may span rounds and environments. The seed also
    determines the environment's own noise (Gymnasium seeds one generator with it) until different actions make the
    episodes diverge. Given the start and the noise, the returns of the other episodes are independent of an episode's
    own actions, so a baseline computed from them is unbiased.

    Args:
        n_groups: groups per rollout.
        group_size: G, episodes per group.
        max_steps: a longer episode is an error.
        gamma: γ, the discount factor of the returns that are compared.
        seeds: the stream of group seeds.
        options: passed to reset(options=…), if not None.
        resample_budget: None to use all groups. With a number, groups of equal returns are dropped and replaced by at
            most `resample_budget * n_groups` other groups.
    """

    def __init__(
        self,
        n_groups: int,
        group_size: int,
        max_steps: int,
        gamma: float,
        seeds: GroupSeeds,
        options: Mapping[str, Any] | None = None,
        resample_budget: float | None = None,
    ) -> None:
        self.n_groups, self.group_size, self.max_steps = n_groups, group_size, max_steps
        self.gamma, self.seeds, self.options, self.resample_budget = gamma, seeds, options, resample_budget

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        self.active = np.zeros(n_envs, dtype=bool)
        self.group = np.full(n_envs, NO_GROUP)
        self._waiting: deque[int] = deque()  # the groups of the episodes still to be played
        self._seeds: list[int] = []
        self._first_observations: dict[int, Any] = {}
        self._returns: list[list[float]] = []
        self._successes: list[list[bool]] = []
        self._running = np.zeros(n_envs)
        self._add(self.n_groups)

    def _add(self, n_groups: int) -> None:
        for _ in range(n_groups):
            self._waiting.extend([len(self._seeds)] * self.group_size)
            self._seeds.append(self.seeds.next())
            self._returns.append([])
            self._successes.append([])

    def reset(self, env: VecEnv, all_at_start: bool) -> Any:
        """Begin a round once every environment has finished the last one.

        Raises:
            ConfigError: two episodes of a group begin with different observations.
        """
        if self.active.any():
            return None
        n_envs = len(self.active)
        n_started = min(n_envs, len(self._waiting))
        self.group = np.full(n_envs, NO_GROUP)
        self.group[:n_started] = [self._waiting.popleft() for _ in range(n_started)]
        self.active = self.group != NO_GROUP
        self._running[:] = 0
        self._check_early_resets(env)
        observations = reset_with_seeds(
            env, [self._seeds[g] if g != NO_GROUP else None for g in self.group], self.options
        )
        self._check_first_observations(env, observations)
        return observations

    def _check_first_observations(self, env: VecEnv, observations: Any) -> None:
        """Compare the first observations of each group, before normalisation."""
        if (normalize := unwrap_vec_normalize(env)) is not None:
            observations = normalize.get_original_obs()
        for n in map(int, np.flatnonzero(self.active)):
            group = int(self.group[n])
            first = map_observations(lambda x, n=n: np.array(x[n]), observations)
            if not _equal(self._first_observations.setdefault(group, first), first):
                raise ConfigError(
                    f"{_name(env)}, or one of its wrappers, ignores reset(seed=…): two episodes with the seed "
                    f"{self._seeds[group]} began with different observations, so groups cannot share a start"
                )

    @property
    def finished(self) -> bool:
        """Whether all episodes have ended."""
        return not self.active.any() and not self._waiting

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Accumulate returns and store those of ended episodes. Raise ConfigError for one that exceeds `max_steps`."""
        _check_episode_lengths(self.active & ~dones, episode_steps, self.max_steps)
        self._running += self.gamma ** (episode_steps - 1) * rewards
        for n in np.flatnonzero(self.active & dones):
            self._returns[self.group[n]].append(float(self._running[n]))
            if "is_success" in infos[n]:
                self._successes[self.group[n]].append(bool(infos[n]["is_success"]))
        self.active = self.active & ~dones
        if self.finished and self.resample_budget is not None:
            allowed = self.n_groups + int(self.resample_budget * self.n_groups)
            self._add(min(self.n_groups - len(self.informative_groups()), allowed - len(self._seeds)))

    def informative_groups(self) -> list[int]:
        """Return the groups whose returns differ."""
        return [group for group, returns in enumerate(self._returns) if max(returns) > min(returns)]

    def update_mask(self, group: Array) -> Array:
        """Return which steps enter the update: all of them, or those of groups whose returns differ."""
        if self.resample_budget is None:
            return np.ones(group.shape, dtype=bool)
        return np.isin(group, self.informative_groups())

    def metrics(self) -> Mapping[str, float]:
        """Return pass@1 and pass@G if the environment reports success, and the share of groups with equal returns."""
        metrics: dict[str, float] = {}
        if all(len(successes) == self.group_size for successes in self._successes):
            metrics["pass@1"] = float(np.mean(self._successes))
            metrics[f"pass@{self.group_size}"] = float(np.mean(np.any(self._successes, axis=1)))
        metrics["equal_groups"] = 1 - len(self.informative_groups()) / len(self._seeds)
        if self.resample_budget is not None:
            metrics["resampled_groups"] = len(self._seeds) - self.n_groups
        return metrics


class GroupSeeds:
    """A stream of seeds, one per group, that a saved model continues.

    The k-th seed is a hash of the stream's seed and k, so the state of the stream is two numbers.

    Args:
        seed: the seed of the stream.
        n_drawn: the number of seeds drawn so far.
    """

    def __init__(self, seed: int, n_drawn: int = 0) -> None:
        self.seed, self.n_drawn = seed, n_drawn

    def next(self) -> int:
        """Return the next seed, between 0 and 2³¹ − 1."""
        self.n_drawn += 1
        return int(np.random.SeedSequence([self.seed, self.n_drawn]).generate_state(1)[0] >> 1)


def make_sampling_mode(
    combination: Combination, n_steps: int, n_envs: int, gamma: float, seeds: GroupSeeds
) -> SamplingMode:
    """Return the sampling mode that a combination asks for.

    Args:
        combination: the parts and the algorithm's settings.
        n_steps: steps per environment, for `Steps`.
        n_envs: the number of environments.
        gamma: γ.
        seeds: the group seeds.

    Raises:
        ConfigError: n_episodes is not a multiple of n_envs, or of group_size.
    """
    config = combination.algorithm
    if combination.sampling.name == "steps":
        return Steps(n_steps)
    n_episodes = combination.n_episodes(n_envs)
    if combination.sampling.name == "episodes":
        return Episodes(n_episodes, config.episode_bound)
    return Groups(
        n_episodes // config.group_size,
        config.group_size,
        config.episode_bound,
        gamma,
        seeds,
        config.group_options,
        combination.objective.resample_budget,
    )


def _check_episode_lengths(running: Array, episode_steps: Array, max_steps: int) -> None:
    too_long = running & (episode_steps >= max_steps)
    if too_long.any():
        raise ConfigError(
            f"an episode of environment {int(too_long.argmax())} has not ended after {max_steps} steps; give the "
            "environment a time limit (-P max_episode_steps:N), raise episode_bound, or use a recipe that samples steps"
        )


def reset_with_seeds(env: VecEnv, seeds: Sequence[int | None], options: Mapping[str, Any] | None = None) -> Any:
    """Reset each environment with its own seed and return the observations.

    The state of the global random number generators is restored, in case an environment seeds them.

    Raises:
        ConfigError: the VecEnv does not support one seed per environment, or the environment refuses the options.
    """
    if not takes_reset_seeds(env):
        raise ConfigError(f"{type(env.unwrapped).__name__} does not support one seed per environment, as groups need")
    set_reset_seeds(env, seeds)
    if options is not None:
        env.set_options(dict(options))
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        result = env.reset()
    except (TypeError, ValueError, KeyError, AssertionError, gym.error.Error) as error:
        if options is None:
            raise
        raise ConfigError(f"{_name(env)} does not accept group_options {dict(options)}: {error}") from error
    finally:
        torch.set_rng_state(generators[0])
        np.random.set_state(generators[1])
        random.setstate(generators[2])
    return converted_reset(result, env.num_envs, env.observation_space)


def _equal(a: Any, b: Any) -> bool:
    """Whether two observations are the same; nan equals nan."""
    pairs = zip(observation_leaves(a), observation_leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=np.issubdtype(x.dtype, np.inexact)) for x, y in pairs)


def _name(env: VecEnv) -> str:
    """Return the environment's registered name, or the name of its class."""
    try:
        spec = env.get_attr("spec", 0)[0]
        return spec.id if spec is not None else str(env.env_method("__str__", indices=0)[0])
    except (AttributeError, NotImplementedError):
        return type(env.unwrapped).__name__
