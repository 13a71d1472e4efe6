"""Studies in a storage: created, opened, compared with what a command asks for."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import BaseStorage

from pgzoo.errors import ConfigError, unknown
from pgzoo.registry.plugins import Registry
from pgzoo.tuning.config import StudyConfig

DEFINITION = "pgzoo"
"""User attribute of a study: its definition."""
IDENTITY = "pgzoo:id"
"""User attribute of a study: a random id, which no other study shares, even if it has the same name."""
TOTAL = "pgzoo:total"
"""User attribute of a study: the total number of trials that was asked for last."""
COMMAND = "pgzoo:command"
"""User attribute of a study: the options of `pgzoo tune` that define it."""
DEFAULT = "default"
"""User attribute of a trial: set if the trial trains the default of its plugin."""
RETRAINED = "retrained"
"""Suffix, after a slash, of the name of the study that trains the best trials again."""
DEFINITION_TRIES = 50


def open_study(study_config: StudyConfig, registry: Registry, storage: BaseStorage) -> optuna.Study:
    """Return the study, created if it does not exist.

    Raises:
        ConfigError: a study of this name exists and has another definition. The message says how they differ.
    """
    name, pruner = study_config.name, study_config.make_pruner()
    definition = study_config.definition(registry)
    directions = [metric.direction for metric in study_config.parsed_metrics]
    try:
        study = optuna.create_study(storage=storage, study_name=name, directions=directions, pruner=pruner)
        _define(study, definition)
    except optuna.exceptions.DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, pruner=pruner)
        if _stored_definition(study) is None:
            if not _is_unfinished(study) or [d.name.lower() for d in study.directions] != directions:
                raise _stranger(study) from None
            _define(study, definition)  # the process that created it was killed
    _compare(name, definition, study.user_attrs[DEFINITION])
    return study


def _define(study: optuna.Study, definition: Mapping[str, Any]) -> None:
    """Make an empty study of Optuna a study of pgzoo. The definition comes last: a study that has one is complete."""
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, uuid.uuid4().hex)
    study.set_user_attr(DEFINITION, definition)


def _is_unfinished(study: optuna.Study) -> bool:
    """Return whether the study can be one whose creation was interrupted: it does not contain anything of others."""
    return set(study.user_attrs) <= {IDENTITY} and not study.get_trials(deepcopy=False)


def _stranger(study: optuna.Study) -> ConfigError:
    return ConfigError(f"the study {study.study_name!r} was not created by pgzoo; choose another --study-name")


def open_retrained(study: optuna.Study, directions: Sequence[Any], storage: BaseStorage) -> optuna.Study:
    """Return the study that trains the best trials of `study` again, created if it does not exist."""
    retrained = optuna.create_study(
        storage=storage,
        study_name=retrained_name(study.study_name),
        directions=directions,
        pruner=optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    retrained.set_user_attr(IDENTITY, study.user_attrs[IDENTITY])
    return retrained


def retrained_name(name: str) -> str:
    """Return the name of the study that trains the best trials of the study `name` again."""
    return f"{name}/{RETRAINED}"


def find_study(name: str, storage: BaseStorage, also: Iterable[str] = ()) -> optuna.Study:
    """Return an existing study. `also` are names that could have been meant instead.

    Raises:
        ConfigError: no study has this name, or pgzoo did not create it.
    """
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)]
    if name not in names:
        raise ConfigError(unknown("study", name, [*(n for n in names if not n.endswith(f"/{RETRAINED}")), *also]))
    study = optuna.load_study(study_name=name, storage=storage)
    if _stored_definition(study) is None:
        if _is_unfinished(study):
            raise ConfigError(f"the creation of the study {name!r} was interrupted; repeat its pgzoo tune command")
        raise _stranger(study)
    return study


def _stored_definition(study: optuna.Study) -> dict[str, Any] | None:
    """Return a study's definition, after waiting for a process that may be just creating the study; None: it has none.

    A study that contains trials already is not being created.
    """
    for _ in range(DEFINITION_TRIES):
        unfinished = _is_unfinished(study)  # before the definition, which is set before there are trials
        definition = study.user_attrs.get(DEFINITION)
        if definition is not None:
            return dict(definition)
        if not unfinished:
            break
        time.sleep(0.1)
    return None


def _compare(name: str, requested: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    differences = list(_differences(stored, requested))
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ConfigError(
            f"the study {name!r} exists with another definition: {'; '.join(differences[:3])}{more}\n"
            f"Repeat its command to continue it, or choose another --study-name."
        )


def _differences(stored: Any, requested: Any, path: str = "") -> list[str]:
    if isinstance(stored, Mapping) and isinstance(requested, Mapping):
        return [
            difference
            for key in dict.fromkeys([*stored, *requested])
            for difference in _differences(stored.get(key), requested.get(key), f"{path}.{key}" if path else key)
        ]
    return [] if stored == requested else [f"{path} is {_shown(stored)} there and {_shown(requested)} here"]


def _shown(value: Any) -> str:
    return "not searched" if value is None else str(value)
