"""Names that the whole package shares: arrays, states, metrics, aggregates, and what a part can ask for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
"""A NumPy array. Its shape is (T, N), time by environment, unless the docstring gives another one."""

Observations: TypeAlias = "Array | dict[str, Array]"
"""An array of observations, or a dict of arrays for a `gymnasium.spaces.Dict`."""

State: TypeAlias = Any
"""What the part's own `make_state` returned: a torch module, or None."""


class StateByKind(Protocol):
    """The states of all parts."""

    def __getitem__(self, kind: str) -> State:
        """Return the state of "estimator", "baseline", …."""


Metrics: TypeAlias = Mapping[str, Any]
"""Numbers to log under `train/`."""

Aggregate: TypeAlias = Literal["step_mean", "episode_sum", "episode_mean"]
"""How the losses of all steps are reduced to one number, see `Batch.aggregate`."""

AggregateParam: TypeAlias = Annotated[
    Aggregate,
    "mean over steps (SB3), or the sum or mean over each episode's steps, averaged over episodes",
]
"""The type of an objective's `aggregate` field. Use it to give the field another default."""


class Need(Enum):
    """What a part asks the algorithm to provide."""

    VALUES = "values"
    """A trained V: `rollout.values` and `rollout.next_values` are present."""
    NEXT_OBSERVATIONS = "next observations"
    """`rollout.next_observations` is present."""
    RATIOS = "ratios"
    """`rollout.ratios` is present."""
    SCORES = "scores"
    """`rollout.score_sq_norms` is present."""
    DISTRIBUTION = "the action distribution"
    """`rollout.distribution` is present, and with `NEXT_OBSERVATIONS` also `rollout.next_distribution`.

    An update gets `learner.actor` instead, with the exact KL of the distributions and the actor's parameters.
    """
    ACTION_VALUES = "action values"
    """The estimator learns Q(s, a), and the part is called with the estimator's state instead of its own.

    That state is a module that returns Q (B, K) for observations (B, …) and K actions of each, (B, K, action
    dimension). An estimator with such a state has this need in its `provides`.
    """
    COMPLETE_EPISODES = "complete episodes"
    """Every sampled episode runs from a reset to its end."""
    GROUPS = "groups"
    """Whole episodes, `group_size` of them from each of several initial states. `rollout.group` numbers the groups."""
    EPISODE_ADVANTAGES = "one advantage per episode"
    """The estimator and the baseline give all steps of an episode the same number."""
    STEP_RETURNS = "one return per step"
    """The estimator gives each step its own return."""
