"""Who runs which trial: any number of workers on one storage, each ticket run once, a lost one again.

A study's trials are made some time before they run, as Optuna's waiting trials, each with a ticket: a search's are
0, 1, …. Taking one is the storage's own compare-and-set from WAITING to RUNNING, so no two workers get the same. Of a
ticket's trials only one is ever eligible, and no ticket beyond the limit is: should two machines make the same ticket
at the same moment, the second trial waits for ever, and the limit holds.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import optuna
from optuna.storages import BaseStorage, fail_stale_trials
from optuna.storages._heartbeat import get_heartbeat_thread, is_heartbeat_enabled
from optuna.trial import FrozenTrial, TrialState

from pgzoo.tuning.storage import GRACE, MAX_RETRIES, retry_callback

Tickets: TypeAlias = Mapping[str, Mapping[str, Any]]
"""What is known of each ticket beforehand; FIXED holds parameters that its trial does not draw."""
TICKET = "ticket"
FIXED = "fixed"
OUTCOME = "outcome"
LEASE = "pgzoo:lease"
BATCH = 16
"""Trials that are made at a time: more would be read again at every draw, fewer meet other machines more often."""
LOST, INTERRUPTED, DUPLICATE = "lost", "interrupted", "duplicate"


def fill(study: optuna.Study, tickets: Tickets, batch: int = BATCH) -> None:
    """Make the next trials, of tickets that the study does not have."""
    attempts = by_ticket(study)
    for ticket in itertools.islice((t for t in tickets if t not in attempts), batch):
        study.enqueue_trial(dict(tickets[ticket].get(FIXED, {})), user_attrs={TICKET: ticket})


def by_ticket(study: optuna.Study) -> dict[str, list[FrozenTrial]]:
    """Return the attempts at each ticket, in order."""
    found: dict[str, list[FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        if TICKET in trial.user_attrs and trial.user_attrs.get(OUTCOME) != DUPLICATE:
            found.setdefault(trial.user_attrs[TICKET], []).append(trial)
    return found


def is_lost(trial: FrozenTrial) -> bool:
    """Whether the trial's worker died, or was stopped, before it could tell how the trial ended."""
    return trial.state == TrialState.FAIL and trial.user_attrs.get(OUTCOME, LOST) in (LOST, INTERRUPTED)


def result(attempts: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the attempt that counts: the one that ended by itself, else a running one, else the last."""
    ended = [t for t in attempts if t.state.is_finished() and not is_lost(t)]
    running = [t for t in attempts if t.state == TrialState.RUNNING]
    started = [t for t in attempts if t.state != TrialState.WAITING]
    return next(iter([*ended, *running, *reversed(started)]), None)


def _next(attempts: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the trial of a ticket that may be taken, if any."""
    if any(t.state == TrialState.RUNNING or (t.state.is_finished() and not is_lost(t)) for t in attempts):
        return None
    waiting = [t for t in attempts if t.state == TrialState.WAITING]
    return max(waiting, key=lambda t: (len(_history(t)), -t.number), default=None)


def _history(trial: FrozenTrial) -> list[int]:
    return list(trial.system_attrs.get("retry_history", []))


def claim(study: optuna.Study, tickets: Tickets, sampler: Callable[[str], Any]) -> optuna.Trial | None:
    """Take the next of the tickets, making trials where they run out; None if there is none to take now.

    Args:
        study: the study.
        tickets: those that count.
        sampler: makes the sampler of a ticket, so that its draws do not depend on who takes it.
    """
    trial = _take(study, tickets, sampler)
    if trial is None:
        fill(study, tickets)
        trial = _take(study, tickets, sampler)
    return trial


def _take(study: optuna.Study, tickets: Tickets, sampler: Callable[[str], Any]) -> optuna.Trial | None:
    attempts = by_ticket(study)
    storage = study._storage  # Optuna's `ask` takes any waiting trial, or makes one; here it must be this one
    for ticket in tickets:
        trial = _next(attempts.get(ticket, []))
        if trial is None:
            continue
        try:
            if not storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING):
                continue
        except optuna.exceptions.UpdateFinishedTrialError:
            continue
        if is_heartbeat_enabled(storage):  # at once: Optuna never finds a trial lost that gave no sign of life
            storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]
        if _is_second(by_ticket(study)[ticket], trial.number):
            storage.set_trial_user_attr(trial._trial_id, OUTCOME, DUPLICATE)
            storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL)
            continue
        study.sampler = sampler(ticket)
        return optuna.Trial(study, trial._trial_id)
    return None


def _is_second(attempts: list[FrozenTrial], number: int) -> bool:
    """Whether another attempt at the ticket ended, or runs and was made before this one."""
    others = [t for t in attempts if t.number != number]
    return any(
        (t.state.is_finished() and not is_lost(t)) or (t.state == TrialState.RUNNING and t.number < number)
        for t in others
    )


def open_tickets(study: optuna.Study, tickets: Iterable[str]) -> list[str]:
    """Return the tickets that have not ended: not made yet, waiting, or running somewhere."""
    attempts = by_ticket(study)
    return [ticket for ticket in tickets if not _ended(attempts.get(ticket, []))]


def _ended(attempts: list[FrozenTrial]) -> bool:
    """Whether a ticket needs no more work: an attempt ended by itself, or too many were lost."""
    return any(t.state.is_finished() and not is_lost(t) for t in attempts) or given_up(attempts)


def given_up(attempts: list[FrozenTrial]) -> bool:
    """Whether a ticket's worker died every time that it was tried."""
    return any(len(_history(t)) >= MAX_RETRIES for t in attempts) and all(t.state.is_finished() for t in attempts)


def give_back(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a trial that was interrupted, and queue it again."""
    trial.set_user_attr(OUTCOME, INTERRUPTED)
    _requeue(study, study.trials[trial.number])  # first: while this one runs, nobody takes the other
    study.tell(trial, state=TrialState.FAIL)


def _requeue(study: optuna.Study, lost: FrozenTrial) -> None:
    attrs = {key: value for key, value in lost.user_attrs.items() if key != OUTCOME}
    interrupted = lost.user_attrs.get(OUTCOME) == INTERRUPTED
    system = {key: value for key, value in lost.system_attrs.items() if key != LEASE}
    if interrupted:  # not the trial's fault: it does not count among its retries
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=lost.params,
                distributions=lost.distributions,
                user_attrs=attrs,
                system_attrs=system,
            )
        )
    else:
        retry_callback()(study, lost)


# ---------------------------------------------------------------- signs of life


@contextmanager
def alive(study: optuna.Study, trial: optuna.Trial, heartbeat: int) -> Iterator[None]:
    """Give signs of life for a trial while it runs: Optuna's heartbeat, or a lease where the storage has none."""
    storage = study._storage
    if is_heartbeat_enabled(storage):
        with get_heartbeat_thread(trial._trial_id, storage):
            yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_renew, args=(storage, trial._trial_id, heartbeat, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _renew(storage: BaseStorage, trial_id: int, heartbeat: int, stop: threading.Event) -> None:
    count = 0
    while not stop.is_set():
        try:
            storage.set_trial_system_attr(trial_id, LEASE, count)
        except optuna.exceptions.UpdateFinishedTrialError:
            return
        except Exception as error:  # the next beat may get through; three that do not, and the trial is run again
            warnings.warn(f"no sign of life could be given: {error}", stacklevel=1)
        count += 1
        stop.wait(heartbeat)


class Watch:
    """Finds the trials whose workers fell silent, fails them and queues them again.

    A lease is a counter; one that stands still for GRACE heartbeats by this process's own clock is over, so that
    the clocks of two machines need not agree.
    """

    def __init__(self, heartbeat: int) -> None:
        self._grace = GRACE * heartbeat
        self._seen: dict[int, tuple[Any, float]] = {}

    def __call__(self, study: optuna.Study) -> None:
        """Look once."""
        self._requeue_orphans(study)
        if is_heartbeat_enabled(study._storage):
            fail_stale_trials(study)
            return
        now = time.monotonic()
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lease = trial.system_attrs.get(LEASE)
            known, since = self._seen.get(trial._trial_id, (None, now))
            if trial._trial_id not in self._seen or lease != known:
                self._seen[trial._trial_id] = (lease, now)
            elif now - since > self._grace:
                fail_lost(study, trial)

    def _requeue_orphans(self, study: optuna.Study) -> None:
        """Queue what was failed as lost by a process that died before it could queue it again."""
        now = time.monotonic()
        for attempts in by_ticket(study).values():
            if all(is_lost(t) for t in attempts) and not given_up(attempts):
                _, since = self._seen.setdefault(attempts[-1]._trial_id, (LOST, now))
                if now - since > self._grace:
                    _requeue(study, attempts[-1])


def fail_lost(study: optuna.Study, trial: FrozenTrial) -> None:
    """Fail a running trial whose worker is dead, and queue it again; nothing if another process was first."""
    try:
        if not study._storage.set_trial_state_values(trial._trial_id, state=TrialState.FAIL):
            return
    except optuna.exceptions.UpdateFinishedTrialError:
        return
    _requeue(study, study.trials[trial.number])
