"""Each episode of a queue begins with its own seed, and all wrappers see one reset per episode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecEnv,
    VecEnvWrapper,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    sync_envs_normalization,
)

from pgzoo import ConfigError, EnvironmentFailure, PolicyGradient
from pgzoo.interface.plans import Seeds
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.sampling.resets import resets_one
from pgzoo.training.guarded import GuardedVecEnv
from pgzoo.training.processes import ProcessVecEnv
from pgzoo.training.vec_envs import make_vector_env

N, GROUPS, SIZE = 3, 4, 3


class Walk(gym.Env[np.ndarray, Any]):
    """From a random place, in 1 to 8 steps of random size. The reward is the place after the step."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(-100, 100, (2,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.place = 0, float(self.np_random.normal(0, 3)) + (options or {}).get("shift", 0.0)
        return self._observe(), {}

    def _observe(self) -> np.ndarray:
        return np.array([self.place, self.t], dtype=np.float32)

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place += float(action) + self.np_random.normal()
        done = self.t == 8 or self.np_random.random() < 0.2
        return self._observe(), self.place, bool(done), False, {}


def vector_walks(kind: Any, mode: AutoresetMode) -> GymnasiumVecEnv:
    return GymnasiumVecEnv(kind([Walk] * N, autoreset_mode=mode))


VEC_ENVS: dict[str, Callable[[], VecEnv]] = {
    "dummy": lambda: DummyVecEnv([Walk] * N),
    "subproc": lambda: SubprocVecEnv([Walk] * N),
    "process": lambda: ProcessVecEnv([Walk] * N),
    "guarded": lambda: GuardedVecEnv(DummyVecEnv([Walk] * N), "Walk"),
    "sync, same step": lambda: vector_walks(SyncVectorEnv, AutoresetMode.SAME_STEP),
    "sync, next step": lambda: vector_walks(SyncVectorEnv, AutoresetMode.NEXT_STEP),
    "async": lambda: vector_walks(AsyncVectorEnv, AutoresetMode.SAME_STEP),
}


class Recorder(VecEnvWrapper):
    """Records what the next wrapper sees: the observations after resets and steps, and which episodes end."""

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.seen: list[np.ndarray] = []
        self.dones: list[np.ndarray] = []

    def reset(self) -> Any:
        observations = self.venv.reset()
        self.seen.append(np.array(observations))
        self.dones.append(np.ones(self.num_envs, dtype=bool))
        return observations

    def step_wait(self) -> Any:
        result = self.venv.step_wait()
        self.seen.append(np.array(result[0]))
        self.dones.append(np.array(result[2]))
        return result


def sample(env: VecEnv, **options: Any) -> PolicyGradient:
    model = PolicyGradient(
        "MlpPolicy", env, "rloo", group_size=SIZE, n_episodes=GROUPS * SIZE, seed=4, device="cpu", **options
    )
    return model.learn(1)


def expected_starts(env: Any, model: PolicyGradient, **options: Any) -> np.ndarray:
    """Return the first observation of each group: what a new environment returns for the group's seed."""
    seeds = Seeds(model.group_seed)
    return np.array([env.reset(seed=seeds.next(), **options)[0] for _ in range(GROUPS)])


def starts(model: PolicyGradient) -> tuple[np.ndarray, np.ndarray]:
    """Return the groups and the first observations of the recorded episodes."""
    rollout = model.rollout
    first = rollout.mask & (rollout.step == 0)
    return rollout.group[first], np.asarray(rollout.observations)[first]


@pytest.mark.parametrize("kind", VEC_ENVS)
def test_an_episode_begins_as_a_new_environment_does_with_its_seed(kind: str) -> None:
    env = VEC_ENVS[kind]()
    try:
        model = sample(env, learning_rate=0.0)
        groups, observations = starts(model)
        assert np.bincount(groups).tolist() == [SIZE] * GROUPS
        np.testing.assert_array_equal(observations, expected_starts(Walk(), model)[groups])
        # No environment waits while the queue has episodes: once it is idle, it stays idle.
        assert (np.diff(model.rollout.mask.astype(int), axis=0) <= 0).all()
    finally:
        env.close()


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "pgzoo/Addition-v0"])
def test_numpy_vector_environments_reset_one(name: str) -> None:
    kwargs = {"max_episode_steps": 9} if name == "Pendulum-v1" else {}
    env = make_vector_env(name, N, kwargs)
    assert env.resets_one
    model = sample(VecMonitor(env), learning_rate=0.0)
    groups, observations = starts(model)
    np.testing.assert_allclose(observations, expected_starts(gym.make(name), model)[groups], rtol=1e-6)
    assert len(model.rollout.mask) > 1


@pytest.mark.parametrize("kind", ["dummy", "sync, same step"])
def test_options_reach_every_episode(kind: str) -> None:
    """Finds options that only the first round gets."""
    model = sample(VEC_ENVS[kind](), group_options={"shift": 50.0})
    groups, observations = starts(model)
    np.testing.assert_array_equal(observations, expected_starts(Walk(), model, options={"shift": 50.0})[groups])


def test_normalisation_sees_the_start_of_the_episode_and_not_the_reset_before_it() -> None:
    """The statistics are those of the stream that the recorder sees, in which every done is followed by a start."""
    recorder = Recorder(DummyVecEnv([Walk] * N))
    env = VecNormalize(recorder)
    model = sample(env, learning_rate=0.0)
    assert isinstance(env.obs_rms, RunningMeanStd)
    stream = np.concatenate(recorder.seen)
    np.testing.assert_allclose(env.obs_rms.mean, stream.mean(axis=0), atol=1e-3)
    begun = expected_starts(Walk(), model)
    in_rollout = slice(2, None)  # after the reset of `learn` and that of the rollout
    seen, dones = np.array(recorder.seen[in_rollout]), np.array(recorder.dones[in_rollout])
    recorded_next = np.vstack([model.rollout.mask[1:], np.zeros((1, N), dtype=bool)])
    assert (dones & recorded_next).any()
    assert all((begun == observation).all(axis=1).any() for observation in seen[dones & recorded_next])


def test_frame_stacks_and_monitors_count_every_episode_once() -> None:
    """Finds frames of the reset in between, and episodes that a monitor counts twice or with a wrong length."""
    env = VecFrameStack(VecMonitor(DummyVecEnv([lambda: Monitor(Walk())] * N)), 3)
    model = sample(env, learning_rate=0.0)
    groups, observations = starts(model)
    np.testing.assert_array_equal(observations[:, :4], 0)
    np.testing.assert_array_equal(observations[:, 4:], expected_starts(Walk(), model)[groups])
    assert model.ep_info_buffer is not None
    assert sorted(e["l"] for e in model.ep_info_buffer) == sorted(model.rollout.lengths)
    returns = model.rollout.episode_sums(model.rollout.rewards)
    np.testing.assert_allclose(sorted(e["r"] for e in model.ep_info_buffer), sorted(returns), rtol=1e-4, atol=1e-4)


def test_the_vecenv_is_as_before_when_the_rollout_is_complete() -> None:
    """Finds a change that outlives the rollout or an error. EvalCallback compares the wrappers of two VecEnvs."""
    env, other = VecNormalize(DummyVecEnv([Walk] * N)), VecNormalize(DummyVecEnv([Walk] * N))
    sample(env)
    assert "step_wait" not in vars(env.unwrapped)
    sync_envs_normalization(env, other)
    with pytest.raises(ConfigError, match="not ended after 2 steps"):
        sample(env, episode_bound=2)
    assert "step_wait" not in vars(env.unwrapped)


def test_an_error_in_a_seeded_reset_is_the_environments() -> None:
    class Breaks(Walk):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            self.n_seeded = getattr(self, "n_seeded", 0) + (seed is not None)
            if self.n_seeded == 3:
                raise RuntimeError("no start")
            return super().reset(seed=seed, options=options)

    with pytest.raises(EnvironmentFailure, match="Breaks raised RuntimeError: no start"):
        sample(GuardedVecEnv(DummyVecEnv([Breaks] * N), "Breaks"))


def test_a_vecenv_that_cannot_reset_one_environment_plays_rounds() -> None:
    class Plain(DummyVecEnv):
        """Stands for a VecEnv of another package."""

    class Wrapped(VecEnv):
        def __init__(self, venv: Any) -> None:
            self.inner = venv
            super().__init__(venv.num_envs, venv.observation_space, venv.action_space)

        def reset(self) -> Any:
            self.inner._seeds, self._seeds = self._seeds, [None] * self.num_envs
            return self.inner.reset()

        def step_async(self, actions: Any) -> None:
            self.inner.step_async(actions)

        def step_wait(self) -> Any:
            return self.inner.step_wait()

        def close(self) -> None:
            self.inner.close()

        def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
            values: list[Any] = self.inner.get_attr(attr_name, indices)
            return values

        set_attr = env_method = env_is_wrapped = get_attr  # type: ignore[assignment]

    env = Wrapped(Plain([Walk] * N))
    assert not resets_one(env)
    model = sample(env, learning_rate=0.0)
    groups, observations = starts(model)
    np.testing.assert_array_equal(observations, expected_starts(Walk(), model)[groups])
    # A round begins when all have ended, in every environment at once.
    first = model.rollout.mask & (model.rollout.step == 0)
    assert set(first.sum(axis=1)) <= {0, N}


def test_group_of_the_same_seeds_whatever_the_number_of_environments() -> None:
    """The queue is fixed beforehand: the seeds of the groups do not depend on who plays them."""
    rollouts = [sample(DummyVecEnv([Walk] * n), learning_rate=0.0) for n in (1, 2, 5)]
    tables = [{int(g): tuple(o) for g, o in zip(*starts(model), strict=True)} for model in rollouts]
    assert tables[0] == tables[1] == tables[2]
