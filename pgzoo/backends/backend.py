"""The protocol of a backend: how a policy draws actions, is evaluated, and takes a step."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.recognition import Fingerprint
from pgzoo.errors import DivergenceError, EnvironmentFailure, GradientError
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.observations import map_observations, observation_leaves
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.sequences import Memory, evaluate_actions
from pgzoo.interface.types import Array, Observations

STEPS_TOGETHER = 1024
"""Steps whose values and log-probs are evaluated together. This bounds the memory that a whole rollout takes."""


class Backend(ABC):
    """Draws actions, and evaluates and updates the policy.

    A rollout calls `begin_rollout`, `act` once per step, `evaluate_rollout`, `predict_values` and
    `predict_terminal_values`, in this order. An update calls `begin_update`, then `evaluate_actions` and `step` per
    minibatch. `check_parameters` follows the last update. Call `begin_evaluation` before `evaluate_actions` outside an
    update.

    If the policy's output is not finite, `act`, `evaluate_rollout` and `evaluate_actions` raise EnvironmentFailure if
    an observation is not finite, and DivergenceError otherwise.

    Attributes:
        name: "sb3", "batched" or "numpy".
        reason: why no faster backend was chosen; empty for the fastest.
        bitwise_sb3: whether results are bit-identical to SB3's, for which even the order of additions matters.
        fingerprint: what the policy consisted of when the backend was chosen.
        chosen_for: the buffer class and the setting `fast` for which it was chosen.
        recurrent: whether the policy has a memory, so that steps are evaluated as sequences.
        episode_starts: (N,) whether an episode begins with the next step; only recurrent backends read it.
        memory: what a recurrent policy remembers in each environment; None for others, and before the first step.

    Args:
        policy: the policy to evaluate and update.
        has_critic: whether its V is trained.
        reason: see above.
    """

    name: str
    bitwise_sb3 = False
    recurrent = False
    episode_starts: Array | None
    memory: Memory | None = None
    chosen_for: tuple[type[RolloutBuffer], bool | str] | None = None

    def __init__(self, policy: ActorCriticPolicy, *, has_critic: bool, reason: str = "") -> None:
        self.policy, self.has_critic, self.reason = policy, has_critic, reason
        self.fingerprint = Fingerprint(policy)

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
        move_state(self.policy.optimizer)

    def update_threads(self) -> AbstractContextManager[None]:
        """Return a context that sets the number of torch's threads during an update."""
        return nullcontext()

    @abstractmethod
    def act(
        self, observations: Any, action_masks: Array | None = None
    ) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions (N, …), V and log π for observations as tensors; V and log π may be None.

        Args:
            observations: (N, …).
            action_masks: (N, number of actions) which actions are allowed; None: the policy takes no masks.
        """

    def evaluate_rollout(self, buffer: RolloutBuffer, n_steps: int, action_masks: Array | None = None) -> None:
        """Write V and log π of the first n_steps steps into the buffer, if `act` did not return them.

        Args:
            buffer: the buffer.
            n_steps: the number of steps.
            action_masks: (n_steps, N, number of actions), as in `act`.
        """
        return

    def first_memory_array(self) -> Array | None:
        """Return (N, …) what a recurrent policy remembered at the first step of the rollout; None for others."""
        return None

    def after_step(self, dones: Array) -> None:
        """Note which episodes the step of the environments has ended, (N,)."""
        return

    @abstractmethod
    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,) of the VecEnv's observations."""

    @abstractmethod
    def predict_terminal_values(self, observations: Sequence[Any], steps: Sequence[tuple[int, int]] = ()) -> Array:
        """Return V (K,) of K ≥ 1 single observations, which followed these steps (t, n) of the rollout."""

    def evaluate_actions(self, samples: Samples) -> Batch:
        """Return the steps with the current policy's log-probs, values and entropies."""
        observations = to_device(samples.observations, self.policy.device)
        try:
            values, log_probs, entropy = evaluate_actions(self.policy, samples, observations)
        except (ValueError, RuntimeError) as error:
            raise_if_not_finite(self.policy, observations, error)
            raise
        return Batch(
            **{**vars(samples), "observations": observations},
            log_probs=log_probs,
            values=values.flatten(),
            entropy=-log_probs if entropy is None else entropy,
        )

    @property
    def extracts_as_sb3(self) -> bool:
        """Whether the features extractor is one of SB3's, which fail on observations that are not finite."""
        return type(self.policy.features_extractor).__module__.startswith("stable_baselines3.")

    @property
    def device(self) -> torch.device:
        """The policy's device."""
        return self.policy.device

    def actor_parameters(self, batch: Batch) -> list[torch.nn.Parameter]:
        """Return the parameters on which log π of the batch evaluated last depends."""
        return parameters_behind(self.policy, batch.log_probs)

    def step(self, loss: torch.Tensor, max_grad_norm: float | None, *, keep: Sequence[torch.nn.Parameter] = ()) -> None:
        """Take one optimizer step on a loss that was computed from the last batch of `evaluate_actions`.

        Args:
            loss: a scalar.
            max_grad_norm: clip the gradient to this norm; None: do not clip.
            keep: parameters that stay as they are.

        Raises:
            DivergenceError: the gradient is not finite. The parameters have not changed.
        """
        self.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for p in keep:
            p.grad = None
        if max_grad_norm is None:
            gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        else:
            norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters(), max_grad_norm)
        check_gradient(loss, norm.item())
        self.policy.optimizer.step()

    def check_parameters(self) -> None:
        """Raise DivergenceError, with the parameter's name, if a parameter of the policy is not finite."""
        parameters = [p.detach() for p in self.policy.parameters()]
        if not math.isfinite(torch.nn.utils.get_total_norm(parameters).item()):
            raise_if_diverged(self.policy)


def parameters_behind(policy: ActorCriticPolicy, x: torch.Tensor) -> list[torch.nn.Parameter]:
    """Return the trained parameters of a policy on which x depends, in the policy's order. x keeps its graph."""
    trained = [p for p in policy.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(x.sum(), trained, retain_graph=True, allow_unused=True)
    return [p for p, gradient in zip(trained, gradients, strict=True) if gradient is not None]


def policy_actions(policy: ActorCriticPolicy, actions: Array, device: torch.device | None = None) -> torch.Tensor:
    """Convert actions (M, A) of a rollout buffer to the format of the policy's `evaluate_actions`, (M, …).

    Args:
        policy: the policy.
        actions: (M, A).
        device: the policy's device; None to search its modules for a parameter, which takes 30 µs.
    """
    if isinstance(policy.action_space, spaces.Discrete):
        converted = actions.astype("int64").ravel()
    else:
        converted = actions.astype("float32", copy=False)
    return as_tensor(converted, device or policy.device)


def as_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """Return a tensor on the device, in the same memory if possible.

    `torch.from_numpy` does the same as `torch.as_tensor` in a third of the time.
    """
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.to(device)


def observation_tensors(observations: Any, device: torch.device) -> Any:
    """Return the VecEnv's observations as a tensor, or as a dict of tensors."""
    return map_observations(lambda array: as_tensor(array, device), observations)


def to_device(x: Any, device: torch.device) -> Any:
    """Return a tensor, or a dict of tensors, on the device."""
    return map_observations(lambda tensor: tensor.to(device), x)


def blocks(observations: Any) -> Iterator[Any]:
    """Yield STEPS_TOGETHER rows of a tensor, or of each tensor in a dict, at a time."""
    for start in range(0, len(observation_leaves(observations)[0]), STEPS_TOGETHER):
        yield map_observations(lambda tensor, start=start: tensor[start : start + STEPS_TOGETHER], observations)


def mask_blocks(rollout: Rollout) -> Iterator[Array | None]:
    """Yield the action masks of a rollout's steps, STEPS_TOGETHER rows at a time; None without end if it has none."""
    if rollout.action_masks is None:
        yield from itertools.repeat(None)
    else:
        yield from blocks(rollout.flat(rollout.action_masks))


def move_state(optimizer: torch.optim.Optimizer) -> None:
    """Move an optimizer's state to the devices of its parameters.

    `load_state_dict` leaves step counts on the device from which they were loaded. Most optimizers keep them on the
    CPU, those with the option `fused` or `capturable` beside the parameter.
    """
    for group in optimizer.param_groups:
        beside = group.get("fused") or group.get("capturable")
        for p in group["params"]:
            state = optimizer.state.get(p, {})
            for key, value in state.items():
                device = torch.device("cpu") if key == "step" and not beside else p.device
                if isinstance(value, torch.Tensor) and value.device != device:
                    state[key] = value.to(device)


# ---------------------------------------------------------------- numbers that are not finite


def is_finite(x: Array) -> bool:
    """Whether all numbers of an array are finite. One dot product nearly always answers it, faster than `isfinite`.

    NumPy warns of large numbers, whose squares are infinite. Callers suppress this with `np.errstate(over="ignore")`.
    """
    if x.dtype.kind != "f":
        return True
    flat = x.ravel()
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(x).all())


def diverged(what: str) -> DivergenceError:
    """Return the exception which says that a number is not finite."""
    return DivergenceError(f"training diverged: {what}; lower learning_rate, or set max_grad_norm")


def check_gradient(loss: torch.Tensor, norm: float) -> None:
    """Raise GradientError if the norm of the gradient is not finite."""
    if math.isfinite(norm):
        return
    value = loss.item()
    raise GradientError(*diverged(f"the gradient is {norm}" if math.isfinite(value) else f"the loss is {value}").args)


def raise_if_diverged(policy: ActorCriticPolicy, cause: Exception | None = None) -> None:
    """Raise DivergenceError, with the parameter's name, if a parameter of the policy is not finite."""
    for name, parameter in policy.named_parameters():
        if (value := not_finite(parameter)) is not None:
            raise diverged(f"policy.{name} is {value}") from cause


def raise_if_not_finite(policy: ActorCriticPolicy, observations: Any, error: Exception | None = None) -> None:
    """Raise an exception with an owner if the policy failed because of numbers that are not finite.

    Args:
        policy: the policy.
        observations: the observations that it evaluated.
        error: what torch raised; None if the policy's output is known not to be finite. torch's distributions refuse
            such an output, but their message does not say where the numbers came from.
    """
    for leaf in observation_leaves(observations):
        if (value := not_finite(leaf)) is not None:
            raise EnvironmentFailure(f"an environment returned an observation that is {value}") from error
    raise_if_diverged(policy, error)
    if error is None or str(error).startswith(("Expected parameter", "probability tensor contains")):
        raise diverged("the output of the policy is not finite") from error


def not_finite(tensor: torch.Tensor) -> float | None:
    """Return the first number that is nan or infinite, or None if there is none."""
    numbers = tensor.detach().flatten()
    wrong = numbers[~torch.isfinite(numbers)]
    return wrong[0].item() if len(wrong) else None
