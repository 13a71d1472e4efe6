"""A study survives the death of its process at any write to its storage."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from tuning import REGISTRY, InProcessExecutor, small

from pgzoo.tuning.config import TuneConfig
from pgzoo.tuning.objective import Objective, _store
from pgzoo.tuning.results import count, counted_trials
from pgzoo.tuning.retrained import find_retrained
from pgzoo.tuning.run import tune
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import DEFINITION, IDENTITY, open_study
from pgzoo.tuning.trial_queue import KEY

KILLED = 9
N_TRIALS = 3


def killed_at(k: int, function: Callable[[], object]) -> bool:
    """Run a function in a child process, which dies at its k-th step: before, in the middle of, or after a write.

    Steps are the changes and commits of databases, the halves of what is written, and renamed files.
    Return False if the function ended before.
    """
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _die_at(k)
            function()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.WEXITSTATUS(status) in (0, KILLED)
    return os.WEXITSTATUS(status) == KILLED


def _die_at(k: int) -> None:
    steps = 0

    def step(*_: Any) -> None:
        nonlocal steps
        if steps == k:
            os._exit(KILLED)
        steps += 1

    def before_change(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("CREATE", "INSERT", "UPDATE", "DELETE")):
            step()

    sqlalchemy.event.listen(sqlalchemy.Engine, "commit", step)
    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", before_change)
    real_write, real_link, real_unlink = os.write, os.link, os.unlink

    def write(descriptor: int, data: bytes) -> int:
        step()
        real_write(descriptor, data[: len(data) // 2])
        step()
        real_write(descriptor, data[len(data) // 2 :])
        step()
        return len(data)

    def stepping(function: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            step()
            function(*args, **kwargs)

        return call

    os.write, os.link, os.unlink = write, stepping(real_link), stepping(real_unlink)  # type: ignore[assignment]


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A storage, with short waiting times."""
    monkeypatch.setattr("pgzoo.tuning.study.DEFINITION_TRIES", 1)
    monkeypatch.setattr("pgzoo.tuning.storage.GRACE", 1)
    monkeypatch.setattr("pgzoo.tuning.heartbeat.GRACE", 1)
    monkeypatch.setattr("pgzoo.tuning.worker.POLL_SECONDS", 0.1)
    monkeypatch.setattr("pgzoo.tuning.run.POLL_SECONDS", 0.01)
    return f"{tmp_path}/s.db"


def unlock(folder: Path) -> None:
    """Remove the lock of a killed writer, which otherwise is ignored after half a minute."""
    for lock in folder.glob("*.lock"):
        lock.unlink()


def kills(every: int) -> pytest.MarkDecorator:
    """Parametrize over which steps to die at: one in `every`, and in the slow tests more of them."""
    return pytest.mark.parametrize("every", [every, pytest.param(max(every // 3, 1), marks=pytest.mark.slow)])


@kills(29)
@pytest.mark.filterwarnings("ignore:.*incomplete record", "ignore:.*fork")
def test_a_creation_that_was_killed_is_completed(url: str, every: int, tmp_path: Path) -> None:
    """Finds half a database, and studies that "were not created by pgzoo" for ever."""
    complete = tables_of_a_new_file(tmp_path / "new")
    k, killed = 0, True
    while killed:
        for file in tmp_path.glob("*s.*"):
            file.unlink()
        killed = killed_at(k, lambda: open_study(small(), REGISTRY, open_storage(url)))
        unlock(tmp_path)
        study = open_study(small(), REGISTRY, open_storage(url))
        assert set(study.user_attrs) == {IDENTITY, DEFINITION}
        assert study.directions == [optuna.study.StudyDirection.MAXIMIZE]
        open_study(small(), REGISTRY, open_storage(url))
        if url.endswith(".db"):
            assert tables(tmp_path / "s.db") == complete
        k += every if url.endswith(".db") else 1
    assert k > 5


def tables(file: Path) -> set[tuple[str, str]]:
    """Return the tables and indexes of a database."""
    with sqlalchemy.create_engine(f"sqlite:///{file}").connect() as connection:
        return {tuple(row) for row in connection.execute(sqlalchemy.text("SELECT type, name FROM sqlite_master"))}


def tables_of_a_new_file(file: Path) -> set[tuple[str, str]]:
    optuna.storages.RDBStorage(f"sqlite:///{file}").engine.dispose()
    return tables(file)


@kills(47)
@pytest.mark.filterwarnings("ignore:.*incomplete record", "ignore:.*fork", "ignore:.*experimental")
def test_a_study_that_was_killed_ends_all_its_trials(
    url: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds trials that are never run again, run twice or counted as failed, and retraining that never ends.

    The trainings are replaced by numbers.
    """
    study_config = small(sampler="random", pruner="none")

    def value(objective: Objective, trial: optuna.Trial) -> list[float]:
        planned = objective.planned[trial.user_attrs[KEY]]
        _store(trial, objective._configs(trial, planned))
        if planned.candidate is not None:
            return [float(planned.seed)]
        return [float(zlib.crc32(repr(sorted(trial.params.items())).encode()))]

    monkeypatch.setattr(Objective, "__call__", value)

    def run(storage: str) -> optuna.Study:
        tune_config = TuneConfig(storage=storage, n_total=N_TRIALS, heartbeat=1, folder=tmp_path, n_best=1, n_fresh=2)
        return tune(study_config, REGISTRY, tune_config, InProcessExecutor())

    (tmp_path / "whole").mkdir()
    whole = result(run(url.replace("/s.", "/whole/s.")))
    k, killed = 0, True
    while killed:
        for file in tmp_path.glob("*s.*"):
            file.unlink()
        killed = killed_at(k, lambda: run(url))
        unlock(tmp_path)
        assert result(run(url)) == whole, f"killed at step {k}"
        k += 2 * every  # SQLite waits for whole seconds
    assert k > 2 * every


def result(study: optuna.Study) -> Any:
    """Return how the planned trials ended, what the defaults are, and the seeds of each candidate's retraining.

    Other parameters are drawn again, with other random numbers, if the process died while it drew them.
    """
    assert not study.get_trials(states=(TrialState.RUNNING,))
    defaults = {trial.user_attrs[KEY]: trial.params for trial in counted_trials(study) if "default" in trial.user_attrs}
    retrained = find_retrained(study)
    assert any(not candidate.is_default for candidate in retrained)
    return count(study), defaults, {tuple(sorted(candidate.values)) for candidate in retrained}
