"""The best trials and the defaults of their plugins, trained again on seeds that the search did not use."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState

from pgzoo.formatting import format_number
from pgzoo.interface.types import Array
from pgzoo.tuning._optuna import storage_of
from pgzoo.tuning.metrics import Metric
from pgzoo.tuning.results import best_trials, counted_trials, failures
from pgzoo.tuning.study import retrained_name

CANDIDATES = "candidates"
"""User attribute of a study: the names of the candidates that are trained again, and the fresh seeds."""


@dataclass(frozen=True)
class Retrained:
    """A trial of the search, or a plugin's default, trained again on fresh seeds.

    Attributes:
        name: "trial 12" or "default gae".
        plugin: the recipe or combination.
        values: by seed, one value per metric.
        seeds: the fresh seeds, trained or not.
        failed_seeds: the seeds whose training failed.
        search_values: the values in the search; None for a default.
        hyperparams: every setting, as `pgzoo.train(plugin, hyperparams=…)` takes them.
    """

    name: str
    plugin: str
    values: dict[int, tuple[float, ...]]
    seeds: tuple[int, ...] = ()
    failed_seeds: tuple[int, ...] = ()
    search_values: tuple[float, ...] | None = None
    hyperparams: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_default(self) -> bool:
        """Whether this is a plugin's default, not a trial."""
        return self.search_values is None

    def column(self, metric: int = 0) -> Array:
        """Return one metric for all seeds (n,)."""
        return np.array([values[metric] for values in self.values.values()])

    def mean(self, metric: int = 0) -> float:
        """Return the mean over seeds, or NaN if no training finished."""
        return float(self.column(metric).mean()) if self.values else math.nan


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds with its 95 % interval by Student's t."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> str:
        """The interval as text."""
        return f"{format_number(self.low)} … {format_number(self.high)}"


def estimate(x: Array) -> Estimate:
    """Return the mean of x (n,) and its 95 % interval, mean ± t₍.975, n−1₎ s/√n; NaN bounds if n < 2."""
    from scipy.stats import sem, t

    mean = float(x.mean()) if len(x) else math.nan
    half = float(t.ppf(0.975, len(x) - 1) * sem(x)) if len(x) > 1 else math.nan
    return Estimate(mean, mean - half, mean + half, len(x))


def difference(trial: Retrained, default: Retrained, metric: int = 0) -> Estimate | None:
    """Return trial − default, paired by seed; None if fewer than two seeds are common to both."""
    common = [seed for seed in trial.values if seed in default.values]
    if len(common) < 2:
        return None
    return estimate(np.array([trial.values[seed][metric] - default.values[seed][metric] for seed in common]))


def find_retrained(study: optuna.Study) -> list[Retrained]:
    """Return the candidates of a study whose retraining has begun."""
    stored = study.user_attrs.get(CANDIDATES, {"names": [], "seeds": []})
    try:
        retrained = optuna.load_study(study_name=retrained_name(study.study_name), storage=storage_of(study))
    except KeyError:
        return []
    trials = [trial for trial in counted_trials(retrained) if trial.user_attrs.get("seed") in stored["seeds"]]
    failed = {trial.number for trial in failures(retrained)}
    search_values = {f"trial {trial.number}": tuple(trial.values) for trial in best_trials(study)}
    candidates = []
    for name in stored["names"]:
        candidate_trials = [trial for trial in trials if trial.user_attrs["candidate"] == name]
        complete = [trial for trial in candidate_trials if trial.state == TrialState.COMPLETE]
        if candidate_trials:
            candidates.append(
                Retrained(
                    name,
                    candidate_trials[0].user_attrs["plugin"],
                    {trial.user_attrs["seed"]: tuple(trial.values) for trial in complete},
                    tuple(stored["seeds"]),
                    tuple(trial.user_attrs["seed"] for trial in candidate_trials if trial.number in failed),
                    search_values.get(name),
                    candidate_trials[0].user_attrs["config"],
                )
            )
    return candidates


def winner(retrained: Iterable[Retrained], metrics: Sequence[Metric]) -> Retrained | None:
    """Return the trial or default with the best mean of the first metric, among those that finished on every seed.

    None is returned until all are trained, because means over different seeds cannot be compared.
    """
    sign = 1 if metrics[0].direction == "maximize" else -1
    retrained = list(retrained)
    if any(set(candidate.values) | set(candidate.failed_seeds) != set(candidate.seeds) for candidate in retrained):
        return None
    finished = [candidate for candidate in retrained if candidate.values and not candidate.failed_seeds]
    return max(finished, key=lambda candidate: sign * candidate.mean(), default=None)


@dataclass(frozen=True)
class ResultRow:
    """One row of the result of a study: a trial or a default, by one metric.

    Attributes:
        retrained: the trial or default.
        search: its value in the search; None for a default.
        fresh: its mean on the fresh seeds.
        default: the mean of its plugin's default on the fresh seeds; None for the default itself.
        gain: the paired difference from the default.
    """

    retrained: Retrained
    search: float | None
    fresh: Estimate
    default: Estimate | None
    gain: Estimate | None

    HEADER = ("", "plugin", "search", "fresh seeds", "95 % interval", "minus default", "95 % interval")

    def cells(self) -> tuple[str, ...]:
        """Return the row as text, under HEADER."""
        n_failed = len(self.retrained.failed_seeds)
        return (
            self.retrained.name,
            self.retrained.plugin,
            "" if self.search is None else format_number(self.search),
            format_number(self.fresh.mean) + (f" ({n_failed} failed)" if n_failed else ""),
            self.fresh.interval,
            format_number(self.gain.mean) if self.gain else "",
            self.gain.interval if self.gain else "",
        )


def result_row(candidate: Retrained, retrained: Iterable[Retrained], metric: int = 0) -> ResultRow:
    """Return the row of a candidate, compared with the default of its plugin among `retrained`."""
    defaults = [other for other in retrained if other.is_default and other.plugin == candidate.plugin]
    default = defaults[0] if defaults and not candidate.is_default else None
    return ResultRow(
        candidate,
        candidate.search_values[metric] if candidate.search_values is not None else None,
        estimate(candidate.column(metric)),
        estimate(default.column(metric)) if default else None,
        difference(candidate, default, metric) if default else None,
    )
