"""Videos of agents: of one, or of several checkpoints side by side. Nothing is shown on a screen."""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo.errors import ConfigError, converted
from pgzoo.files import atomic_write
from pgzoo.interface.types import Array
from pgzoo.training.config import is_atari
from pgzoo.training.finished_runs import FinishedRun, Open, RunArguments
from pgzoo.training.run_folder import RunFolder

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FRAMES = 1000
"""The steps after which a video ends, unless a length is requested, so that it stays small."""
FPS = 30
"""Frames per second, if the environment does not say how many."""
ATARI_FPS = 15
"""A game has 60 frames per second, and a step has four of them."""
SUFFIXES = (".mp4", ".gif")
MAX_PANELS = 4
"""The most checkpoints that are shown side by side."""
PANEL_WIDTH = 320
"""The width in pixels to which a checkpoint's frames are scaled."""
CAPTION_HEIGHT = 28
CAPTION_COLOUR, LINE_COLOUR = "#e8e8e8", "#808080"


def record(
    run: FinishedRun,
    file: Path,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    stochastic: bool | None = None,
    fps: float | None = None,
) -> None:
    """Play, and write a video: MP4 by imageio, or GIF by Pillow. It replaces an existing file when it is complete.

    Args:
        run: a run that was opened with one environment and `render_mode="rgb_array"`.
        file: the video, .mp4 or .gif.
        n_steps: the number of steps; None: no limit.
        n_episodes: the number of episodes; None: no limit, or one of at most MAX_FRAMES steps without `n_steps`.
        stochastic: whether to sample actions; None: on Atari games and MiniGrid.
        fps: frames per second; None: those of the environment.

    Raises:
        ConfigError: a package is missing, or the environment does not render.
    """
    check_video(file)
    with converted("cannot record a video"):
        shown = frames(run, n_steps=n_steps, n_episodes=n_episodes, stochastic=stochastic)
        write_video(shown, file, fps or _fps(run))


def record_checkpoints(
    arguments: RunArguments,
    folder: RunFolder,
    file: Path,
    *,
    opened: Open,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    fps: float | None = None,
) -> list[Path]:
    """Play checkpoints of a run with the same seed, and write a video of them side by side, with their steps.

    The final model is the last one. A checkpoint whose episodes are over keeps its last frame.

    Args:
        arguments: how to open the run.
        folder: the run.
        file: the video, .mp4 or .gif.
        opened: opens a run.
        n_steps: as in `record`.
        n_episodes: as in `record`.
        fps: as in `record`.

    Returns:
        The models in the video.

    Raises:
        ConfigError: the run has no checkpoints, a package is missing, or the environment does not render.
    """
    check_video(file)
    models = _spread(folder)
    with ExitStack() as stack, converted("cannot record a video"):
        runs = [
            stack.enter_context(
                opened(
                    replace(arguments, path=model, load_best=False, load_checkpoint=None, load_last_checkpoint=False),
                    n_envs=1,
                    render_mode="rgb_array",
                )
            )
            for model in models
        ]
        played = [frames(run, n_steps=n_steps, n_episodes=n_episodes, stochastic=arguments.stochastic) for run in runs]
        captions = [f"{run.model.num_timesteps:,} steps" for run in runs]
        write_video(_side_by_side(played, captions), file, fps or _fps(runs[0]))
    return models


def check_video(file: Path) -> None:
    """Raise ConfigError if a video of this name cannot be written."""
    if file.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a video is a .mp4 or .gif file, not {file}")
    if file.suffix.lower() == ".mp4" and not has_ffmpeg():
        raise ConfigError(f"{file.name} needs imageio and FFmpeg: pip install 'pgzoo[video]'; or name a .gif file")


def has_ffmpeg() -> bool:
    """Whether MP4 can be written."""
    return all(importlib.util.find_spec(name) is not None for name in ("imageio", "imageio_ffmpeg"))


def render_offscreen() -> None:
    """Let MuJoCo render without a screen, if there is none, before it is imported. MUJOCO_GL has precedence."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        os.environ.setdefault("MUJOCO_GL", "egl")


def frames(
    run: FinishedRun, *, n_steps: int | None = None, n_episodes: int | None = None, stochastic: bool | None = None
) -> Iterator[Array]:
    """Play with a run's model and yield the images (H, W, 3) of each episode, from its first to its last observation.

    Raises:
        ConfigError: the environment returns no images, or an episode does not end.
    """
    if n_steps is None and n_episodes is None:
        n_steps, n_episodes = MAX_FRAMES, 1
    venv: Any = run.env.unwrapped
    assert isinstance(venv, DummyVecEnv)
    camera = venv.envs[0] = _Camera(venv.envs[0])
    has_lives = run.env.env_is_wrapped(EpisodicLifeEnv)[0]
    observations, states, starts = run.env.reset(), None, np.ones(1, dtype=bool)
    yield from camera.take()
    step, length, n_ended, deterministic = 0, 0, 0, run.config.deterministic(stochastic)
    while n_steps is None or step < n_steps:
        actions, states = run.model.predict(observations, states, starts, deterministic=deterministic)
        observations, _, starts, infos = run.env.step(actions)
        step, length = step + 1, length + 1
        images = camera.take()
        if starts[0] and (not has_lives or "episode" in infos[0]):
            n_ended, length = n_ended + 1, 0
        if n_ended == n_episodes or step == n_steps:
            yield images[0]  # and not the first image of the next episode
            return
        yield from images
        if n_steps is None and length >= run.config.combination.episode_bound:
            raise ConfigError(f"an episode has not ended after {length} steps; record a number of steps with -n")


def write_video(images: Iterable[Array], file: Path, fps: float) -> None:
    """Write images (H, W, 3) as MP4 or GIF."""
    with atomic_write(file) as partial:
        if file.suffix.lower() == ".gif":
            from PIL import Image

            pictures = (Image.fromarray(image) for image in images)
            first = next(pictures)
            first.save(partial, save_all=True, append_images=pictures, duration=max(round(100 / fps), 2) * 10, loop=0)
            return
        import imageio

        writer: Any = imageio.get_writer(partial, fps=fps, format="FFMPEG", macro_block_size=2)
        with writer:
            for image in images:
                height, width = image.shape[:2]
                writer.append_data(image[: height // 2 * 2, : width // 2 * 2])  # H.264 needs even numbers


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Renders the environment after each reset and step: DummyVecEnv resets before anyone sees the last image."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._images: list[Array] = []

    def reset(self, **kwargs: Any) -> Any:
        result = self.env.reset(**kwargs)
        self._render()
        return result

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self._render()
        return result

    def take(self) -> list[Array]:
        """Return the images since the last call."""
        images, self._images = self._images, []
        return images

    def _render(self) -> None:
        image: Any = self.env.render()
        if not isinstance(image, np.ndarray) or image.ndim != 3:
            raise ConfigError(f"the environment does not render images, but {type(image).__name__}")
        self._images.append(np.asarray(image[..., :3], dtype=np.uint8))


def _fps(run: FinishedRun) -> float:
    """Return the frames per second of the environment's own time."""
    metadata: Any = getattr(run.env.unwrapped, "metadata", None) or {}
    return ATARI_FPS if is_atari(run.config.env) else float(metadata.get("render_fps") or FPS)


def _spread(folder: RunFolder) -> list[Path]:
    """Return at most MAX_PANELS models of a run, from the first checkpoint to the final model, evenly spread.

    Raises:
        ConfigError: there is at most one model.
    """
    saved = [path for path in (*folder.other_models(), folder.model) if path != folder.best_model and path.is_file()]
    if len(saved) < 2:
        raise ConfigError(f"{folder.path} has no checkpoints to compare; train with --save-freq N to save some")
    chosen = np.unique(np.linspace(0, len(saved) - 1, MAX_PANELS).round().astype(int))
    return [saved[i] for i in chosen]


def _side_by_side(played: Sequence[Iterator[Array]], captions: Sequence[str]) -> Iterator[Array]:
    """Yield images of several players in one row, with captions, until all have ended."""
    last: list[Image | None] = [None] * len(played)
    for images in itertools.zip_longest(*played):
        last = [
            before if image is None else _panel(image, caption)
            for image, caption, before in zip(images, captions, last, strict=True)
        ]
        yield np.concatenate([np.asarray(panel) for panel in last], axis=1)


def _panel(image: Array, caption: str) -> Image:
    """Return a scaled image with a caption above it."""
    from PIL import Image, ImageDraw, ImageFont

    height = round(image.shape[0] * PANEL_WIDTH / image.shape[1])
    panel = Image.new("RGB", (PANEL_WIDTH, height + CAPTION_HEIGHT), CAPTION_COLOUR)
    panel.paste(Image.fromarray(image).resize((PANEL_WIDTH, height)), (0, CAPTION_HEIGHT))
    draw = ImageDraw.Draw(panel)
    draw.line([(0, 0), (0, panel.height)], fill=LINE_COLOUR, width=3)
    font = ImageFont.load_default(size=16)
    draw.text((PANEL_WIDTH / 2, CAPTION_HEIGHT / 2), caption, fill="black", font=font, anchor="mm")
    return panel
