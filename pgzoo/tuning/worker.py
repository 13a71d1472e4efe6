"""A worker takes planned trials of a study, trains them and reports how they ended, until none is left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from pgzoo.errors import MachineError, PgzooError, machine_fault, out_of_memory, process_died
from pgzoo.registry.plugins import Plugin, Registry, register, registered_in_process
from pgzoo.training.config import register_packages
from pgzoo.training.workers import Slots
from pgzoo.tuning.config import StudyConfig
from pgzoo.tuning.heartbeat import DeadWorkerDetector, heartbeat
from pgzoo.tuning.objective import Objective
from pgzoo.tuning.storage import is_storage_failure, open_storage, storage_errors
from pgzoo.tuning.study import retrained_name
from pgzoo.tuning.trial import Diverged
from pgzoo.tuning.trial_queue import (
    DIVERGED,
    ERROR,
    LOST,
    OUTCOME,
    WORKER,
    PlannedTrials,
    claim,
    fail_lost,
    is_lost,
    requeue_interrupted,
    unfinished,
)

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
        device: where to train.
        retrain: whether the planned trials belong to the study that trains the best trials again.
        deadline: the time, in seconds since the epoch, at which trainings are stopped; None: none.
        reserve: how many retrainings one worker still needs after the search, for which it leaves time.
        parent_pid: the process whose end also ends the worker; None if it may be on another machine.
        registered: plugins that `pgzoo.register` made known in the command's process, pickled by value if they were
            defined in its main module, such as a notebook.
    """

    study_config: StudyConfig
    storage: str
    heartbeat: int
    planned: PlannedTrials
    folder: Path
    device: str = "cpu"
    retrain: bool = False
    deadline: float | None = None
    reserve: float = 0
    parent_pid: int | None = None
    registered: bytes = b""

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints of all planned trials."""
        return self.folder / ("retrained" if self.retrain else "trials")

    def is_over(self, study: optuna.Study) -> bool:
        """Return whether no further trial may begin: it and the trainings in reserve would not end before the deadline.

        The estimate is from the trials that have ended. Until then, trials begin.
        """
        if self.deadline is None:
            return False
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        seconds = [trial.duration.total_seconds() for trial in complete if trial.duration is not None]
        mean = sum(seconds) / len(seconds) if seconds else 0.0
        n_seeds = 1 if self.retrain else self.study_config.n_seeds
        return time.time() + mean * (1 + self.reserve / n_seeds) > self.deadline


def work(job: Job, slots: Slots | None = None) -> None:
    """Run trials until all planned ones have ended. Repeat those whose workers died.

    Args:
        job: what to do.
        slots: the trials that this command may still begin; None: no limit.

    Raises:
        MachineError: the machine is to blame for the end of a trial.
        PgzooError: the storage fails, or a plugin cannot be loaded.
    """
    with storage_errors(job.storage):
        _work(job, slots)


def _work(job: Job, slots: Slots | None) -> None:
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    stop = _StopRequest(job.parent_pid, job.deadline)
    register_packages(job.study_config.gym_packages)
    if job.registered:
        _register(cloudpickle.loads(job.registered))
    registry = Registry.discover(job.study_config.plugin_files)
    study = _load_study(job)
    objective = Objective(job.study_config, job.planned, registry, job.checkpoints, job.device, stop.check)
    find_dead_workers = DeadWorkerDetector(job.heartbeat)
    while not stop.requested:
        find_dead_workers(study)
        if job.is_over(study):
            return
        if slots is not None and not slots.acquire(False):
            return
        trial = claim(study, job.planned, job.study_config.make_sampler)
        if trial is not None:
            ended = _run(study, trial, objective, job)
            if not ended and slots is not None:
                slots.release()  # the trial is run again
            continue
        if slots is not None:
            slots.release()
        if not unfinished(study, job.planned):
            return
        time.sleep(POLL_SECONDS)


def _register(items: Iterable[Plugin]) -> None:
    """Make plugins known, except those that the script itself has registered, which a new process imports again."""
    known = {(getattr(item, "kind", "recipe"), item.name) for item in registered_in_process()}
    register(*(item for item in items if (getattr(item, "kind", "recipe"), item.name) not in known))


def _load_study(job: Job) -> optuna.Study:
    name = job.study_config.name
    return optuna.load_study(
        study_name=retrained_name(name) if job.retrain else name,
        storage=open_storage(job.storage, job.heartbeat),
        pruner=optuna.pruners.NopPruner() if job.retrain else job.study_config.make_pruner(),
    )


class _StopRequest:
    """Records whether the worker must stop: after SIGTERM, at the deadline, or when its parent process is gone."""

    def __init__(self, parent_pid: int | None, deadline: float | None) -> None:
        self._parent_pid, self._deadline = parent_pid, deadline
        self._signalled = False
        if parent_pid is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent receives it too, and decides when to stop
            signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, *_: Any) -> None:
        self._signalled = True

    @property
    def requested(self) -> bool:
        is_late = self._deadline is not None and time.time() > self._deadline
        return self._signalled or is_late or (self._parent_pid is not None and os.getppid() != self._parent_pid)

    def check(self) -> None:
        """Raise Interrupted if the worker must stop; trainings call this after every step."""
        if self.requested:
            raise Interrupted


def _run(study: optuna.Study, trial: optuna.Trial, objective: Objective, job: Job) -> bool:
    """Run one trial and report how it ended: complete, pruned, failed with its error, or queued again.

    Returns:
        Whether the trial ended; False if it is run again.

    Raises:
        MachineError: the machine is to blame. The trial is queued again.
    """
    trial.set_user_attr(WORKER, worker_name(os.getpid()))
    if OUTCOME in trial.user_attrs:  # copied from an attempt whose worker died after it had stored its outcome
        trial.set_user_attr(OUTCOME, LOST)
    with heartbeat(study, trial, job.heartbeat):
        try:
            _tell(study, trial, values=objective(trial))
        except optuna.TrialPruned:
            _tell(study, trial, state=TrialState.PRUNED)
        except Interrupted:
            requeue_interrupted(study, trial)
        except Exception as error:  # a plugin or an environment may raise anything: the trial failed, it is not pruned
            if is_storage_failure(error):
                raise  # this worker ends, and its trial is detected as lost and repeated
            _end(study, trial, error)
    ended = study.trials[trial.number]
    if not ended.state.is_finished() or is_lost(ended):
        return False
    shutil.rmtree(objective.checkpoints(trial), ignore_errors=True)
    return True


def worker_name(pid: int) -> str:
    """Return the name under which a worker of this machine runs its trials."""
    return f"{socket.gethostname()}:{pid}"


def _end(study: optuna.Study, trial: optuna.Trial, error: Exception) -> None:
    """End a trial that raised an error: failed, or queued again if it is not the trial's fault.

    Too little memory can be the fault of both. Such a trial is repeated as often as one whose worker was killed.
    """
    fault = machine_fault(error)
    if fault is not None:
        with suppress(MachineError, StorageInternalError, SQLAlchemyError):  # the storage may be on the same full disk
            if out_of_memory(error):
                fail_lost(study, trial)
            else:
                requeue_interrupted(study, trial)
        raise fault
    if process_died(error):
        trial.set_user_attr(ERROR, _shown(error))
        fail_lost(study, trial)
    elif isinstance(error, Diverged):
        _fail(study, trial, DIVERGED, error, diverged_at=error.steps)
    else:
        _fail(study, trial, "error", error, traceback=traceback.format_exc()[-4000:])


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:2000]


def _fail(study: optuna.Study, trial: optuna.Trial, outcome: str, error: Exception, **details: Any) -> None:
    attributes = {ERROR: _shown(error), **details, OUTCOME: outcome}
    try:
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    # A sampler ignores failed trials, and would draw the same hyperparameters again and again.
    _tell(study, trial, state=TrialState.PRUNED if outcome == DIVERGED else TrialState.FAIL)


def _tell(study: optuna.Study, trial: optuna.Trial, **result: Any) -> None:
    try:
        study.tell(trial, **result)
    except PgzooError:
        raise
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
        if study.trials[trial.number].state == TrialState.RUNNING:
            raise
        # Another worker considered this one dead and repeats the trial, so this result is too late.
        warnings.warn(f"trial {trial.number} missed its heartbeats and is run again: {error}", stacklevel=2)
