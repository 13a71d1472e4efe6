"""The command line, with one file per command. Commands only parse options and call the library.

Heavy modules are imported inside functions, which makes help and refusals fast.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
from collections.abc import Sequence
from typing import Any

import click

from pgzoo import __version__
from pgzoo.errors import MachineError, PgzooError, describe, unknown
from pgzoo.training.stopping import raise_on_signals, stop_signal

COMMANDS = (
    "train", "tune", "benchmark", "enjoy", "eval", "list", "plot", "record", "export", "push", "pull", "variance",
    "plugins",
)  # fmt: skip


class OutputClosed(Exception):
    """The process that reads the output, such as head, has ended."""


class LazyGroup(click.Group):
    """A group of commands that imports a command's module when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which help lists them."""
        return [*COMMANDS]  # `list` would be the module of that command, once it is imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command. Raise UsageError with the nearest name if it is unknown."""
        if cmd_name not in COMMANDS:
            raise click.UsageError(unknown("command", cmd_name, COMMANDS), ctx)
        command: click.Command = importlib.import_module(f"pgzoo.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Click would report every EOFError as Ctrl-C, and every broken pipe as that of the output."""
        try:
            return super().invoke(ctx)
        except EOFError as error:
            raise RuntimeError("unexpected end of a file or of a connection") from error
        except KeyboardInterrupt as error:
            raise Interrupted(error) from error
        except OSError as error:
            if isinstance(error, BrokenPipeError) and _output_is_closed():
                raise OutputClosed from error
            if isinstance(error, PgzooError):
                raise
            raise MachineError(describe(error)) from error
        except MemoryError as error:
            raise MachineError("there is not enough memory") from error


class Interrupted(Exception):
    """Carries a KeyboardInterrupt through click, which would replace it by Abort and lose the signal.

    Attributes:
        cause: the KeyboardInterrupt.
    """

    def __init__(self, cause: KeyboardInterrupt) -> None:
        super().__init__()
        self.cause = cause


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="pgzoo")
def cli() -> None:
    """A plugin-based zoo of policy-gradient methods for Stable-Baselines3."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit.

    The exit status is 0 for success, 2 for wrong input, a failed environment, a faulty plugin or a training that
    diverged, 1 for a fault of the machine, and 128 + n for signal n. An error is at most two lines, without a
    traceback.
    """
    _never_fail_to_encode()
    raise_on_signals()
    try:
        sys.exit(cli.main(args=arguments, prog_name="pgzoo", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "pgzoo"
        _refuse(error.format_message(), f"Try '{command} --help'.")
    except PgzooError as error:
        _refuse(str(error), error.note, error.exit_status)
    except OutputClosed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Interrupted as error:
        _exit_interrupted(stop_signal(error.cause))
    except (click.Abort, KeyboardInterrupt):
        _exit_interrupted(signal.SIGINT)


def _exit_interrupted(number: signal.Signals) -> None:
    click.echo("Interrupted." if number == signal.SIGINT else f"Ended by {number.name}.", err=True)
    sys.exit(128 + number)


def _refuse(message: str, note: str = "", status: int = 2) -> None:
    lines = message.splitlines() or [""]
    click.echo("\n".join([f"Error: {lines[0]}", *([note] if note else lines[1:2])]), err=True)
    sys.exit(status)


def _output_is_closed() -> bool:
    """Whether nobody reads the output any more: a pipe without a reader is in an error state."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return bool(poll.poll(0))
    except (OSError, AttributeError):  # no file descriptor, or a system without poll
        return not hasattr(select, "poll")


def _never_fail_to_encode() -> None:
    """Let consoles without UTF-8 show `?` for a character that they lack."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
