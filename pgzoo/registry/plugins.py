"""The registry: finds plugins by entry point or file, checks them, and explains those that fail."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal, TypeAlias

import pluggy

from pgzoo.errors import ConfigError, PluginError, unknown
from pgzoo.interface import hookspecs
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.parts import (
    PLUGIN_API,
    Baseline,
    Estimator,
    Objective,
    Part,
    Recipe,
    Sampling,
    Scale,
    Update,
)

ENTRY_POINT_GROUP: Final = "pgzoo"
NOT_HYPERPARAMETERS: Final = frozenset(
    {"name", "kind", "needs", "unbiased", "bias", "discounted_from", "multi_epoch", "plugin_api"}
)
"""Attributes of a part that must be written without a type annotation, which would make them fields."""

Kind: TypeAlias = Literal["estimator", "baseline", "objective", "scale", "update", "sampling"]
PART_TYPES: Final[Mapping[Kind, type[Part]]] = {
    "estimator": Estimator,
    "baseline": Baseline,
    "objective": Objective,
    "scale": Scale,
    "update": Update,
    "sampling": Sampling,
}
"""The base class of each kind of part. The first three are written `estimator+baseline+objective`."""


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from.

    Attributes:
        entry: the name of the entry point, or the stem of the file.
        module: the module's dotted name, or the path of the file.
        distribution: the name of the distribution, or "file".
        version: the version of the distribution; empty for a file.
    """

    entry: str
    module: str
    distribution: str
    version: str = ""

    def __str__(self) -> str:
        if self.distribution == "file":
            return f"file {self.module}"
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Failure:
    """A plugin that cannot be used, and the reason."""

    source: Source
    error: str

    def __str__(self) -> str:
        return f"plugin {self.source.entry!r} from {self.source} cannot be used: {self.error}"


class Registry:
    """Parts by kind and name, and recipes by name.

    `Registry.discover()` contains the installed plugins. `Registry()` is empty.

    Attributes:
        failures: the plugins that fail to import or break the interface.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._manager = _new_manager()
        self._parts: dict[tuple[Kind, str], tuple[type[Part], Source]] = {}
        self._recipes: dict[str, tuple[Recipe, Source]] = {}
        self._entries: dict[str, Source] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what is copied and pickled: everything but pluggy's manager, which holds modules."""
        return {name: value for name, value in self.__dict__.items() if name != "_manager"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _manager=_new_manager())

    @classmethod
    def discover(cls, files: Iterable[str | Path] = ()) -> Registry:
        """Return a registry of all installed plugins, and of the plugins in some Python files.

        Raises:
            PluginError: two plugins have the same name, or a file cannot be loaded.
        """
        registry = cls()
        points = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.name)
        sources = [(point, _source(point)) for point in points]
        for _, source in sources:  # before any import, because pluggy silently skips a second entry point of a name
            registry._claim(source)
        for point, source in sources:
            try:
                registry.register(point.load(), source)
            except PluginError:
                raise
            except (
                Exception,
                SystemExit,
            ) as error:  # an import may raise anything, and the other plugins must still load
                registry._fail(source, error)
        for path in dict.fromkeys(Path(file) for file in files):
            registry.load_file(path)
        return registry

    def load_file(self, path: str | Path) -> None:
        """Register the plugins of one Python file.

        Raises:
            PluginError: the file does not exist, fails to import, or registers nothing.
        """
        path = Path(path)
        if not os.path.isfile(path):  # unlike Path.is_file, it also answers for names that are too long
            raise PluginError(f"plugin file {path} does not exist")
        source = Source(path.stem, str(path), "file")
        self._claim(source)
        name = f"pgzoo_file_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin file {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # where the dataclass decorator looks up its module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            raise PluginError(f"plugin file {path} fails to import: {_reason(error)}") from error
        n_items, n_failures = len(self._parts) + len(self._recipes), len(self.failures)
        self.register(module, source)
        if len(self.failures) > n_failures:
            raise PluginError(str(self.failures[-1]))
        if len(self._parts) + len(self._recipes) == n_items:
            raise PluginError(f"plugin file {path} registers nothing: it needs a function marked @hookimpl")

    def register(self, module: ModuleType | object, source: Source) -> None:
        """Register what the hooks of a module return. Errors in the module are added to `failures`.

        Raises:
            PluginError: a name is already taken. The message names both sources.
        """
        self._entries.setdefault(source.entry, source)
        self._manager.register(module, name=source.entry)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=source.entry)
            self._fail(source, error)
            return
        for implementation in self._manager.hook.pgzoo_plugins.get_hookimpls():
            if implementation.plugin_name == source.entry:
                self._call(implementation.function, source)

    def part(self, kind: Kind, name: str) -> type[Part]:
        """Return the class of a part.

        Raises:
            PluginError: the name is unknown. The message has the nearest names, and a plugin that failed.
        """
        if (kind, name) not in self._parts:
            raise PluginError(unknown(kind, name, self.names(kind)) + self._failure_hint(name))
        return self._parts[kind, name][0]

    def recipe(self, name: str) -> Recipe:
        """Return a recipe.

        Raises:
            PluginError: as `part`.
        """
        if name not in self._recipes:
            raise PluginError(unknown("recipe", name, self._recipes) + self._failure_hint(name))
        return self._recipes[name][0]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all parts of a kind, sorted."""
        return sorted(name for part_kind, name in self._parts if part_kind == kind)

    def recipes(self) -> list[str]:
        """Return the names of all recipes, sorted."""
        return sorted(self._recipes)

    def source(self, kind: Kind | Literal["recipe"], name: str) -> Source:
        """Return where a part or recipe comes from.

        Raises:
            PluginError: as `part`.
        """
        if kind == "recipe":
            self.recipe(name)
            return self._recipes[name][1]
        self.part(kind, name)
        return self._parts[kind, name][1]

    def origin(self, cls: type[Part]) -> str:
        """Return where the class of a part comes from: its source, or its module if it is not registered."""
        for registered, source in self._parts.values():
            if registered is cls:
                return str(source)
        return f"module {cls.__module__}"

    def _claim(self, source: Source) -> None:
        existing = self._entries.get(source.entry)
        if existing is not None and existing != source:
            raise PluginError(
                f"two plugins are called {source.entry!r}: {existing.module} from {existing} "
                f"and {source.module} from {source}; uninstall or rename one"
            )
        self._entries[source.entry] = source

    def _call(self, hook: Any, source: Source) -> None:
        """Call a hook, and register everything that it returns. If anything is wrong, register nothing."""
        try:
            items = list(hook())
            for item in items:
                _check(item)
        except (Exception, SystemExit) as error:  # a hook may raise anything, and the other plugins must still load
            self._fail(source, error)
            return
        for item in items:
            if isinstance(item, Recipe):
                _refuse_clash("recipe", item.name, self._recipes.get(item.name), source)
                self._recipes[item.name] = (item, source)
            else:
                key = (item.kind, item.name)
                _refuse_clash(item.kind, item.name, self._parts.get(key), source)
                self._parts[key] = (item, source)

    def _fail(self, source: Source, error: BaseException) -> None:
        self.failures.append(Failure(source, _reason(error)))

    def _failure_hint(self, name: str) -> str:
        same_name = [failure for failure in self.failures if failure.source.entry == name]
        return "".join(f"\n{failure}" for failure in (same_name or self.failures)[:1])


@functools.cache
def default_registry() -> Registry:
    """Return the installed plugins. They are discovered once per process."""
    return Registry.discover()


def _new_manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _source(point: importlib.metadata.EntryPoint) -> Source:
    if point.dist is None:
        return Source(point.name, point.value, "unknown")
    return Source(point.name, point.value, point.dist.name, point.dist.version)


def _reason(error: BaseException) -> str:
    text = str(error).strip()
    if isinstance(error, PluginError):
        return text
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _refuse_clash(kind: str, name: str, existing: tuple[Any, Source] | None, source: Source) -> None:
    if existing is not None:
        raise PluginError(
            f"two plugins register the {kind} {name!r}: {existing[1].module} from {existing[1]} "
            f"and {source.module} from {source}; uninstall or rename one"
        )


def _check(item: Any) -> None:
    """Raise PluginError if a class or recipe breaks the interface."""
    if not isinstance(item, Recipe):
        _check_part(item)
    api = item.plugin_api
    if api.split(".")[0] != PLUGIN_API.split(".")[0]:
        raise PluginError(f"{item.name!r} was written for plugin API {api}, but this pgzoo has {PLUGIN_API}")


def _check_part(cls: Any) -> None:
    if not (isinstance(cls, type) and issubclass(cls, tuple(PART_TYPES.values()))):
        kinds = ", ".join(base.__name__ for base in PART_TYPES.values())
        raise PluginError(f"{cls!r} is none of {kinds} and Recipe")
    if not (dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen):  # type: ignore[attr-defined]  # typeshed
        raise PluginError(f"{cls.__name__} must be decorated with @dataclass(frozen=True)")
    if not isinstance(getattr(cls, "name", None), str):
        raise PluginError(f"{cls.__name__} has no name")
    if annotated := {field.name for field in dataclasses.fields(cls)} & NOT_HYPERPARAMETERS:
        raise PluginError(f"{cls.__name__}.{min(annotated)} is not a hyperparameter: remove its type annotation")
    if cls.__abstractmethods__:
        raise PluginError(f"{cls.__name__} does not define {', '.join(sorted(cls.__abstractmethods__))}")
    try:
        declared(cls)
    except ConfigError as error:
        raise PluginError(str(error)) from error
