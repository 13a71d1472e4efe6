"""While training: how noisy the gradient is, and how noisy it would be with each other baseline."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from pgzoo.algorithm.advantages import FixedReturns, compute_advantages
from pgzoo.algorithm.part_states import PartStates
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.algorithm.score_norms import rollout_score_sq_norms
from pgzoo.errors import PluginError
from pgzoo.interface.parts import Baseline, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.measure.score_gradients import PolicyScores

PARTS = 4
EVERY_STEPS = 1024
"""So often it costs little, also where rollouts are of 40 steps."""


class GradientNoise(BaseCallback):
    """Logs `lab/gradient_variance`, `lab/snr` and `lab/variance_if/<baseline>` of every rollout.

    The rollout is split in k parts, whose gradients g_j of the mean over steps are as good as independent:

        Var(g) = 1/(k(k−1)) Σ_j ‖g_j − g‖²,    SNR = √(max(‖g‖² − Var(g), 0) / Var(g)),    g = (1/k) Σ_j g_j

    One rollout tells little; the mean over many tells which baseline serves. A baseline stands in the comparison if
    it needs nothing that is not sampled anyway, and leaves the scale as it is (c = 1), as the trained one must too; one
    that raises is left out, with a warning. Training is not changed. A baseline made of the whole batch, and stretches
    of one environment's time, couple the parts somewhat.

    Parts are equal, of ⌊n/k⌋ of the rollout's n groups, episodes, environments or rows each; the rest is left out,
    and the variance, that of k⌊n/k⌋ of them, is scaled to that of n.

    Args:
        parts: k; where n is smaller, n.
        every_steps: environment steps from one measurement to the next, at least; `learn` begins with one.
    """

    model: PolicyGradient

    def __init__(self, parts: int = PARTS, every_steps: int = EVERY_STEPS) -> None:
        super().__init__()
        self._k, self._every_steps = parts, every_steps
        self._watched: PolicyGradient | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, PolicyGradient):
            raise PluginError(f"GradientNoise needs a PolicyGradient, not {type(self.model).__name__}")
        self._next = 0
        if self._watched is self.model:  # learning goes on: so do the others
            return
        self._others: dict[str, _Other] = {}
        with _own_randomness():
            for name in self.model.registry.names("baseline"):
                self._guarded(name, lambda name=name: self._admit(name))  # type: ignore[misc]
        self._scores, self._watched = PolicyScores(self.model.policy), self.model

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rollout = self.model.rollout
        if not rollout.mask.any():
            return
        returns = self.model.returns.copy()
        returns.flags.writeable = False
        if any(Need.SCORES in other.baseline.needs for other in self._others.values()):
            rollout = rollout.replace(score_sq_norms=rollout_score_sq_norms(self.model.policy, rollout))
        with _own_randomness():
            if self.num_timesteps >= self._next:
                self._next = self.num_timesteps + self._every_steps
                self._log(rollout, returns)
            for name, other in list(self._others.items()):
                self._guarded(name, lambda other=other: other.part_states.update(rollout, returns))  # type: ignore[misc]

    def _log(self, rollout: Rollout, returns: Array) -> None:
        model = self.model
        credits = {"": model.rollout_buffer.advantages.astype(np.float64)}
        given = FixedReturns(returns, model.estimator.discounted_from)
        own_scale = compute_advantages(given, model.baseline, rollout, model.part_states).scale
        others = list(self._others.items()) if np.all(own_scale == 1.0) else []  # else there is nothing to compare with
        for name, other in others:
            psi = self._guarded(name, lambda other=other: other.advantages(rollout, given, model.discount_states))  # type: ignore[misc]
            if psi is not None:
                credits[name] = psi
        part, kept = self._split(rollout)
        k = int(part.max()) + 1
        if k < 2:
            return
        gradients = self._gradients(rollout, part, list(credits.values()))
        for name, own in zip(credits, gradients, strict=True):
            variance = kept * float(own.var(axis=0, ddof=1).sum() / k)
            if name:
                self.logger.record(f"lab/variance_if/{name}", variance)
                continue
            signal = max(float(np.square(own.mean(axis=0)).sum()) - variance, 0.0)
            self.logger.record("lab/gradient_variance", variance)
            self.logger.record("lab/snr", float(np.sqrt(signal / variance)) if variance > 0 else 0.0)

    def _guarded(self, name: str, call: Callable[[], Any]) -> Any:
        """Return what a baseline says; one that raises is heard no more."""
        try:
            return call()
        except Exception as error:  # a stranger's code may raise anything, and training goes on
            self._others.pop(name, None)
            warnings.warn(f"lab/variance_if/{name} is left out: {type(error).__name__}: {error}", stacklevel=2)
            return None

    def _gradients(self, rollout: Rollout, part: Array, credits: list[Array]) -> Array:
        """Return (number of credits, k, P): of each part, the mean over its share of the steps that are kept."""
        k = int(part.max()) + 1
        scale = k / (rollout.mask & (part >= 0)).sum()
        found = []
        for j in range(k):
            some = replace(rollout, mask=rollout.mask & (part == j))
            found.append(self._scores.gradients(some, [scale * psi for psi in credits]))
        return np.stack(found, axis=1)

    def _split(self, rollout: Rollout) -> tuple[Array, float]:
        """Return each step's part (T, N), −1 for none, and the share of the rollout that is kept.

        Parts are made of whole groups, else of episodes, else of environments, else of stretches of time.
        """
        n_steps, n_envs = rollout.shape
        model = self.model
        if model.sampling_mode.whole_episodes:
            unit = rollout.group if model.combination.sampling == "groups" and model.group_size > 1 else rollout.episode
            _, numbers = np.unique(unit[rollout.mask], return_inverse=True)
            number = np.full(rollout.shape, -1)
            number[rollout.mask] = numbers
        elif n_envs >= self._k:
            number = np.broadcast_to(np.arange(n_envs), rollout.shape)
        else:
            number = np.broadcast_to(np.arange(n_steps)[:, None], rollout.shape)
        n = int(number.max()) + 1
        k = min(self._k, n)
        size = n // k
        return np.where(number < k * size, number // size, -1), k * size / n

    def _admit(self, name: str) -> None:
        """Let a baseline take part if it needs nothing that is not there."""
        model = self.model
        given = {Need.SCORES, Need.EPISODE_ADVANTAGES if model.estimator.per_episode else Need.STEP_RETURNS}
        if model.has_critic:
            given.add(Need.VALUES)
        if model.sampling_mode.whole_episodes:
            given.add(Need.COMPLETE_EPISODES)
        if model.combination.sampling == "groups":
            given.add(Need.GROUPS)
        baseline: Any = model.registry.part("baseline", name)()
        if baseline.needs <= given:
            spaces = Spaces(model.observation_space, model.action_space, model.policy)
            self._others[name] = _Other(baseline, PartStates({"baseline": baseline}, spaces, model.device))


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Leave torch's, numpy's and Python's random numbers to training as they were."""
    kept = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(kept[0])
        random.setstate(kept[1])


@dataclass(frozen=True, eq=False)
class _Other:
    """A baseline that is not trained with, and what it has learned."""

    baseline: Baseline
    part_states: PartStates

    def advantages(self, rollout: Rollout, returns: FixedReturns, discount_states: bool) -> Array | None:
        """Return its Ψ (T, N), or None if it changes the scale."""
        found = compute_advantages(returns, self.baseline, rollout, self.part_states, discount_states=discount_states)
        if not np.all(found.scale == 1.0):
            return None
        return np.where(rollout.mask, found.advantages, 0.0)
