"""The command line: a file a command, which only parses and delegates.

Heavy imports stand inside the functions: help and refusals answer at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from pgzoo import __version__
from pgzoo.errors import PgzooError, unknown

COMMANDS = ("train", "tune", "enjoy", "eval", "variance", "plugins")


class LazyGroup(click.Group):
    """Imports a command's file when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command, or refuse with the nearest name."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(unknown("command", cmd_name, COMMANDS), ctx)
        command: click.Command = importlib.import_module(f"pgzoo.cli.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgzoo")
def cli() -> None:
    """Policy-gradient methods for Stable-Baselines3, made of plugins."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command: wrong input ends with status 2 and two lines at most, never a traceback."""
    try:
        sys.exit(cli.main(args=arguments, prog_name="pgzoo", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        path = where.command_path if where is not None else "pgzoo"
        _refuse(f"{error.format_message()}\nTry '{path} --help'.")
    except PgzooError as error:
        _refuse(str(error))
    except BrokenPipeError:  # the reader, such as head, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)


def _refuse(message: str) -> None:
    lines = message.splitlines()
    click.echo("\n".join([f"Error: {lines[0]}", *lines[1:2]]), err=True)
    sys.exit(2)
