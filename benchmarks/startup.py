"""Start-up: help, refusals, lists and the way to the first update, against RL Zoo's help and torch's import.

    python benchmarks/startup.py [--rounds 5]

Each command is a fresh process, in turn A B C …, round after round; medians and ranges of seconds. RL Zoo is
measured where `rl_zoo3` is installed, and left out, saying so, where it is not.
"""

from __future__ import annotations

import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

PGZOO = [sys.executable, "-m", "pgzoo"]
IMPORTS = "import click, pluggy, rich.table, rich.console, numpy"
FIRST_UPDATE = """
import os
from pgzoo.algorithm.policy_gradient import PolicyGradient
from pgzoo.cli import main

update = PolicyGradient.train

def first(self):
    update(self)
    os._exit(0)

PolicyGradient.train = first
main(["train", "--plugin", "{plugin}", "--log-folder", "{folder}"])
"""
COMMANDS = {
    "pgzoo --help": [*PGZOO, "--help"],
    "pgzoo train --help": [*PGZOO, "train", "--help"],
    "pgzoo train --sed 3 (refused)": [*PGZOO, "train", "--sed", "3"],
    "pgzoo train --plugin rtg_valu (refused)": [*PGZOO, "train", "--plugin", "rtg_valu"],
    "pgzoo plugins list": [*PGZOO, "plugins", "list"],
    "what the plugins import": [sys.executable, "-c", IMPORTS],
    **{
        f"pgzoo train --plugin {plugin}, to its first update": [
            sys.executable,
            "-c",
            FIRST_UPDATE.format(plugin=plugin, folder=Path(tempfile.gettempdir(), "pgzoo-startup")),
        ]
        for plugin in ("rtg_value", "a2c", "ppo")
    },
    "import torch": [sys.executable, "-c", "import torch"],
    "python -m rl_zoo3.train --help": [sys.executable, "-m", "rl_zoo3.train", "--help"],
}


@click.command()
@click.option("--rounds", default=5, show_default=True)
def main(rounds: int) -> None:
    """Print a table of seconds."""
    commands = dict(COMMANDS)
    if importlib.util.find_spec("rl_zoo3") is None:
        click.echo("rl_zoo3 is not installed here, so it is left out: pip install rl_zoo3")
        del commands["python -m rl_zoo3.train --help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):  # the first one warms the file cache for everybody
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            if round_:
                seconds[name].append(time.perf_counter() - began)
    click.echo("| command | median s | range s |\n|---|---|---|")
    for name, taken in seconds.items():
        click.echo(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f}–{max(taken):.2f} |")


if __name__ == "__main__":
    main()
