"""Whole episodes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Episode, Need, Plan, PlanContext, Range, Sampling, Search, State, hookimpl

DEFAULT_EPISODES = 8
"""The minimum number of episodes per update if `n_episodes` is None."""


@dataclass(frozen=True)
class Episodes(Sampling):
    """The first n_episodes episodes that begin, each played to its end.

    Whether an episode is included does not depend on its length. Taking the first ones that end would favour short
    ones. By default, n_episodes is the smallest multiple of the number of environments that is at least 8.
    """

    name = "episodes"
    provides = frozenset({Need.COMPLETE_EPISODES})

    n_episodes: Annotated[
        int | None, Range(1), Search(1, 64, scale="pow2", none=8), "complete episodes per update, over all environments"
    ] = None
    episode_bound: Annotated[int, Range(1), "a longer episode is an error"] = 100_000

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a queue of n_episodes episodes."""
        default = context.n_envs * math.ceil(DEFAULT_EPISODES / context.n_envs)
        return Plan([Episode()] * (self.n_episodes or default), episode_bound=self.episode_bound)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Episodes]
