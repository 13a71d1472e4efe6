"""RL Zoo's spellings of options: several values after one flag, flags with one dash and several letters, and others.

A command line of RL Zoo does here what it does there, or is refused in a sentence that names the right flag.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

ALIASES = {
    "-params": "--hyperparams",
    "-tb": "--tensorboard-log",
    "-conf": "--conf-file",
    "-uuid": "--uuid",
    "-tags": "--wandb-tags",
    "-optimize": "--optimize-hyperparameters",
    "--folder": "--log-folder",
}
"""RL Zoo's flags, and the same flags here."""

SEVERAL = {
    "-P": r"[^\W\d][\w.]*:.+",
    "--hyperparams": r"[^\W\d][\w.]*:.+",
    "--env-kwargs": r"[^\W\d]\w*:.+",
    "--eval-env-kwargs": r"[^\W\d]\w*:.+",
    "--gym-packages": r"[^\W\d]\w*(\.\w+)*",
    "--wandb-tags": r"[^-].*",
}
"""Flags that take several values in RL Zoo, and the form of the values after the first one."""

NONE_IS_MINUS_1 = ("-n", "--n-timesteps", "--num-threads", "--log-interval")
"""Flags whose default is -1 in RL Zoo."""

TUNE = "searches hyperparameters, which `pgzoo tune` does; see `pgzoo tune --help`"
OFF_POLICY = "is about the replay buffer of off-policy algorithms; no recipe of pgzoo has one, so leave it out"
REFUSED = {
    "--optimize-hyperparameters": TUNE,
    **dict.fromkeys(
        ["--n-trials", "--max-total-trials", "--n-jobs", "--sampler", "--pruner", "--n-startup-trials",
         "--n-evaluations", "--no-optim-plots", "--optimization-log-path"], TUNE),
    "--study-name": "and --trial-id are written --trial STUDY:NUMBER",
    "--trial-id": "and --study-name are written --trial STUDY:NUMBER",
    "--progress": "is not needed: a line is printed at the end of each episode",
    "-P": "is not needed: a line is printed at the end of each episode",
    "--verbose": "is not needed: a line is printed at the end of each episode",
    "--truncate-last-trajectory": OFF_POLICY,
    "--save-replay-buffer": OFF_POLICY,
}  # fmt: skip
"""Flags of RL Zoo that a command lacks, and what to use instead."""


class RLZooCommand(click.Command):
    """A command that also understands RL Zoo's spellings of its options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments after translating them."""
        known = {name for parameter in self.params for name in (*parameter.opts, *parameter.secondary_opts)}
        return super().parse_args(ctx, translated(args, known, ctx))


def translated(arguments: Sequence[str], known: set[str], ctx: click.Context | None = None) -> list[str]:
    """Return arguments in the spelling of a command's own options.

    >>> translated(["-params", "gamma:0.9", "n_steps:8", "-P"], {"-P", "--hyperparams", "--progress"})
    ['--hyperparams', 'gamma:0.9', '--hyperparams', 'n_steps:8', '--progress']

    Args:
        arguments: the arguments as the user typed them.
        known: the flags of the command.
        ctx: the command's context, for error messages.

    Raises:
        UsageError: a flag of RL Zoo that does something which another command or flag does here.
    """
    rest, result = list(arguments), list[str]()
    while rest:
        typed = rest.pop(0)
        name, equals, value = typed.partition("=") if typed.startswith("--") else (typed, "", "")
        flag = ALIASES.get(name, name)
        if flag in REFUSED and flag not in known:
            raise click.UsageError(f"{name} {REFUSED[flag]}", ctx)
        if typed == "-P" and "--progress" in known and (not rest or rest[0].startswith("-") or "-P" not in known):
            result.append("--progress")
        elif flag not in known or equals:
            result.append(f"{flag}={value}" if equals else flag if flag in known else typed)
        elif flag in NONE_IS_MINUS_1 and rest[:1] == ["-1"]:
            rest.pop(0)
        elif flag in SEVERAL and rest:
            result += [flag, rest.pop(0)]
            while rest and re.fullmatch(SEVERAL[flag], rest[0]) and not _exists(rest[0]):
                result += [flag, rest.pop(0)]
        else:
            result.append(flag)
            if _takes_value(flag, ctx) and rest:
                result.append(rest.pop(0))
    return result


def _takes_value(flag: str, ctx: click.Context | None) -> bool:
    """Whether a flag takes a value, which is never another flag."""
    options: list[Any] = [] if ctx is None else [p for p in ctx.command.params if flag in p.opts]
    return any(isinstance(option, click.Option) and not option.is_flag for option in options)


def _exists(name: str) -> bool:
    """Whether the name may also be the path of a run."""
    try:
        return Path(name).exists()
    except (OSError, ValueError):  # too long, or not a path
        return False
