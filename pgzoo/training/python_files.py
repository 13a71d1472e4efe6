"""Configurations in Python, as RL Zoo has them: a file or module whose variable `hyperparams` has the entries.

They are code. They are read only where the user names them, with `--conf-file` or `conf_file=`, never because a run's
folder or a study names them.
"""

from __future__ import annotations

import inspect
import re
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgzoo.errors import ConfigError, describe
from pgzoo.interface.hyperparameters import shown
from pgzoo.training.imports import find_local_modules, import_module

MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
VARIABLE = "hyperparams"


def is_python(file: Path) -> bool:
    """Whether `--conf-file` names a file of Python, or a module and no file: `ppo.py`, `package.ppo`."""
    if file.suffix in (".py", ".yml", ".yaml"):
        return file.suffix == ".py"
    return MODULE.fullmatch(str(file)) is not None and not file.exists()


def read_python(file: Path) -> dict[str, Any]:
    """Run a file, or import a module, and return its `hyperparams` as plain data.

    Classes and functions become their import paths, as they are written in YAML.

    Raises:
        ConfigError: it cannot be read or raises, `hyperparams` is missing, or it contains something else than data.
    """
    try:
        variables = _run(file) if file.suffix == ".py" else vars(import_module(str(file)))
    except SystemExit as error:
        raise ConfigError(f"{file} ends the program when it is read") from error
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"cannot read {file}: {describe(error)}") from error
    entries = variables.get(VARIABLE)
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{file} must define {VARIABLE}, a mapping from environments to hyperparameters")
    data: dict[str, Any] = _data(entries, f"{file}: {VARIABLE}")
    return data


def _run(file: Path) -> Mapping[str, Any]:
    find_local_modules()
    return runpy.run_path(str(file))


def _data(value: Any, where: str) -> Any:
    """Return a value as YAML could have it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{where}: a key must be text, not {shown(key)}")
        return {key: _data(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_data(item, where) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a number of NumPy
        return value.item()
    if inspect.isclass(value) or inspect.isfunction(value):
        return _import_path(value, where)
    raise ConfigError(f"{where} must be numbers, text, lists, mappings, classes or functions, not {shown(value)}")


def _import_path(value: Any, where: str) -> str:
    """Return the import path of a class or function. Those of torch have the short path that torch documents."""
    name = value.__qualname__
    for module in ("torch.nn", "torch.optim", value.__module__):
        if getattr(sys.modules.get(module), name, None) is value:
            return f"{module}.{name}"
    raise ConfigError(f"{where}: {name} has no import path, by which a run's folder could name it; "
                      "define it in a module, and import it from there")  # fmt: skip
