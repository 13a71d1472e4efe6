"""`pgzoo enjoy`: watch a saved model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pgzoo.cli import options
from pgzoo.cli.options import bounds
from pgzoo.cli.rl_zoo_spellings import RLZooCommand
from pgzoo.formatting import format_number
from pgzoo.training.arguments import Count
from pgzoo.training.finished_runs import FinishedRun

WITHOUT_SCHEDULES = {"learning_rate": 0.0}
"""What replaces schedules, which a model that is only played does not need."""


@dataclass(frozen=True, kw_only=True)
class EnjoyArguments(options.RunArguments):
    """The arguments of `pgzoo enjoy`."""

    n_timesteps: Count | None = None
    n_episodes: Count | None = None
    n_envs: Count = 1
    no_render: bool = False
    norm_reward: bool = False
    reward_log: Path | None = None
    env_kwargs: tuple[str, ...] = ()
    custom_objects: bool = False


@click.command("enjoy", cls=RLZooCommand, short_help="Watch a saved model, or print its returns.")
@options.run_options
@click.option("-n", "--n-timesteps", type=bounds(EnjoyArguments, "n_timesteps"),
              help="Steps to play, in each environment.")  # fmt: skip
@click.option("--n-episodes", type=bounds(EnjoyArguments, "n_episodes"),
              help="Episodes to play.  [default: 5, unless -n is given]")  # fmt: skip
@click.option("--n-envs", type=bounds(EnjoyArguments, "n_envs"), default=1, show_default=True,
              help="Parallel environments.")  # fmt: skip
@click.option("--no-render", is_flag=True, help="Only print the returns.")
@click.option("--norm-reward", is_flag=True, help="Print rewards as normalised by VecNormalize.")
@click.option("--reward-log", type=click.Path(path_type=Path, file_okay=False), help="Folder for Monitor's files.")
@click.option("--env-kwargs", multiple=True, metavar="NAME:VALUE",
              help="An argument of the environment (may be repeated).")  # fmt: skip
@click.option("--custom-objects", is_flag=True, help="Replace the learning rate's schedule, so that a model whose "
              "schedule cannot be unpickled can be played.")  # fmt: skip
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Watch a saved model, or print its returns with --no-render.

    PATH is a run's folder or a model file. RECIPE and ENV, or --plugin and --env, choose the latest such run.
    If there is none, an agent that pgzoo ships is played, if there is one.
    """
    from pgzoo.cli.loading import open_run
    from pgzoo.training.config import parse_pairs

    arguments = EnjoyArguments(**params)
    with open_run(
        arguments,
        n_envs=arguments.n_envs,
        render_mode=None if arguments.no_render else "human",
        env_kwargs=parse_pairs(arguments.env_kwargs, "--env-kwargs"),
        monitor_dir=arguments.reward_log,
        custom_objects=WITHOUT_SCHEDULES if arguments.custom_objects else None,
    ) as run:
        _play(run, arguments)


def _play(run: FinishedRun, arguments: EnjoyArguments) -> None:
    from stable_baselines3.common.vec_env import unwrap_vec_normalize

    from pgzoo.training.playing import play

    normalize = unwrap_vec_normalize(run.env)
    if normalize is not None:
        normalize.norm_reward = arguments.norm_reward
    n_episodes = arguments.n_episodes or (None if arguments.n_timesteps else 5)
    episodes = play(
        run.model,
        run.env,
        n_steps=arguments.n_timesteps,
        n_episodes=n_episodes,
        deterministic=run.config.deterministic(arguments.stochastic),
        raw_rewards=not arguments.norm_reward,
        episode_bound=run.config.combination.episode_bound,
    )
    for number, episode in enumerate(episodes, 1):
        success = "" if episode.success is None else f", {'success' if episode.success else 'failure'}"
        where = f" (environment {episode.env})" if arguments.n_envs > 1 else ""
        click.echo(f"episode {number}{where}: return {format_number(episode.total)}, {episode.length} steps{success}")
