"""Environments without an episode rest: they take no step, and wrappers learn nothing from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from pgzoo import PolicyGradient
from pgzoo.sampling.resting import RestingEnvironments, can_rest
from pgzoo.training.guarded import GuardedVecEnv
from pgzoo.training.processes import ProcessVecEnv
from pgzoo.training.vec_envs import make_vector_env


class Counter(gym.Env[Any, Any]):
    """Observations count all steps that the environment ever took. Episode k has `lengths[k]` steps."""

    def __init__(self, *lengths: int, in_dict: bool = False) -> None:
        box = spaces.Box(-1000, 1000, (1,))
        self.observation_space = spaces.Dict({"n": box, "same": box}) if in_dict else box
        self.action_space = spaces.Discrete(2)
        self.lengths, self.in_dict = lengths, in_dict
        self.n_steps, self.n_episodes = 0, -1

    def _observe(self) -> Any:
        observation = np.array([self.n_steps], np.float32)
        return {"n": observation, "same": observation} if self.in_dict else observation

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.n_episodes = 0, self.n_episodes + 1
        return self._observe(), {"episode": self.n_episodes}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t, self.n_steps = self.t + 1, self.n_steps + 1
        done = self.t == self.lengths[self.n_episodes % len(self.lengths)]
        return self._observe(), float(self.n_steps), done, False, {}


def counters(in_dict: bool = False) -> list[Callable[[], Any]]:
    return [partial(lambda n: Monitor(Counter(n, in_dict=in_dict)), n) for n in (2, 3, 7)]


VEC_ENVS: dict[str, Callable[[], VecEnv]] = {
    "dummy": lambda: DummyVecEnv(counters()),
    "dummy, dict": lambda: DummyVecEnv(counters(in_dict=True)),
    "subproc": lambda: SubprocVecEnv(counters()),
    "subproc, dict": lambda: SubprocVecEnv(counters(in_dict=True)),
    "process": lambda: ProcessVecEnv(counters()),
    "guarded": lambda: GuardedVecEnv(DummyVecEnv(counters()), "Counter"),
}


def train(env: VecEnv, updates: int = 1, **options: Any) -> PolicyGradient:
    options = {"plugin": "rtg", "n_episodes": 3, **options}
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "MlpPolicy"
    model = PolicyGradient(policy, env, seed=0, device="cpu", **options)
    for update in range(updates):
        model.learn(1, log_interval=None, reset_num_timesteps=update == 0)
    return model


@pytest.mark.parametrize("kind", VEC_ENVS)
def test_a_resting_environment_is_not_stepped(kind: str) -> None:
    """Finds a step too many, an observation of another environment, and stand-ins that stay after the rollout."""
    env = VEC_ENVS[kind]()
    methods = {name: getattr(env.unwrapped, name).__func__ for name in ("step_async", "step_wait")}
    try:
        model = train(env)
        assert env.get_attr("n_steps") == [2, 3, 7]
        assert model.num_timesteps == 12
        train(env)
        assert env.get_attr("n_steps") == [4, 6, 14]
        assert {name: getattr(env.unwrapped, name).__func__ for name in methods} == methods
    finally:
        env.close()


@pytest.mark.parametrize("kind", VEC_ENVS)
def test_a_resting_environment_returns_its_last_observation_and_nothing_else(kind: str) -> None:
    env = VEC_ENVS[kind]()
    try:
        env.reset()
        rest = RestingEnvironments(env)
        with rest.control():
            rest.step(env, np.zeros(3, dtype=int), np.array([False, True, False]))  # the first step steps all
            observations, rewards, dones, infos = rest.step(env, np.zeros(3, dtype=int), np.array([False, True, False]))
        leaves = list(observations.values()) if isinstance(observations, dict) else [observations]
        assert all(leaf[:, 0].tolist() == [2, 1, 2] for leaf in leaves)
        assert rewards.tolist() == [2, 0, 2]
        assert dones.tolist() == [True, False, False]
        assert not infos[1].get("TimeLimit.truncated", False)
        assert "episode" not in infos[1]
        assert env.reset_infos[1] == {"episode": 0}
        env.step(np.zeros(3, dtype=int))
        assert env.get_attr("n_steps") == [3, 2, 3]
    finally:
        env.close()


@pytest.mark.parametrize("outer", [VecMonitor, lambda env: env])
@pytest.mark.parametrize("in_dict", [False, True])
def test_normalisation_learns_from_steps_that_are_taken(in_dict: bool, outer: Callable[[VecEnv], VecEnv]) -> None:
    """The statistics are those of the observations and discounted returns of one environment after the other."""
    normalize = VecNormalize(DummyVecEnv(counters(in_dict)), gamma=0.5)
    train(outer(normalize), updates=2)
    observations, returns = RunningMeanStd(shape=(1,)), RunningMeanStd(shape=())
    firsts = [0, 0, 0]  # of `learn`; the first rollout begins there
    observations.update(np.array(firsts)[:, None])
    for rollout in range(2):
        if rollout:  # the environments rest in the middle of nothing, so all are reset
            observations.update(np.array(firsts)[:, None])
        lengths = np.array([2, 3, 7])
        total = np.zeros(3)
        for t in range(1, 8):
            stepped = lengths >= t
            after = rollout * lengths + t
            observations.update(after[stepped, None])
            total = np.where(stepped, 0.5 * total + after, total)
            returns.update(total[stepped])
        firsts = (lengths * (rollout + 1)).tolist()
    for name, expected in (("obs_rms", observations), ("ret_rms", returns)):
        measured: Any = getattr(normalize, name)
        for rms in measured.values() if isinstance(measured, dict) else [measured]:
            assert rms.count == pytest.approx(expected.count)
            np.testing.assert_allclose(rms.mean, expected.mean, rtol=1e-6)
            np.testing.assert_allclose(rms.var, expected.var, rtol=1e-6)
    assert normalize.training


def test_frozen_statistics_stay_frozen() -> None:
    normalize = VecNormalize(DummyVecEnv(counters()), training=False)
    train(normalize)
    assert isinstance(normalize.obs_rms, RunningMeanStd)
    assert normalize.obs_rms.count == RunningMeanStd().count
    assert not normalize.training


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "pgzoo/Addition-v0"])
def test_numpy_vector_environments_rest_as_separate_ones_do(name: str) -> None:
    """The same seeds, the same episodes, the same number of steps."""
    groups: dict[str, Any] = {"plugin": "rloo", "n_episodes": 9, "group_size": 3}
    kwargs: dict[str, Any] = {"max_episode_steps": 9} if name == "Pendulum-v1" else {}
    vector = VecMonitor(make_vector_env(name, 3, kwargs))
    separate = DummyVecEnv([lambda: gym.make(name, **kwargs)] * 3)
    models = [train(env, updates=2, **groups) for env in (vector, separate)]
    assert models[0].num_timesteps == models[1].num_timesteps
    a, b = (np.asarray(model.rollout.observations)[model.rollout.mask] for model in models)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_vecenvs_of_other_packages_step_all_environments() -> None:
    class Other(DummyVecEnv):
        def step_async(self, actions: Any) -> None:
            super().step_async(actions)

    env = Other(counters())
    assert not can_rest(env)
    assert train(env).num_timesteps == 21


def test_an_error_ends_the_control() -> None:
    """Finds stand-ins that an exception leaves behind."""

    class Breaks(Counter):
        def step(self, action: Any) -> Any:
            if self.t == 4:
                raise RuntimeError("broken")
            return super().step(action)

    env = DummyVecEnv([lambda: Counter(2), lambda: Breaks(9)])
    with pytest.raises(RuntimeError, match="broken"):
        train(env, n_episodes=2)
    assert [type(e) for e in env.envs] == [Counter, Breaks]
    assert not {"step_async", "step_wait"} & set(vars(env))


def test_user_wrappers_see_resting_environments_go_on() -> None:
    """A wrapper of the user's gets a row for each environment in every step, and one reset per rollout."""
    seen: list[Any] = []

    class Recorder(VecEnvWrapper):
        def reset(self) -> Any:
            seen.append("reset")
            return self.venv.reset()

        def step_wait(self) -> Any:
            result = self.venv.step_wait()
            seen.append(result[2].tolist())
            return result

    train(Recorder(DummyVecEnv(counters())), updates=2)
    rollout = [[t == n for n in (2, 3, 7)] for t in range(1, 8)]
    assert seen == ["reset", *rollout, "reset", *rollout]
