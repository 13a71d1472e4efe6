"""Gradient noise while training: how noisy the gradient is, and how noisy it would be with other baselines."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

from pgzoo.algorithm.advantages import FixedReturns, compute_advantages
from pgzoo.algorithm.part_states import PartStates
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.backends.score_norms import rollout_score_sq_norms
from pgzoo.errors import PluginError
from pgzoo.interface.parts import Baseline, Scale, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.measure.score_gradients import PolicyScores

N_PARTS = 4
EVERY_STEPS = 1024
"""Measuring this often costs little even with rollouts of 40 steps."""

Result = TypeVar("Result")


class GradientNoise(BaseCallback):
    """Logs `lab/gradient_variance`, `lab/snr` and `lab/variance_if/<baseline>`. Training does not change.

    A rollout is split into k parts. Their gradients g_j, each of the mean over its steps, are nearly independent:

        Var(g) = 1/(k(k−1)) Σ_j ‖g_j − g‖²,    SNR = √(max(‖g‖² − Var(g), 0) / Var(g)),    g = (1/k) Σ_j g_j

    A single rollout says little. The mean over many rollouts shows which baseline has the least variance.

    A baseline is compared if the rollout contains what it needs, and if the trained scale is c = 1. One that uses the
    estimator's Q is left out. One that raises is dropped with a warning. The parts are slightly dependent if a baseline
    uses the whole batch, or if they are stretches of one environment's time.

    Each part consists of ⌊n/k⌋ of the rollout's n groups, episodes, environments or rows. The remainder is left out,
    and the variance is scaled from the k⌊n/k⌋ that are used to n.

    Args:
        parts: k, or n if that is smaller.
        every_steps: the minimum number of environment steps between two measurements. `learn` begins with one.
    """

    model: PolicyGradient

    def __init__(self, parts: int = N_PARTS, every_steps: int = EVERY_STEPS) -> None:
        super().__init__()
        self._k, self._every_steps = parts, every_steps
        self._measured_model: PolicyGradient | None = None

    def _on_training_start(self) -> None:
        if not isinstance(self.model, PolicyGradient):
            raise PluginError(f"GradientNoise needs a PolicyGradient, not {type(self.model).__name__}")
        self._next_measurement = 0
        if self._measured_model is self.model:  # learning continues, and the candidates keep what they have learned
            return
        self._candidates: dict[str, _Candidate] = {}
        with _preserved_random_state():
            for name in self.model.registry.names("baseline"):
                self._call_or_drop(name, partial(self._add_candidate, name))
        self._scores, self._measured_model = PolicyScores(self.model.policy), self.model

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        rollout = self.model.rollout
        if not rollout.mask.any():
            return
        returns = self.model.returns.copy()
        returns.flags.writeable = False
        if any(Need.SCORES in candidate.baseline.needs for candidate in self._candidates.values()):
            rollout = rollout.replace(score_sq_norms=rollout_score_sq_norms(self.model.policy, rollout))
        with _preserved_random_state():
            if self.num_timesteps >= self._next_measurement:
                self._next_measurement = self.num_timesteps + self._every_steps
                self._log(rollout, returns)
            for name, candidate in list(self._candidates.items()):
                self._call_or_drop(name, partial(candidate.part_states.update, rollout, returns))

    def _log(self, rollout: Rollout, returns: Array) -> None:
        part, used = self._split(rollout)
        k = int(part.max()) + 1
        advantages = {"": self.model.rollout_buffer.advantages.astype(np.float64), **self._compared(rollout, returns)}
        if k < 2:
            return
        gradients = self._part_gradients(rollout, part, list(advantages.values()))
        for name, part_gradients in zip(advantages, gradients, strict=True):
            variance = used * float(part_gradients.var(axis=0, ddof=1).sum() / k)
            if name:
                self.logger.record(f"lab/variance_if/{name}", variance)
                continue
            signal = max(float(np.square(part_gradients.mean(axis=0)).sum()) - variance, 0.0)
            self.logger.record("lab/gradient_variance", variance)
            self.logger.record("lab/snr", float(np.sqrt(signal / variance)) if variance > 0 else 0.0)

    def _compared(self, rollout: Rollout, returns: Array) -> dict[str, Array]:
        """Return the Ψ (T, N) that each candidate would have given."""
        model = self.model
        fixed_returns = FixedReturns(returns, model.estimator.discounted_from)
        trained = compute_advantages(fixed_returns, model.baseline, model.scale, rollout, model.part_states)
        if not np.all(trained.scale == 1.0):  # the variances would be on different scales
            return {}
        advantages = {}
        for name, candidate in list(self._candidates.items()):
            psi = self._call_or_drop(name, partial(candidate.advantages, rollout, fixed_returns, model.discount_states))
            if psi is not None:
                advantages[name] = psi
        return advantages

    def _call_or_drop(self, name: str, call: Callable[[], Result]) -> Result | None:
        """Return the result of calling a candidate. If it raises, drop it and warn."""
        try:
            return call()
        except Exception as error:  # a plugin may raise anything, and training must continue
            self._candidates.pop(name, None)
            warnings.warn(f"lab/variance_if/{name} is left out: {type(error).__name__}: {error}", stacklevel=2)
            return None

    def _part_gradients(self, rollout: Rollout, part: Array, advantages: list[Array]) -> Array:
        """Return (number of advantages, k, P): for each part, the gradient of the mean over its steps."""
        k = int(part.max()) + 1
        scale = k / (rollout.mask & (part >= 0)).sum()
        weights = [scale * psi for psi in advantages]
        gradients = [
            self._scores.gradients(rollout.replace(mask=rollout.mask & (part == j)), weights) for j in range(k)
        ]
        return np.stack(gradients, axis=1)

    def _split(self, rollout: Rollout) -> tuple[Array, float]:
        """Return the part of each step (T, N), −1 for none, and the share of the rollout that is used.

        Parts consist of whole groups if there are any, otherwise of episodes, environments or stretches of time.
        """
        n_steps, n_envs = rollout.shape
        model = self.model
        if model.sampling_mode.whole_episodes:
            in_groups = model.combination.sampling.name == "groups" and model.group_size > 1
            unit = rollout.group if in_groups else rollout.episode
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

    def _add_candidate(self, name: str) -> None:
        """Add a baseline if the rollouts contain what it needs."""
        model = self.model
        provided = set(model.combination.needs) - {Need.ACTION_VALUES} | {Need.SCORES}
        provided.add(Need.EPISODE_ADVANTAGES if model.estimator.per_episode else Need.STEP_RETURNS)
        if model.sampling_mode.whole_episodes:
            provided.add(Need.COMPLETE_EPISODES)
        if model.combination.sampling.name == "groups":
            provided.add(Need.GROUPS)
        baseline = model.registry.part("baseline", name)()
        assert isinstance(baseline, Baseline)
        if baseline.needs <= provided:
            spaces = Spaces(model.observation_space, model.action_space, model.policy)
            self._candidates[name] = _Candidate(baseline, PartStates({"baseline": baseline}, spaces, model.device))


@contextmanager
def _preserved_random_state() -> Iterator[None]:
    """Restore the random state of torch, NumPy and Python afterwards, so that training is not affected."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A baseline that is compared with the trained one, and what it has learned."""

    baseline: Baseline
    part_states: PartStates

    def advantages(self, rollout: Rollout, returns: FixedReturns, discount_states: bool) -> Array:
        """Return Ψ = R̂ − b (T, N)."""
        computed = compute_advantages(
            returns, self.baseline, Scale(), rollout, self.part_states, discount_states=discount_states
        )
        return np.where(rollout.mask, computed.advantages, 0.0)
