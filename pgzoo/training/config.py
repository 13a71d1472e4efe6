"""The configuration of a run, read from YAML and the command line. YAML holds data, never code.

Only a file that the user names, with `--conf-file`, may be Python.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pgzoo.errors import ConfigError, PgzooError, PluginError, unknown
from pgzoo.interface.hyperparameters import Range, Search, declared, plain_fields, shown
from pgzoo.interface.parts import Part
from pgzoo.registry.combination import ALGORITHM, Combination, resolve
from pgzoo.registry.plugins import PART_TYPES, Kind, Registry
from pgzoo.registry.settings import SAMPLING_KEYWORDS, AlgorithmConfig, short_name
from pgzoo.registry.spellings import superseded
from pgzoo.training.imports import import_module
from pgzoo.training.keyword_arguments import checked_arguments
from pgzoo.training.python_files import is_python, read_python
from pgzoo.training.python_literals import with_data
from pgzoo.training.yaml_files import YamlError, YamlMapping, parse_yaml_mapping, read_text

RL_ZOO_N_ENVS = 1
"""The number of environments of an entry of RL Zoo that does not name it."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The keys of a YAML entry that configure the run. The names are RL Zoo's."""

    n_timesteps: Annotated[int, Range(1), "environment steps of training, over all environments"] = 100_000
    n_envs: Annotated[int, Range(1, 100_000), Search(1, 32, scale="pow2"), "parallel environments"] = 8
    policy: Annotated[
        str, "MlpPolicy, CnnPolicy, MultiInputPolicy, or an import path; auto: chosen by the observation space"
    ] = "auto"
    policy_kwargs: Annotated[dict[str, Any] | None, "net_arch, log_std_init, activation_fn, …"] = None
    normalize: Annotated[
        bool | dict[str, Any], Search(choices=(False, True)), "use VecNormalize; a mapping: its arguments"
    ] = False
    frame_stack: Annotated[int | None, Range(1, 1000), "frames stacked by VecFrameStack"] = None
    env_wrapper: Annotated[str | list[Any] | dict[str, Any] | None, "import path, or {path: arguments}"] = None
    vec_env_wrapper: Annotated[str | list[Any] | dict[str, Any] | None, "like env_wrapper, applied to the VecEnv"] = (
        None
    )
    callback: Annotated[str | list[Any] | dict[str, Any] | None, "like env_wrapper, SB3 callbacks"] = None
    monitor_kwargs: Annotated[dict[str, Any] | None, "arguments of Monitor"] = None
    env_kwargs: Annotated[dict[str, Any] | None, "arguments of gymnasium.make"] = None
    max_episode_steps: Annotated[
        int | None, Range(1), "time limit of an episode, as in gymnasium.make; none: the environment's own"
    ] = None


@dataclass(frozen=True)
class ExperimentConfig:
    """The checked configuration of a run.

    Attributes:
        env: the environment's registered name.
        combination: the parts and the algorithm's settings.
        run: the run's settings.
        entry: the flat mapping that the other attributes were read from.
        source: where the entry came from, as text for people.
    """

    env: str
    combination: Combination
    run: RunConfig
    entry: Mapping[str, Any]
    source: str

    def deterministic(self, stochastic: bool | None = None) -> bool:
        """Return whether a saved model takes the most likely actions.

        Args:
            stochastic: what the user asked for; None: it samples on Atari games and MiniGrid, as in RL Zoo.
        """
        return not (is_atari(self.env) or is_minigrid(self.env) if stochastic is None else stochastic)


def load_config(
    registry: Registry,
    plugin: str,
    env: str,
    *,
    file: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> ExperimentConfig:
    """Return the configuration of a recipe or combination on an environment.

    The entry is read from `file`, by default from pgzoo's `hyperparams/<plugin>.yml`. Its key is the environment's
    name, else `atari` for Atari games, else `default`. `overrides` replace the entry's values. A `file` that ends with
    `.py`, or that is the name of a module, is run as code, so it must come from the user.

    Raises:
        PgzooError: an unknown name, key or value. An error in YAML is reported with its file and line.
    """
    if "+" not in plugin:
        registry.recipe(plugin)
    file_entry = _read_entry(plugin, env, file)
    try:
        entry = _overridden(registry, plugin, env, file_entry, overrides) if overrides else file_entry.values
        config = _build(registry, plugin, env, entry, file_entry.source)
    except PgzooError:
        _check_entry(registry, plugin, env, file_entry)
        raise
    for name, value in (overrides or {}).items():
        if short_name(name) in config.combination.unused and value is not None:
            raise ConfigError(f"{name} has no effect here: {_why_unused(name, plugin, config.combination)}")
    return config


def _why_unused(name: str, plugin: str, combination: Combination) -> str:
    if short_name(name) in combination.critic_settings:
        return f"{plugin!r} has no critic"
    return f"objective {combination.objective.name!r} takes one pass over a rollout"


def _overridden(
    registry: Registry, plugin: str, env: str, file_entry: _Entry, overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the file's values with overrides.

    An override of `gae_lambda` also replaces `estimator.gae_lambda`, and the other way round. An override of the scale
    replaces its other spellings. If an override replaces a whole part, the file's values for the old part are dropped.
    To find the old part, the file's entry is resolved without the overrides, which is not done otherwise.
    """
    dropped = {_owner_and_field(name) for name in [*overrides, *superseded(overrides, file_entry.values)]}
    if replaced_kinds := [kind for kind in PART_TYPES if kind in overrides]:
        old_parts = _build(registry, plugin, env, file_entry.values, file_entry.source).combination.parts
        for kind in replaced_kinds:
            if not _is_same_part(old_parts[kind], overrides[kind]):
                dropped |= {(kind, field) for field in declared(type(old_parts[kind]))}
            elif isinstance(overrides[kind], Mapping):
                dropped |= {(kind, field) for field in overrides[kind]}
    remaining = {key: value for key, value in file_entry.values.items() if not _is_among(dropped, key)}
    entry = {**remaining, **overrides}
    if replaced_kinds:
        return _without_other_samplings(registry, plugin, env, entry, file_entry.source, keep=overrides)
    return entry


def _owner_and_field(key: str) -> tuple[str, str]:
    """Return the owner and the field that a key means. The owner is empty if a short name does not tell."""
    owner, _, field = short_name(key).rpartition(".")
    return owner or (ALGORITHM if field in declared(AlgorithmConfig) else ""), field


def _is_among(hyperparameters: Iterable[tuple[str, str]], key: str) -> bool:
    """Whether a key may mean one of these hyperparameters."""
    owner, field = _owner_and_field(key)
    return any(
        field == other and (owner == other_owner or not owner or not other_owner)
        for other_owner, other in hyperparameters
    )


def _is_same_part(part: Part, replacement: Any) -> bool:
    """Whether what replaces a part only gives it other fields: a mapping without a name, or the same name."""
    name = replacement.get("name", part.name) if isinstance(replacement, Mapping) else replacement
    return bool(name == part.name)


def config_from_entry(registry: Registry, plugin: str, env: str, entry: Mapping[str, Any]) -> ExperimentConfig:
    """Return the configuration that a run folder's config.yml describes.

    A config.yml of an earlier version has the hyperparameters of all samplings. Those of the others are left out.
    """
    source = "the run's config.yml"
    return _build(registry, plugin, env, _without_other_samplings(registry, plugin, env, entry, source), source)


def with_named_parts(registry: Registry, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """Return hyperparameters in which names and fields replace the classes and instances of parts.

    The files of a run have these names, by which another process finds the parts.

    Raises:
        PluginError: a part is not registered.
    """
    named = dict(hyperparams)
    for kind in PART_TYPES:
        if kind in named:
            named[kind] = _named_part(registry, kind, named[kind])
    return named


def _named_part(registry: Registry, kind: Kind, value: Any) -> Any:
    cls = value if isinstance(value, type) else type(value)
    if not issubclass(cls, PART_TYPES[kind]):
        return value
    if cls.name not in registry.names(kind) or registry.part(kind, cls.name) is not cls:
        raise PluginError(
            f"{kind} {cls.__name__} of module {cls.__module__} is not registered under its name {cls.name!r}, so "
            f"the files of a run could not name it; call pgzoo.register({cls.__name__}) first"
        )
    return cls.name if cls is value else {"name": cls.name, **plain_fields(value)}


def _without_other_samplings(
    registry: Registry, plugin: str, env: str, entry: Mapping[str, Any], source: str, keep: Iterable[str] = ()
) -> dict[str, Any]:
    """Return the entry without hyperparameters of a sampling that the combination does not use, except some."""
    others = {name: value for name, value in entry.items() if name not in SAMPLING_KEYWORDS}
    if len(others) == len(entry):
        return others
    used = {*declared(type(_build(registry, plugin, env, others, source).combination.sampling)), *keep}
    return {name: value for name, value in entry.items() if name in others or name in used}


def _build(registry: Registry, plugin: str, env: str, entry: Mapping[str, Any], source: str) -> ExperimentConfig:
    run_params = declared(RunConfig)
    entry = with_data(entry)
    run = {key: run_params[key].validate(value) for key, value in entry.items() if key in run_params}
    run = checked_arguments(run)
    parts = {key: value for key, value in entry.items() if key in PART_TYPES}
    hyperparameters = {key: value for key, value in entry.items() if key not in run_params and key not in PART_TYPES}
    try:
        combination = resolve(registry, plugin, overrides=hyperparameters, **parts)
    except ConfigError as error:
        key = next((key for key in hyperparameters if f"unknown hyperparameter {key!r}" in str(error)), None)
        if key is not None and "did you mean" not in str(error):
            hint = unknown("hyperparameter", key, [*run_params, *PART_TYPES])
            if "did you mean" in hint:
                raise ConfigError(hint) from error
        raise
    return ExperimentConfig(env, combination, RunConfig(**run), dict(entry), source)


@dataclass(frozen=True)
class _Entry:
    """One entry of a YAML file.

    Attributes:
        values: its keys and values, as plain data.
        source: the file and the entry's key, as text for people.
        file: the file's name; empty if there is no file.
        line: the line of the entry's key; 0 in a file of Python.
        lines: the line of each of its keys.
    """

    values: dict[str, Any]
    source: str
    file: str = ""
    line: int = 0
    lines: Mapping[str, int] = field(default_factory=dict)


def _read_entry(plugin: str, env: str, file: Path | None) -> _Entry:
    """Return the entry for the environment; an empty one if pgzoo ships no file for the plugin."""
    if file is None:
        resource = importlib.resources.files("pgzoo.hyperparams") / f"{plugin}.yml"
        if not resource.is_file():
            return _Entry({}, "the defaults")
        document = parse_yaml_mapping(f"hyperparams/{plugin}.yml", resource.read_text(encoding="utf-8"))
    elif is_python(file):
        document = YamlMapping(str(file), read_python(file), {})
    else:
        document = parse_yaml_mapping(str(file), read_text(file))
    name = document.name
    candidates = [env, *(["atari"] if is_atari(env) else []), "default"]
    key = next((key for key in candidates if key in document.values), None)
    if key is None:
        entries = ", ".join(document.values)
        raise ConfigError(f"{name} has no entry for {env!r} and no 'default'; its entries: {entries[:200]}")
    entry, line = document.values[key], document.lines.get((key,), 0)
    if not isinstance(entry, dict):
        raise ConfigError(f"{_place(name, line)}: the entry {key!r} must be a mapping, not {shown(entry)}")
    lines = {inner: document.lines.get((key, inner), 0) for inner in entry}
    if file is not None and {"policy", "n_timesteps"} <= set(entry):  # every entry of RL Zoo has these keys
        entry = {"n_envs": RL_ZOO_N_ENVS, **entry}
        lines["n_envs"] = lines.get("n_envs", line)
    return _Entry(entry, f"{name}, {key}", name, line, lines)


def _check_entry(registry: Registry, plugin: str, env: str, entry: _Entry) -> None:
    """Raise the error of the file's entry, if it has one, with the file and the line of the key that causes it.

    The cause is the first key that raises the same error in an entry of only this key and the parts. If there is none,
    the line is the entry's.
    """
    try:
        _build(registry, plugin, env, entry.values, entry.source)
    except ConfigError as error:
        if not entry.file:
            raise
        line = _line_of(error, registry, plugin, env, entry)
        raise ConfigError(f"{_place(entry.file, line)}: {error}") from error


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if line else file


def _line_of(error: ConfigError, registry: Registry, plugin: str, env: str, entry: _Entry) -> int:
    parts = {key: value for key, value in entry.values.items() if key in PART_TYPES}
    for key, value in entry.values.items():
        try:
            _build(registry, plugin, env, {**parts, key: value}, entry.source)
        except ConfigError as single_key_error:
            if str(single_key_error) == str(error):
                return entry.lines[key]
    return entry.line


def register_packages(packages: Sequence[str]) -> None:
    """Import packages that register environments, as RL Zoo's `--gym-packages` does.

    They may be in the working directory.

    Raises:
        ConfigError: a package cannot be imported.
    """
    for package in packages:
        try:
            import_module(package)
        except Exception as error:  # the import of a user's package may raise anything
            raise ConfigError(f"--gym-packages {package!r}: {type(error).__name__}: {error}") from error


def is_atari(env: str) -> bool:
    """Whether a name is that of an Atari game with RL Zoo's preprocessing: `ALE/Pong-v5` or `PongNoFrameskip-v4`."""
    name = env.rpartition(":")[2]
    return name.startswith("ALE/") or "NoFrameskip" in name


def is_minigrid(env: str) -> bool:
    """Whether a registered environment is one of MiniGrid's."""
    from gymnasium.envs.registration import registry

    spec = registry.get(env.rpartition(":")[2])
    return spec is not None and "minigrid" in str(spec.entry_point)


def check_environment(env: str) -> None:
    """Raise ConfigError with the nearest names unless the environment is registered.

    For `module:name` the module is imported first, as Gymnasium does.
    """
    import gymnasium

    import pgzoo.envs  # noqa: F401 (registers them)

    module, colon, name = env.rpartition(":")
    if colon:
        register_packages([module])
    elif is_atari(env) and name not in gymnasium.registry:
        if importlib.util.find_spec("ale_py") is None:
            raise ConfigError(f"{env} needs ale_py and OpenCV: pip install 'pgzoo[atari]'")
        register_packages(["ale_py"])
    if name in gymnasium.registry:
        return
    message = unknown("environment", name, gymnasium.registry)
    if "did you mean" not in message:
        message = f"unknown environment {name!r}; if a package registers it, pass that package with --gym-packages"
    raise ConfigError(message)


def parse_pairs(pairs: tuple[str, ...], option: str) -> dict[str, Any]:
    """Return `name:value` pairs as a mapping. Values are read as YAML scalars, lists or mappings.

    Raises:
        ConfigError: a pair without a colon, or a value that is not valid YAML.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, colon, text = pair.partition(":")
        if not colon or not name or not text:
            raise ConfigError(f"{option} takes name:value, such as gamma:0.98, not {shown(pair)}")
        try:
            parsed = parse_yaml_mapping(option, f"value: {text}").values
        except YamlError as error:
            raise ConfigError(f"{option} {shown(pair)}: the value is not valid YAML: {error.problem}") from error
        if list(parsed) != ["value"]:
            raise ConfigError(f"{option} {shown(pair)}: the value has several lines; write a mapping as {{a: 1, b: 2}}")
        values[name] = parsed["value"]
    return values


def resolved_entry(config: ExperimentConfig) -> dict[str, Any]:
    """Return every setting of the run, including defaults, as plain data.

    A setting of the algorithm has its short name, unless a part has a field of that name. A setting of the run that is
    None is left out, because RL Zoo takes the presence of a key such as `frame_stack` for its use.
    """
    parts = config.combination.parts
    shared = {field for part in parts.values() for field in declared(type(part))}
    algorithm = plain_fields(config.combination.algorithm)
    return {
        **{name: value for name, value in plain_fields(config.run).items() if value is not None},
        **{f"{ALGORITHM}.{name}" if name in shared else name: value for name, value in algorithm.items()},
        **{kind: {"name": part.name, **plain_fields(part)} for kind, part in parts.items()},
    }
