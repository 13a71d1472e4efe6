"""A study's figures, as PNG and together in one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from PIL import Image

from pgzoo.errors import ConfigError
from pgzoo.tuning.metrics import Metric
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
from pgzoo.tuning.space import PLUGIN
from pgzoo.tuning.study import DEFINITION
from pgzoo.tuning.worker import EVALUATIONS

N_CURVES = 5
N_SLICES = 8
CAPTIONS = {
    "history": "Every trial's value, and the best so far.",
    "importances": "How much of what sets the best trials apart each hyperparameter explains (PED-ANOVA).",
    "slices": "The value against each hyperparameter of the best trial, over all trials that have it.",
    "parallel": "Trials of the best one's plugin: one line each, the better the darker.",
    "curves": "Evaluations of the best trials, over their training (search seeds).",
    "retrained": "The best trained again on seeds that the search never saw, beside their plugins' defaults: every "
    "seed, the mean and its 95 % interval (Student's t).",
    "pareto": "The values of all complete trials; the front in orange.",
}


def write_report(study: optuna.Study, folder: Path) -> Path:
    """Write a PNG for each figure and `report.html`; return the latter's path.

    Raises:
        ConfigError: no trial is complete, or the folder cannot be written.
    """
    if not best_trials(study):
        raise ConfigError(f"{study.study_name} has no complete trial to report")
    mpl.use("Agg")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        drawn = dict(_figures(study, folder))
        page = folder / "report.html"
        page.write_text(_page(study, drawn), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return page


def _figures(study: optuna.Study, folder: Path) -> Iterable[tuple[str, Path]]:
    """Draw each figure that the study has something for; yield names and files."""
    several = len(study.directions) > 1
    draw: dict[str, Callable[[optuna.Study], Figure | None]] = {
        **({"pareto": _pareto} if several else {"history": _history, "importances": _importances, "slices": _slices}),
        **({} if several else {"parallel": _parallel}),
        "curves": _curves,
        "retrained": _retrained,
    }
    for name, make in draw.items():
        figure = make(study)
        if figure is not None:
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=90, bbox_inches="tight")
            with Image.open(path) as image:  # 128 colours are plenty here, and a third of the size
                image.convert("RGB").quantize(128).save(path, optimize=True)
            yield name, path


def _metric(study: optuna.Study) -> Metric:
    return metrics_of(study)[0]


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]


def _history(study: optuna.Study) -> Figure:
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    trials = _complete(study)
    x, y = [trial.number for trial in trials], [trial.values[0] for trial in trials]
    best = np.maximum.accumulate(y) if _metric(study).direction == "maximize" else np.minimum.accumulate(y)
    axes.scatter(x, y, s=14, label="complete")
    pruned = [t for t in counted_trials(study) if t.state == TrialState.PRUNED and t.values]
    axes.scatter([t.number for t in pruned], [t.values[0] for t in pruned], s=8, color="0.75", label="pruned")
    for trial in failures(study):
        axes.axvline(trial.number, color="tab:red", alpha=0.3, linewidth=1)
    axes.step(x, best, where="post", color="tab:orange", label="best so far")
    axes.set(xlabel="trial", ylabel=_metric(study).name)
    axes.legend()
    return figure


def _importances(study: optuna.Study) -> Figure | None:
    found = importances(study)
    if not found:
        return None
    figure = Figure(figsize=(7, 0.5 + 0.35 * len(found)))
    axes = figure.subplots()
    names = list(found)[::-1]
    axes.barh(names, [found[name] for name in names])
    axes.set(xlabel="importance")
    return figure


def _slices(study: optuna.Study) -> Figure:
    """Draw the value against each hyperparameter of the best trial, the most important first."""
    order = importances(study)
    best = best_trials(study)[0].params
    names = sorted(best, key=lambda name: (name != PLUGIN, -order.get(name, 0.0)))[:N_SLICES]
    columns = min(len(names), 2)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(5.5 * columns, 3.2 * rows), layout="constrained")
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(every, names, strict=False):
        _slice(axes, study, name)
    for axes in every[len(names) :]:
        axes.axis("off")
    return figure


def _slice(axes: Axes, study: optuna.Study, name: str) -> None:
    trials = [trial for trial in _complete(study) if name in trial.params]
    x: list[Any] = [trial.params[name] for trial in trials]
    distribution = trials[0].distributions[name]
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        order = sorted(set(x), key=lambda value: (isinstance(value, str), value))
        axes.set_xticks(range(len(order)), [str(value) for value in order])
        if isinstance(order[0], str):
            axes.tick_params(axis="x", rotation=75, labelsize=7)
        x = [order.index(value) for value in x]
    elif getattr(distribution, "log", False):
        axes.set_xscale("log")
    shown = axes.scatter(x, [t.values[0] for t in trials], c=[t.number for t in trials], s=12, cmap="viridis")
    axes.set(xlabel=name, ylabel=_metric(study).name)
    figure = axes.get_figure()
    assert figure is not None
    figure.colorbar(shown, ax=axes, label="trial")


def _parallel(study: optuna.Study) -> Figure | None:
    """Draw the trials of the best one's plugin by Optuna's own figure."""
    best = best_trials(study)[0]
    plugin = best.user_attrs["plugin"]
    own = [trial for trial in _complete(study) if trial.user_attrs["plugin"] == plugin]
    if len(own) < 3:
        return None
    names = [name for name in best.params if name != PLUGIN and len({str(t.params.get(name)) for t in own}) > 1]
    part = optuna.create_study(direction=study.direction)
    part.add_trials([trial for trial in own if all(name in trial.params for name in names)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(part, params=names)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    figure.set_size_inches(1.6 * max(len(names), 3) + 2, 4.5)
    axes.set_title(f"{plugin}: {len(own)} complete trials")
    return figure


def _curves(study: optuna.Study) -> Figure:
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for trial in best_trials(study)[:N_CURVES]:
        runs = [data for key, data in trial.user_attrs.items() if key.startswith(f"{EVALUATIONS}:")]
        n = min(len(run) for run in runs)
        steps = np.mean([[point["steps"] for point in run[:n]] for run in runs], axis=0)
        means = np.mean([[point["mean"] for point in run[:n]] for run in runs], axis=0)
        axes.plot(steps, means, marker=".", label=f"trial {trial.number}, {trial.user_attrs['plugin']}")
    target = _metric(study).target
    if target is not None:
        axes.axhline(target, color="0.7", linestyle="--", linewidth=1)
    axes.set(xlabel="environment steps", ylabel="mean return of an evaluation")
    axes.legend(fontsize=8)
    return figure


def _retrained(study: optuna.Study) -> Figure | None:
    found = find_retrained(study)
    if not found:
        return None
    figure = Figure(figsize=(7, 0.8 + 0.55 * len(found)))
    axes = figure.subplots()
    for row, one in enumerate(reversed(found)):
        color = "tab:blue" if one.searched is not None else "0.5"
        x = one.column()
        axes.scatter(x, np.full(len(x), row), s=14, alpha=0.5, color=color)
        low, high = t_interval(x)
        if np.isfinite(low):
            axes.plot([low, high], [row, row], color=color, linewidth=2)
        axes.scatter([one.mean()], [row], marker="D", color=color)
        if one.searched is not None:
            axes.scatter([one.searched[0]], [row], marker="x", color="tab:orange", zorder=3)
    axes.scatter([], [], marker="x", color="tab:orange", label="what the search reported")
    axes.set_yticks(range(len(found)), [_label(one) for one in reversed(found)])
    axes.set(xlabel=f"{_metric(study).name}, fresh seeds")
    axes.legend(fontsize=8)
    return figure


def _label(one: Retrained) -> str:
    return f"{one.name} ({one.plugin})" if one.searched is not None else one.name


def _pareto(study: optuna.Study) -> Figure:
    figure = Figure(figsize=(6, 4.5))
    axes = figure.subplots()
    metrics = metrics_of(study)
    front = {trial.number for trial in best_trials(study)}
    for trial in _complete(study):
        color = "tab:orange" if trial.number in front else "0.6"
        axes.scatter(trial.values[0], trial.values[1], s=18, color=color)
        if trial.number in front:
            axes.annotate(f" {trial.number} {trial.user_attrs['plugin']}", trial.values[:2], fontsize=7)
    axes.set(xlabel=metrics[0].name, ylabel=metrics[1].name)
    return figure


# ---------------------------------------------------------------- the page

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd }
th { text-align: left } td.n { text-align: right } img { max-width: 100% } code { background: #f3f3f3 }
"""


def _page(study: optuna.Study, drawn: dict[str, Path]) -> str:
    counts = count(study)
    definition = study.user_attrs[DEFINITION]
    facts = {key: value for key, value in definition.items() if key != "space"}
    parts = [
        f"<h1>{html.escape(study.study_name)}</h1>",
        f"<p>{counts.complete} trials complete, {counts.pruned} pruned, {counts.failed} failed.</p>",
        _result(study),
        *(_image(name, path) for name, path in drawn.items()),
        "<h2>Best trials of the search</h2><p>Optimistic figures: these were chosen for them.</p>",
        _best(study),
        "<h2>Failures</h2>" + _list(f"trial {t.number}: {outcome(t)}" for t in failures(study)),
        "<h2>The study</h2>" + _table(("", ""), list(facts.items())),
        "<h2>The space</h2>" + _table(("", ""), list(definition["space"].items())),
    ]
    title = html.escape(study.study_name)
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>\n'
        + "\n".join(parts)
        + "\n</html>\n"
    )


def _result(study: optuna.Study) -> str:
    metrics = metrics_of(study)
    retrained = find_retrained(study)
    if not retrained:
        return "<p>Not trained again yet.</p>"
    best = winner(retrained, metrics)
    rows = [_result_row(one, retrained) for one in retrained]
    header = ("", "plugin", "search", f"{metrics[0].name}, fresh seeds", "95 % interval", "less the default", "paired")
    said = f"<p>Result: <b>{best.name}</b> ({best.plugin}).</p>" if best else ""
    return "<h2>Result</h2>" + said + _table(header, rows)


def _result_row(one: Retrained, retrained: Sequence[Retrained]) -> tuple[Any, ...]:
    default = default_of(one, retrained) if one.searched else None
    gain = difference(one, default) if default else None
    return (
        one.name,
        one.plugin,
        one.searched[0] if one.searched else "",
        one.mean(),
        _span(t_interval(one.column())),
        gain.mean if gain else "",
        _span(gain.interval) if gain else "",
    )


def _span(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.5g} … {interval[1]:.5g}"


def _best(study: optuna.Study) -> str:
    metrics = metrics_of(study)
    rows = [
        (
            t.number,
            t.user_attrs["plugin"],
            *t.values,
            ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in t.params.items()),
        )
        for t in best_trials(study)[:10]
    ]
    return _table(("trial", "plugin", *(metric.name for metric in metrics), "hyperparameters"), rows)


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{html.escape(word)}</th>" for word in header)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f'<td class="n">{value:.5g}</td>'
    return f"<td>{html.escape(', '.join(map(str, value)) if isinstance(value, list) else str(value))}</td>"


def _list(items: Iterable[str]) -> str:
    shown = "".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul>{shown}</ul>" if shown else "<p>None.</p>"


def _image(name: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape(CAPTIONS[name])
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
    )
