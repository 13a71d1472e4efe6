"""Size of saved models, and time of save and load, next to SB3's.

    python benchmarks/files.py [--rounds 50]

Both models are trained for one update, so that the optimizer has a state. They take turns, A B A B, in one process on
one thread. The table has medians, and the ratio of pgzoo to SB3. `save` writes a file of the same name again and again,
as a training with checkpoints does. pgzoo waits until the file is on the disk, and SB3 does not: with `--no-sync`,
neither does.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.envs import FakeImageEnv

from pgzoo import PolicyGradient


def image_env() -> FakeImageEnv:
    return FakeImageEnv(screen_height=84, screen_width=84, n_channels=4, channel_first=False)


LARGE = {"policy_kwargs": {"net_arch": [256, 256]}}
CASES: dict[str, tuple[Any, str, Callable[[], Any], dict[str, Any]]] = {
    "A2C, MlpPolicy, CartPole": (A2C, "MlpPolicy", lambda: "CartPole-v1", {}),
    "PPO, MlpPolicy, CartPole": (PPO, "MlpPolicy", lambda: "CartPole-v1", {}),
    "A2C, 256 × 256, Pendulum": (A2C, "MlpPolicy", lambda: "Pendulum-v1", LARGE),
    "PPO, 256 × 256, Pendulum": (PPO, "MlpPolicy", lambda: "Pendulum-v1", LARGE),
    "A2C, CnnPolicy, 84 × 84 × 4": (A2C, "CnnPolicy", image_env, {}),
    "PPO, CnnPolicy, 84 × 84 × 4": (PPO, "CnnPolicy", image_env, {}),
}
"""SB3's class, the policy, the environment, and further arguments of both constructors."""


def seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def measured(case: str, rounds: int, folder: Path) -> str:
    """Return a row of the table."""
    cls, policy, env, options = CASES[case]
    options = {**options, "n_steps": 64, "device": "cpu", "seed": 0}
    theirs = cls(policy, env(), **options).learn(64)
    ours = PolicyGradient(policy, env(), cls.__name__.lower(), **options).learn(64)
    paths = {"SB3": folder / "sb3.zip", "pgzoo": folder / "pgzoo.zip"}
    acts: dict[tuple[str, str], Callable[[], object]] = {
        ("SB3", "save"): lambda: theirs.save(paths["SB3"]),
        ("pgzoo", "save"): lambda: ours.save(paths["pgzoo"]),
        ("SB3", "load"): lambda: cls.load(paths["SB3"], device="cpu"),
        ("pgzoo", "load"): lambda: PolicyGradient.load(paths["pgzoo"], device="cpu"),
    }
    times: dict[tuple[str, str], list[float]] = {name: [] for name in acts}
    for round_ in range(rounds + 1):  # the first round imports modules and is not counted
        for name, act in acts.items():
            taken = seconds(act)
            if round_:
                times[name].append(taken)
    cells = [case]
    sizes = {who: path.stat().st_size / 1000 for who, path in paths.items()}
    cells += [f"{sizes['SB3']:,.0f}", f"{sizes['pgzoo']:,.0f}", f"{sizes['pgzoo'] / sizes['SB3']:.2f}"]
    for what in ("save", "load"):
        a, b = (statistics.median(times[who, what]) * 1000 for who in paths)
        cells += [f"{a:.1f}", f"{b:.1f}", f"{b / a:.2f}"]
    return f"| {' | '.join(cells)} |"


@click.command()
@click.option("--rounds", default=50, show_default=True, help="Rounds of each case.")
@click.option("--sync/--no-sync", default=True, show_default=True, help="Let pgzoo wait for the disk.")
def main(rounds: int, sync: bool) -> None:
    """Measure, and print a table."""
    torch.set_num_threads(1)
    if not sync:
        os.fsync = _ignore
    columns = [f"{what}, {who}" for what in ("kB", "save, ms", "load, ms") for who in ("SB3", "pgzoo", "ratio")]
    print(f"| model | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            print(measured(case, rounds, Path(folder)), flush=True)


def _ignore(fd: object) -> None:
    """Do not wait for the disk."""


if __name__ == "__main__":
    main()
