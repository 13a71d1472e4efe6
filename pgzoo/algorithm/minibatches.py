"""From a rollout to the minibatches of an update, and what the policy says of its steps by now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pgzoo.algorithm.score_norms import score_sq_norms
from pgzoo.backends.choice import policy_actions, to_device
from pgzoo.interface.parts import Array
from pgzoo.interface.rollout import Rollout, Samples

if TYPE_CHECKING:
    from pgzoo.algorithm.policy_gradient import PolicyGradient


def to_samples(model: PolicyGradient) -> Samples:
    """Return the rollout's steps as tensors, padding left out, in the order of SB3's buffer."""
    rollout, buffer = model.rollout, model.rollout_buffer

    def tensor(x: Array) -> torch.Tensor:
        return torch.as_tensor(rollout.flat(x).astype(np.float32, copy=False), device=model.device)

    weights = model.objective.weights(rollout)
    samples = Samples(
        observations=rollout.tensors(rollout.observations, "cpu"),
        actions=policy_actions(model.policy, rollout.flat(rollout.actions)),
        advantages=tensor(buffer.advantages),
        returns=tensor(buffer.returns),
        old_values=tensor(rollout.values if model.has_critic else np.zeros(rollout.shape)),
        old_log_probs=tensor(rollout.log_probs),
        episode=rollout.tensors(rollout.episode, model.device),
        weights=None if weights is None else torch.as_tensor(weights, dtype=torch.float32, device=model.device),
        progress_remaining=model._current_progress_remaining,
    )
    return samples.normalized() if model.normalize_advantage == "rollout" else samples


def minibatches(model: PolicyGradient, samples: Samples) -> Iterator[Samples]:
    """Yield the steps in random order, batch_size at a time; or whole episodes of about as many steps."""
    parts = _episodes(model, samples) if model.objective.whole_episodes else _steps(model, samples)
    for minibatch in parts:
        yield minibatch.normalized() if model.normalize_advantage in (True, "minibatch") else minibatch


def _steps(model: PolicyGradient, samples: Samples) -> Iterator[Samples]:
    n = len(samples)
    size = model.batch_size or n
    if size >= n and not model.path.exact:
        yield samples
        return
    order = torch.as_tensor(np.random.permutation(n), device=model.device)
    for start in range(0, n, size):
        some = order[start : start + size]
        yield samples.select(some, len(some) / n)


def _episodes(model: PolicyGradient, samples: Samples) -> Iterator[Samples]:
    rollout, size = model.rollout, model.batch_size or len(samples)
    episodes = np.random.permutation(rollout.n_episodes)
    first_step = np.cumsum(rollout.lengths[episodes]) - rollout.lengths[episodes]
    for part in np.split(episodes, np.flatnonzero(np.diff(first_step // size)) + 1):
        index = np.flatnonzero(np.isin(rollout.flat(rollout.episode), part))
        yield samples.select(torch.as_tensor(index, device=model.device), len(part) / len(episodes))


def reviewed(model: PolicyGradient) -> Rollout:
    """Return the rollout as the policy sees it now: V, and ρ = π/π_old."""
    rollout = model.rollout
    model.path.begin_review()
    with torch.no_grad():
        batch = model.path.evaluated(to_samples(model))
        ratios = rollout.scatter((batch.log_probs - batch.old_log_probs).double().exp())
        changes: dict[str, Any] = {"_ratios": lambda: ratios}
        if model.has_critic:
            following = model.policy.predict_values(rollout.tensors(rollout.next_observations, model.device))
            next_values = np.where(rollout.terminated, 0.0, rollout.scatter(following.flatten()))
            changes["_values"] = rollout.scatter(batch.values).astype(np.float32)
            changes["_next_values"] = next_values.astype(np.float32)
    model.path.begin_update()
    return replace(rollout, **changes)


def scores(model: PolicyGradient) -> Array:
    """Return ‖∇ log π‖² (T, N) of the policy, which is the one that sampled until it is updated."""
    samples = to_samples(model)
    observations = to_device(samples.observations, model.device)
    return model.rollout.scatter(score_sq_norms(model.policy, observations, samples.actions))
