"""Trust region policy optimization: the natural gradient with a line search."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import Actor, Learner, Metrics, Need, Positive, Range, Recipe, Search, State, Update, hookimpl
from pgzoo_plugins._natural import natural_direction, train_critic

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TRPO(Update):
    """The best loss within KL ≤ `target_kl`, found along the natural gradient (Schulman et al. 2015, appendix C).

    It follows sb3-contrib's TRPO, also in two points that differ from the paper: the line search measures
    KL(π ‖ π_old), and by default the KL is averaged over the dimensions of Box and MultiBinary actions.
    """

    name = "trpo"
    needs = frozenset({Need.DISTRIBUTION})
    critic_fields = frozenset({"n_critic_updates", "batch_size"})
    target_kl: Annotated[float, Positive, Search(0.003, 0.05, log=True), "largest KL of an update"] = 0.01
    cg_max_steps: Annotated[int, Range(1), "steps of conjugate gradients"] = 15
    cg_damping: Annotated[float, Range(0), Search(1e-3, 0.3, log=True), "added to the diagonal of F"] = 0.1
    line_search_shrinking_factor: Annotated[
        float, Range(0, 1, open_low=True, open_high=True), "factor of the step after each failure"
    ] = 0.8
    line_search_max_iter: Annotated[int, Range(1), "steps to try; then the policy stays as it is"] = 10
    sub_sampling_factor: Annotated[int, Range(1), "move the policy on every k-th step only"] = 1
    average_kl: Annotated[bool, "average over dimensions of Box and MultiBinary actions, as in sb3-contrib"] = True
    n_critic_updates: Annotated[int, Range(0, 10_000), Search(5, 20), "passes over a rollout that train the critic"] = (
        10
    )
    batch_size: Annotated[int | None, Range(1), Search(16, 1024, scale="pow2"), "steps per minibatch of the critic"] = (
        128
    )

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        """Move the policy along its natural gradient, then train the critic."""
        samples = next(learner.minibatches(learner.samples, None, stride=self.sub_sampling_factor))
        actor = learner.actor(samples)
        loss, _ = learner.policy_loss(actor.evaluate()[0])
        direction, curvature = natural_direction(
            actor, loss, self._kl(actor), damping=self.cg_damping, max_steps=self.cg_max_steps,
            tolerance=1e-10, noise=1e-4,
        )  # fmt: skip
        length = math.sqrt(2 * self.target_kl / curvature) if curvature > 0 else 0.0
        metrics = self._search(learner, actor, loss.detach(), length * direction)
        train_critic(learner, self.n_critic_updates, self.batch_size)
        return metrics

    def _search(self, learner: Learner, actor: Actor, old_loss: torch.Tensor, longest: torch.Tensor) -> Metrics:
        """Take the longest of the steps that improves the loss within the KL, or none."""
        import torch

        start = accepted = actor.parameters
        try:
            with torch.no_grad():
                for i in range(self.line_search_max_iter):
                    actor.parameters = start + self.line_search_shrinking_factor**i * longest
                    loss, _ = learner.policy_loss(actor.evaluate()[0])
                    kl = self._kl(actor)
                    if kl < self.target_kl and loss < old_loss:
                        accepted = actor.parameters
                        return {"policy_objective": -loss, "kl_divergence_loss": kl, "is_line_search_success": 1.0}
        finally:
            actor.parameters = accepted
        return {"policy_objective": -old_loss, "kl_divergence_loss": 0.0, "is_line_search_success": 0.0}

    def _kl(self, actor: Actor) -> torch.Tensor:
        kl = actor.reverse_kl()
        return kl.mean() if self.average_kl else kl.sum(dim=1).mean()


TRPO_RECIPE = Recipe(
    "trpo",
    "sb3-contrib's TRPO with its defaults (Schulman et al. 2015)",
    "lambda_return",
    "value",
    "surrogate",
    scale="minibatch_std",
    update="trpo",
    defaults={"learning_rate": 1e-3, "n_steps": 2048},
)


@hookimpl
def pgzoo_plugins() -> Iterable[type[Update] | Recipe]:
    """Register the update and the recipe."""
    return [TRPO, TRPO_RECIPE]
