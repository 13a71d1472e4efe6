"""Vector environments as SB3 VecEnvs play what DummyVecEnv plays, step by step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from command import pgzoo
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize

from pgzoo import ConfigError, PolicyGradient
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.training.vec_envs import (
    NUMPY_VECTOR_ENVS,
    EnvPoolVectorEnv,
    make_envpool,
    make_vector_env,
)

N = 5
KINDS = {
    "dummy": lambda name, kwargs: dummy(name, **kwargs),
    "vector": lambda name, kwargs: make_vector_env(name, N, kwargs),
    "envpool": lambda name, kwargs: make_envpool(name, N, kwargs),
}


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    """Return a function that makes N environments of a name, for each kind of VecEnv."""
    if request.param == "envpool":
        pytest.importorskip("envpool")
    return KINDS[request.param]


def dummy(name: str, **kwargs: Any) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make(name, **kwargs)] * N)


def assert_same_play(ours: Any, theirs: Any, n_steps: int, seed: int = 3) -> int:
    """Step both with the same actions from the same seeds, and return the number of ended episodes."""
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
        *our_arrays, our_infos = ours.step(actions)
        *their_arrays, their_infos = theirs.step(actions)
        for a, b in zip(our_arrays, their_arrays, strict=True):
            assert a.dtype == b.dtype
            np.testing.assert_allclose(a, b, atol=1e-5)
        dones = their_arrays[2]
        for n in np.flatnonzero(dones):
            episodes += 1
            np.testing.assert_allclose(
                our_infos[n]["terminal_observation"], their_infos[n]["terminal_observation"], atol=1e-5
            )
            assert our_infos[n]["TimeLimit.truncated"] == their_infos[n]["TimeLimit.truncated"]
            assert our_infos[n].get("is_success") == their_infos[n].get("is_success")
        assert [bool(info) for info in our_infos] == dones.tolist()
    return episodes


@pytest.mark.parametrize(("name", "kwargs", "n_steps", "ended"), [
    ("CartPole-v0", {}, 300, 50),
    ("CartPole-v1", {"sutton_barto_reward": True}, 300, 50),
    ("Pendulum-v1", {"g": 9.81}, 420, 10),
    ("pgzoo/Addition-v0", {"digits": 2, "base": 3}, 300, 300),
])  # fmt: skip
def test_numpy_vector_environments_play_what_scalar_ones_play(name: str, kwargs: Any, n_steps: int, ended: int) -> None:
    assert assert_same_play(make_vector_env(name, N, kwargs), dummy(name, **kwargs), n_steps) >= ended


def test_the_time_limit_truncates_a_balanced_cart() -> None:
    """The policy balances the pole, so episodes are truncated, not terminated."""
    ours, theirs = make_vector_env("CartPole-v1", N, {}), dummy("CartPole-v1")
    for env in (ours, theirs):
        env.seed(0)
    observations: Any = ours.reset()
    their_observations: Any = theirs.reset()
    truncations = 0
    for _ in range(600):
        actions = (observations @ np.array([0.1, 0.5, 5.0, 1.0]) > 0).astype(int)
        observations, _, dones, infos = ours.step(actions)
        their_observations, _, their_dones, _ = theirs.step(actions)
        np.testing.assert_allclose(observations, their_observations, atol=1e-4)
        assert dones.tolist() == their_dones.tolist()
        truncations += sum(info.get("TimeLimit.truncated", False) for info in infos)
    assert truncations == N


@pytest.mark.parametrize("name", ["Acrobot-v1", "CartPole-v1", "MountainCar-v0"])
def test_a_time_limit_replaces_that_of_the_environment(name: str) -> None:
    """Finds a limit that is passed to the environment's constructor, which does not know it."""
    venv = make_vector_env(name, 2, {"max_episode_steps": 3})
    venv.reset()
    dones, infos = zip(*(venv.step(np.zeros(2, dtype=int))[2:] for _ in range(3)), strict=True)
    assert [done.tolist() for done in dones] == [[False, False], [False, False], [True, True]]
    assert all(info["TimeLimit.truncated"] for info in infos[-1])


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("name", ["Acrobot-v1", "MountainCarContinuous-v0"])
def test_every_autoreset_mode_becomes_sb3s(name: str, mode: AutoresetMode) -> None:
    kwargs: dict[str, Any] = {"max_episode_steps": 40}
    vector_env = gym.make_vec(name, N, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}, **kwargs)
    assert assert_same_play(GymnasiumVecEnv(vector_env), dummy(name, **kwargs), 100) == 2 * N


def test_an_environment_that_loses_the_last_observations_is_refused() -> None:
    env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", N, vectorization_mode="vector_entry_point"))
    env.reset()

    def play() -> None:
        for _ in range(200):
            env.step(np.ones(N, dtype=int))

    with pytest.raises(ConfigError, match="CartPoleVectorEnv resets at the next step and ignores reset_mask"):
        play()


def test_the_command(tmp_path: Path) -> None:
    command = ["train", "--vec-env", "vector", "--plugin", "gae", "-n", "2000", "-P", "n_envs:16", "--no-progress",
               "--eval-freq", "-1", "--eval-episodes", "2", "--device", "cpu"]  # fmt: skip
    result = pgzoo(*command, cwd=tmp_path)
    assert "Backend: numpy on cpu" in result.stdout
    (monitor,) = tmp_path.rglob("0.monitor.csv")
    assert len(monitor.read_text().splitlines()) > 10
    result = pgzoo(*command, "-P", "env_wrapper:gymnasium.wrappers.FlattenObservation", cwd=tmp_path, status=2)
    assert "--vec-env vector steps arrays, which env_wrapper cannot wrap (FlattenObservation)" in result.stderr


# ---------------------------------------------------------------- what SB3 expects of every kind of VecEnv


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v1", 12), ("Pendulum-v1", 12)])
def test_transitions_are_gymnasiums(make: Any, name: str, limit: int) -> None:
    """Replay each environment's actions in a scalar environment, from the same initial state.

    Rewards, terminations and truncations agree. At the end of an episode, the infos have the last observation and
    whether it was truncated, and the observation is the first one of a new episode.
    """
    env, scalar = make(name, {"max_episode_steps": limit}), gym.make(name, max_episode_steps=limit)
    game: Any = scalar.unwrapped
    env.seed(1)
    observations, rng, ends = env.reset(), np.random.default_rng(0), {True: 0, False: 0}

    def set_state(observation: Any) -> None:
        scalar.reset()
        angle = (np.arctan2(observation[1], observation[0]), observation[2]) if name == "Pendulum-v1" else observation
        game.state = np.array(angle, dtype=np.float64)

    for n in range(N):
        starts = [observations[n]]
        set_state(observations[n])
        for _ in range(100):
            low, high = (0, 2) if name == "CartPole-v1" else (-2, 2)
            actions = rng.integers(low, high, N) if name == "CartPole-v1" else rng.uniform(low, high, (N, 1))
            observations, rewards, dones, infos = env.step(actions.astype(env.action_space.dtype))
            expected, reward, terminated, truncated, _ = scalar.step(actions[n].astype(env.action_space.dtype))
            np.testing.assert_allclose(rewards[n], float(reward), rtol=1e-3)
            assert dones[n] == (terminated or truncated)
            seen = infos[n]["terminal_observation"] if dones[n] else observations[n]
            np.testing.assert_allclose(seen, expected, atol=5e-3)
            if dones[n]:
                both_are_truncations = isinstance(getattr(env, "vector_env", None), EnvPoolVectorEnv)
                assert infos[n]["TimeLimit.truncated"] == (truncated and (not terminated or both_are_truncations))
                ends[infos[n]["TimeLimit.truncated"]] += 1
                starts.append(observations[n])
                set_state(observations[n])
        assert len(np.unique(np.array(starts), axis=0)) == len(starts)
        if n + 1 < N:
            observations = env.reset()
    assert ends[True] > 0
    assert (ends[False] > 0) == (name == "CartPole-v1")


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5"])
def test_mujoco_of_envpool_is_gymnasiums(name: str) -> None:
    """In a process of its own: a process in which both MuJoCos have run cannot be forked, as other tests do."""
    pytest.importorskip("envpool")
    pytest.importorskip("mujoco")
    code = f"import test_vecenvs; test_vecenvs.compare_mujoco({name!r})"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, check=True, timeout=200)


def compare_mujoco(name: str) -> None:
    """Begin each step at the positions and velocities that EnvPool observed, in Gymnasium's environment.

    The largest difference in 300 steps was 8e-8.
    """
    ours, theirs = make_envpool(name, 1, {}), gym.make(name)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.dtype == theirs.observation_space.dtype
    ours.seed(0)
    observations: Any = ours.reset()
    theirs.reset()
    game: Any = theirs.unwrapped
    n_positions = game.model.nq - 1
    rng = np.random.default_rng(0)
    for _ in range(20):
        start = observations[0]
        game.set_state(np.concatenate([[0.0], start[:n_positions]]), start[n_positions:])
        action = rng.uniform(-1, 1, theirs.action_space.shape or ()).astype(np.float32)
        observations, rewards, dones, infos = ours.step(action[None])
        expected, reward, terminated, _, _ = theirs.step(action)
        seen = infos[0]["terminal_observation"] if dones[0] else observations[0]
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        np.testing.assert_allclose(rewards[0], float(reward), atol=1e-5)
        assert dones[0] == terminated
    ours.close()


def test_each_environment_has_its_own_seed_for_one_reset(make: Any) -> None:
    env = make("CartPole-v1", {})
    env.seed(3)
    first, second = env.reset(), env.reset()
    assert not np.isclose(first, second).any()
    env.seed(4)
    np.testing.assert_array_equal(env.reset()[:-1], first[1:])
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)
    env.close()


def test_training_normalisation_and_evaluation_work_on_top(make: Any) -> None:
    env = VecNormalize(VecMonitor(make("Pendulum-v1", {})))
    model = PPO("MlpPolicy", env, n_steps=220, batch_size=100, n_epochs=1, device="cpu", seed=0).learn(2200)
    assert model.ep_info_buffer is not None
    assert [episode["l"] for episode in model.ep_info_buffer] == [200] * 2 * N
    assert all(-2000 < episode["r"] < -200 for episode in model.ep_info_buffer)
    env.training = False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=N)
    assert not isinstance(mean, list)
    assert -2500 < float(mean) < 0
    assert env.get_attr("spec")[0].id == "Pendulum-v1"


def test_the_episodes_of_a_group_start_alike(make: Any) -> None:
    """Five environments play two groups of four, so two of them have no seed in the second round."""
    model = PolicyGradient(
        "MlpPolicy", make("CartPole-v1", {}), "rloo", group_size=4, n_episodes=8, seed=0, device="cpu"
    )
    model.learn(1)
    starts = model.rollout.step == 0
    observations: Any = model.rollout.observations
    firsts = {g: observations[starts & (model.rollout.group == g)] for g in (0, 1)}
    assert [len(first) for first in firsts.values()] == [4, 4]
    assert all((first == first[0]).all() for first in firsts.values())
    assert not (firsts[0][0] == firsts[1][0]).all()


def test_groups_of_a_numpy_vector_environment_start_alike() -> None:
    env = make_vector_env("pgzoo/Addition-v0", 8, {})
    model = PolicyGradient("MlpPolicy", env, "rloo", group_size=4, n_episodes=8, seed=0, device="cpu")
    model.learn(1)
    first = np.asarray(model.rollout.observations)[0]
    assert (first[:4] == first[0]).all()
    assert (first[4:] == first[4]).all()
    assert not (first[0] == first[4]).all()


def test_envpool_does_not_accept_reset_options() -> None:
    pytest.importorskip("envpool")
    env = make_envpool("CartPole-v1", N, {})
    model = PolicyGradient(
        "MlpPolicy", env, "rloo", group_size=5, n_episodes=5, group_options={"low": 0.1}, device="cpu"
    )
    with pytest.raises(ConfigError, match=r"does not accept group_options .*low"):
        model.learn(1)


def test_a_missing_envpool_or_environment_is_refused() -> None:
    try:
        import envpool  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match=r"--vec-env envpool needs EnvPool: pip install 'pgzoo\[envpool\]'"):
            make_envpool("CartPole-v1", N, {})
    else:
        with pytest.raises(ConfigError, match=r"EnvPool does not have pgzoo/Addition-v0.* use --vec-env vector"):
            make_envpool("pgzoo/Addition-v0", N, {})


def test_every_numpy_vector_environment_is_registered() -> None:
    assert NUMPY_VECTOR_ENVS
    assert all(gym.spec(name) for name in NUMPY_VECTOR_ENVS)


# ---------------------------------------------------------------- attributes of the separate environments


class Level(gym.Env[Any, Any]):
    """The observation is the level, which can be set, and the number of calls of `shift`."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-100, 100, (2,))
        self.action_space = gym.spaces.Discrete(2)
        self.level, self.calls = 0.0, 0

    def shift(self, by: float, factor: float = 1.0) -> float:
        self.level, self.calls = self.level + factor * by, self.calls + 1
        return self.level

    def observe(self) -> Any:
        return np.array([self.level, self.calls], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observe(), {}

    def step(self, action: Any) -> Any:
        return self.observe(), 0.0, False, False, {}


def level() -> Any:
    return gym.wrappers.TimeLimit(gym.wrappers.OrderEnforcing(Level()), 50)


VECTOR_ENVS = {"sync": gym.vector.SyncVectorEnv, "async": gym.vector.AsyncVectorEnv}


@pytest.mark.parametrize("monitored", [False, True])
@pytest.mark.parametrize("kind", VECTOR_ENVS)
def test_attributes_and_methods_act_on_the_environments(kind: str, monitored: bool) -> None:
    """They were those of Gymnasium's vector object, for all environments together."""
    venv: Any = GymnasiumVecEnv(VECTOR_ENVS[kind]([level] * 4))
    env: Any = VecMonitor(venv) if monitored else venv
    try:
        env.reset()
        assert env.get_attr("level") == [0.0] * 4
        env.set_attr("level", 2.0)
        env.set_attr("level", 5.0, indices=[1, 3])
        env.set_attr("level", 7.0, indices=0)
        assert env.get_attr("level") == [7.0, 5.0, 2.0, 5.0]
        assert env.get_attr("level", indices=[3, 2]) == [5.0, 2.0]
        assert env.env_method("shift", 1.0, indices=2) == [3.0]
        assert env.env_method("shift", 1.0, factor=2.0, indices=[0, 1]) == [9.0, 7.0]
        observations = env.step(np.zeros(4, dtype=int))[0]  # the environments themselves see it
        assert observations.tolist() == [[9.0, 1.0], [7.0, 1.0], [3.0, 1.0], [5.0, 0.0]]
        assert env.env_method("shift", 0.0) == [9.0, 7.0, 3.0, 5.0]
        assert env.has_attr("level")
    finally:
        env.close()


def test_a_missing_attribute_leaves_asynchronous_environments_alive() -> None:
    """Gymnasium's workers end at an attribute that their environment lacks. Whole episodes ask for one."""
    env = GymnasiumVecEnv(gym.vector.AsyncVectorEnv([level] * 2))
    try:
        env.reset()
        assert not env.has_attr("nothing")
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            env.env_method("nothing")
        observations: Any = env.step(np.zeros(2, dtype=int))[0]
        assert observations.shape == (2, 2)
    finally:
        env.close()


def test_asynchronous_environments_without_shared_memory_are_refused() -> None:
    vector_env = gym.vector.AsyncVectorEnv([level] * 2, shared_memory=False)
    try:
        with pytest.raises(ConfigError, match="shared_memory=False"):
            GymnasiumVecEnv(vector_env)
    finally:
        vector_env.close()


def test_a_method_is_an_attribute_that_is_not_called() -> None:
    env = GymnasiumVecEnv(gym.vector.SyncVectorEnv([level] * 2))
    assert all(callable(method) for method in env.get_attr("shift"))
    assert env.get_attr("calls") == [0, 0]
    with pytest.raises(AttributeError):
        env.get_attr("nothing")
    assert not env.has_attr("nothing")


def test_attributes_of_numpy_vector_environments() -> None:
    """The parameters are shared, states are not. Pendulum with g = 0 at rest stays at rest."""
    env = make_vector_env("Pendulum-v1", 3, {})
    env.seed(0)
    env.reset()
    assert env.get_attr("g") == [10.0] * 3
    env.set_attr("g", 0.0)
    env.set_attr("state", np.array([1.0, 0.0]), indices=[1])
    observations: Any = env.step(np.zeros((3, 1), dtype=np.float32))[0]
    np.testing.assert_allclose(observations[1], [np.cos(1), np.sin(1), 0], atol=1e-6)
    with pytest.raises(AttributeError, match="share g: set it for all, or use --vec-env dummy"):
        env.set_attr("g", 5.0, indices=[0])
    with pytest.raises(AttributeError, match="has no nothing; it has state, np_random, g, m, l"):
        env.get_attr("nothing")
    with pytest.raises(AttributeError, match="PendulumVectorEnv has no separate environments to call render"):
        env.env_method("render")


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1"])
def test_every_parameter_of_a_numpy_vector_environment_takes_effect(name: str) -> None:
    """Finds a parameter that the numpy version does not read: the play equals that of DummyVecEnv with it."""
    ours: Any = make_vector_env(name, N, {})
    for parameter in ours.vector_env.parameters:
        ours, theirs = make_vector_env(name, N, {}), dummy(name)
        value = 0.9 * ours.get_attr(parameter)[0]
        ours.set_attr(parameter, value)
        for scalar in theirs.envs:
            setattr(scalar.unwrapped, parameter, value)
        assert_same_play(ours, theirs, 60)


def test_third_party_vector_environments_have_attributes_of_all() -> None:
    env = GymnasiumVecEnv(gym.make_vec("CartPole-v1", N, vectorization_mode="vector_entry_point"))
    env.set_attr("gravity", 5.0)
    assert env.get_attr("gravity", indices=[0, 1]) == [5.0, 5.0]
    with pytest.raises(AttributeError, match="gravity can only be set for all of them"):
        env.set_attr("gravity", 1.0, indices=[0])
    with pytest.raises(AttributeError, match="nothing can only be set"):
        env.set_attr("nothing", 1.0)


def test_an_environment_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_module_of_envs.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('OwnVec-v0', 'gymnasium.envs.classic_control:AcrobotEnv', max_episode_steps=9)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    env = make_vector_env("own_module_of_envs:OwnVec-v0", 2, {})
    assert env.get_attr("spec")[0].id == "OwnVec-v0"
    assert make_vector_env("gymnasium:CartPole-v1", 2, {}).reset().shape == (2, 4)
    with pytest.raises(ModuleNotFoundError):
        make_vector_env("no_such_module:OwnVec-v0", 2, {})


class ReusesItsMemory(gym.vector.VectorEnv[Any, Any, Any]):
    """Two environments with episodes of one step. Final observations and infos are in memory that is used again."""

    def __init__(self) -> None:
        self.num_envs, self.t, self.render_mode = 2, 0, None
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.single_observation_space = gym.spaces.Box(-1, 100, (1,))
        self.single_action_space = gym.spaces.Discrete(2)
        self.final, self.extra = np.zeros((2, 1), dtype=np.float32), np.zeros((2, 3))

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return np.zeros((2, 1), dtype=np.float32), {}

    def step(self, actions: Any) -> Any:
        self.t += 1
        self.final[:], self.extra[:] = self.t, self.t
        ended = [1, 1]  # not booleans
        infos = {
            "final_obs": self.final,
            "_final_obs": np.ones(2, bool),
            "extra": self.extra,
            "_extra": np.ones(2, bool),
        }
        return np.zeros((2, 1), dtype=np.float32), [0, 0], [0, 1], ended, infos


def test_infos_are_copies() -> None:
    env = GymnasiumVecEnv(ReusesItsMemory())
    env.reset()
    first = env.step(np.zeros(2, dtype=int))
    env.step(np.zeros(2, dtype=int))
    assert first[2].tolist() == [True, True]
    assert [float(info["terminal_observation"][0]) for info in first[3]] == [1.0, 1.0]
    assert [info["TimeLimit.truncated"] for info in first[3]] == [True, False]
    assert [info["extra"].tolist() for info in first[3]] == [[1.0] * 3] * 2


def test_reset_options_that_differ_are_refused() -> None:
    env = GymnasiumVecEnv(gym.vector.SyncVectorEnv([level] * 2))
    env.set_options([{"a": 1}, {"a": 2}])
    with pytest.raises(ConfigError, match="the same reset options for all"):
        env.reset()
