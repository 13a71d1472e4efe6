"""The plan of a rollout: which episodes are played, or how many steps are taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pgzoo.interface.types import Array

EPISODE_BOUND = 100_000
"""The default of the longest allowed episode."""


@dataclass(frozen=True)
class Episode:
    """An episode that a plan asks for.

    Attributes:
        seed: the seed of `reset`; None to continue the environment's own random generator. If no episode has a seed,
            the generators are seeded at the start of each rollout, where the VecEnv allows it.
        options: passed to `reset(options=…)`, if not None.
        group: the number of its group, 0, 1, …. The episodes of a group must begin with the same observation.
    """

    seed: int | None = None
    options: Mapping[str, Any] | None = None
    group: int = 0


class Seeds:
    """A stream of reset seeds that a saved model continues.

    The k-th seed is a hash of the stream's seed and k, so the state of the stream is two numbers.

    Args:
        seed: the seed of the stream.
        n_drawn: the number of seeds drawn so far.
    """

    def __init__(self, seed: int, n_drawn: int = 0) -> None:
        self.seed, self.n_drawn = seed, n_drawn

    def next(self) -> int:
        """Return the next seed, between 0 and 2³¹ − 1."""
        import numpy as np

        self.n_drawn += 1
        return int(np.random.SeedSequence([self.seed, self.n_drawn]).generate_state(1)[0] >> 1)


@dataclass(frozen=True)
class PlanContext:
    """What a sampling can use to plan a rollout.

    Attributes:
        n_envs: the number of environments.
        gamma: γ.
        seeds: a stream of reset seeds.
        resample_budget: the objective's `resample_budget`.
    """

    n_envs: int
    gamma: float
    seeds: Seeds
    resample_budget: float | None = None


class EnvironmentCopies(Protocol):
    """Copies of environments in mid-episode, and how the current policy continues from them."""

    def copy(self, n: int) -> Any:
        """Return a copy of environment n."""

    def returns(self, states: Sequence[Any], k: int) -> Array:
        """Return (len(states), k): the discounted returns of k independent continuations from each copy."""


@dataclass(frozen=True)
class EpisodeEnd:
    """An episode that has ended.

    Attributes:
        episode: the episode.
        environment: the number of the environment that played it.
        length: its number of steps.
        discounted_return: Σ_t γ^t r_t.
        info: what the environment returned with the last step.
    """

    episode: Episode
    environment: int
    length: int
    discounted_return: float
    info: Mapping[str, Any]


@dataclass(frozen=True)
class StepStart:
    """The moment before a step of the rollout.

    Attributes:
        t: the number of the step, 0, 1, ….
        active: (N,) which environments are recorded.
        copies: copies of the environments.
    """

    t: int
    active: Array
    copies: EnvironmentCopies


@dataclass(frozen=True)
class RolloutEnd:
    """A rollout that is complete.

    Attributes:
        group: (T, N), the group of each step; −1 where it is not recorded.
        copies: copies of the environments; None for a plan without `before_step`.
    """

    group: Array
    copies: EnvironmentCopies | None


class Plan:
    """The plan of one rollout: a queue of whole episodes, or a fixed number of steps.

    An environment that is free takes the next episode of the queue. Every episode that begins is played to its end and
    recorded. Whether an episode is included therefore depends on the order in which episodes begin, and not on its
    length. Taking the first episodes that end would favour short ones. An environment that finds the queue empty rests:
    it is not stepped, or, in a VecEnv that must step all environments, not recorded.

    Override `episode_ended` to add episodes to the queue, for example in place of useless ones. Override `before_step`
    and `values` to compute the values of states from copies of the environments.

    Args:
        episodes: the queue.
        n_steps: take this number of steps of every environment instead. The rollout may begin and end in mid-episode.
        episode_bound: a longer episode is an error.
    """

    def __init__(
        self, episodes: Iterable[Episode] = (), *, n_steps: int | None = None, episode_bound: int = EPISODE_BOUND
    ) -> None:
        self.queue = deque(episodes)
        self.n_steps, self.episode_bound = n_steps, episode_bound

    def episode_ended(self, end: EpisodeEnd) -> None:
        """Take note of an episode that has ended."""

    def before_step(self, start: StepStart) -> None:
        """Copy environments before a step of the rollout."""

    def values(self, end: RolloutEnd) -> Array:
        """Return V(s_t) (T, N), if the sampling provides `Need.VALUES`. Called when the rollout is complete."""
        raise NotImplementedError

    def update_mask(self, end: RolloutEnd) -> Array:
        """Return which recorded steps enter the update, (T, N). Called when the rollout is complete."""
        import numpy as np

        return np.ones(end.group.shape, dtype=bool)

    def metrics(self) -> Mapping[str, float]:
        """Return the metrics of the rollout, to be logged under `rollout/`."""
        return {}
