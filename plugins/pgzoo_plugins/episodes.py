"""Whole episodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Need, Sampling, hookimpl


@dataclass(frozen=True)
class Episodes(Sampling):
    """Whole episodes, the same number from every environment."""

    name = "episodes"
    provides = frozenset({Need.COMPLETE_EPISODES})


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Episodes]
