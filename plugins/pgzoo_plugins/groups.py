"""Groups of episodes from the same initial state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Need, Sampling, hookimpl


@dataclass(frozen=True)
class Groups(Sampling):
    """Groups of whole episodes. Those of a group begin with the same reset seed."""

    name = "groups"
    provides = frozenset({Need.COMPLETE_EPISODES, Need.GROUPS})


@hookimpl
def pgzoo_plugins() -> Iterable[type[Sampling]]:
    """Register the sampling."""
    return [Groups]
