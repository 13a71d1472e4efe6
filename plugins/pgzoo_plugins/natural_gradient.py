"""The natural policy gradient: steepest descent in the distance between policies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pgzoo import Learner, Metrics, Need, Positive, Range, Recipe, Search, State, Update, hookimpl
from pgzoo_plugins._natural import natural_direction, train_critic


@dataclass(frozen=True)
class NaturalGradient(Update):
    """One step θ ← θ − α (F + damping I)⁻¹ ∇loss, with the Fisher information F (Kakade 2001).

    With `target_kl` = δ and the direction s, α = √(2δ / sᵀFs). The KL of the step is then about δ (Rajeswaran et al.
    2017, eq. 5).
    """

    name = "natural_gradient"
    needs = frozenset({Need.DISTRIBUTION})
    critic_fields = frozenset({"n_critic_updates", "batch_size"})
    target_kl: Annotated[
        float | None, Positive, Search(0.003, 0.05, log=True), "KL of a step; none: α is step_size"
    ] = 0.01
    step_size: Annotated[float, Positive, "α, if target_kl is none"] = 0.1
    cg_max_steps: Annotated[int, Range(1), "steps of conjugate gradients"] = 15
    cg_damping: Annotated[float, Range(0), Search(1e-3, 0.3, log=True), "added to the diagonal of F"] = 0.01
    n_critic_updates: Annotated[int, Range(0, 10_000), Search(5, 20), "passes over a rollout that train the critic"] = (
        10
    )
    batch_size: Annotated[int | None, Range(1), Search(16, 1024, scale="pow2"), "steps per minibatch of the critic"] = (
        128
    )

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        """Take the step, then train the critic."""
        import torch

        actor = learner.actor(next(learner.minibatches(learner.samples, None)))
        batch, kl = actor.evaluate()
        loss, metrics = learner.policy_loss(batch)
        direction, curvature = natural_direction(
            actor, loss, kl.mean(), damping=self.cg_damping, max_steps=self.cg_max_steps, tolerance=1e-14
        )
        length = self.step_size
        if self.target_kl is not None:
            length = math.sqrt(2 * self.target_kl / curvature) if curvature > 0 else 0.0
        actor.parameters = actor.parameters + length * direction
        with torch.no_grad():
            kl = actor.evaluate()[1].mean()
        train_critic(learner, self.n_critic_updates, self.batch_size)
        return {**metrics, "approx_kl": kl, "step_length": length}


NPG = Recipe(
    "npg",
    "the natural policy gradient, with steps of equal KL (Kakade 2001; Rajeswaran et al. 2017)",
    "lambda_return",
    "value",
    scale="minibatch_std",
    update="natural_gradient",
    defaults={"learning_rate": 1e-3, "n_steps": 2048},
)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Update] | Recipe]:
    """Register the update and the recipe."""
    return [NaturalGradient, NPG]
