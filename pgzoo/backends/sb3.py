"""The sb3 backend: SB3's own calls in SB3's order. Parity with SB3 is tested on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import obs_as_tensor

from pgzoo.backends.backend import Backend, raise_if_not_finite
from pgzoo.backends.masks import mask_arguments
from pgzoo.interface.types import Array, Observations


class SB3Backend(Backend):
    """SB3's own calls in SB3's order, with SB3's random numbers."""

    name = "sb3"
    bitwise_sb3 = True

    def act(
        self, observations: Any, action_masks: Array | None = None
    ) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions, V and log π from one forward pass."""
        try:
            with torch.no_grad():
                actions, values, log_probs = self.policy(observations, **mask_arguments(action_masks))
        except (ValueError, RuntimeError) as error:
            raise_if_not_finite(self.policy, observations, error)
            raise
        return actions.cpu().numpy(), values, log_probs

    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,)."""
        with torch.no_grad():
            values = self.policy.predict_values(obs_as_tensor(observations, self.policy.device))
        return values.flatten().cpu().numpy()

    def predict_terminal_values(self, observations: Sequence[Any], steps: Sequence[tuple[int, int]] = ()) -> Array:
        """Return V (K,), evaluated one by one as in SB3, because in a batch the last bits would differ."""
        policy = self.policy
        with torch.no_grad():
            values = [policy.predict_values(policy.obs_to_tensor(x)[0]).item() for x in observations]
        return np.array(values, dtype=np.float32)
