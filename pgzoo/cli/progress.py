"""Progress bars: one for training, with speed, mean return and remaining time, and a plain counter."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from stable_baselines3.common.callbacks import BaseCallback

from pgzoo.formatting import format_number

REFRESH_SECONDS = 0.2

Self = TypeVar("Self", bound="_Bar")


class _Bar:
    """A context that shows one progress bar; `columns` are shown to the left of the remaining time."""

    def __init__(self, label: str, *columns: ProgressColumn, total: int | None, shown: bool, **fields: Any) -> None:
        self._bar = RichProgress(
            TextColumn(label), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn(), disable=not shown
        )
        self._task = self._bar.add_task(label, total=total, **fields)

    def __enter__(self: Self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Progress(_Bar):
    """The progress bar of training.

    Attributes:
        callback: the SB3 callback that updates the bar.
    """

    def __init__(self, total: int, *, shown: bool) -> None:
        speed = TextColumn("{task.fields[speed]} steps/s, mean return {task.fields[mean]}")
        super().__init__("training", speed, total=total, shown=shown, speed="–", mean="–")
        self.callback = _ShowProgress(self)

    def show(self, steps: int, speed: float, mean: float) -> None:
        """Update the bar."""
        self._bar.update(self._task, completed=steps, speed=format_number(speed), mean=format_number(mean))


class _ShowProgress(BaseCallback):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._last_shown = 0.0

    def _on_training_start(self) -> None:
        self._start_time, self._first_timestep = time.monotonic(), self.model.num_timesteps

    def _on_step(self) -> bool:
        if time.monotonic() - self._last_shown > REFRESH_SECONDS:
            self._show()
        return True

    def _on_training_end(self) -> None:
        self._show()

    def _show(self) -> None:
        self._last_shown = time.monotonic()
        speed = (self.num_timesteps - self._first_timestep) / max(self._last_shown - self._start_time, 1e-9)
        returns = [episode["r"] for episode in self.model.ep_info_buffer or []]
        self._progress.show(self.num_timesteps, speed, float(np.mean(returns)) if returns else float("nan"))


class Counter(_Bar):
    """A progress bar that counts to a total, which `show` sets."""

    def __init__(self, label: str, *, shown: bool) -> None:
        super().__init__(label, total=None, shown=shown)

    def show(self, done: int, total: int) -> None:
        """Update the bar."""
        self._bar.update(self._task, completed=done, total=total)
