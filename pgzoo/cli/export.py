"""`pgzoo export`: write a trained policy for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pgzoo.cli import options


@dataclass(frozen=True, kw_only=True)
class ExportArguments(options.RunArguments):
    """The arguments of `pgzoo export`."""

    to: str
    out: Path | None


@click.command("export", short_help="Write a trained policy as ONNX, TorchScript or SB3's zip.")
@options.run_options
@click.option("--to", type=click.Choice(["onnx", "torchscript", "sb3"]), default="onnx", show_default=True,
              help="The format.")  # fmt: skip
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False),
              help="The file to write.  [default: beside the model; here for a shipped agent]")  # fmt: skip
def command(**params: Any) -> None:
    """Write a trained policy for other programs: ONNX, TorchScript, or SB3's zip.

    PATH is a run's folder or a model file. RECIPE and ENV, or --plugin and --env, choose the latest such run.
    If there is none, an agent that pgzoo ships is exported, if there is one.

    The file takes raw observations and returns the actions that `predict` takes without sampling. It is compared with
    `predict` on 1,000 random observations, and is not written if an action differs.
    """
    from pgzoo.cli.loading import open_run
    from pgzoo.training.agents import is_shipped

    arguments = ExportArguments(**params)
    with open_run(arguments, n_envs=1) as run:
        from pgzoo.export.policy_file import N_OBSERVATIONS, SUFFIXES, export_policy

        ending = "_sb3.zip" if arguments.to == "sb3" else SUFFIXES[arguments.to]
        folder = Path() if is_shipped(run.folder) else run.folder.path
        file = arguments.out or folder / f"{run.folder.env}{ending}"
        export = export_policy(run.model, file, arguments.to, env=run.env)
    click.echo(f"{export.file}: {_agreement(export.difference)} on {N_OBSERVATIONS:,} random observations")
    if export.statistics is not None:
        click.echo(f"{export.statistics}: the statistics of VecNormalize")
    for kind in ("inputs", "outputs"):
        for array in export.metadata.get(kind, []):
            shape = ", ".join(map(str, array["shape"]))
            click.echo(f"{kind[:-1]} {array['name']}: {array['dtype']} ({shape})")


def _agreement(difference: float) -> str:
    return "equals predict" if difference == 0 else f"within {difference:.1g} of predict"


# The policy is exported as it acts without sampling, and no environment is stepped.
command.params = [param for param in command.params if param.name not in ("stochastic", "seed")]
