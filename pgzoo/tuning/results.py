"""What a study found: counts, best trials, failures, and the best trained again beside their defaults."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pgzoo.errors import ConfigError
from pgzoo.interface.types import Array
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry
from pgzoo.tuning.metrics import Metric, parse_metric
from pgzoo.tuning.storage import open_existing, storage_errors
from pgzoo.tuning.study import DEFINITION, RETRAINED, TOTAL, find_study
from pgzoo.tuning.trial_queue import OUTCOME, TICKET, by_ticket, given_up, is_lost, result

CANDIDATES = "candidates"
"""The study's attribute that names what was trained again."""


def metrics_of(study: optuna.Study) -> tuple[Metric, ...]:
    """Return what the study's trials are judged by."""
    return tuple(parse_metric(text) for text in study.user_attrs[DEFINITION]["metrics"])


def counted_trials(study: optuna.Study, tickets: Iterable[str] | None = None) -> list[FrozenTrial]:
    """Return one trial a ticket, the attempt that counts, in the order of their numbers."""
    attempts = by_ticket(study)
    wanted = attempts if tickets is None else tickets
    found = [result(attempts.get(ticket, [])) for ticket in wanted]
    return sorted((trial for trial in found if trial is not None), key=lambda trial: trial.number)


@dataclass(frozen=True)
class Counts:
    """How many tickets of a study are where; `lost` are to be run again."""

    total: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    lost: int = 0

    @property
    def ended(self) -> int:
        """Those that need no more work."""
        return self.complete + self.pruned + self.failed


def count(study: optuna.Study, tickets: Iterable[str] | None = None) -> Counts:
    """Count the tickets (None: all that the study has)."""
    wanted = list(by_ticket(study) if tickets is None else tickets)
    attempts = by_ticket(study)
    given = {t.number for ticket in wanted for t in attempts.get(ticket, []) if given_up(attempts[ticket])}
    trials = counted_trials(study, wanted)
    states = [(trial.state, is_lost(trial) and trial.number not in given) for trial in trials]
    return Counts(
        total=max(len(wanted), study.user_attrs.get(TOTAL, 0) if tickets is None else 0),
        complete=states.count((TrialState.COMPLETE, False)),
        pruned=states.count((TrialState.PRUNED, False)),
        failed=states.count((TrialState.FAIL, False)),
        running=states.count((TrialState.RUNNING, False)),
        lost=states.count((TrialState.FAIL, True)),
    )


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials from the best on, each configuration once; of several metrics the Pareto front."""
    metrics = metrics_of(study)
    sign = -1 if metrics[0].direction == "maximize" else 1
    if len(metrics) > 1:
        trials = list(study.best_trials)
    else:
        trials = [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]
    trials.sort(key=lambda trial: (sign * trial.values[0], trial.number))
    seen: list[Any] = []
    found = []
    for trial in trials:
        if trial.user_attrs["config"] not in seen:
            seen.append(trial.user_attrs["config"])
            found.append(trial)
    return found


def failures(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that failed: by an error, by divergence, or since their worker died too often."""
    attempts = by_ticket(study)
    failed = [trial for trial in counted_trials(study) if trial.state == TrialState.FAIL]
    return [trial for trial in failed if not is_lost(trial) or given_up(attempts[trial.user_attrs[TICKET]])]


def outcome(trial: FrozenTrial) -> str:
    """Return how a trial ended, in a word or with its error."""
    if trial.state != TrialState.FAIL:
        return trial.state.name.lower()
    kind = trial.user_attrs.get(OUTCOME, "lost")
    return f"{kind}: {trial.user_attrs['error']}" if "error" in trial.user_attrs else str(kind)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each hyperparameter (PED-ANOVA, which knows conditional ones), the greatest first.

    Empty with fewer than 4 complete trials or more than one metric.
    """
    complete = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.COMPLETE]
    if len(complete) < 4 or len(study.directions) > 1 or len({t.values[0] for t in complete}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hyperparameters that few trials have
        return optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.PedAnovaImportanceEvaluator(evaluate_on_local=True)
        )


def trial_config(registry: Registry, url: str, name: str) -> tuple[ExperimentConfig, int]:
    """Return what the trial STUDY:NUMBER trained, and its first seed.

    Raises:
        ConfigError: no such study or trial, or one that never began to train.
    """
    study_name, colon, number = name.rpartition(":")
    if not colon or not number.isdecimal():
        raise ConfigError(f"a trial is written STUDY:NUMBER, not {name!r}")
    with storage_errors(url):
        study = find_study(study_name, open_existing(url))
        trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if int(number) not in trials or "config" not in trials[int(number)].user_attrs:
        raise ConfigError(f"the study {study_name!r} has no trial {number} that trained; see pgzoo tune show")
    attrs, definition = trials[int(number)].user_attrs, study.user_attrs[DEFINITION]
    config = config_from_entry(registry, attrs["plugin"], definition["env"], attrs["config"])
    return replace(config, source=f"trial {number} of {study_name}"), definition["seeds"][0]


# ---------------------------------------------------------------- trained again


@dataclass(frozen=True)
class Retrained:
    """A trial, or a plugin's default, trained on seeds that the search never saw.

    Attributes:
        name: "trial 12" or "default gae".
        plugin: the recipe or combination.
        values: by seed, one number a metric.
        wanted: the seeds.
        failed: seeds whose training failed.
        searched: what the search reported, for a trial.
    """

    name: str
    plugin: str
    values: dict[int, tuple[float, ...]]
    wanted: tuple[int, ...] = ()
    failed: tuple[int, ...] = ()
    searched: tuple[float, ...] | None = None

    def column(self, metric: int = 0) -> Array:
        """Return one metric of all seeds (n,)."""
        return np.array([values[metric] for values in self.values.values()])

    def mean(self, metric: int = 0) -> float:
        """Return the mean over seeds; NaN if none finished."""
        return float(self.column(metric).mean()) if self.values else float("nan")


def find_retrained(study: optuna.Study) -> list[Retrained]:
    """Return what was trained again; empty before that is done."""
    chosen = study.user_attrs.get(CANDIDATES, {"names": [], "seeds": []})
    try:
        again = optuna.load_study(study_name=f"{study.study_name}/{RETRAINED}", storage=study._storage)
    except KeyError:
        return []
    trials = counted_trials(again)
    failed = {trial.number for trial in failures(again)}
    searched = {f"trial {trial.number}": tuple(trial.values) for trial in best_trials(study)}
    found = []
    for name in chosen["names"]:
        own = [t for t in trials if t.user_attrs.get("candidate") == name and t.user_attrs["seed"] in chosen["seeds"]]
        complete = [trial for trial in own if trial.state == TrialState.COMPLETE]
        if own:
            found.append(
                Retrained(
                    name,
                    own[0].user_attrs["plugin"],
                    {trial.user_attrs["seed"]: tuple(trial.values) for trial in complete},
                    tuple(chosen["seeds"]),
                    tuple(t.user_attrs["seed"] for t in own if t.number in failed),
                    searched.get(name),
                )
            )
    return found


def winner(retrained: Iterable[Retrained], metrics: tuple[Metric, ...]) -> Retrained | None:
    """Return the trial, or default, with the best mean by the first metric, of those that finished on every seed.

    None before all are trained: a mean over fewer seeds is another one.
    """
    sign = 1 if metrics[0].direction == "maximize" else -1
    retrained = list(retrained)
    if any(set(r.values) | set(r.failed) != set(r.wanted) for r in retrained):
        return None
    sound = [r for r in retrained if r.values and not r.failed]
    return max(sound, key=lambda r: sign * r.mean(), default=None)


def t_interval(x: Array) -> tuple[float, float]:
    """Return the 95 % interval of the mean of x (n,) by Student's t: mean ± t₍.975, n−1₎ s/√n; NaN if n < 2."""
    from scipy.stats import t

    if len(x) < 2:
        return float("nan"), float("nan")
    half = t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x))
    return float(x.mean() - half), float(x.mean() + half)


@dataclass(frozen=True)
class Difference:
    """A trial less its plugin's default, paired by seed."""

    mean: float
    interval: tuple[float, float]
    n: int


def difference(trial: Retrained, default: Retrained, metric: int = 0) -> Difference | None:
    """Return the paired difference over the seeds that both finished; None if there are fewer than two."""
    seeds = [seed for seed in trial.values if seed in default.values]
    if len(seeds) < 2:
        return None
    x = np.array([trial.values[seed][metric] - default.values[seed][metric] for seed in seeds])
    return Difference(float(x.mean()), t_interval(x), len(x))


def default_of(trial: Retrained, retrained: Iterable[Retrained]) -> Retrained | None:
    """Return the default of a trial's plugin."""
    return next((r for r in retrained if r.searched is None and r.plugin == trial.plugin), None)
