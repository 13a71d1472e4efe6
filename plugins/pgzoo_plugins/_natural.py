"""What natural_gradient and trpo have in common: the direction F⁻¹g, and the passes that train the critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgzoo import Actor, Learner

if TYPE_CHECKING:
    import torch


def conjugate_gradients(
    product: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, x: torch.Tensor, max_steps: int, tolerance: float
) -> torch.Tensor:
    """Return an approximate solution of A x = b for a symmetric positive definite A (Hestenes & Stiefel 1952).

    Args:
        product: returns A v (D,) for v (D,).
        b: (D,).
        x: (D,), where to begin.
        max_steps: the number of products, apart from the first.
        tolerance: stop when ‖b − A x‖² falls below this.
    """
    residual = b - product(x)
    conjugate, square = residual, residual @ residual
    for _ in range(max_steps):
        if square <= tolerance:
            break
        image = product(conjugate)
        length = square / (conjugate @ image)
        x = x + length * conjugate
        residual = residual - length * image
        square, previous = residual @ residual, square
        conjugate = residual + square / previous * conjugate
    return x


def natural_direction(
    actor: Actor,
    loss: torch.Tensor,
    kl: torch.Tensor,
    *,
    damping: float,
    max_steps: int,
    tolerance: float,
    noise: float = 0.0,
) -> tuple[torch.Tensor, float]:
    """Return s ≈ −(F + damping I)⁻¹ ∇loss (D,), and sᵀ(F + damping I)s.

    F, the Fisher information, is the Hessian of the mean KL at θ_old (Schulman et al. 2015, appendix C). `noise` is the
    standard deviation of the vector from which conjugate gradients begin.
    """
    import torch

    kl_gradient = actor.gradient(kl, differentiable=True)

    def product(v: torch.Tensor) -> torch.Tensor:
        return actor.gradient(kl_gradient @ v) + damping * v

    ascent = -actor.gradient(loss)
    begin = noise * torch.randn_like(ascent) if noise else torch.zeros_like(ascent)
    direction = conjugate_gradients(product, ascent, begin, max_steps, tolerance)
    return direction, float(direction @ product(direction))


def train_critic(learner: Learner, n_passes: int, batch_size: int | None) -> None:
    """Train V for some passes over the rollout, without a change of the actor."""
    for _ in range(n_passes if learner.has_critic else 0):
        for minibatch in learner.minibatches(learner.samples, batch_size):
            loss = learner.value_loss(learner.evaluate(minibatch))
            learner.record({"value_loss": loss})
            learner.step(loss, keep_actor=True)
