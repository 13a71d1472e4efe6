"""`python -m pgzoo.rl_zoo3 SCRIPT …` runs a script of RL Zoo in which pgzoo's recipes are algorithms."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence

from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.rl_zoo3.registration import NAME, configuration, register

SCRIPTS = {
    **{name: f"rl_zoo3.{name}" for name in ("train", "enjoy", "record_video", "push_to_hub")},
    **{name: f"rl_zoo3.plots.{name}" for name in ("plot_train", "plot_from_file", "all_plots")},
}
"""The scripts of RL Zoo, and their modules."""


def main(arguments: Sequence[str]) -> None:
    """Register the recipes, and run a script of RL Zoo with the other arguments.

    Raises:
        PgzooError: the script is unknown, RL Zoo is not installed, or the script meets an error of pgzoo.
    """
    if not arguments or arguments[0] not in SCRIPTS:
        given = arguments[0] if arguments else ""
        raise ConfigError(f"usage: python -m pgzoo.rl_zoo3 SCRIPT …; {unknown('script', given, SCRIPTS)}")
    script, *rest = arguments
    algorithm = _value(rest, "--algo")
    names = register(*([algorithm] if "+" in algorithm else []))
    if script == "train" and algorithm in names:
        _check_study(rest, algorithm)
        if not _value(rest, "-conf") and not _value(rest, "--conf-file"):
            rest += ["--conf-file", configuration(algorithm)]
    sys.argv = [f"pgzoo.rl_zoo3 {script}", *rest]
    runpy.run_module(SCRIPTS[script], run_name="__main__", alter_sys=True)


def _value(arguments: Sequence[str], flag: str) -> str:
    """Return the value of a flag; empty if it is not given."""
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if name == flag:
            return value
        if name.startswith(f"{flag}="):
            return name.partition("=")[2]
    return ""


def _check_study(arguments: Sequence[str], algorithm: str) -> None:
    """Refuse another recipe than that of the name, because its search space would not fit."""
    searches = {"-optimize", "--optimize-hyperparameters", "--trial-id"} & set(arguments)
    if searches and any(argument.startswith("plugin:") for argument in arguments):
        raise ConfigError(f"{min(searches)} searches the space of --algo {algorithm}; name the recipe there, as in "
                          f"--algo rtg_value instead of --algo {NAME}")  # fmt: skip


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PgzooError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(error.exit_status)
