"""The gradient of one plugin on a frozen policy, as a weight for each score ∇ log π(a_t|s_t)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.algorithm.part_states import PartStates
from pgzoo.interface.batch import Batch
from pgzoo.interface.parts import Objective, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.measure.score_gradients import policy_inputs
from pgzoo.registry.combination import Combination


class PluginGradient:
    """A combination of parts, together with what they have learned.

    Args:
        name: the name in tables.
        combination: the parts.
        spaces: passed to the parts' `make_state`.
        discount_states: multiply Ψ_t by γ^t, which the gradient of the discounted J requires.
        own_loss: measure the first gradient of the combination's own objective, including its aggregate and
            `Scale.rescaled`. Otherwise measure the sum over each episode, which the declaration `unbiased` is about.
        rescaled: include `Scale.rescaled`, which the declaration of a scale is also about.
    """

    def __init__(
        self,
        name: str,
        combination: Combination,
        spaces: Spaces,
        *,
        discount_states: bool = True,
        own_loss: bool = False,
        rescaled: bool = False,
    ) -> None:
        self.name, self.combination, self.spaces = name, combination, spaces
        self.discount_states, self.own_loss, self.rescaled = discount_states, own_loss, rescaled
        self.part_states = PartStates(combination.parts, spaces, spaces.policy.device)

    def learn(self, rollout: Rollout) -> None:
        """Let the parts learn from a rollout."""
        c = self.combination
        computed = compute_advantages(c.estimator, c.baseline, c.scale, rollout, self.part_states)
        self.part_states.update(rollout, np.where(rollout.mask, computed.returns, 0.0))

    def weights(self, rollout: Rollout) -> Array:
        """Return w (T, N) such that Σ w ∇ log π is this plugin's gradient; 0 on padding."""
        c = self.combination
        advantages = compute_advantages(
            c.estimator, c.baseline, c.scale, rollout, self.part_states, discount_states=self.discount_states
        ).advantages
        if self.own_loss:
            return self._objective_weights(rollout, advantages)
        if self.rescaled:
            advantages = rollout.scatter(self._rescaled(torch.as_tensor(rollout.flat(advantages))))
        return np.where(rollout.mask, advantages, 0.0) / rollout.n_episodes

    def _objective_weights(self, rollout: Rollout, advantages: Array) -> Array:
        """Return −∂loss/∂log π (T, N) at the policy that sampled. The loss depends on the policy only through log π."""
        batch = sampled_batch(self.combination.objective, self.spaces.policy, rollout, advantages)
        batch = replace(batch, advantages=self._rescaled(batch.advantages))
        loss, _ = self.combination.objective(batch, self.part_states["objective"])
        (gradient,) = torch.autograd.grad(loss, batch.log_probs)
        return -rollout.scatter(gradient)

    def _rescaled(self, advantages: torch.Tensor) -> torch.Tensor:
        """Return Ψ (M,) as the scale gives them to an update of a single minibatch."""
        scale, state = self.combination.scale, self.part_states["scale"]
        return scale.rescaled(scale.rescaled(advantages, "rollout", state), "minibatch", state)


def sampled_batch(objective: Objective, policy: ActorCriticPolicy, rollout: Rollout, advantages: Array) -> Batch:
    """Return a rollout as one batch for an objective, evaluated by the policy that sampled, which makes ρ = 1.

    Values and entropy are 0.

    Args:
        objective: determines the weights.
        policy: the policy that sampled.
        rollout: a rollout with the policy's log-probabilities.
        advantages: Ψ (T, N).
    """

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(rollout.flat(x), dtype=torch.float32, device=policy.device)

    observations, actions = policy_inputs(policy, rollout)
    weights, old_log_probs = objective.weights(rollout), tensor(rollout.log_probs)
    zeros = torch.zeros_like(old_log_probs)
    return Batch(
        observations=observations,
        actions=actions,
        advantages=tensor(advantages),
        returns=zeros,
        old_values=zeros,
        old_log_probs=old_log_probs,
        episode=rollout.tensors(rollout.episode, policy.device),
        weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=policy.device),
        progress_remaining=1.0,
        log_probs=old_log_probs.clone().requires_grad_(),
        values=zeros,
        entropy=zeros,
    )
