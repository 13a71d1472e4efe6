"""The `pgzoo tune` command: several processes, killed workers, storages, refusals."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from command import PGZOO, pgzoo
from optuna.trial import TrialState
from ruamel.yaml import YAML
from tuning import REGISTRY, InProcessExecutor, small

from pgzoo.errors import PgzooError
from pgzoo.tuning.config import PlannedTrial
from pgzoo.tuning.results import count, counted_trials
from pgzoo.tuning.storage import open_storage
from pgzoo.tuning.study import open_study
from pgzoo.tuning.trial_queue import KEY, claim, enqueue, is_lost
from pgzoo.tuning.worker import Job, work

SPAWN = multiprocessing.get_context("spawn")
QUICK = [
    "--plugin", "rtg", "-n", "200", "--n-evaluations", "2", "--eval-episodes", "2", "--fix", "n_envs:4",
    "--n-startup-trials", "2", "--fresh-seeds", "2", "--best", "1",
]  # fmt: skip


# ---------------------------------------------------------------- two processes, one study


def postgres_binaries() -> Path | None:
    """Return the folder that contains initdb: that of Debian's package, or of any other on the path."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    path = str(debian[-1]) if debian else shutil.which("initdb")
    return Path(path).resolve().parent if path else None


@pytest.fixture
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL server; it refuses to run as root, so then the user is postgres."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    pytest.importorskip("psycopg")
    folder = Path(f"/tmp/pgzoo-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    user: dict[str, Any] = {}
    if os.getuid() == 0:
        try:
            owner = pwd.getpwnam("postgres")
        except KeyError:
            owner = pwd.getpwnam("nobody")
        os.chown(folder, owner.pw_uid, owner.pw_gid)
        user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run: dict[str, Any] = {"check": True, "stdout": subprocess.DEVNULL, "cwd": folder, **user}
    subprocess.run([binaries / "initdb", "-D", folder / "data", "-U", "pgzoo", "--auth=trust"], **run)
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1"
    start: list[Any] = [binaries / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start"]
    subprocess.run(start, **run)
    try:
        yield f"postgresql+psycopg://pgzoo@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([binaries / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop"], **run)
        shutil.rmtree(folder, ignore_errors=True)


SLOW = pytest.mark.slow


@pytest.fixture(params=["sqlite", *(pytest.param(kind, marks=SLOW) for kind in ("postgresql",))])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/studies.db" if request.param == "sqlite" else request.getfixturevalue(request.param)


def machine(storage: str, folder: str, n_total: int) -> None:
    """Do what one machine does when it joins a study."""
    study_config = small(plugins=("rtg",), n_timesteps=200, n_evaluations=1)
    study = open_study(study_config, REGISTRY, open_storage(storage, 2))
    planned = study_config.planned_trials(n_total, REGISTRY)
    enqueue(study, planned)
    work(Job(study_config, storage, 2, planned, Path(folder)))


@SLOW
def test_two_processes_run_exactly_the_total_and_none_twice(storage: str, tmp_path: Path) -> None:
    n = 12
    machines = [SPAWN.Process(target=machine, args=(storage, str(tmp_path / str(i)), n)) for i in range(2)]
    for process in machines:
        process.start()
    for process in machines:
        process.join(200)
        assert process.exitcode == 0
    study = optuna.load_study(study_name="small", storage=open_storage(storage))
    run = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    assert [trial.state for trial in run] == [TrialState.COMPLETE] * n
    assert {trial.user_attrs[KEY] for trial in run} == {str(i) for i in range(n)}
    assert len({trial.user_attrs["worker"] for trial in run}) == 2
    assert len({str(trial.params) for trial in run}) == n


def claimer(storage: str, n: int, barrier: Any, taken: Any) -> None:
    """Take trials as fast as possible, and send their numbers and keys."""
    study = optuna.load_study(study_name="t", storage=open_storage(storage, 20))
    planned = {str(i): PlannedTrial() for i in range(n)}
    barrier.wait()
    while (trial := claim(study, planned, lambda key: optuna.samplers.RandomSampler())) is not None:
        taken.put((trial.number, trial.user_attrs[KEY]))
        study.tell(trial, 1.0)
    taken.put(None)


@SLOW
def test_no_trial_is_taken_twice_when_workers_race(storage: str) -> None:
    n = 60
    optuna.create_study(storage=open_storage(storage, 20), study_name="t")
    barrier, taken = SPAWN.Barrier(2), SPAWN.Queue()
    racers = [SPAWN.Process(target=claimer, args=(storage, n, barrier, taken)) for _ in range(2)]
    for process in racers:
        process.start()
    claims = [claimed for _ in racers for claimed in iter(lambda: taken.get(timeout=120), None)]
    for process in racers:
        process.join(60)
    assert sorted(int(key) for _, key in claims) == list(range(n))
    assert len({number for number, _ in claims}) == n


def opener(storage: str, barrier: Any, failures: Any) -> None:
    barrier.wait()
    try:
        open_study(small(), REGISTRY, open_storage(storage))
    except Exception as error:
        failures.put(str(error))
    failures.put(None)


@SLOW
def test_machines_that_start_together_on_an_empty_database(storage: str) -> None:
    barrier, failures = SPAWN.Barrier(3), SPAWN.Queue()
    machines = [SPAWN.Process(target=opener, args=(storage, barrier, failures)) for _ in range(3)]
    for process in machines:
        process.start()
    errors = [error for _ in machines for error in iter(lambda: failures.get(timeout=120), None)]
    for process in machines:
        process.join(60)
    assert errors == []


# ---------------------------------------------------------------- killed, interrupted


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_continues_from_its_checkpoint(tmp_path: Path) -> None:
    url = f"{tmp_path}/studies.db"
    command = [
        *PGZOO, "tune", "--plugin", "a2c", "-n", "20000", "--n-trials", "2", "--n-evaluations", "10", "--eval-episodes",
        "1", "--best", "0", "--pruner", "none", "--storage", url, "--heartbeat", "1", "--study-name", "killed",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    trial = until_evaluated(url, "killed", 3)
    os.kill(int(trial.user_attrs["worker"].rpartition(":")[2]), signal.SIGKILL)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    study = optuna.load_study(study_name="killed", storage=open_storage(url))
    counts = count(study)
    assert (counts.total, counts.complete) == (2, 2)
    (lost,) = [t for t in study.trials if is_lost(t)]
    (again,) = [t for t in counted_trials(study) if t.system_attrs.get("retry_history") == [lost.number]]
    assert again.params == lost.params
    before, after = lost.user_attrs["evaluations:0"], again.user_attrs["evaluations:0"]
    assert len(before) >= 3
    assert after[: len(before)] == before  # it continued from its checkpoint
    assert after[-1]["steps"] >= 20_000
    assert not list((tmp_path / "logs").rglob("model.zip"))


def until_evaluated(url: str, name: str, n: int) -> Any:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.2)
        with contextlib.suppress(Exception):
            study = optuna.load_study(study_name=name, storage=open_storage(url))
            for trial in study.get_trials(states=(TrialState.RUNNING,)):
                if len(trial.user_attrs.get("evaluations:0", [])) >= n:
                    return trial
    raise AssertionError(f"no trial made {n} evaluations in time")


@SLOW
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=SLOW)])
def test_ctrl_c_queues_the_trial_again_and_the_same_command_continues(number: int, tmp_path: Path) -> None:
    command = [
        "tune", "--plugin", "a2c", "-n", "15000", "--n-trials", "1", "--n-evaluations", "10", "--eval-episodes", "1",
        "--best", "0", "--study-name", "stopped",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*PGZOO, *command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=_restore_sigint,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"{tmp_path}/logs/studies.db"
    until_evaluated(url, "stopped", 2)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number, error
    assert "the same command continues the study" in error
    study = optuna.load_study(study_name="stopped", storage=open_storage(url))
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert study.trials[0].user_attrs["outcome"] == "interrupted"
    pgzoo(*command, cwd=tmp_path)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    first, second = (t.user_attrs["evaluations:0"] for t in study.trials)
    assert second[: len(first)] == first


def _restore_sigint() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT


# ---------------------------------------------------------------- the whole command

SHRUNK = '''
from dataclasses import dataclass
from typing import Annotated
import numpy as np
from pgzoo import Baseline, Range, Search, hookimpl

@dataclass(frozen=True)
class Shrunk(Baseline):
    """b = shrink · the mean of R."""
    name = "shrunk"
    plugin_api = "2.0"
    bias = "the mean contains the action's own episode"
    shrink: Annotated[float, Range(0, 1), Search(0.25, 0.75), "how far"] = 0.5
    def __call__(self, rollout, returns, state=None):
        return self.shrink * float(np.mean(returns[rollout.mask]))

@hookimpl
def pgzoo_plugins():
    return [Shrunk]
'''


@SLOW
def test_a_study_from_the_command_line_to_the_trained_model(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(SHRUNK)
    (tmp_path / "out").mkdir()
    mine = ["--plugin-file", "mine.py"]
    command = [*QUICK[2:], "--plugins", "rtg,reward_to_go+shrunk", *mine, "--n-trials", "5", "--study-name", "s"]
    out = pgzoo("tune", *command, "-j", "2", "--report", "out", cwd=tmp_path).stdout
    # The best trial with at most two defaults, then the winner and its default, on two seeds each.
    assert "5 trials, seeds [0], and up to 10 retrainings; at most 15 trainings and 3,000 steps" in out
    assert "on 2 fresh seeds" in out
    assert "on 2 more fresh seeds" in out
    again = pgzoo("tune", *command, cwd=tmp_path).stdout  # nothing is left to do
    assert "trial 0:" not in again
    assert "Result:" in again

    shown = json.loads(pgzoo("tune", "show", "s", "--json", cwd=tmp_path).stdout)
    assert shown["counts"]["complete"] + shown["counts"]["pruned"] == shown["counts"]["total"] == 5
    assert shown["definition"]["space"]["shrunk.shrink"] == "[0.25, 0.75]"
    assert "s" in pgzoo("tune", "show", cwd=tmp_path).stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "report.html", "history.png", "slices.png", "curves.png", "retrained.png",
    }  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64,") >= 4
    assert 'src="http' not in page

    trial = shown["winner"].removeprefix("trial ")
    if not trial.isdigit():  # a default won
        trial = str(shown["best"][0]["trial"])
    files = mine if "shrunk" in next(b["plugin"] for b in shown["best"] if b["trial"] == int(trial)) else []
    pgzoo("train", "--trial", f"s:{trial}", *files, "--no-progress", "--eval-freq", "-1", cwd=tmp_path)
    (config,) = (tmp_path / "logs").glob("*/CartPole-v1_1/CartPole-v1/config.yml")
    trained = YAML(typ="safe").load(config.read_text())
    study = optuna.load_study(study_name="s", storage=open_storage(f"{tmp_path}/logs/studies.db"))
    assert json.loads(json.dumps(trained)) == study.trials[int(trial)].user_attrs["configs"]["CartPole-v1"]
    assert YAML(typ="safe").load((config.parent / "args.yml").read_text())["seed"] == 0


@SLOW
def test_a_total_over_several_commands_and_a_front(tmp_path: Path) -> None:
    metrics = ["--metric", "final", "--metric", "steps_to:30"]
    command = ["tune", *QUICK, *metrics, "--study-name", "s", "--max-total-trials", "3", "--best", "0"]
    n_trials = []
    for _ in range(3):
        result = pgzoo(*command, "--n-trials", "2", "-j", "2", cwd=tmp_path)
        n_trials.append(sum(line.startswith("trial ") for line in result.stdout.splitlines()))
        assert "no pruning, which Optuna does not support here" in result.stdout
    assert n_trials == [2, 1, 0]
    assert "Pareto front" in result.stdout
    study = optuna.load_study(study_name="s", storage=open_storage(f"{tmp_path}/logs/studies.db"))
    assert count(study).complete == 3


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "finale"], "did you mean 'final'"),
        (["--pruner", "medain"], "did you mean 'median'"),
        (["--sampler", "tep"], "did you mean 'tpe'"),
        (["--search-range", "gama:0.9..0.99"], "did you mean 'gamma'"),
        (["--search-range", "gamma:0.9..1.5"], "must lie in [0, 1]"),
        (["--search-range", "gamma"], "takes name:range"),
        (["--fix", "gama:0.9"], "did you mean 'gamma'"),
        (["--space", "nowhere.yml"], "cannot read nowhere.yml"),
        (["--plugins", "rtg,gea"], "did you mean"),
        (["--plugins", "rtg,gae", "--search", "baseline"], "use one of them"),
        (["--search", "baselin"], "did you mean 'baseline'"),
        (["--env", "CartPol-v1"], "did you mean 'CartPole-v1'"),
        (["--storage", "postgresql+psycopg://me:secret@127.0.0.1:1/x"], "cannot use the storage postgresql+psycopg://me:…@"),
        (["--storage", "nosuch://x"], "is not a storage"),
        (["--metric", "final", "--metric", "wall", "--pruner", "median"], "cannot prune a study of several metrics"),
        (["--seeds", "2", "--pruner", "wilcoxon"], "too few"),
        (["--plugins", ","], "does not name a recipe"),
        (["--storage", "sqlite://"], "in the memory of one process"),
        (["--storage", "sqlite:///:memory:"], "in the memory of one process"),
        (["--storage", "sqlite:///file:a.db?uri=true"], "use sqlite:///FILE.db"),
        (["--storage", ""], "is not a storage"),
        (["--storage", "a?.db"], "is not a storage"),
        (["--storage", "journal:studies.log"], "'journal:studies.log' is not a storage; use FILE.db"),
        (["--storage", "."], "is not a storage"),
        (["--timeout", "nan"], "timeout: nan is not in the range x>=0"),
        (["--timeout", "inf"], "timeout: inf is not in the range"),
        (["--seed", "4294967296"], "4294967296 is not in the range 0<=x<="),
        (["--seeds", "1000000000000"], "is not in the range 1<=x<=10000"),
        (["--fresh-seeds", "1000000000000"], "is not in the range 2<=x<=1000"),
        (["--n-trials", "1000000000000"], "is not in the range 1<=x<=100000"),
        (["--n-trials", "1000000000000", "--max-total-trials", "5"], "is not in the range 1<=x<=100000"),
        (["--heartbeat", "1000000000000"], "is not in the range 1<=x<=86400"),
        (["--fix", "n_timesteps:100"], "n_timesteps cannot be fixed, because -n sets it"),
        (["--search-range", "gamma:nan..0.99"], "is empty or infinite"),
        (["--search-range", "learning_rate:1e-3..inf"], "is empty or infinite"),
        (["--search-range", "n_episodes:8,16,32:log"], "only low..high has a scale"),
        (["--plugin", "rtg", "--search-range", "n_episodes:8..1e300"], "must lie between -2^63 and 2^63"),
        (["--plugin", "rtg", "--search-range", "n_episodes:8.5..20"], "n_episodes must be int"),
        (["--search-range", "n_episodes:8,8"], "listed twice"),
        (["--study-name", ""], "cannot have the name ''"),
        (["--study-name", "."], "cannot have the name '.'"),
        (["--study-name", ".."], "cannot have the name '..'"),
        (["--study-name", " "], "cannot have the name ' '"),
        (["--study-name", "../../out"], "cannot contain slashes"),
        (["--study-name", "/tmp/out"], "cannot contain slashes"),
        (["--study-name", "a/retrained"], "cannot contain slashes"),
        (["--study-name", "a\\b"], "cannot contain slashes"),
        (["--study-name", "a\0b"], "cannot contain slashes or control characters: 'a\\x00b'"),
        (["--study-name", "a\nb"], "control characters"),
        (["--study-name", "é" * 150], "can have 200 bytes, not 300"),
        (["--write", "nowhere/gae.yml"], "the folder nowhere does not exist"),
        (["shwo"], "did you mean 'show'"),
        (["show", "x"], "there is no storage"),
    ],
)  # fmt: skip
def test_refusals_write_nothing(arguments: list[str], message: str, tmp_path: Path) -> None:
    error = pgzoo("tune", *arguments, cwd=tmp_path, status=2).stderr
    assert message in error
    assert "Traceback" not in error
    assert len(error.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


def test_everything_is_written_to_the_log_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds `logs/studies.db` beside a log folder that was asked for, and commands that then look there."""
    monkeypatch.setattr("pgzoo.training.workers.make_executor", lambda *_: InProcessExecutor())
    result = pgzoo("tune", *QUICK, "--n-trials", "2", "-f", "runs", "--study-name", "s p", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "study s p in runs/studies.db" in result.stdout
    if "Next:" in result.stdout:
        assert "--trial 's p:1' --storage runs/studies.db" in result.stdout
    for arguments in (["show", "s p", "-f", "runs"], ["-f", "runs", "show", "s p"],
                      ["--storage", "runs/studies.db", "show", "s p"]):  # fmt: skip
        assert "s p: 2 trials complete" in pgzoo("tune", *arguments, cwd=tmp_path).stdout
    assert "there is no storage logs/studies.db" in pgzoo("tune", "show", cwd=tmp_path, status=2).stderr
    monkeypatch.setenv("PGZOO_STORAGE", "runs/studies.db")
    assert "s p" in pgzoo("tune", "show", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("url", "file"),
    [
        ("sqlite:///c.db?timeout=30", "c.db"),
        ("sqlite+pysqlite:///c.db", "c.db"),
        ("sqlite:///{folder}/c.db", "c.db"),
        ("a {x} % é.sqlite", "a {x} % é.sqlite"),
    ],
)
def test_every_command_finds_the_file_of_a_storage(
    url: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finds a URL whose options become a part of the file's name, so that one command accepts it and another not."""
    url = url.replace("{folder}", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    open_study(small(), REGISTRY, open_storage(url))
    assert [path.name for path in tmp_path.iterdir()] == [file]
    assert "small" in pgzoo("tune", "show", "--storage", url, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///c.db?timeout=soon", "timeout must be a number of seconds, not 'soon'"),
        ("sqlite:///c.db?timeout=1&timeout=2", "timeout must be a number of seconds"),
        ("sqlite:///c.db?tiemout=1", "did you mean 'timeout'"),
        ("sqlite:///c.db?mode=ro", "unknown option of an SQLite storage 'mode'"),
        ("postgresql+psycopg://me:{0}@127.0.0.1:1/x", "cannot use the storage postgresql+psycopg://me:…@127.0.0.1:1/x"),
        ("postgresql+psycopg://127.0.0.1:1/x?user=me&password=secret", "password=…"),
    ],
)
def test_a_url_that_a_database_refuses(url: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finds tracebacks for options and braces in URLs, and passwords in messages."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PgzooError) as error:
        open_storage(url)
    assert not list(tmp_path.iterdir())
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_a_long_list_of_plugins_makes_a_short_name() -> None:
    """Finds default names that are too long for a folder, and two lists that share a study."""
    from pgzoo.tuning.studies import default_name

    plugins = ",".join([*REGISTRY.recipes()] * 2)
    assert len(plugins) > 200
    names = {default_name(f"{plugins}_{env}") for env in ("CartPole-v1", "Acrobot-v1")}
    assert len(names) == 2
    for name in names:
        small(name=name).check()
    assert default_name("gae_CartPole-v1") == "gae_CartPole-v1"


def test_a_broken_and_a_locked_file_are_refused_and_kept(tmp_path: Path) -> None:
    broken = tmp_path / "broken.db"
    broken.write_bytes(b"this is not a database, but it is not ours either" * 100)
    error = pgzoo("tune", "--storage", "broken.db", cwd=tmp_path, status=2).stderr
    assert "cannot use the storage broken.db: file is not a database" in error
    assert broken.read_bytes().startswith(b"this is not a database")
    with contextlib.closing(sqlite3.connect(tmp_path / "locked.db")) as other:
        other.execute("CREATE TABLE kept (x)")
        other.commit()
        other.execute("BEGIN EXCLUSIVE")
        error = pgzoo("tune", "--storage", "locked.db", cwd=tmp_path, status=2).stderr
    assert "cannot use the storage locked.db: database is locked" in error


def test_another_study_of_the_same_name_is_refused_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.training.workers.make_executor", lambda *_: InProcessExecutor())
    pgzoo("tune", *QUICK, "--n-trials", "1", "--study-name", "s", "--best", "0", cwd=tmp_path)
    error = pgzoo(
        "tune", *QUICK, "--n-trials", "1", "--study-name", "s", "--metric", "auc", cwd=tmp_path, status=2
    ).stderr
    assert "the study 's' exists with another definition: metrics is ['final'] there and ['auc'] here" in error
    error = pgzoo("train", "--trial", "s:7", cwd=tmp_path, status=2).stderr
    assert "does not have a trial 7 that was trained" in error
    error = pgzoo("train", "--trial", "s:0", "--env", "Acrobot-v1", cwd=tmp_path, status=2).stderr
    assert "--trial brings its own --env" in error
    error = pgzoo("tune", "show", "t", cwd=tmp_path, status=2).stderr
    assert "unknown study 't'" in error
