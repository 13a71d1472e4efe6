"""Epochs of minibatches with a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pgzoo import Update, hookimpl


@dataclass(frozen=True)
class GradientDescent(Update):
    """One optimizer step per minibatch, for several epochs over a rollout (Schulman et al. 2017, algorithm 1)."""

    name = "gradient_descent"


@hookimpl
def pgzoo_plugins() -> Iterable[type[Update]]:
    """Register the update."""
    return [GradientDescent]
