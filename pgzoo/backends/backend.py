"""The protocol of a backend: how a policy draws actions, is evaluated, and takes a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.observations import map_observations
from pgzoo.interface.types import Array, Observations

STEPS_TOGETHER = 1024
"""Steps whose values and log-probs are evaluated together after a rollout. This bounds the memory."""


class Backend(ABC):
    """Draws actions, and evaluates and updates the policy.

    A rollout calls `begin_rollout`, `act` once per step, `evaluate_rollout`, `predict_values` and
    `predict_terminal_values`, in this order. An update calls `begin_update`, then `evaluate_actions` and `step` per
    minibatch. Call `begin_evaluation` before `evaluate_actions` outside an update.

    Attributes:
        name: "sb3", "batched" or "numpy".
        reason: why no faster backend was chosen; empty for the fastest.
        bitwise_sb3: whether results are bit-identical to SB3's, for which even the order of additions matters.

    Args:
        policy: the policy to evaluate and update.
        has_critic: whether its V is trained.
        reason: see above.
    """

    name: str
    bitwise_sb3 = False

    def __init__(self, policy: ActorCriticPolicy, *, has_critic: bool, reason: str = "") -> None:
        self.policy, self.has_critic, self.reason = policy, has_critic, reason

    def still_applies(self, policy: ActorCriticPolicy) -> bool:
        """Whether this backend still supports the policy. It is checked before every rollout and update."""
        return policy is self.policy

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def begin_rollout(self, n_steps: int) -> None:
        """Prepare for a rollout of about n_steps steps."""
        self.begin_evaluation()

    def begin_evaluation(self) -> None:
        """Prepare to evaluate the policy without changing it."""
        self.policy.set_training_mode(False)

    def begin_update(self) -> None:
        """Prepare for an update."""
        self.policy.set_training_mode(True)

    def update_threads(self) -> AbstractContextManager[None]:
        """Return a context that sets the number of torch's threads during an update."""
        return nullcontext()

    @abstractmethod
    def act(self, observations: Any) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions (N, …), V and log π for observations as tensors; V and log π may be None."""

    def evaluate_rollout(self, buffer: RolloutBuffer, n_steps: int) -> None:
        """Write V and log π of the first n_steps steps into the buffer, if `act` did not return them."""
        return

    @abstractmethod
    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,) of the VecEnv's observations."""

    @abstractmethod
    def predict_terminal_values(self, observations: Sequence[Any]) -> Array:
        """Return V (K,) of K ≥ 1 single observations."""

    def evaluate_actions(self, samples: Samples) -> Batch:
        """Return the steps with the current policy's log-probs, values and entropies."""
        observations = to_device(samples.observations, self.policy.device)
        values, log_probs, entropy = self.policy.evaluate_actions(observations, samples.actions)
        return Batch(
            **{**vars(samples), "observations": observations},
            log_probs=log_probs,
            values=values.flatten(),
            entropy=-log_probs if entropy is None else entropy,
        )

    def step(self, loss: torch.Tensor, max_grad_norm: float | None) -> None:
        """Take one optimizer step on a loss that was computed from the last batch of `evaluate_actions`."""
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.policy.parameters(), max_grad_norm)
        self.policy.optimizer.step()


def policy_actions(policy: ActorCriticPolicy, actions: Array) -> torch.Tensor:
    """Convert actions (M, A) of a rollout buffer to the format of the policy's `evaluate_actions`, (M, …)."""
    tensor = torch.as_tensor(actions.astype("float32", copy=False), device=policy.device)
    return tensor.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else tensor


def to_device(x: Any, device: torch.device) -> Any:
    """Return a tensor, or a dict of tensors, on the device."""
    return map_observations(lambda tensor: tensor.to(device), x)
