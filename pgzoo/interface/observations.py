"""Observations are arrays, or dicts of arrays. The two functions here are the only places that tell them apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def map_observations(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Apply a function to observations, or to each entry of a dict (or nested dict) of them.

    `others` have the same structure as `first`: `map_observations(np.add, {"x": 1}, {"x": 2})` is `{"x": 3}`.
    """
    if not hasattr(first, "shape") and isinstance(first, Mapping):  # hasattr is ten times faster than isinstance
        return {key: map_observations(function, value, *(x[key] for x in others)) for key, value in first.items()}
    return function(first, *others)


def observation_leaves(observations: Any) -> list[Any]:
    """Return the arrays that observations consist of, in the order of a dict's keys."""
    leaves: list[Any] = []
    map_observations(leaves.append, observations)
    return leaves
