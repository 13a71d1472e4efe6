"""Compare `pgzoo tune` with RL Zoo's `-optimize`, and with an earlier version of itself.

    git worktree add ../pgzoo-before 7ac9616
    python benchmarks/tuning.py --rl-zoo .venv-rl-zoo/bin/python --before ../pgzoo-before --rounds 5 --env CartPole-v1

All search PPO on the same environment, with the same number of trials, steps per trial, evaluations and random startup
trials, the same sampler (TPE) and pruner (median), on one core. Each uses its own search space. pgzoo runs with
`--no-defaults`, because RL Zoo's studies do not begin with a default. They take turns, and each round uses another
seed. The best trial of each study is then trained on fresh seeds with the project's own command, and every final model
plays 100 episodes, the same ones in each project. Results are appended to the output file; what it contains is not
measured again.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from pgzoo.formatting import format_number
from pgzoo.training.evaluation import bootstrap_interval

COMMON = ["--sampler", "tpe", "--pruner", "median", "--n-startup-trials", "5", "--n-evaluations", "4",
          "--eval-episodes", "5", "--n-jobs", "1"]  # fmt: skip
FRESH_SEED = 50_000
EPISODE_SEED = 2_000_000
EPISODES, N_ENVS = 100, 10


@dataclass(frozen=True)
class Search:
    """What every project searches: PPO on an environment."""

    env: str
    steps: int
    trials: int
    seed: int
    fresh_seeds: Sequence[int]


@dataclass(frozen=True)
class PgzooProject:
    """A version of pgzoo.

    Attributes:
        name: its name in the table.
        path: a checkout of an earlier version; None: the installed one.
    """

    name: str
    path: Path | None = None

    def command(self, *arguments: Any) -> list[str]:
        """Return a command line of this version."""
        return [sys.executable, "-m", "pgzoo", *map(str, arguments)]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which this version is imported."""
        path = {"PYTHONPATH": f"{self.path}:{self.path / 'plugins'}"} if self.path else {}
        return {**os.environ, "OMP_NUM_THREADS": "1", **path}

    def search(self, search: Search, folder: Path) -> float:
        """Run a study, and return its seconds."""
        command = self.command(
            "tune", "--plugin", "ppo", "--env", search.env, "-n", search.steps, "--n-trials", search.trials, "--seed",
            search.seed, "--best", 0, "--no-defaults", "--study-name", "s", "--storage", "s.db", *COMMON,
        )  # fmt: skip
        return run(command, folder, self.environment)

    def scores(self, search: Search, trial: int, folder: Path) -> list[float]:
        """Train a trial on each fresh seed, and return the mean return of each final model."""
        scores = []
        for seed in search.fresh_seeds:
            command = self.command(
                "train", "--trial", f"s:{trial}", "--storage", "s.db", "--seed", seed, "--eval-freq", -1,
                "--no-progress", "-f", f"fresh/{seed}",
            )  # fmt: skip
            run(command, folder, self.environment)
            model = next((folder / "fresh" / str(seed)).rglob(f"{search.env}.zip"))
            evaluation = ["eval", model.parent, "-n", EPISODES, "--n-envs", N_ENVS, "--seed", EPISODE_SEED, "--json"]
            output = subprocess.run(
                self.command(*evaluation), cwd=folder, env=self.environment, capture_output=True, text=True, check=True
            ).stdout
            scores.append(json.loads(output)["mean_return"])
        return scores


@dataclass(frozen=True)
class RLZooProject:
    """RL Zoo.

    Attributes:
        python: a Python interpreter that has it.
        name: its name in the table.
    """

    python: str
    name: str = "RL Zoo"
    environment: dict[str, str] = field(default_factory=lambda: {**os.environ, "OMP_NUM_THREADS": "1"})

    def command(self, search: Search, *arguments: Any) -> list[str]:
        """Return a command line about the study."""
        study = ["--study-name", "s", "--storage", "sqlite:///s.db"]
        words = ["-m", "rl_zoo3.train", "--algo", "ppo", "--env", search.env, "-n", search.steps, *study, *arguments]
        return [self.python, *map(str, words)]

    def search(self, search: Search, folder: Path) -> float:
        """Run a study, and return its seconds."""
        command = self.command(
            search, "-optimize", "--n-trials", search.trials, "--seed", search.seed, "--no-optim-plots", *COMMON
        )
        return run(command, folder, self.environment)

    def scores(self, search: Search, trial: int, folder: Path) -> list[float]:
        """Train a trial on each fresh seed, and return the mean return of each final model."""
        from stable_baselines3 import PPO
        from stable_baselines3.common.env_util import make_vec_env

        from pgzoo.training.evaluation import evaluate

        if trial == 0:
            raise click.ClickException("RL Zoo's best is trial 0, which its --trial-id cannot load; use another --seed")
        scores = []
        for seed in search.fresh_seeds:
            options = ["--trial-id", trial, "--seed", seed, "--eval-freq", -1, "-f", f"fresh/{seed}"]
            run(self.command(search, *options), folder, self.environment)
            (model,) = (folder / "fresh" / str(seed)).rglob(f"{search.env}.zip")
            assert not list(model.parent.rglob("vecnormalize.pkl")), "PPO's settings of these environments have none"
            env = make_vec_env(search.env, n_envs=N_ENVS, seed=EPISODE_SEED)
            scores.append(evaluate(PPO.load(model, device="cpu"), env, EPISODES).mean)
        return scores


def run(command: list[str], folder: Path, environment: dict[str, str]) -> float:
    """Return the seconds of a command."""
    began = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        raise click.ClickException(f"{' '.join(command)}:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
    return time.perf_counter() - began


def measure(project: PgzooProject | RLZooProject, search: Search) -> dict[str, Any]:
    """Run one study of a project, and score its best trial on fresh seeds."""
    import optuna

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = project.search(search, folder)
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")
        states = [trial.state.name.lower() for trial in study.trials]
        scores = project.scores(search, study.best_trial.number, folder)
    return {
        "who": project.name, "env": search.env, "steps": search.steps, "trials": search.trials, "seed": search.seed,
        "seconds": round(seconds, 1), "search": study.best_value, "fresh": scores, "params": study.best_params,
        "states": {state: states.count(state) for state in sorted(set(states))},
    }  # fmt: skip


def table(results: list[dict[str, Any]]) -> str:
    """Return the table of all results: medians of seconds, means over rounds with their 95 % bootstrap intervals."""
    lines = [
        "| environment | | rounds | search, s | best value of the search | its mean on fresh seeds | trials pruned |"
    ]
    lines.append("|---|---|---|---|---|---|---|")
    for env in dict.fromkeys(result["env"] for result in results):
        for who in dict.fromkeys(result["who"] for result in results):
            own = [result for result in results if (result["env"], result["who"]) == (env, who)]
            if not own:
                continue
            means = np.array([statistics.mean(result["fresh"]) for result in own])
            low, high = map(format_number, bootstrap_interval(means))
            pruned = sum(result["states"].get("pruned", 0) for result in own) / sum(r["trials"] for r in own)
            lines.append(
                f"| {env} | {who} | {len(own)} | {statistics.median(r['seconds'] for r in own):.0f} | "
                f"{format_number(statistics.mean(r['search'] for r in own))} | {format_number(float(means.mean()))} "
                f"({low} to {high}) | {pruned:.0%} |"
            )
    return "\n".join(lines)


@click.command()
@click.option("--rl-zoo", "python", required=True, help="A Python interpreter with rl_zoo3.")
@click.option("--before", type=click.Path(path_type=Path, exists=True), help="A checkout of an earlier version.")
@click.option("--env", default="CartPole-v1", show_default=True)
@click.option("-n", "--n-timesteps", "steps", default=20_000, show_default=True)
@click.option("--n-trials", "trials", default=20, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--fresh-seeds", default=5, show_default=True)
@click.option("--seed", default=1, show_default=True, help="The seed of the first round.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/tuning.jsonl"))
def main(
    python: str, before: Path | None, env: str, steps: int, trials: int, rounds: int, fresh_seeds: int, seed: int,
    out: Path,
) -> None:  # fmt: skip
    """Measure what is missing, and print a table of everything that was measured."""
    projects: list[PgzooProject | RLZooProject] = [PgzooProject("pgzoo"), RLZooProject(str(Path(python).absolute()))]
    if before is not None:
        projects.insert(1, PgzooProject("pgzoo before", before.absolute()))
    results = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    fresh = range(FRESH_SEED, FRESH_SEED + fresh_seeds)
    for round_ in range(rounds):
        search = Search(env, steps, trials, seed + round_, fresh)
        for project in projects[round_ % len(projects) :] + projects[: round_ % len(projects)]:
            wanted = {"who": project.name, "env": env, "steps": steps, "trials": trials, "seed": search.seed}
            if any(wanted.items() <= result.items() for result in results):
                continue
            results.append(measure(project, search))
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
            click.echo(f"round {round_}: {results[-1]}", err=True)
    click.echo(table(results))


if __name__ == "__main__":
    main()
