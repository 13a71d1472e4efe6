"""Studies by name: what `pgzoo tune` and `pgzoo.tune` share."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import Search, shown
from pgzoo.registry.combination import DEFAULT_RECIPE
from pgzoo.registry.plugins import Registry
from pgzoo.training.arguments import Arguments, Count, FilePath, as_path, as_paths, as_text, mapping, several
from pgzoo.training.config import check_environment, parse_pairs, register_packages, with_named_parts
from pgzoo.training.run_folder import file_name
from pgzoo.training.runs import VEC_ENVS
from pgzoo.tuning.limits import (
    Best,
    Evaluations,
    Executor,
    FreshSeeds,
    Heartbeat,
    Jobs,
    Seeds,
    StartupTrials,
    StudySeed,
    Timeout,
    Trials,
)

if TYPE_CHECKING:
    import optuna

    from pgzoo.tuning.config import StudyConfig, TuneConfig
    from pgzoo.tuning.retrained import Result, Retrained
    from pgzoo.tuning.space import Entries

DEFAULT_TRIALS = 50
MAX_DEFAULT_NAME = 120
"""A longer default name of a study, from many plugins, is shortened."""


@dataclass(frozen=True, kw_only=True)
class TuneArguments(Arguments):
    """The arguments of a study and of how it is carried out. `pgzoo tune --help` explains them."""

    plugin: str = DEFAULT_RECIPE
    plugins: str | None = None
    search: str | None = None
    env: str = "CartPole-v1"
    score_range: tuple[str, ...] = ()
    begin_with: str | None = None
    conf_file: Path | None = None
    env_kwargs: tuple[str, ...] = ()
    vec_env: Annotated[str, VEC_ENVS] = "dummy"
    device: str = "cpu"
    n_timesteps: Count | None = None
    n_trials: Trials | None = None
    max_total_trials: Trials | None = None
    max_trainings: Trials | None = None
    max_steps: Count | None = None
    timeout: Timeout | None = None
    n_jobs: Jobs = 1
    executor: Executor = "process"
    ray_address: str | None = None
    metric: tuple[str, ...] = ("final",)
    seeds: Seeds = 1
    seed: StudySeed = 0
    sampler: str = "tpe"
    pruner: str | None = None
    defaults: bool = True
    n_startup_trials: StartupTrials = 10
    n_evaluations: Evaluations = 10
    eval_episodes: Evaluations = 10
    space: Path | None = None
    ranges: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    best: Best = 3
    fresh_seeds: FreshSeeds = 5
    study_name: str | None = None
    storage: str | None = None
    heartbeat: Heartbeat = 20
    write: Path | None = None
    force: bool = False
    report: Path | None = None
    log_folder: Path = Path("logs")
    gym_packages: tuple[str, ...] = ()
    plugin_files: tuple[Path, ...] = ()

    def configs(
        self, registry: Registry, ranges: Mapping[str, Search], fixed: Mapping[str, Any]
    ) -> tuple[StudyConfig, TuneConfig]:
        """Return the definition of the study, and how to carry it out, both checked.

        Args:
            registry: the plugins.
            ranges: search ranges by name, which replace those of the file `space`.
            fixed: values that are not searched.

        Raises:
            PgzooError: an unknown name, or a wrong value.
        """
        from pgzoo.tuning.config import StudyConfig
        from pgzoo.tuning.ranges import read_ranges
        from pgzoo.tuning.space import Entries

        check_outputs(self.report, self.write)
        envs, file = _words(self.env) or [self.env], self.conf_file and self.conf_file.resolve()
        for env in envs:
            check_environment(env)
        if self.env_kwargs:
            fixed = {**fixed, "env_kwargs": parse_pairs(self.env_kwargs, "--env-kwargs")}
        first, *others = (Entries(env, file, self.begin_with) for env in envs)
        plugins = self._plugins(registry, fixed, first)
        bases = [entries.load(registry, plugin) for entries in (first, *others) for plugin in plugins]
        searched = plugins[0] if len(plugins) == 1 else self.plugins or f"{self.plugin}.{self.search}"
        name = self.study_name
        study_config = StudyConfig(
            name=default_name("_".join([searched, *map(file_name, envs)])) if name is None else name,
            envs=tuple(envs),
            plugins=tuple(plugins),
            metrics=self.metric,
            n_timesteps=self.n_timesteps or min(base.run.n_timesteps for base in bases),
            n_seeds=self.seeds,
            seed=self.seed,
            sampler=self.sampler,
            pruner=self.pruner or ("none" if len(self.metric) > 1 else "median"),
            defaults=self.defaults,
            n_startup_trials=self.n_startup_trials,
            n_evaluations=self.n_evaluations,
            eval_episodes=self.eval_episodes,
            ranges={**(read_ranges(self.space) if self.space else {}), **ranges},
            fixed=fixed,
            scores=self._scores(registry, [first, *others], plugins[0], fixed),
            conf_file=file,
            begin_with=self.begin_with,
            vec_env=self.vec_env,
            plugin_files=tuple(path.resolve() for path in self.plugin_files),
            gym_packages=self.gym_packages,
        )
        study_config.check()
        tune_config = self._tune_config(study_config)
        tune_config.check()
        return study_config, tune_config

    def _scores(
        self, registry: Registry, entries: Sequence[Entries], plugin: str, fixed: Mapping[str, Any]
    ) -> dict[str, tuple[float, float]]:
        """Return the returns that score 0 and 1 on each of several environments.

        They are those of `score_range`, else the mean return of random actions and the registered reward threshold.
        """
        from pgzoo.tuning.scores import measured_scores, parse_scores

        scores = parse_scores(self.score_range)
        if unused := [env for env in scores if len(entries) == 1 or env not in {of_env.env for of_env in entries}]:
            raise ConfigError(f"--score-range {unused[0]}: this is not one of several environments of --env")
        if len(entries) == 1:
            return {}
        kwargs = {"env_kwargs": fixed["env_kwargs"]} if "env_kwargs" in fixed else {}
        return {
            of_env.env: scores.get(of_env.env) or measured_scores(of_env.load(registry, plugin, kwargs))
            for of_env in entries
        }

    def _tune_config(self, study_config: StudyConfig) -> TuneConfig:
        from pgzoo.tuning.config import TuneConfig

        config = TuneConfig(
            storage=storage_url(self.storage, self.log_folder),
            n_total=self.max_total_trials or self.n_trials or DEFAULT_TRIALS,
            command_limit=self.n_trials if self.max_total_trials else None,
            n_jobs=self.n_jobs,
            timeout=self.timeout,
            heartbeat=self.heartbeat,
            folder=self.log_folder.resolve() / "tune" / study_config.name,
            device=self.device,
            n_best=self.best,
            n_fresh=self.fresh_seeds,
        )
        affordable = [
            *([self.max_trainings] if self.max_trainings is not None else []),
            *([self.max_steps // study_config.n_timesteps] if self.max_steps is not None else []),
        ]
        if not affordable:
            return config
        n_retrainings, per_trial = config.n_retrainings(study_config), self.seeds * len(study_config.envs)
        n_trials = (min(affordable) - n_retrainings) // per_trial
        if n_trials < 1:
            raise ConfigError(
                f"the budget allows {min(affordable)} trainings, and a trial with the retrainings needs {per_trial} + "
                f"{n_retrainings}; raise it, or lower --best or --fresh-seeds"
            )
        limited = min(n_trials, config.n_total) if self.n_trials or self.max_total_trials else n_trials
        return replace(config, n_total=limited)

    def _plugins(self, registry: Registry, fixed: Mapping[str, Any], entries: Entries) -> list[str]:
        """Return the recipes or combinations that the study searches."""
        from pgzoo.tuning.space import combinations

        if self.plugins is not None and self.search is not None:
            raise ConfigError("--plugins searches recipes, --search searches parts: use one of them")
        if self.search is not None:
            kinds = _words(self.search)
            if fixed_kinds := [kind for kind in kinds if kind in fixed]:
                raise ConfigError(f"{fixed_kinds[0]} is both searched and fixed")
            return combinations(registry, entries, self.plugin, kinds)
        if self.plugins == "all":
            return list(registry.recipes())
        if self.plugins is None:
            return [self.plugin]
        if not _words(self.plugins):
            raise ConfigError(f"--plugins {self.plugins!r} does not name a recipe; separate several by commas")
        return _words(self.plugins)


@dataclass(frozen=True)
class BestTrial:
    """The best trial of a search.

    Attributes:
        number: its number in the study.
        plugin: the recipe or combination that it trained.
        values: one value per metric. They are optimistic, because the trial was chosen by them.
        params: the hyperparameters that were searched, by name.
        configs: by environment, every setting.
    """

    number: int
    plugin: str
    values: tuple[float, ...]
    params: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]

    @property
    def hyperparams(self) -> Mapping[str, Any]:
        """Every setting on the first environment, as `pgzoo.train(plugin, env, hyperparams=…)` takes them."""
        return next(iter(self.configs.values()))


@dataclass(frozen=True)
class TuneResult:
    """The results of a study.

    Attributes:
        study: Optuna's study.
        storage: the URL or file in which it is stored.
        best: the best trial of the search; with several metrics the first one of the Pareto front.
        retrained: the best trials and the defaults of their plugins, trained again on fresh seeds.
        winner: the best of these; None if none was trained on all fresh seeds.
        result: the winner on further fresh seeds, which chose nothing; None until it is trained on them.
    """

    study: optuna.Study
    storage: str
    best: BestTrial
    retrained: tuple[Retrained, ...]
    winner: Retrained | None
    result: Result | None


def tune(
    plugin: str = DEFAULT_RECIPE,
    env: Sequence[str] | str = "CartPole-v1",
    *,
    plugins: Sequence[str] | str | None = None,
    search: Sequence[str] | str | None = None,
    score_range: Mapping[str, tuple[float, float] | str] | None = None,
    begin_with: str | None = None,
    conf_file: FilePath | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    vec_env: str = "dummy",
    device: str = "cpu",
    n_timesteps: int | None = None,
    n_trials: int | None = None,
    max_total_trials: int | None = None,
    max_trainings: int | None = None,
    max_steps: int | None = None,
    timeout: float | None = None,
    n_jobs: int = 1,
    executor: str = "process",
    ray_address: str | None = None,
    metric: Sequence[str] | str = "final",
    seeds: int = 1,
    seed: int = 0,
    sampler: str = "tpe",
    pruner: str | None = None,
    defaults: bool = True,
    n_startup_trials: int = 10,
    n_evaluations: int = 10,
    eval_episodes: int = 10,
    space: FilePath | None = None,
    search_range: Mapping[str, Search | str] | None = None,
    fix: Mapping[str, Any] | None = None,
    best: int = 3,
    fresh_seeds: int = 5,
    study_name: str | None = None,
    storage: str | None = None,
    heartbeat: int = 20,
    write: FilePath | None = None,
    force: bool = False,
    report: FilePath | None = None,
    log_folder: FilePath = "logs",
    gym_packages: Sequence[str] = (),
    plugin_files: Sequence[FilePath] = (),
) -> TuneResult:
    """Search hyperparameters and plugins, and train the best trials again on fresh seeds, as `pgzoo tune` does.

        result = pgzoo.tune("reward_to_go+median", n_trials=20, n_jobs=2, fix={"n_envs": 8})
        best = result.winner  # the best configuration on fresh seeds
        run = pgzoo.train(best.plugin, hyperparams=best.hyperparams)

    The arguments have the names of the command's flags, which `pgzoo tune --help` explains. The workers are processes
    of their own. They know what `pgzoo.register` and the decorators made known in this one. In a script, call `tune`
    below `if __name__ == "__main__":`, as Python's multiprocessing requires.

    Raises:
        PgzooError: an unknown name or a wrong value, a storage that fails, or a study in which no trial completed.
    """
    of_space, fixed = mapping("search_range", search_range), dict(mapping("fix", fix))
    if env_kwargs is not None:
        fixed["env_kwargs"] = mapping("env_kwargs", env_kwargs)
    names: Any = _text("env", env)
    arguments = TuneArguments(
        plugin=plugin, plugins=_text("plugins", plugins), search=_text("search", search),
        env=names, score_range=_pairs(mapping("score_range", score_range)), begin_with=begin_with,
        conf_file=as_path(conf_file), vec_env=vec_env, device=device,
        n_timesteps=n_timesteps, n_trials=n_trials, max_total_trials=max_total_trials,
        max_trainings=max_trainings, max_steps=max_steps, timeout=timeout, n_jobs=n_jobs,
        executor=executor, ray_address=ray_address, metric=several(metric), seeds=seeds, seed=seed, sampler=sampler,
        pruner=pruner, defaults=defaults, n_startup_trials=n_startup_trials, n_evaluations=n_evaluations,
        eval_episodes=eval_episodes, space=as_path(space), best=best, fresh_seeds=fresh_seeds, study_name=study_name,
        storage=as_text(storage), heartbeat=heartbeat, write=as_path(write), force=force, report=as_path(report),
        log_folder=as_path(log_folder),
        gym_packages=several(gym_packages), plugin_files=as_paths(plugin_files),
    )  # fmt: skip
    from pgzoo.training.workers import make_executor
    from pgzoo.tuning import run
    from pgzoo.tuning.ranges import parse_ranges

    registry = Registry.discover(arguments.plugin_files)
    register_packages(arguments.gym_packages)
    fixed = with_named_parts(registry, fixed)
    texts = tuple(f"{name}:{text}" for name, text in of_space.items() if not isinstance(text, Search))
    ranges = {name: search for name, search in of_space.items() if isinstance(search, Search)}
    study_config, tune_config = arguments.configs(registry, {**ranges, **parse_ranges(texts, "search_range")}, fixed)
    study = run.tune(study_config, registry, tune_config, make_executor(executor, ray_address, run.WORKER_RESTARTS))
    found = result_of(study, tune_config.storage)
    write_outputs(study, registry, arguments.report, arguments.write, force=force)
    return found


def result_of(study: optuna.Study, storage: str) -> TuneResult:
    """Return the results of a study.

    Raises:
        NoTrialCompleted: no trial completed.
    """
    from pgzoo.tuning.results import NoTrialCompleted, best_trials, check_completed, metrics_of
    from pgzoo.tuning.retrained import find_retrained, result, winner
    from pgzoo.tuning.space import PLUGIN, readable

    check_completed(study)
    if not (complete := best_trials(study)):
        raise NoTrialCompleted(f"no trial of {study.study_name} has ended yet")
    trial = complete[0]
    params = {name: value for name, value in readable(trial.params).items() if name != PLUGIN}
    attributes = trial.user_attrs
    best = BestTrial(trial.number, attributes["plugin"], tuple(trial.values), params, attributes["configs"])
    retrained, metrics = find_retrained(study), metrics_of(study)
    return TuneResult(study, storage, best, tuple(retrained), winner(retrained, metrics), result(retrained, metrics))


def check_outputs(report: Path | None, write: Path | None) -> None:
    """Refuse paths that cannot be written before hours of training, not after them.

    Raises:
        ConfigError: a path cannot be written.
    """
    if report is not None and report.exists() and not report.is_dir():
        raise ConfigError(f"--report {report} is not a folder")
    if write is not None and not write.is_dir() and not write.parent.is_dir():
        raise ConfigError(f"--write {write}: the folder {write.parent} does not exist")


def write_outputs(
    study: optuna.Study, registry: Registry, report: Path | None, write: Path | None, *, force: bool
) -> list[str]:
    """Write the report and the winner's entry, where a path is given. Return a sentence about each."""
    sentences: list[str] = []
    if report is not None:
        from pgzoo.tuning.report import write_report

        sentences.append(f"Report: {write_report(study, report)}")
    if write is not None:
        from pgzoo.tuning.write import write_winner

        sentences.append(write_winner(study, registry, write, force=force))
    return sentences


def storage_url(storage: str | None, log_folder: Path) -> str:
    """Return the storage of studies, by default studies.db in the log folder."""
    return str(log_folder / "studies.db") if storage is None else storage


def default_name(name: str) -> str:
    """Return the name, shortened if it is long. Different names remain different."""
    return name if len(name) <= MAX_DEFAULT_NAME else f"{name[:MAX_DEFAULT_NAME]}-{zlib.crc32(name.encode()):08x}"


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


def _pairs(ranges: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the ranges of scores as the command line writes them."""

    def written(ends: Any) -> str:
        return "..".join(map(str, ends)) if isinstance(ends, (tuple, list)) else str(ends)

    return tuple(f"{env}:{written(ends)}" for env, ends in ranges.items())


def _text(name: str, words: Any) -> str | None:
    """Return several names as the command line writes them."""
    if words is None or isinstance(words, str):
        return words
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) for word in words):
        raise ConfigError(f"{name} must be a name or a list of names, not {shown(words)}")
    return ",".join(words)
