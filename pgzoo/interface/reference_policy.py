"""A frozen copy of the policy, for objectives that keep near it."""

from __future__ import annotations

import copy

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.interface.batch import Batch


class ReferencePolicy(torch.nn.Module):
    """A policy that is compared with and not trained; its weights are saved with the model.

    It is the live policy as it was when `log_probs` was first called, so when training began: weights may be
    loaded after the model was made. A saved one stays what it was.

    Args:
        policy: the live policy.
    """

    updates: torch.Tensor
    taken: torch.Tensor

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        # The optimizer is not needed; a distribution may hold noise that cannot be copied, and none is drawn here.
        shared = {id(policy.optimizer): None, id(policy.action_dist): copy.copy(policy.action_dist)}
        self.policy = copy.deepcopy(policy, shared).requires_grad_(False)
        self._live = [policy]  # in a list, so that it is no part of this module
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("taken", torch.zeros((), dtype=torch.bool))

    def log_probs(self, batch: Batch) -> torch.Tensor:
        """Return log π_ref(a_t | s_t), (B,)."""
        if not self.taken:
            self._take()
        with torch.no_grad():
            return self.policy.evaluate_actions(batch.observations, batch.actions)[1]

    def refresh(self, every: int) -> None:
        """Count an update; copy the live policy at every so many."""
        self.updates += 1
        if self.updates % every == 0:
            self._take()

    def follow(self, decay: float) -> None:
        """θ_ref ← decay θ_ref + (1 − decay) θ; what is no parameter is copied."""
        for own, live in zip(self.policy.parameters(), self._live[0].parameters(), strict=True):
            own.lerp_(live.detach(), 1 - decay)
        for buffer, live_buffer in zip(self.policy.buffers(), self._live[0].buffers(), strict=True):
            buffer.copy_(live_buffer)

    def _take(self) -> None:
        self.policy.load_state_dict(self._live[0].state_dict())
        self.taken.fill_(True)
