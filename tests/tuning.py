"""Small studies for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from pgzoo.registry.plugins import Registry
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import StudyConfig, open_study
from pgzoo.tuning.trial_queue import fill
from pgzoo.tuning.worker import Job, work

REGISTRY = Registry.discover()


def small(**changes: Any) -> StudyConfig:
    """Return a study whose trainings take a tenth of a second."""
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
            **changes,
        }
    )


def searched(settings: StudyConfig, storage: str, folder: Path, n: int, heartbeat: int = 20) -> optuna.Study:
    """Search in this process, and return the study."""
    registry = Registry.discover(settings.plugin_files)
    study = open_study(settings, registry, open_storage(storage, heartbeat))
    tickets = settings.tickets(n, registry)
    fill(study, tickets)
    work(Job(settings, storage, heartbeat, tickets, folder))
    return study
