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
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor

from pgzoo.backends.backend import STEPS_TOGETHER, Backend
from pgzoo.backends.distributions import VJP, make_head
from pgzoo.backends.flat_optimizer import FlatOptimizer
from pgzoo.backends.networks import Network
from pgzoo.backends.threads import torch_on_one_thread
from pgzoo.errors import ConfigError
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.types import Array, Observations

ELEMENTWISE_OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD, RMSpropTFLike)
"""Optimizers that update each number independently, so one flat parameter gives the same result as many."""
ACTIVATIONS = (torch.nn.Tanh, torch.nn.ReLU)
NOISE_STEPS = 256
"""The number of steps whose random numbers are drawn together."""


def unsupported(policy: Any, buffer_class: type[RolloutBuffer]) -> str:
    """Return the reason why the numpy backend does not apply, as a noun phrase; empty if it applies."""
    space, activation = policy.observation_space, getattr(policy, "activation_fn", None)
    reasons = {
        f"the device {policy.device}": policy.device.type != "cpu",
        "gSDE": policy.use_sde,
        f"the policy {type(policy).__name__}": type(policy) is not ActorCriticPolicy,
        f"the features extractor {type(policy.features_extractor).__name__}": type(policy.features_extractor)
        is not FlattenExtractor,
        f"the network {type(policy.mlp_extractor).__name__}": type(policy.mlp_extractor) is not MlpExtractor,
        f"the activation {getattr(activation, '__name__', activation)}": activation not in ACTIVATIONS,
        "squashed actions": policy.squash_output,
        f"observations {space}": not isinstance(space, spaces.Box) or is_image_space(space),
        f"the optimizer {type(policy.optimizer).__name__}": not _supports_optimizer(policy.optimizer),
        "frozen or double-precision parameters": any(
            not p.requires_grad or p.dtype != torch.float32 for p in policy.parameters()
        ),
        f"the buffer {buffer_class.__name__}": buffer_class is not RolloutBuffer,
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _supports_optimizer(optimizer: torch.optim.Optimizer) -> bool:
    return type(optimizer) in ELEMENTWISE_OPTIMIZERS and len(optimizer.param_groups) == 1


class NumpyMlpBackend(Backend):
    """NumPy for networks and distributions, forward and backward; torch for the loss and the optimizer."""

    name = "numpy"

    def __init__(self, policy: ActorCriticPolicy, *, has_critic: bool) -> None:
        super().__init__(policy, has_critic=has_critic)
        modules: Any = policy
        self.actor = Network(modules.mlp_extractor.policy_net, modules.action_net)
        self.critic = Network(modules.mlp_extractor.value_net, modules.value_net)
        self.head = make_head(policy.action_space)
        self.log_std: torch.nn.Parameter | None = getattr(policy, "log_std", None)
        self._flat: FlatOptimizer | None = None
        self._separate_critic = False
        self._parameters = list(policy.parameters())
        self._vjp: VJP
        self._discard_batch()

    def still_applies(self, policy: ActorCriticPolicy) -> bool:
        """Whether the policy and its optimizer are still supported, and no parameter is frozen."""
        return (
            super().still_applies(policy)
            and _supports_optimizer(policy.optimizer)
            and all(p.requires_grad for p in self._parameters)
        )

    # ---------------------------------------------------------------- sampling

    def begin_rollout(self, n_steps: int) -> None:
        """Update the views of the weights, and discard old noise."""
        super().begin_rollout(n_steps)
        self._noise: Array = np.zeros((0,))
        self._noise_row, self._noise_rows = 0, min(n_steps, NOISE_STEPS)

    def begin_evaluation(self) -> None:
        """Update the views of the weights. The training mode has no effect on these networks."""
        self.actor.sync_views()
        self.critic.sync_views()
        self._log_std = None if self.log_std is None else self.log_std.detach().numpy()

    def act(self, observations: Any) -> tuple[Array, torch.Tensor | None, torch.Tensor | None]:
        """Return actions (N, …)."""
        y = self.actor(_flat_floats(observations.numpy()))
        if self._noise_row == len(self._noise):
            self._noise, self._noise_row = self.head.noise((self._noise_rows, *y.shape)), 0
        self._noise_row += 1
        return self.head.draw(y, self._noise[self._noise_row - 1], self._log_std), None, None

    def evaluate_rollout(self, buffer: RolloutBuffer, n_steps: int) -> None:
        """Write log π, and V if it is trained, into the buffer, one block of steps at a time.

        Raises:
            ConfigError: log π is not finite, because training diverged.
        """
        rows = max(1, STEPS_TOGETHER // buffer.n_envs)
        for start in range(0, n_steps, rows):
            block = slice(start, min(start + rows, n_steps))
            shape = buffer.log_probs[block].shape
            x = _flat_floats(buffer.observations[block].reshape(math.prod(shape), -1))
            actions = buffer.actions[block].reshape(len(x), -1)
            with np.errstate(all="ignore"):  # non-finite results raise below
                log_probs, *_ = self.head.log_prob_and_entropy(self.actor(x), actions, self._log_std)
            if not np.isfinite(log_probs).all():
                raise ConfigError(
                    "training diverged: log π of the sampled actions is not finite; lower learning_rate, or set "
                    "max_grad_norm"
                )
            buffer.log_probs[block] = log_probs.reshape(shape)
            if self.has_critic:
                buffer.values[block] = self.critic(x).reshape(shape)

    def predict_values(self, observations: Observations) -> Array:
        """Return V (N,)."""
        values: Array = self.critic(_flat_floats(np.asarray(observations)))[:, 0]
        return values

    def predict_terminal_values(self, observations: Sequence[Any]) -> Array:
        """Return V (K,) from one forward pass."""
        return self.predict_values(np.stack(observations))

    # ---------------------------------------------------------------- update

    def begin_update(self) -> None:
        """Update the views of the weights."""
        self.begin_evaluation()

    def update_threads(self) -> AbstractContextManager[None]:
        """Return a context with one torch thread: more threads would not speed up small tensors, but slow BLAS down."""
        return torch_on_one_thread()

    def evaluate_actions(self, samples: Samples) -> Batch:
        """Return the steps with log-probs, values and entropies, which are the leaves of autograd's graph."""
        x = _flat_floats(samples.observations.numpy())
        self._discard_batch()
        with np.errstate(all="ignore"):
            y = self.actor(x, self._actor_activations)
            log_probs, entropy, self._vjp = self.head.log_prob_and_entropy(y, samples.actions.numpy(), self._log_std)
        arrays = [log_probs, entropy]
        if self.has_critic:
            arrays.append(self.critic(x, self._critic_activations)[:, 0])
        self._leaves += [torch.from_numpy(array).requires_grad_(torch.is_grad_enabled()) for array in arrays]
        values = self._leaves[2] if self.has_critic else torch.zeros(len(x))
        return Batch(**vars(samples), log_probs=self._leaves[0], values=values, entropy=self._leaves[1])

    def step(self, loss: torch.Tensor, max_grad_norm: float | None) -> None:
        """Take one optimizer step: autograd from the loss to the leaves, NumPy from there to the parameters.

        Raises:
            RuntimeError: the loss does not depend on the last evaluated batch, or that batch already had its step.
        """
        gradients = torch.autograd.grad(loss, self._leaves, allow_unused=True) if self._leaves else ()
        if all(gradient is None for gradient in gradients):
            raise RuntimeError("the loss must depend on the batch evaluated last, and each batch allows one step")
        d_log_prob, d_entropy, d_value = [None if x is None else x.numpy() for x in (*gradients, None)[:3]]
        update_actor, update_critic = not (d_log_prob is None and d_entropy is None), d_value is not None
        flat = self._flat_optimizer(update_actor, update_critic)
        flat.gradients[:] = 0
        if update_actor:
            zeros = np.zeros(len(self._leaves[0]), dtype=np.float32)
            d_y, d_log_std = self._vjp(
                zeros if d_log_prob is None else d_log_prob, zeros if d_entropy is None else d_entropy
            )
            self.actor.backward(self._actor_activations, d_y)
            if self.log_std is not None:
                assert self.log_std.grad is not None
                self.log_std.grad.numpy()[:] = d_log_std
        if d_value is not None:
            self.critic.backward(self._critic_activations, d_value[:, None])
        flat.step(max_grad_norm, [update_actor, update_critic] if len(flat.flats) == 2 else [True])
        self._discard_batch()

    def _discard_batch(self) -> None:
        """Discard the evaluated batch, because each batch allows one step."""
        self._actor_activations: list[Array] = []
        self._critic_activations: list[Array] = []
        self._leaves: list[torch.Tensor] = []

    def _flat_optimizer(self, update_actor: bool, update_critic: bool) -> FlatOptimizer:
        """Return the flat optimizer. Rebuild it if it is stale, or when only one network is updated for the first time.

        A parameter without a gradient must not change, but an optimizer with momentum changes a whole flat tensor.
        Actor and critic therefore need one tensor each from then on.
        """
        first_separate = self.has_critic and not (update_actor and update_critic) and not self._separate_critic
        self._separate_critic |= first_separate
        if self._flat is None or first_separate or self._flat.is_stale(self.policy.optimizer):
            self._flat = self._flatten()
        return self._flat

    def _flatten(self) -> FlatOptimizer:
        """Join the trained parameters in one tensor, or in two if actor and critic do not always step together."""
        state = self.policy.optimizer.state
        groups = [[*self.actor.parameters, *([] if self.log_std is None else [self.log_std])]]
        if self.has_critic:
            groups.append(self.critic.parameters)
            parameters = [p for group in groups for p in group]
            step_counts = {float(state.get(p, {}).get("step", 0)) for p in parameters}
            state_sizes = {len(state.get(p, {})) for p in parameters}
            if not self._separate_critic and len(step_counts) == len(state_sizes) == 1:
                groups = [parameters]
        flat = FlatOptimizer(groups, self.policy.optimizer)
        self.begin_evaluation()
        return flat


def _flat_floats(observations: Array) -> Array:
    """Return observations (N, …) as (N, D) in float32, without a copy if possible."""
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)
