"""Groups or a critic: GRPO, Dr. GRPO, RLOO, reward-to-go with V, PPO, and SB3's own PPO at equal environment steps.

    python benchmarks/groups.py                                      the table and figure of docs/groups.md
    python benchmarks/groups.py --recipes rloo --envs CartPole-v1 --seeds 0

All environment steps count. A training ends with the update that exceeds the limit. The result is the final model's. On
CartPole-v1 and Acrobot-v1 it is the mean return of 100 deterministic episodes, on seeds that training never used. On
Addition (base 5, one digit) it is the fraction of right answers when the policy is sampled 40 times on each of the 25
prompts. Intervals are percentile bootstrap intervals of the interquartile mean over seeds.
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
from jobs import JobResult, fingerprint, run_missing
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback

HERE = Path(__file__).parent
RECIPES = ("grpo", "dr_grpo", "rloo", "rtg_value", "ppo", "sb3_ppo")
STEPS = {"CartPole-v1": 300_000, "Acrobot-v1": 200_000, "pgzoo/Addition-v0": 500_000}
ENV_KWARGS = {"pgzoo/Addition-v0": {"base": 5}}
CURVE_POINTS = 30
EVAL_EPISODES = 100
SAMPLES = 40
"""Sampled answers per prompt of Addition."""


def train_and_evaluate(recipe: str, env: str, seed: int) -> JobResult:
    """Return one result. Runs in its own process, with one torch thread."""
    from stable_baselines3.common.vec_env import sync_envs_normalization

    from pgzoo.training.environments import make_env
    from pgzoo.training.evaluation import evaluate
    from pgzoo.training.experiment import EVAL_SEED_OFFSET

    torch.set_num_threads(1)
    config = configured(recipe, env)
    venv = make_env(config, n_envs=config.run.n_envs, seed=seed)
    model = sb3_ppo(config, venv, seed) if recipe == "sb3_ppo" else pgzoo_model(config, venv, seed)
    curve = Curve(env, STEPS[env] // CURVE_POINTS)
    start = time.perf_counter()
    model.learn(STEPS[env], callback=curve)
    seconds = time.perf_counter() - start
    if "Addition" in env:
        final = pass_rate(model)
    else:
        eval_env = make_env(config, n_envs=1, seed=seed + EVAL_SEED_OFFSET, training=False)
        sync_envs_normalization(venv, eval_env)
        final = evaluate(model, eval_env, EVAL_EPISODES).mean
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
    overrides = {"n_timesteps": STEPS[env], "env_kwargs": ENV_KWARGS.get(env)}
    file = Path(__file__).with_name("ppo.yml") if plugin == "ppo" else None  # only hyperparameters that SB3's PPO has
    return load_config(default_registry(), plugin, env, file=file, overrides=overrides)


def pgzoo_model(config: Any, venv: Any, seed: int) -> Any:
    from pgzoo.registry.plugins import default_registry
    from pgzoo.training.experiment import TrainConfig, make_model

    return make_model(config, default_registry(), venv, TrainConfig(seed=seed, device="cpu"))


def sb3_ppo(config: Any, venv: Any, seed: int) -> Any:
    """Return SB3's own PPO with the hyperparameters of the recipe `ppo`."""
    from stable_baselines3 import PPO

    from pgzoo.interface.schedules import as_schedule
    from pgzoo.registry.spellings import normalization

    combination, settings = config.combination, config.combination.algorithm
    shared = "n_steps gamma use_sde sde_sample_freq"
    of_update = "batch_size n_epochs ent_coef vf_coef max_grad_norm target_kl"
    return PPO(
        "MlpPolicy",
        venv,
        learning_rate=as_schedule(settings.learning_rate),
        gae_lambda=combination.estimator.gae_lambda,
        clip_range=as_schedule(combination.objective.clip_range),
        normalize_advantage=bool(normalization(combination.scale)),
        policy_kwargs=dict(config.run.policy_kwargs or {}),
        seed=seed,
        device="cpu",
        **{name: getattr(settings, name) for name in shared.split()},
        **{name: getattr(combination.update, name) for name in of_update.split()},
    )


class Curve(BaseCallback):
    """Records the training return, or Addition's pass rate, about every `every` steps.

    Attributes:
        steps: environment steps.
        values: the mean return of the last 100 sampled episodes, or the pass rate.
        unused: the fraction of steps that no update used, one per rollout.
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
    """Return the fraction of right answers, over SAMPLES answers to each prompt.

    The state of torch's random number generator is restored, so training is not affected.
    """
    generator = torch.get_rng_state()
    from pgzoo.envs.addition import Addition

    training_env = model.get_env().unwrapped.envs[0].unwrapped
    kwargs = {"digits": training_env.digits, "base": training_env.base}
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
    """Return the mean without the lowest and the highest quarter, like rliable's `aggregate_iqm`."""
    return stats.trim_mean(x, 0.25, axis=axis)


def interval(x: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the interquartile mean over seeds."""
    if len(set(x)) == 1:
        return x[0], x[0]
    bootstrap = stats.bootstrap(
        (np.array(x),), interquartile_mean, method="percentile", n_resamples=9999, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(bootstrap.low), float(bootstrap.high)


def table(results: list[JobResult]) -> str:
    """Return a Markdown table with one line per environment and recipe."""
    lines = [
        "| environment | recipe | steps | final, by seed | interquartile mean, 95 % interval | unused | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for env, recipe in dict.fromkeys((result["env"], result["recipe"]) for result in results):
        by_seed = sorted((r for r in results if (r["env"], r["recipe"]) == (env, recipe)), key=lambda r: r["seed"])
        finals = [r["final"] for r in by_seed]
        digits = 2 if "Addition" in env else 0
        low, high = interval(finals)
        final_texts = ", ".join(f"{x:.{digits}f}" for x in finals)
        iqm = f"{interquartile_mean(finals):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
        unused, seconds = np.median([r["unused"] for r in by_seed]), np.median([r["seconds"] for r in by_seed])
        steps = f"{np.median([r['steps'] for r in by_seed]):,.0f}"
        lines.append(f"| {env} | {recipe} | {steps} | {final_texts} | {iqm} | {unused:.0%} | {seconds:.0f} |")
    return "\n".join(lines)


def figure(results: list[JobResult], path: Path) -> None:
    """Draw one panel per environment: the interquartile mean over seeds, and its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    envs = list(dict.fromkeys(result["env"] for result in results))
    recipes = list(dict.fromkeys(result["recipe"] for result in results))
    fig, axes = plt.subplots(1, len(envs), figsize=(5.2 * len(envs), 4.2), squeeze=False, layout="constrained")
    for ax, env in zip(axes[0], envs, strict=True):
        grid = np.linspace(0, STEPS[env], CURVE_POINTS + 1)[1:]
        for i, recipe in enumerate(recipes):
            selected = [r for r in results if (r["env"], r["recipe"]) == (env, recipe)]
            if not selected:
                continue
            curves = np.array([np.interp(grid, r["curve_steps"], r["curve"]) for r in selected])
            bounds = np.array([interval(list(values)) for values in curves.T])
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
@click.option("--recipes", default=",".join(RECIPES), show_default=True, help="Recipes, separated by commas.")
@click.option("--envs", default=",".join(STEPS), show_default=True, help="Environments, separated by commas.")
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help="Seeds, separated by commas.")
@click.option("--jobs", default=2, show_default=True, help="Parallel trainings.")
@click.option("--out", type=click.Path(path_type=Path), default=HERE / "results" / "groups.jsonl",
              help="File of results.")  # fmt: skip
@click.option("--figure", "figure_path", type=click.Path(path_type=Path), help="File of the figure.")
def main(recipes: str, envs: str, seeds: str, jobs: int, out: Path, figure_path: Path | None) -> None:
    """Run the missing trainings, then print the table and draw the figure."""
    wanted = [(r, e, int(s)) for e in envs.split(",") for r in recipes.split(",") for s in seeds.split(",")]
    configs = {(r, e): fingerprint(configured(r, e), EVAL_EPISODES, SAMPLES) for r, e, _ in wanted}
    results = run_missing(train_and_evaluate, wanted, configs, out, jobs)
    click.echo(table(results))
    if figure_path is not None:
        figure(results, figure_path)


if __name__ == "__main__":
    main()
