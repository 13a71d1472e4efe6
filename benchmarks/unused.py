"""Unused steps of the samplings `episodes` and `groups`, and the time per used step.

    python benchmarks/unused.py                                      the table of docs/groups.md
    python benchmarks/unused.py --recipes rtg_value --envs CartPole-v1

Each job trains a recipe with the configuration of `groups.py`, for a part of its steps. A step is unused if no update
used it, because its environment waited for the last episodes of the rollout. The time is the process's CPU time for
sampling and updates.
"""

from __future__ import annotations

import time

import click
import numpy as np
import torch
from groups import Curve, configured, pgzoo_model


def measure(recipe: str, env: str, seed: int, steps: int) -> tuple[float, float, int]:
    """Return the share of unused steps, the microseconds per used step, and the number of used steps."""
    from pgzoo.training.environments import make_env

    config = configured(recipe, env)
    venv = make_env(config, n_envs=config.run.n_envs, seed=seed)
    model = pgzoo_model(config, venv, seed)
    curve = Curve("", 10**9)
    lengths: list[int] = []
    curve._on_rollout_end = lambda: lengths.append(int(model.rollout.mask.sum()))  # type: ignore[method-assign]
    start = time.process_time()
    model.learn(steps, callback=curve)
    seconds = time.process_time() - start
    venv.close()
    used = int(np.sum(lengths))
    return 1 - used / model.num_timesteps, 1e6 * seconds / used, used


@click.command()
@click.option("--recipes", default="grpo,dr_grpo,rloo,rtg_value", show_default=True, help="Recipes, by commas.")
@click.option("--envs", default="CartPole-v1,Acrobot-v1,pgzoo/Addition-v0", show_default=True, help="Environments.")
@click.option("--seed", default=0, show_default=True, help="The seed.")
@click.option("--steps", default=100_000, show_default=True, help="Environment steps of each training.")
def main(recipes: str, envs: str, seed: int, steps: int) -> None:
    """Train, and print a Markdown table."""
    torch.set_num_threads(1)
    click.echo("| environment | recipe | unused | µs per used step |\n|---|---|---|---|")
    for env in envs.split(","):
        for recipe in recipes.split(","):
            unused, microseconds, _ = measure(recipe, env, seed, steps)
            click.echo(f"| {env} | {recipe} | {unused:.1%} | {microseconds:.0f} |")


if __name__ == "__main__":
    main()
