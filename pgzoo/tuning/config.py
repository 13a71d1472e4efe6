"""The definition of a study, and how a command carries it out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgzoo.errors import ConfigError, converted, unknown
from pgzoo.interface.hyperparameters import Search, shown
from pgzoo.registry.plugins import Registry
from pgzoo.training.arguments import Count, check_fields
from pgzoo.training.imports import import_module
from pgzoo.training.run_folder import plain
from pgzoo.tuning.limits import (
    FRESH_SEED_OFFSET,
    REPORT_SEED_OFFSET,
    WILCOXON_SEEDS,
    Best,
    Evaluations,
    FreshSeeds,
    Heartbeat,
    Jobs,
    Seeds,
    StartupTrials,
    StudySeed,
    Timeout,
    Trials,
)
from pgzoo.tuning.metrics import Metric, parse_metric
from pgzoo.tuning.space import Entries, Space, make_space, with_common_dimensions

if TYPE_CHECKING:
    import optuna

SAMPLERS = ("tpe", "random")
PRUNERS = ("none", "median", "hyperband", "halving", "wilcoxon")
MAX_NAME_BYTES = 200
"""The longest name of a study, which is also the name of a folder."""


@dataclass(frozen=True)
class Candidate:
    """A configuration that is trained again on fresh seeds.

    Attributes:
        name: "trial 12" or "default gae".
        plugin: the recipe or combination.
        configs: by environment, the full configuration as plain data.
    """

    name: str
    plugin: str
    configs: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class PlannedTrial:
    """What is known about a trial before it runs.

    Attributes:
        params: parameters that the sampler does not draw.
        default_of: the plugin whose default the trial trains.
        candidate: the configuration that a retraining trains.
        seed: the seed of a retraining.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    default_of: str | None = None
    candidate: Candidate | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """The definition of a study. It does not say where the study runs.

    Attributes:
        name: the study's name in the storage.
        envs: the environments. Every trial trains on all of them.
        plugins: recipes or combinations; every trial trains one of them.
        metrics: the objectives of the study; several metrics make a Pareto front.
        n_timesteps: environment steps of each training.
        n_seeds: number of trainings per trial. Their seeds are seed, seed + 1, …, the same for every trial.
        seed: the seed of the sampler and of the first training.
        sampler: one of SAMPLERS, or module:Class of another, which takes a seed.
        pruner: one of PRUNERS.
        defaults: whether the first trials train the default of each plugin, its entry in `hyperparams/`.
        n_startup_trials: number of random trials after the defaults. Sampler and pruner begin after them.
        n_evaluations: evaluations per training, evenly spaced. The last one evaluates the final model.
        eval_episodes: episodes per evaluation.
        ranges: search ranges by name, which replace the declared ones.
        fixed: values by name, which are not searched.
        scores: by environment, the returns that score 0 and 1, if there are several environments.
        conf_file: hyperparameters by environment, which every worker reads; None: those of pgzoo.
        begin_with: the environment whose entries are used; None: the environment's own.
        vec_env: the vector environment of the trainings.
        plugin_files: Python files with plugins, which every worker loads.
        gym_packages: packages that register environments, which every worker imports.
    """

    name: str
    envs: tuple[str, ...]
    plugins: tuple[str, ...]
    metrics: tuple[str, ...] = ("final",)
    n_timesteps: Count
    n_seeds: Seeds = 1
    seed: StudySeed = 0
    sampler: str = "tpe"
    pruner: str = "median"
    defaults: bool = True
    n_startup_trials: StartupTrials = 10
    n_evaluations: Evaluations = 10
    eval_episodes: Evaluations = 10
    ranges: Mapping[str, Search] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    conf_file: Path | None = None
    begin_with: str | None = None
    vec_env: str = "dummy"
    plugin_files: tuple[Path, ...] = ()
    gym_packages: tuple[str, ...] = ()

    @property
    def parsed_metrics(self) -> tuple[Metric, ...]:
        """The metrics as objects."""
        return tuple(parse_metric(text) for text in self.metrics)

    @property
    def seeds(self) -> list[int]:
        """The seeds with which every trial is trained."""
        return list(range(self.seed, self.seed + self.n_seeds))

    def fresh_seeds(self, n: int) -> tuple[list[int], list[int]]:
        """Return n seeds that choose the winner, and n on which it is reported. The search uses neither."""
        first, second = self.seed + FRESH_SEED_OFFSET, self.seed + REPORT_SEED_OFFSET
        return list(range(first, first + n)), list(range(second, second + n))

    def score(self, env: str, value: float) -> float:
        """Return a return as it is, or of several environments as a score: s = (R − low) / (high − low)."""
        low, high = self.scores.get(env, (0.0, 1.0))
        return (value - low) / (high - low)

    def planned_trials(self, n: int, registry: Registry) -> dict[str, PlannedTrial]:
        """Return the first n trials of the search by key: the defaults, if requested, then those that are drawn."""
        space = next(iter(self.spaces(registry).values()))
        plugins = self.plugins if self.defaults else ()
        defaults = [PlannedTrial(default_of=plugin, params=space.default(plugin)) for plugin in plugins]
        return {str(i): defaults[i] if i < len(defaults) else PlannedTrial() for i in range(n)}

    @property
    def n_before_sampling(self) -> int:
        """The number of trials before sampler and pruner begin: the defaults and the random ones."""
        return len(self.plugins) * self.defaults + self.n_startup_trials

    def check(self) -> None:
        """Check names and combinations of choices.

        Raises:
            ConfigError: a name is unknown, a number is out of range, or two choices contradict each other.
        """
        check_name(self.name)
        check_fields(self)
        if "n_timesteps" in self.fixed:
            raise ConfigError("n_timesteps cannot be fixed, because -n sets it")
        if ":" in self.sampler:
            self.make_sampler("0")
        elif self.sampler not in SAMPLERS:
            raise ConfigError(f"{unknown('sampler', self.sampler, SAMPLERS)}, or module:Class")
        if self.pruner not in PRUNERS:
            raise ConfigError(unknown("pruner", self.pruner, PRUNERS))
        for what, names in (("a metric", self.metrics), ("an environment", self.envs)):
            if not names:
                raise ConfigError(f"a study needs {what}")
            if len(set(names)) < len(names):
                raise ConfigError(f"{what} is named twice: {', '.join(names)}")
        if len(self.envs) > 1 and (missing := [env for env in self.envs if env not in self.scores]):
            raise ConfigError(f"a study of several environments needs the returns of {missing[0]} that score 0 and 1")
        metrics = self.parsed_metrics
        if self.pruner != "none" and len(metrics) > 1:
            raise ConfigError("Optuna cannot prune a study of several metrics; omit --pruner, or use --pruner none")
        if self.pruner == "wilcoxon" and self.n_seeds < WILCOXON_SEEDS:
            raise ConfigError(
                f"the Wilcoxon pruner needs {WILCOXON_SEEDS} or more seeds per trial: --seeds {self.n_seeds} is too few"
            )
        if self.pruner != "none" and metrics[0].kind == "wall":
            raise ConfigError("the metric 'wall' is known only at the end of a training; use --pruner none")

    def spaces(self, registry: Registry) -> dict[str, Space]:
        """Return the search space by environment. All have the same dimensions, those that all environments have."""
        fixed = {**self.fixed, "n_timesteps": self.n_timesteps}
        spaces = {
            entries.env: make_space(registry, entries, self.plugins, ranges=self.ranges, fixed=fixed)
            for entries in self.entries
        }
        return with_common_dimensions(spaces)

    @property
    def entries(self) -> list[Entries]:
        """Where the configurations of each environment come from."""
        return [Entries(env, self.conf_file, self.begin_with) for env in self.envs]

    def definition(self, registry: Registry) -> dict[str, Any]:
        """Return everything that must be equal for two commands to share a study, as plain data."""
        spaces = self.spaces(registry)
        return {
            "envs": list(self.envs),
            "scores": {env: list(of_env) for env, of_env in self.scores.items()},
            "metrics": list(self.metrics),
            "n_timesteps": self.n_timesteps,
            "seeds": self.seeds,
            "sampler": self.sampler,
            "pruner": self.pruner,
            "defaults": self.defaults,
            "n_startup_trials": self.n_startup_trials,
            "n_evaluations": self.n_evaluations,
            "eval_episodes": self.eval_episodes,
            "vec_env": self.vec_env,
            "fixed": {name: str(value) for name, value in sorted(self.fixed.items())},
            "entries": {
                env: {plugin: plain(base.entry) for plugin, base in space.bases.items()}
                for env, space in spaces.items()
            },
            "space": spaces[self.envs[0]].describe(),
        }

    def make_sampler(self, key: str) -> optuna.samplers.BaseSampler:
        """Return the sampler of one planned trial, seeded by the study's seed and the trial's key.

        A study that is stopped and resumed therefore draws the same parameters. Two workers never draw the same ones.
        """
        import optuna

        from pgzoo.tuning._optuna import experimental_allowed

        seed = zlib.crc32(f"{self.seed}/{key}".encode())
        if self.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with experimental_allowed():
            if ":" in self.sampler:
                return _other_sampler(self.sampler, seed)
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, group=True, n_startup_trials=self.n_before_sampling
            )

    def make_pruner(self) -> optuna.pruners.BasePruner:
        """Return the pruner. Its steps are the evaluations of all seeds in order."""
        from optuna import pruners

        from pgzoo.tuning._optuna import experimental_allowed
        from pgzoo.tuning.pruners import LatestValue, SeedWilcoxon

        steps = self.n_seeds * self.n_evaluations
        with experimental_allowed():
            if self.pruner == "median":
                median = pruners.MedianPruner(self.n_before_sampling, n_warmup_steps=self.n_evaluations // 3)
                return LatestValue(median)
            if self.pruner == "hyperband":
                return pruners.HyperbandPruner(min_resource=1, max_resource=steps)
            if self.pruner == "halving":
                return pruners.SuccessiveHalvingPruner(min_resource=max(steps // 8, 1))
            if self.pruner == "wilcoxon":
                return SeedWilcoxon(self.n_seeds)
            return pruners.NopPruner()


def _other_sampler(name: str, seed: int) -> optuna.samplers.BaseSampler:
    """Return another sampler: `optuna.samplers:CmaEsSampler`, or `optunahub:auto_sampler:AutoSampler` from OptunaHub.

    Raises:
        ConfigError: it cannot be imported or made, or it is no sampler.
    """
    import optuna

    *path, attribute = name.split(":")
    with converted(f"--sampler {name}"):
        module: Any = import_module(path[0])
        if path[1:]:  # load_module downloads a package of OptunaHub
            module = module.load_module(f"samplers/{path[1]}")
        sampler = getattr(module, attribute)(seed=seed)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise ConfigError(f"--sampler {name} is {shown(sampler)}, not a sampler of Optuna")
    return sampler


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How one command carries out a study.

    Attributes:
        storage: the URL or file of the storage.
        n_total: number of trials of the study, over all machines and restarts.
        command_limit: number of trials that this command runs at most; None: all of them.
        n_jobs: number of workers.
        timeout: seconds after which the command ends. The search ends earlier and leaves time for the retrainings.
        heartbeat: seconds between two heartbeats of a worker.
        folder: where checkpoints are saved.
        device: where the workers train.
        n_best: number of best trials that are trained again.
        n_fresh: number of fresh seeds for each of them, and again for the winner and its default.
        command: the options that define the study, by which `pgzoo tune NAME` continues it.
    """

    storage: str
    n_total: Trials
    command_limit: Trials | None = None
    n_jobs: Jobs = 1
    timeout: Timeout | None = None
    heartbeat: Heartbeat = 20
    folder: Path = Path("logs")
    device: str = "cpu"
    n_best: Best = 3
    n_fresh: FreshSeeds = 5
    command: Sequence[str] | None = None

    def n_retrainings(self, study_config: StudyConfig) -> int:
        """Return how many trainings follow the search at most: the candidates with their defaults, then the winner."""
        n_candidates = self.n_best + min(2 * self.n_best, len(study_config.plugins))
        return (n_candidates + 2) * self.n_fresh * len(study_config.envs) if self.n_best else 0

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a number is out of range.
        """
        check_fields(self)


def check_name(name: str) -> None:
    """Check the name of a study, which is also the name of a folder.

    Raises:
        ConfigError: the name is empty, too long, or contains characters that the name of a folder cannot have.
    """
    if not name.strip() or name in (".", ".."):
        raise ConfigError(f"a study cannot have the name {name!r}; it is also the name of a folder")
    if any(character in "/\\" or not character.isprintable() for character in name):
        raise ConfigError(f"the name of a study cannot contain slashes or control characters: {name!r}")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ConfigError(f"the name of a study can have {MAX_NAME_BYTES} bytes, not {len(name.encode())}")
