"""Learning: the mean return of final models over 100 fresh episodes, for each recipe, environment and seed.

    python benchmarks/learning.py                                    the table and figure of docs/learning.md
    python benchmarks/learning.py --recipes gae,ppo --envs LunarLander-v3 --seeds 0,1 --jobs 2

Each model is trained with the recipe's own hyperparameters and evaluated with deterministic actions, on seeds that
training never used. Each result is appended to the results file as soon as it is known, and the next call continues
from there.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import numpy as np
from jobs import fingerprint, run_missing

HERE = Path(__file__).parent
RECIPES = "reinforce,rtg_moving_average,rtg_value,advantage,gae,a2c,ppo"
EVAL_EPISODES = 100
CURVE_POINTS = 40


def train_and_evaluate(recipe: str, env: str, seed: int, pairs: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return one result. Runs in its own process, with one torch thread."""
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
    # The mean return of the last 100 episodes. All environment steps count, including those of environments that wait.
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


def table(results: list[dict[str, Any]]) -> str:
    """Return a Markdown table with one line per environment and recipe."""
    lines = [
        "| environment | recipe | steps | final mean return, by seed | median | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for env, recipe in dict.fromkeys((result["env"], result["recipe"]) for result in results):
        by_seed = sorted((r for r in results if (r["env"], r["recipe"]) == (env, recipe)), key=lambda r: r["seed"])
        finals = [r["final"] for r in by_seed]
        seconds = np.median([r["seconds"] for r in by_seed])
        final_texts = ", ".join(f"{x:.0f}" for x in finals)
        steps = f"{np.median([r['steps'] for r in by_seed]):,.0f}"
        lines.append(f"| {env} | {recipe} | {steps} | {final_texts} | {np.median(finals):.0f} | {seconds:.0f} |")
    return "\n".join(lines)


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Draw one panel per environment: the median over seeds of the training return, and its range."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(result["env"] for result in results))
    fig, axes = plt.subplots(1, len(envs), figsize=(7.5 * len(envs), 4.5), squeeze=False, layout="constrained")
    recipes = list(dict.fromkeys(result["recipe"] for result in results))
    palette: Any = plt.get_cmap("tab10")
    colours = dict(zip(recipes, palette.colors, strict=False))
    for ax, env in zip(axes[0], envs, strict=True):
        for recipe in recipes:
            selected = [r for r in results if (r["env"], r["recipe"]) == (env, recipe)]
            if not selected:
                continue
            curves = np.array([r["curve"] for r in selected], dtype=float)
            steps = selected[0]["curve_steps"]
            ax.plot(steps, np.nanmedian(curves, axis=0), label=recipe, color=colours[recipe])
            low, high = np.nanmin(curves, axis=0), np.nanmax(curves, axis=0)
            ax.fill_between(steps, low, high, color=colours[recipe], alpha=0.12, linewidth=0)
        n_seeds = len({r["seed"] for r in results if r["env"] == env})
        ax.set(
            title=f"{env}, {n_seeds} seeds", xlabel="environment steps", ylabel="mean return of the last 100 episodes"
        )
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:.0f} k")
        ax.grid(alpha=0.3)
        ax.legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


@click.command()
@click.option("--recipes", default=RECIPES, show_default=True, help="Recipes, separated by commas.")
@click.option("--envs", default="CartPole-v1", show_default=True, help="Environments, separated by commas.")
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help="Seeds, separated by commas.")
@click.option("-P", "pairs", multiple=True, help="NAME:VALUE of a hyperparameter to try; use another --out with it.")
@click.option("--jobs", default=2, show_default=True, help="Parallel trainings.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "learning.jsonl",
              help="File of results.")  # fmt: skip
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="File of the figure.")
def main(
    recipes: str, envs: str, seeds: str, pairs: tuple[str, ...], jobs: int, out: Path, figure_path: Path | None
) -> None:
    """Run the missing trainings, then print the table and draw the figure."""
    wanted = [(r, e, int(s)) for e in envs.split(",") for r in recipes.split(",") for s in seeds.split(",")]
    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.config import load_config, parse_pairs

    registry, overrides = default_registry(), parse_pairs(pairs, "-P")
    configs = {
        (r, e): fingerprint(load_config(registry, r, e, overrides=overrides), EVAL_EPISODES) for r, e, _ in wanted
    }
    results = run_missing(train_and_evaluate, wanted, configs, out, jobs, pairs)
    click.echo(table(results))
    if figure_path is not None:
        figure(results, figure_path)


if __name__ == "__main__":
    main()
