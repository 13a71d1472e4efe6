"""Compare `pgzoo tune` with RL Zoo's `-optimize`: wall time, and the value of the best trial on fresh seeds.

    python benchmarks/tuning.py --rl-zoo .venv-rl-zoo/bin/python [--rounds 2] [--n-trials 20] [-n 20000]

Both search PPO on the same environment, with the same number of trials, steps per trial, environments, evaluations and
random startup trials, the same sampler (TPE) and pruner (median), on one core. Each project uses its own search space.
pgzoo runs with `--no-defaults`, because RL Zoo's studies do not begin with a default. The two take turns, and each
round uses another seed. The best trial of each study is then trained on fresh seeds with the project's own command, and
every final model plays the same episodes. Results are appended to the output file.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

COMMON = ["--sampler", "tpe", "--pruner", "median", "--n-startup-trials", "5", "--n-evaluations", "4",
          "--eval-episodes", "5", "--n-jobs", "1"]  # fmt: skip
FRESH_SEED = 50_000
EPISODES = 100
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def run(command: list[str], folder: Path) -> float:
    """Return the seconds of a command."""
    began = time.perf_counter()
    result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise click.ClickException(f"{' '.join(command)}:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
    return time.perf_counter() - began


def pgzoo_study(env: str, steps: int, trials: int, seed: int, folder: Path) -> float:
    """Run pgzoo's study, and return its seconds."""
    return run(
        [sys.executable, "-m", "pgzoo", "tune", "--plugin", "ppo", "--env", env, "-n", str(steps), "--n-trials",
         str(trials), "--seed", str(seed), "--best", "0", "--no-defaults", "--study-name", "s", "--storage", "s.db",
         *COMMON], folder,
    )  # fmt: skip


def rl_zoo_study(python: str, env: str, steps: int, trials: int, seed: int, folder: Path) -> float:
    """Run RL Zoo's study, and return its seconds."""
    return run(
        [python, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", env, "-n", str(steps), "-optimize", "--n-trials",
         str(trials), "--seed", str(seed), "--study-name", "s", "--storage", "sqlite:///s.db", "--no-optim-plots",
         *COMMON], folder,
    )  # fmt: skip


def best(folder: Path) -> tuple[int, float, dict[str, int]]:
    """Return the number and value of the best trial, and the number of trials in each state."""
    import optuna

    study = optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/s.db")
    states = [trial.state.name.lower() for trial in study.trials]
    return study.best_trial.number, study.best_value, {state: states.count(state) for state in set(states)}


def pgzoo_models(number: int, seeds: list[int], folder: Path) -> list[Path]:
    """Train a trial of pgzoo's study on each seed, and return the models."""
    for seed in seeds:
        run(
            [sys.executable, "-m", "pgzoo", "train", "--trial", f"s:{number}", "--storage", "s.db", "--seed", str(seed),
             "--eval-freq", "-1", "--no-progress", "-f", f"fresh/{seed}"], folder,
        )  # fmt: skip
    return [next((folder / "fresh" / str(seed)).rglob("*-v*.zip")) for seed in seeds]


def rl_zoo_models(python: str, env: str, steps: int, number: int, seeds: list[int], folder: Path) -> list[Path]:
    """Train a trial of RL Zoo's study on each seed, and return the models."""
    for seed in seeds:
        run(
            [python, "-m", "rl_zoo3.train", "--algo", "ppo", "--env", env, "-n", str(steps), "--trial-id", str(number),
             "--study-name", "s", "--storage", "sqlite:///s.db", "--seed", str(seed), "--eval-freq", "-1",
             "-f", f"fresh/{seed}"], folder,
        )  # fmt: skip
    return [next((folder / "fresh" / str(seed)).rglob("*-v*.zip")) for seed in seeds]


def score(model: Path, env: str, is_rl_zoo: bool) -> float:
    """Return the mean return of a final model over episodes that are the same for all models."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    from pgzoo import PolicyGradient
    from pgzoo.training.evaluation import evaluate

    venv = make_vec_env(env, n_envs=10, seed=2_000_000)
    return evaluate((PPO if is_rl_zoo else PolicyGradient).load(model, device="cpu"), venv, EPISODES).mean


def measure(
    project: str, python: str, env: str, steps: int, trials: int, seed: int, seeds: list[int]
) -> dict[str, Any]:
    """Run one study of a project, "pgzoo" or "RL Zoo", and score its best trial on fresh seeds."""
    is_rl_zoo = project == "RL Zoo"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if is_rl_zoo:
            seconds = rl_zoo_study(python, env, steps, trials, seed, folder)
        else:
            seconds = pgzoo_study(env, steps, trials, seed, folder)
        number, value, states = best(folder)
        if is_rl_zoo and number == 0:
            raise click.ClickException(
                "RL Zoo's best is trial 0, which its --trial-id cannot load; give another --seed"
            )
        if is_rl_zoo:
            models = rl_zoo_models(python, env, steps, number, seeds, folder)
        else:
            models = pgzoo_models(number, seeds, folder)
        scores = [score(model, env, is_rl_zoo) for model in models]
    result = {"search": value, "fresh": scores, "trial": number, "states": states, "seconds": round(seconds, 1)}
    return {"who": project, "env": env, "steps": steps, "trials": trials, "seed": seed, **result}


@click.command()
@click.option("--rl-zoo", "python", required=True, help="A Python interpreter with rl_zoo3.")
@click.option("--env", default="CartPole-v1", show_default=True)
@click.option("-n", "--n-timesteps", "steps", default=20_000, show_default=True)
@click.option("--n-trials", "trials", default=20, show_default=True)
@click.option("--rounds", default=2, show_default=True)
@click.option("--fresh-seeds", default=5, show_default=True)
@click.option("--seed", default=1, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/tuning.jsonl"))
def main(python: str, env: str, steps: int, trials: int, rounds: int, fresh_seeds: int, seed: int, out: Path) -> None:
    """Print a table: seconds of the search, its best value, and the mean on fresh seeds."""
    python = str(Path(python).absolute())
    seeds = list(range(FRESH_SEED, FRESH_SEED + fresh_seeds))
    results: list[dict[str, Any]] = []
    for round_ in range(rounds):
        for project in ("pgzoo", "RL Zoo"):
            results.append(measure(project, python, env, steps, trials, seed + round_, seeds))
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a") as file:
                file.write(json.dumps(results[-1]) + "\n")
            click.echo(f"{project}: {results[-1]}", err=True)
    click.echo("| | search, s | best value of the search | its mean on fresh seeds | trials |\n|---|---|---|---|---|")
    for result in results:
        states = ", ".join(f"{n} {state}" for state, n in sorted(result["states"].items()))
        mean = statistics.mean(result["fresh"])
        click.echo(f"| {result['who']} | {result['seconds']:.0f} | {result['search']:.0f} | {mean:.0f} | {states} |")
    ratios = [results[i]["seconds"] / results[i + 1]["seconds"] for i in range(0, len(results), 2)]
    click.echo(f"pgzoo's time divided by RL Zoo's, median of {len(ratios)} rounds: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
