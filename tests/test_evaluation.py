"""An evaluation: which episodes it plays and counts, its numbers, its interval, and its row in a table."""

from __future__ import annotations

import itertools
import json
import math
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import Clock
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecMonitor, VecNormalize

import pgzoo
from pgzoo import Registry
from pgzoo.cli.tables import evaluation_row, headers
from pgzoo.errors import ConfigError
from pgzoo.training.config import load_config
from pgzoo.training.evaluation import Evaluation, evaluate, sync_normalization

PLAIN = Evaluation((1.0, 2.0, 3.0, 6.0), (1, 2, 3, 4))
WITH_SUCCESS = Evaluation((0.0, 1.0, 1.0), (10, 20, 60), (False, True, True))


def test_statistics_by_hand() -> None:
    """Finds the population's deviation instead of the sample's. Squares around 3: 4 + 1 + 0 + 9 = 14, over 3."""
    assert PLAIN.mean == 3
    assert PLAIN.std == pytest.approx(math.sqrt(14 / 3))
    assert WITH_SUCCESS.success_rate == pytest.approx(2 / 3)


def test_a_failure_in_every_episode_is_not_the_absence_of_a_report() -> None:
    """Finds a success rate of 0 that is shown as unknown."""
    never = Evaluation((0.0, 0.0), (1, 1), (False, False))
    assert never.success_rate == 0
    assert PLAIN.success_rate is None
    assert never.summary()["success_rate"] == 0
    assert "success_rate" not in PLAIN.summary()


def test_the_summary_is_plain_data() -> None:
    """Finds NumPy numbers and tuples, which YAML cannot represent and JSON does not return."""
    summary = WITH_SUCCESS.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert {key: value for key, value in summary.items() if key != "interval_95"} == pytest.approx(
        {
            "n_episodes": 3,
            "mean_return": 2 / 3,
            "std_return": math.sqrt(1 / 3),  # squares around 2/3: 4/9 + 1/9 + 1/9, over 2
            "mean_length": 30,
            "success_rate": 2 / 3,
        }
    )
    assert all(type(value) in (int, float, list) for value in summary.values())


def test_the_interval_is_that_of_all_resamples() -> None:
    """Finds another method or confidence: four returns have only 4⁴ = 256 resamples, so the percentiles are known.

    5 of their means are below 1.5 and 5 above 5, which is 2.0 %, so the percentiles are 1.5 and 5. No means lie closer
    to them than ¼, so 10,000 random resamples find them exactly.
    """
    means = [float(np.mean(x)) for x in itertools.product(PLAIN.returns, repeat=4)]
    assert [sum(mean < 1.5 for mean in means), sum(mean > 5 for mean in means)] == [5, 5]
    assert PLAIN.interval == (1.5, 5)


def test_a_row_by_hand() -> None:
    """Finds cells in another order than the headers, fractions instead of percentages, and too many digits."""
    assert headers([PLAIN]) == ["episodes", "return", "std", "95 % interval", "length"]
    row = dict(zip(headers([WITH_SUCCESS]), evaluation_row(WITH_SUCCESS, [WITH_SUCCESS]), strict=True))
    assert row == {
        "episodes": "3", "return": "0.6667", "std": "0.5774", "95 % interval": "[0, 1]", "length": "30",
        "success": "67 %",
    }  # fmt: skip
    large = Evaluation((12345.6, 12345.6), (1000, 1002))
    assert evaluation_row(large, [large]) == ["2", "12,346", "0", "[12,346, 12,346]", "1,001"]


def test_rows_of_one_table_have_the_same_columns() -> None:
    """Finds a row that is shorter than the header if only another environment reports success."""
    both = [PLAIN, WITH_SUCCESS]
    assert headers(both)[-1] == "success"
    assert [evaluation_row(evaluation, both)[-1] for evaluation in both] == ["", "67 %"]
    assert {len(evaluation_row(evaluation, both)) for evaluation in both} == {6}


class FirstAction:
    """A model that always takes action 0."""

    def predict(self, observation: Any, state: Any, episode_start: Any, deterministic: bool = False) -> Any:
        return np.zeros(len(observation), dtype=int), state


class Lives(gym.Env[np.ndarray, Any]):
    """A game of three lives. Each is lost after two steps, and every step has the reward 1."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
        self.ale = SimpleNamespace(lives=lambda: 3 - self.t // 2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.t = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(1, dtype=np.float32), 1.0, self.t == 6, False, {}


def venv(*wrappers: Any, make: Any = Clock, n_envs: int = 1) -> DummyVecEnv:
    """Return environments with wrappers, innermost first."""

    def wrapped() -> gym.Env[Any, Any]:
        env: gym.Env[Any, Any] = make()
        for wrapper in wrappers:
            env = wrapper(env)
        return env

    return DummyVecEnv([wrapped] * n_envs)


ENDS = ((3, "terminated"), (5, "truncated"), (2, "terminated"))


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("n_episodes", [1, 4, 7])
@pytest.mark.parametrize("wrappers", [(), (Monitor,), (Monitor, EpisodicLifeEnv)])
def test_evaluation_agrees_with_sb3(wrappers: Any, n_episodes: int, n_envs: int) -> None:
    """Finds another division of the episodes over environments, and a life that counts as a game."""
    make = Lives if EpisodicLifeEnv in wrappers else partial(Clock, ENDS)
    model: Any = FirstAction()
    ours = evaluate(model, venv(*wrappers, make=make, n_envs=n_envs), n_episodes)
    theirs = evaluate_policy(
        model, venv(*wrappers, make=make, n_envs=n_envs), n_episodes, return_episode_rewards=True, warn=False
    )
    assert (list(ours.returns), list(ours.lengths)) == theirs


def test_a_wrapper_outside_monitor_may_end_episodes() -> None:
    """SB3's `evaluate_policy` never returns here: Monitor sees no end, so no episode is counted."""
    limited = partial(TimeLimit, max_episode_steps=2)
    model: Any = FirstAction()
    result = evaluate(model, venv(Monitor, limited, make=partial(Clock, ENDS)), 3)
    assert result.lengths == (2, 2, 2)
    assert result.returns == (3, 3, 3)  # Clock's rewards are 1, 2, 3, …


def test_an_episode_that_does_not_end_is_an_error() -> None:
    model: Any = FirstAction()
    endless = venv(make=partial(Clock, ((10**9, "truncated"),)), n_envs=2)
    with pytest.raises(ConfigError, match=r"has not ended after 50 steps; .* with -P max_episode_steps:N$"):
        evaluate(model, endless, 3, episode_bound=50)


def test_rewards_are_those_before_their_normalisation() -> None:
    model: Any = FirstAction()
    normalized = VecNormalize(venv(make=partial(Clock, ENDS)))
    assert evaluate(model, normalized, 3).returns == (6, 15, 3)


def test_statistics_are_copied_between_different_chains() -> None:
    """SB3's `sync_envs_normalization` raises AssertionError if the VecEnvs have different classes."""
    training: Any = VecNormalize(VecMonitor(venv()))
    evaluation = VecFrameStack(VecNormalize(venv(), training=False), 2)
    training.reset()
    for _ in range(5):
        training.step(np.zeros(1, dtype=int))
    sync_normalization(training, evaluation)
    inner: Any = evaluation.venv
    assert inner.obs_rms.mean == pytest.approx(training.obs_rms.mean)
    assert inner.ret_rms.var == training.ret_rms.var
    training.step(np.zeros(1, dtype=int))
    assert inner.obs_rms.count < training.obs_rms.count  # a copy


class Bandit(gym.Env[np.ndarray, Any]):
    """One step, whose reward is the action."""

    observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(1, np.float32), float(action), True, False, {}


@pytest.fixture
def minigrid(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An environment that is registered as MiniGrid's are."""
    module = types.ModuleType("minigrid_bandit")
    module.Bandit = Bandit  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "minigrid_bandit", module)
    gym.register("MiniGrid-Bandit-v0", entry_point="minigrid_bandit:Bandit")
    yield "MiniGrid-Bandit-v0"
    del gym.registry["MiniGrid-Bandit-v0"]


def test_actions_are_sampled_on_atari_and_minigrid_as_in_rl_zoo(minigrid: str) -> None:
    registry = Registry.discover()
    for env, deterministic in ((minigrid, False), ("ALE/Pong-v5", False), ("CartPole-v1", True)):
        config = load_config(registry, "a2c", env)
        assert config.deterministic() is deterministic
        assert config.deterministic(stochastic=False)
        assert not config.deterministic(stochastic=True)


def test_sampled_evaluations_do_not_change_the_training(minigrid: str, tmp_path: Path) -> None:
    """Finds evaluations that draw from the random numbers of the training, and commands that do not sample."""
    weights = []
    for name, eval_freq in (("with", 64), ("without", -1)):
        run = pgzoo.train("a2c", minigrid, n_timesteps=160, seed=0, eval_freq=eval_freq, eval_episodes=40,
                          log_folder=tmp_path / name, hyperparams={"learning_rate": 1e-5})  # fmt: skip
        weights.append(torch.cat([p.flatten() for p in run.model.policy.parameters()]))
        assert run.final is not None
        assert 0.2 < run.final.mean < 0.8
    assert torch.equal(*weights)
    with np.load(tmp_path / "with" / "a2c" / "MiniGrid-Bandit-v0_1" / "evaluations.npz") as arrays:
        assert 0.2 < arrays["results"].mean() < 0.8
    assert 0.2 < pgzoo.evaluate(run.folder.path, n_episodes=40).mean < 0.8
    assert pgzoo.evaluate(run.folder.path, n_episodes=40, stochastic=False).mean in (0, 1)
