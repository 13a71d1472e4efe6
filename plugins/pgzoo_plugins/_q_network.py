"""The network of the estimator `q_value`. It has a separate file because it imports torch."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces as gym_spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.torch_layers import create_mlp

from pgzoo import Spaces


class QNetwork(torch.nn.Module):
    """Q(s, a): a features extractor of the policy's class, then two hidden layers of 64 units.

    With Discrete actions the network has one output per action, and the output of the given action is returned. Other
    actions (Box, MultiBinary, or MultiDiscrete as one-hot vectors) are inputs, concatenated with the features.
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
        """Return Q (B,) for observations (B, …) and actions (B, action dimension)."""
        features = self.features(preprocess_obs(observations, self.observation_space, self.normalize_images))
        if self.discrete:
            q_all: torch.Tensor = self.head(features)
            return q_all.gather(1, actions.long().reshape(-1, 1)).flatten()
        inputs = preprocess_obs(actions, self.action_space, normalize_images=False)
        assert isinstance(inputs, torch.Tensor)
        q: torch.Tensor = self.head(torch.cat([features, inputs.flatten(1)], dim=1))
        return q.flatten()
