"""The results of a search: counts, best trials, failures, importances."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace

import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState

from pgzoo.errors import ConfigError, PgzooError
from pgzoo.formatting import format_number
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry
from pgzoo.tuning.metrics import Metric, parse_metric
from pgzoo.tuning.space import PLUGIN, readable
from pgzoo.tuning.storage import open_existing, storage_errors
from pgzoo.tuning.study import DEFAULT, DEFINITION, TOTAL, find_study
from pgzoo.tuning.trial_queue import (
    ERROR,
    KEY,
    LOST,
    OUTCOME,
    attempts_by_key,
    counted_attempt,
    has_diverged,
    is_lost,
    retries_exhausted,
)

MIN_TRIALS_FOR_IMPORTANCES = 30


def metrics_of(study: optuna.Study) -> tuple[Metric, ...]:
    """Return the metrics of a study."""
    return tuple(parse_metric(text) for text in study.user_attrs[DEFINITION]["metrics"])


def counted_trials(study: optuna.Study, keys: Iterable[str] | None = None) -> list[FrozenTrial]:
    """Return the attempt that counts for each planned trial (None: for all in the study), ordered by trial number."""
    attempts = attempts_by_key(study)
    counted = [counted_attempt(attempts.get(key, [])) for key in (attempts if keys is None else keys)]
    return sorted((trial for trial in counted if trial is not None), key=lambda trial: trial.number)


@dataclass(frozen=True)
class Counts:
    """The number of planned trials of a study in each state. Lost trials will be repeated."""

    total: int
    complete: int = 0
    pruned: int = 0
    failed: int = 0
    running: int = 0
    lost: int = 0

    @property
    def ended(self) -> int:
        """The number of planned trials that have ended."""
        return self.complete + self.pruned + self.failed


def count(study: optuna.Study, keys: Iterable[str] | None = None) -> Counts:
    """Count the planned trials (None: all in the study) by state."""
    attempts = attempts_by_key(study)
    counted_keys = list(attempts if keys is None else keys)
    exhausted = {
        trial.number for key in counted_keys for trial in attempts.get(key, []) if retries_exhausted(attempts[key])
    }
    trials = counted_trials(study, counted_keys)
    states = [
        (TrialState.FAIL if has_diverged(trial) else trial.state, is_lost(trial) and trial.number not in exhausted)
        for trial in trials
    ]
    return Counts(
        total=max(len(counted_keys), study.user_attrs.get(TOTAL, 0) if keys is None else 0),
        complete=states.count((TrialState.COMPLETE, False)),
        pruned=states.count((TrialState.PRUNED, False)),
        failed=states.count((TrialState.FAIL, False)),
        running=states.count((TrialState.RUNNING, False)),
        lost=states.count((TrialState.FAIL, True)),
    )


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials in order of their first value, each configuration once.

    With several metrics, only the trials of the Pareto front are returned.
    """
    metrics = metrics_of(study)
    sign = -1 if metrics[0].direction == "maximize" else 1
    if len(metrics) > 1:
        trials = list(study.best_trials)
    else:
        trials = [trial for trial in counted_trials(study) if trial.state == TrialState.COMPLETE]
    distinct: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda trial: (sign * trial.values[0], trial.number)):
        if all(trial.user_attrs["configs"] != better.user_attrs["configs"] for better in distinct):
            distinct.append(trial)
    return distinct


def failures(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that failed: with an error, by divergence, or because their workers died too often."""
    attempts = attempts_by_key(study)
    failed = [trial for trial in counted_trials(study) if trial.state == TrialState.FAIL or has_diverged(trial)]
    return [trial for trial in failed if not is_lost(trial) or retries_exhausted(attempts[trial.user_attrs[KEY]])]


def outcome(trial: FrozenTrial) -> str:
    """Return how a trial ended: its state, or for a failed trial its outcome and error."""
    if trial.state != TrialState.FAIL and not has_diverged(trial):
        return trial.state.name.lower()
    kind = trial.user_attrs.get(OUTCOME, LOST)
    return f"{kind}: {trial.user_attrs[ERROR]}" if ERROR in trial.user_attrs else str(kind)


def drawn(trial: FrozenTrial) -> str:
    """Return the hyperparameters that a trial drew as text."""
    if DEFAULT in trial.user_attrs:
        return "the default"
    values = {name: value for name, value in readable(trial.params).items() if name != PLUGIN}
    return ", ".join(f"{k}={format_number(v) if isinstance(v, float) else v}" for k, v in values.items())


class NoTrialCompleted(PgzooError):
    """A study ended without a result, because no trial completed."""


def check_completed(study: optuna.Study) -> None:
    """Check that at least one trial completed.

    Raises:
        NoTrialCompleted: none did. The message has the most frequent error.
    """
    counts = count(study)
    if counts.complete or not counts.ended:
        return
    if not counts.failed:
        raise NoTrialCompleted(
            f"no trial of {study.study_name} completed: {counts.pruned} of {counts.total} were pruned"
        )
    # Errors that differ only in numbers, such as the step of a divergence, are the same one.
    kinds: dict[str, list[str]] = {}
    for trial in failures(study):
        text = outcome(trial).strip().splitlines()[0]
        kinds.setdefault(re.sub(r"\d[\d,.]*", "0", text), []).append(text)
    most = max(kinds.values(), key=len)
    raise NoTrialCompleted(
        f"no trial of {study.study_name} completed: {counts.failed} of {counts.total} failed, {len(most)} of them with "
        f"{most[0]}"
    )


def importance_evaluator() -> PedAnovaImportanceEvaluator:
    """Return the evaluator of importances: PED-ANOVA, which supports hyperparameters that only some trials have."""
    return PedAnovaImportanceEvaluator(evaluate_on_local=True)


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the importance of each hyperparameter in descending order.

    The result is empty for fewer than MIN_TRIALS_FOR_IMPORTANCES complete trials, or for several metrics.
    """
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(study.directions) > 1 or len(complete) < MIN_TRIALS_FOR_IMPORTANCES:
        return {}
    if len({trial.values[0] for trial in complete}) == 1:  # equal values do not set any trials apart
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns about hyperparameters that only few trials have
        return optuna.importance.get_param_importances(study, evaluator=importance_evaluator())


def trial_config(registry: Registry, url: str, name: str, env: str | None = None) -> tuple[ExperimentConfig, int]:
    """Return the configuration that the trial STUDY:NUMBER trained on an environment, and its first seed.

    Args:
        registry: the plugins.
        url: the storage.
        name: the trial.
        env: one of the study's environments; None: the first one.

    Raises:
        ConfigError: the study or the trial does not exist, the trial never began to train, or the study does not have
            the environment.
    """
    study_name, colon, number = name.rpartition(":")
    if not colon or not number.isdecimal():
        raise ConfigError(f"a trial is written STUDY:NUMBER, not {name!r}")
    with storage_errors(url):
        study = find_study(study_name, open_existing(url))
        trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    if int(number) not in trials or "configs" not in trials[int(number)].user_attrs:
        raise ConfigError(
            f"the study {study_name!r} does not have a trial {number} that was trained; see pgzoo tune show"
        )
    attributes, definition = trials[int(number)].user_attrs, study.user_attrs[DEFINITION]
    env = definition["envs"][0] if env is None else env
    if env not in definition["envs"]:
        raise ConfigError(f"--trial brings its own --env, {' or '.join(definition['envs'])}")
    config = config_from_entry(registry, attributes["plugin"], env, attributes["configs"][env])
    return replace(config, source=f"trial {number} of {study_name}"), definition["seeds"][0]
