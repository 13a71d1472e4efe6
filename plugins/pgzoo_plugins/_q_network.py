"""The network of the estimator `q_value`, and means of Q over actions. A separate file, because it imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.torch_layers import create_mlp

from pgzoo import ActionDistribution, Array, Rollout, Spaces, map_observations

STEPS_PER_FORWARD = 2048
"""The number of steps in one forward pass of Q, which bounds its memory."""
SAMPLED_ACTIONS = 16
"""K, the number of actions in Σ_a π(a|s) Q(s, a) if they cannot all be enumerated."""


class QNetwork(torch.nn.Module):
    """Q(s, a): a features extractor of the policy's class, then two hidden layers of 64 units.

    With Discrete actions the network has one output per action, and the outputs of the given actions are returned.
    Other actions (Box, MultiBinary, or MultiDiscrete as one-hot vectors) are inputs, concatenated with the features.
    """

    def __init__(self, spaces: Spaces) -> None:
        super().__init__()
        self.observation_space, self.action_space = spaces.observation, spaces.action
        self.normalize_images = spaces.policy.normalize_images
        self.features = spaces.policy.make_features_extractor()
        n_features = self.features.features_dim
        self.discrete = isinstance(spaces.action, gym_spaces.Discrete)
        if isinstance(spaces.action, gym_spaces.Discrete):
            sizes = n_features, int(spaces.action.n)
        else:
            sizes = n_features + get_flattened_obs_dim(spaces.action), 1
        self.head = torch.nn.Sequential(*create_mlp(*sizes, [64, 64], torch.nn.Tanh))

    def forward(self, observations: Any, actions: torch.Tensor) -> torch.Tensor:
        """Return Q (B, K) for observations (B, …) and K actions of each, (B, K, action dimension)."""
        features = self.features(preprocess_obs(observations, self.observation_space, self.normalize_images))
        if self.discrete:
            q_all: torch.Tensor = self.head(features)
            return q_all.gather(1, actions.long().flatten(1))
        n_actions = actions.shape[1]
        inputs = preprocess_obs(actions.flatten(0, 1), self.action_space, normalize_images=False)
        assert isinstance(inputs, torch.Tensor)
        repeated = features.repeat_interleave(n_actions, dim=0)
        q: torch.Tensor = self.head(torch.cat([repeated, inputs.flatten(1)], dim=1))
        return q.reshape(-1, n_actions)


def q_values(q: torch.nn.Module, observations: Any, actions: torch.Tensor) -> torch.Tensor:
    """Return Q (M, K) without gradients for observations (M, …) and actions (M, K, action dimension), in blocks."""
    with torch.no_grad():
        indices = torch.split(torch.arange(len(actions), device=actions.device), STEPS_PER_FORWARD)
        return torch.cat([q(select(observations, index), actions[index]) for index in indices])


def expected_q(
    q: torch.nn.Module,
    rollout: Rollout,
    observations: Any,
    distribution: ActionDistribution,
    where: Array,
    n_actions: int = SAMPLED_ACTIONS,
) -> Array:
    """Return Σ_a π(a|s) Q(s, a) (T, N) where `where` (T, N) is True, and 0 elsewhere.

    Args:
        q: Q(s, a), see `QNetwork.forward`.
        rollout: the rollout.
        observations: s, (T, N, …), or a dict of such arrays.
        distribution: π(· | s).
        where: the steps to evaluate.
        n_actions: K, see `ActionDistribution.quadrature`.
    """
    device = next(q.parameters()).device
    index = np.flatnonzero(rollout.flat(where))
    flat = np.zeros(int(rollout.mask.sum()))
    if len(index):
        actions, weights = distribution.quadrature(n_actions)
        rows = torch.as_tensor(index, device=device)
        q_all = q_values(q, select(rollout.tensors(observations, device), rows), rollout.tensors(actions, device)[rows])
        flat[index] = (rollout.flat(weights)[index] * q_all.cpu().numpy()).sum(axis=1)
    return rollout.scatter(flat)


def select(x: Any, index: torch.Tensor) -> Any:
    """Return the rows of a tensor, or of each tensor in a dict."""
    return map_observations(lambda tensor: tensor[index], x)
