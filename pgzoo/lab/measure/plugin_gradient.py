"""A plugin whose gradient is measured: its parts, what they learned, and what it multiplies each score with."""

from __future__ import annotations

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.algorithm.part_states import PartStates
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.parts import Objective, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.measure.score_gradients import policy_inputs
from pgzoo.registry.combination import Combination


class PluginGradient:
    """A combination of parts beside others, on the same frozen policy.

    Args:
        name: what it is called in tables.
        combination: its parts.
        spaces: what its states are built on.
        discount_states: multiply Ψ_t by γ^t, so that a discounted J has one gradient.
        own_loss: measure the first gradient of its own objective, with its aggregate and normalised advantages;
            else that of `policy_gradient` with `episode_sum`, of which `unbiased` speaks.
    """

    def __init__(
        self,
        name: str,
        combination: Combination,
        spaces: Spaces,
        *,
        discount_states: bool = True,
        own_loss: bool = False,
    ) -> None:
        self.name, self.combination, self.spaces = name, combination, spaces
        self.discount_states, self.own_loss = discount_states, own_loss
        self.part_states = PartStates(combination.parts, spaces, spaces.policy.device)

    @property
    def grouped(self) -> bool:
        """Whether it takes groups of episodes; else any episodes."""
        return self.combination.sampling == "groups"

    def learn(self, rollout: Rollout) -> None:
        """Let its parts learn from a rollout that is not measured."""
        found = compute_advantages(self.combination.estimator, self.combination.baseline, rollout, self.part_states)
        self.part_states.update(rollout, np.where(rollout.mask, found.returns, 0.0))

    def weights(self, rollout: Rollout) -> Array:
        """Return w (T, N) with which Σ w ∇ log π is this plugin's gradient of J; 0 on padding."""
        combination = self.combination
        found = compute_advantages(
            combination.estimator, combination.baseline, rollout, self.part_states, discount_states=self.discount_states
        ).advantages
        if self.own_loss:
            return self._own_weights(rollout, found)
        return np.where(rollout.mask, found, 0.0) / rollout.n_episodes

    def _own_weights(self, rollout: Rollout, advantages: Array) -> Array:
        """Return −∂loss/∂log π (T, N) at the policy that sampled: the loss sees the policy through log π alone."""
        batch: Samples = sampled_batch(self.combination.objective, self.spaces.policy, rollout, advantages)
        if self.combination.algorithm.normalize_advantage:
            batch = batch.normalized()
        assert isinstance(batch, Batch)
        loss, _ = self.combination.objective(batch, self.part_states["objective"])
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
