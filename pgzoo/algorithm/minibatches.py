"""Splits a rollout into the minibatches of an update, and reevaluates it with the current policy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo.backends.backend import Backend, policy_actions
from pgzoo.interface.batch import Batch, Samples
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array


def to_samples(
    rollout: Rollout,
    policy: ActorCriticPolicy,
    *,
    advantages: Array,
    critic_targets: Array,
    old_values: Array | None = None,
    weights: Array | None = None,
    progress_remaining: float = 1.0,
) -> Samples:
    """Return the steps of a rollout as tensors, without padding, in the order of SB3's buffer.

    Args:
        rollout: what was sampled.
        policy: determines the format of the actions and the device.
        advantages: Ψ (T, N).
        critic_targets: the targets of V, (T, N).
        old_values: V (T, N) at sampling time; None without a critic.
        weights: (M,) weights of the objective's aggregate; None for the plain mean.
        progress_remaining: the argument of schedules.
    """
    device = policy.device

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(rollout.flat(x).astype(np.float32, copy=False), device=device)

    return Samples(
        observations=rollout.tensors(rollout.observations, "cpu"),
        actions=policy_actions(policy, rollout.flat(rollout.actions)),
        advantages=tensor(advantages),
        returns=tensor(critic_targets),
        old_values=tensor(np.zeros(rollout.shape) if old_values is None else old_values),
        old_log_probs=tensor(rollout.log_probs),
        episode=rollout.tensors(rollout.episode, device),
        weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=device),
        progress_remaining=progress_remaining,
    )


def minibatches(
    samples: Samples, batch_size: int | None, *, whole_episodes: bool, normalize: bool, shuffle_whole: bool
) -> Iterator[Samples]:
    """Yield the steps in random order, in minibatches.

    Args:
        samples: the steps of a rollout.
        batch_size: steps per minibatch; None for all of them.
        whole_episodes: whether each minibatch consists of whole episodes, with about `batch_size` steps.
        normalize: whether to normalise the advantages of each minibatch.
        shuffle_whole: whether to shuffle the steps, as SB3 does, even if one minibatch has all of them.
    """
    size = batch_size or len(samples)
    if whole_episodes:
        unnormalized = _episode_minibatches(samples, size)
    else:
        unnormalized = _step_minibatches(samples, size, shuffle_whole)
    for minibatch in unnormalized:
        yield minibatch.normalized() if normalize else minibatch


def _step_minibatches(samples: Samples, size: int, shuffle_whole: bool) -> Iterator[Samples]:
    n = len(samples)
    if size >= n and not shuffle_whole:
        yield samples
        return
    order = torch.as_tensor(np.random.permutation(n), device=samples.advantages.device)
    for start in range(0, n, size):
        index = order[start : start + size]
        yield samples.select(index, len(index) / n)


def _episode_minibatches(samples: Samples, size: int) -> Iterator[Samples]:
    episode = samples.episode.cpu().numpy()
    lengths = np.bincount(episode)
    order = np.random.permutation(len(lengths))
    first_step = np.cumsum(lengths[order]) - lengths[order]
    for episodes in np.split(order, np.flatnonzero(np.diff(first_step // size)) + 1):
        index = torch.as_tensor(np.flatnonzero(np.isin(episode, episodes)), device=samples.episode.device)
        yield samples.select(index, len(episodes) / len(order))


def current_ratios(rollout: Rollout, samples: Samples, backend: Backend) -> Array:
    """Return ρ = π/π_old (T, N) of the current policy."""
    backend.begin_evaluation()
    with torch.no_grad():
        return _ratios(rollout, backend.evaluate_actions(samples))


def reevaluated(rollout: Rollout, samples: Samples, backend: Backend) -> Rollout:
    """Return the rollout as the current policy evaluates it: V of states and successors, and ρ = π/π_old."""
    backend.begin_evaluation()
    policy = backend.policy
    with torch.no_grad():
        batch = backend.evaluate_actions(samples)
        changes = {"ratios": _ratios(rollout, batch)}
        if backend.has_critic:
            successor_values = policy.predict_values(rollout.tensors(rollout.next_observations, policy.device))
            next_values = np.where(rollout.terminated, 0.0, rollout.scatter(successor_values.flatten()))
            changes["values"] = rollout.scatter(batch.values).astype(np.float32)
            changes["next_values"] = next_values.astype(np.float32)
    backend.begin_update()
    return rollout.replace(**changes)


def _ratios(rollout: Rollout, batch: Batch) -> Array:
    return rollout.scatter((batch.log_probs - batch.old_log_probs).double().exp())
