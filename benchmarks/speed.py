"""Training speed against SB3 and others on the same work, as ratios.

    python benchmarks/speed.py                       # the listed cells, under an hour; a run that was stopped goes on
    python benchmarks/speed.py a2c-4 --rounds 9      # others by name; --list shows them
    python benchmarks/speed.py --report              # tables of what there is
    python benchmarks/speed.py --figure speed.png    # cost against the number of environments, of what there is

Every sample is a fresh process on one core with one thread (contestants.py), but for the cells "-threads", which have
all cores and the threads that torch and numpy take by themselves: it trains until the policy, the environments and the
caches are warm, then for five seconds or more. The contestants take turns, A B C A B C; the result is the median and
the range of each round's ratio. The learning rate is 0, so that an update costs the same and nobody's episodes grow
longer. The environments of pgzoo, SB3 and sbx are the same class, SB3's `make_vec_env`, which is DummyVecEnv and
Monitor; "/vector" are pgzoo's columns (`--vec-env vector`); CleanRL and Tianshou have their own. `raw` steps them with
random actions, the ceiling. A sample during which other processes used more than a tenth of a core is taken again,
three times at most, then kept and marked. Samples of other code or another machine do not count.

sbx, CleanRL and Tianshou take part where `make peers` installed them, each in a virtual environment of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from cells import source

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed.jsonl"
PEERS = {name: ROOT / f".venv-{name}" / "bin" / "python" for name in ("sbx", "cleanrl", "tianshou")}
DISTURBED, AGAIN = 0.1, 3


@dataclass(frozen=True)
class Cell:
    """What is trained.

    Attributes:
        algorithm: the recipe; SB3's class of that name is the peer, else pgzoo's plain path is.
        env: registered in Gymnasium, or "image" for random images.
        n_envs, options: of all.
        contestants: who takes turns; the first is compared with the others, and with the last, which only steps.
        one_thread: and one core; else as many as torch and numpy's BLAS take by themselves.
    """

    algorithm: str
    env: str
    n_envs: int
    options: dict[str, Any] = field(default_factory=dict)
    contestants: tuple[str, ...] = ("pgzoo", "sb3", "raw")
    one_thread: bool = True


ALL, PLAIN = ("pgzoo", "sb3", *PEERS, "raw"), ("pgzoo", "plain", "raw")
PPO4, PPO10 = {"n_steps": 128, "n_epochs": 4, "batch_size": 256}, {"n_steps": 128, "n_epochs": 10, "batch_size": 256}
LISTED = {
    "a2c-8x5": Cell("a2c", "CartPole-v1", 8, {"n_steps": 5}),
    "a2c-8x256": Cell("a2c", "CartPole-v1", 8, {"n_steps": 256}),
    "ppo4-8x128": Cell("ppo", "CartPole-v1", 8, PPO4, ALL),
    "ppo10-8x128": Cell("ppo", "CartPole-v1", 8, PPO10),
    "a2c-1x256": Cell("a2c", "CartPole-v1", 1, {"n_steps": 256}),
    "a2c-256-vector": Cell(
        "a2c", "CartPole-v1", 256, {"n_steps": 32}, ("pgzoo/vector", "sb3", "sb3/vector", "raw/vector")
    ),
    "reinforce-8": Cell("reinforce", "CartPole-v1", 8, {}, PLAIN),
    "grpo-8": Cell("grpo", "CartPole-v1", 8, {}, PLAIN),
}
ENVS = {
    f"a2c-{n}": Cell("a2c", "CartPole-v1", n, {"n_steps": 64}, ("pgzoo", "sb3", "pgzoo/vector", "raw/vector", "raw"))
    for n in (1, 4, 16, 64, 256)
}
CELLS = {
    **LISTED,
    **ENVS,
    "ppo10-peers": Cell("ppo", "CartPole-v1", 8, PPO10, ALL),
    "ppo10-pendulum": Cell("ppo", "Pendulum-v1", 8, PPO10),
    "ppo10-halfcheetah": Cell("ppo", "HalfCheetah-v5", 8, PPO10),
    "ppo4-image": Cell("ppo", "image", 8, PPO4),
    "a2c-threads": Cell("a2c", "CartPole-v1", 8, {"n_steps": 256}, one_thread=False),
    "ppo10-threads": Cell("ppo", "CartPole-v1", 8, PPO10, one_thread=False),
}


def take(name: str, who: str, seconds: float) -> dict[str, Any]:
    """Return a sample in a fresh process, again where it was disturbed."""
    cell = json.dumps(asdict(CELLS[name]))
    command = [
        str(PEERS.get(who, sys.executable)),
        str(ROOT / "benchmarks" / "contestants.py"),
        cell,
        who,
        str(seconds),
    ]
    for attempt in range(1, AGAIN + 2):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
        if not CELLS[name].one_thread:
            del environment["OMP_NUM_THREADS"]  # which make sets
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            raise click.ClickException(f"{name} {who}: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
        found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        found |= {"attempts": attempt, "disturbed": found["others"] > DISTURBED}
        if not found["disturbed"]:
            break
    return {"cell": name, "who": who, **found}


def read(path: Path, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of a file that were taken there."""
    samples = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [s for s in samples if all(s.get(key) == value for key, value in where.items())]


def newest(path: Path) -> list[dict[str, Any]]:
    """Return the samples of the code and the machine that were measured last."""
    samples = read(path, {})
    return read(path, {key: samples[-1][key] for key in ("code", "host", "asked")}) if samples else []


@contextmanager
def appended(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield what writes a sample at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:

        def write(found: dict[str, Any]) -> None:
            file.write(json.dumps(found) + "\n")
            file.flush()

        yield write


# ---------------------------------------------------------------- tables and the figure


def ratios(samples: list[dict[str, Any]], who: str, other: str, key: str = "steps_per_second") -> list[float]:
    """Return each round's ratio of two contestants of one cell."""
    by = {(s["who"], s["round"]): s[key] for s in samples}
    return [by[who, r] / by[other, r] for w, r in by if w == who and (other, r) in by]


def report(samples: list[dict[str, Any]], names: list[str]) -> None:
    """Print the ratios, and where the time goes."""
    click.echo("| cell | steps/s | peer | ratio, median (range) | of raw stepping | memory | rounds | disturbed |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name in names:
        own = [s for s in samples if s["cell"] == name]
        first, *others, raw = CELLS[name].contestants
        for peer in (other for other in others if not other.startswith("raw")):
            if found := ratios(own, first, peer):
                speed = statistics.median(s["steps_per_second"] for s in own if s["who"] == first)
                ceiling = statistics.median(ratios(own, first, raw) or [float("nan")])
                memory = statistics.median(ratios(own, first, peer, "peak_mb"))
                disturbed = sum(s["disturbed"] for s in own if s["who"] in (first, peer))
                click.echo(
                    f"| {name} | {speed:,.0f} | {peer} | {statistics.median(found):.2f} ({min(found):.2f}–"
                    f"{max(found):.2f}) | {ceiling:.0%} | {memory:.2f} | {len(found)} | {disturbed} |"
                )
    click.echo("\nShares of the time: environments, the rest of sampling, the update, anything else.\n")
    for name in names:
        for who in CELLS[name].contestants:
            own = [s["phases"] for s in samples if s["cell"] == name and s["who"] == who and s["phases"]]
            if own:
                share = {key: statistics.median(phases[key] for phases in own) for key in own[0]}
                parts = share["environments"], share["sampling"] - share["environments"], share["update"]
                click.echo(f"{name} {who}: " + ", ".join(f"{part:.0%}" for part in (*parts, 1 - sum(parts))))


def draw(samples: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of a step against the number of environments, both logarithmic; bars span the rounds."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    styles = {
        "sb3": ("SB3's A2C", "C0"),
        "pgzoo": ("pgzoo a2c", "C1"),
        "raw": ("environments alone", "C2"),
        "pgzoo/vector": ("pgzoo a2c --vec-env vector", "C1"),
        "raw/vector": ("columns alone", "C2"),
    }
    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for who, (label, colour) in styles.items():
        costs = {
            cell.n_envs: found
            for name, cell in ENVS.items()
            if (found := [1e6 / s["steps_per_second"] for s in samples if (s["cell"], s["who"]) == (name, who)])
        }
        if not costs:
            continue
        middle = [statistics.median(found) for found in costs.values()]
        below = [m - min(found) for m, found in zip(middle, costs.values(), strict=True)]
        above = [max(found) - m for m, found in zip(middle, costs.values(), strict=True)]
        style = {"marker": "o", "color": colour, "linestyle": "--" if "/" in who else "-", "capsize": 3}
        axes.errorbar(list(costs), middle, yerr=[below, above], label=label, **style)  # type: ignore[arg-type]
    axes.set(xscale="log", yscale="log", xlabel="environments side by side", ylabel="µs a step")
    axes.set_xticks([cell.n_envs for cell in ENVS.values()], [str(cell.n_envs) for cell in ENVS.values()])
    axes.minorticks_off()
    axes.set_title("CartPole-v1, 64 steps an update, one core")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Of a sample.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS, show_default=False)
@click.option("--report", "only_report", is_flag=True, help="Measure nothing.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Measure nothing, and draw.")
@click.option("--list", "only_list", is_flag=True, help="Name the cells.")
def main(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    out: Path,
    only_report: bool,
    figure: Path | None,
    only_list: bool,
) -> None:
    """Measure the cells that are named, by default the listed ones."""
    if only_list:
        for name, cell in CELLS.items():
            click.echo(f"{name}: {cell.algorithm} on {cell.n_envs} {cell.env}{'' if name in LISTED else ', by name'}")
        return
    if unknown := [name for name in names if name not in CELLS]:
        raise click.UsageError(f"unknown cell {unknown[0]!r}; there are {', '.join(CELLS)}")
    if figure:
        return draw(newest(out), figure)
    if not only_report:
        measure(list(names or LISTED), rounds, seconds, out)
    report(newest(out), list(names or CELLS if only_report else names or LISTED))


def measure(names: list[str], rounds: int, seconds: float, out: Path) -> None:
    """Take the samples that are missing."""
    here = {**source(), "asked": seconds}
    done = {(s["cell"], s["who"], s["round"]) for s in read(out, here)}
    absent = [peer for peer in PEERS if not (ROOT / f".venv-{peer}" / ".installed").exists()]
    if absent and any(set(absent) & set(CELLS[name].contestants) for name in names):
        click.echo(f"left out, since `make peers` was not run: {', '.join(absent)}", err=True)
    with appended(out) as write:
        for name in names:
            for round_ in range(rounds):
                for who in CELLS[name].contestants:
                    if who not in absent and (name, who, round_) not in done:
                        found = take(name, who, seconds)
                        write({**found, "round": round_, **here})
                        click.echo(f"{name} {who} {found['steps_per_second']:,.0f} steps/s", err=True)


if __name__ == "__main__":
    main()
