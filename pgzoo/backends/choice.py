"""The choice of a backend: the fastest one that supports the policy, its optimizer and the rollout buffer."""

from __future__ import annotations

from typing import Literal, TypeAlias

from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import Backend
from pgzoo.backends.batched import BatchedBackend
from pgzoo.backends.numpy_mlp import NumpyMlpBackend
from pgzoo.backends.recognition import batching_obstacle, numpy_obstacle
from pgzoo.backends.recurrent import RecurrentBackend
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.errors import ConfigError
from pgzoo.interface.sequences import is_recurrent

Fast: TypeAlias = "bool | Literal['auto']"


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
    backend = _fastest(policy, buffer_class, fast, has_critic)
    backend.chosen_for = (buffer_class, fast)
    return backend


def _fastest(policy: ActorCriticPolicy, buffer_class: type[RolloutBuffer], fast: Fast, has_critic: bool) -> Backend:
    if is_recurrent(type(policy)):
        if fast is True:
            raise ConfigError("fast=True is not available with a recurrent policy; use fast='auto'")
        return RecurrentBackend(policy, has_critic=has_critic)
    if fast is False:
        return SB3Backend(policy, has_critic=has_critic, reason="fast=False")
    reason = numpy_obstacle(policy, buffer_class)
    if not reason:
        return NumpyMlpBackend(policy, has_critic=has_critic)
    if fast is True:
        raise ConfigError(f"fast=True is not available with {reason}; use fast='auto'")
    backend = SB3Backend if batching_obstacle(policy, buffer_class) else BatchedBackend
    return backend(policy, has_critic=has_critic, reason=reason)


def still_applies(
    backend: Backend, policy: ActorCriticPolicy, buffer_class: type[RolloutBuffer], *, fast: Fast
) -> bool:
    """Whether `choose_backend` would choose the same backend again. Checked before every rollout and update."""
    if backend.chosen_for != (buffer_class, fast) or policy is not backend.policy:
        return False
    return fast is False or backend.fingerprint.is_current()
