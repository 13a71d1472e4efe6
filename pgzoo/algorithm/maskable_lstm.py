"""Policies with a memory and with action masks: sb3-contrib's recurrent policies with its masked distributions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)


class _Masks(RecurrentActorCriticPolicy):
    """Adds the argument `action_masks` to the methods of a recurrent policy. For discrete actions only."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], lr_schedule: Any, **kwargs: Any
    ) -> None:
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)
        self._action_masks: Any = None
        self.action_dist: Any = make_masked_proba_distribution(action_space)
        if isinstance(action_space, spaces.MultiBinary):  # one logit for 0 and one for 1
            self.action_net = self.action_dist.proba_distribution_net(latent_dim=self.mlp_extractor.latent_dim_pi)
            make_optimizer: Any = self.optimizer_class
            self.optimizer = make_optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    @contextmanager
    def _masked(self, action_masks: Any) -> Iterator[None]:
        """Let the distributions that are made inside obey the masks."""
        self._action_masks = action_masks
        try:
            yield
        finally:
            self._action_masks = None

    def _get_action_dist_from_latent(self, latent_pi: torch.Tensor) -> Any:
        distribution = self.action_dist.proba_distribution(action_logits=self.action_net(latent_pi))
        if self._action_masks is not None:
            distribution.apply_masking(self._action_masks)
        return distribution

    def forward(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """Return actions, V, log π and the memory."""
        with self._masked(action_masks):
            return super().forward(*args, **kwargs)

    def evaluate_actions(  # type: ignore[override]
        self, obs: Any, actions: Any, lstm_states: Any, episode_starts: Any, action_masks: Any = None
    ) -> Any:
        """Return V, log π and the entropies."""
        with self._masked(action_masks):
            return super().evaluate_actions(obs, actions, lstm_states, episode_starts)

    def get_distribution(self, *args: Any, action_masks: Any = None, **kwargs: Any) -> Any:
        """Return the distribution and the memory."""
        with self._masked(self._action_masks if action_masks is None else action_masks):
            return super().get_distribution(*args, **kwargs)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> Any:
        """Return actions and the memory."""
        with self._masked(None if action_masks is None else np.asarray(action_masks)):
            return super().predict(observation, state, episode_start, deterministic)


class MaskableLstmPolicy(_Masks):
    """MlpLstmPolicy with action masks."""


class MaskableCnnLstmPolicy(_Masks, RecurrentActorCriticCnnPolicy):
    """CnnLstmPolicy with action masks."""


class MaskableMultiInputLstmPolicy(_Masks, RecurrentMultiInputActorCriticPolicy):
    """MultiInputLstmPolicy with action masks."""
