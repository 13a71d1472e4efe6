"""Vector environments behind SB3's VecEnv play what DummyVecEnv plays, step by step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from pgzoo import ConfigError, PolicyGradient
from pgzoo.vecenvs import COLUMNS, GymnasiumVecEnv, make_columns

N = 5


def dummy(name: str, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(name, **kwargs)] * N)


def assert_same_play(ours: Any, theirs: Any, n_steps: int, seed: int = 3) -> int:
    """Step both with the same actions from the same seeds; return how many episodes ended."""
    rng, episodes = np.random.default_rng(0), 0
    for env in (ours, theirs):
        env.seed(seed)
    np.testing.assert_allclose(ours.reset(), theirs.reset(), atol=1e-6)
    space = theirs.action_space
    for _ in range(n_steps):
        if isinstance(space, gym.spaces.Discrete):
            actions = rng.integers(0, space.n, N)
        else:
            actions = rng.uniform(space.low, space.high, (N, *space.shape)).astype(np.float32)
        mine, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(mine[:3], other[:3], strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=1e-5)
        for n in np.flatnonzero(other[2]):
            episodes += 1
            np.testing.assert_allclose(
                mine[3][n]["terminal_observation"], other[3][n]["terminal_observation"], atol=1e-5
            )
            assert mine[3][n]["TimeLimit.truncated"] == other[3][n]["TimeLimit.truncated"]
            assert mine[3][n].get("is_success") == other[3][n].get("is_success")
        assert [bool(info) for info in mine[3]] == other[2].tolist()
    return episodes


@pytest.mark.parametrize(("name", "kwargs", "n_steps", "ended"), [
    ("CartPole-v0", {}, 300, 50),
    ("CartPole-v1", {"sutton_barto_reward": True}, 300, 50),
    ("Pendulum-v1", {"g": 9.81}, 420, 10),
    ("pgzoo/Addition-v0", {"digits": 2, "base": 3}, 300, 300),
])  # fmt: skip
def test_columns_play_what_the_scalar_environments_play(name: str, kwargs: Any, n_steps: int, ended: int) -> None:
    assert assert_same_play(make_columns(name, N, kwargs), dummy(name, **kwargs), n_steps) >= ended


def test_a_balanced_cart_is_cut_by_the_time_limit() -> None:
    """A policy that holds the pole: the ends are truncations, not terminations."""
    ours, theirs = make_columns("CartPole-v1", N, {}), dummy("CartPole-v1")
    for env in (ours, theirs):
        env.seed(0)
    observations = ours.reset()
    theirs.reset()
    cut = 0
    for _ in range(600):
        actions = (observations @ np.array([0.1, 0.5, 5.0, 1.0]) > 0).astype(int)
        observations, _, dones, infos = ours.step(actions)
        other = theirs.step(actions)
        np.testing.assert_allclose(observations, other[0], atol=1e-4)
        assert dones.tolist() == other[2].tolist()
        cut += sum(info.get("TimeLimit.truncated", False) for info in infos)
    assert cut == N


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", ["Acrobot-v1", "MountainCarContinuous-v0"])
def test_every_autoreset_mode_is_sb3s(name: str, mode: AutoresetMode) -> None:
    kwargs = {"max_episode_steps": 40}
    columns = gym.make_vec(name, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **kwargs)
    assert assert_same_play(GymnasiumVecEnv(columns), dummy(name, **kwargs), 100) == 2 * N


def test_one_that_loses_its_successors_is_refused() -> None:
    env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", N, vectorization_mode="vector_entry_point"))
    env.reset()

    def play() -> None:
        for _ in range(200):
            env.step(np.ones(N, dtype=int))

    with pytest.raises(ConfigError, match="CartPoleVectorEnv resets at the next step and takes no reset_mask"):
        play()


def test_groups_begin_alike_on_columns() -> None:
    for name in ("CartPole-v1", "pgzoo/Addition-v0"):
        model = PolicyGradient("MlpPolicy", make_columns(name, 8, {}), "rloo", group_size=4, n_episodes=8, seed=0)
        model.learn(1)
        first: Any = model.rollout.observations[0]  # type: ignore[index]
        assert (first[:4] == first[0]).all()
        assert (first[4:] == first[4]).all()
        assert not (first[0] == first[4]).all()


def test_wrappers_statistics_and_sb3_on_top() -> None:
    env = VecNormalize(VecMonitor(make_columns("Pendulum-v1", N, {})))
    model = PPO("MlpPolicy", env, n_steps=220, batch_size=100, n_epochs=1, device="cpu", seed=0).learn(2200)
    assert [episode["l"] for episode in model.ep_info_buffer] == [200] * 2 * N  # type: ignore[union-attr]
    env.training = False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=N)
    assert -2500 < float(mean) < 0
    assert env.get_attr("spec")[0].id == "Pendulum-v1"


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pgzoo", "train", "--vec-env", "vector", "--plugin", "gae", "-n", "2000",
               "-P", "n_envs:16", "--no-progress", "--eval-freq", "-1", "--eval-episodes", "2"]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "Path: mlp" in result.stdout
    (monitor,) = tmp_path.rglob("0.monitor.csv")
    assert len(monitor.read_text().splitlines()) > 10
    result = subprocess.run([*command, "-P", "env_wrapper:gymnasium.wrappers.FlattenObservation"], cwd=tmp_path,
                            capture_output=True, text=True, timeout=120)  # fmt: skip
    assert result.returncode == 2
    assert "--vec-env vector steps arrays, which env_wrapper cannot wrap" in result.stderr


def test_every_name_is_registered() -> None:
    assert all(gym.spec(name) for name in COLUMNS)
