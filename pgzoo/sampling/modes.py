"""What a rollout is made of: a fixed number of steps, whole episodes, or groups of episodes from one start.

A VecEnv steps all its environments together. A plan says which of them count at each step, when all of them
begin anew, and when to stop; one that has given its share is stepped on and not recorded.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from pgzoo.errors import ConfigError
from pgzoo.interface.parts import Array

NO_GROUP = -1


class Plan(ABC):
    """Which steps to record, and when to stop.

    Attributes:
        whole_episodes: whether a rollout holds whole episodes only.
        active: (N,) whether the next step of each environment counts.
        group: (N,) the group of each environment's present episode; 0 where there are none.
    """

    whole_episodes = True
    active: Array
    group: Array

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        self.active = np.ones(n_envs, dtype=bool)
        self.group = np.zeros(n_envs, dtype=int)

    def reset(self, env: VecEnv, fresh: bool) -> Any:
        """Reset the environments before the next step where that is due; return their observations, or None.

        `fresh`: all of them stand at the beginning of an episode.
        """
        return None

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether the rollout is complete."""

    @abstractmethod
    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Take in one step: (N,) rewards, dones and infos, and (N,) how long each episode is by now."""

    def kept(self, group: Array) -> Array:
        """Return which recorded steps enter the update, from their (T, N) groups."""
        return np.ones(group.shape, dtype=bool)

    def metrics(self) -> Mapping[str, float]:
        """Return what to log of the rollout."""
        return {}


class Steps(Plan):
    """n_steps of every environment; fragments of episodes at the edges."""

    whole_episodes = False

    def __init__(self, n_steps: int) -> None:
        self.n_steps = n_steps

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        super().begin(n_envs)
        self._taken = 0

    @property
    def finished(self) -> bool:
        """Whether n_steps were taken."""
        return self._taken >= self.n_steps

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Count the step."""
        self._taken += 1


class Episodes(Plan):
    """The same number of whole episodes from every environment.

    Taking the first K episodes that end, whoever gives them, would favour short ones; here the episodes of an
    environment count by their order alone.

    Args:
        n_episodes: over all environments, a multiple of their number.
        max_steps: a longer episode is an error.
    """

    def __init__(self, n_episodes: int, max_steps: int) -> None:
        self.n_episodes, self.max_steps = n_episodes, max_steps

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        super().begin(n_envs)
        self._left = np.full(n_envs, self.n_episodes // n_envs)
        self._begun = False

    def reset(self, env: VecEnv, fresh: bool) -> Any:
        """Begin with a reset."""
        due = not self._begun and not fresh
        self._begun = True
        return env.reset() if due else None

    @property
    def finished(self) -> bool:
        """Whether all episodes ended."""
        return not self._left.any()

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Count ended episodes; raises ConfigError on one without an end."""
        _refuse_endless(self.active & ~dones, episode_steps, self.max_steps)
        self._left -= self.active & dones
        self.active = self._left > 0


class Groups(Plan):
    """Groups of episodes that begin in the same state: all environments of a group are reset with its seed.

    The environments play in rounds, one episode each; a group may span rounds and environments. A seed also
    shares the environment's own noise (Gymnasium seeds one generator with it) until the actions make the
    episodes part. The others' returns are still independent of the own action given the start and the noise,
    so that a baseline made of them stays unbiased.

    Args:
        n_groups: of one rollout.
        group_size: G, episodes in each.
        max_steps: a longer episode is an error.
        gamma: γ, by which the returns that are compared are discounted.
        next_seed: called for each group's seed.
        options: passed to reset(options=…); None: nothing.
        resample_budget: None: all groups are kept; a number: groups of equal returns are dropped and others
            sampled, as many as this times n_groups at most.
    """

    def __init__(
        self,
        n_groups: int,
        group_size: int,
        max_steps: int,
        gamma: float,
        next_seed: Callable[[], int],
        options: Mapping[str, Any] | None = None,
        resample_budget: float | None = None,
    ) -> None:
        self.n_groups, self.group_size, self.max_steps = n_groups, group_size, max_steps
        self.gamma, self.next_seed, self.options, self.resample_budget = gamma, next_seed, options, resample_budget

    def begin(self, n_envs: int) -> None:
        """Start a rollout."""
        self.active = np.zeros(n_envs, dtype=bool)
        self.group = np.full(n_envs, NO_GROUP)
        self._waiting: deque[int] = deque()  # the groups of the episodes that are still to be played
        self._seeds: list[int] = []
        self._firsts: dict[int, Any] = {}
        self._returns: list[list[float]] = []
        self._successes: list[list[bool]] = []
        self._running = np.zeros(n_envs)
        self._add(self.n_groups)

    def _add(self, n_groups: int) -> None:
        for _ in range(n_groups):
            self._waiting.extend([len(self._seeds)] * self.group_size)
            self._seeds.append(self.next_seed())
            self._returns.append([])
            self._successes.append([])

    def reset(self, env: VecEnv, fresh: bool) -> Any:
        """Begin a round once every environment has played the last one.

        Raises:
            ConfigError: episodes of a group begin with different observations.
        """
        if self.active.any():
            return None
        n_envs = len(self.active)
        places = min(n_envs, len(self._waiting))
        self.group = np.full(n_envs, NO_GROUP)
        self.group[:places] = [self._waiting.popleft() for _ in range(places)]
        self.active = self.group != NO_GROUP
        self._running[:] = 0
        observations = reset_with_seeds(
            env, [self._seeds[g] if g != NO_GROUP else None for g in self.group], self.options
        )
        self._compare(env, observations)
        return observations

    def _compare(self, env: VecEnv, observations: Any) -> None:
        """Refuse a group that begins with different observations, as they are before normalisation."""
        if (normalize := unwrap_vec_normalize(env)) is not None:
            observations = normalize.get_original_obs()
        for n in map(int, np.flatnonzero(self.active)):
            group = int(self.group[n])
            own = _row(observations, n)
            if not _same(self._firsts.setdefault(group, own), own):
                raise ConfigError(
                    f"{_name(env)} ignores reset(seed=…), or a wrapper of it does: two episodes with the seed "
                    f"{self._seeds[group]} began with different observations, so there are no groups from one start"
                )

    @property
    def finished(self) -> bool:
        """Whether all episodes ended."""
        return not self.active.any() and not self._waiting

    def observe(self, rewards: Array, dones: Array, infos: list[dict[str, Any]], episode_steps: Array) -> None:
        """Add up returns, and note ended episodes; raises ConfigError on one without an end."""
        _refuse_endless(self.active & ~dones, episode_steps, self.max_steps)
        self._running += self.gamma ** (episode_steps - 1) * rewards
        for n in np.flatnonzero(self.active & dones):
            self._returns[self.group[n]].append(float(self._running[n]))
            if "is_success" in infos[n]:
                self._successes[self.group[n]].append(bool(infos[n]["is_success"]))
        self.active = self.active & ~dones
        if self.finished and self.resample_budget is not None:
            allowed = self.n_groups + int(self.resample_budget * self.n_groups)
            self._add(min(self.n_groups - len(self._telling()), allowed - len(self._seeds)))

    def _telling(self) -> list[int]:
        """Return the groups whose returns differ."""
        return [group for group, returns in enumerate(self._returns) if max(returns) > min(returns)]

    def kept(self, group: Array) -> Array:
        """Return which steps enter the update: all, or those of groups whose returns differ."""
        if self.resample_budget is None:
            return np.ones(group.shape, dtype=bool)
        return np.isin(group, self._telling())

    def metrics(self) -> Mapping[str, float]:
        """Return pass@1 and pass@G where the environment reports success, and how many groups were dropped."""
        metrics: dict[str, float] = {}
        if all(len(successes) == self.group_size for successes in self._successes):
            metrics["pass@1"] = float(np.mean(self._successes))
            metrics[f"pass@{self.group_size}"] = float(np.mean(np.any(self._successes, axis=1)))
        metrics["equal_groups"] = 1 - len(self._telling()) / len(self._seeds)
        if self.resample_budget is not None:
            metrics["resampled_groups"] = len(self._seeds) - self.n_groups
        return metrics


def _refuse_endless(running: Array, episode_steps: Array, max_steps: int) -> None:
    endless = running & (episode_steps >= max_steps)
    if endless.any():
        raise ConfigError(
            f"an episode of environment {int(endless.argmax())} has not ended after {max_steps} steps; give it a "
            "time limit, raise max_episode_steps, or use a recipe that samples steps"
        )


def reset_with_seeds(env: VecEnv, seeds: Sequence[int | None], options: Mapping[str, Any] | None = None) -> Any:
    """Reset each environment with its own seed and return the observations.

    `VecEnv.seed` gives the environments seeds in a row, and a group needs the same one; so this sets what
    `VecEnv.seed` sets. An environment that seeds a global generator with it leaves ours as they were.

    Raises:
        ConfigError: the VecEnv keeps no seeds, or the environment does not take the options.
    """
    if not hasattr(env.unwrapped, "_seeds"):
        raise ConfigError(f"{type(env.unwrapped).__name__} takes no seed for each environment, as groups need it")
    env.unwrapped._seeds = list(seeds)
    if options is not None:
        env.set_options(dict(options))
    generators = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        return env.reset()
    except (TypeError, ValueError, KeyError, AssertionError, gym.error.Error) as error:
        if options is None:
            raise
        raise ConfigError(f"{_name(env)} does not take group_options {dict(options)}: {error}") from error
    finally:
        torch.set_rng_state(generators[0])
        np.random.set_state(generators[1])
        random.setstate(generators[2])


def _row(observations: Any, n: int) -> Any:
    """Return a copy of environment n's observation."""
    if isinstance(observations, Mapping):
        return {key: np.array(value[n]) for key, value in observations.items()}
    return np.array(observations[n])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping):
        return all(_same(a[key], b[key]) for key in a)
    return np.array_equal(a, b, equal_nan=np.issubdtype(a.dtype, np.inexact))


def _name(env: VecEnv) -> str:
    """Return the environment's registered name, or its class's."""
    try:
        spec = env.get_attr("spec", 0)[0]
        return spec.id if spec is not None else str(env.env_method("__str__", indices=0)[0])
    except (AttributeError, NotImplementedError):
        return type(env.unwrapped).__name__
