"""Epochs of minibatches with a torch optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pgzoo import (
    Array,
    Learner,
    Metrics,
    Positive,
    Range,
    Rollout,
    Schedule,
    Search,
    Spaces,
    State,
    Update,
    hookimpl,
)

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class GradientDescent(Update):
    """One optimizer step per minibatch, for several epochs over a rollout (Schulman et al. 2017, algorithm 1).

    With the defaults it takes one step on the whole rollout, as A2C does. The further passes of `n_critic_updates` do
    not change what the actor and the critic share, such as the layers of an image.

    With `target_entropy` H̄, the entropy's weight α begins at `ent_coef`, and again if that is changed. It follows the
    gradient of log α · (H − H̄), as in SAC (Haarnoja et al. 2018, arXiv:1812.05905, sec. 5), where H is the mean of
    −log π over the rollout.
    """

    name = "gradient_descent"
    critic_fields = frozenset({"vf_coef", "n_critic_updates"})
    batch_size: Annotated[
        int | None, Range(1), Search(16, 1024, scale="pow2"), "steps per minibatch; none: the whole rollout"
    ] = None
    n_epochs: Annotated[int, Range(1, 10_000), Search(1, 20, log=True), "passes over a rollout"] = 1
    n_critic_updates: Annotated[
        int,
        Range(0, 10_000),
        Search(0, 20),
        "further passes over a rollout that train only the critic",
    ] = 0
    ent_coef: Annotated[float | Schedule, Range(0), Search(1e-6, 0.1, log=True), "weight of the entropy bonus"] = 0.0
    target_entropy: Annotated[
        float | None, "adapt ent_coef until the mean entropy is this, in nats; none: do not adapt it"
    ] = None
    vf_coef: Annotated[float | Schedule, Range(0), Search(0.2, 1.0), "weight of the critic's loss"] = 0.5
    max_grad_norm: Annotated[
        float | None, Positive, Search(0.3, 5.0, log=True), "largest norm of the gradient; none: do not clip"
    ] = 0.5
    target_kl: Annotated[
        float | None, Positive, "stop an update's epochs when the KL exceeds 1.5 times this; none: do not stop"
    ] = None

    def make_state(self, spaces: Spaces) -> torch.nn.Module | None:
        """Return α if it adapts."""
        if self.target_entropy is None:
            return None
        from pgzoo_plugins._target_entropy import EntropyCoefficient

        return EntropyCoefficient(self.ent_coef, self.target_entropy, spaces.action)

    def make_optimizer(self, state: torch.nn.Module) -> torch.optim.Optimizer:
        """Return Adam."""
        import torch

        from pgzoo_plugins._target_entropy import ADAPTATION_RATE

        return torch.optim.Adam(state.parameters(), lr=ADAPTATION_RATE)

    def update(
        self, rollout: Rollout, returns: Array, state: State, optimizer: torch.optim.Optimizer | None
    ) -> Metrics:
        """Adapt α, given the entropy of the policy that sampled."""
        if self.target_entropy is None:
            return {}
        state.adapt(optimizer, -rollout.mean(rollout.log_probs), self.target_entropy)
        return {"ent_coef": state.current}

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        """Return the last loss."""
        adapts = self.target_entropy is not None
        if adapts:
            state.check(self.target_entropy)
            state.begin(self.ent_coef)  # which a callback may have changed
        for samples in learner.epochs(self.n_epochs):
            for minibatch in learner.minibatches(samples, self.batch_size):
                batch = learner.evaluate(minibatch)
                ent_coef = state.current if adapts else batch.scheduled(self.ent_coef)
                vf_coef = batch.scheduled(self.vf_coef)
                policy_loss, metrics = learner.policy_loss(batch)
                value_loss = learner.value_loss(batch) if learner.has_critic else 0.0
                entropy = batch.aggregate(batch.entropy) if ent_coef else 0.0
                loss = policy_loss + vf_coef * value_loss - ent_coef * entropy
                learner.record({**metrics, "value_loss": value_loss} if learner.has_critic else metrics)
                if self.target_kl is not None and (kl := batch.approx_kl()) > 1.5 * self.target_kl:
                    learner.stop(f"reaching max kl: {kl:.2f}")
                    break
                learner.step(loss, self.max_grad_norm)
        for _ in range(self.n_critic_updates):
            for minibatch in learner.minibatches(learner.samples, self.batch_size):
                batch = learner.evaluate(minibatch)
                value_loss = batch.scheduled(self.vf_coef) * learner.value_loss(batch)
                learner.step(value_loss, self.max_grad_norm, keep_actor=True)
        return {"loss": loss}


@hookimpl
def pgzoo_plugins() -> Iterable[type[Update]]:
    """Register the update."""
    return [GradientDescent]
