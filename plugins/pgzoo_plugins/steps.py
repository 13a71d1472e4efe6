"""A fixed number of steps of every environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Plan, PlanContext, Range, Sampling, Search, State, hookimpl


@dataclass(frozen=True)
class Steps(Sampling):
    """n_steps steps of every environment. A rollout may begin and end in mid-episode."""

    name = "steps"

    n_steps: Annotated[int, Range(1), Search(4, 4096, scale="pow2"), "steps per environment and update"] = 128

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a plan of n_steps steps."""
        return Plan(n_steps=self.n_steps)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Steps]
