"""Heartbeats: how a running trial shows that its worker is alive, and how the trials of dead workers are found."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna

from pgzoo.tuning._optuna import fail_stale, record_heartbeat
from pgzoo.tuning.storage import GRACE
from pgzoo.tuning.trial_queue import attempts_by_key, is_lost, requeue, retries_exhausted


@contextmanager
def heartbeat(study: optuna.Study, trial: optuna.Trial, interval: int) -> Iterator[None]:
    """Record a heartbeat for the trial every `interval` seconds while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(study, trial, interval, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _beat(study: optuna.Study, trial: optuna.Trial, interval: int, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            record_heartbeat(study, trial)
        except optuna.exceptions.UpdateFinishedTrialError:
            return
        except Exception as error:  # the next heartbeat may succeed; after GRACE failures the trial is run again
            warnings.warn(f"cannot record a heartbeat: {error}", stacklevel=1)
        stop.wait(interval)


class DeadWorkerDetector:
    """Finds the running trials whose workers stopped their heartbeats, fails them, and queues them again."""

    def __init__(self, interval: int) -> None:
        self._grace = GRACE * interval
        self._seen: dict[int, float] = {}
        """By number of a lost trial: when this process first saw it without a repetition."""

    def __call__(self, study: optuna.Study) -> None:
        """Look for dead workers once; call it repeatedly with the same study.

        A trial that another process failed is also queued again if that process died before it did so itself.
        """
        now = time.monotonic()
        for attempts in attempts_by_key(study).values():
            if retries_exhausted(attempts) or not all(is_lost(trial) for trial in attempts):
                continue
            if now - self._seen.setdefault(attempts[-1].number, now) > self._grace:
                requeue(study, attempts[-1])
        fail_stale(study)
