"""Groups of episodes from the same initial state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pgzoo import (
    Array,
    ConfigError,
    Episode,
    EpisodeEnd,
    Need,
    Plan,
    PlanContext,
    Range,
    RolloutEnd,
    Sampling,
    Search,
    State,
    hookimpl,
)

DEFAULT_GROUPS = 4
"""The number of groups per update if `n_episodes` is None."""


@dataclass(frozen=True)
class Groups(Sampling):
    """Groups of whole episodes that begin with the same reset seed, and whose actions are independent.

    The seed also determines the environment's own noise (Gymnasium seeds one generator with it) until different actions
    make the episodes diverge. Given the start and the noise, the returns of the other episodes are independent of an
    episode's own actions, so a baseline computed from them is unbiased.
    """

    name = "groups"
    provides = frozenset({Need.COMPLETE_EPISODES, Need.GROUPS})

    n_episodes: Annotated[
        int | None, Range(1), Search(8, 256, scale="pow2", none=32), "complete episodes per update; none: 4 groups"
    ] = None
    group_size: Annotated[int, Range(1), Search(2, 16, scale="pow2"), "episodes per group, from one initial state"] = 8
    group_options: Annotated[dict[str, Any] | None, "options for reset(options=…)"] = None
    episode_bound: Annotated[int, Range(1), "a longer episode is an error"] = 100_000

    def __post_init__(self) -> None:
        """Refuse a number of episodes that is not a multiple of the group size."""
        n, size = self.n_episodes, self.group_size
        if n is not None and n % size:
            raise ConfigError(
                f"n_episodes must be a multiple of group_size={size}, because every group must be complete; got {n}, "
                f"the nearest is {size * max(1, round(n / size))}"
            )

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a queue of n_episodes episodes, one group after the other."""
        return GroupPlan(self, context)


class GroupPlan(Plan):
    """A queue of groups. If the objective has a `resample_budget`, a group of equal returns is replaced by another."""

    def __init__(self, sampling: Groups, context: PlanContext) -> None:
        super().__init__(episode_bound=sampling.episode_bound)
        size = sampling.group_size
        self.n_groups = (sampling.n_episodes or DEFAULT_GROUPS * size) // size
        self.budget = int((context.resample_budget or 0) * self.n_groups)
        self.sampling, self.context = sampling, context
        self.returns: list[list[float]] = []  # of each group
        self.successes: list[list[bool]] = []
        for _ in range(self.n_groups):
            self.add_group()

    def add_group(self) -> None:
        """Append the episodes of a new group to the queue."""
        episode = Episode(self.context.seeds.next(), self.sampling.group_options, len(self.returns))
        self.queue.extend([episode] * self.sampling.group_size)
        self.returns.append([])
        self.successes.append([])

    def episode_ended(self, end: EpisodeEnd) -> None:
        """Store the return. Replace a complete group of equal returns within the budget."""
        returns = self.returns[end.episode.group]
        returns.append(end.discounted_return)
        if "is_success" in end.info:
            self.successes[end.episode.group].append(bool(end.info["is_success"]))
        complete = len(returns) == self.sampling.group_size
        if complete and max(returns) == min(returns) and len(self.returns) < self.n_groups + self.budget:
            self.add_group()

    def informative_groups(self) -> list[int]:
        """Return the groups whose returns differ."""
        return [group for group, returns in enumerate(self.returns) if max(returns) > min(returns)]

    def update_mask(self, end: RolloutEnd) -> Array:
        """Return which steps enter the update: all of them, or those of groups whose returns differ."""
        if self.context.resample_budget is None:
            return super().update_mask(end)
        return np.isin(end.group, self.informative_groups())

    def metrics(self) -> dict[str, float]:
        """Return pass@1 and pass@G if the environment reports success, and the share of groups with equal returns."""
        metrics: dict[str, float] = {}
        size = self.sampling.group_size
        if all(len(successes) == size for successes in self.successes):
            metrics["pass@1"] = float(np.mean(self.successes))
            metrics[f"pass@{size}"] = float(np.mean(np.any(self.successes, axis=1)))
        metrics["equal_groups"] = 1 - len(self.informative_groups()) / len(self.returns)
        if self.context.resample_budget is not None:
            metrics["resampled_groups"] = len(self.returns) - self.n_groups
        return metrics


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Groups]
