"""Start-up time: help, refusals, lists, and training up to its first update, compared with importing torch.

    python benchmarks/startup.py [--rounds 5]

Each command runs in a new process. The commands take turns, A B C …, round after round. The table has medians and
ranges in seconds. RL Zoo's help is included if `rl_zoo3` is installed.
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

train = PolicyGradient.train

def train_and_exit(self):
    train(self)
    os._exit(0)

PolicyGradient.train = train_and_exit
main(["train", "--plugin", "{plugin}", "--log-folder", "{folder}"])
"""
COMMANDS = {
    "pgzoo --help": [*PGZOO, "--help"],
    "pgzoo train --help": [*PGZOO, "train", "--help"],
    "pgzoo train --sed 3 (refused)": [*PGZOO, "train", "--sed", "3"],
    "pgzoo train --plugin rtg_valu (refused)": [*PGZOO, "train", "--plugin", "rtg_valu"],
    "pgzoo plugins list": [*PGZOO, "plugins", "list"],
    "imports of the plugins": [sys.executable, "-c", IMPORTS],
    **{
        f"pgzoo train --plugin {plugin}, up to its first update": [
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
@click.option("--rounds", default=5, show_default=True, help="Runs of each command.")
def main(rounds: int) -> None:
    """Measure the commands and print a table of seconds."""
    commands = dict(COMMANDS)
    if importlib.util.find_spec("rl_zoo3") is None:
        click.echo("rl_zoo3 is not installed and therefore left out: pip install rl_zoo3")
        del commands["python -m rl_zoo3.train --help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for round_ in range(rounds + 1):  # the first round fills the file cache and is not counted
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            if round_:
                seconds[name].append(time.perf_counter() - start)
    click.echo("| command | median s | range s |\n|---|---|---|")
    for name, taken in seconds.items():
        click.echo(f"| {name} | {statistics.median(taken):.2f} | {min(taken):.2f}–{max(taken):.2f} |")


if __name__ == "__main__":
    main()
