"""Splits a rollout into the minibatches of an update, and reevaluates it with the current policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import STEPS_TOGETHER, Backend, as_tensor, blocks, policy_actions, to_device
from pgzoo.errors import PluginError
from pgzoo.interface.batch import Samples
from pgzoo.interface.observations import observation_leaves
from pgzoo.interface.parts import Scale
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Observations, State
from pgzoo.updates.blame import scale_error

SHARE_OF_FREE_MEMORY = 0.5
"""A rollout's observations are kept on a GPU if they take at most this share of its free memory."""


def to_samples(
    rollout: Rollout,
    policy: ActorCriticPolicy,
    *,
    advantages: Array,
    critic_targets: Array,
    old_values: Array | None = None,
    weights: Array | None = None,
    progress_remaining: float = 1.0,
    device: torch.device | None = None,
) -> Samples:
    """Return the steps of a rollout as tensors, without padding, in the order of SB3's buffer.

    Args:
        rollout: what was sampled.
        policy: determines the format of the actions.
        advantages: Ψ (T, N).
        critic_targets: the targets of V, (T, N).
        old_values: V (T, N) at sampling time; None without a critic.
        weights: (M,) weights of the objective's aggregate; None for the plain mean.
        progress_remaining: the argument of schedules.
        device: the policy's device; None to ask the policy.
    """
    actions = policy_actions(policy, rollout.flat(rollout.actions), device)
    device = actions.device

    def tensor(x: Array) -> torch.Tensor:
        return as_tensor(rollout.flat(x).astype(np.float32, copy=False), device)

    return Samples(
        observations=rollout.tensors(rollout.observations, observation_device(rollout.observations, device)),
        actions=actions,
        advantages=tensor(advantages),
        returns=tensor(critic_targets),
        old_values=tensor(np.zeros(rollout.shape) if old_values is None else old_values),
        old_log_probs=tensor(rollout.log_probs),
        episode=rollout.tensors(rollout.episode, device),
        weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device),
        progress_remaining=progress_remaining,
        action_masks=None if rollout.action_masks is None else rollout.tensors(rollout.action_masks, device),
        memory=None if rollout.memory is None else as_tensor(rollout.first_memory(), device),
    )


def observation_device(observations: Observations, device: torch.device) -> torch.device:
    """Return where a rollout's observations are kept during an update: on the device if they fit, otherwise the CPU.

    From the CPU, each minibatch is copied to the device, which is slower than the network for large images.
    """
    if device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch's own reserve
    size = sum(array.nbytes for array in observation_leaves(observations))
    return device if size <= SHARE_OF_FREE_MEMORY * free else torch.device("cpu")


def minibatches(
    samples: Samples,
    batch_size: int | None,
    *,
    whole_episodes: bool,
    shuffle_whole: bool,
    stride: int = 1,
) -> Iterator[Samples]:
    """Return the steps in random order, in minibatches.

    Args:
        samples: the steps of a rollout.
        batch_size: steps per minibatch; None for all of them.
        whole_episodes: whether each minibatch consists of whole episodes, with about `batch_size` steps.
        shuffle_whole: whether to shuffle the steps, as SB3 does, even if one minibatch has all of them.
        stride: use every stride-th step, or whole episode, of the random order.
    """
    size = batch_size or len(samples)
    if whole_episodes:
        return _episode_minibatches(samples, size, stride)
    return _step_minibatches(samples, size, shuffle_whole or stride > 1, stride)


def rescaled(samples: Samples, scale: Scale, over: Literal["rollout", "minibatch"], state: State) -> Samples:
    """Return the steps with the advantages that a scale gives them, see `Scale.rescaled`.

    Raises:
        PluginError: the scale returned another number of advantages, or one of a rollout that is not finite.
    """
    advantages = scale.rescaled(samples.advantages, over, state)
    if advantages is samples.advantages:
        return samples
    if advantages.shape != samples.advantages.shape:
        raise PluginError(
            f"scale {scale.name!r}: rescaled returned the shape {tuple(advantages.shape)}; "
            f"it must be {tuple(samples.advantages.shape)}"
        )
    if over == "rollout" and (error := scale_error(scale, advantages, samples.advantages)):
        raise error  # for a minibatch, this is only looked at if the step fails
    return replace(samples, advantages=advantages)


def _step_minibatches(samples: Samples, size: int, shuffle_whole: bool, stride: int) -> Iterator[Samples]:
    if size >= len(samples) and not shuffle_whole:
        yield samples
        return
    order = torch.as_tensor(np.random.permutation(len(samples))[::stride], device=samples.advantages.device)
    for index in torch.split(order, size):
        yield samples.select(index, len(index) / len(samples))


def _episode_minibatches(samples: Samples, size: int, stride: int) -> Iterator[Samples]:
    episode = samples.episode.cpu().numpy()
    lengths = np.bincount(episode)
    order = np.random.permutation(len(lengths))[::stride]
    first_step = np.cumsum(lengths[order]) - lengths[order]
    minibatch_episodes = np.split(order, np.flatnonzero(np.diff(first_step // size)) + 1)
    indices = [np.flatnonzero(np.isin(episode, episodes)) for episodes in minibatch_episodes]
    on_device = torch.as_tensor(np.concatenate(indices), device=samples.episode.device)
    for index, episodes in zip(torch.split(on_device, list(map(len, indices))), minibatch_episodes, strict=True):
        yield samples.select(index, len(episodes) / len(lengths))


def current_ratios(rollout: Rollout, samples: Samples, backend: Backend) -> Array:
    """Return ρ = π/π_old (T, N) of the current policy."""
    backend.begin_evaluation()
    log_probs, _ = _evaluated(samples, backend)
    return _ratios(rollout, samples, log_probs)


def reevaluated(rollout: Rollout, samples: Samples, backend: Backend) -> Rollout:
    """Return the rollout as the current policy evaluates it: V of states and successors, and ρ = π/π_old."""
    backend.begin_evaluation()
    log_probs, values = _evaluated(samples, backend)
    changes = {"ratios": _ratios(rollout, samples, log_probs)}
    if backend.has_critic:
        successor_values = _predicted_values(rollout.tensors(rollout.next_observations, "cpu"), backend.policy)
        next_values = np.where(rollout.terminated, 0.0, rollout.scatter(successor_values))
        changes["values"] = rollout.scatter(values).astype(np.float32)
        changes["next_values"] = next_values.astype(np.float32)
    backend.begin_update()
    return rollout.replace(**changes)


def _evaluated(samples: Samples, backend: Backend) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log π (M,) and V (M,), without gradients, from blocks of steps that bound the memory."""
    together = len(samples) if backend.recurrent else STEPS_TOGETHER
    indices = torch.split(torch.arange(len(samples), device=samples.advantages.device), together)
    log_probs, values = [], []
    with torch.no_grad():
        for index in indices:
            batch = backend.evaluate_actions(samples.select(index, 1.0) if len(indices) > 1 else samples)
            log_probs.append(batch.log_probs)
            values.append(batch.values)
    return torch.cat(log_probs), torch.cat(values)


def _predicted_values(observations: Any, policy: ActorCriticPolicy) -> torch.Tensor:
    """Return V (M,) of observations in host memory, without gradients, from blocks that bound the memory."""
    with torch.no_grad():
        values = [policy.predict_values(to_device(block, policy.device)) for block in blocks(observations)]
    return torch.cat(values).flatten()


def _ratios(rollout: Rollout, samples: Samples, log_probs: torch.Tensor) -> Array:
    return rollout.scatter((log_probs - samples.old_log_probs).double().exp())
