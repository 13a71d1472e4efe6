"""Vine sampling: Monte Carlo values from copied environments, instead of a critic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pgzoo import (
    Array,
    Episode,
    Need,
    Plan,
    PlanContext,
    Range,
    Recipe,
    RolloutEnd,
    Sampling,
    Search,
    State,
    StepStart,
    hookimpl,
)


@dataclass(frozen=True)
class Vine(Sampling):
    """V(s_t) is the mean return of K continuations from a copy of the environment in s_t.

    (Schulman et al. 2015, "Trust Region Policy Optimization", sec. 5.2; VinePPO, Kazemnejad et al. 2024, eq. 6.) The
    continuations draw their own actions, so V(s_t) does not depend on a_t, and r_t + γ V(s_{t+1}) − V(s_t) is an
    unbiased estimate of the advantage. Every continuation is played to the end of its episode: an episode of L steps
    costs about K · L² / 2 further steps, which count as environment steps. The environments must be in a DummyVecEnv,
    and it must be possible to copy them.
    """

    name = "vine"
    provides = frozenset({Need.COMPLETE_EPISODES, Need.VALUES})

    n_episodes: Annotated[int | None, Range(1), Search(2, 16, scale="pow2"), "complete episodes per update"] = 8
    n_continuations: Annotated[int, Range(1), Search(1, 8, scale="pow2"), "K, continuations from each state"] = 4
    episode_bound: Annotated[int, Range(1), "a longer episode is an error"] = 100_000

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a queue of n_episodes episodes, in which every state is copied."""
        return VinePlan(self)


class VinePlan(Plan):
    """Copies the environment in every state of its episodes."""

    def __init__(self, sampling: Vine) -> None:
        super().__init__([Episode()] * (sampling.n_episodes or 8), episode_bound=sampling.episode_bound)
        self.k = sampling.n_continuations
        self.states: dict[tuple[int, int], Any] = {}

    def before_step(self, start: StepStart) -> None:
        """Copy the environments that are recorded."""
        self.states.update({(start.t, n): start.copies.copy(n) for n in np.flatnonzero(start.active).tolist()})

    def values(self, end: RolloutEnd) -> Array:
        """Return V (T, N), the mean return of the continuations."""
        assert end.copies is not None  # the plan has a method before_step
        values = np.zeros(end.group.shape)
        places, states = list(self.states), list(self.states.values())
        values[tuple(np.transpose(places))] = end.copies.returns(states, self.k).mean(axis=1)
        self.states = {}  # the copies are not needed any more
        return values


RECIPE = Recipe(
    "vine",
    "the TD residual with Monte Carlo values from copied states, without a critic (VinePPO, Kazemnejad et al. 2024)",
    "td",
    "value",
    sampling="vine",
)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling] | Recipe]:
    """Register the sampling and its recipe."""
    return [Vine, RECIPE]
