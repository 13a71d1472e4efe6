"""`pgzoo record`: a video of a saved model, or of a run's checkpoints side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from pgzoo.cli import options
from pgzoo.cli.options import bounds
from pgzoo.cli.rl_zoo_spellings import RLZooCommand
from pgzoo.interface.hyperparameters import Range
from pgzoo.training.arguments import Count


@dataclass(frozen=True, kw_only=True)
class RecordArguments(options.RunArguments):
    """The arguments of `pgzoo record`."""

    n_timesteps: Count | None = None
    n_episodes: Count | None = None
    out: Path | None = None
    checkpoints: bool = False
    fps: Annotated[int, Range(1, 240)] | None = None


@click.command("record", cls=RLZooCommand, short_help="Record a video of a saved model.")
@options.run_options
@click.option("-n", "--n-timesteps", type=bounds(RecordArguments, "n_timesteps"), help="Steps to record.")
@click.option("--n-episodes", type=bounds(RecordArguments, "n_episodes"),
              help="Episodes to record.  [default: 1, of at most 1000 steps, unless -n is given]")  # fmt: skip
@click.option("-o", "--out", "--output-folder", "out", type=click.Path(path_type=Path),
              help="A .mp4 or .gif file, or a folder.  [default: RECIPE-ENV.mp4]")  # fmt: skip
@click.option("--checkpoints", is_flag=True, help="Show checkpoints side by side, with their steps.")
@click.option("--fps", type=bounds(RecordArguments, "fps"), help="Frames per second.  [default: the environment's]")
@click.pass_context
def command(ctx: click.Context, /, **params: Any) -> None:
    """Record a video of a saved model, without a screen.

    PATH is a run's folder or a model file. RECIPE and ENV, or --plugin and --env, choose the latest such run.
    If there is none, an agent that pgzoo ships is recorded, if there is one.

    --checkpoints shows up to four models of the run side by side, from the first that --save-freq saved to the final
    one. All start from the same seed.
    """
    arguments = RecordArguments(**params)
    from pgzoo.cli.loading import open_run
    from pgzoo.export.replay import check_video, record, record_checkpoints, render_offscreen
    from pgzoo.training.finished_runs import chosen_folder

    folder = chosen_folder(arguments)
    out = _file(arguments, folder.path.resolve().parent.name, folder.env)
    check_video(out)
    render_offscreen()
    lengths: dict[str, Any] = {
        "n_steps": arguments.n_timesteps, "n_episodes": arguments.n_episodes, "fps": arguments.fps,
    }  # fmt: skip
    if arguments.checkpoints:
        models = record_checkpoints(arguments, folder, out, opened=open_run, **lengths)
        click.echo(f"{out} shows {', '.join(model.name for model in models)}")
        return
    with open_run(arguments, n_envs=1, render_mode="rgb_array") as run:
        record(run, out, stochastic=arguments.stochastic, **lengths)
        click.echo(f"{out} shows {run.file}")


def _file(arguments: RecordArguments, plugin: str, env: str) -> Path:
    """Return the file: the given one, or one with the run's name in the given folder or the working directory."""
    from pgzoo.export.replay import has_ffmpeg

    out = arguments.out or Path()
    if out.suffix and not out.is_dir():
        return out
    return out / f"{plugin}-{env}{'.mp4' if has_ffmpeg() else '.gif'}"
