"""The numpy backend: MlpPolicy on the CPU, with networks and distributions in NumPy.

NumPy evaluates the networks and distributions. Torch evaluates the loss and differentiates it with respect to
log-probs, entropies and values. NumPy then backpropagates these gradients to the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import STEPS_TOGETHER, Backend, check_gradient, is_finite, raise_if_not_finite
from pgzoo.backends.distributions import VJP, make_head
from pgzoo.backends.flat_optimizer import FlatOptimizer, addresses, with_equal_states
from pgzoo.backends.masks import FORBIDDEN, takes_masks
from pgzoo.backends.networks import Network
from pgzoo.backends.threads import torch_on_one_thread
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.types import Array, Observations

CPU = torch.device("cpu")
NOISE_STEPS = 256
"""The number of steps whose random numbers are drawn together."""


class NumpyMlpBackend(Backend):
    """NumPy for networks and distributions, forward and backward; torch for the loss and the optimizer."""

    name = "numpy"
    extracts_as_sb3 = True

    def __init__(self, policy: ActorCriticPolicy, *, has_critic: bool, reason: str = "") -> None:
        super().__init__(policy, has_critic=has_critic, reason=reason)
        modules: Any = policy
        self.actor = Network(modules.mlp_extractor.policy_net, modules.action_net)
        self.critic = Network(modules.mlp_extractor.value_net, modules.value_net)
        self.head = make_head(policy.action_space, masked=takes_masks(type(policy)))
        self.log_std: torch.nn.Parameter | None = getattr(policy, "log_std", None)
        self._actor_parameters = [*self.actor.parameters, *([] if self.log_std is None else [self.log_std])]
        self._parameters = list(policy.parameters())
        self._addresses: list[int] = []
        self._flat: FlatOptimizer | None = None
        self._flat_addresses: list[int] = []
        self._flat_networks: list[str] = []
        self._separate_critic = False
        self._log_std: Array | None = None
        self._log_std_gradient: Array | None = None
        self._vjp: VJP
        self._discard_batch()

    # ---------------------------------------------------------------- sampling

    def begin_rollout(self, n_steps: int) -> None:
        """Update the views of the weights, and discard old noise."""
        super().begin_rollout(n_steps)
        self._noise: Array = np.zeros((0,))
        self._noise_row, self._noise_rows = 0, min(n_steps, NOISE_STEPS)

    def begin_evaluation(self) -> None:
        """Update the views of the weights. The training mode has no effect on these networks."""
        current = addresses(self._parameters)
        if current == self._addresses:
            return
        self._addresses = current
        self.actor.sync_views()
        self.critic.sync_views()
        if self.log_std is not None:
            self._log_std = self.log_std.detach().numpy()
            self._log_std_gradient = None if self.log_std.grad is None else self.log_std.grad.numpy()

    def act(
        self, observations: Any, action_masks: Array | None = None
    ) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions (N, …)."""
        y = self.actor(_flat_floats(observations.numpy()))
        if action_masks is not None:
            y = _masked(y, action_masks)
        if self._noise_row == len(self._noise):
            self._check_output(y, observations)
            self._noise, self._noise_row = self.head.noise((self._noise_rows, *y.shape)), 0
        self._noise_row += 1
        return self.head.draw(y, self._noise[self._noise_row - 1], self._log_std), None, None

    def _check_output(self, y: Array, observations: Any) -> None:
        """Raise an exception if the actor's output or σ is not finite.

        This is checked at the first step, before the environment gets an action, and again with each block of noise.
        """
        with np.errstate(all="ignore"):
            finite = is_finite(y) and (self._log_std is None or is_finite(np.exp(self._log_std)))
        if not finite:
            raise_if_not_finite(self.policy, observations)

    def evaluate_rollout(self, buffer: RolloutBuffer, n_steps: int, action_masks: Array | None = None) -> None:
        """Write log π, and V if it is trained, into the buffer, one block of steps at a time."""
        rows = max(1, STEPS_TOGETHER // buffer.n_envs)
        for start in range(0, n_steps, rows):
            block = slice(start, min(start + rows, n_steps))
            shape = buffer.log_probs[block].shape
            x = _flat_floats(buffer.observations[block].reshape(math.prod(shape), -1))
            actions = buffer.actions[block].reshape(len(x), -1)
            with np.errstate(all="ignore"):  # the caller refuses what is not finite
                y = self.actor(x)
                if action_masks is not None:
                    y = _masked(y, action_masks[block].reshape(len(x), -1))
                log_probs, *_ = self.head.log_prob_and_entropy(y, actions, self._log_std)
            buffer.log_probs[block] = log_probs.reshape(shape)
            if self.has_critic:
                buffer.values[block] = self.critic(x).reshape(shape)

    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,)."""
        values: Array = self.critic(_flat_floats(np.asarray(observations)))[:, 0]
        return values

    def predict_terminal_values(self, observations: Sequence[Any], steps: Sequence[tuple[int, int]] = ()) -> Array:
        """Return V (K,) from one forward pass."""
        return self.predict_values(np.stack(observations))

    # ---------------------------------------------------------------- update

    def begin_update(self) -> None:
        """Update the views of the weights, and discard the flat optimizer if something that it joins was replaced."""
        self.begin_evaluation()
        moved = self._addresses != self._flat_addresses
        if self._flat is not None and (moved or self._flat.is_stale(self.policy.optimizer)):
            self._flat = None

    def update_threads(self) -> AbstractContextManager[None]:
        """Return a context with one torch thread: more threads would not speed up small tensors, but slow BLAS down."""
        return torch_on_one_thread()

    def evaluate_actions(self, samples: Samples) -> Batch:
        """Return the steps with log-probs, values and entropies, which are the leaves of autograd's graph."""
        x = _flat_floats(samples.observations.numpy())
        self._discard_batch()
        with np.errstate(all="ignore"):
            y = self.actor(x, self._actor_activations)
            if samples.action_masks is not None:
                y = _masked(y, samples.action_masks.numpy())
            log_probs, entropy, self._vjp = self.head.log_prob_and_entropy(y, samples.actions.numpy(), self._log_std)
        arrays = [log_probs, entropy]
        if self.has_critic:
            arrays.append(self.critic(x, self._critic_activations)[:, 0])
        self._leaves += [torch.from_numpy(array).requires_grad_(torch.is_grad_enabled()) for array in arrays]
        values = self._leaves[2] if self.has_critic else torch.zeros(len(x))
        return Batch(**vars(samples), log_probs=self._leaves[0], values=values, entropy=self._leaves[1])

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return CPU

    def actor_parameters(self, batch: Batch) -> list[torch.nn.Parameter]:
        """Return the parameters of the actor, which shares none with the critic."""
        return self._actor_parameters

    def step(self, loss: torch.Tensor, max_grad_norm: float | None, *, keep: Sequence[torch.nn.Parameter] = ()) -> None:
        """Take one optimizer step: autograd from the loss to the leaves, NumPy from there to the parameters.

        If the actor's parameters are in `keep`, the critic alone takes a step.

        Raises:
            DivergenceError: the gradient is not finite. The parameters have not changed.
            RuntimeError: the loss does not depend on the last evaluated batch, or that batch already had its step.
        """
        gradients = torch.autograd.grad(loss, self._leaves, allow_unused=True) if self._leaves else ()
        if all(gradient is None for gradient in gradients):
            raise RuntimeError("the loss must depend on the batch evaluated last, and each batch allows one step")
        d_log_prob, d_entropy, d_value = [None if x is None else x.numpy() for x in (*gradients, None)[:3]]
        update_actor = not (keep or (d_log_prob is None and d_entropy is None))
        update_critic = d_value is not None
        flat = self._flat_optimizer(update_actor, update_critic)
        flat.gradients[:] = 0
        with np.errstate(all="ignore"):  # a gradient that is not finite raises below
            if update_actor:
                self._actor_backward(d_log_prob, d_entropy)
            if d_value is not None:
                self.critic.backward(self._critic_activations, d_value[:, None])
            norm = flat.clip(max_grad_norm)
        check_gradient(loss, norm)
        separate = {"actor": update_actor, "critic": update_critic, "both": True}
        flat.step([separate[network] for network in self._flat_networks])
        self._discard_batch()

    def _actor_backward(self, d_log_prob: Array | None, d_entropy: Array | None) -> None:
        """Backpropagate ∂loss/∂log π (B,) and ∂loss/∂H (B,) to the actor; None for 0."""
        zeros = np.zeros(len(self._leaves[0]), dtype=np.float32)
        d_y, d_log_std = self._vjp(
            zeros if d_log_prob is None else d_log_prob, zeros if d_entropy is None else d_entropy
        )
        self.actor.backward(self._actor_activations, d_y)
        if self._log_std_gradient is not None:
            self._log_std_gradient[:] = d_log_std

    def check_parameters(self) -> None:
        """Raise DivergenceError, with the parameter's name, if a parameter of the policy is not finite."""
        with np.errstate(all="ignore"):
            finite = self._flat is not None and all(math.isfinite(x.sum()) for x in self._flat.arrays)
        if not finite:  # or too large to be added
            super().check_parameters()

    def _discard_batch(self) -> None:
        """Discard the evaluated batch, because each batch allows one step."""
        self._actor_activations: list[Array] = []
        self._critic_activations: list[Array] = []
        self._leaves: list[torch.Tensor] = []

    def _flat_optimizer(self, update_actor: bool, update_critic: bool) -> FlatOptimizer:
        """Return the flat optimizer. Make it again when only one network is updated for the first time.

        A parameter without a gradient must not change, but an optimizer with momentum changes a whole flat tensor.
        Actor and critic therefore need one tensor each from then on.
        """
        first_separate = self.has_critic and not (update_actor and update_critic) and not self._separate_critic
        self._separate_critic |= first_separate
        if self._flat is None or first_separate:
            self._flat = self._flatten()
        return self._flat

    def _flatten(self) -> FlatOptimizer:
        """Join the trained parameters: all of them, or separately those of actor and critic and of unequal states."""
        optimizer = self.policy.optimizer
        actor, critic = self._actor_parameters, self.critic.parameters if self.has_critic else []
        networks = {"actor": actor, "critic": critic} if self._separate_critic else {"both": [*actor, *critic]}
        groups = [
            (name, group) for name, network in networks.items() for group in with_equal_states(network, optimizer)
        ]
        flat = FlatOptimizer([group for _, group in groups], optimizer)
        self._flat_networks = [name for name, _ in groups]
        self.begin_evaluation()
        self._flat_addresses = self._addresses
        return flat


def _masked(y: Array, action_masks: Array) -> Array:
    """Return the logits (B, A) with those of forbidden actions at −10⁸, where the softmax and its gradient are 0."""
    return np.where(action_masks, y, FORBIDDEN)


def _flat_floats(observations: Array) -> Array:
    """Return observations (N, …) as (N, D) in float32, without a copy if possible."""
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)
