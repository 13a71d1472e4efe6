"""Whether a run is training, finished, or ended early, told from its folder."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pgzoo.training.run_folder import RunFolder, finished_steps, saved_steps

RUNNING, FINISHED, STOPPED, RESUMABLE, KILLED = "running", "finished", "stopped", "resumable", "killed"

SILENT_SECONDS = 120
"""A run without a lock whose logs did not change for so long is not running any more."""
LOGS = ("*monitor.csv", "evaluations.npz", "progress.csv")


def run_state(folder: RunFolder, n_timesteps: int | None = None, model_steps: int | None = None) -> str:
    """Return the state of a run.

    `running`, `finished`, `stopped` (ended before its last step, and its model is saved), `resumable` (ended early, and
    `pgzoo train --resume` continues it) or `killed` (ended early without a final model).

    A run with --checkpoint-every locks its folder. Another run is running if it has no final model yet and its logs
    changed in the last two minutes.

    Args:
        folder: the run.
        n_timesteps: the steps that it should make; None: not known.
        model_steps: the steps of its final model; None: not known.
    """
    if is_locked(folder):
        return RUNNING
    if finished_steps(folder) is not None:
        return FINISHED
    if saved_steps(folder):
        return RESUMABLE
    if folder.model.is_file():
        early = n_timesteps is not None and model_steps is not None and model_steps < n_timesteps
        return STOPPED if early else FINISHED
    return RUNNING if seconds_since_change(folder.path) < SILENT_SECONDS else KILLED


def seconds_since_change(folder: Path) -> float:
    """Return for how long the logs in a folder have not changed; infinity if there are none."""
    times = [file.stat().st_mtime for pattern in LOGS for file in folder.glob(pattern)]
    return time.time() - max(times, default=-float("inf"))


def is_locked(folder: RunFolder) -> bool:
    """Whether a process trains in a folder with --checkpoint-every. It is always False on Windows."""
    try:
        import fcntl

        descriptor = os.open(folder.checkpoints / "lock", os.O_RDONLY | os.O_NONBLOCK)  # a FIFO would wait
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)  # this also unlocks
    return False
