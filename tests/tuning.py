"""Small studies for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna

from pgzoo.interface.hyperparameters import Search
from pgzoo.registry.plugins import Registry
from pgzoo.training.workers import Ended
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
            "envs": ("CartPole-v1",),
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
    """Runs one task at a time in this process, without the seconds that a new process needs to import torch."""

    parent_pid = None

    def __init__(self) -> None:
        self._ended: list[Ended] = []

    def slots(self, n: int | None) -> threading.Semaphore | None:
        return None if n is None else threading.Semaphore(n)

    def start(self, function: Callable[..., None], *arguments: Any) -> int:
        function(*arguments)
        self._ended.append(Ended(len(self._ended)))
        return len(self._ended) - 1

    def running(self) -> bool:
        return False

    def ended(self) -> Iterator[Ended]:
        ended, self._ended = self._ended, []
        yield from ended

    def stop(self) -> list[int]:
        return []
