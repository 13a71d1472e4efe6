"""The choice of a backend: the fastest one that supports the policy, its optimizer and the rollout buffer."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    MultiInputActorCriticPolicy,
)

from pgzoo.backends.backend import Backend
from pgzoo.backends.batched import BatchedBackend
from pgzoo.backends.numpy_mlp import NumpyMlpBackend, unsupported
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.errors import ConfigError

Fast: TypeAlias = "bool | Literal['auto']"
STANDARD_POLICIES = (ActorCriticPolicy, ActorCriticCnnPolicy, MultiInputActorCriticPolicy)
STANDARD_BUFFERS = (RolloutBuffer, DictRolloutBuffer)


def choose_backend(
    policy: ActorCriticPolicy, buffer_class: type[RolloutBuffer], *, fast: Fast, has_critic: bool
) -> Backend:
    """Return the fastest backend that applies.

    Args:
        policy: the policy to evaluate and update, with its optimizer.
        buffer_class: the class of the rollout buffer. A custom class needs the sb3 backend.
        fast: "auto" uses the fastest backend that applies, False always uses SB3's own calls, True raises if the
            numpy backend does not apply.
        has_critic: whether V is trained.

    Raises:
        ConfigError: `fast=True`, and the numpy backend does not apply.
    """
    if fast is False:
        return SB3Backend(policy, has_critic=has_critic, reason="fast=False")
    reason = unsupported(policy, buffer_class)
    if not reason:
        return NumpyMlpBackend(policy, has_critic=has_critic)
    if fast is True:
        raise ConfigError(f"fast=True is not available with {reason}; use fast='auto'")
    backend = BatchedBackend if _supports_batching(policy, buffer_class) else SB3Backend
    return backend(policy, has_critic=has_critic, reason=reason)


def still_applies(
    backend: Backend, policy: ActorCriticPolicy, buffer_class: type[RolloutBuffer], *, fast: Fast
) -> bool:
    """Whether `choose_backend` would choose the same backend again."""
    if fast is False:
        return type(backend) is SB3Backend and backend.still_applies(policy)
    if isinstance(backend, NumpyMlpBackend):
        return backend.still_applies(policy)
    return policy is backend.policy and unsupported(policy, buffer_class) == backend.reason


def _supports_batching(policy: Any, buffer_class: type[RolloutBuffer]) -> bool:
    return (
        type(policy) in STANDARD_POLICIES
        and buffer_class in STANDARD_BUFFERS
        and policy.share_features_extractor
        and not policy.use_sde
    )
