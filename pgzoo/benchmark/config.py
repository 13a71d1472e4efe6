"""What a benchmark runs: a YAML file or flags become a checked list of jobs. It imports neither torch nor Gymnasium."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.hyperparameters import Range, shown
from pgzoo.training.arguments import Arguments, Count
from pgzoo.training.run_folder import file_name
from pgzoo.training.runs import VEC_ENVS
from pgzoo.training.yaml_files import read_yaml_mapping

RANDOM = "random"
"""The name of uniformly random actions among the peers."""
DEFAULT_STEPS = 100_000
DEFAULT_SEEDS = 5
MAX_STEPS = 1e15
MAX_SEEDS = 10_000
LARGEST_SEED = 4_000_000
"""The seed of the final evaluation, 2,000,000 + 1000 × seed, must be below 2³²."""
MULTIPLES = {"": 1, "k": 1_000, "m": 1_000_000}


def parse_steps(value: Any) -> int:
    """Return a number of steps, which may be written `100k` or `1M`.

    Raises:
        ConfigError: it is not a positive whole number.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d+)?)([km]?)", str(value).strip().lower().replace("_", ""))
    steps = float(match[1]) * MULTIPLES[match[2]] if match and not isinstance(value, bool) else 0.0
    if not 1 <= steps < MAX_STEPS or steps != int(steps):
        raise ConfigError(f"steps must be a number such as 50000, 100k or 1M, not {shown(value)}")
    return int(steps)


def parse_seeds(value: Any) -> tuple[int, ...]:
    """Return seeds: `5` means 0 to 4, `3..7` a range with both ends, and `0,1,7` or a list these seeds.

    Raises:
        ConfigError: it is written otherwise, or has no seeds.
    """
    text = ",".join(map(str, value)) + "," if isinstance(value, (list, tuple)) else str(value).replace(" ", "")
    seeds: Sequence[int] = ()
    if re.fullmatch(r"\d{1,9}", text):
        seeds = range(int(text))
    elif match := re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})", text):
        seeds = range(int(match[1]), int(match[2]) + 1)
    elif re.fullmatch(r"(\d{1,9},)+(\d{1,9})?", text):
        seeds = list(dict.fromkeys(int(part) for part in text.split(",") if part))
    if not 0 < len(seeds) <= MAX_SEEDS or max(seeds) > LARGEST_SEED:
        raise ConfigError(
            f"seeds must be a number of seeds, a range such as 0..9 or a list, at most {LARGEST_SEED:,} each, "
            f"not {shown(value)}"
        )
    return tuple(seeds)


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig(Arguments):
    """How algorithms are trained and evaluated on one environment.

    Attributes:
        steps: environment steps of each training.
        seeds: the seeds.
        eval_points: evaluations during training, at equal intervals.
        eval_episodes: episodes of each of them.
        final_episodes: episodes with the final agent.
        vec_env: the vector environment that recipes train in. Peers use SB3's DummyVecEnv, as RL Zoo does.
        env_kwargs: arguments of the environment, for all algorithms.
        env_wrapper: wrappers of the environment, for all algorithms; None: those of each algorithm's hyperparameters.
        recipes: the recipes; None: those of the benchmark.
        peers: the peers; None: those of the benchmark.
        threshold: the return that counts as solved; None: the report chooses it.
        gym_packages: packages that register the environment.
    """

    steps: Count = DEFAULT_STEPS
    seeds: tuple[int, ...] = tuple(range(DEFAULT_SEEDS))
    eval_points: Annotated[int, Range(1, 1000)] = 20
    eval_episodes: Count = 10
    final_episodes: Count = 100
    vec_env: Annotated[str, VEC_ENVS] = "dummy"
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    env_wrapper: Any = None
    recipes: tuple[str, ...] | None = None
    peers: tuple[str, ...] | None = None
    threshold: float | None = None
    gym_packages: tuple[str, ...] = ()

    @property
    def overrides(self) -> dict[str, Any]:
        """What replaces the hyperparameters of every algorithm, because it is part of the task."""
        values = {"env_kwargs": self.env_kwargs or None, "env_wrapper": self.env_wrapper}
        return {"n_timesteps": self.steps, **{key: value for key, value in values.items() if value is not None}}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The definition of a benchmark, see docs/benchmark.md.

    Attributes:
        recipes: recipes or combinations.
        peers: `sb3:ppo`, `sb3:a2c`, `contrib:trpo`, `contrib:ppo_mask`, `contrib:ppo_lstm` or `random`.
        environments: how to train on each environment, by name.
        hyperparams: values that replace those of `hyperparams/`, or of RL Zoo, by algorithm and environment.
        peer_hyperparams: a file with the peers' hyperparameters by algorithm and environment; None: those of RL Zoo.
        published: results of others, which the report shows beside its own.
        plugin_files: files of plugins.
    """

    recipes: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    environments: Mapping[str, EnvironmentConfig]
    hyperparams: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    peer_hyperparams: Path | None = None
    published: tuple[Mapping[str, Any], ...] = ()
    plugin_files: tuple[Path, ...] = ()

    @property
    def gym_packages(self) -> tuple[str, ...]:
        """The packages that register the environments."""
        return tuple(dict.fromkeys(name for config in self.environments.values() for name in config.gym_packages))

    def jobs(self, out: Path) -> list[Job]:
        """Return the jobs in their order: all seeds of an algorithm on an environment follow one another."""
        jobs = []
        for env, config in self.environments.items():
            recipes = self.recipes if config.recipes is None else config.recipes
            peers = self.peers if config.peers is None else config.peers
            for algorithm in dict.fromkeys((*recipes, *peers)):
                seeds = config.seeds[:1] if algorithm == RANDOM else config.seeds
                hyperparams = {**config.overrides, **self.hyperparams.get(algorithm, {}).get(env, {})}
                folder = out / file_name(env) / algorithm.replace(":", "-")
                jobs += [Job(algorithm, env, seed, config, hyperparams, self, folder / f"seed_{seed}")
                         for seed in seeds]  # fmt: skip
        return jobs


@dataclass(frozen=True)
class Job:
    """One training: an algorithm on an environment with a seed.

    Attributes:
        algorithm: a recipe, a combination or a peer.
        env: the environment.
        seed: the seed of the training.
        config: how to train and evaluate.
        hyperparams: values that replace the algorithm's own.
        benchmark: the benchmark that it is part of.
        folder: where its files are.
    """

    algorithm: str
    env: str
    seed: int
    config: EnvironmentConfig
    hyperparams: Mapping[str, Any]
    benchmark: Benchmark
    folder: Path

    @property
    def name(self) -> str:
        """The job as text for people."""
        return f"{self.env} {self.algorithm} seed {self.seed}"

    @property
    def is_peer(self) -> bool:
        """Whether this is not a recipe."""
        return self.algorithm == RANDOM or ":" in self.algorithm


PARSERS: Mapping[str, Callable[[Any], Any]] = {"steps": parse_steps, "seeds": parse_seeds}
LISTS = ("recipes", "peers", "gym_packages")
DEFAULTS = ("steps", "seeds", "eval_points", "eval_episodes", "final_episodes", "vec_env", "gym_packages")
"""Keys of an environment that a file may also have at its top, for all environments."""
PUBLISHED_KEYS = ("algorithm", "env", "steps", "mean", "std", "n_seeds", "source")


def read_benchmark(file: Path) -> Benchmark:
    """Return the benchmark that a YAML file describes.

    Raises:
        ConfigError: the file cannot be read, or a key or a value is wrong.
    """
    data = read_yaml_mapping(file)
    own = [item.name for item in fields(Benchmark)]
    for key in data:
        if key not in (*own, *DEFAULTS):
            raise ConfigError(f"{file}: {unknown('key', key, [*own, *DEFAULTS])}")
    environments = data.get("environments")
    if not isinstance(environments, dict) or not environments:
        raise ConfigError(f"{file}: environments must be a mapping from environments to their settings")
    defaults = {key: data[key] for key in DEFAULTS if key in data}
    try:
        return Benchmark(
            recipes=names(data, "recipes"),
            peers=names(data, "peers"),
            environments={
                env: environment_config({**defaults, **_mapping(values, f"environments.{env}")}, f"environments.{env}")
                for env, values in environments.items()
            },
            hyperparams=_hyperparams(data.get("hyperparams")),
            peer_hyperparams=file.parent / str(data["peer_hyperparams"]) if data.get("peer_hyperparams") else None,
            published=tuple(published_result(row, number) for number, row in enumerate(data.get("published") or (), 1)),
            plugin_files=tuple((file.parent / name).resolve() for name in names(data, "plugin_files")),
        )
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error


def environment_config(values: Mapping[str, Any], where: str) -> EnvironmentConfig:
    """Return the settings of an environment.

    Raises:
        ConfigError: a key or a value is wrong.
    """
    known = [item.name for item in fields(EnvironmentConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {unknown('key', key, known)}")
    read: dict[str, Any] = {}
    try:
        for key, value in values.items():
            read[key] = names(values, key) if key in LISTS else PARSERS.get(key, _same)(value)
        read["env_kwargs"] = _mapping(values.get("env_kwargs"), "env_kwargs")
        return EnvironmentConfig(**read)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def names(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a list of names, which may also be written as one text with commas.

    Raises:
        ConfigError: it is neither.
    """
    value = data.get(key) or ()
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
        raise ConfigError(f"{key} must be a list of names, not {shown(value)}")
    return tuple(dict.fromkeys(value))


def selected(benchmark: Benchmark, *, recipes: Sequence[str] | None = None, peers: Sequence[str] | None = None,
             envs: Sequence[str] | None = None, **settings: Any) -> Benchmark:  # fmt: skip
    """Return a benchmark with what flags replace.

    Args:
        benchmark: the benchmark.
        recipes: the recipes; None: unchanged.
        peers: the peers; None: unchanged.
        envs: the environments; those that the benchmark lacks get default settings. None: unchanged.
        **settings: fields of EnvironmentConfig, for every environment; None: unchanged.
    """
    settings = {key: value for key, value in settings.items() if value is not None}
    if recipes is not None:
        settings["recipes"] = tuple(recipes)
    if peers is not None:
        settings["peers"] = tuple(peers)
    chosen = {env: benchmark.environments.get(env, EnvironmentConfig()) for env in envs or benchmark.environments}
    return replace(benchmark, environments={env: replace(config, **settings) for env, config in chosen.items()})


def _same(value: Any) -> Any:
    return value


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ConfigError(f"{where} must be a mapping, not {shown(value)}")
    return dict(value or {})


def _hyperparams(value: Any) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        algorithm: {
            env: _mapping(entry, f"hyperparams.{algorithm}.{env}")
            for env, entry in _mapping(by_env, f"hyperparams.{algorithm}").items()
        }
        for algorithm, by_env in _mapping(value, "hyperparams").items()
    }


def published_result(row: Any, number: int) -> dict[str, Any]:
    """Return a published result, with its steps as a number."""
    where = f"published, entry {number}"
    row = _mapping(row, where)
    for key in row:
        if key not in PUBLISHED_KEYS:
            raise ConfigError(f"{where}: {unknown('key', key, PUBLISHED_KEYS)}")
    if missing := [key for key in ("algorithm", "env", "steps", "mean", "source") if key not in row]:
        raise ConfigError(f"{where} lacks {missing[0]}")
    for key in ("mean", "std", "n_seeds"):
        if key in row and (isinstance(row[key], bool) or not isinstance(row[key], (int, float))):
            raise ConfigError(f"{where}: {key} must be a number, not {shown(row[key])}")
    return {**row, "steps": parse_steps(row["steps"])}
