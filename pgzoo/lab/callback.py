"""While training: how noisy the gradient is, and how noisy it would be with each other baseline."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from pgzoo.algorithm import PolicyGradient
from pgzoo.batches import scores
from pgzoo.credit import Given, credit
from pgzoo.errors import PluginError
from pgzoo.interfaces import Array, Baseline, Need, Spaces
from pgzoo.lab.scores import PolicyScores
from pgzoo.learners import Learners
from pgzoo.rollout import Rollout

PARTS = 4


class GradientNoise(BaseCallback):
    """Logs `lab/gradient_variance`, `lab/snr` and `lab/variance_if/<baseline>` of every rollout.

    The rollout is split in k parts, whose gradients g_j of the mean over steps are independent:

        Var(g) = 1/(k(k−1)) Σ_j ‖g_j − g‖²,    SNR = √(max(‖g‖² − Var(g), 0) / Var(g)),    g = (1/k) Σ_j g_j

    One rollout tells little; the mean over many tells which baseline serves. A baseline stands in the comparison if
    it needs nothing that is not sampled anyway, and leaves the scale as it is (c = 1). Training is not changed.

    Args:
        parts: k; where there are fewer episodes, groups or environments, as many as those.
        every: rollouts from one measurement to the next.
    """

    model: PolicyGradient

    def __init__(self, parts: int = PARTS, every: int = 1) -> None:
        super().__init__()
        self._k, self._every = parts, every
        self._rollouts = 0
        self._watched: PolicyGradient | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, PolicyGradient):
            raise PluginError(f"GradientNoise needs a PolicyGradient, not {type(self.model).__name__}")
        if self._watched is self.model:  # learning goes on: so do the others
            return
        with torch.random.fork_rng(devices=[]):
            self._others = self._eligible()
        self._scores, self._watched = PolicyScores(self.model.policy), self.model

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rollout = self.model.rollout
        self._rollouts += 1
        if not rollout.mask.any():
            return
        returns = self.model.returns.copy()
        returns.flags.writeable = False
        if any(Need.SCORES in other.baseline.needs for other in self._others.values()):
            rollout = replace(rollout, _scores=lambda: scores(self.model))
        if (self._rollouts - 1) % self._every == 0:
            self._log(rollout, returns)
        with torch.random.fork_rng(devices=[]):
            for other in self._others.values():
                other.learners.update(rollout, returns)

    def _log(self, rollout: Rollout, returns: Array) -> None:
        credits = {"": self.model.rollout_buffer.advantages.astype(np.float64)}
        for name, other in self._others.items():
            psi = other.advantages(rollout, Given(returns, self.model.estimator.credit), self.model.discount_states)
            if psi is not None:
                credits[name] = psi
        gradients = self._gradients(rollout, list(credits.values()))
        if gradients is None:
            return
        for name, own in zip(credits, gradients, strict=True):
            variance = float(own.var(axis=0, ddof=1).sum() / len(own))
            if name:
                self.logger.record(f"lab/variance_if/{name}", variance)
                continue
            signal = max(float(np.square(own.mean(axis=0)).sum()) - variance, 0.0)
            self.logger.record("lab/gradient_variance", variance)
            self.logger.record("lab/snr", float(np.sqrt(signal / variance)) if variance > 0 else 0.0)

    def _gradients(self, rollout: Rollout, credits: list[Array]) -> Array | None:
        """Return (number of credits, k, P), or None where there is nothing to split."""
        part = self._split(rollout)
        k = int(part.max()) + 1
        if k < 2:
            return None
        found = []
        for j in range(k):
            some = replace(rollout, mask=rollout.mask & (part == j))
            scale = k / rollout.mask.sum()
            found.append(self._scores.gradients(some, [scale * psi for psi in credits]))
        return np.stack(found, axis=1)

    def _split(self, rollout: Rollout) -> Array:
        """Return each step's part (T, N): whole groups, else episodes, else environments, else stretches of time."""
        n_steps, n_envs = rollout.shape
        if not self.model._plan.whole_episodes:
            if n_envs >= self._k:
                return np.broadcast_to(np.arange(n_envs) % self._k, rollout.shape)
            k = min(self._k, n_steps)
            return np.broadcast_to((np.arange(n_steps) * k // n_steps)[:, None], rollout.shape)
        unit = rollout.group if rollout.group.max() > 0 else rollout.episode
        _, number = np.unique(unit[rollout.mask], return_inverse=True)
        part = np.zeros(rollout.shape, dtype=int)
        part[rollout.mask] = number % self._k
        return part

    def _eligible(self) -> Mapping[str, _Other]:
        model = self.model
        given = {Need.SCORES, Need.STEP_CREDIT}
        if model.has_critic:
            given.add(Need.VALUES)
        if model._plan.whole_episodes:
            given.add(Need.COMPLETE_EPISODES)
        if model.spec.sampling == "groups":
            given.add(Need.GROUPS)
        found = {}
        for name in model.registry.names("baseline"):
            baseline: Any = model.registry.part("baseline", name)()
            if baseline.needs <= given:
                spaces = Spaces(model.observation_space, model.action_space, model.policy)
                found[name] = _Other(baseline, Learners({"baseline": baseline}, spaces, model.device))
        return found


@dataclass(frozen=True, eq=False)
class _Other:
    """A baseline that is not trained with, and what it has learned."""

    baseline: Baseline
    learners: Learners

    def advantages(self, rollout: Rollout, returns: Given, discount_states: bool) -> Array | None:
        """Return its Ψ (T, N), or None if it changes the scale."""
        found = credit(returns, self.baseline, rollout, self.learners, discount_states=discount_states)
        if not np.all(found.scale == 1.0):
            return None
        return np.where(rollout.mask, found.advantages, 0.0)
