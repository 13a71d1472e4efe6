"""Studies: reproducibility, resuming, failures, the trial queue, retraining, reports, refusals."""

from __future__ import annotations

import importlib.metadata
import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from stable_baselines3.common.policies import ActorCriticPolicy
from tuning import REGISTRY, InProcessExecutor, search, small

from pgzoo import ConfigError, PgzooError, PolicyGradient
from pgzoo.training.config import load_config, resolved_entry
from pgzoo.training.run_folder import plain
from pgzoo.tuning.config import PlannedTrial, StudyConfig, TuneConfig
from pgzoo.tuning.figures import CAPTIONS
from pgzoo.tuning.heartbeat import DeadWorkerDetector
from pgzoo.tuning.metrics import Point, parse_metric
from pgzoo.tuning.ranges import parse_range, parse_ranges, read_ranges
from pgzoo.tuning.report import write_report
from pgzoo.tuning.results import (
    NoTrialCompleted,
    best_trials,
    check_completed,
    count,
    failures,
    outcome,
    trial_config,
)
from pgzoo.tuning.retrained import (
    HEADER,
    Retrained,
    difference,
    estimate,
    find_retrained,
    result,
    row,
    sentence,
    winner,
)
from pgzoo.tuning.run import retrain
from pgzoo.tuning.space import PLUGIN, readable
from pgzoo.tuning.storage import open_storage, sqlite_file, without_password
from pgzoo.tuning.studies import result_of
from pgzoo.tuning.study import open_study
from pgzoo.tuning.trial import TrialRun, train_once
from pgzoo.tuning.trial_queue import (
    KEY,
    OUTCOME,
    claim,
    enqueue,
    fail_lost,
    is_lost,
    requeue_interrupted,
    unfinished,
)
from pgzoo.tuning.write import write_winner


def history(study: optuna.Study) -> list[Any]:
    """Return the state, parameters, values and evaluations of all trials, without seconds."""
    trials = []
    for trial in study.trials:
        curves = {
            key: [(point["steps"], point["returns"]) for point in value]
            for key, value in trial.user_attrs.items()
            if key.startswith("evaluations:")
        }
        trials.append((trial.state, trial.params, trial.values, curves))
    return trials


# ---------------------------------------------------------------- reproducibility


def test_a_resumed_study_has_the_same_trials_as_an_uninterrupted_one(tmp_path: Path) -> None:
    study_config = small(n_seeds=2)
    uninterrupted = search(study_config, f"{tmp_path}/a.db", tmp_path / "a", 8)
    search(study_config, f"{tmp_path}/b.db", tmp_path / "b", 5)
    resumed = search(study_config, f"{tmp_path}/b.db", tmp_path / "b", 8)
    assert history(uninterrupted) == history(resumed)
    assert len({str(trial.params) for trial in uninterrupted.trials}) == 8
    assert [trial.user_attrs["plugin"] for trial in uninterrupted.trials[:2]] == ["rtg", "a2c"]  # the defaults
    other = search(small(n_seeds=2, seed=100), f"{tmp_path}/c.db", tmp_path / "c", 3)
    assert history(other) != history(uninterrupted)[:3]


def test_a_trial_stores_what_reproduces_it(tmp_path: Path) -> None:
    study_config = small()
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 2)
    attrs = study.trials[0].user_attrs
    assert attrs["configs"]["CartPole-v1"]["n_timesteps"] == 400
    assert attrs["configs"]["CartPole-v1"]["estimator"]["name"] in ("reward_to_go", "lambda_return")
    assert attrs["versions"]["torch"] == importlib.metadata.version("torch")
    assert 1 <= len(attrs["evaluations:0"]) <= 4
    assert all(len(point["returns"]) == 2 for point in attrs["evaluations:0"])
    # Trained again from the stored configuration, the result is the same.
    config, seed = trial_config(REGISTRY, f"{tmp_path}/a.db", "small:0")
    points = train_once(config, REGISTRY, TrialRun(seed, 4, 2, tmp_path / "again"))
    assert [point.value for point in points] == [point["mean"] for point in attrs["evaluations:0"]]
    assert study.trials[0].values == [points[-1].value]


def test_a_study_begins_with_the_defaults(tmp_path: Path) -> None:
    study_config = small(plugins=("ppo", "rtg_value"), n_timesteps=300)
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 3)
    for trial, plugin in zip(study.trials, study_config.plugins, strict=False):
        entry = {"n_timesteps": 300, "n_envs": 4}
        default = load_config(REGISTRY, plugin, "CartPole-v1", overrides=entry)
        assert trial.user_attrs["configs"]["CartPole-v1"] == json.loads(json.dumps(plain(resolved_entry(default))))
        assert trial.params["plugin"] == plugin
        assert trial.params["one_minus_gamma"] == pytest.approx(1 - default.combination.algorithm.gamma)
    assert study.trials[1].params["learning_rate"] == 3e-3  # a schedule, by its first value
    assert "default" not in study.trials[2].user_attrs


def test_a_study_without_defaults_begins_at_random(tmp_path: Path) -> None:
    study = search(small(defaults=False), f"{tmp_path}/a.db", tmp_path, 2)
    assert not any("default" in trial.user_attrs for trial in study.trials)


def test_fresh_seeds_differ_from_the_seeds_of_the_search() -> None:
    study_config = small(n_seeds=3, seed=7)
    assert study_config.seeds == [7, 8, 9]
    chosen, reported = study_config.fresh_seeds(1000)
    assert len({*study_config.seeds, *chosen, *reported}) == 2003


@pytest.mark.parametrize("recipe", ["ppo", "grpo", "rtg_moving_average"])
def test_a_training_continues_from_its_last_evaluation(recipe: str, tmp_path: Path) -> None:
    env = "CartPole-v1"
    config = load_config(REGISTRY, recipe, env, overrides={"n_timesteps": 8000, "normalize": True})
    run = TrialRun(3, 4, 2, tmp_path / "run")
    reported: list[int] = []

    def die_at_second(points: list[Point], _: Any) -> None:
        reported.append(len(points))
        if len(points) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_once(config, REGISTRY, run, on_evaluation=die_at_second)
    (checkpoint,) = (tmp_path / "run").glob("evaluation_*")
    before = PolicyGradient.load(checkpoint / "model.zip")
    again: list[list[Point]] = []
    points = train_once(config, REGISTRY, run, on_evaluation=lambda p, _: again.append(list(p)))
    assert reported == [1, 2]
    assert [len(p) for p in again] == list(range(1, len(points) + 1))  # reports the first two again
    assert points[:2] == again[1]
    assert [point.steps for point in points] == sorted({point.steps for point in points})
    assert points[1].steps == before.num_timesteps < points[2].steps
    assert 8000 <= points[-1].steps < 16_000
    assert points[1].seconds < points[2].seconds
    after = PolicyGradient.load(tmp_path / "run" / f"evaluation_{len(points)}" / "model.zip")
    assert after._n_updates > before._n_updates


class OwnPolicy(ActorCriticPolicy):
    """A class that a file cannot name. A checkpoint is loaded with the class of the configuration."""


def test_a_training_with_a_policy_of_its_own_continues(tmp_path: Path) -> None:
    overrides = {"n_timesteps": 400, "n_steps": 50, "n_envs": 2, "policy": "test_study.OwnPolicy"}
    config = load_config(REGISTRY, "a2c", "CartPole-v1", overrides=overrides)
    run = TrialRun(3, 4, 1, tmp_path / "run")

    def die(points: list[Point], _: Any) -> None:
        if len(points) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_once(config, REGISTRY, run, on_evaluation=die)
    steps: list[int] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a checkpoint that cannot be loaded is ignored with a warning
        train_once(config, REGISTRY, run, on_evaluation=lambda points, _: steps.append(points[-1].steps))
    assert steps == [100, 200, 300, 400]


def test_the_checkpoint_of_another_study_is_never_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.tuning.worker.shutil.rmtree", lambda *_, **__: None)  # keep every checkpoint
    search(small(seed=5), f"{tmp_path}/a.db", tmp_path / "shared", 3)
    assert list((tmp_path / "shared").rglob("model.zip"))
    after = search(small(), f"{tmp_path}/b.db", tmp_path / "shared", 3)
    assert history(after) == history(search(small(), f"{tmp_path}/c.db", tmp_path / "own", 3))


# ---------------------------------------------------------------- failures are failures


BROKEN = '''
from dataclasses import dataclass
from pgzoo import Baseline, hookimpl

@dataclass(frozen=True)
class Broken(Baseline):
    """Raises."""
    name = "broken"
    plugin_api = "2.0"
    unbiased = True
    def __call__(self, rollout, returns, state=None):
        raise ZeroDivisionError("the author's mistake")

@hookimpl
def pgzoo_plugins():
    return [Broken]
'''


def test_the_trial_of_a_plugin_that_raises_fails_with_its_message(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    study_config = small(plugins=("reward_to_go+broken",), plugin_files=(file,))
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 2)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 2
    trial = failures(study)[0]
    assert "the author's mistake" in outcome(trial)
    assert "broken.py" in trial.user_attrs["traceback"]
    assert count(study).failed == 2
    assert best_trials(study) == []


def test_a_diverged_trial_fails_with_its_step(tmp_path: Path) -> None:
    study_config = small(
        plugins=("rtg",), n_timesteps=3000, fixed={"n_envs": 4, "learning_rate": 2e37, "max_grad_norm": None}
    )
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 1)
    trial = study.trials[0]
    assert trial.state == TrialState.PRUNED  # samplers ignore failed trials
    assert trial.user_attrs[OUTCOME] == "diverged"
    assert 0 < trial.user_attrs["diverged_at"] <= 3000
    assert failures(study) == [trial]
    assert (count(study).failed, count(study).pruned) == (1, 0)
    with pytest.raises(NoTrialCompleted, match="1 of 1 failed, 1 of them with diverged: Diverged: the parameters or"):
        check_completed(study)


def test_a_trial_stays_running_if_the_storage_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise optuna.exceptions.StorageInternalError("the server closed the connection")

    monkeypatch.setattr("pgzoo.tuning.objective._store", fail)
    with pytest.raises(ConfigError, match=r"cannot use the storage .*a.db: the server closed the connection"):
        search(small(), f"{tmp_path}/a.db", tmp_path, 1)
    study = optuna.load_study(study_name="small", storage=open_storage(f"{tmp_path}/a.db"))
    assert study.trials[0].state == TrialState.RUNNING  # it will be detected as lost


def test_pruning(tmp_path: Path) -> None:
    study_config = small(plugins=("a2c",), n_timesteps=2000, n_startup_trials=2, pruner="median", sampler="random")
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 8)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert pruned
    assert all(len(trial.user_attrs["evaluations:0"]) < 4 for trial in pruned)
    assert not failures(study)


@pytest.mark.parametrize("pruner", ["none", "hyperband", "halving", "wilcoxon"])
def test_every_pruner_works(pruner: str, tmp_path: Path) -> None:
    """Every evaluation is reported, whatever the pruner, so that a dashboard shows live curves."""
    study_config = small(pruner=pruner, n_seeds=5 if pruner == "wilcoxon" else 1, n_timesteps=200, plugins=("a2c",))
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 4)
    for trial in study.trials:
        evaluated = [len(value) for key, value in trial.user_attrs.items() if key.startswith("evaluations:")]
        assert len(trial.intermediate_values) == sum(evaluated)
    assert not failures(study)


def test_several_metrics_make_a_front(tmp_path: Path) -> None:
    study_config = small(metrics=("final", "steps_to:30"), pruner="none")
    study = search(study_config, f"{tmp_path}/a.db", tmp_path, 6)
    front = best_trials(study)
    assert front
    for trial in front:  # no trial is better in one metric and at least as good in the other
        assert not [
            t
            for t in study.trials
            if t.values[0] >= trial.values[0] and t.values[1] <= trial.values[1] and t.values != trial.values
        ]


# ---------------------------------------------------------------- the trial queue


def plan(n: int) -> dict[str, PlannedTrial]:
    return {str(i): PlannedTrial() for i in range(n)}


def empty_study(storage: str) -> optuna.Study:
    return optuna.create_study(storage=open_storage(storage, 1), study_name="t", load_if_exists=True)


def test_each_planned_trial_is_taken_once_and_none_beyond_the_limit(tmp_path: Path) -> None:
    url = f"{tmp_path}/t.db"
    first, second = empty_study(url), empty_study(url)
    # Two machines queue the same planned trials at the same moment, so neither sees those of the other.
    for key in plan(3):
        first.enqueue_trial({}, user_attrs={KEY: key})
        second.enqueue_trial({}, user_attrs={KEY: key})
    taken = []
    for study in [first, second] * 4:
        trial = claim(study, plan(3), lambda key: optuna.samplers.RandomSampler())
        if trial is not None:
            taken.append(trial.user_attrs[KEY])
            study.tell(trial, 1.0)
    assert taken == ["0", "1", "2"]
    assert count(first, plan(3)).complete == 3
    enqueue(first, plan(4))
    assert len(first.trials) == 7  # one more, for the new planned trial
    enqueue(first, plan(100))
    assert len(first.trials) == 7 + 16  # a batch at a time


def test_an_interrupted_trial_is_run_again_and_counts_once(tmp_path: Path) -> None:
    study = empty_study(f"{tmp_path}/t.db")
    enqueue(study, plan(1))
    trial = claim(study, plan(1), lambda key: optuna.samplers.RandomSampler(seed=0))
    assert trial is not None
    x = trial.suggest_float("x", 0, 1)
    requeue_interrupted(study, trial)
    assert is_lost(study.trials[0])
    again = claim(study, plan(1), lambda key: optuna.samplers.RandomSampler(seed=1))
    assert again is not None
    assert again.suggest_float("x", 0, 1) == x
    study.tell(again, 1.0)
    assert claim(study, plan(1), lambda key: optuna.samplers.RandomSampler()) is None
    counts = count(study)
    assert (counts.total, counts.complete, counts.lost) == (1, 1, 0)


def test_a_trial_whose_workers_die_every_time_is_not_repeated_forever(tmp_path: Path) -> None:
    study = empty_study(f"{tmp_path}/t.db")
    for _ in range(4):  # the first attempt and three retries
        trial = claim(study, plan(1), lambda key: optuna.samplers.RandomSampler())
        assert trial is not None
        fail_lost(study, trial)
    counts = count(study)
    assert (counts.failed, counts.lost) == (1, 0)
    assert claim(study, plan(1), lambda key: optuna.samplers.RandomSampler()) is None
    assert len(study.trials) == 4
    assert unfinished(study, plan(2)) == ["1"]


def test_a_lost_trial_that_was_not_queued_again_is_queued_with_its_parameters(tmp_path: Path) -> None:
    study = empty_study(f"{tmp_path}/t.db")
    trial = claim(study, plan(1), lambda key: optuna.samplers.RandomSampler(seed=0))
    assert trial is not None
    x = trial.suggest_float("x", 0, 1)
    study.tell(trial, state=TrialState.FAIL)  # the process that detects the loss dies here
    assert claim(study, plan(1), lambda key: optuna.samplers.RandomSampler(seed=1)) is None
    find_dead_workers = DeadWorkerDetector(0)
    find_dead_workers(study)
    time.sleep(0.01)
    find_dead_workers(study)
    again = claim(study, plan(1), lambda key: optuna.samplers.RandomSampler(seed=1))
    assert again is not None
    assert again.suggest_float("x", 0, 1) == x


def test_a_worker_that_dies_before_its_first_heartbeat_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgzoo.tuning.storage.GRACE", 1)
    study = empty_study(f"{tmp_path}/t.db")
    assert claim(study, plan(1), lambda key: optuna.samplers.RandomSampler()) is not None
    time.sleep(2.5)  # heartbeats of 1 s, one of grace; SQLite's clock counts whole seconds
    DeadWorkerDetector(1)(study)
    assert [t.state for t in study.trials] == [TrialState.FAIL, TrialState.WAITING]


# ---------------------------------------------------------------- retraining


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyConfig, str, Path, optuna.Study]:
    """A study of two recipes with six trials, the first two of which train the defaults."""
    folder = tmp_path_factory.mktemp("finished")
    study_config, url = small(plugins=("rtg", "a2c"), sampler="random"), f"{folder}/a.db"
    return study_config, url, folder, search(study_config, url, folder, 6)


def test_the_best_trials_are_trained_again_with_their_defaults(finished: Any) -> None:
    study_config, url, folder, study = finished
    tune_config = TuneConfig(storage=url, n_total=6, folder=folder, n_best=2, n_fresh=3)
    retrain(study, study_config, REGISTRY, tune_config, InProcessExecutor())
    retrained = find_retrained(study)
    best = [trial for trial in best_trials(study) if "default" not in trial.user_attrs][:2]
    assert [candidate.name for candidate in retrained if not candidate.is_default] == [
        f"trial {t.number}" for t in best
    ]
    plugins = {candidate.plugin for candidate in retrained if not candidate.is_default}
    assert {candidate.plugin for candidate in retrained if candidate.is_default} >= plugins
    best_candidate = winner(retrained, study_config.parsed_metrics)
    assert best_candidate is not None
    for candidate in retrained:
        assert sorted(candidate.values) == [10_000, 10_001, 10_002]
        reported = candidate.name in (best_candidate.name, f"default {best_candidate.plugin}")
        assert sorted(candidate.reported) == ([11_000, 11_001, 11_002] if reported else [])
    assert best_candidate.mean() == max(candidate.mean() for candidate in retrained)
    found = result_of(study, url)
    assert found.winner == best_candidate
    assert found.result is not None
    assert found.result.n_candidates == len(retrained)
    trials = {candidate.name: candidate for candidate in retrained if not candidate.is_default}
    for name, hyperparams in [
        (f"trial {found.best.number}", found.best.hyperparams),
        *((name, candidate.hyperparams) for name, candidate in trials.items()),
    ]:
        trial = study.trials[int(name.split()[-1])]
        model = PolicyGradient.from_zoo(trial.user_attrs["plugin"], study_config.envs[0], **hyperparams)
        run = {"n_envs", "normalize", "net_arch", "activation_fn", PLUGIN}
        for parameter, value in readable(trial.params).items():
            name = parameter.split(".")[-1]
            assert name in run or value == pytest.approx(getattr(model, name)), parameter


FILE = """# Of the whole file.
default: &d
  n_envs: 8  # in parallel

# Of CartPole.
CartPole-v1:
  n_envs: 2
  gamma: 0.5

# Of Acrobot.
Acrobot-v1:
  <<: *d
  learning_rate: 3.0e-3
"""
SEEDS = (10_000, 10_001)
REPORT_SEEDS = (11_000, 11_001)


def retrained_as(study: optuna.Study, trial: float, default: float) -> list[Retrained]:
    """Return the first drawn trial of the study, and its default, with these values on both seeds of both kinds."""
    drawn = study.trials[2]
    assert "default" not in drawn.user_attrs
    plugin = drawn.user_attrs["plugin"]
    values, reported = ({seed: (trial + 2 * i,) for i, seed in enumerate(seeds)} for seeds in (SEEDS, REPORT_SEEDS))
    of_default, also = (dict.fromkeys(seeds, (default,)) for seeds in (SEEDS, REPORT_SEEDS))
    return [
        Retrained("trial 2", plugin, values, SEEDS, search_values=(99.0,), reported=reported),
        Retrained(f"default {plugin}", plugin, of_default, SEEDS, reported=also),
    ]


def test_the_winner_is_written_and_comments_are_kept(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url, _, study = finished
    retrained = retrained_as(study, 80.0, 50.0)
    monkeypatch.setattr("pgzoo.tuning.write.find_retrained", lambda _: retrained)
    plugin = retrained[0].plugin
    file = tmp_path / f"{plugin}.yml"
    file.write_text(FILE)
    assert write_winner(study, REGISTRY, tmp_path) == f"trial 2 is now the entry of CartPole-v1 in {file}"
    text = file.read_text()
    for comment in ("# Of the whole file.", "# in parallel", "# Of CartPole.", "# Of Acrobot.", "<<: *d", "3.0e-3"):
        assert comment in text
    assert "# Trial 2 of 6 in the study small," in text
    # The resamples of 80 and 82 are 80, 81 and 82.
    assert "# final on the fresh seeds 11000 to 11001, which chose nothing: 81, 95 % interval 80 … 82." in text
    assert "# The default before: 50. Paired difference: 31, 95 % interval 30 … 32." in text
    written = load_config(REGISTRY, plugin, "CartPole-v1", file=file)
    trained, _ = trial_config(REGISTRY, url, "small:2")
    assert written.combination.algorithm == trained.combination.algorithm
    assert written.run == replace(trained.run, n_timesteps=written.run.n_timesteps)
    assert written.run.n_timesteps != trained.run.n_timesteps == 400  # the budget of the search stays in the study
    write_winner(study, REGISTRY, file)
    assert file.read_text() == text  # writing it again changes nothing
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_default_that_wins_is_not_written(finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = finished[-1]
    monkeypatch.setattr("pgzoo.tuning.write.find_retrained", lambda _: retrained_as(study, 40.0, 50.0))
    with pytest.raises(ConfigError, match="was the best on the fresh seeds; there is nothing to write"):
        write_winner(study, REGISTRY, tmp_path)
    monkeypatch.setattr("pgzoo.tuning.write.find_retrained", lambda _: [])
    with pytest.raises(ConfigError, match="small has no result yet"):
        write_winner(study, REGISTRY, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_winner_without_a_gain_is_written_only_with_force(
    finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 and 82 against 81: the differences −1 and 1 have an interval that contains 0."""
    study = finished[-1]
    monkeypatch.setattr("pgzoo.tuning.write.find_retrained", lambda _: retrained_as(study, 80.0, 80.9))
    with pytest.raises(
        ConfigError, match=r"nothing is written, unless with --force: .* no gain over the default is shown"
    ):
        write_winner(study, REGISTRY, tmp_path)
    assert not list(tmp_path.iterdir())
    assert "is now the entry of CartPole-v1" in write_winner(study, REGISTRY, tmp_path, force=True)


def test_intervals_by_hand() -> None:
    """The resamples of 1, 2, 3 have means from 1 (1 of 27) to 3. An interval never leaves the values."""
    by_hand = estimate(np.array([1.0, 2.0, 3.0]))
    assert (by_hand.mean, by_hand.low, by_hand.high, by_hand.n) == (2.0, 1.0, 3.0, 3)
    returns = estimate(np.array([0.0, 20.0, 200.0]))
    assert (returns.low, returns.high) == (0.0, 200.0)  # Student's interval is −199 to 346
    assert estimate(np.array([5.0, 5.0])).interval == "5 … 5"
    trial = Retrained("trial 1", "gae", {1: (5.0,), 2: (9.0,), 4: (1.0,)}, search_values=(10.0,))
    default = Retrained("default gae", "gae", {1: (4.0,), 2: (6.0,), 3: (0.0,)})
    gain = difference(trial.values, default.values)  # over seeds 1 and 2: 1 and 3
    assert gain is not None
    assert (gain.mean, gain.low, gain.high, gain.n) == (2.0, 1.0, 3.0, 2)
    assert difference(trial.values, {1: (4.0,)}) is None


def test_the_row_of_a_result() -> None:
    trial = Retrained("trial 1", "gae", {1: (5.0,), 2: (9.0,)}, (1, 2, 3), (3,), search_values=(10.0,))
    default = Retrained("default gae", "gae", {1: (4.0,), 2: (6.0,)}, (1, 2))
    both = [trial, default]
    assert row(trial, both) == ("trial 1", "gae", "10", "7 (1 failed)", "5 … 9", "2", "1 … 3")
    assert row(default, both) == ("default gae", "gae", "", "5", "4 … 6", "", "")
    assert len(row(default, both)) == len(HEADER)


def test_the_result_is_from_seeds_that_chose_nothing() -> None:
    """The winner has 500 where it was chosen, and 300 and 320 where it is reported, less than its default."""
    metrics = small().parsed_metrics
    trial = Retrained("trial 1", "gae", {1: (500.0,), 2: (500.0,)}, (1, 2), search_values=(500.0,),
                      reported={3: (300.0,), 4: (320.0,)})  # fmt: skip
    default = Retrained("default gae", "gae", {1: (400.0,), 2: (450.0,)}, (1, 2), reported={3: (310.0,), 4: (350.0,)})
    found = result([trial, default], metrics)
    assert found is not None
    assert found.winner is trial
    assert not found.is_better(metrics)
    assert sentence(found, metrics) == (
        "trial 1 (gae), final 310 [300 … 320] on 2 more fresh seeds, chosen among 2 candidates; its default has 330, a "
        "paired difference of -20 [-30 … -10]; no gain over the default is shown"
    )
    assert result([replace(trial, reported={}), default], metrics) is None
    fewer = [parse_metric("steps_to:5")]  # a lower number of steps is better
    slow = replace(trial, values={1: (5.0,), 2: (5.0,)}, reported={3: (5.0,), 4: (6.0,)})
    found = result([slow, default], fewer)
    assert found is not None
    assert found.is_better(fewer)


def test_no_winner_before_all_seeds_are_trained() -> None:
    metrics = small().parsed_metrics
    partial = Retrained("trial 1", "gae", {1: (500.0,)}, seeds=(1, 2), search_values=(500.0,))
    complete = Retrained("trial 2", "gae", {1: (490.0,), 2: (490.0,)}, seeds=(1, 2), search_values=(500.0,))
    assert winner([partial, complete], metrics) is None
    failed = replace(partial, failed_seeds=(2,))
    assert winner([failed, complete], metrics) is complete
    default = Retrained("default gae", "gae", {1: (495.0,), 2: (495.0,)}, seeds=(1, 2))
    assert winner([complete, default], metrics) is default


# ---------------------------------------------------------------- the report


def test_a_report_leaves_pyplot_as_it_was(finished: Any, tmp_path: Path) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    study = finished[-1]
    before = (plt.get_backend(), dict(mpl.rcParams), plt.get_fignums(), list(warnings.filters))
    page = write_report(study, tmp_path / "report")
    assert (plt.get_backend(), dict(mpl.rcParams), plt.get_fignums(), list(warnings.filters)) == before
    pictures = {path.stem for path in page.parent.glob("*.png")}
    assert pictures >= {"history", "slices", "curves"}
    assert "importances" not in pictures  # of six trials
    assert pictures <= set(CAPTIONS) - {"pareto"}
    assert page.read_text().count("data:image/png;base64,") == len(pictures)


# ---------------------------------------------------------------- refusals


def test_another_definition_is_refused_with_the_differences(tmp_path: Path) -> None:
    storage = open_storage(f"{tmp_path}/a.db")
    open_study(small(), REGISTRY, storage)
    open_study(small(), REGISTRY, storage)
    with pytest.raises(ConfigError, match="n_timesteps is 400 there and 500 here"):
        open_study(small(n_timesteps=500), REGISTRY, storage)
    narrowed = {"gamma": parse_range("0.9..0.99", "")}
    with pytest.raises(ConfigError, match=r"space.gamma is .* there and \[0.9, 0.99\] log1m here"):
        open_study(small(ranges=narrowed), REGISTRY, storage)
    optuna.create_study(storage=storage, study_name="stranger")
    with pytest.raises(ConfigError, match="was not created by pgzoo"):
        open_study(small(name="stranger"), REGISTRY, storage)
    optuna.create_study(storage=storage, study_name="trials", direction="maximize").enqueue_trial({})
    optuna.create_study(storage=storage, study_name="attributes", direction="maximize").set_user_attr("theirs", 1)
    for name in ("trials", "attributes"):
        with pytest.raises(ConfigError, match="was not created by pgzoo"):
            open_study(small(name=name), REGISTRY, storage)


def test_numbers_out_of_range_are_refused() -> None:
    """Finds numbers that only the command line checks."""
    for changes in ({"n_seeds": 0}, {"seed": -1}, {"seed": 2**32}, {"n_timesteps": 0.5}, {"eval_episodes": True}):
        with pytest.raises(
            ConfigError, match=f"{next(iter(changes))}(: .* is not in the range| must be a whole number)"
        ):
            small(**changes).check()
    wrong: dict[str, Any] = {"n_total": 0, "n_jobs": 0, "heartbeat": 0.5, "n_fresh": 1, "command_limit": 0}
    for name, value in wrong.items():
        with pytest.raises(ConfigError, match=f"{name}(: .* is not in the range| must be a whole number)"):
            TuneConfig(**{"storage": "a.db", "n_total": 1, name: value}).check()
    for timeout in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ConfigError, match=r"timeout: .* is not in the range x>=0"):
            TuneConfig(storage="a.db", n_total=1, timeout=timeout).check()
    TuneConfig(storage="a.db", n_total=1, timeout=0.0).check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pruner": "medain"}, "did you mean 'median'"),
        ({"sampler": "cma"}, "unknown sampler 'cma'"),
        ({"metrics": ("finale",)}, "did you mean 'final'"),
        ({"metrics": ("final", "final")}, "named twice"),
        ({"metrics": ("final", "wall")}, "cannot prune a study of several metrics"),
        ({"pruner": "wilcoxon"}, "--seeds 1 is too few"),
        ({"metrics": ("wall",)}, "use --pruner none"),
    ],
)
def test_refused_settings(changes: Any, message: str) -> None:
    study_config: StudyConfig = small(**changes)
    with pytest.raises(ConfigError, match=message):
        study_config.check()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgres9://host/x", "is not a storage; use FILE.db"),
        ("mysql+nodriver://host/x", "is not a storage|needs a driver"),
        ("sqlite:////dev/null/x.db", "cannot use the storage"),
        ("grpc://localhost:1", "is not a storage; use FILE.db"),
        ("postgres", "is not a storage"),
    ],
)
def test_refused_storages(url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgzoo.tuning.storage.PROBE_SECONDS", 0.2)
    with pytest.raises(PgzooError, match=message):
        open_storage(url)


def test_a_password_is_not_shown() -> None:
    assert without_password("postgresql+psycopg://me:secret@db/x") == "postgresql+psycopg://me:…@db/x"
    assert sqlite_file("sqlite:///a/b.db") == Path("a/b.db")
    assert sqlite_file("postgresql://x/y") is None


# ---------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.95..0.9999", "[0.95, 0.9999]"),
        ("1e-5..1e-2:log", "[1e-05, 0.01] log"),
        ("4,10,20", "{4, 10, 20}"),
        ("true,false", "{True, False}"),
        ("tanh", "{tanh}"),
    ],
)
def test_ranges_by_hand(text: str, shown: str) -> None:
    assert str(parse_range(text, "x")) == shown


def test_ranges_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "space.yml"
    file.write_text("gamma: 0.9..0.999:log1m\nn_steps: 16,32\nent_coef: 0..0.1\n")
    ranges = {name: str(search_range) for name, search_range in read_ranges(file).items()}
    assert ranges == {"gamma": "[0.9, 0.999] log1m", "n_steps": "{16, 32}", "ent_coef": "[0, 0.1]"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1..0", "is empty"),
        ("4,5:pow2", "only low..high has a scale"),
        ("0..1:lgo", "did you mean 'log'"),
        ("a..b", "a range has the form"),
        ("nan..1", "is empty"),
    ],
)
def test_refused_ranges(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_ranges([f"gamma:{text}"], "--search-range")
