"""The pieces of a search in isolation: ranges, metrics, intervals, and the states of planned trials."""

from __future__ import annotations

import math
import sys
import threading
import types
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial
from pgzoo_plugins.lambda_return import LambdaReturn

from pgzoo import Baseline, ConfigError, PluginError
from pgzoo.errors import describe, is_machine_fault, machine_fault, out_of_memory, process_died
from pgzoo.tuning.config import PlannedTrial
from pgzoo.tuning.metrics import Metric, Point, parse_metric
from pgzoo.tuning.pickled_plugins import pickled
from pgzoo.tuning.ranges import parse_range, read_ranges
from pgzoo.tuning.results import best_trials, count, counted_trials, failures, importances, outcome
from pgzoo.tuning.retrained import HEADER, Retrained, difference, estimate, row, winner
from pgzoo.tuning.study import DEFINITION, TOTAL
from pgzoo.tuning.trial_queue import (
    DUPLICATE,
    INTERRUPTED,
    KEY,
    LOST,
    claim,
    counted_attempt,
    fail_lost,
    retries_exhausted,
    unfinished,
)  # fmt: skip

# ---------------------------------------------------------------- ranges


def test_values_of_a_range_have_types() -> None:
    """Finds choices that stay text: "4" is not 4, and the value "a,b" of a file is two values."""
    choices = parse_range("4, 1e-3, true, null, tanh", "").choices
    assert choices == (4, 1e-3, True, None, "tanh")
    assert [type(choice) for choice in choices] == [int, float, bool, type(None), str]
    interval = parse_range("-1..2:linear", "")
    assert (interval.low, interval.high, interval.scale, interval.choices) == (-1, 2, "linear", ())
    assert parse_range("1..2", "").scale is None  # that of the declaration


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gamma: 0.9", "space.yml, gamma: a range is text of the form low..high, .*, not 0.9"),
        ("gamma: [0.9, 0.99]", r"space.yml, gamma: a range is text of the form .*, not \[0.9, 0.99\]"),
        ("gamma: {low: 0, high: 1}", "space.yml, gamma: a range is text of the form"),
        ("gamma: 0..lots", "space.yml, gamma: a range has the form low..high, .*, not '0..lots'"),
        ("gamma: 1..1", "space.yml, gamma: the range 1..1 is empty or infinite; low must be less than high"),
        ("gamma: nan..9", "space.yml, gamma: the range nan..9 is empty or infinite"),
        ("gamma: 0..inf", "space.yml, gamma: the range 0..inf is empty or infinite"),
        ("gamma: -1e308..1e308", "space.yml, gamma: the range .* is empty or infinite"),
        ("gamma: 0..1" + "0" * 400, "space.yml, gamma: the range .* is empty or infinite"),
        ("gamma: 0.9,", "space.yml, gamma: a range has the form"),
        ("gamma: 0.9,.nan", "space.yml, gamma: a range has the form"),
        ("gamma: '[1],2'", "space.yml, gamma: a range has the form"),
        ("gamma: 0.9,0.90", "space.yml, gamma: the value 0.9 is listed twice"),
        ("gamma: '4,10,20:log'", "space.yml, gamma: only low..high has a scale"),
        ("gamma: '4,10:linear'", "space.yml, gamma: only low..high has a scale"),
        ("gamma: 1..2:log:log", "space.yml, gamma: unknown scale 'log:log'"),
        ("gamma: 1..2:lgo", "space.yml, gamma: unknown scale 'lgo'; did you mean 'log'"),
    ],
)  # fmt: skip
def test_refused_ranges_of_a_file(text: str, message: str, tmp_path: Path) -> None:
    """Finds errors that do not name the file and the hyperparameter, and ranges that are silently changed."""
    (tmp_path / "space.yml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_ranges(tmp_path / "space.yml")


# ---------------------------------------------------------------- metrics


def test_steps_to_orders_trainings_by_merit() -> None:
    """Finds a charge that prefers failure to late success, or does not distinguish failures.

    The target is 100: reached at 200, at the end (300), missed by 1, by 50, and without progress.
    """
    curves = [(0, 100, 100), (0, 50, 100), (0, 50, 99), (0, 50, 50), (0, 0, 0)]
    trainings = [[Point(100 * (i + 1), float(i), float(value)) for i, value in enumerate(curve)] for curve in curves]
    # 300 · (2 − 0.99), 300 · (2 − 0.5) and 300 · 2.
    assert [Metric("steps_to", 100.0)(training) for training in trainings] == pytest.approx([200, 300, 303, 450, 600])
    # Seconds of a failure do not count: 10⁶ · (2 − p).
    assert [Metric("wall_to", 100.0)(training) for training in trainings] == pytest.approx([1, 2, 1.01e6, 1.5e6, 2e6])


# ---------------------------------------------------------------- retraining


def test_intervals_are_bootstrapped_over_seeds() -> None:
    """Finds an unpaired difference, or one that pairs by position: the seeds are in different orders."""
    x, y = np.random.default_rng(0).normal([[5.0], [4.0]], 2.0, (2, 8))

    def interval(z: Any) -> tuple[float, float]:
        means = z[np.random.default_rng(1).integers(8, size=(40_000, 8))].mean(axis=1)
        low, high = np.percentile(means, (2.5, 97.5))
        return float(low), float(high)

    found = estimate(x)
    assert (found.low, found.high) == pytest.approx(interval(x), abs=0.05)
    trial = Retrained("trial 3", "gae", {seed: (float(x[seed]), 0.0) for seed in range(8)})
    default = Retrained("default gae", "gae", {seed: (float(y[seed]), 9.0) for seed in reversed(range(8))})
    gain = difference(trial.values, default.values)
    assert gain is not None
    assert (gain.low, gain.high) == pytest.approx(interval(x - y), abs=0.05)
    second = difference(trial.values, default.values, metric=1)
    assert second is not None
    assert (second.mean, second.low, second.high) == (-9, -9, -9)


def test_too_few_seeds_have_no_interval() -> None:
    """Finds an interval of one number, and an error if every seed failed."""
    single, none = estimate(np.array([4.0])), estimate(np.array([]))
    assert (single.mean, single.n, single.interval) == (4, 1, "nan … nan")
    assert math.isnan(none.mean)
    assert none.n == 0
    failed = Retrained("trial 1", "gae", {}, (1, 2), (1, 2), search_values=(3.0,))
    cells = row(failed, [failed])
    assert cells == ("trial 1", "gae", "3", "nan (2 failed)", "nan … nan", "", "")
    assert len(cells) == len(HEADER)
    assert winner([failed], [Metric("final")]) is None


def test_a_row_compares_with_the_default_of_the_same_plugin() -> None:
    """Finds a gain over another plugin's default, and a winner by the largest instead of the smallest steps."""
    trial = Retrained("trial 1", "gae", {1: (90.0,), 2: (80.0,)}, (1, 2), search_values=(70.0,))
    rtg = Retrained("default rtg", "rtg", {1: (10.0,), 2: (20.0,)}, (1, 2))
    gae = Retrained("default gae", "gae", {1: (100.0,), 2: (100.0,)}, (1, 2))
    assert row(trial, [rtg, trial, gae])[2:] == ("70", "85", "80 … 90", "-15", "-20 … -10")
    assert row(trial, [rtg, trial])[-2:] == ("", "")
    assert winner([rtg, trial, gae], [Metric("steps_to", 5.0)]) is rtg
    assert winner([rtg, trial, gae], [Metric("final")]) is gae


# ---------------------------------------------------------------- the queue


def attempt(key: str, state: TrialState, value: float = 0.0, retries: int = 0, **attrs: Any) -> FrozenTrial:
    """Return an attempt at a planned trial."""
    return create_trial(
        state=state,
        values=[value] if state == TrialState.COMPLETE else None,
        user_attrs={KEY: key, "configs": {"x": value}, **attrs},
        system_attrs={"retry_history": list(range(retries))},
    )


def study_of(*attempts: FrozenTrial, metric: str = "final", total: int = 0) -> optuna.Study:
    """Return a study in memory that contains the attempts, numbered from 0."""
    study = optuna.create_study(direction=parse_metric(metric).direction)
    study.set_user_attr(DEFINITION, {"metrics": [metric]})
    study.set_user_attr(TOTAL, total)
    study.add_trials(attempts)
    return study


def sampler(key: str) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=int(key))


COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
RUNNING, WAITING = TrialState.RUNNING, TrialState.WAITING


def test_every_state_is_counted_once() -> None:
    """Finds planned trials that are counted per attempt, counted duplicates, and lost trials that pass for failed."""
    study = study_of(
        attempt("0", FAIL), attempt("0", COMPLETE, 5.0),  # lost, then repeated
        attempt("1", PRUNED),
        attempt("2", FAIL, error="ZeroDivisionError", outcome="error"),
        attempt("3", FAIL, outcome=INTERRUPTED), attempt("3", RUNNING),
        attempt("4", FAIL), attempt("4", WAITING, retries=1),
        attempt("5", FAIL, retries=3),  # its workers died too often
        attempt("6", WAITING),
        attempt("1", FAIL, outcome=DUPLICATE),
        total=9,
    )  # fmt: skip
    counts = count(study)
    assert (counts.complete, counts.pruned, counts.failed, counts.running, counts.lost) == (1, 1, 2, 1, 1)
    assert (counts.total, counts.ended) == (9, 4)
    assert count(study, ["0", "4", "8"]).total == 3
    assert [trial.number for trial in counted_trials(study)] == [1, 2, 3, 5, 6, 8]
    assert [(trial.number, outcome(trial)) for trial in failures(study)] == [(3, "error: ZeroDivisionError"), (8, LOST)]
    assert unfinished(study, map(str, range(8))) == ["3", "4", "6", "7"]


@pytest.mark.parametrize(
    ("attempts", "counted"),
    [
        ([], None),
        ([attempt("0", WAITING)], None),
        ([attempt("0", RUNNING, 1.0), attempt("0", COMPLETE, 2.0)], 2.0),
        ([attempt("0", FAIL, 1.0), attempt("0", RUNNING, 2.0), attempt("0", WAITING, 3.0)], 2.0),
        ([attempt("0", FAIL, 1.0), attempt("0", FAIL, 2.0), attempt("0", WAITING, 3.0)], 2.0),
        ([attempt("0", FAIL, 1.0, outcome="diverged"), attempt("0", FAIL, 2.0)], 1.0),
    ],
)
def test_the_attempt_that_counts(attempts: list[FrozenTrial], counted: float | None) -> None:
    """Finds a lost attempt that counts although a later one runs or has ended."""
    trial = counted_attempt(attempts)
    assert (trial.user_attrs["configs"]["x"] if trial else None) == counted


def test_planned_trials_are_taken_in_order_and_one_attempt_at_a_time() -> None:
    """Finds a second attempt beside a running one, and a fresh attempt that is preferred to a repeated one.

    A fresh attempt has no history of retries, so a trial that kills its worker would be repeated forever.
    """
    planned = {key: PlannedTrial() for key in ("2", "0", "1")}
    study = study_of(
        attempt("0", WAITING), attempt("0", WAITING, retries=2), attempt("1", RUNNING), attempt("1", WAITING)
    )
    taken = [claim(study, planned, sampler) for _ in range(3)]
    # "2" comes first in the plan and is queued last, so trials that wait already are taken before it.
    assert [trial and (trial.user_attrs[KEY], trial.number) for trial in taken] == [("0", 1), ("2", 4), None]


def test_a_lost_trial_is_repeated_with_its_parameters_until_its_retries_are_exhausted() -> None:
    """Finds retries that are not limited, or that draw other parameters than the lost attempt."""
    planned, drawn = {"0": PlannedTrial(params={"x": 0.25})}, []
    study = study_of()
    while (trial := claim(study, planned, sampler)) is not None:
        drawn.append((trial.suggest_float("x", 0, 1), trial.suggest_float("y", 0, 1)))
        assert not retries_exhausted(study.trials)
        fail_lost(study, study.trials[trial.number])
        fail_lost(study, study.trials[trial.number])  # a second process that finds it changes nothing
    assert drawn == [drawn[0]] * 4
    assert drawn[0][0] == 0.25
    assert retries_exhausted(study.trials)


@pytest.mark.parametrize(("metric", "order"), [("final", [2, 0, 1]), ("wall", [1, 0, 2])])
def test_the_best_trials_are_distinct_configurations(metric: str, order: list[int]) -> None:
    """Finds the order of the wrong direction, a configuration that is listed twice, and pruned trials in the list."""
    trials = [attempt(str(i), COMPLETE, value) for i, value in enumerate((2.0, 1.0, 3.0, 2.0))]
    study = study_of(*trials, attempt("4", PRUNED), metric=metric)
    assert [trial.number for trial in best_trials(study)] == order


@pytest.mark.parametrize(("n", "names"), [(29, []), (30, ["x", "y"])])
def test_importances_need_thirty_trials(n: int, names: list[str]) -> None:
    """Finds importances that are the noise of a few trials, and pruned trials that count."""
    study, rng = optuna.create_study(direction="maximize"), np.random.default_rng(0)
    distributions: Any = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")}
    for i in range(n + 5):
        params = {name: float(rng.uniform()) for name in distributions}
        state = COMPLETE if i < n else PRUNED
        study.add_trial(create_trial(state=state, value=params["x"], params=params, distributions=distributions))
    assert list(importances(study)) == names


# ---------------------------------------------------------------- causes of errors


def test_an_error_that_is_its_own_cause_is_looked_at_once() -> None:
    """Finds a search for the machine's fault that never ends."""
    error = ValueError("diverged")
    error.__cause__ = error
    assert machine_fault(error) is None
    assert not process_died(error)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA"),
        RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_memory_that_runs_out_is_the_machines_fault(error: Exception) -> None:
    assert is_machine_fault(error)
    assert machine_fault(error) is not None
    assert out_of_memory(error)


class Mute(Exception):
    """Its text cannot be read."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_an_error_without_text_and_a_long_one() -> None:
    assert describe(Mute()) == "Mute"
    assert len(describe(ValueError("x" * 10**5))) < 600


# ---------------------------------------------------------------- plugins of this process


def test_plugins_of_this_process_reach_the_workers() -> None:
    """A module that only exists in this process, such as one made by an exec, is sent by value."""
    module = types.ModuleType("only_here")
    sys.modules["only_here"] = module
    code = "from pgzoo import Baseline\nclass Constant(Baseline):\n    name = 'constant'\n    value = OFFSET = 7"
    exec(code, module.__dict__)
    items = pickled([module.Constant])
    del sys.modules["only_here"]
    (constant,) = cloudpickle.loads(items)
    assert (constant.name, constant.value) == ("constant", 7)
    assert pickled([]) == b""
    (installed,) = cloudpickle.loads(pickled([LambdaReturn]))
    assert installed is LambdaReturn


def test_a_plugin_that_cannot_be_sent_is_refused_by_name() -> None:
    lock = threading.Lock()

    class Locked(Baseline):
        name = "locked"

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> float:
            with lock:
                return 0.0

    Locked.__module__ = "__main__"
    with pytest.raises(PluginError, match="baseline 'locked' is known in this process only, and cannot be sent to"):
        pickled([Locked])
