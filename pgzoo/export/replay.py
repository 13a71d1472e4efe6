"""A video of one episode."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from pgzoo.errors import ConfigError, converted
from pgzoo.training.finished_runs import FinishedRun

MAX_FRAMES = 1000
"""A longer episode is cut, so that the video stays small."""

FPS = 30
"""Frames per second, if the environment does not say how many."""


def record(run: FinishedRun, file: Path) -> None:
    """Play one episode with the most likely actions, and write an MP4 video of it.

    Args:
        run: a run that was opened with one environment and `render_mode="rgb_array"`.
        file: the video.

    Raises:
        ConfigError: a package is missing, or the environment does not render.
    """
    if missing := [name for name in ("imageio", "imageio_ffmpeg") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"a video needs {' and '.join(missing)}; run: pip install 'pgzoo[hub]'")
    import imageio

    metadata: Any = getattr(run.env.unwrapped, "metadata", None) or {}
    with converted("cannot record a video"):
        fps = metadata.get("render_fps") or FPS
        writer: Any = imageio.get_writer(file, fps=fps, format="FFMPEG", macro_block_size=2)
        with writer:
            observations, dones = run.env.reset(), np.zeros(1, dtype=bool)
            for _ in range(MAX_FRAMES):
                writer.append_data(np.asarray(run.env.render(), dtype=np.uint8))
                if dones[0]:
                    break
                actions, _ = run.model.predict(observations, deterministic=True)
                observations, _, dones, _ = run.env.step(actions)
