"""Small studies for tests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import optuna

from pgzoo.interface.hyperparameters import Search
from pgzoo.registry.plugins import Registry
from pgzoo.tuning.config import StudyConfig
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import open_study
from pgzoo.tuning.trial_queue import enqueue
from pgzoo.tuning.worker import Job, work

REGISTRY = Registry.discover()


def small(**changes: Any) -> StudyConfig:
    """Return a small study, each of whose trainings takes a tenth of a second."""
    return StudyConfig(
        **{
            "name": "small",
            "env": "CartPole-v1",
            "plugins": ("rtg", "a2c"),
            "n_timesteps": 400,
            "n_evaluations": 4,
            "eval_episodes": 2,
            "n_startup_trials": 3,
            "fixed": {"n_envs": 4},
            "ranges": {"n_episodes": Search(2, 8)} if changes.get("plugins") != ("a2c",) else {},
            **changes,
        }
    )


def search(study_config: StudyConfig, storage: str, folder: Path, n: int, heartbeat: int = 20) -> optuna.Study:
    """Run n trials of a study in this process, and return the study."""
    registry = Registry.discover(study_config.plugin_files)
    study = open_study(study_config, registry, open_storage(storage, heartbeat))
    planned = study_config.planned_trials(n, registry)
    enqueue(study, planned)
    work(Job(study_config, storage, heartbeat, planned, folder))
    return study


class InProcessExecutor:
    """Runs one worker in this process, without the seconds that a new process needs to import torch."""

    def start(self, job: Job, n_jobs: int, command_limit: int | None) -> None:
        work(job, threading.Semaphore(command_limit) if command_limit is not None else None)

    def working(self) -> bool:
        return False

    def stop(self) -> tuple[str, ...]:
        return ()
