"""Do the numpy and the sb3 backend learn equally well? The same recipe, environments and number of seeds on both.

    python benchmarks/backends.py [--env Pendulum-v1] [--seeds 10] [--jobs 1] [--out FILE]

A job is one training of `ppo` with its hyperparameters for the environment, without gSDE. It records the mean return
over all episodes of training, and that of the final model over 50 fresh episodes. The backends draw different random
numbers, so seeds are not pairs: the interval is Welch's, as a percentage of the sb3 backend's mean. A run that was
stopped resumes. Results of other code do not count.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
import numpy as np
from jobs import source
from scipy import stats

RESULTS = Path(__file__).parent / "results" / "backends.jsonl"
ENVS = {"CartPole-v1": 60_000, "Pendulum-v1": 100_000}
"""Environments, and the steps of training."""
METRICS = ("training", "final")


def train(env: str, fast: bool, seed: int, n_timesteps: int) -> dict[str, Any]:
    """Return the result of one job."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    from pgzoo import PolicyGradient, Registry
    from pgzoo.training.config import load_config
    from pgzoo.training.environments import make_env
    from pgzoo.training.experiment import TrainConfig, make_model

    class Episodes(BaseCallback):
        """Stores the return of every episode."""

        def __init__(self) -> None:
            super().__init__()
            self.returns: list[float] = []

        def _on_step(self) -> bool:
            self.returns += [info["episode"]["r"] for info in self.locals["infos"] if "episode" in info]
            return True

    torch.set_num_threads(1)
    registry, episodes = Registry.discover(), Episodes()
    config = load_config(registry, "ppo", env, overrides={"use_sde": False, "sde_sample_freq": -1})
    venv = make_env(config, n_envs=config.run.n_envs, seed=seed)
    model: PolicyGradient = make_model(config, registry, venv, TrainConfig(seed=seed, device="cpu", fast=fast))
    model.learn(n_timesteps, callback=episodes)
    fresh = make_env(config, n_envs=1, seed=seed + 1_000_000, training=False)
    final, _ = evaluate_policy(model, fresh, n_eval_episodes=50, deterministic=True)
    return {
        "env": env,
        "backend": model.backend.name,
        "seed": seed,
        "training": float(np.mean(episodes.returns)),
        "final": float(np.mean(final)),
    }


@click.command()
@click.option("--env", "envs", type=click.Choice(list(ENVS)), multiple=True, help="Only these environments.")
@click.option("--seeds", default=10, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Parallel processes.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(envs: tuple[str, ...], seeds: int, jobs: int, out: Path) -> None:
    """Train what is missing, and print the differences."""
    here = source()
    results = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    results = [result for result in results if result.get("code") == here["code"]]
    done = {(result["env"], result["backend"], result["seed"]) for result in results}
    names = {True: "numpy", False: "sb3"}
    out.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool, out.open("a") as file:
        running = [
            pool.submit(train, env, fast, seed, ENVS[env])
            for seed in range(seeds)
            for env in envs or ENVS
            for fast in (True, False)
            if (env, names[fast], seed) not in done
        ]
        for future in as_completed(running):
            results.append({**future.result(), **here})
            file.write(json.dumps(results[-1]) + "\n")
            file.flush()
    click.echo("| environment | metric | seeds | numpy | sb3 | difference, % of sb3 |\n|---|---|---|---|---|---|")
    for env in envs or ENVS:
        for metric in METRICS:
            numpy, sb3 = (
                [r[metric] for r in results if (r["env"], r["backend"]) == (env, backend)]
                for backend in ("numpy", "sb3")
            )
            low, high = stats.ttest_ind(numpy, sb3, equal_var=False).confidence_interval(0.95)
            percent = 100 / abs(float(np.mean(sb3)))
            click.echo(
                f"| {env} | {metric} | {len(numpy)} | {np.mean(numpy):.1f} | {np.mean(sb3):.1f} | "
                f"{(np.mean(numpy) - np.mean(sb3)) * percent:.1f} ({low * percent:.1f} to {high * percent:.1f}) |"
            )


if __name__ == "__main__":
    main()
