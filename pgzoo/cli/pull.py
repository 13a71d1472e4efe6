"""`pgzoo pull`: download a run from the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import click

from pgzoo.cli import options


@click.command("pull", short_help="Download a run from the Hugging Face Hub.")
@click.argument("repo")
@options.log_folder
@click.option("--revision", help="A commit, branch or tag.  [default: the newest]")
def command(repo: str, log_folder: Path, revision: str | None) -> None:
    """Download a run from the repository REPO (user/name) of the Hugging Face Hub into the folder of all runs."""
    from pgzoo.export.hub import load_from_hub

    file = load_from_hub(repo, log_folder, revision=revision)
    click.echo(f"Next: pgzoo eval {file.parent}")
