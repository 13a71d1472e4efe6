"""A worker takes planned trials of a study, trains them and reports how they ended, until none is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import register_packages
from pgzoo.tuning.config import StudyConfig
from pgzoo.tuning.heartbeat import DeadWorkerDetector, heartbeat
from pgzoo.tuning.objectives import Objective, RetrainObjective, SearchObjective
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import retrained_name
from pgzoo.tuning.trial import Diverged
from pgzoo.tuning.trial_queue import LOST, OUTCOME, PlannedTrials, claim, requeue_interrupted, unfinished

POLL_SECONDS = 1.0


class Interrupted(Exception):
    """The worker was asked to stop."""


@dataclass(frozen=True)
class Job:
    """What a worker does: plain data, which can be sent to another process or machine.

    Attributes:
        study_config: the study.
        storage: the URL or file of the storage.
        heartbeat: seconds between two heartbeats.
        planned: the planned trials.
        folder: where checkpoints are saved.
        retrain: whether the planned trials belong to the study that trains the best trials again.
        deadline: the time, in seconds since the epoch, after which no further trial begins.
        parent_pid: the process whose end also ends the worker; None if it may be on another machine.
    """

    study_config: StudyConfig
    storage: str
    heartbeat: int
    planned: PlannedTrials
    folder: Path
    retrain: bool = False
    deadline: float | None = None
    parent_pid: int | None = None


class Slots(Protocol):
    """Counts how many trials the workers of one command may still begin: a semaphore."""

    def acquire(self, block: bool = ..., /) -> bool:
        """Take a slot and return True, or return False if none is free."""

    def release(self) -> None:
        """Return a slot."""


def work(job: Job, slots: Slots | None = None) -> None:
    """Run trials until all planned ones have ended. Repeat those whose workers died.

    Args:
        job: what to do.
        slots: the trials that this command may still begin; None: no limit.
    """
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stop = _StopRequest(job.parent_pid)
    register_packages(job.study_config.gym_packages)
    registry = Registry.discover(job.study_config.plugin_files)
    study = _load_study(job)
    make_objective = RetrainObjective if job.retrain else SearchObjective
    folder = job.folder / ("retrained" if job.retrain else "trials")
    objective: Objective = make_objective(job.study_config, job.planned, registry, folder, stop.check)
    find_dead_workers = DeadWorkerDetector(job.heartbeat)
    while not stop.requested:
        find_dead_workers(study)
        if job.deadline is not None and time.time() > job.deadline:
            return
        if slots is not None and not slots.acquire(False):
            return
        trial = claim(study, job.planned, job.study_config.make_sampler)
        if trial is not None:
            _run(study, trial, objective, job)
            continue
        if slots is not None:
            slots.release()
        if not unfinished(study, job.planned):
            return
        time.sleep(POLL_SECONDS)


def _load_study(job: Job) -> optuna.Study:
    name = job.study_config.name
    return optuna.load_study(
        study_name=retrained_name(name) if job.retrain else name,
        storage=open_storage(job.storage, job.heartbeat),
        pruner=job.study_config.make_pruner(),
    )


class _StopRequest:
    """Records whether the worker must stop: after SIGTERM, or when its parent process is gone."""

    def __init__(self, parent_pid: int | None) -> None:
        self._parent_pid = parent_pid
        self._signalled = False
        if parent_pid is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and decides when to stop
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        self._signalled = True

    @property
    def requested(self) -> bool:
        return self._signalled or (self._parent_pid is not None and os.getppid() != self._parent_pid)

    def check(self) -> None:
        """Raise Interrupted if the worker must stop; trainings call this after every step."""
        if self.requested:
            raise Interrupted


def _run(study: optuna.Study, trial: optuna.Trial, objective: Objective, job: Job) -> None:
    """Run one trial and report how it ended: complete, pruned, failed with its error, or queued again."""
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    with heartbeat(study, trial, job.heartbeat):
        try:
            _tell(study, trial, values=objective(trial))
        except optuna.TrialPruned:
            _tell(study, trial, state=TrialState.PRUNED)
        except Interrupted:
            requeue_interrupted(study, trial)
            return
        except (StorageInternalError, SQLAlchemyError):
            raise  # not the trial's fault: this worker ends, and its trial is detected as lost and repeated
        except Diverged as error:
            _fail(study, trial, "diverged", error, diverged_at=error.steps)
        except Exception as error:  # a plugin or an environment may raise anything: the trial failed, it is not pruned
            _fail(study, trial, "error", error, traceback=traceback.format_exc()[-4000:])
    ended = study.trials[trial.number]
    if ended.user_attrs.get(OUTCOME) != LOST and ended.state.is_finished():
        shutil.rmtree(objective.checkpoints(trial), ignore_errors=True)


def _fail(study: optuna.Study, trial: optuna.Trial, outcome: str, error: Exception, **details: Any) -> None:
    attributes = {"error": f"{type(error).__name__}: {error}"[:2000], **details, OUTCOME: outcome}
    try:
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    _tell(study, trial, state=TrialState.FAIL)


def _tell(study: optuna.Study, trial: optuna.Trial, **result: Any) -> None:
    try:
        study.tell(trial, **result)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
        if study.trials[trial.number].state == TrialState.RUNNING:
            raise
        # Another worker considered this one dead and repeats the trial, so this result is too late.
        warnings.warn(f"trial {trial.number} missed its heartbeats and is run again: {error}", stacklevel=2)
