"""A whole study: the search, then the best trials and the defaults trained again on fresh seeds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace

import optuna

from pgzoo.errors import MachineError, PgzooError
from pgzoo.registry.plugins import Registry, registered_in_process
from pgzoo.training.config import resolved_entry
from pgzoo.training.run_folder import plain
from pgzoo.training.workers import Executor
from pgzoo.tuning._optuna import storage_of
from pgzoo.tuning.config import Candidate, PlannedTrial, StudyConfig, TuneConfig
from pgzoo.tuning.pickled_plugins import pickled
from pgzoo.tuning.results import best_trials
from pgzoo.tuning.retrained import CANDIDATES, find_retrained, winner
from pgzoo.tuning.storage import MAX_RETRIES, open_storage, storage_errors
from pgzoo.tuning.study import COMMAND, DEFAULT, TOTAL, open_retrained, open_study
from pgzoo.tuning.trial_queue import PlannedTrials, requeue_of_workers, unfinished
from pgzoo.tuning.worker import Job, work, worker_name

POLL_SECONDS = 0.5
WORKER_RESTARTS = -1
"""Ray always restarts a worker, because the retries of each trial are limited already."""

OnUpdate = Callable[[optuna.Study, Iterable[str]], None]


def tune(
    study_config: StudyConfig,
    registry: Registry,
    tune_config: TuneConfig,
    executor: Executor,
    on_update: OnUpdate = lambda study, keys: None,
) -> optuna.Study:
    """Search, train the best trials again, and return the study.

    Args:
        study_config: the study.
        registry: the plugins.
        tune_config: how to carry it out.
        executor: runs the workers.
        on_update: called every half second with the study in progress and the keys of its planned trials.

    Raises:
        PgzooError: wrong input, a storage that fails, or a study of this name with another definition.
    """
    study_config.check()
    tune_config.check()
    study_config.spaces(registry)
    registered = pickled(registered_in_process())
    with storage_errors(tune_config.storage):
        storage = open_storage(tune_config.storage, tune_config.heartbeat)
        study = open_study(study_config, registry, storage)
        study.set_user_attr(TOTAL, tune_config.n_total)
        if tune_config.command is not None:
            study.set_user_attr(COMMAND, list(tune_config.command))
        deadline = time.time() + tune_config.timeout if tune_config.timeout is not None else None
        reserve = tune_config.n_retrainings(study_config) / len(study_config.envs) / tune_config.n_jobs
        planned = study_config.planned_trials(tune_config.n_total, registry)
        job = replace(_job(study_config, tune_config, planned, deadline, registered), reserve=reserve)
        _work(study, job, tune_config.n_jobs, tune_config.command_limit, executor, on_update)
        if tune_config.n_best and (job.is_over(study) or not unfinished(study, planned)):
            retrain(study, study_config, registry, tune_config, executor, on_update, deadline)
    return study


def retrain(
    study: optuna.Study,
    study_config: StudyConfig,
    registry: Registry,
    tune_config: TuneConfig,
    executor: Executor,
    on_update: OnUpdate = lambda study, keys: None,
    deadline: float | None = None,
) -> None:
    """Train the candidates on the same fresh seeds, then the winner and its default on further ones."""
    seeds, report_seeds = study_config.fresh_seeds(tune_config.n_fresh)
    candidates = choose_candidates(study, study_config, registry, tune_config.n_best)
    if not candidates:
        return
    study.set_user_attr(CANDIDATES, {"names": list(candidates), "seeds": seeds, "report_seeds": report_seeds})
    metrics = study_config.parsed_metrics
    retrained = open_retrained(study, [metric.direction for metric in metrics], storage_of(study))

    def train(chosen: Iterable[Candidate], on: Iterable[int]) -> None:
        planned = {f"{c.name}/{seed}": PlannedTrial(candidate=c, seed=seed) for seed in on for c in chosen}
        registered = pickled(registered_in_process())
        job = replace(_job(study_config, tune_config, planned, deadline, registered), retrain=True)
        _work(retrained, job, tune_config.n_jobs, None, executor, on_update)

    train(candidates.values(), seeds)
    best = winner(find_retrained(study), metrics)
    if best is not None:
        names = dict.fromkeys((best.name, f"default {best.plugin}"))
        train([candidates[name] for name in names if name in candidates], report_seeds)


def _job(
    study_config: StudyConfig,
    tune_config: TuneConfig,
    planned: PlannedTrials,
    deadline: float | None,
    registered: bytes,
) -> Job:
    return Job(
        study_config,
        tune_config.storage,
        tune_config.heartbeat,
        planned,
        tune_config.folder,
        tune_config.device,
        deadline=deadline,
        registered=registered,
    )


def choose_candidates(
    study: optuna.Study, study_config: StudyConfig, registry: Registry, n_best: int
) -> dict[str, Candidate]:
    """Return what to train again by name: the `n_best` best drawn trials, and the defaults of their plugins.

    The default of a plugin is also included if it is among the `n_best` best trials itself. What an earlier command
    trained again stays a candidate.
    """
    best = best_trials(study)
    drawn = [trial for trial in best if DEFAULT not in trial.user_attrs][:n_best]
    plugins = dict.fromkeys(str(trial.user_attrs["plugin"]) for trial in [*drawn, *best[:n_best]])
    names = [f"trial {trial.number}" for trial in drawn] + [f"default {plugin}" for plugin in plugins]
    earlier = study.user_attrs.get(CANDIDATES, {"names": []})["names"]
    trials, spaces = {f"trial {trial.number}": trial for trial in best}, study_config.spaces(registry)
    candidates = {}
    for name in dict.fromkeys([*earlier, *names]):
        if name in trials:
            attributes = trials[name].user_attrs
            candidates[name] = Candidate(name, attributes["plugin"], attributes["configs"])
        elif (plugin := name.removeprefix("default ")) in study_config.plugins:
            configs = {env: plain(resolved_entry(space.bases[plugin])) for env, space in spaces.items()}
            candidates[name] = Candidate(name, plugin, configs)
    return candidates


def _work(
    study: optuna.Study, job: Job, n_jobs: int, command_limit: int | None, executor: Executor, on_update: OnUpdate
) -> None:
    """Run the planned trials that are unfinished, and watch the workers.

    Once all have ended, delete the checkpoints that killed workers left.
    """
    n_unfinished = len(unfinished(study, job.planned))
    if not n_unfinished:
        return
    job, slots, n_killed = replace(job, parent_pid=executor.parent_pid), executor.slots(command_limit), 0
    try:
        for _ in range(min(n_jobs, n_unfinished)):
            executor.start(work, job, slots)
        while executor.running():
            on_update(study, job.planned)
            time.sleep(POLL_SECONDS)
            for ended in executor.ended():
                if ended.error is not None:
                    raise ended.error
                if ended.signal:  # its trial is detected as lost and repeated
                    n_killed += 1
                    _check_killed(n_killed, ended.signal, job)
                    if slots is not None:
                        slots.release()
                    executor.start(work, job, slots)
        on_update(study, job.planned)
        if not unfinished(study, job.planned):
            shutil.rmtree(job.checkpoints, ignore_errors=True)
    except BaseException:
        killed = [worker_name(pid) for pid in executor.stop()]
        with suppress(PgzooError), storage_errors(job.storage):  # otherwise they are detected as lost
            requeue_of_workers(study, killed)
            on_update(study, job.planned)
        raise


def _check_killed(n_killed: int, signal: int, job: Job) -> None:
    """Raise MachineError if workers do not even live until their first trial: a trial ends at most MAX_RETRIES + 1."""
    if n_killed > (MAX_RETRIES + 1) * len(job.planned):
        raise MachineError(f"{n_killed} workers were killed, the last one by signal {signal}")
