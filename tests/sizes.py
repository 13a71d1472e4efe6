"""How much a test samples, in the words of whatever sampling a recipe has."""

from __future__ import annotations

from typing import Any

from pgzoo import Registry
from pgzoo.interface.hyperparameters import declared
from pgzoo.registry.combination import resolve


def sizes(plugin: str, registry: Registry | None = None, **options: Any) -> dict[str, Any]:
    """Return those of n_steps, n_episodes and group_size that the sampling of a combination has."""
    sampling = resolve(registry or Registry.discover(), plugin).sampling
    return {name: value for name, value in options.items() if name in declared(type(sampling))}
