"""Every method of a part gets the part's state, and a fault is the fault of the part that has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pgzoo_plugins.episodes import Episodes
from pgzoo_plugins.policy_gradient import PolicyGradientLoss
from pgzoo_plugins.reward_to_go import RewardToGo
from pgzoo_plugins.vine import Vine, VinePlan

from pgzoo import (
    PLUGIN_API,
    Array,
    Baseline,
    Episode,
    EpisodeEnd,
    Learner,
    Metrics,
    Need,
    Plan,
    PlanContext,
    PluginError,
    PolicyGradient,
    Rollout,
    RolloutEnd,
    Scale,
    Spaces,
    State,
    StepStart,
    Update,
)
from pgzoo.interface import parts


class Count(torch.nn.Module):
    """What the parts below learn: the number of their updates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("n", torch.zeros(()))


class Counting:
    """A part whose state counts its updates. It notes what it saw by the name of the method."""

    seen: ClassVar[dict[str, list[float]]] = {}

    def make_state(self, spaces: Spaces) -> torch.nn.Module:
        return Count()

    def make_optimizer(self, state: torch.nn.Module) -> None:
        return None

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        state.n += 1
        return {}

    def note(self, method: str, state: State) -> None:
        self.seen.setdefault(method, []).append(float(state.n))


@dataclass(frozen=True)
class CountingEpisodes(Counting, Episodes):
    name = "counting_episodes"

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        self.note("plan", state)
        return super().plan(context)


@dataclass(frozen=True)
class CountingReturns(Counting, RewardToGo):
    name = "counting_returns"

    def importance_weights(self, rollout: Rollout, state: State = None) -> float:
        self.note("importance_weights", state)
        return 1.0


@dataclass(frozen=True)
class CountingScale(Counting, Scale):
    name = "counting_scale"

    def rescaled(self, advantages: torch.Tensor, over: Any, state: State = None) -> torch.Tensor:
        self.note(f"rescaled, {over}", state)
        return advantages


@dataclass(frozen=True, kw_only=True)
class CountingLoss(Counting, PolicyGradientLoss):
    name = "counting_loss"

    def weights(self, rollout: Rollout, state: State = None) -> Any:
        self.note("weights", state)
        return super().weights(rollout)

    def value_loss(self, batch: Any, state: State = None) -> torch.Tensor:
        self.note("value_loss", state)
        return super().value_loss(batch)


def make(**options: Any) -> PolicyGradient:
    defaults = {"estimator": "reward_to_go", "n_episodes": 2, "seed": 0, "device": "cpu"}
    return PolicyGradient("MlpPolicy", "CartPole-v1", "rtg_value", **{**defaults, **options})


def test_every_method_gets_the_state_of_its_part() -> None:
    """Two updates: each method sees a state that has learned 0 and then 1 times."""
    Counting.seen.clear()
    model = make(
        estimator=CountingReturns(), scale=CountingScale(), objective=CountingLoss(), sampling=CountingEpisodes()
    )
    for _ in range(2):
        model.learn(1, reset_num_timesteps=False)
    methods = {"plan", "importance_weights", "rescaled, rollout", "rescaled, minibatch", "weights", "value_loss"}
    assert Counting.seen == {method: [0, 1] for method in methods}


def test_a_part_that_uses_another_state_has_none_of_its_own() -> None:
    @dataclass(frozen=True)
    class Both(Counting, Baseline):
        name = "both"
        needs = frozenset({Need.ACTION_VALUES})

        def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> float:
            return 0.0

    with pytest.raises(PluginError, match="baseline 'both' is called with the estimator's state"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "advantage", baseline=Both())


def test_a_part_that_names_no_version_was_written_for_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a default that moves with the package: then every part would claim to be written for the next version."""
    assert parts.Part.plugin_api == parts.Recipe("r", "", "e").plugin_api == "2.0"
    assert PLUGIN_API.startswith("2.")


# ---------------------------------------------------------------- the scale of a minibatch


@dataclass(frozen=True)
class WholeRollout(Update):
    """One step on all samples, without `minibatches`."""

    name = "whole_rollout"

    def __call__(self, learner: Learner, state: State = None) -> Metrics:
        batch = learner.evaluate(learner.samples)
        loss, metrics = learner.policy_loss(batch)
        value_loss = learner.value_loss(batch) if learner.has_critic else 0.0
        learner.step(loss + 0.5 * value_loss, 0.5)
        return metrics


@pytest.mark.parametrize("fast", [False, "auto"])
def test_an_update_sees_the_scale_of_what_it_evaluates(fast: Any) -> None:
    """A2C's step with normalised advantages is the same whether its one minibatch is asked for or not."""

    def trained(scale: str, **options: Any) -> torch.Tensor:
        model = PolicyGradient(
            "MlpPolicy", "CartPole-v1", "a2c", scale=scale, seed=3, device="cpu", fast=fast, **options
        )
        model.learn(5)
        return torch.cat([p.detach().flatten() for p in model.policy.parameters()])

    expected = trained("minibatch_std")
    assert torch.allclose(trained("minibatch_std", update=WholeRollout()), expected, atol=1e-6)
    assert not torch.allclose(trained("none", update=WholeRollout()), expected, atol=1e-6)


# ---------------------------------------------------------------- whose fault it is


def raising(*_: Any) -> Any:
    raise KeyError("none")


class Raises(Plan):
    def __init__(self, method: str) -> None:
        super().__init__([Episode()])
        self.method = method

    def episode_ended(self, end: EpisodeEnd) -> None:
        if self.method == "episode_ended":
            raise KeyError("none")

    def before_step(self, start: StepStart) -> None:
        if self.method == "before_step":
            raise KeyError("none")

    def update_mask(self, end: RolloutEnd) -> Array:
        if self.method == "update_mask":
            raise KeyError("none")
        return np.ones((1, 1), dtype=bool) if self.method == "shape" else super().update_mask(end)

    def metrics(self) -> Any:
        if self.method == "metrics":
            raise KeyError("none")
        return 1 if self.method == "number" else {}


@pytest.mark.parametrize(
    ("method", "message"),
    [
        *((m, "^sampling 'wrong' raised KeyError") for m in ("episode_ended", "before_step", "update_mask", "metrics")),
        ("shape", r"the plan of sampling 'wrong': update_mask has shape \(1, 1\); it must be"),
        ("number", "the plan of sampling 'wrong' must return a mapping of metrics, not 1"),
    ],
)
def test_a_plan_that_fails_is_the_fault_of_the_sampling(method: str, message: str) -> None:
    @dataclass(frozen=True)
    class Wrong(Episodes):
        name = "wrong"

        def plan(self, context: PlanContext, state: State = None) -> Plan:
            return Raises(method)

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", sampling=Wrong(), n_episodes=1, device="cpu")
    with pytest.raises(PluginError, match=message):
        model.learn(1)


class Breaks(gym.Env[Any, Any]):
    """Its third copy raises in step."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
    copies: ClassVar[list[int]] = []

    def __deepcopy__(self, memo: Any) -> Any:
        copy = Breaks()
        self.copies.append(1)
        if len(self.copies) > 2:
            copy.step = raising  # type: ignore[assignment]
        return copy

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, True, False, {}


def test_an_environment_that_fails_in_a_continuation_is_not_the_fault_of_the_sampling() -> None:
    Breaks.copies.clear()
    model = PolicyGradient("MlpPolicy", Breaks(), "vine", n_episodes=1, device="cpu")
    with pytest.raises(KeyError):
        model.learn(1)


def test_values_have_the_shape_of_the_rollout() -> None:
    class Flat(VinePlan):
        def values(self, end: RolloutEnd) -> Array:
            return super().values(end).ravel()

    @dataclass(frozen=True)
    class FlatVine(Vine):
        name = "flat_vine"

        def plan(self, context: PlanContext, state: State = None) -> Plan:
            return Flat(self)

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "vine", sampling=FlatVine(n_episodes=1), device="cpu")
    with pytest.raises(PluginError, match="the plan of sampling 'flat_vine': values has shape"):
        model.learn(1)


def nan_at(over: str) -> Callable[..., Scale]:
    @dataclass(frozen=True)
    class NaNScale(Scale):
        name = "nan"

        def rescaled(self, advantages: torch.Tensor, which: Any, state: State = None) -> torch.Tensor:
            return advantages * np.nan if which == over else advantages

    return NaNScale


@pytest.mark.parametrize("fast", [False, "auto"])
@pytest.mark.parametrize("over", ["rollout", "minibatch"])
@pytest.mark.parametrize("plugin", ["a2c", "ppo", "trpo"])
def test_a_scale_that_gives_nan_is_named(plugin: str, over: str, fast: Any) -> None:
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", plugin, scale=nan_at(over)(), n_steps=64, device="cpu", fast=fast
    )
    with pytest.raises(PluginError, match="scale 'nan': rescaled returned advantages that are not finite"):
        model.learn(64)


# ---------------------------------------------------------------- what an episode's end tells


def test_the_end_of_an_episode() -> None:
    """CartPole's reward is 1, so Σ γ^t r_t = (1 − γ^L) / (1 − γ). Finds a length that is off by one."""
    ends: list[EpisodeEnd] = []

    class Notes(Plan):
        def episode_ended(self, end: EpisodeEnd) -> None:
            ends.append(end)

    @dataclass(frozen=True)
    class Noted(Episodes):
        name = "noted"

        def plan(self, context: PlanContext, state: State = None) -> Plan:
            return Notes([Episode(group=7), Episode(group=8), Episode(group=9)])

    env = gym.make("CartPole-v1")
    model = PolicyGradient("MlpPolicy", env, "rtg", sampling=Noted(), gamma=0.9, seed=0, device="cpu").learn(1)
    assert [end.episode.group for end in ends] == [7, 8, 9]
    assert [end.length for end in ends] == model.rollout.lengths.tolist()
    assert {end.environment for end in ends} == {0}
    assert all("terminal_observation" in end.info for end in ends)
    for end in ends:
        assert end.discounted_return == pytest.approx((1 - 0.9**end.length) / 0.1)
