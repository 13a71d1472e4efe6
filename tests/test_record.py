"""`pgzoo record`: what the frames show, which models are chosen, and the files."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from command import pgzoo
from PIL import Image
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo import ConfigError
from pgzoo.export import replay
from pgzoo.export.replay import frames, write_video
from pgzoo.training.run_folder import RunFolder

RUN = "logs/a2c/CartPole-v1_1"


class Counting(gym.Env[Any, Any]):
    """Episodes of three steps. An image has the number of the episode and the step in its first two pixels."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-10, 10, (1,))
        self.action_space = gym.spaces.Discrete(2)
        self.episode, self.t = 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.episode, self.t = self.episode + 1, 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(1, dtype=np.float32), 0.0, self.t == 3, False, {}

    def render(self) -> Any:
        image = np.zeros((5, 7, 3), dtype=np.uint8)
        image[0, :2, 0] = self.episode, self.t
        return image


def run_of(make: Any = Counting) -> Any:
    """Return a stand-in for an opened run, whose policy always takes action 0."""
    model = SimpleNamespace(predict=lambda *_, **__: (np.zeros(1, dtype=int), None), num_timesteps=1234)
    config = SimpleNamespace(
        env="Counting-v0", deterministic=lambda _: True, combination=SimpleNamespace(episode_bound=20)
    )
    return SimpleNamespace(model=model, env=DummyVecEnv([lambda: Monitor(make())]), config=config)


def shown(**kwargs: Any) -> list[tuple[int, int]]:
    """Return the episode and step of each image."""
    return [tuple(image[0, :2, 0].tolist()) for image in frames(run_of(), **kwargs)]


def test_every_observation_is_shown_also_the_last_one_of_an_episode() -> None:
    """DummyVecEnv resets in the same step, so its own render never shows the last observation."""
    first, second = [(1, t) for t in range(4)], [(2, t) for t in range(4)]
    assert shown() == first
    assert shown(n_episodes=2) == [*first, *second]
    assert shown(n_steps=2) == first[:3]
    assert shown(n_steps=3) == first
    assert shown(n_steps=5) == [*first, *second[:3]]
    assert shown(n_steps=100, n_episodes=1) == first


def test_an_episode_that_does_not_end_is_refused() -> None:
    class Endless(Counting):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return observation, reward, False, False, {}

    with pytest.raises(ConfigError, match="an episode has not ended after 20 steps; record a number of steps with -n"):
        list(frames(run_of(Endless), n_episodes=1))


def test_an_environment_without_images_is_refused() -> None:
    class Text(Counting):
        def render(self) -> Any:
            return "text"

    with pytest.raises(ConfigError, match="the environment does not render images, but str"):
        list(frames(run_of(Text)))


def test_a_gif_has_the_frames_and_their_time(tmp_path: Path) -> None:
    """At 50 frames per second, each of them takes 20 milliseconds. GIF has no shorter times in all viewers."""
    images = [np.full((6, 8, 3), value, dtype=np.uint8) for value in (0, 80, 160, 240)]
    for fps, milliseconds in ((50, 20), (10, 100), (200, 20)):
        write_video(iter(images), tmp_path / "a.gif", fps)
        with Image.open(tmp_path / "a.gif") as video:
            assert (video.n_frames, video.size, video.info["duration"]) == (4, (8, 6), milliseconds)  # type: ignore[attr-defined]
            video.seek(2)
            assert np.asarray(video.convert("RGB"))[0, 0].tolist() == [160, 160, 160]


def test_a_video_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "a.gif"
    file.write_bytes(b"old")

    def failing() -> Any:
        yield np.zeros((4, 4, 3), dtype=np.uint8)
        raise ConfigError("no more")

    with pytest.raises(ConfigError, match="no more"):
        write_video(failing(), file, 10)
    assert file.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_checkpoints_are_side_by_side_and_keep_their_last_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two models play 1 and 3 steps: the left half of the video stands still after its end."""

    class Longer(Counting):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return observation, reward, self.t == 6, False, {}

        def render(self) -> Any:
            return np.full((8, 8, 3), 40 * self.t, dtype=np.uint8)

    class Short(Longer):
        def step(self, action: Any) -> Any:
            observation, reward, *_ = super().step(action)
            return observation, reward, self.t == 2, False, {}

    runs = [run_of(Short), run_of(Longer)]
    played = [frames(run, n_episodes=1) for run in runs]
    images = list(replay._side_by_side(played, ["10 steps", "20 steps"]))
    width = replay.PANEL_WIDTH
    assert len(images) == 7
    assert images[0].shape == (replay.CAPTION_HEIGHT + width, 2 * width, 3)
    middle = replay.CAPTION_HEIGHT + width // 2
    assert [int(image[middle, width // 2, 0]) for image in images] == [0, 40, 80, 80, 80, 80, 80]
    assert [int(image[middle, 3 * width // 2, 0]) for image in images] == [0, 40, 80, 120, 160, 200, 240]
    left, right = (images[0][: replay.CAPTION_HEIGHT, part * width : (part + 1) * width] for part in (0, 1))
    assert (left < 100).any()
    assert not np.array_equal(left, right)


def test_which_checkpoints_are_shown(tmp_path: Path) -> None:
    """The first, the final model, and two between them; not the best one."""
    folder = RunFolder(tmp_path, "CartPole-v1")
    with pytest.raises(ConfigError, match="has no checkpoints to compare; train with --save-freq N"):
        replay._spread(folder)
    for steps in (100, 200, 300, 400, 500, 1000):
        (tmp_path / f"rl_model_{steps}_steps.zip").touch()
    folder.best_model.touch()
    folder.model.touch()
    names = [path.name for path in replay._spread(folder)]
    assert names == ["rl_model_100_steps.zip", "rl_model_300_steps.zip", "rl_model_500_steps.zip", "CartPole-v1.zip"]


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("pygame")
    folder = tmp_path_factory.mktemp("record")
    pgzoo("train", "--plugin", "a2c", "--seed", "0", "-n", "200", "-P", "n_envs:2", "--eval-freq", "-1", "--save-freq",
          "100", "--eval-episodes", "1", "--no-progress", "--device", "cpu", cwd=folder)  # fmt: skip
    return folder


def test_the_command_writes_videos(logs: Path) -> None:
    result = pgzoo("record", RUN, "-n", "12", "-o", "one.gif", cwd=logs)
    assert result.stdout == f"one.gif shows {RUN}/CartPole-v1.zip\n"
    with Image.open(logs / "one.gif") as video:
        assert video.size == (600, 400)
        assert video.n_frames > 5  # type: ignore[attr-defined]  # equal images are one
    result = pgzoo("record", "--plugin", "a2c", "-n", "5", "--checkpoints", "-o", "all.gif", cwd=logs)
    assert result.stdout == "all.gif shows rl_model_100_steps.zip, rl_model_200_steps.zip, CartPole-v1.zip\n"
    with Image.open(logs / "all.gif") as video:
        assert video.size == (960, 241)
    result = pgzoo("record", RUN, "--load-checkpoint", "100", "-n", "3", "-o", "c.gif", cwd=logs)
    assert "rl_model_100_steps.zip" in result.stdout


def test_mp4_by_imageio(logs: Path) -> None:
    imageio = pytest.importorskip("imageio")
    pytest.importorskip("imageio_ffmpeg")
    (logs / "videos").mkdir(exist_ok=True)
    result = pgzoo("record", RUN, "-n", "6", "--fps", "10", "-o", "videos", cwd=logs)
    assert result.stdout.startswith("videos/a2c-CartPole-v1.mp4 shows")
    reader = imageio.get_reader(logs / "videos" / "a2c-CartPole-v1.mp4")
    assert reader.count_frames() == 7
    assert reader.get_meta_data()["fps"] == 10
    assert reader.get_meta_data()["size"] == (600, 400)


def test_what_cannot_be_recorded_is_refused(logs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = pgzoo("record", RUN, "-o", "a.avi", cwd=logs, status=2).stderr
    assert "a video is a .mp4 or .gif file, not a.avi" in stderr
    assert "no run of ppo on CartPole-v1" in pgzoo("record", cwd=logs, status=2).stderr
    monkeypatch.setattr(replay, "has_ffmpeg", lambda: False)
    stderr = pgzoo("record", RUN, "-o", "a.mp4", cwd=logs, status=2).stderr
    assert "a.mp4 needs imageio and FFmpeg: pip install 'pgzoo[video]'; or name a .gif file" in stderr
    assert pgzoo("record", RUN, "-n", "2", cwd=logs).stdout.startswith("a2c-CartPole-v1.gif shows")


def test_mujoco_renders_without_a_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for display, chosen, expected in (("", None, "egl"), ("", "osmesa", "osmesa"), (":0", None, None)):
        monkeypatch.setenv("DISPLAY", display)
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        monkeypatch.setenv("MUJOCO_GL", chosen) if chosen else monkeypatch.delenv("MUJOCO_GL", raising=False)
        replay.render_offscreen()
        assert os.environ.get("MUJOCO_GL") == expected
