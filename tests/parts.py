"""Parts that ask for things, so that a test can look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgzoo import Baseline, Need


@dataclass(frozen=True)
class ValueAndSuccessors(Baseline):
    """b = V(s_t), and the algorithm provides successors and ratios as well."""

    name = "value_and_successors"
    needs = frozenset({Need.VALUES, Need.NEXT_OBSERVATIONS, Need.RATIOS})

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return rollout.values


@dataclass(frozen=True)
class ReadsDistributions(Baseline):
    """b = V(s_t), and the algorithm provides the action distribution of states and successors as well."""

    name = "reads_distributions"
    needs = frozenset({Need.VALUES, Need.NEXT_OBSERVATIONS, Need.DISTRIBUTION})

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return rollout.values
