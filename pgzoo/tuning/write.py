"""Writes a study's winner into a file of hyperparameters. The other entries and all comments are kept."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from pgzoo.errors import ConfigError
from pgzoo.files import atomic_write
from pgzoo.formatting import format_number
from pgzoo.interface.hyperparameters import plain_fields
from pgzoo.interface.parts import Part
from pgzoo.registry.plugins import PART_TYPES, Registry
from pgzoo.registry.settings import short_name
from pgzoo.training.config import config_from_entry, load_config
from pgzoo.tuning.results import count, metrics_of
from pgzoo.tuning.retrained import Result, find_retrained, result, sentence
from pgzoo.tuning.study import DEFINITION


def write_winner(study: optuna.Study, registry: Registry, path: Path, *, force: bool = False) -> str:
    """Replace or add the environments' entries with the winner's, under a comment that says where they are from.

    Args:
        study: the study whose winner is written.
        registry: the plugins.
        path: the file, or a folder that contains it as `<plugin>.yml`.
        force: write a winner that is not shown to be better than the default.

    Returns:
        A sentence that says what was written where.

    Raises:
        ConfigError: there is no result yet, no gain over the default is shown, or the file belongs to another plugin.
        MachineError: the file cannot be written.
    """
    metrics = metrics_of(study)
    found = result(find_retrained(study), metrics)
    if found is None:
        raise ConfigError(f"{study.study_name} has no result yet: no trial was trained on all fresh seeds")
    best = found.winner
    if best.is_default:
        raise ConfigError(f"the {best.name} was the best on the fresh seeds; there is nothing to write")
    if not (found.is_better(metrics) or force):
        raise ConfigError(f"nothing is written, unless with --force: {sentence(found, metrics)}")
    file = path / f"{best.plugin}.yml" if path.is_dir() else path
    if file.stem != best.plugin and "+" not in best.plugin:
        raise ConfigError(f"the winner's plugin is {best.plugin!r}; write it to {file.with_name(best.plugin + '.yml')}")
    trial = study.trials[int(best.name.removeprefix("trial "))]
    configs, comment = trial.user_attrs["configs"], provenance(study, found)
    try:
        text = file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    for env, entry in trial.user_attrs["entries"].items():
        text = replace_entry(text, file, env, _entry(entry), comment)
    with atomic_write(file) as partial:
        partial.write_text(text, encoding="utf-8")
        for env, config in configs.items():
            _check(registry, partial, file, env, best.plugin, config)
    return f"{best.name} is now the entry of {' and '.join(configs)} in {file}"


def provenance(study: optuna.Study, found: Result) -> str:
    """Return where a winner is from: the study, its seeds, the result, and the difference from the default."""
    definition, seeds, value = study.user_attrs[DEFINITION], sorted(found.winner.reported), found.estimates[0]
    lines = [
        f"{found.winner.name.capitalize()} of {count(study).ended} in the study {study.study_name},"
        f" {datetime.date.today():%Y-%m-%d}, seeds {definition['seeds']}, {definition['n_timesteps']:,} steps.",
        f"{metrics_of(study)[0].name} on the fresh seeds {seeds[0]} to {seeds[-1]}, which chose nothing:"
        f" {format_number(value.mean)}, 95 % interval {value.interval}.",
    ]
    if found.default is not None and (gain := found.gains[0]) is not None:
        lines.append(
            f"The default before: {format_number(found.default.mean)}. Paired difference: {format_number(gain.mean)},"
            f" 95 % interval {gain.interval}."
        )
    return "\n".join(lines)


def _entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's entry as in files: names of the algorithm have no prefix, names of parts have theirs.

    The steps of the search are a budget of the study, and not a setting of the environment.
    """
    return {short_name(key): value for key, value in entry.items() if key != "n_timesteps"}


def replace_entry(text: str, file: Path, env: str, entry: Mapping[str, Any], comment: str) -> str:
    """Return a file's text with the environment's entry replaced or added, under a comment. It keeps n_timesteps.

    Raises:
        ConfigError: the text is not a mapping in YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 120, True
    try:
        data = yaml.load(text) if text.strip() else CommentedMap()
    except YAMLError as error:
        raise ConfigError(f"cannot read {file}: {str(error).splitlines()[0]}") from error
    if not isinstance(data, CommentedMap):
        raise ConfigError(f"{file} must map environments to hyperparameters")
    old_entry = data.get(env) or data.get("default") or {}
    new = CommentedMap({**{key: old_entry[key] for key in ("n_timesteps",) if key in old_entry}, **entry})
    after = _trailing_comment(data.get(env))
    for value in data.values():  # keep anchors even if no alias refers to them any more
        if getattr(value, "anchor", None) is not None and value.anchor.value:
            value.anchor.always_dump = True
    old_names = list(data)
    data[env] = new
    new.yaml_set_start_comment(comment, indent=2)
    if after is not None and new:
        new.ca.items[list(new)[-1]] = after
    new_text = io.StringIO()
    yaml.dump(data, new_text)
    return new_text.getvalue() if env in old_names else new_text.getvalue().replace(f"\n{env}:", f"\n\n{env}:")


def _trailing_comment(entry: Any) -> Any:
    """Return the comment after an entry's last value, which belongs to the next entry."""
    return entry.ca.items.get(list(entry)[-1]) if entry else None


def _described(part: Part) -> tuple[str, dict[str, Any]]:
    return part.name, plain_fields(part)


def _check(registry: Registry, partial: Path, file: Path, env: str, plugin: str, trained: Mapping[str, Any]) -> None:
    """Raise ConfigError unless the new file describes the configuration that the trial trained."""
    written = load_config(registry, plugin, env, file=partial)
    expected = config_from_entry(registry, plugin, env, trained)
    same_settings = (
        replace(written.run, n_timesteps=expected.run.n_timesteps) == expected.run
        and written.combination.algorithm == expected.combination.algorithm
    )
    parts, expected_parts = written.combination.parts, expected.combination.parts
    if not same_settings or any(_described(parts[kind]) != _described(expected_parts[kind]) for kind in PART_TYPES):
        raise ConfigError(f"{file} is unchanged: its new entry would not describe what the trial trained")
