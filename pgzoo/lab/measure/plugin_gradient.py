"""A plugin whose gradient is measured: its parts, what they learned, and what it multiplies each score with."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.algorithm.advantages import credit
from pgzoo.algorithm.part_states import Learners
from pgzoo.interface.parts import Array, Objective, Spaces
from pgzoo.interface.rollout import Batch, Rollout, Samples
from pgzoo.lab.measure.score_gradients import policy_inputs
from pgzoo.registry.combination import Spec


class Contender:
    """A combination of parts beside others, on the same frozen policy.

    Args:
        name: what it is called in tables.
        spec: its parts.
        spaces: what its states are built on.
        discount_states: multiply Ψ_t by γ^t, so that a discounted J has one gradient.
        own_loss: measure the first gradient of its own objective, with its aggregate and normalised advantages;
            else that of `policy_gradient` with `episode_sum`, of which `unbiased` speaks.
    """

    def __init__(
        self, name: str, spec: Spec, spaces: Spaces, *, discount_states: bool = True, own_loss: bool = False
    ) -> None:
        self.name, self.spec, self.spaces = name, spec, spaces
        self.discount_states, self.own_loss = discount_states, own_loss
        self.learners = Learners(spec.parts, spaces, spaces.policy.device)

    @property
    def grouped(self) -> bool:
        """Whether it takes groups of episodes; else any episodes."""
        return self.spec.sampling == "groups"

    def learn(self, rollout: Rollout) -> None:
        """Let its parts learn from a rollout that is not measured."""
        found = credit(self.spec.estimator, self.spec.baseline, rollout, self.learners)
        self.learners.update(rollout, np.where(rollout.mask, found.returns, 0.0))

    def weights(self, rollout: Rollout) -> Array:
        """Return w (T, N) with which Σ w ∇ log π is this plugin's gradient of J; 0 on padding."""
        spec = self.spec
        found = credit(
            spec.estimator, spec.baseline, rollout, self.learners, discount_states=self.discount_states
        ).advantages
        if self.own_loss:
            return self._own_weights(rollout, found)
        return np.where(rollout.mask, found, 0.0) / rollout.n_episodes

    def _own_weights(self, rollout: Rollout, advantages: Array) -> Array:
        """Return −∂loss/∂log π (T, N) at the policy that sampled: the loss sees the policy through log π alone."""
        batch: Samples = sampled_batch(self.spec.objective, self.spaces.policy, rollout, advantages)
        if self.spec.settings.normalize_advantage:
            batch = batch.normalized()
        assert isinstance(batch, Batch)
        loss, _ = self.spec.objective(batch, self.learners["objective"])
        (slope,) = torch.autograd.grad(loss, batch.log_probs)
        return -rollout.scatter(slope)


def sampled_batch(objective: Objective, policy: ActorCriticPolicy, rollout: Rollout, advantages: Array) -> Batch:
    """Return the rollout as an objective sees it at the policy that sampled, ρ = 1; without critic and entropy.

    Args:
        objective: whose weights it has.
        policy: that sampled.
        rollout: its log-probs are the policy's.
        advantages: Ψ (T, N).
    """

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(rollout.flat(x), dtype=torch.float32, device=policy.device)

    observations, actions = policy_inputs(policy, rollout)
    weights, old = objective.weights(rollout), tensor(rollout.log_probs)
    zeros = torch.zeros_like(old)
    return Batch(
        observations=observations,
        actions=actions,
        advantages=tensor(advantages),
        returns=zeros,
        old_values=zeros,
        old_log_probs=old,
        episode=rollout.tensors(rollout.episode, policy.device),
        weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=policy.device),
        progress_remaining=1.0,
        log_probs=old.clone().requires_grad_(),
        values=zeros,
        entropy=zeros,
    )
