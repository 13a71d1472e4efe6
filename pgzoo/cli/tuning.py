"""How a study is shown: a live table while it runs, its result at the end."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import click
import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live as RichLive
from rich.table import Table

from pgzoo.tuning.results import (
    Retrained,
    best_trials,
    count,
    counted_trials,
    default_of,
    difference,
    failures,
    find_retrained,
    importances,
    metrics_of,
    outcome,
    t_interval,
    winner,
)
from pgzoo.tuning.study import DEFINITION, RETRAINED

SHOWN = 5

optuna.logging.set_verbosity(optuna.logging.WARNING)  # the table says it


class Live:
    """A line for each trial that ended; on a terminal also a table of where the study is."""

    def __init__(self, n_jobs: int) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._live = RichLive(console=self._console, refresh_per_second=2, transient=True)
        self._n_jobs = n_jobs
        self._began = datetime.datetime.now()
        self._told: dict[str, set[int]] = {}

    def __enter__(self) -> Live:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, study: optuna.Study, tickets: Iterable[str]) -> None:
        """Show what is new."""
        name = study.study_name
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        if name not in self._told:  # what ended before this command is not told again
            self._told[name] = {t.number for t in ended if t.datetime_complete and t.datetime_complete < self._began}
            if name.endswith(f"/{RETRAINED}"):
                self._console.print("training the best again, and the defaults, on fresh seeds")
        for trial in ended:
            if trial.number not in self._told[name]:
                self._told[name].add(trial.number)
                self._console.print(_line(trial))
        if self._console.is_terminal:
            self._live.update(self._table(study, list(tickets)))

    def _table(self, study: optuna.Study, tickets: list[str]) -> Table:
        counts = count(study, tickets)
        done = counted_trials(study, tickets)
        complete = [t for t in done if t.state == TrialState.COMPLETE]
        table = Table(title=study.study_name)
        for header in ("done", "pruned", "failed", "running", "best so far", "time left"):
            table.add_column(header, justify="right")
        best = "–"
        if complete and len(study.directions) == 1:
            sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
            top = min(complete, key=lambda t: sign * t.values[0])
            best = f"{_number(top.values[0])} ({top.user_attrs.get('plugin', '')}, trial {top.number})"
        seconds = [t.duration.total_seconds() for t in done if t.state.is_finished() and t.duration]
        left = (counts.total - counts.ended) * float(np.mean(seconds)) / self._n_jobs if seconds else None
        table.add_row(
            f"{counts.ended} of {counts.total}",
            str(counts.pruned),
            str(counts.failed),
            str(counts.running),
            best,
            "–" if left is None else time.strftime("%H:%M:%S", time.gmtime(left)),
        )
        return table


def _line(trial: FrozenTrial) -> str:
    what = trial.user_attrs.get("candidate") or trial.user_attrs.get("plugin", "")
    seed = f" seed {trial.user_attrs['seed']}" if "seed" in trial.user_attrs else ""
    values = ", ".join(_number(value) for value in trial.values or [])
    state = "" if trial.state == TrialState.COMPLETE else f" {outcome(trial)}"
    seconds = f" in {trial.duration.total_seconds():.0f} s" if trial.duration else ""
    return f"trial {trial.number}: {what}{seed} {values}{state}{seconds}".replace("  ", " ")


def _number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def list_studies(storage: BaseStorage) -> None:
    """Print the studies of a storage."""
    table = Table()
    for header in ("study", "environment", "metric", "trials ended"):
        table.add_column(header)
    for summary in optuna.get_all_study_summaries(storage, include_best_trial=False):
        definition = summary.user_attrs.get(DEFINITION)
        if definition is not None:
            counts = count(optuna.load_study(study_name=summary.study_name, storage=storage))
            ended = f"{counts.ended} of {counts.total}"
            table.add_row(summary.study_name, definition["env"], ", ".join(definition["metrics"]), ended)
    Console(markup=False).print(table if table.row_count else "no study yet; pgzoo tune makes one")


def show_result(study: optuna.Study) -> None:
    """Print counts, best trials, importances, failures, and what the best earned on fresh seeds."""
    console = Console(highlight=False, markup=False)
    counts = count(study)
    console.print(
        f"{study.study_name}: {counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed"
        + (f", {counts.running} running" if counts.running else "")
        + (f", {left} to do" if (left := counts.total - counts.ended - counts.running) else "")
    )
    if best := best_trials(study):
        console.print(_best_table(study, best))
    if found := importances(study):
        shown = ", ".join(f"{name} {share:.2f}" for name, share in list(found.items())[:SHOWN] if share > 0.005)
        console.print(f"Importances (PED-ANOVA): {shown}")
    for trial in failures(study)[:SHOWN]:
        console.print(f"trial {trial.number} ({trial.user_attrs.get('plugin', '?')}) {outcome(trial)}", style="red")
    if counts.failed > SHOWN:
        console.print(f"… and {counts.failed - SHOWN} more failures", style="red")
    if retrained := find_retrained(study):
        _show_retrained(console, study, retrained)


def _best_table(study: optuna.Study, best: list[FrozenTrial]) -> Table:
    metrics = metrics_of(study)
    table = Table(title="Pareto front" if len(metrics) > 1 else "Best trials of the search (optimistic: chosen)")
    table.add_column("trial", justify="right")
    table.add_column("plugin")
    for metric in metrics:
        table.add_column(metric.name, justify="right")
    table.add_column("hyperparameters")
    for trial in best[: SHOWN if len(metrics) == 1 else None]:
        params = ", ".join(f"{name}={_param(value)}" for name, value in trial.params.items() if name != "plugin")
        table.add_row(str(trial.number), trial.user_attrs["plugin"], *map(_number, trial.values), params)
    return table


def _param(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _show_retrained(console: Console, study: optuna.Study, retrained: list[Retrained]) -> None:
    metrics = metrics_of(study)
    n = max(len(r.values) + len(r.failed) for r in retrained)
    for index, metric in enumerate(metrics):
        table = Table(title=f"{metric.name} on {n} fresh seeds: mean, 95 % interval (t), less the plugin's default")
        for header in ("", "plugin", "search", "fresh seeds", "interval", "difference", "interval"):
            table.add_column(header, justify="left" if header in ("", "plugin") else "right")
        for one in retrained:
            default = default_of(one, retrained) if one.searched is not None else None
            gain = difference(one, default, index) if default else None
            searched = _number(one.searched[index]) if one.searched else ""
            failed = f" ({len(one.failed)} failed)" if one.failed else ""
            table.add_row(
                one.name,
                one.plugin,
                searched,
                _number(one.mean(index)) + failed,
                _interval(t_interval(one.column(index))),
                _number(gain.mean) if gain else "",
                _interval(gain.interval) if gain else "",
            )
        console.print(table)
    if (best := winner(retrained, metrics)) is not None:
        low, high = t_interval(best.column())
        console.print(
            f"Result: {best.name} ({best.plugin}), {metrics[0].name} {_number(best.mean())} "
            f"[{_number(low)}, {_number(high)}] on {len(best.values)} fresh seeds"
        )
        if best.searched is not None:  # a default has no trial of its own here
            number = best.name.removeprefix("trial ")
            console.print(f"Next: pgzoo train --trial {study.study_name}:{number}", soft_wrap=True)


def _interval(interval: tuple[float, float]) -> str:
    return f"{_number(interval[0])} … {_number(interval[1])}"


def show_json(study: optuna.Study) -> None:
    """Print the same as JSON."""
    retrained = find_retrained(study)
    best = winner(retrained, metrics_of(study))
    shown = {
        "study": study.study_name,
        "definition": study.user_attrs[DEFINITION],
        "counts": vars(count(study)),
        "best": [
            {"trial": t.number, "plugin": t.user_attrs["plugin"], "values": t.values, "params": t.params}
            for t in best_trials(study)
        ],
        "importances": importances(study),
        "failures": [{"trial": t.number, "outcome": outcome(t)} for t in failures(study)],
        "retrained": [vars(r) for r in retrained],
        "winner": best.name if best else None,
    }
    click.echo(json.dumps(shown, indent=2))
