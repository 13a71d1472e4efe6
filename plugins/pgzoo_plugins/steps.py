"""A fixed number of steps of every environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Sampling, hookimpl


@dataclass(frozen=True)
class Steps(Sampling):
    """n_steps steps of every environment. A rollout may begin and end in mid-episode."""

    name = "steps"


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Steps]
