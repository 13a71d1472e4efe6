"""A worker: takes tickets of a study, trains, tells how it ended; and again, until nothing is left."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry, load_config, register_packages, resolved_entry
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.run_folder import PACKAGES, package_version, plain
from pgzoo.tuning.metrics import Metric, Point
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import DEFAULT, IDENTITY, RETRAINED, StudyConfig
from pgzoo.tuning.trial_queue import LOST, OUTCOME, TICKET, Tickets, Watch, alive, claim, give_back, open_tickets
from pgzoo.tuning.trial import Diverged, TrialRun, as_data, slot, train_once

POLL_SECONDS = 1.0
EVALUATIONS = "evaluations"


class Interrupted(Exception):
    """The worker was asked to stop."""


@dataclass(frozen=True)
class Job:
    """What a worker does; plain data, so that it can be sent to another process or machine.

    Attributes:
        tickets: those that count; for a retraining, with candidate, plugin, config and seed.
        retrain: whether the tickets are of the study that trains the best trials again.
        deadline: the time (seconds since the epoch) after which no ticket is taken.
        folder: where checkpoints are kept.
        parent: the process that it ends with, if that is on this machine.
    """

    settings: StudyConfig
    storage: str
    heartbeat: int
    tickets: Tickets
    folder: Path
    retrain: bool = False
    deadline: float | None = None
    parent: int | None = None


class Permits(Protocol):
    """How many tickets the workers of one command may still take: a semaphore."""

    def acquire(self, block: bool = ..., /) -> bool:
        """Take one, if there is one."""

    def release(self) -> None:
        """Give one back."""


def work(job: Job, permits: Permits | None = None) -> None:
    """Run tickets until none is left; wait for those that run elsewhere, and take over the ones that are lost.

    Args:
        job: what to do.
        permits: None: as many as there are.
    """
    import torch

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    stop = _Stop(job.parent)
    register_packages(job.settings.gym_packages)
    registry = Registry.discover(job.settings.plugin_files)
    name = f"{job.settings.name}/{RETRAINED}" if job.retrain else job.settings.name
    study = optuna.load_study(
        study_name=name, storage=open_storage(job.storage, job.heartbeat), pruner=job.settings.make_pruner()
    )
    objective: Any = _Retraining(job, registry, stop) if job.retrain else _Search(job, registry, stop)
    watch = Watch(job.heartbeat)
    while not stop.asked:
        watch(study)
        if job.deadline is not None and time.time() > job.deadline:
            return
        if permits is not None and not permits.acquire(False):
            return
        trial = claim(study, job.tickets, job.settings.make_sampler)
        if trial is not None:
            _run(study, trial, objective, job)
            continue
        if permits is not None:
            permits.release()
        if not open_tickets(study, job.tickets):
            return
        time.sleep(POLL_SECONDS)


class _Stop:
    """Whether the worker was asked to stop: by SIGTERM, or since its parent is gone; looked at between two steps."""

    def __init__(self, parent: int | None) -> None:
        self._parent = parent
        self._signalled = False
        if parent is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and says when to stop
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: Any) -> None:
        self._signalled = True

    @property
    def asked(self) -> bool:
        return self._signalled or (self._parent is not None and os.getppid() != self._parent)

    def __call__(self) -> None:
        if self.asked:
            raise Interrupted


def _run(study: optuna.Study, trial: optuna.Trial, objective: Callable[[optuna.Trial], list[float]], job: Job) -> None:
    """Run one trial and tell how it ended: complete, pruned, failed with its error, or given back."""
    trial.set_user_attr("worker", f"{socket.gethostname()}:{os.getpid()}")
    with alive(study, trial, job.heartbeat):
        try:
            _tell(study, trial, values=objective(trial))
        except optuna.TrialPruned:
            _tell(study, trial, state=optuna.trial.TrialState.PRUNED)
        except Interrupted:
            give_back(study, trial)
            return
        except (StorageInternalError, SQLAlchemyError):
            raise  # not the trial's fault: this worker ends, and the trial is found lost and run again
        except Diverged as error:
            _fail(study, trial, "diverged", error, diverged_at=error.steps)
        except Exception as error:  # a plugin or an environment may raise anything: kept and shown, never "pruned"
            _fail(study, trial, "error", error, traceback=traceback.format_exc()[-4000:])
    if study.trials[trial.number].user_attrs.get(OUTCOME) != LOST and study.trials[trial.number].state.is_finished():
        shutil.rmtree(_place(job, trial), ignore_errors=True)


def _place(job: Job, trial: optuna.Trial) -> Path:
    """Return where a trial's checkpoints are: the ticket's, so that a retry finds them."""
    ticket = str(trial.user_attrs[TICKET]).replace("/", "-").replace(":", "-")
    return job.folder / ("retrained" if job.retrain else "trials") / ticket


def _fail(study: optuna.Study, trial: optuna.Trial, outcome: str, error: Exception, **attrs: Any) -> None:
    attrs = {"error": f"{type(error).__name__}: {error}"[:2000], **attrs, OUTCOME: outcome}
    try:
        for key, value in attrs.items():
            trial.set_user_attr(key, value)
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    _tell(study, trial, state=optuna.trial.TrialState.FAIL)


def _tell(study: optuna.Study, trial: optuna.Trial, **result: Any) -> None:
    try:
        study.tell(trial, **result)
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError) as error:
        if study.trials[trial.number].state == optuna.trial.TrialState.RUNNING:
            raise
        # Another worker took this one for dead, and the trial is repeated: this result comes too late.
        warnings.warn(f"trial {trial.number} was silent for too long and is run again: {error}", stacklevel=2)


@dataclass(frozen=True)
class _Search:
    """The objective of the search: suggest, train on every seed, report."""

    job: Job
    registry: Registry
    stop: Callable[[], None]

    def __call__(self, trial: optuna.Trial) -> list[float]:
        settings = self.job.settings
        config = self._config(trial)
        _describe(trial, config)
        metrics = settings.parsed_metrics
        per_seed: list[list[float]] = []
        for index, seed in enumerate(settings.seeds):
            report = _Report(trial, metrics[0], settings, index, seed)
            points = _train(self.job, self.registry, config, trial, seed, self.stop, report)
            per_seed.append([metric(points) for metric in metrics])
            if settings.pruner == "wilcoxon":
                trial.report(per_seed[-1][0], index)
                if trial.should_prune():
                    raise optuna.TrialPruned
        return [sum(values) / len(values) for values in zip(*per_seed, strict=True)]

    def _config(self, trial: optuna.Trial) -> ExperimentConfig:
        """Return what the trial trains: a plugin's default, or what the sampler draws."""
        settings = self.job.settings
        space = settings.space(self.registry)
        plugin = self.job.tickets[trial.user_attrs[TICKET]].get(DEFAULT)
        if plugin is not None:
            space.note_default(trial, plugin)
            trial.set_user_attr(DEFAULT, True)
            return space.bases[plugin]
        plugin, overrides = space.suggest(trial)
        fixed = {**settings.fixed, "n_timesteps": settings.n_timesteps}
        return load_config(self.registry, plugin, settings.env, overrides={**fixed, **overrides})


@dataclass
class _Report:
    """Keeps every evaluation with the trial; asks the pruner at each, unless it compares whole seeds."""

    trial: optuna.Trial
    metric: Metric
    settings: StudyConfig
    index: int
    seed: int

    def __call__(self, points: list[Point], evaluations: list[Evaluation]) -> None:
        self.trial.set_user_attr(f"{EVALUATIONS}:{self.seed}", as_data(points, evaluations))
        settings = self.settings
        if len(settings.metrics) > 1 or settings.pruner in ("none", "wilcoxon"):
            return
        share = min(points[-1].steps / settings.n_timesteps, 1.0)
        step = self.index * settings.n_evaluations + slot(
            points[-1].steps, settings.n_timesteps, settings.n_evaluations
        )
        self.trial.report(self.metric(points, share), step)
        if step < settings.n_seeds * settings.n_evaluations and self.trial.should_prune():
            raise optuna.TrialPruned


@dataclass(frozen=True)
class _Retraining:
    """The objective of the study that trains the best trials again: a configuration and a seed are fixed."""

    job: Job
    registry: Registry
    stop: Callable[[], None]

    def __call__(self, trial: optuna.Trial) -> list[float]:
        ticket = self.job.tickets[trial.user_attrs[TICKET]]
        settings = self.job.settings
        seed = int(ticket["seed"])
        config = config_from_entry(self.registry, str(ticket["plugin"]), settings.env, ticket["config"])
        _describe(trial, config)
        trial.set_user_attr("candidate", ticket["candidate"])
        trial.set_user_attr("seed", seed)

        def keep(points: list[Point], evaluations: list[Evaluation]) -> None:
            trial.set_user_attr(f"{EVALUATIONS}:{seed}", as_data(points, evaluations))

        points = _train(self.job, self.registry, config, trial, seed, self.stop, keep)
        return [metric(points) for metric in settings.parsed_metrics]


def _train(
    job: Job, registry: Registry, config: ExperimentConfig, trial: optuna.Trial, seed: int, stop: Any, report: Any
) -> list[Point]:
    settings = job.settings
    # The study's own number and the configuration are in the path: no other trial's checkpoint is ever taken for this.
    whose = [trial.study.user_attrs.get(IDENTITY, ""), trial.user_attrs["config"]]
    key = hashlib.sha256(json.dumps(whose, sort_keys=True).encode()).hexdigest()[:12]
    place = _place(job, trial) / f"seed_{seed}_{key}"
    run = TrialRun(seed, settings.n_evaluations, settings.eval_episodes, place)
    return train_once(config, registry, run, on_evaluation=report, on_step=stop)


def _describe(trial: optuna.Trial, config: ExperimentConfig) -> None:
    """Keep with the trial what reproduces it: plugin, full configuration, the entry's own values, versions."""
    trial.set_user_attr("plugin", config.combination.plugin)
    trial.set_user_attr("config", plain(resolved_entry(config)))
    trial.set_user_attr("entry", plain(config.entry))
    versions = {name: package_version(name) for name in (*PACKAGES, "optuna")}
    trial.set_user_attr("versions", {**versions, "python": platform.python_version()})
