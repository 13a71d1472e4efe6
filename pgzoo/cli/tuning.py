"""Shows studies: a live table during the search, the result at the end, JSON for programs."""

from __future__ import annotations

import datetime
import json
import shlex
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import click
import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.live import Live
from rich.table import Table

from pgzoo.formatting import format_number
from pgzoo.tuning.results import (
    best_trials,
    count,
    counted_trials,
    drawn,
    failures,
    importances,
    metrics_of,
    outcome,
)
from pgzoo.tuning.retrained import HEADER, Retrained, find_retrained, result, row, sentence, winner
from pgzoo.tuning.space import readable
from pgzoo.tuning.storage import without_password
from pgzoo.tuning.study import COMMAND, DEFINITION, RETRAINED

N_SHOWN = 5
MIN_IMPORTANCE = 0.005


class StudyTable:
    """Prints a line for each trial that ends. On a terminal it also shows a table of the study's progress."""

    def __init__(self, n_jobs: int) -> None:
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self._live = Live(console=self._console, refresh_per_second=2, transient=True)
        self._n_jobs = n_jobs
        self._began = datetime.datetime.now()
        self._printed: dict[str, set[int]] = {}
        """By study: the numbers of the trials that were printed, or ended before this command."""

    def __enter__(self) -> StudyTable:
        self._verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the table replaces Optuna's messages
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
        optuna.logging.set_verbosity(self._verbosity)

    def update(self, study: optuna.Study, keys: Iterable[str]) -> None:
        """Show the progress of the planned trials of a study."""
        name = study.study_name
        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        if name not in self._printed:
            self._printed[name] = {
                trial.number
                for trial in ended
                if trial.datetime_complete is not None and trial.datetime_complete < self._began
            }
            if name.endswith(f"/{RETRAINED}"):
                self._console.print("training the best trials and the defaults again, on fresh seeds")
        for trial in ended:
            if trial.number not in self._printed[name]:
                self._printed[name].add(trial.number)
                self._console.print(_line(trial))
        if self._console.is_terminal:
            self._live.update(self._table(study, list(keys)))

    def _table(self, study: optuna.Study, keys: list[str]) -> Table:
        counts = count(study, keys)
        trials = counted_trials(study, keys)
        seconds = [t.duration.total_seconds() for t in trials if t.state.is_finished() and t.duration is not None]
        seconds_left = (counts.total - counts.ended) * float(np.mean(seconds)) / self._n_jobs if seconds else None
        table = Table(title=study.study_name)
        for header in ("done", "pruned", "failed", "running", "best so far", "time left"):
            table.add_column(header, justify="right")
        table.add_row(
            f"{counts.ended} of {counts.total}",
            str(counts.pruned),
            str(counts.failed),
            str(counts.running),
            _best_so_far(study, [trial for trial in trials if trial.state == TrialState.COMPLETE]),
            "–" if seconds_left is None else time.strftime("%H:%M:%S", time.gmtime(seconds_left)),
        )
        return table


def _best_so_far(study: optuna.Study, complete: list[FrozenTrial]) -> str:
    if not complete or len(study.directions) > 1:
        return "–"
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    best = min(complete, key=lambda trial: sign * trial.values[0])
    return f"{format_number(best.values[0])} ({best.user_attrs.get('plugin', '')}, trial {best.number})"


def _line(trial: FrozenTrial) -> str:
    attributes = trial.user_attrs
    words = [
        f"trial {trial.number}:",
        attributes.get("candidate") or attributes.get("plugin", ""),
        f"seed {attributes['seed']}" if "seed" in attributes else "",
        ", ".join(format_number(value) for value in trial.values or []),
        "" if trial.state == TrialState.COMPLETE else outcome(trial),
        f"in {trial.duration.total_seconds():.0f} s" if trial.duration else "",
    ]
    return " ".join(word for word in words if word)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print warnings in one line, without the line of code that issued them."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        click.echo(f"Warning: {message}", err=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


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
            table.add_row(summary.study_name, ", ".join(definition["envs"]), ", ".join(definition["metrics"]), ended)
    Console(markup=False).print(table if table.row_count else "there are no studies yet; pgzoo tune creates one")


def show_result(study: optuna.Study, storage: str) -> None:
    """Print counts, best trials, importances, failures, and the values of the best trials on fresh seeds.

    Args:
        study: the study.
        storage: the URL or file of its storage, which the next command needs.
    """
    console = Console(highlight=False, markup=False)
    counts = count(study)
    console.print(
        f"{study.study_name}: {counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed"
        + (f", {counts.running} running" if counts.running else "")
        + (f", {n_left} to do" if (n_left := counts.total - counts.ended - counts.running) else "")
    )
    if best := best_trials(study):
        console.print(_best_table(study, best))
    if importance := importances(study):
        shown = [f"{name} {share:.2f}" for name, share in importance.items() if share > MIN_IMPORTANCE][:N_SHOWN]
        console.print(f"Importances (PED-ANOVA): {', '.join(shown)}")
    for trial in failures(study)[:N_SHOWN]:
        console.print(f"trial {trial.number} ({trial.user_attrs.get('plugin', '?')}) {outcome(trial)}", style="red")
    if counts.failed > N_SHOWN:
        console.print(f"… and {counts.failed - N_SHOWN} more failures", style="red")
    if retrained := find_retrained(study):
        _show_retrained(console, study, retrained, storage)
    if (words := study.user_attrs.get(COMMAND)) is not None:
        command = shlex.join(["pgzoo", "tune", *words, "--study-name", study.study_name])
        console.print(f"Command: {command}", soft_wrap=True)


def _best_table(study: optuna.Study, best: list[FrozenTrial]) -> Table:
    metrics = metrics_of(study)
    several = len(metrics) > 1
    table = Table(title="Pareto front" if several else "Best trials of the search (optimistic: chosen by these values)")
    table.add_column("trial", justify="right")
    table.add_column("plugin")
    for metric in metrics:
        table.add_column(metric.name, justify="right")
    table.add_column("hyperparameters")
    for trial in best if several else best[:N_SHOWN]:
        table.add_row(str(trial.number), trial.user_attrs["plugin"], *map(format_number, trial.values), drawn(trial))
    return table


def _show_retrained(console: Console, study: optuna.Study, retrained: list[Retrained], storage: str) -> None:
    metrics = metrics_of(study)
    n_seeds = max(len(candidate.values) + len(candidate.failed_seeds) for candidate in retrained)
    for index, metric in enumerate(metrics):
        table = Table(title=f"{metric.name} on {n_seeds} fresh seeds: mean, 95 % bootstrap interval, minus the default")
        for column, header in enumerate(HEADER):
            table.add_column(header, justify="left" if column < 2 else "right")
        for candidate in retrained:
            table.add_row(*row(candidate, retrained, index))
        console.print(table)
    if (found := result(retrained, metrics)) is not None:
        console.print(f"Result: {sentence(found, metrics)}", soft_wrap=True)
        if not found.winner.is_default:
            trial = shlex.quote(f"{study.study_name}:{found.winner.name.removeprefix('trial ')}")
            shown = shlex.quote(without_password(storage))
            console.print(f"Next: pgzoo train --trial {trial} --storage {shown}", soft_wrap=True)


def show_json(study: optuna.Study) -> None:
    """Print what `show_result` prints as JSON."""
    retrained = find_retrained(study)
    metrics = metrics_of(study)
    best, found = winner(retrained, metrics), result(retrained, metrics)
    shown = {
        "study": study.study_name,
        "definition": study.user_attrs[DEFINITION],
        "counts": vars(count(study)),
        "best": [
            {
                "trial": trial.number,
                "plugin": trial.user_attrs["plugin"],
                "values": trial.values,
                "params": readable(trial.params),
            }
            for trial in best_trials(study)
        ],
        "importances": importances(study),
        "failures": [{"trial": trial.number, "outcome": outcome(trial)} for trial in failures(study)],
        "retrained": [vars(candidate) for candidate in retrained],
        "winner": best.name if best else None,
        "result": sentence(found, metrics) if found else None,
    }
    click.echo(json.dumps(shown, indent=2))
