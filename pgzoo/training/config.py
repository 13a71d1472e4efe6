"""What a run is: read from YAML and the command line, checked, frozen. YAML holds data, never code."""

from __future__ import annotations

import functools
import importlib
import importlib.resources
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pgzoo.errors import ConfigError, PgzooError, unknown
from pgzoo.interface.hyperparameters import Range, declared, plain_fields
from pgzoo.registry.combination import Combination, resolve
from pgzoo.registry.plugins import PART_TYPES, Registry


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The keys of a YAML entry that concern the run; names are RL Zoo's."""

    n_timesteps: Annotated[int, Range(1), "environment steps of training, over all environments"] = 100_000
    n_envs: Annotated[int, Range(1), "environments side by side"] = 8
    policy: Annotated[str, "MlpPolicy, CnnPolicy, MultiInputPolicy; auto: by the observations"] = "auto"
    policy_kwargs: Annotated[dict[str, Any] | None, "net_arch, log_std_init, activation_fn, …"] = None
    normalize: Annotated[bool | dict[str, Any], "VecNormalize, or its arguments"] = False
    frame_stack: Annotated[int | None, Range(1), "VecFrameStack of this many"] = None
    env_wrapper: Annotated[str | list[Any] | dict[str, Any] | None, "import path, or {path: arguments}"] = None
    vec_env_wrapper: Annotated[str | list[Any] | dict[str, Any] | None, "as env_wrapper, on the VecEnv"] = None
    callback: Annotated[str | list[Any] | dict[str, Any] | None, "as env_wrapper, SB3 callbacks"] = None
    monitor_kwargs: Annotated[dict[str, Any] | None, "arguments of Monitor"] = None
    env_kwargs: Annotated[dict[str, Any] | None, "arguments of gymnasium.make"] = None


@dataclass(frozen=True)
class ExperimentConfig:
    """A checked run.

    Attributes:
        env: the environment's registered name.
        combination: the parts and the algorithm's settings.
        run: the run's settings.
        entry: the flat mapping that all this came from, as it is saved.
        source: where the entry came from, for people.
    """

    env: str
    combination: Combination
    run: RunConfig
    entry: Mapping[str, Any]
    source: str


def load_config(
    registry: Registry,
    plugin: str,
    env: str,
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ExperimentConfig:
    """Return the run of a plugin on an environment.

    The entry comes from `file`, or from pgzoo's own `hyperparams/<plugin>.yml`: the environment's key, else
    `atari` for ALE games, else `default`. `overrides` replace its values.

    Raises:
        PgzooError: an unknown name, key or value; for YAML with file and line.
    """
    if "+" not in plugin:
        registry.recipe(plugin)
    entry, where, lines = _entry(plugin, env, file)
    try:
        config = _build(registry, plugin, env, entry, where)
    except ConfigError as error:
        raise _located(error, registry, plugin, env, entry, where, lines) from error
    if overrides:
        config = _build(registry, plugin, env, _overridden(config, overrides), where)
        for name in overrides:
            if name.removeprefix("algorithm.") in config.combination.unused:
                raise ConfigError(f"{name} has no effect here: {_why_unused(name, plugin, config.combination)}")
    return config


def _why_unused(name: str, plugin: str, combination: Combination) -> str:
    if "vf_coef" in name or "critic" in name:
        return f"{plugin!r} has no critic"
    if "n_epochs" in name:
        return f"objective {combination.objective.name!r} takes one pass over a rollout"
    instead = {"steps": "n_steps", "episodes": "n_episodes", "groups": "n_episodes and group_size"}[
        combination.sampling
    ]
    return f"{plugin!r} samples {combination.sampling}, set by {instead}"


def _overridden(config: ExperimentConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entry with overriding values; an old value goes if a new one, or a new part, stands in its place.

    `estimator.gae_lambda` and `gae_lambda` are one name here, and a replaced part takes its values with it.
    """
    gone = {name for name in overrides if "." not in name} | {name.rpartition(".")[2] for name in overrides}
    for kind in PART_TYPES:
        if kind in overrides:
            gone |= set(declared(type(config.combination.parts[kind])))
    kept = {key: value for key, value in config.entry.items() if key.rpartition(".")[2] not in gone}
    return {**kept, **overrides}


def config_from_entry(registry: Registry, plugin: str, env: str, entry: Mapping[str, Any]) -> ExperimentConfig:
    """Return the run that a resolved entry describes, as a run folder keeps it."""
    return _build(registry, plugin, env, entry, "the run's own config.yml")


def _build(registry: Registry, plugin: str, env: str, entry: Mapping[str, Any], where: str) -> ExperimentConfig:
    run_params = declared(RunConfig)
    run = {key: run_params[key].validate(value) for key, value in entry.items() if key in run_params}
    parts = {key: value for key, value in entry.items() if key in PART_TYPES}
    rest = {key: value for key, value in entry.items() if key not in run_params and key not in PART_TYPES}
    try:
        combination = resolve(registry, plugin, overrides=rest, **parts)
    except ConfigError as error:
        key = next((key for key in rest if f"unknown hyperparameter {key!r}" in str(error)), None)
        if key is not None and "did you mean" not in str(error):
            hint = unknown("hyperparameter", key, [*run_params, *PART_TYPES])
            if "did you mean" in hint:
                raise ConfigError(hint) from error
        raise
    return ExperimentConfig(env, combination, RunConfig(**run), dict(entry), where)


def _entry(plugin: str, env: str, file: Path | None) -> tuple[dict[str, Any], str, dict[str, int]]:
    """Return the entry, its place, and the line of each of its keys."""
    if file is None:
        resource = importlib.resources.files("pgzoo.hyperparams") / f"{plugin}.yml"
        if not resource.is_file():
            return {}, "the defaults", {}
        name, text = f"hyperparams/{plugin}.yml", resource.read_text(encoding="utf-8")
    else:
        name, text = str(file), _read_text(file)
    data = _parse(name, text)
    keys = [env, *(["atari"] if env.startswith("ALE/") or "NoFrameskip" in env else []), "default"]
    key = next((key for key in keys if key in data), None)
    if key is None:
        raise ConfigError(f"{name} has no entry for {env!r} and no 'default'; it has: {', '.join(map(str, data))}")
    entry = data[key]
    line = data.lc.key(key)[0] + 1
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{name}:{line}: the entry {key!r} must be a mapping, not {entry!r}")
    own = entry.lc.data or {}  # type: ignore[attr-defined]  # a key that `<<` brought in has no line of its own
    lines = {str(k): own[k][0] + 1 if k in own else line for k in entry}
    return _plain(entry), f"{name}, {key}", {"": line, **lines}


def read_yaml_mapping(file: Path) -> dict[str, Any]:
    """Return what a YAML file maps, in plain data.

    Raises:
        ConfigError: it cannot be read, is broken, or is no mapping.
    """
    return dict(_plain(_parse(str(file), _read_text(file))))


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


@functools.lru_cache(maxsize=8)
def _parse(name: str, text: str) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        data = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: {error.problem or 'broken YAML'}") from error
    except YAMLError as error:
        raise ConfigError(f"{name}: {str(error).splitlines()[0]}") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"{name} must be a mapping, such as environments to hyperparameters")
    return data


def _plain(value: Any) -> Any:
    """Return YAML's own containers and numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return str(value) if isinstance(value, str) else value


def _located(
    error: ConfigError,
    registry: Registry,
    plugin: str,
    env: str,
    entry: Mapping[str, Any],
    where: str,
    lines: Mapping[str, int],
) -> PgzooError:
    """Return the error with the file and line of the one key that brings it about, else of the entry."""
    if not lines:
        return error
    file = where.split(", ")[0]
    parts = {key: value for key, value in entry.items() if key in PART_TYPES}
    for key, value in entry.items():
        try:
            _build(registry, plugin, env, {**parts, key: value}, where)
        except ConfigError as same:
            if str(same) == str(error):
                return ConfigError(f"{file}:{lines[key]}: {error}")
    return ConfigError(f"{file}:{lines['']}: {error}")


def register_packages(packages: Sequence[str]) -> None:
    """Import packages that register environments, as RL Zoo's `--gym-packages` does.

    Raises:
        ConfigError: one cannot be imported.
    """
    if packages and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a file beside the user, as `python -m` finds it
    for package in packages:
        try:
            importlib.import_module(package)
        except Exception as error:  # a stranger's import may raise anything
            raise ConfigError(f"--gym-packages {package!r}: {type(error).__name__}: {error}") from error


def check_environment(env: str) -> None:
    """Raise ConfigError with the nearest names unless Gymnasium knows the environment.

    In `module:name` the module is imported first, as Gymnasium does it.
    """
    import gymnasium

    import pgzoo.envs  # noqa: F401 (registers them)

    module, colon, name = env.rpartition(":")
    if colon:
        register_packages([module])
    if name in gymnasium.registry:
        return
    message = unknown("environment", name, gymnasium.registry)
    if "did you mean" not in message:
        message = f"unknown environment {name!r}; if a package registers it, name that with --gym-packages"
    raise ConfigError(message)


def parse_pairs(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """Return `name:value` pairs as a mapping; values are read as YAML scalars, lists or mappings.

    Raises:
        ConfigError: a pair without a colon, or a value that is no YAML.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, colon, value = pair.partition(":")
        if not colon or not name or not value:
            raise ConfigError(f"{option} takes name:value, such as gamma:0.98, not {pair!r}")
        try:
            found[name] = _plain(_parse(option, f"value: {value}")["value"])
        except ConfigError as error:
            raise ConfigError(f"{option} {pair!r}: the value is no YAML") from error
    return found


def resolved_entry(config: ExperimentConfig) -> dict[str, Any]:
    """Return everything that defines the run, defaults included, in plain data."""
    entry = {**plain_fields(config.run), **plain_fields(config.combination.algorithm)}
    for kind, part in config.combination.parts.items():
        entry[kind] = {"name": part.name, **plain_fields(part)}
    return entry
