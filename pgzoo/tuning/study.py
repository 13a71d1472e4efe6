"""What a study is: its space, metric, seeds, budget; kept with it, so that the same command goes on with it."""

from __future__ import annotations

import time
import uuid
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Search
from pgzoo.registry.plugins import Registry
from pgzoo.training.run_folder import plain
from pgzoo.tuning.metrics import Metric, parse_metric
from pgzoo.tuning.space import Space, make_space
from pgzoo.tuning.trial_queue import FIXED

if TYPE_CHECKING:
    import optuna
    from optuna.storages import BaseStorage

DEFINITION = "pgzoo"
"""The study's attribute that holds its definition."""
IDENTITY = "pgzoo:id"
"""The study's attribute that no other study shares, of the same name or not."""
TOTAL = "pgzoo:total"
"""The study's attribute that holds how many trials it is to have."""
SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "hyperband", "halving", "wilcoxon")
DEFAULT = "default"
"""In a ticket: the plugin whose default its trial trains."""
RETRAINED = "retrained"
"""What the study that trains the best trials again is called, after a slash."""


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A study, apart from where it runs.

    Attributes:
        name: its name in the storage.
        env: the environment's name.
        plugins: recipes or combinations, one of which each trial takes.
        metrics: what a trial is judged by; several make a Pareto front.
        n_timesteps: environment steps of each training.
        n_seeds: trainings of a trial, from the seeds seed, seed + 1, …: the same for every trial.
        seed: of the sampler and the first training.
        n_evaluations: evaluations of a training, evenly spaced, the last one of the final model.
        eval_episodes: episodes of each.
        defaults: whether the first trials are each plugin's default, its entry in `hyperparams/`.
        n_startup_trials: random trials, after each plugin's default and before the sampler learns and the pruner
            begins.
        ranges: by name, other places to look than those declared.
        fixed: by name, values that are not searched.
    """

    name: str
    env: str
    plugins: tuple[str, ...]
    metrics: tuple[str, ...] = ("final",)
    n_timesteps: int
    n_seeds: int = 1
    seed: int = 0
    sampler: str = "tpe"
    pruner: str = "median"
    defaults: bool = True
    n_startup_trials: int = 10
    n_evaluations: int = 10
    eval_episodes: int = 10
    ranges: Mapping[str, Search] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    plugin_files: tuple[Path, ...] = ()
    gym_packages: tuple[str, ...] = ()

    @property
    def parsed_metrics(self) -> tuple[Metric, ...]:
        """The metrics, read."""
        return tuple(parse_metric(text) for text in self.metrics)

    @property
    def seeds(self) -> list[int]:
        """The seeds of every trial."""
        return list(range(self.seed, self.seed + self.n_seeds))

    def fresh_seeds(self, n: int) -> list[int]:
        """Return n seeds that no trial was trained with."""
        return list(range(self.seed + 10_000, self.seed + 10_000 + n))

    def tickets(self, n: int, registry: Registry) -> dict[str, dict[str, Any]]:
        """Return the first n tickets: each plugin's default where asked for, then what the sampler draws."""
        space = self.space(registry)
        begun = self.plugins if self.defaults else ()
        defaults = [{DEFAULT: plugin, FIXED: space.default(plugin)} for plugin in begun]
        return {str(i): defaults[i] if i < len(defaults) else {} for i in range(n)}

    @property
    def n_unlearned(self) -> int:
        """How many trials there are before sampler and pruner begin: the defaults and the random ones."""
        return len(self.plugins) * self.defaults + self.n_startup_trials

    def check(self) -> None:
        """Raise ConfigError for an unknown word, or choices that exclude each other."""
        if self.sampler not in SAMPLERS:
            raise ConfigError(unknown("sampler", self.sampler, SAMPLERS))
        if self.pruner not in PRUNERS:
            raise ConfigError(unknown("pruner", self.pruner, PRUNERS))
        if len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"a metric is named twice: {', '.join(self.metrics)}")
        metrics = self.parsed_metrics
        if self.pruner != "none" and len(metrics) > 1:
            raise ConfigError("Optuna prunes no study of several metrics; leave --pruner out, or give 'none'")
        if self.pruner == "wilcoxon" and self.n_seeds < 3:
            raise ConfigError(
                f"the Wilcoxon pruner compares seeds, from the third on: --seeds {self.n_seeds} is too few"
            )
        if self.pruner != "none" and metrics[0].kind == "wall":
            raise ConfigError("the metric 'wall' is known at the end only; it needs --pruner none")

    def space(self, registry: Registry) -> Space:
        """Return the search space."""
        fixed = {**self.fixed, "n_timesteps": self.n_timesteps}
        return make_space(registry, self.env, self.plugins, ranges=self.ranges, fixed=fixed)

    def definition(self, registry: Registry) -> dict[str, Any]:
        """Return all that makes two studies the same, as plain data."""
        space = self.space(registry)
        return {
            "env": self.env,
            "metrics": list(self.metrics),
            "n_timesteps": self.n_timesteps,
            "seeds": self.seeds,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "defaults": self.defaults,
            "n_startup_trials": self.n_startup_trials,
            "n_evaluations": self.n_evaluations,
            "eval_episodes": self.eval_episodes,
            "fixed": {name: str(value) for name, value in sorted(self.fixed.items())},
            "entries": {plugin: plain(base.entry) for plugin, base in space.bases.items()},
            "space": space.describe(),
        }

    def make_sampler(self, ticket: str) -> optuna.samplers.BaseSampler:
        """Return the sampler of one trial, seeded by the study's seed and the ticket.

        A study that is stopped and resumed draws what it would have drawn, and two workers never draw the same.
        """
        import optuna

        seed = zlib.crc32(f"{self.seed}/{ticket}".encode())
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, n_startup_trials=self.n_unlearned)

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Return the pruner; its steps are evaluations inside seeds, or for Wilcoxon seeds."""
        import optuna
        from optuna import pruners

        steps = self.n_seeds * self.n_evaluations
        makers: dict[str, Any] = {
            "none": pruners.NopPruner,
            "median": lambda: pruners.MedianPruner(self.n_unlearned, n_warmup_steps=self.n_evaluations // 3),
            "hyperband": lambda: pruners.HyperbandPruner(min_resource=1, max_resource=steps),
            "halving": lambda: pruners.SuccessiveHalvingPruner(min_resource=max(steps // 8, 1)),
            "wilcoxon": lambda: pruners.WilcoxonPruner(p_threshold=0.1),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            pruner: optuna.pruners.BasePruner = makers[self.pruner]()
        return pruner


def open_study(settings: StudyConfig, registry: Registry, storage: BaseStorage) -> optuna.Study:
    """Return the study, made if it is new.

    Raises:
        ConfigError: one of this name is another study; says in what they differ.
    """
    import optuna

    definition = settings.definition(registry)
    directions = [metric.direction for metric in settings.parsed_metrics]
    pruner = settings.make_pruner()
    try:
        study = optuna.create_study(storage=storage, study_name=settings.name, directions=directions, pruner=pruner)
        study.set_user_attr(IDENTITY, uuid.uuid4().hex)
        study.set_user_attr(DEFINITION, definition)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=settings.name, storage=storage, pruner=pruner)
        _compare(settings.name, definition, _definition_of(study))
    return study


def open_retrained(study: optuna.Study, directions: list[Any], storage: BaseStorage) -> optuna.Study:
    """Return the study that trains the best trials of another again."""
    import optuna

    again = optuna.create_study(
        storage=storage,
        study_name=f"{study.study_name}/{RETRAINED}",
        directions=directions,
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    again.set_user_attr(IDENTITY, study.user_attrs[IDENTITY])
    return again


def find_study(name: str, storage: BaseStorage) -> optuna.Study:
    """Return a study that exists.

    Raises:
        ConfigError: there is none of this name, or pgzoo did not make it.
    """
    import optuna

    names = [s.study_name for s in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if name not in names:
        own = [n for n in names if not n.endswith(f"/{RETRAINED}")]
        raise ConfigError(unknown("study", name, own))
    study = optuna.load_study(study_name=name, storage=storage)
    _definition_of(study)
    return study


def _definition_of(study: optuna.Study) -> dict[str, Any]:
    """Return what the study was made as; another process may be about to write it."""
    for _ in range(50):
        definition = study.user_attrs.get(DEFINITION)
        if definition is not None:
            return dict(definition)
        time.sleep(0.1)
    raise ConfigError(f"the study {study.study_name!r} was not made by pgzoo; choose another --study-name")


def _compare(name: str, mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    differences = list(_differences(theirs, mine))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ConfigError(
            f"the study {name!r} is another one: {'; '.join(differences[:3])}{more}\n"
            f"Give the same command to go on with it, or another --study-name."
        )


def _differences(theirs: Any, mine: Any, path: str = "") -> list[str]:
    if isinstance(theirs, Mapping) and isinstance(mine, Mapping):
        keys = [*theirs, *(key for key in mine if key not in theirs)]
        return [
            d for key in keys for d in _differences(theirs.get(key), mine.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if theirs == mine else [f"{path} is {_shown(theirs)} there and {_shown(mine)} here"]


def _shown(value: Any) -> str:
    return "not searched" if value is None else str(value)
