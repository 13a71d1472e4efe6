"""Learning: every recipe, environment and seed is a cell; what a final model earns over 100 fresh episodes.

    python benchmarks/learning.py                                    the table and figure of the README
    python benchmarks/learning.py --recipes gae,ppo --envs LunarLander-v3 --seeds 0,1 --jobs 2

Each cell trains with the recipe's own hyperparameters file, is evaluated deterministically on seeds that
training never saw, and is appended to the results file at once: a run that was stopped goes on where it was.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from cells import fingerprint, run_missing

HERE = Path(__file__).parent
RECIPES = "reinforce,rtg_moving_average,rtg_value,advantage,gae,a2c,ppo"
EVAL_EPISODES = 100
CURVE_POINTS = 40


def run_cell(recipe: str, env: str, seed: int, pairs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Train and evaluate one cell; runs in a process of its own with one torch thread."""
    import torch

    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.config import load_config, parse_pairs
    from pgzoo.training.experiment import TrainConfig, train
    from pgzoo.training.run_folder import new_folder

    torch.set_num_threads(1)
    registry = default_registry()
    config = load_config(registry, recipe, env, overrides=parse_pairs(pairs, "-P"))
    options = TrainConfig(seed=seed, device="cpu", eval_freq=-1, eval_episodes=EVAL_EPISODES)
    with tempfile.TemporaryDirectory() as directory:
        folder = new_folder(Path(directory), recipe, env)
        result = train(config, registry, options, folder)
        log = np.genfromtxt(folder.path / "progress.csv", delimiter=",", names=True, deletechars="")
    assert result.final is not None
    # The mean return of the last 100 sampled episodes, over all environment steps, those of waiting ones included.
    steps, returns = log["time/total_timesteps"], log["rollout/ep_rew_mean"]
    grid = np.linspace(0, config.run.n_timesteps, CURVE_POINTS + 1)[1:]
    known = np.isfinite(steps) & np.isfinite(returns)
    curve = np.interp(grid, steps[known], returns[known], left=np.nan)
    return {
        "recipe": recipe,
        "env": env,
        "seed": seed,
        "steps": result.n_timesteps,
        "seconds": round(result.seconds, 1),
        "final": round(result.final.mean, 2),
        "curve_steps": [int(x) for x in grid],
        "curve": [None if np.isnan(r) else round(float(r), 2) for r in curve],
    }


def table(cells: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a line a recipe and environment, the seeds' final means in order."""
    lines = [
        "| environment | recipe | steps | final mean return, by seed | median | seconds |",
        "|---|---|---|---|---|---|",
    ]
    keys = list(dict.fromkeys((cell["env"], cell["recipe"]) for cell in cells))
    for env, recipe in keys:
        mine = sorted((c for c in cells if (c["env"], c["recipe"]) == (env, recipe)), key=lambda c: c["seed"])
        finals = [c["final"] for c in mine]
        seconds = np.median([c["seconds"] for c in mine])
        shown = ", ".join(f"{x:.0f}" for x in finals)
        steps = f"{np.median([c['steps'] for c in mine]):,.0f}"
        lines.append(f"| {env} | {recipe} | {steps} | {shown} | {np.median(finals):.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def figure(cells: list[dict[str, Any]], path: Path) -> None:
    """Draw a panel an environment: the median over seeds of the training return, and its range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(cell["env"] for cell in cells))
    fig, axes = plt.subplots(1, len(envs), figsize=(7.5 * len(envs), 4.5), squeeze=False, layout="constrained")
    recipes = list(dict.fromkeys(cell["recipe"] for cell in cells))
    colours = dict(zip(recipes, plt.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    for ax, env in zip(axes[0], envs, strict=True):
        for recipe in recipes:
            mine = [c for c in cells if (c["env"], c["recipe"]) == (env, recipe)]
            if not mine:
                continue
            curves = np.array([c["curve"] for c in mine], dtype=float)
            steps = mine[0]["curve_steps"]
            ax.plot(steps, np.nanmedian(curves, axis=0), label=recipe, color=colours[recipe])
            low, high = np.nanmin(curves, axis=0), np.nanmax(curves, axis=0)
            ax.fill_between(steps, low, high, color=colours[recipe], alpha=0.12, linewidth=0)
        n_seeds = len({c["seed"] for c in cells if c["env"] == env})
        ax.set(
            title=f"{env}, {n_seeds} seeds", xlabel="environment steps", ylabel="mean return of the last 100 episodes"
        )
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:.0f} k")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


@click.command()
@click.option("--recipes", default=RECIPES, show_default=True)
@click.option("--envs", default="CartPole-v1", show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("-P", "pairs", multiple=True, help="Hyperparameters, to try some out; use another --out then.")
@click.option("--jobs", default=2, show_default=True, help="Cells side by side.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "learning.jsonl")
@click.option("--figure", "picture", type=click.Path(path_type=Path))
def main(
    recipes: str, envs: str, seeds: str, pairs: tuple[str, ...], jobs: int, out: Path, picture: Path | None
) -> None:
    """Run the cells that are missing, then print the table and draw the figure."""
    wanted = [(r, e, int(s)) for e in envs.split(",") for r in recipes.split(",") for s in seeds.split(",")]
    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.config import load_config, parse_pairs

    registry, overrides = default_registry(), parse_pairs(pairs, "-P")
    configs = {
        (r, e): fingerprint(load_config(registry, r, e, overrides=overrides), EVAL_EPISODES) for r, e, _ in wanted
    }
    cells = run_missing(run_cell, wanted, configs, out, jobs, pairs)
    click.echo(table(cells))
    if picture is not None:
        figure(cells, picture)


if __name__ == "__main__":
    main()
