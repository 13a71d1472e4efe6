"""Puts a study's winner into a file of hyperparameters, in place: other entries and all comments stay."""

from __future__ import annotations

import datetime
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import plain_fields
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.training.config import ExperimentConfig, config_from_entry, load_config
from pgzoo.tuning.results import (
    Retrained,
    count,
    default_of,
    difference,
    find_retrained,
    metrics_of,
    t_interval,
    winner,
)
from pgzoo.tuning.study import DEFINITION


def write_winner(study: optuna.Study, registry: Registry, path: Path) -> str:
    """Replace, or add, the environment's entry by the winner's, with where it came from; return what was done.

    Args:
        study: whose winner is written.
        registry: the plugins.
        path: the file, or a folder in which it is `<plugin>.yml`.

    Raises:
        ConfigError: there is no winner yet, the file is another plugin's or cannot be written.
    """
    retrained = find_retrained(study)
    best = winner(retrained, metrics_of(study))
    if best is None:
        raise ConfigError(f"{study.study_name} has no winner yet: no trial was trained again on all fresh seeds")
    if best.searched is None:
        raise ConfigError(f"the {best.name} did best on the fresh seeds; there is nothing to write")
    file = path / f"{best.plugin}.yml" if path.is_dir() else path
    if file.stem != best.plugin and "+" not in best.plugin:
        raise ConfigError(f"the winner's plugin is {best.plugin!r}; write it to {file.with_name(best.plugin + '.yml')}")
    trial = study.trials[int(best.name.removeprefix("trial "))]
    env = study.user_attrs[DEFINITION]["env"]
    text = replaced(file, env, _entry(trial.user_attrs), provenance(study, best, retrained))
    partial = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        partial.write_text(text, encoding="utf-8")
        _check(registry, partial, file, env, best.plugin, trial.user_attrs["config"])
        partial.replace(file)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return f"{best.name} is now the entry of {env} in {file}"


def provenance(study: optuna.Study, best: Retrained, retrained: list[Retrained]) -> str:
    """Return where a winner came from: study, trials, seeds, figure, and the difference from the default."""
    metric = metrics_of(study)[0]
    definition = study.user_attrs[DEFINITION]
    low, high = t_interval(best.column())
    seeds = sorted(best.values)
    lines = [
        f"{best.name.capitalize()} of {count(study).ended} of the study {study.study_name},"
        f" {datetime.date.today():%Y-%m-%d}, seeds {definition['seeds']}.",
        f"{metric.name} on the fresh seeds {seeds[0]} to {seeds[-1]}: {_number(best.mean())}, 95 % interval"
        f" {_number(low)} to {_number(high)};",
    ]
    default = default_of(best, retrained)
    gain = difference(best, default) if default else None
    if default and gain:
        lines.append(
            f"the default before: {_number(default.mean())}, paired difference {_number(gain.mean)},"
            f" {_number(gain.interval[0])} to {_number(gain.interval[1])}."
        )
    return "\n".join(lines)


def _number(x: float) -> str:
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.4g}"


def _entry(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's entry as it is written: names without the algorithm's prefix, parts' own with theirs."""
    return {key.removeprefix("algorithm."): value for key, value in attrs["entry"].items()}


def replaced(file: Path, env: str, entry: Mapping[str, Any], comment: str) -> str:
    """Return the file's text with the entry replaced or added, under a comment.

    Raises:
        ConfigError: the file cannot be read, or is no mapping.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    try:
        old = file.read_text(encoding="utf-8") if file.exists() else ""
        data = yaml.load(old) if old.strip() else CommentedMap()
    except (OSError, UnicodeDecodeError, YAMLError) as error:
        raise ConfigError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    if not isinstance(data, CommentedMap):
        raise ConfigError(f"{file} must map environments to hyperparameters")
    new = CommentedMap(entry)
    after = _trailing_comment(data.get(env))
    for other in data.values():  # an anchor stays, whether or not anything refers to it now
        if getattr(other, "anchor", None) is not None and other.anchor.value:
            other.anchor.always_dump = True
    old_names = list(data)
    data[env] = new
    new.yaml_set_start_comment(comment, indent=2)
    if after is not None and entry:
        new.ca.items[list(entry)[-1]] = after
    text = io.StringIO()
    yaml.dump(data, text)
    return text.getvalue() if env in old_names else text.getvalue().replace(f"\n{env}:", f"\n\n{env}:")


def _trailing_comment(entry: Any) -> Any:
    """Return the comment after an entry's last value: it belongs to what follows."""
    return entry.ca.items.get(list(entry)[-1]) if entry else None


def _check(registry: Registry, partial: Path, file: Path, env: str, plugin: str, trained: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the new file says what the trial trained."""
    written: ExperimentConfig = load_config(registry, plugin, env, file=partial)
    meant = config_from_entry(registry, plugin, env, trained)
    same = written.run == meant.run and written.combination.algorithm == meant.combination.algorithm
    if not same or any(
        plain_fields(written.combination.parts[k]) != plain_fields(meant.combination.parts[k]) for k in PART_TYPES
    ):
        raise ConfigError(f"{file} was left as it is: with the new entry it would not say what the trial trained")
