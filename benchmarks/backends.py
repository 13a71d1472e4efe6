"""Do the fast and the plain path learn alike? The same recipe, environments and number of seeds on both.

    python benchmarks/paths.py [--env Pendulum-v1] [--seeds 10] [--jobs 1] [--out FILE]

A cell is one training of `ppo` with its hyperparameters for the environment, without gSDE; its figures are the mean
return over all of training's episodes, and that of the final model over 50 fresh episodes. The paths have different
random numbers, so that seeds are not pairs: the interval is Welch's, as a share of the plain path's mean. A run that
was stopped goes on; cells of other code do not count.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import click
import numpy as np
from cells import source
from scipy import stats

RESULTS = Path(__file__).parent / "results" / "paths.jsonl"
ENVS = {"CartPole-v1": 60_000, "Pendulum-v1": 100_000}
"""Steps of each."""
FIGURES = ("training", "final")


def train(env: str, fast: bool, seed: int, n_timesteps: int) -> dict[str, Any]:
    """Return one cell."""
    import torch
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.evaluation import evaluate_policy

    from pgzoo import PolicyGradient, Registry
    from pgzoo.training.config import load_config
    from pgzoo.training.environments import make_env
    from pgzoo.training.experiment import TrainConfig, make_model

    class Episodes(BaseCallback):
        """Keeps every episode's return."""

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
    path = model.path.name
    return {"env": env, "path": path, "seed": seed, "training": float(np.mean(episodes.returns)), "final": float(final)}


@click.command()
@click.option("--env", "envs", type=click.Choice(list(ENVS)), multiple=True, help="Of these only.")
@click.option("--seeds", default=10, show_default=True)
@click.option("--jobs", default=1, show_default=True, help="Processes.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=False)
def main(envs: tuple[str, ...], seeds: int, jobs: int, out: Path) -> None:
    """Train what is missing, and print the differences."""
    here = source()
    cells = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    cells = [cell for cell in cells if cell.get("code") == here["code"]]
    done = {(cell["env"], cell["path"], cell["seed"]) for cell in cells}
    names = {True: "mlp", False: "plain"}
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
            cells.append({**future.result(), **here})
            file.write(json.dumps(cells[-1]) + "\n")
            file.flush()
    click.echo("| environment | figure | seeds | fast | plain | difference, % of plain |\n|---|---|---|---|---|---|")
    for env in envs or ENVS:
        for figure in FIGURES:
            fast, plain = ([c[figure] for c in cells if (c["env"], c["path"]) == (env, p)] for p in ("mlp", "plain"))
            low, high = stats.ttest_ind(fast, plain, equal_var=False).confidence_interval(0.95)
            share = 100 / abs(float(np.mean(plain)))
            click.echo(
                f"| {env} | {figure} | {len(fast)} | {np.mean(fast):.1f} | {np.mean(plain):.1f} | "
                f"{(np.mean(fast) - np.mean(plain)) * share:.1f} ({low * share:.1f} to {high * share:.1f}) |"
            )


if __name__ == "__main__":
    main()
