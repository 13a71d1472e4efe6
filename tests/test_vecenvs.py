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
from pgzoo.training.vec_envs import COLUMNS, EnvPoolColumns, GymnasiumVecEnv, make_columns, make_envpool

N = 5
KINDS = {
    "dummy": lambda name, kwargs: dummy(name, **kwargs),
    "vector": lambda name, kwargs: make_columns(name, N, kwargs),
    "envpool": lambda name, kwargs: make_envpool(name, N, kwargs),
}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    """What makes N environments of a name, of every kind."""
    if request.param == "envpool":
        pytest.importorskip("envpool")
    return KINDS[request.param]


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
    assert "--vec-env vector steps arrays, which env_wrapper cannot wrap (FlattenObservation)" in result.stderr


# ---------------------------------------------------------------- what SB3 expects of every kind


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v1", 12), ("Pendulum-v1", 12)])
def test_what_is_told_is_what_gymnasium_plays(make: Any, name: str, limit: int) -> None:
    """Each column's steps, played over from its first observation in a scalar environment.

    What the scalar one says of rewards and of both ends holds; at an end the infos tell the true successor and why, and
    the observation is the beginning of a new episode.
    """
    env, scalar = make(name, {"max_episode_steps": limit}), gym.make(name, max_episode_steps=limit)
    game: Any = scalar.unwrapped
    env.seed(1)
    observations, rng, ends = env.reset(), np.random.default_rng(0), {True: 0, False: 0}

    def stand(observation: Any) -> None:
        scalar.reset()
        angle = (np.arctan2(observation[1], observation[0]), observation[2]) if name == "Pendulum-v1" else observation
        game.state = np.array(angle, dtype=np.float64)

    for n in range(N):
        starts = [observations[n]]
        stand(observations[n])
        for _ in range(100):
            low, high = (0, 2) if name == "CartPole-v1" else (-2, 2)
            actions = rng.integers(low, high, N) if name == "CartPole-v1" else rng.uniform(low, high, (N, 1))
            observations, rewards, dones, infos = env.step(actions.astype(env.action_space.dtype))
            expected, reward, terminated, truncated, _ = scalar.step(actions[n].astype(env.action_space.dtype))
            np.testing.assert_allclose(rewards[n], reward, rtol=1e-3)
            assert dones[n] == (terminated or truncated)
            seen = infos[n]["terminal_observation"] if dones[n] else observations[n]
            np.testing.assert_allclose(seen, expected, atol=5e-3)
            if dones[n]:
                both_are_truncations = isinstance(getattr(env, "columns", None), EnvPoolColumns)
                assert infos[n]["TimeLimit.truncated"] == (truncated and (not terminated or both_are_truncations))
                ends[infos[n]["TimeLimit.truncated"]] += 1
                starts.append(observations[n])
                stand(observations[n])
        assert len(np.unique(np.array(starts), axis=0)) == len(starts)
        if n + 1 < N:
            observations = env.reset()
    assert ends[True] > 0
    assert (ends[False] > 0) == (name == "CartPole-v1")


def test_seeds_are_one_a_column_and_hold_for_one_reset(make: Any) -> None:
    env = make("CartPole-v1", {})
    env.seed(3)
    first, second = env.reset(), env.reset()
    assert not np.isclose(first, second).any()
    env.seed(4)
    np.testing.assert_array_equal(env.reset()[:-1], first[1:])
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    env.close()


def test_training_statistics_and_evaluation_go_on_top(make: Any) -> None:
    env = VecNormalize(VecMonitor(make("Pendulum-v1", {})))
    model = PPO("MlpPolicy", env, n_steps=220, batch_size=100, n_epochs=1, device="cpu", seed=0).learn(2200)
    assert [episode["l"] for episode in model.ep_info_buffer] == [200] * 2 * N  # type: ignore[union-attr]
    assert all(-2000 < episode["r"] < -200 for episode in model.ep_info_buffer)  # type: ignore[union-attr]
    env.training = False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=N)
    assert -2500 < float(mean) < 0
    assert env.get_attr("spec")[0].id == "Pendulum-v1"


def test_groups_begin_alike(make: Any) -> None:
    """Five environments for two groups of four, so that in the second round two of them have no seed."""
    model = PolicyGradient("MlpPolicy", make("CartPole-v1", {}), "rloo", group_size=4, n_episodes=8, seed=0)
    model.learn(1)
    starts = model.rollout.step == 0
    firsts = {g: model.rollout.observations[starts & (model.rollout.group == g)] for g in (0, 1)}  # type: ignore[index]
    assert [len(found) for found in firsts.values()] == [4, 4]
    assert all((found == found[0]).all() for found in firsts.values())
    assert not (firsts[0][0] == firsts[1][0]).all()


def test_groups_begin_alike_where_columns_play_several_rounds() -> None:
    model = PolicyGradient("MlpPolicy", make_columns("pgzoo/Addition-v0", 8, {}), "rloo", group_size=4, n_episodes=8)
    model.learn(1)
    first: Any = model.rollout.observations[0]  # type: ignore[index]
    assert (first[:4] == first[0]).all()
    assert (first[4:] == first[4]).all()
    assert not (first[0] == first[4]).all()


def test_envpool_takes_no_options_of_a_reset() -> None:
    pytest.importorskip("envpool")
    env = make_envpool("CartPole-v1", N, {})
    model = PolicyGradient("MlpPolicy", env, "rloo", group_size=5, n_episodes=5, group_options={"low": 0.1})
    with pytest.raises(ConfigError, match=r"does not accept group_options .*low"):
        model.learn(1)


def test_what_envpool_has_not_is_refused() -> None:
    try:
        import envpool  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"--vec-env envpool needs EnvPool: pip install 'pgzoo\[envpool\]'"):
            make_envpool("CartPole-v1", N, {})
    else:
        with pytest.raises(ConfigError, match=r"EnvPool has no pgzoo/Addition-v0 .* take --vec-env vector"):
            make_envpool("pgzoo/Addition-v0", N, {})


def test_every_name_is_registered() -> None:
    assert all(gym.spec(name) for name in COLUMNS)
