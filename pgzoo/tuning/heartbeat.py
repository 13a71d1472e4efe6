"""Heartbeats: how a running trial shows that its worker is alive, and how the trials of dead workers are found."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState

from pgzoo.tuning._optuna import LEASE, fail_stale, has_heartbeat, record_heartbeat
from pgzoo.tuning.storage import GRACE
from pgzoo.tuning.trial_queue import LOST, attempts_by_key, fail_lost, is_lost, requeue, retries_exhausted


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
    count = 0
    while not stop.is_set():
        try:
            record_heartbeat(study, trial, count)
        except optuna.exceptions.UpdateFinishedTrialError:
            return
        except Exception as error:  # the next heartbeat may succeed; after GRACE failures the trial is run again
            warnings.warn(f"cannot record a heartbeat: {error}", stacklevel=1)
        count += 1
        stop.wait(interval)


class DeadWorkerDetector:
    """Finds the running trials whose workers stopped their heartbeats, fails them, and queues them again.

    Optuna does this for storages with a heartbeat. Elsewhere a worker increases a counter, its lease. The worker is
    considered dead if the lease does not change for GRACE heartbeats. This process measures that time with its own
    clock, so the clocks of two machines need not agree.
    """

    def __init__(self, interval: int) -> None:
        self._grace = GRACE * interval
        self._seen: dict[int, tuple[Any, float]] = {}
        """By trial number: the last lease, and when it was first seen."""

    def __call__(self, study: optuna.Study) -> None:
        """Look for dead workers once; call it repeatedly with the same study."""
        self._requeue_orphans(study)
        if has_heartbeat(study):
            fail_stale(study)
            return
        now = time.monotonic()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = trial.system_attrs.get(LEASE)
            last_lease, since = self._seen.get(trial.number, (None, now))
            if trial.number not in self._seen or lease != last_lease:
                self._seen[trial.number] = (lease, now)
            elif now - since > self._grace:
                fail_lost(study, trial)

    def _requeue_orphans(self, study: optuna.Study) -> None:
        """Queue the lost trials that another process failed, if it died before it queued them again."""
        now = time.monotonic()
        for attempts in attempts_by_key(study).values():
            if all(is_lost(trial) for trial in attempts) and not retries_exhausted(attempts):
                _, since = self._seen.setdefault(attempts[-1].number, (LOST, now))
                if now - since > self._grace:
                    requeue(study, attempts[-1])
