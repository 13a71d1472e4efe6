"""Ways to do the same work: SB3's own policy calls, and shorter ones where the policy is known. One is chosen here.

The plain path calls `policy.forward`, `evaluate_actions` and the optimizer as SB3 does, and is what parity with SB3 is
shown on. The others give the same distribution of actions, values, log-probs and gradients (up to rounding) from other
random numbers; plugins need not know.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.utils import obs_as_tensor

from pgzoo.backends.networks import Flat, Network, make_head
from pgzoo.backends.threads import torch_on_one_thread
from pgzoo.errors import ConfigError
from pgzoo.interface.parts import Array
from pgzoo.interface.rollout import Batch, Samples

if TYPE_CHECKING:
    from pgzoo.algorithm.policy_gradient import PolicyGradient

Fast: TypeAlias = "bool | Literal['auto']"
Terms: TypeAlias = Sequence[tuple[float, torch.Tensor]]
"""A loss as what is added up: a weight and a number, each."""
OPTIMIZERS = (torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD, RMSpropTFLike)
"""Those that treat each number by itself, so that one flat parameter gives what many give."""
NOISE_ROWS = 256
"""Steps whose noise is drawn at once."""
CHUNK = 1024
"""Steps that the batched pass takes together, which bounds its memory."""


def choose_path(model: PolicyGradient) -> Path:
    """Return how this model samples and updates, the fastest that its policy, spaces and options allow.

    Raises:
        ConfigError: `fast=True`, and something does not allow it.
    """
    if model.fast is False:
        return PlainPath(model, "fast=False")
    obstacle = unsuitable(model)
    if not obstacle:
        return MlpPath(model)
    if model.fast is True:
        raise ConfigError(f"fast=True does not go with {obstacle}; fast='auto' takes what goes")
    standard = (ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy)
    policy = model.policy
    stock = type(model.rollout_buffer) in (RolloutBuffer, DictRolloutBuffer)
    if stock and type(policy) in standard and policy.share_features_extractor and not model.use_sde:
        return BatchedPath(model, obstacle)
    return PlainPath(model, obstacle)


def unsuitable(model: PolicyGradient) -> str:
    """Return what does not allow this path, in words; empty if all does."""
    policy: Any = model.policy
    activation = getattr(policy, "activation_fn", None)
    reasons = {
        f"the device {model.device}": model.device.type != "cpu",
        "gSDE": model.use_sde,
        f"the policy {type(policy).__name__}": type(policy) is not ActorCriticPolicy,
        f"the features extractor {type(policy.features_extractor).__name__}": type(policy.features_extractor)
        is not FlattenExtractor,
        f"the network {type(policy.mlp_extractor).__name__}": type(policy.mlp_extractor) is not MlpExtractor,
        f"the activation {getattr(activation, '__name__', activation)}": activation
        not in (torch.nn.Tanh, torch.nn.ReLU),
        "squashed actions": policy.squash_output,
        f"observations {model.observation_space}": not isinstance(model.observation_space, spaces.Box)
        or is_image_space(model.observation_space),
        f"the optimizer {type(policy.optimizer).__name__}": type(policy.optimizer) not in OPTIMIZERS
        or len(policy.optimizer.param_groups) != 1,
        "frozen or double-precision parameters": any(
            not p.requires_grad or p.dtype != torch.float32 for p in policy.parameters()
        ),
        f"the buffer {type(model.rollout_buffer).__name__}": type(model.rollout_buffer) is not RolloutBuffer,
    }
    return next((reason for reason, stands in reasons.items() if stands), "")


class Path(ABC):
    """How actions are drawn, and how the policy is updated.

    Attributes:
        name: "plain", "batched" or "mlp".
        reason: why it is not a faster one; empty if it is the fastest.
        deferred: whether values and log-probs come from `complete`, after the rollout, and not from `act`.
        exact: whether it is SB3's to the last bit, so that the order of additions counts.
    """

    name: str
    deferred = True
    exact = False

    def __init__(self, model: PolicyGradient, reason: str = "") -> None:
        self.model, self.reason = model, reason
        self.policy: ActorCriticPolicy = model.policy

    def holds(self) -> bool:
        """Whether the reasons for this path are what they were when it was chosen."""
        return self.policy is self.model.policy

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})" if self.reason else self.name

    def begin(self, n_steps: int) -> None:
        """Prepare for a rollout of about n_steps."""
        self.begin_review()

    def begin_review(self) -> None:
        """Prepare to look at the policy without changing it."""
        self.policy.set_training_mode(False)

    def begin_update(self) -> None:
        """Prepare for an update."""
        self.policy.set_training_mode(True)

    def threads(self) -> AbstractContextManager[None]:
        """Return a context for an update, with as many of torch's threads as are good for it."""
        return nullcontext()

    @abstractmethod
    def act(self, observations: Any) -> tuple[Array, Any, Any]:
        """Return the actions (N, …) for observations as tensors; and V and log π, as tensors, or None."""

    def complete(self, buffer: RolloutBuffer, n_steps: int) -> None:
        """Put V and log π of the first n_steps into the buffer, where `act` did not give them."""
        return

    @abstractmethod
    def values(self, observations: Any) -> Array:
        """Return V (N,) of the VecEnv's observations."""

    @abstractmethod
    def values_of(self, observations: Sequence[Any]) -> Array:
        """Return V of single observations, of one at least."""

    def evaluated(self, samples: Samples) -> Batch:
        """Return the steps with the present policy's log-probs, values and entropy."""
        observations = to_device(samples.observations, self.model.device)
        values, log_probs, entropy = self.policy.evaluate_actions(observations, samples.actions)
        return Batch(
            **{**vars(samples), "observations": observations},
            log_probs=log_probs,
            values=values.flatten(),
            entropy=-log_probs if entropy is None else entropy,
        )

    def descend(self, loss: Terms) -> None:
        """Take one step of the policy's optimizer against the gradient of a loss of the last `evaluated` batch."""
        policy, limit = self.policy, self.model.max_grad_norm
        policy.optimizer.zero_grad()
        total: Any = sum(term if weight == 1 else weight * term for weight, term in loss)
        total.backward()
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(policy.parameters(), limit)
        policy.optimizer.step()


class PlainPath(Path):
    """SB3's own calls in SB3's order, with its random numbers."""

    name = "plain"
    deferred = False
    exact = True

    def act(self, observations: Any) -> tuple[Array, Any, Any]:
        """Return actions, V and log π of one forward pass."""
        with torch.no_grad():
            actions, values, log_probs = self.policy(observations)
        return actions.cpu().numpy(), values, log_probs

    def values(self, observations: Any) -> Array:
        """Return V (N,)."""
        with torch.no_grad():
            found: Array = self.policy.predict_values(obs_as_tensor(observations, self.model.device)).cpu().numpy()
        return found.flatten()

    def values_of(self, observations: Sequence[Any]) -> Array:
        """Return V of each, one by one as SB3 does it: in a batch the last bits differ."""
        policy = self.policy
        with torch.no_grad():
            found = [policy.predict_values(policy.obs_to_tensor(one)[0]).item() for one in observations]
        return np.array(found, dtype=np.float32)


class BatchedPath(PlainPath):
    """Only the actor runs at each step; V and log π come of the features it made, after the rollout."""

    name = "batched"
    deferred = True
    exact = False

    def begin(self, n_steps: int) -> None:
        """Forget the last rollout's features."""
        super().begin(n_steps)
        self._features: list[torch.Tensor] = []
        self._steps = 0

    def act(self, observations: Any) -> tuple[Array, Any, Any]:
        """Return actions, and keep the features."""
        policy: Any = self.policy
        with torch.no_grad():
            features = policy.extract_features(observations)
            latent = policy.mlp_extractor.forward_actor(features)
            actions = policy._get_action_dist_from_latent(latent).get_actions()
        self._keep(features)
        return actions.cpu().numpy().reshape(-1, *self.model.action_space.shape), None, None  # type: ignore[misc]

    def _keep(self, features: torch.Tensor) -> None:
        """Copy a step's features (N, D) to one block of memory for many steps: small ones lie in the way of others."""
        rows = max(1, CHUNK // len(features))
        if self._steps % rows == 0:
            self._features.append(features.new_empty(rows, *features.shape))
        self._features[-1][self._steps % rows] = features
        self._steps += 1

    def complete(self, buffer: RolloutBuffer, n_steps: int) -> None:
        """Put V and log π into the buffer, a block of steps at a time."""
        policy: Any = self.policy
        start = 0
        for block in self._features:
            features = block[: n_steps - start].flatten(0, 1)
            stop = start + len(features) // buffer.n_envs
            with torch.no_grad():
                latent_pi, latent_vf = policy.mlp_extractor(features)
                some = buffer.actions[start:stop]
                actions = policy_actions(policy, some.reshape(-1, some.shape[2]))
                log_probs = policy._get_action_dist_from_latent(latent_pi).log_prob(actions)
                values = policy.value_net(latent_vf)
            shape = (stop - start, buffer.n_envs)
            buffer.log_probs[start:stop] = log_probs.cpu().numpy().reshape(shape)
            buffer.values[start:stop] = values.cpu().numpy().reshape(shape)
            start = stop
        self._features = []

    def values_of(self, observations: Sequence[Any]) -> Array:
        """Return V of each, together."""
        tensors = [self.policy.obs_to_tensor(one)[0] for one in observations]
        first: Any = tensors[0]
        if isinstance(first, dict):
            together: Any = {key: torch.cat([x[key] for x in tensors]) for key in first}
        else:
            together = torch.cat(tensors)  # type: ignore[arg-type]
        with torch.no_grad():
            found: Array = self.policy.predict_values(together).cpu().numpy()
        return found.flatten()


class MlpPath(Path):
    """Numpy for the networks and log-probs, forward and backward; torch from there to the loss, and to step."""

    name = "mlp"

    def __init__(self, model: PolicyGradient) -> None:
        super().__init__(model)
        policy: Any = self.policy
        self.actor = Network(policy.mlp_extractor.policy_net, policy.action_net)
        self.critic = Network(policy.mlp_extractor.value_net, policy.value_net)
        self.head = make_head(model.action_space)
        self.log_std: torch.nn.Parameter | None = getattr(policy, "log_std", None)
        self._flat: Flat | None = None
        self._parameters = list(policy.parameters())
        self._forget()

    def holds(self) -> bool:
        """Whether policy and optimizer are still of the kind that this path knows, and all parameters learn."""
        optimizer = self.policy.optimizer
        return (
            super().holds()
            and type(optimizer) in OPTIMIZERS
            and len(optimizer.param_groups) == 1
            and all(p.requires_grad for p in self._parameters)
        )

    def _forget(self) -> None:
        """Let go of the last batch: it was descended on once."""
        self._tapes: tuple[list[Array], list[Array]] = ([], [])
        self._leaves: list[torch.Tensor] = []
        self._pull: Any = None

    def begin(self, n_steps: int) -> None:
        """Look at the weights, and forget old noise."""
        super().begin(n_steps)
        self._noise: Array = np.zeros((0,))
        self._row, self._rows = 0, min(n_steps, NOISE_ROWS)

    def begin_update(self) -> None:
        """Look at the weights."""
        self.begin_review()

    def begin_review(self) -> None:
        """Look at the weights; the training mode makes no difference here."""
        self.actor.look()
        self.critic.look()
        self._log_std = None if self.log_std is None else self.log_std.detach().numpy()

    def threads(self) -> AbstractContextManager[None]:
        """One: what is left to torch is small, and its threads are in the way of BLAS's."""
        return torch_on_one_thread()

    def act(self, observations: Any) -> tuple[Array, Any, Any]:
        """Return actions (N, …)."""
        y = self.actor(_flat_floats(observations.numpy()))
        if self._row == len(self._noise):
            self._noise, self._row = self.head.noise((self._rows, *y.shape)), 0
        self._row += 1
        return self.head.draw(y, self._noise[self._row - 1], self._log_std), None, None

    def complete(self, buffer: RolloutBuffer, n_steps: int) -> None:
        """Put V and log π into the buffer, some steps at a time; V only where a critic is trained.

        Raises:
            ConfigError: log π is not finite, since training diverged.
        """
        rows = max(1, CHUNK // buffer.n_envs)
        for some in (slice(start, min(start + rows, n_steps)) for start in range(0, n_steps, rows)):
            shape = buffer.log_probs[some].shape
            x = _flat_floats(buffer.observations[some].reshape(math.prod(shape), -1))
            with np.errstate(all="ignore"):  # numbers that are not finite are refused
                log_probs, *_ = self.head.measure(
                    self.actor(x), buffer.actions[some].reshape(len(x), -1), self._log_std
                )
            if not np.isfinite(log_probs).all():
                raise ConfigError(
                    f"training diverged: after {self.model.num_timesteps:,} steps log π of sampled actions is not "
                    "finite; lower learning_rate, or set max_grad_norm"
                )
            buffer.log_probs[some] = log_probs.reshape(shape)
            if self.model.has_critic:
                buffer.values[some] = self.critic(x).reshape(shape)

    def values(self, observations: Any) -> Array:
        """Return V (N,)."""
        found: Array = self.critic(_flat_floats(observations))[:, 0]
        return found

    def values_of(self, observations: Sequence[Any]) -> Array:
        """Return V of each, together."""
        return self.values(np.stack(observations))

    def evaluated(self, samples: Samples) -> Batch:
        """Return the steps with log-probs, values and entropies, where autograd ends."""
        x = _flat_floats(samples.observations.numpy())
        self._forget()
        with np.errstate(all="ignore"):
            y = self.actor(x, self._tapes[0])
            log_probs, entropy, self._pull = self.head.measure(y, samples.actions.numpy(), self._log_std)
        leaves = [torch.from_numpy(log_probs), torch.from_numpy(entropy)]
        if self.model.has_critic:
            leaves.append(torch.from_numpy(self.critic(x, self._tapes[1])[:, 0]))
        if torch.is_grad_enabled():
            leaves = [leaf.requires_grad_() for leaf in leaves]
        self._leaves = leaves
        values = leaves[2] if self.model.has_critic else torch.zeros(len(x))
        return Batch(**vars(samples), log_probs=leaves[0], values=values, entropy=leaves[1])

    def descend(self, loss: Terms) -> None:
        """Take one step: autograd to log-probs, entropies and values, by hand from there.

        Raises:
            RuntimeError: the loss is not of the last `evaluated` batch, or that was descended on before.
        """
        flat = self._flat
        if flat is None or flat.stale(self.policy.optimizer):
            flat = self._flat = self._lay_flat()
        loss = [part for part in loss if part[1].requires_grad] or loss
        terms = [term for _, term in loss]
        weights = [torch.full_like(term, weight) for weight, term in loss]
        found = torch.autograd.grad(terms, self._leaves, weights, allow_unused=True) if self._leaves else ()
        if all(x is None for x in found):
            raise RuntimeError("a loss to descend on is made of the batch that was evaluated last, once")
        d_log_prob, d_entropy, d_value = [None if x is None else x.numpy() for x in (*found, None)[:3]]
        acts = d_log_prob is not None or d_entropy is not None
        flat.slopes[:] = 0
        if acts:
            nothing = np.zeros(len(self._leaves[0]), dtype=np.float32)
            slope, d_log_std = self._pull(
                nothing if d_log_prob is None else d_log_prob, nothing if d_entropy is None else d_entropy
            )
            self.actor.backward(self._tapes[0], slope)
            if self.log_std is not None:
                assert self.log_std.grad is not None
                self.log_std.grad.numpy()[:] = d_log_std
        if d_value is not None:
            self.critic.backward(self._tapes[1], d_value[:, None])
        flat.step(self.model.max_grad_norm, [acts, d_value is not None] if len(flat.flats) == 2 else [True])
        self._forget()

    def _lay_flat(self) -> Flat:
        """Return the parameters that learn as one tensor, or two where the critic took other steps than the actor."""
        optimizer = self.policy.optimizer
        parts = [[*self.actor.parameters, *([] if self.log_std is None else [self.log_std])]]
        if self.model.has_critic:
            parts.append(self.critic.parameters)
            steps = {float(optimizer.state.get(p, {}).get("step", 0)) for part in parts for p in part}
            remembered = {len(optimizer.state.get(p, {})) for part in parts for p in part}
            if not self.model.n_critic_updates and len(steps) == len(remembered) == 1:
                parts = [[*parts[0], *parts[1]]]
        flat = Flat(parts, optimizer)
        self.begin_review()
        return flat


def policy_actions(policy: ActorCriticPolicy, actions: Array) -> torch.Tensor:
    """Return actions (M, A) as a buffer holds them as the policy's `evaluate_actions` takes them, (M, …)."""
    tensor = torch.as_tensor(actions.astype(np.float32, copy=False), device=policy.device)
    return tensor.long().flatten() if isinstance(policy.action_space, spaces.Discrete) else tensor


def to_device(x: Any, device: torch.device) -> Any:
    """Return a tensor, or a dict of them, on the device."""
    return {key: to_device(value, device) for key, value in x.items()} if isinstance(x, dict) else x.to(device)


def _flat_floats(observations: Array) -> Array:
    """Return observations (N, …) as (N, D) in float32, without a copy where that is what they are."""
    return observations.reshape(len(observations), -1).astype(np.float32, copy=False)
