"""The figures of a study: Optuna's, and two that Optuna does not have, training curves and retrained candidates."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as optuna_figures

from pgzoo.tuning._optuna import CONSTRAINTS
from pgzoo.tuning.objective import EVALUATIONS
from pgzoo.tuning.results import best_trials, counted_trials, importance_evaluator, importances, metrics_of
from pgzoo.tuning.retrained import Retrained, estimate, find_retrained
from pgzoo.tuning.space import PLUGIN
from pgzoo.tuning.study import DEFINITION

LEARNING_RATE = "learning_rate"
N_CURVES = 5
N_SLICES = 4
MAX_PARETO_METRICS = 3
MIN_TRIALS_FOR_PARALLEL = 3
CAPTIONS = {
    "pareto": "The values of all complete trials, with the Pareto front in red.",
    "history": "The value of every complete trial, and the best value so far.",
    "importances": "The importance of each hyperparameter for being among the best trials (PED-ANOVA).",
    "slices": "The value against the step size and the most important hyperparameters of the best trial. Pruned trials "
    "are grey, with their last value.",
    "parallel": "The trials of the best trial's plugin. Each line is a trial; darker is better.",
    "curves": "The evaluations of the best trials during training, averaged over the seeds of the search.",
    "retrained": "The best trials and the defaults of their plugins, trained again on fresh seeds: each seed, the mean "
    "and its 95 % bootstrap interval.",
}


def draw(name: str, study: optuna.Study) -> Figure | None:
    """Return a figure, one of CAPTIONS, or None if the study does not have enough data for it."""
    makers: dict[str, Callable[[optuna.Study], Figure | None]] = {
        "pareto": _pareto,
        "history": _history,
        "importances": _importances,
        "slices": _slices,
        "parallel": _parallel,
        "curves": _curves,
        "retrained": _retrained,
    }
    return makers[name](study)


# ---------------------------------------------------------------- Optuna's figures


@contextmanager
def _pyplot_restored() -> Iterator[None]:
    """Let Optuna draw with pyplot, without windows and without lasting effects.

    Optuna draws with pyplot and sets its style. Afterwards pyplot has the same backend, style and open figures as
    before. The figures stay usable, because pyplot only forgets them.
    """
    from matplotlib import pyplot as plt

    backend, open_figures = plt.get_backend(), set(plt.get_fignums())
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if backend.lower() != "agg":
            plt.switch_backend("agg")
        try:
            yield
        finally:
            for number in set(plt.get_fignums()) - open_figures:
                plt.close(number)
            if backend.lower() != "agg":
                plt.switch_backend(backend)


def _figure_of(axes: Axes | np.ndarray, width: float, height: float) -> Figure:
    """Return the figure that contains the axes that Optuna returned, with a size in inches."""
    figure = np.ravel(np.asarray(axes))[0].figure
    assert isinstance(figure, Figure)
    figure.set_size_inches(width, height)
    return figure


def _metric_name(study: optuna.Study) -> str:
    return metrics_of(study)[0].name


def _complete(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]


def _pareto(study: optuna.Study) -> Figure | None:
    names = [metric.name for metric in metrics_of(study)][:MAX_PARETO_METRICS]
    if len(names) == 1:
        return None
    with _pyplot_restored():
        axes = optuna_figures.plot_pareto_front(
            study, target_names=names, targets=lambda trial: trial.values[: len(names)]
        )
        return _figure_of(axes, 7, 4.5)


def _history(study: optuna.Study) -> Figure | None:
    if len(study.directions) > 1:
        return None
    with _pyplot_restored():
        axes = optuna_figures.plot_optimization_history(study, target_name=_metric_name(study))
        return _figure_of(axes, 7, 4)


def _importances(study: optuna.Study) -> Figure | None:
    names = list(importances(study))
    if not names:
        return None
    with _pyplot_restored():
        warnings.simplefilter("ignore")  # Optuna warns about hyperparameters that only few trials have
        axes = optuna_figures.plot_param_importances(
            study, evaluator=importance_evaluator(), target_name=_metric_name(study)
        )
        return _figure_of(axes, 8, 1 + 0.3 * len(names))


def _slices(study: optuna.Study) -> Figure | None:
    if len(study.directions) > 1:
        return None
    importance = importances(study)
    params = best_trials(study)[0].params
    first = (PLUGIN, LEARNING_RATE)
    names = sorted(params, key=lambda name: (name not in first, -importance.get(name, 0.0)))[:N_SLICES]
    with _pyplot_restored():
        axes = optuna_figures.plot_slice(_with_pruned(study), params=names, target_name=_metric_name(study))
        figure = _figure_of(axes, 3.5 * len(names) + 1, 4)
        for panel in np.ravel(np.asarray(axes)):
            if panel.get_xlabel() == PLUGIN:
                panel.tick_params(axis="x", rotation=75)
            panel.set_xlabel(panel.get_xlabel().replace(".", ".\n"))  # long names would overlap
        return figure


def _with_pruned(study: optuna.Study) -> optuna.Study:
    """Return a copy of the study whose pruned trials have their last value. Optuna draws infeasible ones in grey."""
    shown = optuna.create_study(direction=study.direction)
    for trial in counted_trials(study):
        if trial.state == TrialState.COMPLETE:
            shown.add_trial(trial)
        elif trial.state == TrialState.PRUNED and trial.last_step is not None:
            shown.add_trial(
                optuna.trial.create_trial(
                    value=trial.intermediate_values[trial.last_step],
                    params=trial.params,
                    distributions=trial.distributions,
                    system_attrs={CONSTRAINTS: (1.0,)},
                )
            )
    return shown


def _parallel(study: optuna.Study) -> Figure | None:
    """Draw the trials of the best trial's plugin: the trials of other plugins lack most of its hyperparameters."""
    if len(study.directions) > 1:
        return None
    best = best_trials(study)[0]
    plugin = best.user_attrs["plugin"]
    trials = [trial for trial in _complete(study) if trial.user_attrs["plugin"] == plugin]
    if len(trials) < MIN_TRIALS_FOR_PARALLEL:
        return None
    names = [name for name in best.params if name != PLUGIN and len({str(t.params.get(name)) for t in trials}) > 1]
    plugin_study = optuna.create_study(direction=study.direction)
    plugin_study.add_trials([trial for trial in trials if all(name in trial.params for name in names)])
    with _pyplot_restored():
        axes = optuna_figures.plot_parallel_coordinate(plugin_study, params=names, target_name=_metric_name(study))
        axes.set_title(f"{plugin}: {len(plugin_study.trials)} complete trials", y=1.03)
        return _figure_of(axes, 1.6 * max(len(names), 3) + 2, 4.5)


# ---------------------------------------------------------------- pgzoo's figures


def _curves(study: optuna.Study) -> Figure:
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for trial in best_trials(study)[:N_CURVES]:
        runs = [value for key, value in trial.user_attrs.items() if key.startswith(f"{EVALUATIONS}:")]
        n = min(len(run) for run in runs)
        steps = np.mean([[point["steps"] for point in run[:n]] for run in runs], axis=0)
        means = np.mean([[point["mean"] for point in run[:n]] for run in runs], axis=0)
        axes.plot(steps, means, marker=".", label=f"trial {trial.number}, {trial.user_attrs['plugin']}")
    target = metrics_of(study)[0].target
    if target is not None:
        axes.axhline(target, color="0.7", linestyle="--", linewidth=1)
    what = "score" if study.user_attrs[DEFINITION]["scores"] else "return"
    axes.set(xlabel="environment steps", ylabel=f"mean {what} of an evaluation")
    axes.legend(fontsize=8)
    return figure


def _retrained(study: optuna.Study) -> Figure | None:
    retrained = find_retrained(study)[::-1]  # the first one is drawn at the top
    if not retrained:
        return None
    figure = Figure(figsize=(7, 0.8 + 0.55 * len(retrained)))
    axes = figure.subplots()
    for y, candidate in enumerate(retrained):
        fresh = estimate(candidate.column())
        color = "0.5" if candidate.is_default else "tab:blue"
        x = candidate.column()
        axes.scatter(x, np.full(len(x), y), s=14, alpha=0.5, color=color)
        if np.isfinite(fresh.low):
            axes.plot([fresh.low, fresh.high], [y, y], color=color, linewidth=2)
        axes.scatter([fresh.mean], [y], marker="D", color=color)
        if candidate.search_values is not None:
            axes.scatter(candidate.search_values[:1], [y], marker="x", color="tab:orange", zorder=3)
    axes.scatter([], [], marker="x", color="tab:orange", label="value in the search")
    axes.set_yticks(range(len(retrained)), [_label(candidate) for candidate in retrained])
    axes.set(xlabel=f"{_metric_name(study)}, fresh seeds", ylim=(-0.6, len(retrained) - 0.4))
    axes.legend(fontsize=8)
    return figure


def _label(candidate: Retrained) -> str:
    text = candidate.name if candidate.is_default else f"{candidate.name} ({candidate.plugin})"
    return textwrap.fill(text, 40)
