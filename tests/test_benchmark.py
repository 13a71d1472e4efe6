"""Benchmarks: what a file describes, what a job writes, and that interrupted jobs end as if they had not been."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command import PGZOO
from command import pgzoo as command
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecNormalize
from tuning import InProcessExecutor

import pgzoo
from pgzoo.benchmark import run as benchmark_run
from pgzoo.benchmark import worker
from pgzoo.benchmark.config import Benchmark, EnvironmentConfig, Job, parse_seeds, parse_steps, read_benchmark
from pgzoo.benchmark.jobs import ERROR, RESULT, differences
from pgzoo.benchmark.peers import peer_config
from pgzoo.benchmark.run import Estimate, check, duration, plan, run
from pgzoo.errors import ConfigError
from pgzoo.registry.plugins import default_registry
from pgzoo.training import callbacks
from pgzoo.training.callbacks import EvaluationCallback
from pgzoo.training.yaml_files import read_yaml_mapping

ROOT = Path(__file__).parent.parent
SMALL = EnvironmentConfig(steps=600, seeds=(3,), eval_points=3, eval_episodes=2, final_episodes=4)
HYPERPARAMS = {"ppo": {"CartPole-v1": {"n_steps": 32, "n_envs": 2, "batch_size": 32}}}
PEER_FILE = """
sb3:ppo:
  CartPole-v1: {n_envs: 2, policy: MlpPolicy, n_steps: 32, batch_size: 64, learning_rate: lin_0.001, normalize: true,
                gamma: 0.98, policy_kwargs: "dict(net_arch=[16], activation_fn=nn.ReLU)"}
"""


def small(**changes: Any) -> Benchmark:
    given: dict[str, Any] = {"recipes": ("ppo",), "environments": {"CartPole-v1": SMALL}, "hyperparams": HYPERPARAMS}
    return Benchmark(**{**given, **changes})


class Inline(InProcessExecutor):
    """An executor that runs each job in this process, and remembers their names."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[str] = []

    def start(self, function: Callable[..., None], *arguments: Any) -> int:
        self.started.append(arguments[0].name)
        return super().start(function, *arguments)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_print_to", lambda file: None)
    monkeypatch.setattr(benchmark_run, "POLL_SECONDS", 0.0)


def run_all(benchmark: Benchmark, out: Path, **options: Any) -> tuple[Inline, int]:
    executor = Inline()
    todo = plan(benchmark.jobs(out), default_registry(), **options)
    return executor, run(benchmark, out, todo, executor, 1)


def result(job: Job) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((job.folder / RESULT).read_text())
    return loaded


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    """Return a result without wall times."""
    curve = {key: value for key, value in document["curve"].items() if key != "seconds"}
    return {**{k: v for k, v in document.items() if k not in ("seconds", "process_seconds")}, "curve": curve}


# ---------------------------------------------------------------- what a file describes


def test_numbers_as_people_write_them() -> None:
    assert [parse_steps(x) for x in ("100k", "1M", "1.5k", "2_000", 1e6, 7)] == [100_000, 10**6, 1500, 2000, 10**6, 7]
    assert parse_seeds(3) == parse_seeds("0..2") == parse_seeds("0,1,2") == parse_seeds([0, 1, 2]) == (0, 1, 2)
    assert parse_seeds("7,") == parse_seeds([7]) == (7,)
    for wrong in ("", "0", "-1", "1.5", "k", "1kk", True, None, "nan", "1e400"):
        with pytest.raises(ConfigError, match="steps must be a number such as"):
            parse_steps(wrong)
    for no_seeds in ("", "0", "3..1", "a", "1..", "-1", 1.5, [], [1.5], 10**8):
        with pytest.raises(ConfigError, match="seeds must be a number of seeds"):
            parse_seeds(no_seeds)


def test_jobs_of_a_file(tmp_path: Path) -> None:
    """Finds a default that is lost, a setting of one environment that reaches another, and another order."""
    (tmp_path / "b.yml").write_text("""
recipes: [ppo, rtg_value]
peers: sb3:ppo,random
seeds: 2
eval_points: 5
environments:
  CartPole-v1: {steps: 10k, seeds: "4..5", threshold: 475}
  pgzoo/Addition-v0: {steps: 1M, recipes: grpo, peers: [], env_kwargs: {base: 5}}
hyperparams:
  ppo: {CartPole-v1: {gamma: 0.9}}
""")
    jobs = read_benchmark(tmp_path / "b.yml").jobs(tmp_path)
    assert [job.name for job in jobs] == [
        "CartPole-v1 ppo seed 4", "CartPole-v1 ppo seed 5",
        "CartPole-v1 rtg_value seed 4", "CartPole-v1 rtg_value seed 5",
        "CartPole-v1 sb3:ppo seed 4", "CartPole-v1 sb3:ppo seed 5",
        "CartPole-v1 random seed 4",
        "pgzoo/Addition-v0 grpo seed 0", "pgzoo/Addition-v0 grpo seed 1",
    ]  # fmt: skip
    assert dict(jobs[0].hyperparams) == {"n_timesteps": 10_000, "gamma": 0.9}
    assert dict(jobs[2].hyperparams) == {"n_timesteps": 10_000}
    assert dict(jobs[-1].hyperparams) == {"n_timesteps": 10**6, "env_kwargs": {"base": 5}}
    assert {job.config.eval_points for job in jobs} == {5}
    assert jobs[4].folder == tmp_path / "CartPole-v1" / "sb3-ppo" / "seed_4"
    assert len({job.folder for job in jobs}) == len(jobs)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: [ppo]\nenvironments: {CartPole-v1: {}}", "unknown key 'recipe'; did you mean 'recipes'"),
        ("recipes: [ppo]", "environments must be a mapping"),
        (
            "environments: {CartPole-v1: {step: 9}}",
            "environments.CartPole-v1: unknown key 'step'; did you mean 'steps'",
        ),
        ("environments: {CartPole-v1: {steps: many}}", "environments.CartPole-v1: steps must be a number such as"),
        ("environments: {CartPole-v1: {eval_points: 0}}", "eval_points: 0 is not in the range"),
        ("environments: {CartPole-v1: {vec_env: fast}}", "unknown vec_env 'fast'"),
        ("environments: {CartPole-v1: 5}", "environments.CartPole-v1 must be a mapping"),
        ("environments: {CartPole-v1: {env_kwargs: 5}}", "env_kwargs must be a mapping"),
        ("recipes: {a: 1}\nenvironments: {CartPole-v1: {}}", "recipes must be a list of names"),
        ("hyperparams: {ppo: 3}\nenvironments: {CartPole-v1: {}}", "hyperparams.ppo must be a mapping"),
        ("environments: {CartPole-v1: {}}\npublished: [{env: x}]", "published, entry 1 lacks algorithm"),
        ("environments: {CartPole-v1: {}}\npublished: [{score: 1}]", "unknown key 'score'"),
        (
            "environments: {a: {}}\npublished: [{algorithm: x, env: a, steps: 1, mean: high, source: s}]",
            "published, entry 1: mean must be a number, not 'high'",
        ),
    ],
)
def test_wrong_files(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(text)
    got = command("benchmark", "b.yml", cwd=tmp_path, status=2)
    assert "Error: b.yml: " in got.stderr
    assert message in got.stderr
    assert "Traceback" not in got.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["b.yml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name a file, or recipes with --recipes"),
        ("--recipes pppo", "unknown recipe 'pppo'; did you mean 'ppo'"),
        ("--recipes ppo --envs CartPol-v1", "unknown environment 'CartPol-v1'; did you mean 'CartPole-v1'"),
        ("--recipes ppo --peers sb3:poo", "unknown peer 'sb3:poo'; did you mean 'sb3:ppo'"),
        ("--recipes ppo --steps lots", "steps must be a number such as 50000"),
        ("--recipes ppo --seeds x", "seeds must be a number of seeds"),
        ("missing.yml", "cannot read missing.yml"),
        ("--recipes ppo --executor ray", "--executor ray needs Ray"),
    ],
)
def test_wrong_flags(arguments: str, message: str, tmp_path: Path) -> None:
    if "ray" in arguments and importlib.util.find_spec("ray"):
        pytest.skip("Ray is installed")
    got = command("benchmark", *arguments.split(), cwd=tmp_path, status=2)
    assert message in got.stderr
    assert not list(tmp_path.iterdir())


def test_flags_replace_values_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text("recipes: [a2c]\nenvironments: {CartPole-v1: {steps: 5k, threshold: 475}}")
    arguments = ["b.yml", "--recipes", "ppo", "--envs", "CartPole-v1,Acrobot-v1", "--seeds", "7,", "--dry-run"]
    got = command("benchmark", *arguments, cwd=tmp_path)
    assert got.stdout.splitlines()[1:] == ["CartPole-v1 ppo seed 7", "Acrobot-v1 ppo seed 7"]
    assert not (tmp_path / "logs").exists()


# ---------------------------------------------------------------- what a job writes


def test_a_job_is_the_run_of_pgzoo_train(tmp_path: Path) -> None:
    """Finds another seed, other steps or hyperparameters, and an agent that is not the evaluated one."""
    (job,) = small().jobs(tmp_path / "out")
    run_all(small(), tmp_path / "out")
    expected = pgzoo.train(
        "ppo", "CartPole-v1", n_timesteps=600, seed=3, hyperparams=HYPERPARAMS["ppo"]["CartPole-v1"], eval_freq=200,
        eval_episodes=2, n_eval_envs=2, device="cpu", log_folder=tmp_path / "logs",
    )  # fmt: skip
    got = result(job)
    with np.load(expected.folder.path / "evaluations.npz") as arrays:
        assert got["curve"]["steps"] == arrays["timesteps"].tolist() == [200, 400, 600]
        assert got["curve"]["returns"] == arrays["results"].tolist()
        assert 0 < got["curve"]["seconds"][0] < got["curve"]["seconds"][2] <= got["seconds"]
    assert got["n_timesteps"] == expected.n_timesteps
    final = pgzoo.evaluate(job.folder / got["agents"]["final"], n_episodes=4, n_envs=4, seed=2_003_000, device="cpu")
    assert got["final"]["returns"] == list(final.returns)
    assert got["final"]["mean"] == pytest.approx(np.mean(final.returns))
    assert got["settings"]["hyperparameters"]["n_steps"] == 32
    assert set(got["versions"][0]) >= {
        "pgzoo",
        "stable-baselines3",
        "torch",
        "gymnasium",
        "numpy",
        "python",
        "cpu",
        "code",
    }
    assert got["command"].startswith("pgzoo train --plugin ppo --env CartPole-v1 --seed 3 -n 600")
    assert (job.folder / got["agents"]["best"]).is_file()
    assert not (job.folder / "run" / "checkpoints").exists()


def test_a_peer_is_sb3_with_its_hyperparameters(tmp_path: Path) -> None:
    """Finds a value that is lost or read otherwise than RL Zoo does, and another seed or normalisation."""
    (tmp_path / "peers.yml").write_text(PEER_FILE)
    benchmark = small(recipes=(), peers=("sb3:ppo", "random"), hyperparams={}, peer_hyperparams=tmp_path / "peers.yml")
    peer, random = benchmark.jobs(tmp_path / "out")
    run_all(benchmark, tmp_path / "out")
    env = VecNormalize(make_vec_env("CartPole-v1", 2, seed=3), gamma=0.98)
    expected = PPO(
        "MlpPolicy", env, n_steps=32, batch_size=64, learning_rate=LinearSchedule(0.001, 0.0, 1.0), gamma=0.98, seed=3,
        device="cpu", policy_kwargs={"net_arch": [16], "activation_fn": torch.nn.ReLU},
    ).learn(600)  # fmt: skip
    got = result(peer)
    agent = PPO.load(peer.folder / got["agents"]["final"], device="cpu")
    for name, value in expected.policy.state_dict().items():
        torch.testing.assert_close(agent.policy.state_dict()[name], value, rtol=0, atol=1e-7)
    assert got["n_timesteps"] == expected.num_timesteps == 640
    test_env = VecNormalize(make_vec_env("CartPole-v1", 4, seed=2_003_000), training=False, norm_reward=False)
    test_env.obs_rms = env.obs_rms
    returns, _ = evaluate_policy(expected, test_env, 4, return_episode_rewards=True)
    assert got["final"]["returns"] == returns
    assert got["curve"]["steps"] == [200, 400, 600]
    played = pgzoo.evaluate(peer.folder / "run", n_episodes=4, n_envs=4, seed=2_003_000, device="cpu", trusted=True)
    assert list(played.returns) == returns  # as a run of RL Zoo
    assert 5 < result(random)["final"]["mean"] < 60  # 22 on average
    assert result(random)["n_timesteps"] == 0


def test_training_episodes_by_steps(tmp_path: Path) -> None:
    """Two environments: episodes of 10, 20 and 20, and of 30 and 15 steps, end after 20, 60, 100, 60 and 90 steps."""
    for n, rows in enumerate(["1,10,0.1\n2,20,0.2\n6,20,0.3\n", "4,30,0.1\n5,15,0.2\n"]):
        (tmp_path / f"{n}.monitor.csv").write_text(f'#{{"t_start": {n}}}\nr,l,t\n{rows}')
    assert worker.training_curve(tmp_path, 100, 5) == {"steps": [20, 60, 100], "returns": [1.0, 3.0, 5.5]}


def test_time_of_evaluations_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock advances by 1 s at each step of the two environments, and by 1,000 s in each evaluation."""
    clock, write, on_step = [0.0], EvaluationCallback._write, EvaluationCallback._on_step

    def slow(self: Any, evaluation: Any) -> None:
        clock[0] += 1000
        write(self, evaluation)

    def step(self: Any) -> bool:
        clock[0] += 1
        return on_step(self)

    monkeypatch.setattr(callbacks, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(EvaluationCallback, "_write", slow)
    monkeypatch.setattr(EvaluationCallback, "_on_step", step)
    run_all(small(), tmp_path)
    got = result(small().jobs(tmp_path)[0])
    assert got["curve"]["seconds"] == [100, 200, 300]
    assert got["seconds"] == 320


# ---------------------------------------------------------------- finished, changed, failed and killed jobs


def test_a_finished_job_never_runs_again(tmp_path: Path) -> None:
    run_all(small(), tmp_path)
    (job,) = small().jobs(tmp_path)
    before = (job.folder / RESULT).read_bytes()
    more = small(environments={"CartPole-v1": replace(SMALL, seeds=(3, 4))})
    executor, n_unfinished = run_all(more, tmp_path)
    assert executor.started == ["CartPole-v1 ppo seed 4"]
    assert n_unfinished == 0
    assert (job.folder / RESULT).read_bytes() == before


def test_changed_settings_are_told_and_not_mixed(tmp_path: Path) -> None:
    run_all(small(), tmp_path)
    changed = small(hyperparams={"ppo": {"CartPole-v1": {**HYPERPARAMS["ppo"]["CartPole-v1"], "gamma": 0.9}}})
    with pytest.raises(ConfigError, match=r"CartPole-v1 ppo seed 3: gamma 0.99 → 0.9\nUse another --out"):
        run_all(changed, tmp_path)
    executor, _ = run_all(changed, tmp_path, rerun_changed=True)
    assert executor.started == ["CartPole-v1 ppo seed 3"]
    assert result(changed.jobs(tmp_path)[0])["settings"]["hyperparameters"]["gamma"] == 0.9
    assert differences({"steps": 1, "hyperparameters": {}}, {"steps": 1, "hyperparameters": {"x": 2}}) == [
        "x unset → 2"
    ]


def test_other_versions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_all(small(), tmp_path)
    (job,) = small().jobs(tmp_path)
    assert not plan([job], default_registry()).remarks
    monkeypatch.setattr(benchmark_run, "versions", lambda: {**result(job)["versions"][0], "code": "other"})
    assert plan([job], default_registry()).remarks == [
        "1 existing jobs ran with other versions of the code or its libraries, which the report lists"
    ]


def test_a_failed_job_keeps_its_error_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark = small(environments={"CartPole-v1": replace(SMALL, seeds=(3, 4))})
    train = worker._train

    def fails_once(job: Job, *arguments: Any) -> None:
        if job.seed == 3:
            raise ZeroDivisionError("the third seed")
        train(job, *arguments)

    monkeypatch.setattr(worker, "_train", fails_once)
    executor, n_unfinished = run_all(benchmark, tmp_path)
    assert (len(executor.started), n_unfinished) == (2, 1)
    failed = benchmark.jobs(tmp_path)[0]
    assert (failed.folder / ERROR).read_text().startswith("ZeroDivisionError: the third seed")
    assert "Traceback" in (failed.folder / ERROR).read_text()
    monkeypatch.setattr(worker, "_train", train)
    assert run_all(benchmark, tmp_path)[0].started == []
    assert run_all(benchmark, tmp_path, retry=True)[0].started == ["CartPole-v1 ppo seed 3"]
    assert result(failed)["n_timesteps"] == 640


def test_a_killed_job_ends_as_if_it_had_not_been_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finds a job that begins again, loses evaluations or training episodes, or continues from another state."""
    monkeypatch.setattr(worker, "CHECKPOINT_EVERY", "128")
    config = replace(SMALL, steps=2400, eval_points=12)
    benchmark = small(environments={"CartPole-v1": config})
    (whole,), (killed,) = benchmark.jobs(tmp_path / "whole"), benchmark.jobs(tmp_path / "killed")
    run_all(benchmark, tmp_path / "whole")
    for moment in (500, 1500):
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            worker.run_job(killed)
            os._exit(0)
        while not any(int(p.name) > moment for p in (killed.folder / "run" / "checkpoints").glob("[0-9]*")):
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        assert not (killed.folder / RESULT).exists()
    run_all(benchmark, tmp_path / "killed")
    steps = re.search(r"Resumed after ([\d,]+) steps", capsys.readouterr().err)
    assert steps is not None
    assert int(steps[1].replace(",", "")) > 1500
    assert without_times(result(killed)) == without_times(result(whole))
    assert len(result(killed)["curve"]["steps"]) == 12
    seconds = [0.0, *result(killed)["curve"]["seconds"], result(killed)["seconds"]]
    assert seconds == sorted(seconds)  # the time before the kill counts


def test_a_second_command_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    from pgzoo.files import file_lock

    with file_lock(tmp_path / "lock", "", 0), pytest.raises(ConfigError, match="another pgzoo benchmark is running"):
        run_all(small(), tmp_path)


def test_the_time_left(tmp_path: Path) -> None:
    """Steps are the unit: a job of 600 steps took 6 s, so one of 1200 on two cores takes about 12 s / 2."""
    run_all(small(), tmp_path)
    (job,) = small().jobs(tmp_path)
    document = {**result(job), "process_seconds": 6.0}
    (job.folder / RESULT).write_text(json.dumps(document))
    longer = replace(job, config=replace(job.config, steps=1200))
    estimate = Estimate([job])
    assert estimate.left([longer], [], 2) == "6 s"
    assert estimate.left([replace(longer, algorithm="a2c")], [job], 1) == "15 s"  # half of the running job
    assert Estimate([]).left([longer], [], 2) == ""
    assert [duration(x) for x in (5, 90, 4000, 200_000)] == ["5 s", "2 min", "1.1 h", "2.3 days"]


# ---------------------------------------------------------------- the zoo's own benchmark


def test_the_benchmark_of_the_zoo_is_valid(tmp_path: Path) -> None:
    benchmark = read_benchmark(ROOT / "benchmarks" / "zoo.yml")
    installed = {env: config for env, config in benchmark.environments.items() if env in ("CartPole-v1", "Acrobot-v1")}
    check(replace(benchmark, environments=installed), tmp_path, default_registry())
    jobs = benchmark.jobs(tmp_path)
    for job in {(job.algorithm, job.env): job for job in jobs if job.algorithm.startswith("sb3:")}.values():
        config, _ = peer_config(job, default_registry())
        assert config.run.n_timesteps == job.config.steps
        assert not config.source.endswith(", default"), job.name
    assert {row["env"] for row in benchmark.published} <= set(benchmark.environments)


@pytest.mark.skipif(not importlib.util.find_spec("rl_zoo3"), reason="needs rl_zoo3")
@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_hyperparameters_of_peers_are_those_of_rl_zoo(name: str) -> None:
    spec = importlib.util.find_spec("rl_zoo3")
    assert spec is not None
    assert spec.origin is not None
    rl_zoo = read_yaml_mapping(Path(spec.origin).parent / "hyperparams" / f"{name}.yml")
    rl_zoo["MiniGrid-MultiRoom-N2-S4-v0"] = rl_zoo.get("MiniGrid-MultiRoom-N4-S5-v0")
    rl_zoo["pgzoo/Addition-v0"] = rl_zoo["default"]
    ours = read_yaml_mapping(ROOT / "benchmarks" / "rl_zoo.yml")[f"sb3:{name}"]
    from pgzoo.training.python_literals import with_data

    compared = 0
    for env, entry in ours.items():
        if name == "a2c" and env.startswith("MiniGrid"):
            assert env not in rl_zoo or rl_zoo[env] is None
            continue
        expected = {key: value for key, value in with_data(rl_zoo[env]).items() if key != "n_timesteps"}
        assert entry == expected, env
        compared += 1
    assert compared >= 10


# ---------------------------------------------------------------- processes


def children(folder: Path) -> list[int]:
    """Return the processes that work in a folder, apart from the command itself."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            targets = {os.readlink(link) for link in (path / "fd").iterdir()}
        except OSError:
            continue
        if any(target.startswith(str(folder)) and target.endswith("log.txt") for target in targets):
            found.append(int(path.name))
    return found


def wait_for(condition: Any, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_killed_and_an_interrupted_command_give_the_same_table(tmp_path: Path) -> None:
    """Finds jobs that outlive their command, a Ctrl-C that fails a job, and results that differ from one whole run."""
    (tmp_path / "b.yml").write_text("""
recipes: [ppo]
environments: {CartPole-v1: {steps: 40k, seeds: 2, eval_points: 4, eval_episodes: 3, final_episodes: 5}}
""")

    def start(out: str) -> subprocess.Popen[str]:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore SIGINT
        return subprocess.Popen(
            [*PGZOO, "benchmark", "b.yml", "--jobs", "2", "--out", out], cwd=tmp_path, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    whole = start("whole")
    assert whole.wait(400) == 0
    first = tmp_path / "killed" / "CartPole-v1" / "ppo" / "seed_0"
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start("killed")
        wait_for(lambda: any((first / "run" / "checkpoints").glob("[0-9]*")) and children(tmp_path / "killed"))
        time.sleep(2)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does
        else:
            process.kill()
        assert process.wait(60) == (130 if number == signal.SIGINT else -number)
        wait_for(lambda: not children(tmp_path / "killed"), 30)
        assert not list(first.glob("error.txt"))
    assert "The same command continues the benchmark." in process.communicate()[1]
    assert start("killed").wait(400) == 0
    rows = []
    for out in ("whole", "killed"):
        command("benchmark", "report", out, cwd=tmp_path)
        lines = (tmp_path / out / "report.md").read_text().splitlines()
        header, row = (
            next(line.split("|") for line in lines if line.startswith(start)) for start in ("| alg", "| ppo")
        )
        rows.append({name.strip(): cell for name, cell in zip(header, row, strict=True) if "seconds" not in name})
    assert rows[0] == rows[1]
    assert rows[0]["seeds"] == " 2 "
    for file in sorted((tmp_path / "whole").rglob(RESULT)):
        other = tmp_path / "killed" / file.relative_to(tmp_path / "whole")
        assert without_times(json.loads(other.read_text())) == without_times(json.loads(file.read_text()))


@pytest.mark.slow
def test_jobs_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from pgzoo.training.workers import Ray

    out, jobs = tmp_path / "ray", small().jobs(tmp_path / "ray")
    executor = Ray("local")
    assert run(small(), out, plan(jobs, default_registry()), executor, 2) == 0
    run_all(small(), tmp_path / "here")
    assert without_times(result(jobs[0])) == without_times(result(small().jobs(tmp_path / "here")[0]))
