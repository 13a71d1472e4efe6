"""The queue of planned trials: any number of workers on one storage run each planned trial exactly once.

A planned trial has a key; those of a search are "0", "1", … It joins the study as a waiting Optuna trial shortly before
it runs, with its key as a user attribute. A worker takes it with the storage's compare-and-set from WAITING to
RUNNING, so two workers never take the same one. If the worker dies, the planned trial is queued again. A planned trial
can therefore have several attempts, each of them an Optuna trial.

Two machines may queue the same planned trial at the same moment. Only one attempt per planned trial may run at a time,
and none may start after one has ended. The other attempt then waits forever, and the study's number of trials is kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from pgzoo.errors import PgzooError
from pgzoo.tuning._optuna import retry_history, running_trial, start_trial
from pgzoo.tuning.config import PlannedTrial
from pgzoo.tuning.storage import MAX_RETRIES, retry_callback

KEY = "ticket"
"""User attribute of a trial: the key of its planned trial. The name is stored in existing studies."""
OUTCOME = "outcome"
"""User attribute of a failed trial: LOST, INTERRUPTED, DUPLICATE, DIVERGED or "error"."""
ERROR = "error"
"""User attribute of a failed or lost trial: its error."""
WORKER = "worker"
"""User attribute of a trial: its worker as host:pid."""
LOST, INTERRUPTED, DUPLICATE, DIVERGED = "lost", "interrupted", "duplicate", "diverged"
BATCH = 16
"""Trials queued together. With more, every draw reads more of them; with fewer, machines collide more often."""


PlannedTrials: TypeAlias = Mapping[str, PlannedTrial]
SamplerOf: TypeAlias = Callable[[str], optuna.samplers.BaseSampler]


def enqueue(study: optuna.Study, planned: PlannedTrials, batch: int = BATCH) -> None:
    """Queue the next planned trials that the study does not contain yet."""
    queued = attempts_by_key(study)
    for key in itertools.islice((key for key in planned if key not in queued), batch):
        study.enqueue_trial(dict(planned[key].params), user_attrs={KEY: key})


def attempts_by_key(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    """Return the attempts at each planned trial, in order."""
    attempts: dict[str, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if KEY in trial.user_attrs and trial.user_attrs.get(OUTCOME) != DUPLICATE:
            attempts.setdefault(trial.user_attrs[KEY], []).append(trial)
    return attempts


def is_lost(trial: FrozenTrial) -> bool:
    """Return whether the trial's worker died or was stopped before the trial ended."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(OUTCOME, LOST) in (LOST, INTERRUPTED)


def has_diverged(trial: FrozenTrial) -> bool:
    """Return whether the training diverged. For Optuna the trial is pruned, so that samplers learn from it."""
    return trial.state == TrialState.PRUNED and trial.user_attrs.get(OUTCOME) == DIVERGED


def counted_attempt(attempts: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt that counts: one that ended and is not lost, else a running one, else the last started."""
    ended = [trial for trial in attempts if _ended(trial)]
    running = [trial for trial in attempts if trial.state == TrialState.RUNNING]
    started = [trial for trial in attempts if trial.state != TrialState.WAITING]
    return next(iter([*ended, *running, *reversed(started)]), None)


def retries_exhausted(attempts: list[FrozenTrial]) -> bool:
    """Return whether a planned trial is no longer repeated, because its workers died too often."""
    return any(len(retry_history(trial)) >= MAX_RETRIES for trial in attempts) and all(
        trial.state.is_finished() for trial in attempts
    )


def unfinished(study: optuna.Study, keys: Iterable[str]) -> list[str]:
    """Return the keys of planned trials that are not queued yet, are waiting, or are running somewhere."""
    attempts = attempts_by_key(study)
    return [
        key
        for key in keys
        if not any(_ended(trial) for trial in attempts.get(key, [])) and not retries_exhausted(attempts.get(key, []))
    ]


def claim(study: optuna.Study, planned: PlannedTrials, sampler_of: SamplerOf) -> optuna.Trial | None:
    """Take the next planned trial, queueing more if necessary; return None if there is none to take now.

    Args:
        study: the study.
        planned: the planned trials that may be taken.
        sampler_of: returns the sampler for a key. The parameters must not depend on which worker draws them.
    """
    trial = _take(study, planned, sampler_of)
    if trial is None:
        enqueue(study, planned)
        trial = _take(study, planned, sampler_of)
    return trial


def _take(study: optuna.Study, planned: PlannedTrials, sampler_of: SamplerOf) -> optuna.Trial | None:
    attempts = attempts_by_key(study)
    for key in planned:
        waiting = _eligible(attempts.get(key, []))
        if waiting is None:
            continue
        study.sampler = sampler_of(key)  # Optuna draws from it when the trial starts
        trial = start_trial(study, waiting)
        if trial is None:
            continue
        if not _is_duplicate(attempts_by_key(study)[key], trial.number):
            return trial
        trial.set_user_attr(OUTCOME, DUPLICATE)
        study.tell(trial, state=TrialState.FAIL)
    return None


def _ended(trial: FrozenTrial) -> bool:
    """Return whether a trial has ended and is not lost."""
    return trial.state.is_finished() and not is_lost(trial)


def _eligible(attempts: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt at a planned trial that may be taken, if any: the one with the longest history."""
    if any(trial.state == TrialState.RUNNING or _ended(trial) for trial in attempts):
        return None
    waiting = [trial for trial in attempts if trial.state == TrialState.WAITING]
    return max(waiting, key=lambda trial: (len(retry_history(trial)), -trial.number), default=None)


def _is_duplicate(attempts: list[FrozenTrial], number: int) -> bool:
    """Return whether another attempt at the planned trial has ended, or is running and was queued before this one."""
    return any(
        _ended(trial) or (trial.state == TrialState.RUNNING and trial.number < number)
        for trial in attempts
        if trial.number != number
    )


def requeue_interrupted(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a running trial that was interrupted, and queue it again, unless another process considered it lost."""
    try:
        trial.set_user_attr(OUTCOME, INTERRUPTED)
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    # The order matters: no worker takes the new attempt while this trial is still running.
    requeue(study, study.trials[trial.number])
    _fail(study, trial.number)


def _fail(study: optuna.Study, number: int) -> bool:
    """Fail a running trial; return False if another process ended it first."""
    try:
        study.tell(number, state=TrialState.FAIL)
    except PgzooError:
        raise
    except (optuna.exceptions.UpdateFinishedTrialError, ValueError):
        return False
    return True


def requeue(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial again with the parameters that it drew. After MAX_RETRIES deaths of its workers, do nothing."""
    if trial.user_attrs.get(OUTCOME) != INTERRUPTED:
        retry_callback()(study, trial)
        return
    study.add_trial(  # an interruption is not the trial's fault and does not count as a retry
        optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={key: value for key, value in trial.user_attrs.items() if key != OUTCOME},
            system_attrs=trial.system_attrs,
        )
    )


def fail_lost(study: optuna.Study, trial: optuna.Trial | FrozenTrial) -> None:
    """Fail a running trial whose worker is dead and queue it again, unless another process did so first."""
    if _fail(study, trial.number):
        requeue(study, study.trials[trial.number])


def requeue_of_workers(study: optuna.Study, workers: Collection[str]) -> None:
    """Queue the running trials of workers that were killed on purpose again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.user_attrs.get(WORKER) in workers:
            requeue_interrupted(study, running_trial(study, trial))
