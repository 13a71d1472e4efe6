"""No baseline, and no scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Array, Baseline, Part, Rollout, Scale, State, hookimpl


@dataclass(frozen=True)
class NoBaseline(Baseline):
    """b_t = 0: an action is judged by the return alone."""

    name = "none"
    unbiased = True
    per_episode = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> float:
        """Return b = 0."""
        return 0.0


@dataclass(frozen=True)
class NoScale(Scale):
    """c_t = 1: advantages keep the units of the rewards."""

    name = "none"
    unbiased = True
    per_episode = True


@hookimpl
def pgzoo_plugins() -> Iterable[type[Part]]:
    """Register the baseline and the scale."""
    return [NoBaseline, NoScale]
