"""The progress bar of training: steps, speed, mean return, time left."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from stable_baselines3.common.callbacks import BaseCallback

REFRESH_SECONDS = 0.2


Self = TypeVar("Self", bound="_Bar")


class _Bar:
    """A context with a bar of one task; `columns` stand before the time left."""

    def __init__(self, what: str, *columns: ProgressColumn, total: int | None, shown: bool, **fields: Any) -> None:
        self._bar = RichProgress(
            TextColumn(what), BarColumn(), MofNCompleteColumn(), *columns, TimeRemainingColumn(), disable=not shown
        )
        self._task = self._bar.add_task(what, total=total, **fields)

    def __enter__(self: Self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Progress(_Bar):
    """The bar of a training, and the callback that moves it."""

    def __init__(self, total: int, *, shown: bool) -> None:
        speed = TextColumn("{task.fields[speed]} steps/s, mean return {task.fields[mean]}")
        super().__init__("training", speed, total=total, shown=shown, speed="–", mean="–")
        self.callback = _Advance(self)

    def show(self, steps: int, speed: float, mean: float) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=steps, speed=f"{speed:,.0f}", mean=f"{mean:.1f}")


class _Advance(BaseCallback):
    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress
        self._shown = 0.0

    def _on_training_start(self) -> None:
        self._began, self._first = time.monotonic(), self.model.num_timesteps

    def _on_step(self) -> bool:
        if time.monotonic() - self._shown > REFRESH_SECONDS:
            self._show()
        return True

    def _on_training_end(self) -> None:
        self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        speed = (self.num_timesteps - self._first) / max(self._shown - self._began, 1e-9)
        episodes = [episode["r"] for episode in self.model.ep_info_buffer or []]
        self._progress.show(self.num_timesteps, speed, float(np.mean(episodes)) if episodes else float("nan"))


class Counter(_Bar):
    """A bar that counts things."""

    def __init__(self, what: str, *, shown: bool) -> None:
        super().__init__(what, total=None, shown=shown)

    def show(self, done: int, total: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=done, total=total)
