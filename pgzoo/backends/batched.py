"""The batched backend: torch, with V and log π evaluated after the rollout, many steps at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer

from pgzoo._sb3 import action_distribution
from pgzoo.backends.backend import STEPS_TOGETHER, policy_actions, raise_if_not_finite
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.interface.observations import map_observations
from pgzoo.interface.types import Array


class BatchedBackend(SB3Backend):
    """Only the actor runs at each step. V and log π are computed from its stored features after the rollout."""

    name = "batched"
    bitwise_sb3 = False

    def begin_rollout(self, n_steps: int) -> None:
        """Discard the features of the last rollout."""
        super().begin_rollout(n_steps)
        self._features: list[torch.Tensor] = []
        self._n_stored = 0

    def act(
        self, observations: Any, action_masks: Array | None = None
    ) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions, and store the features."""
        policy: Any = self.policy
        try:
            with torch.no_grad():
                features = policy.extract_features(observations)
                latent = policy.mlp_extractor.forward_actor(features)
                actions = _distribution(policy, latent, action_masks).get_actions()
        except (ValueError, RuntimeError) as error:
            raise_if_not_finite(policy, observations, error)
            raise
        self._store(features)
        return actions.cpu().numpy().reshape(-1, *policy.action_space.shape), None, None

    def _store(self, features: torch.Tensor) -> None:
        """Copy the features (N, D) of a step into a block of many steps: small tensors would fragment the heap."""
        rows = max(1, STEPS_TOGETHER // len(features))
        if self._n_stored % rows == 0:
            self._features.append(features.new_empty(rows, *features.shape))
        self._features[-1][self._n_stored % rows] = features
        self._n_stored += 1

    def evaluate_rollout(self, buffer: RolloutBuffer, n_steps: int, action_masks: Array | None = None) -> None:
        """Write V and log π into the buffer, one block of steps at a time."""
        policy: Any = self.policy
        start = 0
        for block in self._features:
            features = block[: n_steps - start].flatten(0, 1)
            stop = start + len(features) // buffer.n_envs
            with torch.no_grad():
                latent_pi, latent_vf = policy.mlp_extractor(features)
                actions = policy_actions(policy, buffer.actions[start:stop].reshape(len(features), -1))
                masks = None if action_masks is None else action_masks[start:stop].reshape(len(features), -1)
                log_probs = _distribution(policy, latent_pi, masks).log_prob(actions)
                values = policy.value_net(latent_vf)
            shape = (stop - start, buffer.n_envs)
            buffer.log_probs[start:stop] = log_probs.cpu().numpy().reshape(shape)
            buffer.values[start:stop] = values.cpu().numpy().reshape(shape)
            start = stop
        self._features = []

    def predict_terminal_values(self, observations: Sequence[Any], steps: Sequence[tuple[int, int]] = ()) -> Array:
        """Return V (K,), evaluated in blocks."""
        values = []
        for start in range(0, len(observations), STEPS_TOGETHER):
            tensors = [self.policy.obs_to_tensor(x)[0] for x in observations[start : start + STEPS_TOGETHER]]
            with torch.no_grad():
                block = self.policy.predict_values(map_observations(lambda *rows: torch.cat(rows), *tensors))
            values.append(block.flatten().cpu().numpy())
        return np.concatenate(values)


def _distribution(policy: Any, latent: torch.Tensor, action_masks: Array | None) -> Any:
    """Return the distribution of actions for the actor's latent features, without the forbidden ones."""
    distribution: Any = action_distribution(policy, latent)
    if action_masks is not None:
        distribution.apply_masking(action_masks)
    return distribution
