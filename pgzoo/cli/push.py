"""`pgzoo push`: share a run on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from pgzoo.cli import options


@dataclass(frozen=True, kw_only=True)
class PushArguments(options.RunArguments):
    """The arguments of `pgzoo push`."""

    repo: str
    n_episodes: int
    replay: bool
    private: bool | None
    commit_message: str


@click.command("push", short_help="Share a run on the Hugging Face Hub.")
@options.run_options
@click.option("--repo", "--repo-id", required=True, help="The repository, user/name. It is created if it is new.")
@click.option("-n", "--n-episodes", type=click.IntRange(min=1), default=100, show_default=True,
              help="Episodes of the score.")  # fmt: skip
@click.option("--replay/--no-replay", default=True, help="Whether to record a video, where the environment renders.")
@click.option("--private/--public", default=None, help="Whether a new repository is private.  [default: the Hub's]")
@click.option(
    "-m", "--commit-message", default="Upload a run of pgzoo", show_default=True, help="The commit's message."
)
def command(**params: Any) -> None:
    """Share a run on the Hugging Face Hub, with a model card and a video.

    PATH is a run's folder or a model file. RECIPE and ENV, or --plugin and --env, choose the latest such run.
    If there is none, an agent that pgzoo ships is shared, if there is one.

    Log in with `hf auth login` first.
    """
    from pgzoo.cli.loading import open_run
    from pgzoo.export.hub import push

    arguments = PushArguments(**params)
    pushed = push(
        arguments,
        arguments.repo,
        n_episodes=arguments.n_episodes,
        replay=arguments.replay,
        private=arguments.private,
        commit_message=arguments.commit_message,
        opened=open_run,
    )
    if pushed.no_replay:
        click.echo(f"Without a video: {pushed.no_replay}", err=True)
    click.echo(pushed.url)


# The score is that of the most likely actions.
command.params = [param for param in command.params if param.name != "stochastic"]
