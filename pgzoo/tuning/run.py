"""A whole study: search, then the best trials and the defaults trained again on seeds that the search never saw."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import resolved_entry
from pgzoo.training.run_folder import plain
from pgzoo.tuning.executors import Executor
from pgzoo.tuning.results import CANDIDATES, best_trials
from pgzoo.tuning.storage import open_storage, storage_errors
from pgzoo.tuning.study import DEFAULT, TOTAL, StudyConfig, open_retrained, open_study
from pgzoo.tuning.trial_queue import open_tickets
from pgzoo.tuning.worker import Job

POLL_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How a study is carried out, here and now.

    Attributes:
        storage: where it is kept.
        n_total: trials of the study, over all machines and restarts.
        own_limit: trials that this command runs at most; None: all of them.
        n_jobs: workers.
        timeout: seconds after which no trial of the search is begun.
        heartbeat: seconds between two signs of life of a worker.
        folder: where checkpoints are kept.
        n_best: trials that are trained again.
        n_fresh: seeds for each of these.
    """

    storage: str
    n_total: int
    own_limit: int | None = None
    n_jobs: int = 1
    timeout: float | None = None
    heartbeat: int = 20
    folder: Path = Path("logs")
    n_best: int = 3
    n_fresh: int = 5


OnUpdate = Callable[[optuna.Study, Iterable[str]], None]


def tune(
    settings: StudyConfig,
    registry: Registry,
    options: TuneConfig,
    executor: Executor,
    on_update: OnUpdate = lambda study, tickets: None,
) -> optuna.Study:
    """Search, train the best again, and return the study.

    Args:
        settings: the study.
        registry: the plugins.
        options: how to carry it out.
        executor: where the workers run.
        on_update: called every half second with the study at work and its tickets.

    Raises:
        PgzooError: wrong input, a storage that fails, a study of this name that is another one.
    """
    settings.check()
    settings.space(registry)
    with storage_errors(options.storage):
        storage = open_storage(options.storage, options.heartbeat)
        study = open_study(settings, registry, storage)
        study.set_user_attr(TOTAL, options.n_total)
        deadline = time.time() + options.timeout if options.timeout is not None else None
        tickets = settings.tickets(options.n_total, registry)
        job = Job(settings, options.storage, options.heartbeat, tickets, options.folder, deadline=deadline)
        _work(study, job, options.n_jobs, options.own_limit, executor, on_update)
        timed_out = deadline is not None and time.time() > deadline
        if options.n_best and (timed_out or not open_tickets(study, tickets)):
            retrain(study, settings, registry, options, executor, on_update)
    return study


def retrain(
    study: optuna.Study,
    settings: StudyConfig,
    registry: Registry,
    options: TuneConfig,
    executor: Executor,
    on_update: OnUpdate = lambda study, tickets: None,
) -> None:
    """Train the best trials, and the default of each of their plugins, on fresh seeds: the same for all."""
    seeds = settings.fresh_seeds(options.n_fresh)
    candidates = choose(study, settings, registry, options.n_best, seeds)
    if not candidates:
        return
    directions = [metric.direction for metric in settings.parsed_metrics]
    again = open_retrained(study, directions, study._storage)
    tickets = {
        f"{candidate['candidate']}/{seed}": {**candidate, "seed": seed} for seed in seeds for candidate in candidates
    }
    job = Job(settings, options.storage, options.heartbeat, tickets, options.folder, retrain=True)
    _work(again, job, options.n_jobs, None, executor, on_update)


def choose(
    study: optuna.Study, settings: StudyConfig, registry: Registry, n_best: int, seeds: list[int]
) -> list[dict[str, Any]]:
    """Return what is trained again, and keep it with the study: the n_best trials and their plugins' defaults."""
    best = best_trials(study)
    drawn = [trial for trial in best if DEFAULT not in trial.user_attrs][:n_best]
    candidates: list[dict[str, Any]] = [
        {"candidate": f"trial {t.number}", "plugin": t.user_attrs["plugin"], "config": t.user_attrs["config"]}
        for t in drawn
    ]
    bases = settings.space(registry).bases
    beside = [*drawn, *best[:n_best]]  # a default among the best is trained again as what it is
    for plugin in dict.fromkeys(str(trial.user_attrs["plugin"]) for trial in beside):
        config = plain(resolved_entry(bases[plugin]))
        candidates.append({"candidate": f"default {plugin}", "plugin": plugin, "config": config})
    names = [candidate["candidate"] for candidate in candidates]
    study.set_user_attr(CANDIDATES, {"names": names, "seeds": seeds})
    return candidates


def _work(
    study: optuna.Study, job: Job, n_jobs: int, own_limit: int | None, executor: Executor, on_update: OnUpdate
) -> None:
    """Have the tickets run, and watch."""
    n_open = len(open_tickets(study, job.tickets))
    if not n_open:
        return
    executor.start(job, min(n_jobs, n_open), own_limit)
    try:
        while executor.working():
            on_update(study, job.tickets)
            time.sleep(POLL_SECONDS)
    except BaseException:
        executor.stop()
        raise
    finally:
        on_update(study, job.tickets)
