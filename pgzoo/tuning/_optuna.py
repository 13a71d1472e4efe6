"""Optuna's private names and experimental parts, each with its reason. No other module uses its private names."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import optuna
from optuna.storages import BaseStorage, fail_stale_trials

# Optuna does not export the base class of storages with a heartbeat.
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState

CONSTRAINTS = _CONSTRAINTS_KEY
"""System attribute of a trial: its constraints. Optuna's figures draw a trial with a positive one in grey."""


def storage_of(study: optuna.Study) -> BaseStorage:
    """Return the storage object of a study.

    `Study` has no public accessor, and opening the storage again by its URL would need another connection.
    """
    return study._storage


def start_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial | None:
    """Set a waiting trial to RUNNING and return it, or return None if another worker took it first.

    `Study.ask` starts any waiting trial, or creates one. Here it must be this trial. The storage does this as a
    compare-and-set, and addresses the trial by its private id. The first heartbeat is recorded before, because Optuna
    never detects the death of a worker whose running trial does not have one. Waiting trials may have one.
    """
    storage = study._storage
    try:
        if isinstance(storage, BaseHeartbeat):  # every storage that pgzoo opens
            storage.record_heartbeat(trial._trial_id)
        if not storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
            return None
    except optuna.exceptions.UpdateFinishedTrialError:
        return None
    return optuna.Trial(study, trial._trial_id)


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Return a running trial of another process as one that can be changed."""
    return optuna.Trial(study, trial._trial_id)


def record_heartbeat(study: optuna.Study, trial: optuna.Trial) -> None:
    """Record that a trial's worker is alive.

    Optuna's own heartbeat thread runs only inside `Study.optimize`, and ends at the first error of the storage.
    """
    storage = study._storage
    if isinstance(storage, BaseHeartbeat):
        storage.record_heartbeat(trial._trial_id)


def fail_stale(study: optuna.Study) -> None:
    """Fail the trials whose heartbeat stopped, and queue them again."""
    with experimental_allowed():
        fail_stale_trials(study)


def retry_history(trial: FrozenTrial) -> list[int]:
    """Return the numbers of the lost trials that this one repeats.

    The public `RetryHeartbeatStaleTrialCallback.retry_history` is experimental and warns at every call.
    """
    return list(trial.system_attrs.get("retry_history", []))


@contextmanager
def experimental_allowed() -> Iterator[None]:
    """Ignore Optuna's warnings that an interface is experimental: pgzoo pins Optuna's major version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
