"""Training speed as ratios to SB3 and other libraries on the same work.

    python benchmarks/speed.py                       # the listed jobs, under an hour; a run that was stopped resumes
    python benchmarks/speed.py a2c-4 --rounds 9      # other jobs by name; --list prints the names
    python benchmarks/speed.py --baseline ../before  # compare only with another checkout of pgzoo that has its .venv
    python benchmarks/speed.py --report              # print the tables of what was measured
    python benchmarks/speed.py --figure speed.png    # draw cost against the number of environments

Every sample is a fresh process on one core with one thread (competitors.py). The jobs "-threads" use all cores and the
default threads of torch and NumPy. A sample trains until the policy, the environments and the caches are warm, and then
for five seconds or more. The competitors take turns, A B C A B C. The result is the median and the range of each
round's ratio. The learning rate is 0, so an update costs the same for everyone, and episodes do not grow longer.

pgzoo, SB3 and sbx train on the same environments, SB3's `make_vec_env` (DummyVecEnv and Monitor). "/vector" is pgzoo's
vector environment (`--vec-env vector`). CleanRL and Tianshou have their own. `raw` steps the environments with random
actions, which bounds the speed. A sample during which other processes used more than a tenth of a core is taken again,
up to three times, and then kept and marked. Samples of other code or of another machine do not count.

sbx, CleanRL and Tianshou take part if `make peers` installed them, each in its own virtual environment.
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
from jobs import source

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed.jsonl"
BASELINE = "baseline"
"""pgzoo of another checkout."""
PHASES = ("environments", "sampling", "update")
PEERS = {name: ROOT / f".venv-{name}" / "bin" / "python" for name in ("sbx", "cleanrl", "tianshou")}
DISTURBED, RETRIES = 0.1, 3


@dataclass(frozen=True)
class Job:
    """What is trained.

    Attributes:
        algorithm: the recipe. Its peer is SB3's class of that name, or else pgzoo's sb3 backend.
        env: registered in Gymnasium, or "image" for random images.
        n_envs: of all competitors.
        options: arguments of all competitors.
        competitors: those that take turns. The first is compared with the others, and with the last, which only steps.
        one_thread: use one core and one thread; otherwise the default of torch and of NumPy's BLAS.
    """

    algorithm: str
    env: str
    n_envs: int
    options: dict[str, Any] = field(default_factory=dict)
    competitors: tuple[str, ...] = ("pgzoo", "sb3", "raw")
    one_thread: bool = True


ALL, BACKENDS = ("pgzoo", "sb3", *PEERS, "raw"), ("pgzoo", "pgzoo/sb3-backend", "raw")
PPO4, PPO10 = {"n_steps": 128, "n_epochs": 4, "batch_size": 256}, {"n_steps": 128, "n_epochs": 10, "batch_size": 256}
LISTED = {
    "a2c-8x5": Job("a2c", "CartPole-v1", 8, {"n_steps": 5}),
    "a2c-8x256": Job("a2c", "CartPole-v1", 8, {"n_steps": 256}),
    "ppo4-8x128": Job("ppo", "CartPole-v1", 8, PPO4, ALL),
    "ppo10-8x128": Job("ppo", "CartPole-v1", 8, PPO10),
    "a2c-1x256": Job("a2c", "CartPole-v1", 1, {"n_steps": 256}),
    "a2c-256-vector": Job(
        "a2c", "CartPole-v1", 256, {"n_steps": 32}, ("pgzoo/vector", "sb3", "sb3/vector", "raw/vector")
    ),
    "reinforce-8": Job("reinforce", "CartPole-v1", 8, {}, BACKENDS),
    "grpo-8": Job("grpo", "CartPole-v1", 8, {}, BACKENDS),
}
ENVS = {
    f"a2c-{n}": Job("a2c", "CartPole-v1", n, {"n_steps": 64}, ("pgzoo", "sb3", "pgzoo/vector", "raw/vector", "raw"))
    for n in (1, 4, 16, 64, 256)
}
JOBS = {
    **LISTED,
    **ENVS,
    "ppo10-peers": Job("ppo", "CartPole-v1", 8, PPO10, ALL),
    "ppo10-pendulum": Job("ppo", "Pendulum-v1", 8, PPO10),
    "ppo10-halfcheetah": Job("ppo", "HalfCheetah-v5", 8, PPO10),
    "ppo4-image": Job("ppo", "image", 8, PPO4),
    "a2c-threads": Job("a2c", "CartPole-v1", 8, {"n_steps": 256}, one_thread=False),
    "ppo10-threads": Job("ppo", "CartPole-v1", 8, PPO10, one_thread=False),
}


def take(name: str, competitor: str, seconds: float, baseline: Path | None = None) -> dict[str, Any]:
    """Return a sample from a fresh process. A disturbed sample is taken again."""
    pythons = {**PEERS, **({BASELINE: baseline / ".venv" / "bin" / "python"} if baseline else {})}
    command = [
        str(pythons.get(competitor, sys.executable)),
        str(ROOT / "benchmarks" / "competitors.py"),
        json.dumps(asdict(JOBS[name])),
        JOBS[name].competitors[0] if competitor == BASELINE else competitor,
        str(seconds),
    ]
    for attempt in range(1, RETRIES + 2):
        environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
        if not JOBS[name].one_thread:
            del environment["OMP_NUM_THREADS"]  # make sets it
        result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if result.returncode:
            raise click.ClickException(f"{name} {competitor}: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
        sample: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
        sample |= {"attempts": attempt, "disturbed": sample["others"] > DISTURBED}
        if not sample["disturbed"]:
            break
    return {"job": name, "competitor": competitor, **sample}


def read(path: Path, where: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the samples of a file with these values."""
    samples = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [s for s in samples if all(s.get(key) == value for key, value in where.items())]


def newest(path: Path) -> list[dict[str, Any]]:
    """Return the samples of the code and the machine that were measured last."""
    samples = read(path, {})
    return read(path, {key: samples[-1][key] for key in ("code", "host", "asked")}) if samples else []


@contextmanager
def appended(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that appends a sample to the file and flushes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:

        def write(sample: dict[str, Any]) -> None:
            file.write(json.dumps(sample) + "\n")
            file.flush()

        yield write


# ---------------------------------------------------------------- tables and the figure


def ratios(samples: list[dict[str, Any]], first: str, peer: str, key: str = "steps_per_second") -> list[float]:
    """Return each round's ratio of two competitors of one job."""
    values = {(s["competitor"], s["round"]): s[key] for s in samples}
    return [values[c, r] / values[peer, r] for c, r in values if c == first and (peer, r) in values]


def report(samples: list[dict[str, Any]], names: list[str]) -> None:
    """Print the ratios, and the shares of the time."""
    click.echo("| job | steps/s | peer | ratio, median (range) | of raw stepping | memory | rounds | disturbed |")
    click.echo("|---|---|---|---|---|---|---|---|")
    for name in names:
        of_job = [s for s in samples if s["job"] == name]
        first, *peers, raw = JOBS[name].competitors
        for peer in (BASELINE, *(peer for peer in peers if not peer.startswith("raw"))):
            if speed_ratios := ratios(of_job, first, peer):
                speed = statistics.median(s["steps_per_second"] for s in of_job if s["competitor"] == first)
                ceiling = statistics.median(ratios(of_job, first, raw) or [float("nan")])
                memory = statistics.median(ratios(of_job, first, peer, "peak_mb"))
                disturbed = sum(s["disturbed"] for s in of_job if s["competitor"] in (first, peer))
                click.echo(
                    f"| {name} | {speed:,.0f} | {peer} | {statistics.median(speed_ratios):.2f} "
                    f"({min(speed_ratios):.2f}–{max(speed_ratios):.2f}) | {ceiling:.0%} | {memory:.2f} | "
                    f"{len(speed_ratios)} | {disturbed} |"
                )
    click.echo("\nShares of the time: environments, the rest of sampling, the update, anything else.\n")
    for name in names:
        for competitor in JOBS[name].competitors:
            of_competitor = [s for s in samples if (s["job"], s["competitor"]) == (name, competitor) and s["phases"]]
            if of_competitor:
                phases = {key: statistics.median(s["phases"][key] for s in of_competitor) for key in PHASES}
                parts = phases["environments"], phases["sampling"] - phases["environments"], phases["update"]
                click.echo(f"{name} {competitor}: " + ", ".join(f"{part:.0%}" for part in (*parts, 1 - sum(parts))))


def draw(samples: list[dict[str, Any]], path: Path) -> None:
    """Draw the cost of a step against the number of environments, both logarithmic; bars span the rounds."""
    from matplotlib.figure import Figure

    styles = {
        "sb3": ("SB3's A2C", "C0"),
        "pgzoo": ("pgzoo a2c", "C1"),
        "raw": ("environments alone", "C2"),
        "pgzoo/vector": ("pgzoo a2c --vec-env vector", "C1"),
        "raw/vector": ("vector environments alone", "C2"),
    }
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for competitor, (label, colour) in styles.items():
        costs: dict[int, list[float]] = {}
        for name, job in ENVS.items():
            of_job = [s for s in samples if (s["job"], s["competitor"]) == (name, competitor)]
            if of_job:
                costs[job.n_envs] = [1e6 / s["steps_per_second"] for s in of_job]
        if not costs:
            continue
        middle = [statistics.median(values) for values in costs.values()]
        below = [m - min(values) for m, values in zip(middle, costs.values(), strict=True)]
        above = [max(values) - m for m, values in zip(middle, costs.values(), strict=True)]
        line = "--" if "/" in competitor else "-"
        axes.errorbar(
            list(costs), middle, yerr=[below, above], label=label, marker="o", color=colour, linestyle=line, capsize=3
        )
    axes.set(xscale="log", yscale="log", xlabel="parallel environments", ylabel="µs per step")
    axes.set_xticks([job.n_envs for job in ENVS.values()], [str(job.n_envs) for job in ENVS.values()])
    axes.minorticks_off()
    axes.set_title("CartPole-v1, 64 steps per update, one core")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--rounds", type=click.IntRange(min=1), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(min=0.1), default=5.0, show_default=True, help="Duration of a sample.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=RESULTS, show_default=False)
@click.option("--baseline", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--report", "only_report", is_flag=True, help="Print the tables without measuring.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Draw without measuring.")
@click.option("--list", "only_list", is_flag=True, help="Print the names of the jobs.")
def main(
    names: tuple[str, ...],
    rounds: int,
    seconds: float,
    out: Path,
    only_report: bool,
    figure: Path | None,
    only_list: bool,
    baseline: Path | None,
) -> None:
    """Measure the named jobs, by default the listed ones."""
    if only_list:
        for name, job in JOBS.items():
            click.echo(f"{name}: {job.algorithm} on {job.n_envs} {job.env}{'' if name in LISTED else ', by name'}")
        return
    if unknown := [name for name in names if name not in JOBS]:
        raise click.UsageError(f"unknown job {unknown[0]!r}; known: {', '.join(JOBS)}")
    if figure:
        return draw(newest(out), figure)
    if not only_report:
        measure(list(names or LISTED), rounds, seconds, out, baseline)
    report(newest(out), list(names or JOBS if only_report else names or LISTED))


def measure(names: list[str], rounds: int, seconds: float, out: Path, baseline: Path | None) -> None:
    """Take the samples that are missing."""
    here = {**source(), "asked": seconds}
    done = {(s["job"], s["competitor"], s["round"]) for s in read(out, here)}
    absent = [peer for peer in PEERS if not (ROOT / f".venv-{peer}" / ".installed").exists()]
    if absent and any(set(absent) & set(JOBS[name].competitors) for name in names):
        click.echo(f"not measured, because `make peers` was not run: {', '.join(absent)}", err=True)
    with appended(out) as write:
        for name in names:
            first, *peers = JOBS[name].competitors
            competitors = [first, BASELINE] if baseline else [first, *peers]
            for round_ in range(rounds):
                for competitor in competitors:
                    if competitor not in absent and (name, competitor, round_) not in done:
                        sample = take(name, competitor, seconds, baseline)
                        write({**sample, "round": round_, **here})
                        click.echo(f"{name} {competitor} {sample['steps_per_second']:,.0f} steps/s", err=True)


if __name__ == "__main__":
    main()
