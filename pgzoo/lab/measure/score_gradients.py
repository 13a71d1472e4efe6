"""Weighted sums of scores, Σ_m w_m ∇θ log π(a_m|s_m), for many plugins at the cost of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import policy_actions
from pgzoo.backends.masks import mask_arguments
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array
from pgzoo.lab.measure.exact import TabularMDP, actor_parameters, score_table


class Scores(Protocol):
    """Turns weights into gradients."""

    def gradients(self, rollout: Rollout, weights: Sequence[Array]) -> Array:
        """Return (K, P): the sum of scores under each of K weights (T, N), over the actor's flattened parameters."""


class PolicyScores:
    """Scores by backpropagation. The gradient is linear in the weights, so one forward pass serves all K of them."""

    def __init__(self, policy: ActorCriticPolicy) -> None:
        self._policy = policy
        self._parameters: list[torch.nn.Parameter] = []

    def gradients(self, rollout: Rollout, weights: Sequence[Array]) -> Array:
        """Return (K, P), float32."""
        policy = self._policy
        observations, actions = policy_inputs(policy, rollout)
        if not self._parameters:
            self._parameters = actor_parameters(policy, observations, actions)
        masks = None if rollout.action_masks is None else rollout.tensors(rollout.action_masks, policy.device)
        distribution: Any = policy.get_distribution(observations, **mask_arguments(masks))
        log_probs = distribution.log_prob(actions)
        rows = []
        for number, weight in enumerate(weights):
            w = torch.as_tensor(rollout.flat(weight), dtype=log_probs.dtype, device=log_probs.device)
            gradients = torch.autograd.grad(log_probs, self._parameters, w, retain_graph=number + 1 < len(weights))
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return torch.stack(rows).cpu().numpy()


class TableScores:
    """Scores on a tabular MDP: weights are summed by state and action, then multiplied with the exact scores.

    Attributes:
        rank: the rank of the table of scores, and therefore the largest rank that gradients can have.
    """

    def __init__(self, mdp: TabularMDP, policy: ActorCriticPolicy) -> None:
        self._table = score_table(mdp, policy).reshape(mdp.n_states * mdp.n_actions, -1)
        self._n_actions = mdp.n_actions
        self.rank = int(np.linalg.matrix_rank(self._table))

    def gradients(self, rollout: Rollout, weights: Sequence[Array]) -> Array:
        """Return (K, P), float64."""
        observations: Any = rollout.observations
        row = observations.argmax(axis=2) * self._n_actions + rollout.actions[..., 0].astype(int)
        flat = row[rollout.mask]
        counts = [np.bincount(flat, w[rollout.mask], minlength=len(self._table)) for w in weights]
        gradients: Array = np.array(counts) @ self._table
        return gradients


def policy_inputs(policy: ActorCriticPolicy, rollout: Rollout) -> tuple[Any, torch.Tensor]:
    """Return the observations and actions (M, …) of a rollout as the policy's `evaluate_actions` takes them."""
    actions = policy_actions(policy, rollout.flat(rollout.actions))
    return rollout.tensors(rollout.observations, policy.device), actions
