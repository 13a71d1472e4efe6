"""A benchmark's report: the tables, which Markdown and the page share, and the Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.benchmark.page import page, short
from pgzoo.benchmark.statistics import Estimate
from pgzoo.benchmark.summary import PROFILE_THRESHOLDS, Environment, Row, Summary, is_peer, summarize
from pgzoo.files import atomic_write, writing
from pgzoo.formatting import format_number


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        header: the names of the columns.
        rows: the cells.
        keys: the algorithm of each row, or the environment; empty: of none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    keys: Sequence[str] = ()

    def markdown(self) -> str:
        """Return the table as Markdown."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


DEFINITIONS = (
    "A score is the mean return of a final agent over episodes with the most likely actions, or sampled ones on Atari "
    "games and MiniGrid, as in RL Zoo. Its seeds are not those of training. IQM is the interquartile mean over seeds, "
    "with its 95 % bootstrap interval in brackets. "
    "P(> peer) is the probability that a run is better than a run of the peer; ties count half. Steps to the threshold "
    "are the median over seeds, or – unless most seeds reach it. Seconds are the median wall time of training, "
    "without evaluations. Definitions: Agarwal et al. 2021, arXiv:2108.13264."
)


def write_report(folder: Path, out: Path) -> tuple[Path, Path]:
    """Write report.md and report.html to `out`. Return their paths.

    Raises:
        ConfigError: the folder has no results.
        MachineError: a file cannot be written.
    """
    summary = summarize(folder)
    files = out / "report.md", out / "report.html"
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for file, text in zip(files, (markdown(summary), page(summary, tables(summary), DEFINITIONS)), strict=True):
        with atomic_write(file) as partial:
            partial.write_text(text, encoding="utf-8")
    return files


def tables(summary: Summary) -> dict[str, Table]:
    """Return the report's tables: `summary`, one per environment by its name, `improvement`, `profiles`, `versions`."""
    found = {"summary": summary_table(summary), **{env.name: environment_table(env) for env in summary.environments}}
    if summary.improvement and any(summary.improvement.values()):
        found["improvement"] = improvement_table(summary)
    if summary.profiles:
        found["profiles"] = profile_table(summary)
    found["versions"] = versions_table(summary)
    return found


def markdown(summary: Summary) -> str:
    """Return the report as Markdown."""
    found = tables(summary)
    parts = ["# Benchmark", DEFINITIONS]
    if found["summary"].rows:
        parts += ["## Best recipe and best peer", found["summary"].markdown()]
    for env in summary.environments:
        parts += [f"## {env.name}", f"{short(env.steps)} environment steps per training.", found[env.name].markdown()]
    if "improvement" in found:
        parts += ["## Probability of improvement", common(summary), found["improvement"].markdown()]
    if "profiles" in found:
        parts += ["## Performance profiles", profile_facts(summary), found["profiles"].markdown()]
    parts += ["## Versions and machines", found["versions"].markdown(), *unfinished(summary)]
    return "\n\n".join(parts) + "\n"


def summary_table(summary: Summary) -> Table:
    """Return the table that compares the best recipe with the best peer on each environment."""
    rows, keys = [], []
    for env in summary.environments:
        if (v := env.verdict) is not None:
            keys.append(env.name)
            scores = [f"{row.algorithm} {estimate(row.score)}" for row in (v.recipe, v.peer)]
            seconds = [number(row.seconds) for row in (v.recipe, v.peer)]
            rows.append([env.name, *scores, estimate(v.difference), v.text, *seconds])
    header = ("environment", "best recipe", "best peer", "difference", "", "seconds", "peer's seconds")
    return Table(header, rows, keys)


def environment_table(env: Environment) -> Table:
    """Return the table of an environment: algorithms, random actions, and published results."""
    columns = [row.algorithm for row in env.rows if is_peer(row.algorithm)]
    header = ("algorithm", "IQM", "mean", f"steps to {number(env.threshold)}", "seconds",
              *(f"P(> {peer})" for peer in columns), "std", "seeds")  # fmt: skip
    rows = [_cells(row, columns) for row in env.rows]
    keys, empty = [row.algorithm for row in env.rows], [""] * (len(columns) + 2)
    if env.random is not None:
        rows.append(["random actions", "", number(env.random), *empty, "", ""])
        keys.append("random")
    for row in env.published:
        name = f"published: {row['algorithm']}, {short(row['steps'])} steps ({row['source']})"
        std = number(row["std"]) if "std" in row else ""
        rows.append([name, "", number(row["mean"]), *empty, std, str(row.get("n_seeds", ""))])
        keys.append("published")
    return Table(header, rows, keys)


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    improvement = [estimate(row.improvement[peer], 2) if peer in row.improvement else "" for peer in columns]
    reached = "" if row.n_reached == len(row.runs) else f" ({row.n_reached} of {len(row.runs)})"
    steps_to = (f"{row.steps_to:,.0f}" if math.isfinite(row.steps_to) else "–") + reached
    std = number(float(row.scores.std(ddof=1))) if len(row.runs) > 1 else ""
    mean = number(float(row.scores.mean()))
    return [row.algorithm, estimate(row.score), mean, steps_to, number(row.seconds), *improvement, std,
            str(len(row.runs))]  # fmt: skip


def improvement_table(summary: Summary) -> Table:
    """Return the probability of improvement of each recipe over each peer."""
    columns = [name for name in summary.algorithms if is_peer(name)]
    rows = [[name, *(estimate(by_peer[peer], 2) for peer in columns)] for name, by_peer in summary.improvement.items()]
    return Table(("recipe", *(f"P(> {peer})" for peer in columns)), rows, list(summary.improvement))


def profile_table(summary: Summary) -> Table:
    """Return the performance profiles at five thresholds."""
    chosen = [0, 5, 10, 15, 20, 25]
    header = ("algorithm", *(f"> {PROFILE_THRESHOLDS[i]:g}" for i in chosen))
    rows = [
        [name, *(estimate(Estimate(p.value[i], p.low[i], p.high[i]), 2) for i in chosen)]
        for name, p in summary.profiles.items()
    ]
    return Table(header, rows, list(summary.profiles))


def versions_table(summary: Summary) -> Table:
    """Return the versions that the jobs ran with, one column for each combination."""
    names = list(dict.fromkeys(name for versions, _ in summary.versions for name in versions))
    header = ("", *(f"{n} jobs" for _, n in summary.versions))
    return Table(header, [[name, *(versions.get(name, "") for versions, _ in summary.versions)] for name in names])


def common(summary: Summary) -> str:
    """Return which environments the algorithms are compared on."""
    return f"Mean over the environments with results of every algorithm: {', '.join(summary.common)}."


def profile_facts(summary: Summary) -> str:
    """Return what a performance profile shows."""
    return (
        "The fraction of runs whose normalised score exceeds a threshold: 0 is random actions (without them, the worst "
        f"run), and 1 is the best peer's IQM (without peers, the best recipe's). {common(summary)}"
    )


def unfinished(summary: Summary) -> Iterable[str]:
    """Yield what is missing from the report."""
    if summary.failed:
        yield "Failed jobs:\n\n" + "\n".join(f"- {name}: {error}" for name, error in summary.failed.items())
    if summary.n_missing:
        yield f"{summary.n_missing} jobs have no result yet."


def number(x: float) -> str:
    """Return a number with at most three significant digits and all of its integer part, and with a minus sign."""
    return format_number(float(x), 3).replace("-", "−")


def estimate(e: Estimate | Mapping[str, Any], decimals: int | None = None) -> str:
    """Return an estimate with its interval, which is left out if it has no width."""
    assert isinstance(e, Estimate)
    show = number if decimals is None else lambda x: f"{x:.{decimals}f}"
    return show(e.value) if e.low == e.high else f"{show(e.value)} [{show(e.low)}, {show(e.high)}]"
