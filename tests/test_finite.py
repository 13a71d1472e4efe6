"""A number that is not finite is reported at its source: environment, VecNormalize, critic, policy or plugin."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sizes import sizes
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from pgzoo import (
    Array,
    Baseline,
    ConfigError,
    Estimator,
    Metrics,
    Objective,
    PluginError,
    PolicyGradient,
    Rollout,
    State,
)
from pgzoo.errors import DivergenceError, EnvironmentFailure


class Broken(gym.Env[Any, Any]):
    """Returns `value` instead of an observation, a reward or a terminal observation, at step `at` of an episode."""

    def __init__(self, where: str = "", value: float = np.nan, at: int = 2, *, discrete: bool = False) -> None:
        self.where, self.value, self.at = where, value, at
        self.observation_space = spaces.Box(-10, 10, (2,))
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1, 1, (1,))
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def observe(self) -> Any:
        observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        bad = (self.where == "observation" and self.t == self.at) or (self.where == "terminal" and self.t == 5)
        if bad:
            observation[1] = self.value
        return observation

    def step(self, action: Any) -> Any:
        self.actions.append(np.array(action))
        self.t += 1
        reward = self.value if self.where == "reward" and self.t == self.at else 1.0
        return self.observe(), reward, False, self.t == 5, {}


def model(env: Any, plugin: str = "a2c", **options: Any) -> PolicyGradient:
    size = sizes(plugin, options.get("registry"), n_steps=8, n_episodes=4, group_size=2)
    return PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **{**size, **options})


def two(where: str, normalize: bool = False, **options: Any) -> Any:
    """Two environments, of which the second is broken."""
    env: Any = DummyVecEnv([lambda: Broken(discrete=options.get("discrete", False)), lambda: Broken(where, **options)])
    return VecNormalize(env) if normalize else env


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("observation", "environment 1 returned an observation with {} at step 2 of an episode"),
        ("reward", "environment 1 returned the reward {} at step 1 of an episode"),
        ("terminal", "environment 1 returned a terminal observation with {} at step 5 of an episode"),
    ],
)
def test_the_environment_is_named(
    where: str, message: str, fast: Any, discrete: bool, normalize: bool, value: float
) -> None:
    env = two(where, normalize, value=value, discrete=discrete)
    if where == "terminal" and normalize:
        if np.isinf(value):
            pytest.skip("VecNormalize clips it")
        message = message.replace("environment 1 returned", "VecNormalize made for environment 1")
    with pytest.raises(EnvironmentFailure, match=message.format(value)):
        model(env, fast=fast).learn(100)
    actions = [a for inner in env.unwrapped.envs for a in inner.actions]
    assert np.isfinite(actions).all()


@pytest.mark.parametrize("plugin", ["reinforce", "rtg", "gae", "ppo", "grpo"])
def test_the_environment_is_named_in_every_recipe(plugin: str) -> None:
    with pytest.raises(EnvironmentFailure, match="environment 1 returned an observation with nan at step 2"):
        model(two("observation"), plugin, batch_size=None).learn(100)


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("discrete", [False, True])
def test_parameters_that_are_not_finite_never_act(discrete: bool, fast: Any) -> None:
    env = two("", discrete=discrete)
    diverged = model(env, fast=fast)
    with torch.no_grad():
        diverged.policy.action_net.bias.fill_(np.nan)  # type: ignore[operator]
    with pytest.raises((DivergenceError, ConfigError), match="training diverged"):
        diverged.learn(100)
    assert np.isfinite([a for inner in env.envs for a in inner.actions]).all()


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("plugin", ["a2c", "ppo", "rtg_value"])
def test_a_critic_that_is_not_finite(plugin: str, fast: Any) -> None:
    """It was blamed on the estimator."""
    diverged = model(two(""), plugin, fast=fast, batch_size=None)
    with torch.no_grad():
        diverged.policy.value_net.bias.fill_(np.inf)
    with pytest.raises(DivergenceError, match="the critic diverged: V is inf at step 0 of an episode of environment 0"):
        diverged.learn(100)


# ---------------------------------------------------------------- plugins


@dataclass(frozen=True)
class Infinite(Estimator):
    """R̂ = ∞ from finite numbers."""

    name = "infinite"

    def __call__(self, rollout: Rollout, state: State = None) -> Array:
        return np.full(rollout.shape, np.inf)


@dataclass(frozen=True, kw_only=True)
class NaNLoss(Objective):
    """A loss of nan from finite numbers."""

    name = "nan_loss"

    def __call__(self, batch: Any, state: State = None) -> Any:
        return batch.log_probs.mean() * float("nan"), {}


@dataclass(frozen=True, kw_only=True)
class Constant(Objective):
    """A loss that does not depend on the policy."""

    name = "constant"

    def __call__(self, batch: Any, state: State = None) -> Any:
        return torch.zeros(()), {}


@dataclass(frozen=True)
class RaisingBaseline(Baseline):
    """It raises in one of its methods."""

    name = "raising"
    where: str = "call"

    def fail(self, where: str) -> Any:
        if self.where == where:
            raise ZeroDivisionError("planted")
        return None

    def make_state(self, spaces: Any) -> Any:
        return self.fail("make_state")

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Any:
        self.fail("call")
        return 0.0

    def update(self, rollout: Rollout, returns: Array, state: State, optimizer: Any) -> Metrics:
        self.fail("update")
        return {}


@dataclass(frozen=True, kw_only=True)
class RaisingObjective(Objective):
    """It raises in one of its methods, or in a metric."""

    name = "raising_objective"
    where: str = "call"

    def fail(self, where: str) -> Any:
        if self.where == where:
            raise ZeroDivisionError("planted")
        return 0.0

    def __call__(self, batch: Any, state: State = None) -> Any:
        self.fail("call")
        return -batch.aggregate(batch.advantages * batch.log_probs), {"own": lambda: self.fail("metric")}

    def weights(self, rollout: Rollout, state: State = None) -> Any:
        self.fail("weights")
        return None

    def value_loss(self, batch: Any, state: Any = None) -> Any:
        self.fail("value_loss")
        return super().value_loss(batch, state)


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize(
    ("plugin", "kwargs", "message"),
    [
        ("infinite+none", {}, "estimator 'infinite': R̂ is inf"),
        ("lambda_return+value+constant", {"vf_coef": 0.0}, None),
        ("reward_to_go+none+constant", {}, "objective 'constant' returned a loss that does not depend on the policy"),
        *[
            ("reward_to_go+raising", {"plugin_kwargs": {"where": where}}, "baseline 'raising' raised ZeroDivisionError")
            for where in ("call", "update", "make_state")
        ],
        *[
            (
                "lambda_return+value+raising_objective",
                {"plugin_kwargs": {"where": where}},
                r"objective 'raising_objective' raised ZeroDivisionError: planted \(test_finite.py:\d+\)",
            )
            for where in ("call", "weights", "value_loss")
        ],
        (
            "lambda_return+value+raising_objective",
            {"plugin_kwargs": {"where": "metric"}},
            r"the metric 'own' of objective 'raising_objective': ZeroDivisionError: planted \(test_finite.py",
        ),
    ],
)
def test_the_plugin_is_named(plugin: str, kwargs: Any, message: str | None, fast: Any, registry_with: Any) -> None:
    registry = registry_with(Infinite, NaNLoss, Constant, RaisingBaseline, RaisingObjective)

    def run() -> None:
        model(two(""), plugin, registry=registry, fast=fast, **kwargs).learn(40)

    if message is None:
        run()
    else:
        with pytest.raises(PluginError, match=message):
            run()


def test_an_objective_that_returns_nan(registry_with: Any) -> None:
    """The backend stops at a loss that is not finite, and the objective is blamed if its inputs are finite."""
    registry = registry_with(NaNLoss)
    trained = model(two(""), "lambda_return+value+nan_loss", registry=registry)
    with pytest.raises(PluginError, match="objective 'nan_loss' returned the loss nan, although log-probs"):
        trained.learn(20)
    infinite = model(two(""), "a2c", learning_rate=0.0)
    infinite.vf_coef = 1e38
    with torch.no_grad():
        infinite.policy.value_net.bias.fill_(1e5)
    with pytest.raises(DivergenceError, match=r"the loss is inf|the gradient is inf") as error:
        infinite.learn(20)
    assert error.value.__cause__ is not error.value


def test_large_rewards_are_finite() -> None:
    """Their squares are not, which NumPy warns of."""
    with warnings.catch_warnings(), np.errstate(over="raise"):
        warnings.simplefilter("error", RuntimeWarning)
        with pytest.raises(DivergenceError, match="the gradient is inf"):
            model(two("reward", value=1e25), "reinforce", learning_rate=0.0).learn(30)


class InvalidValues(Broken):
    """An environment whose error has words that torch uses for diverged policies."""

    def step(self, action: Any) -> Any:
        raise ValueError("the tensor has invalid values")


@pytest.mark.parametrize("fast", ["auto", False])
def test_an_error_of_the_environment_is_not_divergence(fast: Any) -> None:
    with pytest.raises(ValueError, match="invalid values") as error:
        model(DummyVecEnv([InvalidValues]), fast=fast).learn(10)
    assert not isinstance(error.value, DivergenceError)


@pytest.mark.parametrize("discrete", [False, True])
def test_predict_never_returns_actions_that_are_not_finite(discrete: bool) -> None:
    trained = model(two("", discrete=discrete))
    bad = np.array([[0.0, 1.0], [0.0, np.nan]], dtype=np.float32)
    with pytest.raises(EnvironmentFailure, match=r"environment 1 returned an observation with nan$"):
        trained.predict(bad, deterministic=discrete is False)
    with torch.no_grad():
        trained.policy.action_net.bias.fill_(np.nan)  # type: ignore[operator]
    with pytest.raises(DivergenceError, match=r"training diverged: policy.action_net.bias is nan; lower learning_rate"):
        trained.predict(np.zeros((2, 2), dtype=np.float32))


class ReplacesNaN(FlattenExtractor):
    """A features extractor for observations with missing values."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(super().forward(observations))


@pytest.mark.parametrize("fast", ["auto", False])
def test_an_extractor_of_the_users_own_may_accept_missing_values(fast: Any) -> None:
    options: dict[str, Any] = {"policy_kwargs": {"features_extractor_class": ReplacesNaN}}
    for where in ("observation", "terminal"):
        model(two(where), fast=fast, **options).learn(60)
    with pytest.raises(EnvironmentFailure, match="environment 1 returned the reward nan"):
        model(two("reward"), fast=fast, **options).learn(60)
