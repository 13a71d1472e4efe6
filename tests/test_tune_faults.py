"""Who is to blame when a trial ends early: the machine, a dead process, a stopped worker, or the trial itself."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import pgzoo
from optuna.trial import TrialState
from test_study import empty_study, plan
from test_tuning_units import attempt, study_of
from tuning import REGISTRY, InProcessExecutor, search, small

from pgzoo import PolicyGradient
from pgzoo.errors import (
    ConfigError,
    DivergenceError,
    EnvironmentFailure,
    MachineError,
    PgzooError,
    machine_fault,
    process_died,
)
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import load_config
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import Evaluation
from pgzoo.training.experiment import TrainConfig, make_model
from pgzoo.training.workers import Ended, Processes, WorkerError, _error, _serve
from pgzoo.tuning.config import TuneConfig
from pgzoo.tuning.metrics import Point
from pgzoo.tuning.results import NoTrialCompleted, check_completed, count, failures, outcome
from pgzoo.tuning.run import tune
from pgzoo.tuning.storage import open_storage, storage_errors
from pgzoo.tuning.study import open_study
from pgzoo.tuning.trial import Diverged, TrialRun, _Checkpoint, train_once
from pgzoo.tuning.trial_queue import KEY, OUTCOME, claim, requeue_of_workers

COMPLETE, FAIL, RUNNING, WAITING = TrialState.COMPLETE, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING


def raising(error: BaseException) -> Callable[..., Any]:
    def call(*_: Any, **__: Any) -> Any:
        raise error

    return call


def values(study: optuna.Study) -> dict[str, Any]:
    """Return the values of the complete trials by the key of the planned trial."""
    return {trial.user_attrs[KEY]: trial.values for trial in study.trials if trial.state == COMPLETE}


# ---------------------------------------------------------------- the machine


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("stable_baselines3.common.base_class.save_to_zip_file", OSError(errno.ENOSPC, "No space left on device")),
        ("pgzoo.tuning.trial.as_data", PermissionError(errno.EACCES, "Permission denied")),
        ("gymnasium.envs.classic_control.CartPoleEnv.step", OSError(errno.EMFILE, "Too many open files")),
    ],
)
def test_a_fault_of_the_machine_does_not_fail_a_trial(
    target: str, error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds trials that fail for a full disk, and studies that do not continue once there is space again."""
    study_config = small(plugins=("rtg",), pruner="none")
    url = f"{tmp_path}/a.db"
    for _ in range(4):  # more often than a trial that kills its worker is repeated
        with monkeypatch.context() as broken:
            broken.setattr(target, raising(error))
            with pytest.raises(MachineError, match=str(error.strerror)):
                search(study_config, url, tmp_path / "a", 2)
        study = optuna.load_study(study_name="small", storage=open_storage(url))
        assert not failures(study)
        assert count(study).ended == 0
        assert not list((tmp_path / "a").rglob(".*"))  # nothing half-written
    study = search(study_config, url, tmp_path / "a", 2)
    assert [trial.state for trial in study.trials].count(COMPLETE) == 2
    assert values(study) == values(search(study_config, f"{tmp_path}/b.db", tmp_path / "b", 2))
    assert not list((tmp_path / "a").rglob("*.*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for a few small files."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("storage", ["{}/a.db", "{}/disk/a.db"])
def test_a_full_disk_ends_the_command_and_the_same_command_continues(
    storage: str, small_disk: Path, tmp_path: Path
) -> None:
    """Finds what only a real disk does: a write of a part, a database without space for its rollback journal."""
    study_config, url = small(plugins=("rtg",), pruner="none"), storage.format(tmp_path)
    tune_config = TuneConfig(storage=url, n_total=2, heartbeat=1, folder=small_disk / "tune", n_best=0)
    with contextlib.suppress(MachineError):
        open_study(study_config, REGISTRY, open_storage(url))
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 64)
    with pytest.raises(MachineError):
        tune(study_config, REGISTRY, tune_config, InProcessExecutor())
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    study = tune(study_config, REGISTRY, tune_config, InProcessExecutor())
    assert count(study).complete == 2
    assert not failures(study)


def test_a_trial_that_needs_too_much_memory_is_repeated_a_few_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds a study that never ends, because one of its trials needs more memory than the machine has."""
    monkeypatch.setattr("pgzoo.tuning.objective.train_once", raising(MemoryError("Unable to allocate 2 TiB")))
    study_config = small(plugins=("rtg",))
    for _ in range(4):
        with pytest.raises(MachineError, match="MemoryError: Unable to allocate 2 TiB"):
            search(study_config, f"{tmp_path}/a.db", tmp_path, 1)
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 1)
    assert [trial.state for trial in study.trials] == [FAIL] * 4
    assert count(study).failed == 1


def test_the_owner_of_an_error_may_be_its_cause() -> None:
    full, missing = OSError(errno.ENOSPC, "full"), FileNotFoundError(errno.ENOENT, "a file of the plugin")
    assert machine_fault(full) is not None
    assert machine_fault(missing) is None
    assert machine_fault(ZeroDivisionError()) is None
    caused = EnvironmentFailure("the environment raised")
    caused.__cause__ = full
    assert "full" in str(machine_fault(caused))
    caused.__cause__ = BrokenPipeError(errno.EPIPE, "Broken pipe")
    assert machine_fault(caused) is None
    assert process_died(caused)
    wrong_path = MachineError("cannot write x: Not a directory")
    wrong_path.exit_status = 2  # a path that somebody typed; in a worker nobody did
    fault = machine_fault(wrong_path)
    assert (str(fault), fault.exit_status if fault else 0) == ("cannot write x: Not a directory", 1)


@pytest.mark.parametrize(
    "message", ["database or disk is full", "disk I/O error", "attempt to write a readonly database"]
)
def test_a_full_disk_of_the_storage_is_the_machines_fault(message: str) -> None:
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = sqlite3.OperationalError(message)
    with pytest.raises(MachineError, match=f"cannot use the storage a.db: {message}"), storage_errors("a.db"):
        raise error
    with pytest.raises(ConfigError, match="database is locked"), storage_errors("a.db"):
        raise sqlite3.OperationalError("database is locked")


# ---------------------------------------------------------------- the trial

PLUGIN = '''
from dataclasses import dataclass
from pgzoo import Baseline, hookimpl

@dataclass(frozen=True)
class Bad(Baseline):
    """Raises."""
    name = "bad"
    plugin_api = "2.0"
    unbiased = True
    def __call__(self, rollout, returns, state=None):
        {code}

@hookimpl
def pgzoo_plugins():
    return [Bad]
'''


def bad_plugin(folder: Path, code: str) -> Path:
    file = folder / "bad.py"
    file.write_text(PLUGIN.format(code=code))
    return file


def test_a_trial_whose_helper_process_dies_is_repeated_a_few_times(tmp_path: Path) -> None:
    """Finds a trial that fails at the first death of a simulator, and one that is repeated forever."""
    file = bad_plugin(tmp_path, 'raise BrokenPipeError("the simulator is gone")')
    study = search(small(plugins=("reward_to_go+bad",), plugin_files=(file,)), f"{tmp_path}/a.db", tmp_path, 2)
    assert [trial.state for trial in study.trials].count(FAIL) == 8  # two trials, each repeated three times
    assert count(study).failed == 2
    assert "the simulator is gone" in outcome(failures(study)[0])


@pytest.mark.parametrize("error", ['FileNotFoundError("table.csv")', 'ZeroDivisionError("x")', 'ConnectionError("x")'])
def test_the_error_of_a_plugin_is_not_the_machines(error: str, tmp_path: Path) -> None:
    file = bad_plugin(tmp_path, f"raise {error}")
    study = search(small(plugins=("reward_to_go+bad",), plugin_files=(file,)), f"{tmp_path}/a.db", tmp_path, 1)
    assert [trial.state for trial in study.trials] == [FAIL]
    assert study.trials[0].user_attrs[OUTCOME] == "error"


def test_a_study_without_a_complete_trial_ends_with_its_most_frequent_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds exit status 0 for a study in which every trial failed."""
    monkeypatch.setattr("pgzoo.training.workers.make_executor", lambda *_: InProcessExecutor())
    file = bad_plugin(tmp_path, 'raise ZeroDivisionError("the mistake\\\\nand more")')
    command = ["tune", "--plugin", "reward_to_go+bad", "--plugin-file", str(file), "-n", "200", "--n-trials", "3"]
    result = pgzoo(*command, "--study-name", "bad", cwd=tmp_path, status=2)
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Error: no trial of bad completed: 3 of 3 failed, 3 of them with error: ")
    assert "the mistake" in lines[0]
    assert "trial 0" in result.stdout


def test_the_most_frequent_error_ignores_numbers() -> None:
    diverged = [attempt(str(i), FAIL, outcome="diverged", error=f"NaN after {i},000 steps") for i in range(3)]
    others = [attempt(str(i), FAIL, outcome="error", error="ValueError: x") for i in (3, 4)]
    with pytest.raises(NoTrialCompleted, match="5 of 5 failed, 3 of them with diverged: NaN after 0,000 steps"):
        check_completed(study_of(*others, *diverged))
    check_completed(study_of(*others, attempt("9", COMPLETE, 1.0)))
    with pytest.raises(NoTrialCompleted, match="1 of 2 were pruned"):
        check_completed(study_of(attempt("0", TrialState.PRUNED), attempt("1", WAITING)))


def test_divergence_is_found_by_its_exception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds a divergence that passes for an error because its message is not known."""
    monkeypatch.setattr(PolicyGradient, "train", raising(DivergenceError("the loss is nan")))
    config = load_config(REGISTRY, "rtg", "CartPole-v1", overrides={"n_timesteps": 400})
    with pytest.raises(Diverged) as diverged:
        train_once(config, REGISTRY, TrialRun(0, 2, 2, tmp_path))
    assert diverged.value.steps > 0


# ---------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("file", ["model.zip", "evaluations.json"])
@pytest.mark.parametrize("damage", ["empty", "torn", "missing"])
def test_a_damaged_checkpoint_is_ignored(file: str, damage: str, tmp_path: Path) -> None:
    """Finds a trial that fails each time it is repeated, because a power failure destroyed its checkpoint."""
    config = load_config(REGISTRY, "rtg", "CartPole-v1", overrides={"n_timesteps": 800, "normalize": True})
    run = TrialRun(0, 4, 2, tmp_path / "run")
    whole = train_once(config, REGISTRY, TrialRun(0, 4, 2, tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train_once(config, REGISTRY, run, on_evaluation=raising(KeyboardInterrupt()))
    (checkpoint,) = run.folder.iterdir()
    if damage == "missing":
        (checkpoint / file).unlink()
    else:
        os.truncate(checkpoint / file, 0 if damage == "empty" else (checkpoint / file).stat().st_size // 2)
    (run.folder / "evaluation_x").mkdir()
    with pytest.warns(UserWarning, match="the checkpoint .*evaluation_1 is damaged and ignored"):
        points = train_once(config, REGISTRY, run)
    assert [(point.steps, point.value) for point in points] == [(point.steps, point.value) for point in whole]


def test_a_checkpoint_is_not_replaced_by_that_of_a_slower_worker(tmp_path: Path) -> None:
    """Finds a mixture of two checkpoints, and an error of the worker that was considered dead and is not."""
    config = load_config(REGISTRY, "rtg", "CartPole-v1", overrides={"n_timesteps": 200})
    faster = tmp_path / "evaluation_1"
    faster.mkdir()
    (faster / "mine").touch()
    model = make_model(config, REGISTRY, make_env(config, n_envs=1, seed=0), TrainConfig(seed=0, device="cpu"))
    _Checkpoint(tmp_path, [Point(1, 1.0, 1.0)], [Evaluation((1.0,), (1,))]).write(model)
    assert [path.name for path in tmp_path.rglob("*")] == ["evaluation_1", "mine"]


# ---------------------------------------------------------------- workers


def test_a_worker_reports_the_fault_of_its_machine(tmp_path: Path) -> None:
    """Finds a command that fails trial after trial, or blames the study, if its log folder cannot be written."""
    (tmp_path / "tune").touch()  # the folder of the checkpoints
    study_config, url = small(plugins=("rtg",)), f"{tmp_path}/a.db"
    tune_config = TuneConfig(storage=url, n_total=2, folder=tmp_path / "tune", n_best=0)
    with pytest.raises(MachineError, match=r"cannot write .*/tune/trials/.*: Not a directory"):
        tune(study_config, REGISTRY, tune_config, Processes())
    study = optuna.load_study(study_name="small", storage=open_storage(url))
    assert [trial.state for trial in study.trials] == [FAIL, WAITING, WAITING]
    assert study.trials[0].user_attrs[OUTCOME] == "interrupted"
    (tmp_path / "tune").unlink()
    study = tune(study_config, REGISTRY, tune_config, InProcessExecutor())
    assert count(study).complete == 2


def test_a_worker_that_hangs_is_killed_and_its_trial_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds Ctrl-C that waits for a hanging environment, and a trial that is lost or counted as a death."""
    monkeypatch.setattr("pgzoo.training.workers.STOP_SECONDS", 1)
    file = bad_plugin(tmp_path, "import time; time.sleep(1000)")
    study_config, url = small(plugins=("reward_to_go+bad",), plugin_files=(file,)), f"{tmp_path}/a.db"
    executor, seconds = Processes(), []

    def interrupt(study: optuna.Study, _: Any) -> None:
        if any("plugin" in trial.user_attrs for trial in study.trials):  # it has begun to train
            time.sleep(1)
            seconds.append(time.monotonic())
            raise KeyboardInterrupt

    tune_config = TuneConfig(storage=url, n_total=1, folder=tmp_path / "tune", n_best=0)
    with pytest.raises(KeyboardInterrupt):
        tune(study_config, Registry.discover([file]), tune_config, executor, interrupt)
    assert time.monotonic() - seconds[0] < 4
    study = optuna.load_study(study_name="small", storage=open_storage(url))
    assert [trial.state for trial in study.trials] == [FAIL, WAITING]
    assert "retry_history" not in study.trials[1].system_attrs
    assert not executor.running()


def test_only_the_trials_of_killed_workers_are_queued_again(tmp_path: Path) -> None:
    study = empty_study(f"{tmp_path}/a.db")
    for worker in ("here:1", "there:1", "here:2"):
        trial = claim(study, plan(3), lambda key: optuna.samplers.RandomSampler())
        assert trial is not None
        trial.set_user_attr("worker", worker)
    requeue_of_workers(study, ["here:1"])
    assert [trial.state for trial in study.trials] == [FAIL, RUNNING, RUNNING, WAITING]


class Fatal(InProcessExecutor):
    """Each worker is killed at once."""

    def __init__(self) -> None:
        self.n_started = self.n_reported = 0

    def start(self, function: Any, *arguments: Any) -> int:
        self.n_started += 1
        return self.n_started

    def running(self) -> bool:
        return self.n_reported < self.n_started

    def ended(self) -> Iterator[Ended]:
        self.n_reported += 1
        yield Ended(self.n_reported, signal=9)


def test_workers_that_die_before_their_first_trial_are_not_replaced_forever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two trials can kill four workers."""
    monkeypatch.setattr("pgzoo.tuning.run.POLL_SECONDS", 0)
    executor, tune_config = Fatal(), TuneConfig(storage=f"{tmp_path}/a.db", n_total=2, folder=tmp_path)
    with pytest.raises(MachineError, match="9 workers were killed, the last one by signal 9"):
        tune(small(), REGISTRY, tune_config, executor)
    assert executor.n_started == 1 + 2 * 4


def test_errors_of_workers_keep_their_owner() -> None:
    def report(error: Exception) -> PgzooError | None:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        with pytest.raises(SystemExit):
            _serve(raising(error), (), sender)
        return _error(1, receiver)

    full = report(OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(full, MachineError)
    assert "No space left" in str(full)
    assert full.exit_status == 1
    refused = report(ConfigError("the storage is broken"))
    assert isinstance(refused, WorkerError)
    assert (str(refused), refused.exit_status) == ("the storage is broken", 2)
