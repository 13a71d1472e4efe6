"""A frozen copy of the policy, for objectives that penalise the distance to it."""

from __future__ import annotations

import copy

import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.interface.batch import Batch
from pgzoo.interface.sequences import evaluate_actions


class ReferencePolicy(torch.nn.Module):
    """A copy of the policy that is not trained, for a part's `make_state`. Its weights are saved with the model.

    The weights are copied at the first call of `log_probs`, when training starts. You may therefore load weights into
    the policy after the model is created. A reference that was saved with a model is not copied again.

    Args:
        policy: the policy that is trained, `Spaces.policy`.
    """

    updates: torch.Tensor
    taken: torch.Tensor

    def __init__(self, policy: ActorCriticPolicy) -> None:
        super().__init__()
        # The copy has no optimizer. Its distribution is a shallow copy: the noise of gSDE is a tensor with a gradient
        # history, which cannot be deep-copied, and the reference draws no noise.
        memo = {id(policy.optimizer): None, id(policy.action_dist): copy.copy(policy.action_dist)}
        self.policy = copy.deepcopy(policy, memo).requires_grad_(False)
        self._trained_policy = [policy]  # in a list, because torch would register a module as a submodule
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))
        self.register_buffer("taken", torch.zeros((), dtype=torch.bool))

    def log_probs(self, batch: Batch) -> torch.Tensor:
        """Return log π_ref(a_t | s_t) (B,), without gradients."""
        if not self.taken:
            self._copy_weights()
        with torch.no_grad():
            return evaluate_actions(self.policy, batch, batch.observations)[1]

    def refresh(self, every: int) -> None:
        """Count one update, and copy the trained policy after every `every` updates."""
        self.updates += 1
        if self.updates % every == 0:
            self._copy_weights()

    def follow(self, decay: float) -> None:
        """Set θ_ref ← decay θ_ref + (1 − decay) θ. Buffers are copied."""
        trained = self._trained_policy[0]
        for parameter, trained_parameter in zip(self.policy.parameters(), trained.parameters(), strict=True):
            parameter.lerp_(trained_parameter.detach(), 1 - decay)
        for buffer, trained_buffer in zip(self.policy.buffers(), trained.buffers(), strict=True):
            buffer.copy_(trained_buffer)

    def _copy_weights(self) -> None:
        self.policy.load_state_dict(self._trained_policy[0].state_dict())
        self.taken.fill_(True)
