"""Atari's vector environments show the frames of SB3's AtariWrapper, and end lives and clip rewards as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from command import pgzoo
from gymnasium.vector import VectorEnv
from stable_baselines3.common.atari_wrappers import (
    AtariWrapper,
    ClipRewardEnv,
    EpisodicLifeEnv,
    MaxAndSkipEnv,
    NoopResetEnv,
    WarpFrame,
)
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

from pgzoo import ConfigError
from pgzoo.registry.plugins import Registry
from pgzoo.training.atari import AtariPreprocessing, AtariVecEnv, make_atari
from pgzoo.training.config import ExperimentConfig, load_config
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import evaluate
from pgzoo.training.run_folder import RunFolder
from pgzoo.training.saved_model import read_config

WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
FIXED = {"repeat_action_probability": 0.0, "use_fire_reset": False}
"""Games without sticky actions, which begin at their first frame."""


def configuration(env: str = "ALE/Pong-v5", **overrides: Any) -> ExperimentConfig:
    pytest.importorskip("ale_py")
    pytest.importorskip("cv2")
    import ale_py

    gym.register_envs(ale_py)
    return load_config(Registry.discover(), "ppo", env, overrides=overrides)


# ---------------------------------------------------------------- lives, rewards and scores


class Lives(VecEnv):
    """Two environments with games of given lives and rewards, step by step. It notes the actions."""

    LIVES = ((3, 3), (3, 2), (2, 2), (2, 3), (1, 2), (0, 2), (3, 1))
    REWARDS = ((0, 0), (4, -7), (0, 0), (5, 0), (0, 0), (2, 0), (0, 9))

    def __init__(self) -> None:
        super().__init__(2, gym.spaces.Box(0, 255, (1, 4, 4), np.uint8), gym.spaces.Discrete(4))
        self.actions: list[list[int]] = []

    def infos(self) -> list[dict[str, Any]]:
        return [{"lives": lives} for lives in self.LIVES[self.t]]

    def dones(self) -> Any:
        return np.array([lives == 0 for lives in self.LIVES[self.t]])

    def observations(self) -> Any:
        return np.full((2, 1, 4, 4), self.t, dtype=np.uint8)

    def reset(self) -> Any:
        self.t = 0
        self.reset_infos = self.infos()
        return self.observations()

    def step_async(self, actions: Any) -> None:
        self.actions.append(actions.tolist())

    def step_wait(self) -> Any:
        self.t += 1
        dones = self.dones()
        infos = self.infos()
        for n in np.flatnonzero(dones):
            infos[n]["terminal_observation"] = self.observations()[n]
        return self.observations(), np.array(self.REWARDS[self.t], dtype=np.float32), dones, infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise AttributeError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise AttributeError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


def played(preprocessing: AtariPreprocessing, *, has_fire: bool = True) -> tuple[AtariVecEnv, Lives, list[Any]]:
    games = Lives()
    env = AtariVecEnv(VecMonitor(games), preprocessing, has_fire=has_fire)
    env.reset()
    return env, games, [env.step(np.array([2, 3])) for _ in range(6)]


def test_a_lost_life_ends_an_episode_and_a_bonus_life_does_not() -> None:
    """Environment 0 loses lives in steps 2 and 4 and the game in 5; 1 loses lives in 1, 4 and, after a bonus, in 6."""
    env, _, steps = played(AtariPreprocessing())
    dones = np.array([step[2] for step in steps])
    assert (np.flatnonzero(dones[:, 0]) + 1).tolist() == [2, 4, 5]
    assert (np.flatnonzero(dones[:, 1]) + 1).tolist() == [1, 4, 6]
    info = steps[1][3][0]
    assert info["terminal_observation"].tolist() == np.full((1, 4, 4), 2).tolist()
    assert info["TimeLimit.truncated"] is False
    assert env.env_is_wrapped(EpisodicLifeEnv) == env.env_is_wrapped(ClipRewardEnv) == [True, True]


def test_a_game_without_lives_that_goes_on_ends_once() -> None:
    """In Qbert, the last life is gone a few frames before the game is over."""

    class Qbert(Lives):
        LIVES = ((1, 1), (0, 1), (0, 1), (0, 1))  # type: ignore[assignment]

        def dones(self) -> Any:
            return np.array([self.t == 3, False])

    env = AtariVecEnv(VecMonitor(Qbert()), AtariPreprocessing(), has_fire=True)
    env.reset()
    assert [env.step(np.zeros(2, dtype=int))[2].tolist() for _ in range(3)] == [[False] * 2, [False] * 2, [True, False]]


def test_rewards_are_clipped_and_scores_are_not() -> None:
    """The score of environment 0 is 4 + 5 + 2, over the five steps of its game. A lost life has no score."""
    _, _, steps = played(AtariPreprocessing())
    assert np.array([step[1] for step in steps]).T.tolist() == [[1, 0, 1, 0, 1, 0], [-1, 0, 0, 0, 0, 1]]
    scores = [(t, info["episode"]["r"], info["episode"]["l"]) for t, s in enumerate(steps, 1) for info in s[3]
              if "episode" in info]  # fmt: skip
    assert scores == [(5, 11.0, 5)]


def test_the_first_action_of_a_life_is_fire() -> None:
    """After the lives that are lost in steps 1, 2 and 4; after a game, the reset presses FIRE itself."""
    assert played(AtariPreprocessing())[1].actions == [[2, 3], [2, 1], [1, 3], [2, 3], [1, 1], [2, 3]]
    assert played(AtariPreprocessing(), has_fire=False)[1].actions == [[2, 3]] * 6


def test_whole_games_and_unclipped_rewards() -> None:
    env, games, steps = played(AtariPreprocessing(terminal_on_life_loss=False, clip_reward=False))
    assert [step[2].tolist() for step in steps] == [[False, False]] * 4 + [[True, False], [False, False]]
    assert [step[1].tolist() for step in steps] == [list(rewards) for rewards in Lives.REWARDS[1:]]
    assert games.actions == [[2, 3]] * 6
    assert env.env_is_wrapped(EpisodicLifeEnv) == [False, False]


def test_an_evaluation_counts_games() -> None:
    class Still:
        def predict(self, observations: Any, *_: Any) -> Any:
            return np.zeros(len(observations), dtype=int), None

    games = Lives()
    games.LIVES = ((2, 2), (1, 2), (1, 1), (0, 1), (2, 0))  # type: ignore[assignment]
    games.REWARDS = ((0, 0), (3, 0), (0, 0), (4, 0), (0, 6))  # type: ignore[assignment]
    model: Any = Still()
    evaluation = evaluate(model, AtariVecEnv(VecMonitor(games), AtariPreprocessing(), has_fire=True), 2)
    assert (evaluation.returns, evaluation.lengths) == ((7.0, 6.0), (3, 4))


# ---------------------------------------------------------------- frames


def sb3(name: str, noops: int, *, gray: bool) -> Any:
    """Return a game with SB3's wrappers. gray: the game itself shows gray frames, which are then only resized."""
    env: Any = gym.make(name, frameskip=1, repeat_action_probability=0.0, obs_type="grayscale" if gray else "rgb")
    if noops:
        env = NoopResetEnv(env)
        env.override_num_noops = noops
    env = MaxAndSkipEnv(env, 4)
    if not gray:
        return WarpFrame(env)
    import cv2

    space = gym.spaces.Box(0, 255, (84, 84, 1), np.uint8)
    resized = {"func": lambda frame: cv2.resize(frame, (84, 84), interpolation=cv2.INTER_AREA)[:, :, None]}
    return gym.wrappers.TransformObservation(env, resized["func"], space)


@pytest.mark.parametrize("kind", ["ale", "envpool"])
@pytest.mark.parametrize(("game", "gray"), [("Breakout", False), ("Pong", True), ("Freeway", True)])
def test_frames_rewards_and_ends_are_those_of_sb3s_wrappers(kind: str, game: str, gray: bool) -> None:
    """Bit for bit. In games with other colours than Breakout's, the maximum of two frames is taken after they are gray.

    EnvPool makes at least one no-op.
    """
    configuration()
    if kind == "envpool":
        pytest.importorskip("envpool")
    name, preprocessing = f"ALE/{game}-v5", AtariPreprocessing(noop_max=1)
    ours, _ = make_atari(name, 1, FIXED, preprocessing, envpool=kind == "envpool")
    theirs = sb3(name, int(kind == "envpool"), gray=gray)
    ours.seed(3)
    observations: Any = ours.reset()
    np.testing.assert_array_equal(observations[0, 0], theirs.reset(seed=3)[0][..., 0])
    rng, ends = np.random.default_rng(1), 0
    for _ in range(250):
        action = int(rng.integers(0, theirs.action_space.n))
        observations, rewards, dones, _ = ours.step(np.array([action]))
        frame, reward, terminated, _, _ = theirs.step(action)
        assert (rewards[0], dones[0]) == (reward, terminated)
        if terminated:
            frame, ends = theirs.reset()[0], ends + 1
        np.testing.assert_array_equal(observations[0, 0], frame[..., 0])
    assert (ends > 0) == (game == "Breakout")
    ours.close()


def test_the_maximum_of_gray_frames_differs_little_in_pong() -> None:
    """SB3 takes the maximum of each colour. Finds another resize, another pair of frames, or no maximum."""
    configuration()
    ours, _ = make_atari("ALE/Pong-v5", 1, FIXED, AtariPreprocessing(noop_max=1), envpool=False)
    theirs = sb3("ALE/Pong-v5", 0, gray=False)
    ours.seed(3)
    ours.reset()
    theirs.reset(seed=3)
    differences = []
    for action in np.random.default_rng(1).integers(0, 6, 100):
        observations: Any = ours.step(np.array([action]))[0]
        frame = theirs.step(int(action))[0]
        differences.append(np.abs(observations[0, 0].astype(int) - frame[..., 0]))
    assert np.max(differences) <= 16
    assert 0 < np.mean(np.array(differences) > 0) < 0.01


@pytest.mark.parametrize("kind", ["vector", "envpool"])
def test_seeds_and_shapes(kind: str) -> None:
    """Each environment has its own seed. With 4 frames, the network sees what SB3's VecFrameStack gives it."""
    if kind == "envpool":
        pytest.importorskip("envpool")
    config = configuration(frame_stack=4)
    envs = [make_env(config, n_envs=2, seed=seed, vec_env=kind) for seed in (7, 7, 2**32 - 1)]
    first, same, _ = (env.reset() for env in envs)
    assert isinstance(first, np.ndarray)
    assert envs[0].observation_space == make_env(config, n_envs=2, seed=7).observation_space
    assert (first.shape, str(first.dtype)) == ((2, 4, 84, 84), "uint8")
    assert (first[:, :3] == 0).all()
    np.testing.assert_array_equal(first, same)
    frames = [np.stack([env.step(np.array([n % 6, 5 - n % 6]))[0] for n in range(40)]) for env in envs]  # type: ignore[misc]
    np.testing.assert_array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])
    assert not np.array_equal(frames[0][:, 0], frames[0][:, 1])
    np.testing.assert_array_equal(frames[0][1:, :, :3], frames[0][:-1, :, 1:])


def test_ales_autoreset_mode_is_not_that_of_other_classes() -> None:
    """ALE writes it into a dict that is shared by all vector environments of Gymnasium."""
    make_env(configuration(), n_envs=1, seed=0, vec_env="vector")
    assert VectorEnv.metadata == {}


def test_the_game_and_the_wrapper_do_not_both_skip_frames() -> None:
    """One step is four frames, where it was sixteen. RL Zoo's runs keep the sixteen frames with which they trained."""
    config = configuration()
    env = make_env(config, n_envs=1, seed=0)
    env.reset()
    ale = env.get_attr("ale")[0]
    before = ale.getFrameNumber()
    env.step(np.zeros(1, dtype=int))
    assert ale.getFrameNumber() - before == 4
    assert env.env_is_wrapped(AtariWrapper) == [True]


def test_a_run_of_rl_zoo_keeps_the_frames_of_its_game(tmp_path: Path) -> None:
    details = tmp_path / "ALE-Pong-v5"
    details.mkdir()
    (details / "args.yml").write_text("algo: ppo\nenv: ALE/Pong-v5\nseed: 1\n")
    (details / "config.yml").write_text(f"env_wrapper: [{WRAPPER}]\nn_timesteps: 100.0\npolicy: CnnPolicy\n")
    config = read_config(RunFolder(tmp_path, "ALE-Pong-v5"), Registry.discover())
    assert config.run.env_kwargs == {"frameskip": 4}


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    """The command of the documentation, with short games. The name needs no --gym-packages."""
    configuration()
    result = pgzoo("train", "--plugin", "ppo", "--env", "ALE/Pong-v5", "--vec-env", "vector", "-n", "256", "-P",
                   "n_envs:2", "-P", "n_steps:64", "-P", "batch_size:64", "--env-kwargs",
                   "max_num_frames_per_episode:200", "--eval-freq", "-1", "--eval-episodes", "1", "--no-progress",
                   "--device", "cpu", "--seed", "0", cwd=tmp_path)  # fmt: skip
    assert "final model" in result.stdout
    (monitor,) = tmp_path.rglob("0.monitor.csv")
    lengths = [int(line.split(",")[1]) for line in monitor.read_text().splitlines()[2:]]
    assert lengths == [50] * 4


def test_what_vector_environments_cannot_do_is_refused() -> None:
    other = "gymnasium.wrappers.FlattenObservation"
    with pytest.raises(ConfigError, match=r"env_wrapper cannot wrap \(FlattenObservation\)"):
        make_env(configuration(env_wrapper=[WRAPPER, other]), n_envs=1, seed=0, vec_env="vector")
    config = configuration(env_wrapper={WRAPPER: {"action_repeat_probability": 0.1}})
    with pytest.raises(ConfigError, match="use --env-kwargs repeat_action_probability:P"):
        make_env(config, n_envs=1, seed=0, vec_env="vector")
    with pytest.raises(ConfigError, match="unknown argument of AtariWrapper 'noop'; did you mean 'noop_max'"):
        make_env(configuration(env_wrapper={WRAPPER: {"noop": 1}}), n_envs=1, seed=0, vec_env="vector")
    with pytest.raises(ConfigError, match="cannot make ALE/Pong-v5"):
        make_env(configuration(env_kwargs={"colour": 1}), n_envs=1, seed=0, vec_env="vector")
