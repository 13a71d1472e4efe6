"""Training speed against SB3 on the same work, as ratios.

    python benchmarks/speed.py                       # the listed cells, under an hour; a run that was stopped goes on
    python benchmarks/speed.py a2c-1x256 --rounds 9  # others by name; --list shows them
    python benchmarks/speed.py --report              # tables of what there is

Every sample is a fresh process with one torch thread: it trains until the policy, the environments and the caches
are warm, then measures `learn` for five seconds or more. The contestants take turns, A B C A B C; the result is the
median and the range of each round's ratio. The environments are the same class on both sides: SB3's `make_vec_env`,
which is DummyVecEnv and Monitor. `raw` steps them with random actions, the ceiling. A sample during which other
processes used more than a tenth of a core is taken again, three times at most, then kept and marked.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

RESULTS = Path(__file__).parent / "results" / "speed.jsonl"
DISTURBED, AGAIN = 0.1, 3
WARM_SECONDS = 1.0


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        algorithm: the recipe; SB3's class of that name is the peer, else the plain path is.
        env: registered in Gymnasium, or "image" for random images.
        n_envs, options: of both sides.
        columns: who steps the environments as arrays (`--vec-env vector`); the others have DummyVecEnv.
    """

    algorithm: str
    env: str
    n_envs: int
    options: dict[str, Any] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def contestants(self) -> list[str]:
        """Who takes turns; the first is compared with the second."""
        return ["pgzoo", "sb3" if self.algorithm in ("a2c", "ppo") else "plain", "raw"]


PPO4, PPO10 = {"n_steps": 128, "n_epochs": 4, "batch_size": 256}, {"n_steps": 128, "n_epochs": 10, "batch_size": 256}
LISTED = {
    "a2c-8x5": Cell("a2c", "CartPole-v1", 8, {"n_steps": 5}),
    "a2c-8x256": Cell("a2c", "CartPole-v1", 8, {"n_steps": 256}),
    "ppo4-8x128": Cell("ppo", "CartPole-v1", 8, PPO4),
    "ppo10-8x128": Cell("ppo", "CartPole-v1", 8, PPO10),
    "a2c-1x256": Cell("a2c", "CartPole-v1", 1, {"n_steps": 256}),
    "a2c-256-vector": Cell("a2c", "CartPole-v1", 256, {"n_steps": 32}, ("pgzoo", "raw")),
    "reinforce-8": Cell("reinforce", "CartPole-v1", 8),
    "grpo-8": Cell("grpo", "CartPole-v1", 8),
}
CELLS = {
    **LISTED,
    "ppo10-pendulum": Cell("ppo", "Pendulum-v1", 8, PPO10),
    "a2c-256-vector-both": Cell("a2c", "CartPole-v1", 256, {"n_steps": 32}, ("pgzoo", "sb3", "raw")),
    **{f"a2c-{n}x256": Cell("a2c", "CartPole-v1", n, {"n_steps": 256}) for n in (4, 16, 64, 256)},
    "ppo10-halfcheetah": Cell("ppo", "HalfCheetah-v5", 8, PPO10),
    "ppo4-image": Cell("ppo", "image", 8, PPO4),
}


# ---------------------------------------------------------------- one sample, in a process of its own


def measure(cell: Cell, who: str, seconds: float) -> dict[str, Any]:
    """Return steps a second, and where the time went."""
    import torch

    torch.set_num_threads(1)
    env = make_env(cell, columns=who in cell.columns)
    if who == "raw":
        run, phases = raw(env), dict[str, float]()
    else:
        run, phases = trained(cell, who, env)
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < WARM_SECONDS:
        run()
    phases.update(dict.fromkeys(phases, 0.0))
    own, busy, began = _own_seconds(), _busy_seconds(), time.perf_counter()
    while time.perf_counter() - began < seconds:
        done += run()
    taken = time.perf_counter() - began
    others = (_busy_seconds() - busy) - (_own_seconds() - own)
    return {
        "steps_per_second": done / taken,
        "seconds": taken,
        "others": others / taken,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "phases": {name: spent / taken for name, spent in phases.items()},
    }


def make_env(cell: Cell, *, columns: bool) -> Any:
    """Return stock environments, seeded; or the same as columns."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.envs import FakeImageEnv
    from stable_baselines3.common.vec_env import VecMonitor

    if columns:
        from pgzoo.vecenvs import make_columns

        env = make_columns(cell.env, cell.n_envs, {})
        env.seed(0)
        return VecMonitor(env)
    return make_vec_env(FakeImageEnv if cell.env == "image" else cell.env, n_envs=cell.n_envs, seed=0)


def raw(env: Any) -> Callable[[], int]:
    """Return what steps the environments with random actions."""
    import numpy as np

    env.reset()
    actions = [np.array([env.action_space.sample() for _ in range(env.num_envs)]) for _ in range(64)]

    def run() -> int:
        for action in actions:
            env.step(action)
        return len(actions) * int(env.num_envs)

    return run


def trained(cell: Cell, who: str, env: Any) -> tuple[Callable[[], int], dict[str, float]]:
    """Return what trains for some updates and says how many steps that were, and where it adds up its time."""
    model: Any
    policy = "CnnPolicy" if cell.env == "image" else "MlpPolicy"
    if who == "sb3":
        import stable_baselines3

        cls = getattr(stable_baselines3, cell.algorithm.upper())
        model = cls(policy, env, device="cpu", seed=0, **cell.options)
    else:
        from pgzoo import PolicyGradient

        fast = {"pgzoo": "auto", "plain": False}[who]
        model = PolicyGradient(policy, env, cell.algorithm, device="cpu", seed=0, fast=fast, **cell.options)  # type: ignore[arg-type]
    phases = {"environments": 0.0, "sampling": 0.0, "update": 0.0}
    _timed(model.env, "step", phases, "environments")
    _timed(model, "collect_rollouts", phases, "sampling")
    _timed(model, "train", phases, "update")
    model.learn(1)

    def run() -> int:
        before = model.num_timesteps
        model.learn(max(2000, 2 * cell.n_envs * model.n_steps), reset_num_timesteps=False)
        return int(model.num_timesteps - before)

    return run, phases


def _timed(owner: Any, name: str, phases: dict[str, float], phase: str) -> None:
    call = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            phases[phase] += time.perf_counter() - began

    setattr(owner, name, wrapped)


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _busy_seconds() -> float:
    """Return the CPU seconds that all processes used; 0 where /proc does not tell."""
    try:
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    except OSError:
        return 0.0
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- rounds


def take(name: str, who: str, seconds: float) -> dict[str, Any]:
    """Return a sample in a fresh process, again where it was disturbed."""
    command = [sys.executable, __file__, "--sample", name, who, str(seconds)]
    for attempt in range(1, AGAIN + 2):
        result = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
        if result.returncode:
            raise click.ClickException(f"{name} {who}: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        found |= {"attempts": attempt, "disturbed": found["others"] > DISTURBED}
        if not found["disturbed"]:
            break
    return {"cell": name, "who": who, **found}


def read(path: Path) -> list[dict[str, Any]]:
    """Return the samples of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def appended(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what writes a sample at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:

        def write(found: dict[str, Any]) -> None:
            file.write(json.dumps(found) + "\n")
            file.flush()

        yield write


def report(samples: list[dict[str, Any]], names: list[str]) -> None:
    """Print the ratios, and where the time goes."""
    click.echo("| cell | steps/s | peer | ratio, median (range) | of raw stepping | memory | rounds | disturbed |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name in names:
        own = [s for s in samples if s["cell"] == name]
        rounds = sorted({s["round"] for s in own})
        by = {(s["who"], s["round"]): s for s in own}

        def ratio(who: str, other: str, key: str, by: Any = by, rounds: Any = rounds) -> list[float]:
            pairs = [(by.get((who, r)), by.get((other, r))) for r in rounds]
            return [a[key] / b[key] for a, b in pairs if a and b]

        for peer in CELLS[name].contestants[1:-1]:
            ratios = ratio("pgzoo", peer, "steps_per_second")
            if ratios:
                speed = statistics.median(s["steps_per_second"] for s in own if s["who"] == "pgzoo")
                ceiling = statistics.median(ratio("pgzoo", "raw", "steps_per_second") or [float("nan")])
                memory = statistics.median(ratio("pgzoo", peer, "peak_mb"))
                disturbed = sum(s["disturbed"] for s in own if s["who"] in ("pgzoo", peer))
                click.echo(
                    f"| {name} | {speed:,.0f} | {peer} | {statistics.median(ratios):.2f} ({min(ratios):.2f}–"
                    f"{max(ratios):.2f}) | {ceiling:.0%} | {memory:.2f} | {len(ratios)} | {disturbed} |"
                )
    click.echo("\nShares of the time: environments, the rest of sampling, the update, anything else.\n")
    for name in names:
        for who in CELLS[name].contestants[:-1]:
            own = [s["phases"] for s in samples if s["cell"] == name and s["who"] == who]
            if own:
                share = {key: statistics.median(phases[key] for phases in own) for key in own[0]}
                rest = share["sampling"] - share["environments"]
                other = 1 - share["sampling"] - share["update"]
                parts = [share["environments"], rest, share["update"], other]
                click.echo(f"{name} {who}: " + ", ".join(f"{part:.0%}" for part in parts))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Of a sample.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS, show_default=False)
@click.option("--report", "only_report", is_flag=True, help="Measure nothing.")
@click.option("--list", "only_list", is_flag=True, help="Name the cells.")
@click.option("--sample", nargs=3, type=(str, str, float), hidden=True)
def main(
    names: tuple[str, ...], rounds: int, seconds: float, out: Path, only_report: bool, only_list: bool, sample: Any
) -> None:
    """Measure the cells that are named, by default the listed ones."""
    if sample:
        click.echo(json.dumps(measure(CELLS[sample[0]], *sample[1:])))
        return
    if only_list:
        for name, cell in CELLS.items():
            click.echo(f"{name}: {cell.algorithm} on {cell.n_envs} {cell.env}{'' if name in LISTED else ', by name'}")
        return
    chosen = list(names or LISTED)
    if unknown := [name for name in chosen if name not in CELLS]:
        raise click.UsageError(f"unknown cell {unknown[0]!r}; there are {', '.join(CELLS)}")
    if not only_report:
        done = {(s["cell"], s["who"], s["round"]) for s in read(out)}
        with appended(out) as write:
            for name in chosen:
                for round_ in range(rounds):
                    for who in CELLS[name].contestants:
                        if (name, who, round_) not in done:
                            found = take(name, who, seconds)
                            write({**found, "round": round_, "machine": platform.processor() or platform.machine()})
                            click.echo(f"{name} {who} {found['steps_per_second']:,.0f} steps/s", err=True)
    report(read(out), chosen)


if __name__ == "__main__":
    main()
