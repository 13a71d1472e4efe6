"""The best trials and the defaults of their plugins, trained again on seeds that the search did not use.

The winner is chosen on one set of fresh seeds. It and the default of its plugin are then trained on another set, which
chose nothing, so the result that is reported is not optimistic.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

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
"""User attribute of a study: the names of all candidates that were trained again, and both sets of fresh seeds."""


@dataclass(frozen=True)
class Retrained:
    """A trial of the search, or a plugin's default, trained again on fresh seeds.

    Attributes:
        name: "trial 12" or "default gae".
        plugin: the recipe or combination.
        values: by seed of the choice, one value per metric.
        seeds: the fresh seeds of the choice, trained or not.
        failed_seeds: the seeds whose training failed.
        search_values: the values in the search; None for a default.
        configs: by environment, every setting.
        reported: by seed of the report, one value per metric; empty unless this is the winner or its default.
    """

    name: str
    plugin: str
    values: Mapping[int, tuple[float, ...]]
    seeds: tuple[int, ...] = ()
    failed_seeds: tuple[int, ...] = ()
    search_values: tuple[float, ...] | None = None
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reported: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    @property
    def hyperparams(self) -> Mapping[str, Any]:
        """Every setting on the first environment, as `pgzoo.train(plugin, env, hyperparams=…)` takes them."""
        return next(iter(self.configs.values()), {})

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
    """A mean over `n` seeds with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def interval(self) -> str:
        """The interval as text."""
        return f"{format_number(self.low)} … {format_number(self.high)}"


def estimate(x: Array) -> Estimate:
    """Return the mean of x (n,) and its 95 % percentile bootstrap interval over seeds; NaN bounds if n < 2.

    The interval lies between the least and the greatest of the values, so it never leaves the possible returns.
    """
    from pgzoo.training.evaluation import bootstrap_interval

    mean = float(x.mean()) if len(x) else math.nan
    return Estimate(mean, *(bootstrap_interval(x) if len(x) > 1 else (math.nan, math.nan)), len(x))


Values: TypeAlias = Mapping[int, tuple[float, ...]]


def difference(trial: Values, default: Values, metric: int = 0) -> Estimate | None:
    """Return trial − default, paired by seed; None if fewer than two seeds are common to both."""
    common = [seed for seed in trial if seed in default]
    if len(common) < 2:
        return None
    return estimate(np.array([trial[seed][metric] - default[seed][metric] for seed in common]))


def find_retrained(study: optuna.Study) -> list[Retrained]:
    """Return the candidates of a study whose retraining has begun."""
    stored = study.user_attrs.get(CANDIDATES, {"names": [], "seeds": [], "report_seeds": []})
    try:
        retrained = optuna.load_study(study_name=retrained_name(study.study_name), storage=storage_of(study))
    except KeyError:
        return []
    trials = counted_trials(retrained)
    failed = {trial.number for trial in failures(retrained)}
    search_values = {f"trial {trial.number}": tuple(trial.values) for trial in best_trials(study)}
    candidates = []
    for name in stored["names"]:
        own = [trial for trial in trials if trial.user_attrs.get("candidate") == name]
        complete = {t.user_attrs["seed"]: tuple(t.values) for t in own if t.state == TrialState.COMPLETE}
        if own:
            candidates.append(
                Retrained(
                    name,
                    own[0].user_attrs["plugin"],
                    {seed: complete[seed] for seed in stored["seeds"] if seed in complete},
                    tuple(stored["seeds"]),
                    tuple(
                        t.user_attrs["seed"]
                        for t in own
                        if t.number in failed and t.user_attrs["seed"] in stored["seeds"]
                    ),
                    search_values.get(name),
                    own[0].user_attrs["configs"],
                    {seed: complete[seed] for seed in stored["report_seeds"] if seed in complete},
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
class Result:
    """The winner on the seeds of the report, which chose nothing.

    Attributes:
        winner: the winner.
        estimates: by metric, its mean.
        default: the mean of the first metric of its plugin's default; None for a default itself.
        gains: by metric, the paired difference from that default; None without it.
        n_candidates: how many candidates the winner was chosen from.
    """

    winner: Retrained
    estimates: tuple[Estimate, ...]
    default: Estimate | None
    gains: tuple[Estimate | None, ...]
    n_candidates: int

    def is_better(self, metrics: Sequence[Metric]) -> bool:
        """Return whether the interval of the first metric's gain lies on the better side of 0."""
        gain = self.gains[0]
        if gain is None or gain.n < 2:
            return False
        return gain.low > 0 if metrics[0].direction == "maximize" else gain.high < 0


def result(retrained: Sequence[Retrained], metrics: Sequence[Metric]) -> Result | None:
    """Return the result of a study; None until the winner is trained on the seeds of the report."""
    best = winner(retrained, metrics)
    if best is None or not best.reported:
        return None
    default = _default_of(best, retrained)
    indices = range(len(metrics))
    return Result(
        winner=best,
        estimates=tuple(_reported(best, metric) for metric in indices),
        default=_reported(default, 0) if default else None,
        gains=tuple(difference(best.reported, default.reported, metric) if default else None for metric in indices),
        n_candidates=len(retrained),
    )


def _reported(candidate: Retrained, metric: int) -> Estimate:
    return estimate(np.array([values[metric] for values in candidate.reported.values()]))


def _default_of(candidate: Retrained, retrained: Iterable[Retrained]) -> Retrained | None:
    """Return the default of a trial's plugin; None for a default itself."""
    defaults = [other for other in retrained if other.is_default and other.plugin == candidate.plugin]
    return defaults[0] if defaults and not candidate.is_default else None


HEADER = ("", "plugin", "search", "fresh seeds", "95 % interval", "minus default", "95 % interval")


def row(candidate: Retrained, retrained: Iterable[Retrained], metric: int = 0) -> tuple[str, ...]:
    """Return a candidate's values on the seeds of the choice as text, under HEADER."""
    default, fresh = _default_of(candidate, retrained), estimate(candidate.column(metric))
    gain = difference(candidate.values, default.values, metric) if default else None
    n_failed = len(candidate.failed_seeds)
    return (
        candidate.name,
        candidate.plugin,
        "" if candidate.search_values is None else format_number(candidate.search_values[metric]),
        format_number(fresh.mean) + (f" ({n_failed} failed)" if n_failed else ""),
        fresh.interval,
        format_number(gain.mean) if gain else "",
        gain.interval if gain else "",
    )


def sentence(found: Result, metrics: Sequence[Metric]) -> str:
    """Return a result as people read it."""
    value, gain = found.estimates[0], found.gains[0]
    parts = [
        f"{found.winner.name} ({found.winner.plugin}), {metrics[0].name} {format_number(value.mean)} "
        f"[{value.interval}] on {value.n} more fresh seeds, chosen among {found.n_candidates} candidates",
    ]
    if gain is not None and found.default is not None:
        parts.append(
            f"its default has {format_number(found.default.mean)}, a paired difference of {format_number(gain.mean)} "
            f"[{gain.interval}]"
        )
        if not found.is_better(metrics):
            parts.append("no gain over the default is shown")
    return "; ".join(parts)
