"""Checks of a sampling: each samples rollouts of an environment that knows what a correct rollout contains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.errors import ConfigError, PgzooError
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import Sampling
from pgzoo.interface.plans import Episode
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.types import Array, Need
from pgzoo.lab.conformance.checks import check_plain_fields
from pgzoo.lab.conformance.probe import Fault, Finding, NotApplicable, Note, run_check, search_samples, with_fields
from pgzoo.registry.plugins import Registry

GAMMA = 0.9
N_ROLLOUTS = 3
NUMBERS_OF_ENVS = (1, 3)
LONGEST = 8
"""The longest episode of the environment, in steps."""


class Countdown(gym.Env[Array, int]):
    """An episode counts down from a random number of steps, and pays 1 for each. Actions have no effect.

    The observation is the number of steps left, and three random numbers that all observations of an episode share.
    Therefore V(s) = Σ_{k<left} γ^k, and the first observation tells two initial states apart.
    """

    observation_space = spaces.Box(-np.inf, np.inf, (4,), np.float32)
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw the number of steps."""
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(1, LONGEST + 1))
        self._label = self.np_random.normal(size=3)
        return self._observation(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Count down."""
        self._left -= 1
        return self._observation(), 1.0, self._left == 0, False, {}

    def _observation(self) -> Array:
        return np.array([self._left, *self._label], dtype=np.float32)


@dataclass(frozen=True)
class Sampled:
    """What one rollout planned and recorded.

    Attributes:
        episodes: the queue of the plan before the rollout.
        n_steps: the plan's number of steps.
        rollout: what was recorded.
    """

    episodes: list[Episode]
    n_steps: int | None
    rollout: Rollout

    def episode_starts(self) -> tuple[Array, Array, Array]:
        """Return the first observation (E, 4), the length (E,) and the group (E,) of each recorded episode."""
        rollout = self.rollout
        first = rollout.mask & (rollout.step == 0)
        lengths = np.bincount(rollout.episode[rollout.mask])[rollout.episode[first]]
        return np.asarray(rollout.observations)[first], lengths, np.asarray(rollout.group)[first]


class _Recorder(BaseCallback):
    """Keeps the plan and the rollout of each update, and stops training after some of them."""

    def __init__(self, n_rollouts: int) -> None:
        super().__init__()
        self.n_rollouts = n_rollouts
        self.sampled: list[Sampled] = []
        self._plan: tuple[list[Episode], int | None] = [], None

    def _on_rollout_start(self) -> None:
        self._plan = planned(self.model)

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, PolicyGradient)
        self.sampled.append(Sampled(*self._plan, self.model.rollout))

    def _on_step(self) -> bool:
        return len(self.sampled) < self.n_rollouts


@dataclass(frozen=True)
class Subject:
    """A sampling that is checked.

    Attributes:
        part: the sampling.
        registry: has the other parts.
    """

    part: Sampling
    registry: Registry

    def model(self, n_envs: int) -> PolicyGradient:
        """Return a new model that samples with the part, and reads V."""
        return PolicyGradient(
            "MlpPolicy",
            DummyVecEnv([Countdown] * n_envs),
            "td+value",
            sampling=self.part,
            registry=self.registry,
            gamma=GAMMA,
            policy_kwargs={"net_arch": [4]},
            seed=0,
            device="cpu",
            fast=False,
        )

    def sample(self, n_envs: int, n_rollouts: int = N_ROLLOUTS) -> list[Sampled]:
        """Return successive rollouts of a new model."""
        recorder = _Recorder(n_rollouts)
        self.model(n_envs).learn(10**9, recorder)
        return recorder.sampled

    def changed(self, name: str, value: int) -> Subject:
        """Return the sampling with another value of a field.

        Raises:
            NotApplicable: it refuses the value.
        """
        try:
            return replace(self, part=with_fields(self.part, **{name: value}))
        except ConfigError as error:
            raise NotApplicable(f"it refuses {name}={value}: {error}") from error


def planned(model: Any) -> tuple[list[Episode], int | None]:
    """Return the queue of episodes of a model's plan, and its number of steps."""
    plan = model.sampling_mode.plan
    return list(plan.queue), plan.n_steps


def plans(subject: Subject) -> None:
    """Every call of `plan` returns a valid plan that can be carried out, with one environment and with three."""
    for n_envs in NUMBERS_OF_ENVS:
        for sampled in subject.sample(n_envs):
            if not sampled.rollout.mask.any():
                raise Fault("no step of the rollout enters the update")


def provides(subject: Subject) -> None:
    """What it provides is true: episodes are whole and recorded, and groups share their first observation."""
    for n_envs in NUMBERS_OF_ENVS:
        for sampled in subject.sample(n_envs):
            if sampled.n_steps is not None:
                if sampled.rollout.shape != (sampled.n_steps, n_envs) or not sampled.rollout.mask.all():
                    raise Fault(f"the plan has {sampled.n_steps} steps, but the rollout {sampled.rollout.shape[0]}")
                continue
            observations, lengths, groups = sampled.episode_starts()
            if not np.array_equal(lengths, observations[:, 0]) or lengths.sum() != sampled.rollout.mask.sum():
                raise Fault("a recorded episode lacks steps: update_mask must keep or drop whole episodes")
            if Need.GROUPS in subject.part.provides:
                _check_groups(observations, groups)


def _check_groups(observations: Array, groups: Array) -> None:
    for group in np.unique(groups):
        starts = observations[groups == group]
        if len(starts) == 1:
            raise Fault("it provides Need.GROUPS, but a group has a single episode")
        if not (starts == starts[0]).all():
            raise Fault("it provides Need.GROUPS, but the episodes of a group begin differently: give them one seed")


def recorded(subject: Subject) -> None:
    """Every episode of the plan is recorded. A plan may add others, or override `update_mask` to leave some out."""
    if Need.COMPLETE_EPISODES not in subject.part.provides:
        raise NotApplicable("its plans are numbers of steps")
    left_out = False
    for n_envs in NUMBERS_OF_ENVS:
        for sampled in subject.sample(n_envs):
            left_out |= len(sampled.episode_starts()[0]) < len(sampled.episodes)
    if left_out:
        raise Note("some of the planned episodes do not enter the update")


def values(subject: Subject) -> None:
    """V is the discounted sum of the rewards that follow. In this environment, they do not depend on the actions."""
    if Need.VALUES not in subject.part.provides:
        raise NotApplicable("it does not provide V")
    for n_envs in NUMBERS_OF_ENVS:
        for sampled in subject.sample(n_envs, 1):
            rollout = sampled.rollout
            if not np.isfinite(rollout.values[rollout.mask]).all():
                raise Fault("V is not finite")
            left = np.asarray(rollout.observations)[..., 0]
            error = np.abs(rollout.values - (1 - GAMMA**left) / (1 - GAMMA))[rollout.mask].max()
            if error > 1e-4:
                raise Note(f"V differs from the sum of the rewards that follow by up to {error:.2g}")


def sizes(subject: Subject) -> None:
    """The hyperparameters `n_episodes`, `n_steps` and `group_size`, where it has them, are obeyed."""
    fields = declared(type(subject.part))
    if not {"n_episodes", "n_steps", "group_size"} & set(fields):
        raise NotApplicable("it has none of n_episodes, n_steps and group_size")
    (default,) = subject.sample(1, 1)
    if "n_steps" in fields:
        _check_size("n_steps", 2 * (default.n_steps or 4) + 1, subject, lambda sampled: sampled.rollout.shape[0])
    if "n_episodes" in fields:
        _check_size("n_episodes", 2 * (len(default.episodes) or 4), subject, lambda sampled: len(sampled.episodes))
    if "group_size" in fields:
        size = 2 * int(getattr(subject.part, "group_size"))  # noqa: B009 (a field that only some samplings have)
        _check_size("group_size", size, subject, lambda sampled: int(np.bincount(sampled.episode_starts()[2]).min()))


def _check_size(name: str, value: int, subject: Subject, measured: Callable[[Sampled], int]) -> None:
    for n_envs in NUMBERS_OF_ENVS:
        (sampled,) = subject.changed(name, value).sample(n_envs, 1)
        if measured(sampled) != value:
            raise Fault(f"with {name}={value} and {n_envs} environments, the rollout has {measured(sampled)}")


def determinism(subject: Subject) -> None:
    """Two models with the same seed make the same plans."""
    first, second = (subject.sample(3) for _ in range(2))
    if [(s.episodes, s.n_steps) for s in first] != [(s.episodes, s.n_steps) for s in second]:
        raise Fault("two models with the same seed make different plans: take seeds from context.seeds.next()")


def search_space(subject: Subject) -> None:
    """Every value in a Search is valid, and gives a valid plan."""
    for description, part in search_samples(subject.part):
        assert isinstance(part, Sampling)
        try:
            replace(subject, part=part).model(3).sampling_mode.begin(3)
        except PgzooError as error:
            raise Fault(f"with {description}: {error}") from error


def plain_fields(subject: Subject) -> None:
    """The hyperparameters are plain data, which a saved model can hold, and parts with equal fields are equal."""
    check_plain_fields(subject.part)


CHECKS: Mapping[str, Callable[[Subject], None]] = {
    "plan": plans,
    "provides": provides,
    "recorded": recorded,
    "values": values,
    "sizes": sizes,
    "determinism": determinism,
    "search space": search_space,
    "plain fields": plain_fields,
}
"""The checks by name, in the order of the report."""


def run(part: Sampling, registry: Registry) -> list[Finding]:
    """Return the finding of every check of a sampling. Each check begins with new models."""
    return [run_check(name, check, Subject(part, registry)) for name, check in CHECKS.items()]
