"""Import paths in YAML: wrappers, callbacks, policies, extractors and optimizers that are named by module and name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pgzoo.errors import ConfigError, converted, unknown
from pgzoo.interface.hyperparameters import shown


def find_local_modules() -> None:
    """Let Python find modules in the working directory. An installed module of the same name takes precedence.

    Python finds the files next to a script that the user starts. `pgzoo` is installed elsewhere, so it adds the folder
    to the path. The folder comes last, because a file that is called `random.py` must not replace Python's module.
    """
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)


def import_module(name: str) -> ModuleType:
    """Import a module, which may be in the working directory.

    Raises:
        Exception: whatever the module's code raises. A module that ends the program raises ImportError.
    """
    find_local_modules()
    try:
        return importlib.import_module(name)
    except SystemExit as error:
        raise ImportError(f"{name} ends the program when it is imported") from error


def imported(name: str) -> str:
    """Import the module of `module:name`, which registers the environment, and return the name alone.

    Raises:
        ImportError: the module cannot be imported.
    """
    module, _, env = name.rpartition(":")
    if module:
        import_module(module)
    return env


def named(value: Any) -> list[tuple[str, dict[str, Any]]]:
    """Return the wrappers or callbacks of a YAML entry as pairs of import path and arguments.

    >>> named(["a.B", {"c.D": {"n": 3}}])
    [('a.B', {}), ('c.D', {'n': 3})]

    Raises:
        ConfigError: the value has another form.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [(value, {})]
    if isinstance(value, Mapping):
        for path, kwargs in value.items():
            if not isinstance(kwargs, (Mapping, type(None))):
                raise ConfigError(f"{path} takes its arguments as a mapping, not {shown(kwargs)}")
        return [(str(path), dict(kwargs or {})) for path, kwargs in value.items()]
    if isinstance(value, list):
        return [pair for item in value for pair in named(item)]
    raise ConfigError(f"a wrapper or callback is an import path or {{path: arguments}}, not {shown(value)}")


def load_object(path: str, kwargs: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    """Return the class or function at an import path, and its arguments.

    Raises:
        ConfigError: it cannot be imported, is not a class or function, or does not take the arguments.
    """
    module, _, name = path.rpartition(".")
    if not module or not name:
        raise ConfigError(f"cannot import {path!r}: an import path has the form module.Name")
    with converted(f"cannot import {path!r}"):
        loaded = getattr(import_module(module), name)
    if not callable(loaded):
        raise ConfigError(f"cannot use {path!r}: it is not a class or function, but {shown(loaded)}")
    check_names(loaded, kwargs, path)
    return loaded, kwargs


def load_class(path: str, base: type, where: str) -> type:
    """Return the class at an import path.

    Args:
        path: the import path.
        base: the class that it must be a subclass of.
        where: the setting that contains the path, for error messages.

    Raises:
        ConfigError: it cannot be imported, or is not a subclass.
    """
    loaded, _ = load_object(path, {})
    if not (isinstance(loaded, type) and issubclass(loaded, base)):
        raise ConfigError(f"{where}: {path} is not a subclass of {base.__name__}")
    return loaded


def build(path: str, kwargs: dict[str, Any], *first: Any, returns: type = object) -> Any:
    """Call the class or function at an import path and return the result, an instance of `returns`.

    Raises:
        ConfigError: it cannot be imported, raises, or returns something else.
    """
    function, kwargs = load_object(path, kwargs)
    with converted(path):
        result = function(*first, **kwargs)
    if not isinstance(result, returns):
        raise ConfigError(f"{path} must return a {returns.__name__}, not {shown(result)}")
    return result


def check_names(function: Callable[..., Any], names: Iterable[str], where: str) -> None:
    """Raise ConfigError with the nearest names if a class or function does not take arguments of these names."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # functions that are written in C may have no signature
        return
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
        return
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = [parameter.name for parameter in parameters if parameter.kind in by_name]
    for name in names:
        if name not in known:
            raise ConfigError(f"{where}: {unknown('argument', name, known)}")
