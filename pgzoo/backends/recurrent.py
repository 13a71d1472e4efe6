"""The recurrent backend: torch, with policies that have a memory, such as those of sb3-contrib."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from pgzoo.backends.backend import raise_if_not_finite
from pgzoo.backends.masks import mask_arguments
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.interface.sequences import Memory
from pgzoo.interface.types import Array, Observations


class RecurrentBackend(SB3Backend):
    """sb3-contrib's calls in the order of its RecurrentPPO.

    Attributes:
        first_memory: that at the first step of the rollout.
    """

    name = "recurrent"
    recurrent = True

    def __init__(self, policy: ActorCriticPolicy, *, has_critic: bool, reason: str = "") -> None:
        super().__init__(policy, has_critic=has_critic, reason=reason)
        self.first_memory: Memory | None = None
        self._at_ends: dict[tuple[int, int], torch.Tensor] = {}
        self._n_steps = 0

    def begin_rollout(self, n_steps: int) -> None:
        """Forget what the last rollout needed."""
        super().begin_rollout(n_steps)
        self.first_memory, self._at_ends, self._n_steps = None, {}, 0

    def act(
        self, observations: Any, action_masks: Array | None = None
    ) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions, V and log π, and remember."""
        policy: Any = self.policy
        starts = self._starts(self.episode_starts)
        memory = self._memory_of(len(starts))
        if self.first_memory is None:
            self.first_memory = memory
        try:
            with torch.no_grad():
                actions, values, log_probs, memory = policy(
                    observations, memory, starts, **mask_arguments(action_masks)
                )
        except (ValueError, RuntimeError) as error:
            raise_if_not_finite(policy, observations, error)
            raise
        self.memory = Memory(*memory)
        return actions.cpu().numpy(), values, log_probs

    def after_step(self, dones: Array) -> None:
        """Keep the critic's memory at the ends of episodes, with which V of a terminal observation is evaluated."""
        if np.count_nonzero(dones):
            assert self.memory is not None
            stacked = self.memory.stacked()
            for n in np.flatnonzero(dones).tolist():
                self._at_ends[self._n_steps, n] = stacked[n]
        self._n_steps += 1
        self.episode_starts = dones

    def first_memory_array(self) -> Array | None:
        """Return (N, 4, layers, size)."""
        assert self.first_memory is not None
        return self.first_memory.stacked().cpu().numpy()

    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,) of the observations after the last step."""
        policy: Any = self.policy
        starts = self._starts(self.episode_starts)
        with torch.no_grad():
            tensors: Any = obs_as_tensor(observations, policy.device)
            values = policy.predict_values(tensors, self._memory_of(len(starts)).vf, starts)
        return values.flatten().cpu().numpy()  # type: ignore[no-any-return]

    def predict_terminal_values(self, observations: Sequence[Any], steps: Sequence[tuple[int, int]] = ()) -> Array:
        """Return V (K,), evaluated one by one as in sb3-contrib."""
        policy: Any = self.policy
        values = []
        with torch.no_grad():
            for x, step in zip(observations, steps, strict=True):
                memory = Memory.of(self._at_ends[step][None])
                values.append(
                    policy.predict_values(policy.obs_to_tensor(x)[0], memory.vf, self._starts([False])).item()
                )
        return np.array(values, dtype=np.float32)

    def _starts(self, episode_starts: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(episode_starts, dtype=np.float32), device=self.policy.device)

    def _memory_of(self, n_envs: int) -> Memory:
        """Return the memory, or an empty one if there is none of so many environments."""
        if self.memory is None or self.memory.pi[0].shape[1] != n_envs:
            self.memory = Memory.empty(self.policy, n_envs)
        return self.memory
