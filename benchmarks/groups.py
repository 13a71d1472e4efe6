"""Groups or a critic: GRPO, Dr. GRPO, RLOO, reward-to-go with V, PPO, and SB3's own PPO at equal environment steps.

    python benchmarks/groups.py                                      the table and figure of docs/groups.md
    python benchmarks/groups.py --recipes rloo --envs CartPole-v1 --seeds 0

Every step of every environment counts, those of waiting ones too; a run ends with the update that passes the limit.
A cell's final figure is the final model's: on CartPole-v1 and Acrobot-v1 the mean return of 100 deterministic episodes
on seeds that training never saw; on Addition, base 5 with one digit, the share of right answers when the policy is
sampled 40 times on each of the 25 prompts. Intervals are the percentile bootstrap's, over seeds, of the interquartile
mean.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from cells import Cell, fingerprint, run_missing
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback

HERE = Path(__file__).parent
RECIPES = ("grpo", "dr_grpo", "rloo", "rtg_value", "ppo", "sb3_ppo")
STEPS = {"CartPole-v1": 300_000, "Acrobot-v1": 200_000, "pgzoo/Addition-v0": 500_000}
ENV_KWARGS = {"pgzoo/Addition-v0": {"base": 5}}
CURVE_POINTS = 30
EVAL_EPISODES = 100
SAMPLES = 40
"""Sampled answers to each prompt of Addition."""


def run_cell(recipe: str, env: str, seed: int) -> Cell:
    """Train and evaluate one cell; runs in a process of its own with one torch thread."""
    from stable_baselines3.common.vec_env import sync_envs_normalization

    from pgzoo.training.environments import make_env
    from pgzoo.training.evaluation import evaluate
    from pgzoo.training.experiment import EVAL_SEED_OFFSET

    torch.set_num_threads(1)
    config = configured(recipe, env)
    venv = make_env(config, n_envs=config.run.n_envs, seed=seed)
    model = sb3_ppo(config, venv, seed) if recipe == "sb3_ppo" else ours(config, venv, seed)
    curve = Curve(env, STEPS[env] // CURVE_POINTS)
    began = time.perf_counter()
    model.learn(STEPS[env], callback=curve)
    seconds = time.perf_counter() - began
    if "Addition" in env:
        final = pass_rate(model)
    else:
        fresh = make_env(config, n_envs=1, seed=seed + EVAL_SEED_OFFSET, training=False)
        sync_envs_normalization(venv, fresh)
        final = evaluate(model, fresh, EVAL_EPISODES).mean
    return {
        "recipe": recipe,
        "env": env,
        "seed": seed,
        "steps": model.num_timesteps,
        "seconds": round(seconds, 1),
        "unused": round(float(np.mean(curve.unused)), 3) if curve.unused else 0.0,
        "final": round(float(final), 3),
        "curve_steps": curve.steps,
        "curve": [round(x, 3) for x in curve.values],
    }


def configured(recipe: str, env: str) -> Any:
    """Return a recipe's configuration for the benchmark's number of steps."""
    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.config import load_config

    plugin = "ppo" if recipe == "sb3_ppo" else recipe
    same = {"n_timesteps": STEPS[env], "env_kwargs": ENV_KWARGS.get(env)}
    file = Path(__file__).with_name("ppo.yml") if plugin == "ppo" else None  # what SB3's PPO has as well
    return load_config(default_registry(), plugin, env, file=file, overrides=same)


def ours(config: Any, venv: Any, seed: int) -> Any:
    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.experiment import TrainConfig, make_model

    return make_model(config, default_registry(), venv, TrainConfig(seed=seed, device="cpu"))


def sb3_ppo(config: Any, venv: Any, seed: int) -> Any:
    """Return SB3's own PPO with the hyperparameters of the recipe `ppo`."""
    from stable_baselines3 import PPO

    from pgzoo.interface.schedules import as_schedule

    combination, settings = config.combination, config.combination.algorithm
    same = (
        "n_steps batch_size n_epochs gamma normalize_advantage ent_coef vf_coef max_grad_norm target_kl use_sde "
        "sde_sample_freq"
    )
    return PPO(
        "MlpPolicy",
        venv,
        learning_rate=as_schedule(settings.learning_rate),
        gae_lambda=combination.estimator.gae_lambda,
        clip_range=as_schedule(combination.objective.clip_range),
        policy_kwargs=dict(config.run.policy_kwargs or {}),
        seed=seed,
        device="cpu",
        **{name: getattr(settings, name) for name in same.split()},
    )


class Curve(BaseCallback):
    """Notes the training return, or Addition's pass rate, about every so many steps.

    Attributes:
        steps: environment steps.
        values: the mean return of the last 100 sampled episodes, or the pass rate.
        unused: the share of steps that no update used, rollout by rollout.
    """

    def __init__(self, env: str, every: int) -> None:
        super().__init__()
        self.env, self.every = env, every
        self.steps: list[int] = []
        self.values: list[float] = []
        self.unused: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if (unused := self.logger.name_to_value.get("rollout/unused_steps")) is not None:
            self.unused.append(float(unused))
        episodes = self.model.ep_info_buffer
        if self.num_timesteps >= (len(self.steps) + 1) * self.every and episodes:
            returns = [episode["r"] for episode in episodes]
            self.steps.append(self.num_timesteps)
            self.values.append(pass_rate(self.model) if "Addition" in self.env else float(np.mean(returns)))


def pass_rate(model: Any) -> float:
    """Return the share of right answers over all prompts, sampled SAMPLES times each; training's noise is kept."""
    generator = torch.get_rng_state()
    from pgzoo.envs.addition import Addition

    own = model.get_env().unwrapped.envs[0].unwrapped
    kwargs = {"digits": own.digits, "base": own.base}
    highest = kwargs["base"] ** kwargs["digits"]
    prompts = list(itertools.product(range(highest), repeat=2)) * SAMPLES
    running = [Addition(**kwargs) for _ in prompts]
    observations = [env.reset(options={"prompt": prompt})[0] for env, prompt in zip(running, prompts, strict=True)]
    right = 0.0
    while running:
        actions = model.predict(np.array(observations), deterministic=False)[0]
        results = [env.step(action) for env, action in zip(running, actions, strict=True)]
        right += sum(result[1] for result in results)
        running = [env for env, result in zip(running, results, strict=True) if not result[2]]
        observations = [result[0] for result in results if not result[2]]
    torch.set_rng_state(generator)
    return right / len(prompts)


def interquartile_mean(x: Any, axis: int = -1) -> Any:
    """Return the mean without the lowest and the highest quarter, as rliable's `aggregate_iqm`."""
    return stats.trim_mean(x, 0.25, axis=axis)


def interval(x: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the interquartile mean, by percentile bootstrap over seeds."""
    if len(set(x)) == 1:
        return x[0], x[0]
    found = stats.bootstrap(
        (np.array(x),), interquartile_mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def table(cells: list[Cell]) -> str:
    """Return a Markdown table: a line an environment and recipe."""
    lines = [
        "| environment | recipe | steps | final, by seed | interquartile mean, 95 % interval | unused | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for env, recipe in dict.fromkeys((cell["env"], cell["recipe"]) for cell in cells):
        mine = sorted((c for c in cells if (c["env"], c["recipe"]) == (env, recipe)), key=lambda c: c["seed"])
        finals = [c["final"] for c in mine]
        digits = 2 if "Addition" in env else 0
        low, high = interval(finals)
        shown = ", ".join(f"{x:.{digits}f}" for x in finals)
        iqm = f"{interquartile_mean(finals):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        unused, seconds = np.median([c["unused"] for c in mine]), np.median([c["seconds"] for c in mine])
        steps = f"{np.median([c['steps'] for c in mine]):,.0f}"
        lines.append(f"| {env} | {recipe} | {steps} | {shown} | {iqm} | {unused:.0%} | {seconds:.0f} |")
    return "\n".join(lines)


def figure(cells: list[Cell], path: Path) -> None:
    """Draw a panel an environment: the interquartile mean over seeds, and its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(cell["env"] for cell in cells))
    recipes = list(dict.fromkeys(cell["recipe"] for cell in cells))
    fig, axes = plt.subplots(1, len(envs), figsize=(5.2 * len(envs), 4.2), squeeze=False, layout="constrained")
    for ax, env in zip(axes[0], envs, strict=True):
        grid = np.linspace(0, STEPS[env], CURVE_POINTS + 1)[1:]
        for i, recipe in enumerate(recipes):
            mine = [c for c in cells if (c["env"], c["recipe"]) == (env, recipe)]
            if not mine:
                continue
            curves = np.array([np.interp(grid, c["curve_steps"], c["curve"]) for c in mine])
            bounds = np.array([interval(list(column)) for column in curves.T])
            style = "--" if recipe == "sb3_ppo" else "-"
            ax.plot(grid, interquartile_mean(curves, axis=0), style, label=recipe, color=f"C{i}")
            ax.fill_between(grid, *bounds.T, color=f"C{i}", alpha=0.12, linewidth=0)
        ylabel = "sampled pass@1, all prompts" if "Addition" in env else "mean return of the last 100 episodes"
        ax.set(title=env, xlabel="environment steps", ylabel=ylabel)
        ax.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:.0f} k")
        ax.grid(alpha=0.3)
    axes[0][0].legend(frameon=False, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, dpi=110)


@click.command()
@click.option("--recipes", default=",".join(RECIPES), show_default=True)
@click.option("--envs", default=",".join(STEPS), show_default=True)
@click.option("--seeds", default="0,1,2,3,4", show_default=True)
@click.option("--jobs", default=2, show_default=True, help="Cells side by side.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "groups.jsonl")
@click.option("--figure", "picture", type=click.Path(path_type=Path))
def main(recipes: str, envs: str, seeds: str, jobs: int, out: Path, picture: Path | None) -> None:
    """Run the cells that are missing, then print the table and draw the figure."""
    wanted = [(r, e, int(s)) for e in envs.split(",") for r in recipes.split(",") for s in seeds.split(",")]
    configs = {(r, e): fingerprint(configured(r, e), EVAL_EPISODES, SAMPLES) for r, e, _ in wanted}
    cells = run_missing(run_cell, wanted, configs, out, jobs)
    click.echo(table(cells))
    if picture is not None:
        figure(cells, picture)


if __name__ == "__main__":
    main()
