"""The command line, with one file per command. Commands only parse options and call the library.

Heavy modules are imported inside functions, which makes help and refusals fast.
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
    """A group of commands that imports a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command. Raise UsageError with the nearest name if it is unknown."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(unknown("command", cmd_name, COMMANDS), ctx)
        command: click.Command = importlib.import_module(f"pgzoo.cli.{cmd_name}").command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgzoo")
def cli() -> None:
    """A plugin-based zoo of policy-gradient methods for Stable-Baselines3."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Wrong input ends with status 2 and at most two lines, without a traceback."""
    try:
        sys.exit(cli.main(args=arguments, prog_name="pgzoo", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "pgzoo"
        _refuse(f"{error.format_message()}\nTry '{command} --help'.")
    except PgzooError as error:
        _refuse(str(error))
    except BrokenPipeError:  # the process that reads the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)


def _refuse(message: str) -> None:
    lines = message.splitlines()
    click.echo("\n".join([f"Error: {lines[0]}", *lines[1:2]]), err=True)
    sys.exit(2)
