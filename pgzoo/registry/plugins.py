"""The plugin manager: finds plugins by entry point or file, names them, checks them, explains failures."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import importlib.util
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
from pgzoo.interface.parts import PLUGIN_API, Baseline, Estimator, Objective, Part, Recipe

GROUP: Final = "pgzoo"
RESERVED: Final = frozenset(
    {"name", "kind", "needs", "unbiased", "bias", "discounted_from", "multi_epoch", "plugin_api"}
)
Kind: TypeAlias = Literal["estimator", "baseline", "objective"]
PART_TYPES: Final[Mapping[Kind, type[Part]]] = {
    "estimator": Estimator,
    "baseline": Baseline,
    "objective": Objective,
}


@dataclass(frozen=True)
class Source:
    """Where a plugin comes from.

    Attributes:
        entry: the entry point's name, or the file's stem.
        module: what it loads, `package.module` or a path.
        distribution: the distribution's name, or "file".
        version: the distribution's version; empty for a file.
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
    """A plugin that could not be used, and why."""

    source: Source
    error: str

    def __str__(self) -> str:
        return f"plugin {self.source.entry!r} of {self.source} is unusable: {self.error}"


class Registry:
    """All plugins that can be used, by kind and name.

    `Registry.discover()` reads the installed distributions; an empty `Registry()` holds nothing.

    Attributes:
        failures: the plugins that could not be imported or break the interface.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._parts: dict[tuple[Kind, str], tuple[type[Part], Source]] = {}
        self._recipes: dict[str, tuple[Recipe, Source]] = {}
        self._entries: dict[str, Source] = {}

    @classmethod
    def discover(cls, files: Iterable[str | Path] = ()) -> Registry:
        """Return the plugins of every installed distribution, and of the given Python files.

        Raises:
            PluginError: two distributions use one name, or a file cannot be loaded.
        """
        registry = cls()
        points = sorted(importlib.metadata.entry_points(group=GROUP), key=lambda point: point.name)
        sources = [(point, _source(point)) for point in points]
        for _, source in sources:  # all names first: pluggy would silently skip the second of a name
            registry._claim(source)
        for point, source in sources:
            try:
                registry.register(point.load(), source)
            except PluginError:
                raise
            except Exception as error:  # a stranger's import may raise anything; the others must go on
                registry._fail(source, error)
        for path in dict.fromkeys(Path(file) for file in files):
            registry.load_file(path)
        return registry

    def load_file(self, path: str | Path) -> None:
        """Load the plugins of one Python file.

        Raises:
            PluginError: the file does not exist, fails to import, or offers nothing.
        """
        path = Path(path)
        if not path.is_file():
            raise PluginError(f"plugin file {path} does not exist")
        source = Source(path.stem, str(path), "file")
        self._claim(source)
        name = f"pgzoo_file_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            raise PluginError(f"plugin file {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise PluginError(f"plugin file {path} fails to import: {_reason(error)}") from error
        before = len(self._parts) + len(self._recipes)
        known_failures = len(self.failures)
        self.register(module, source)
        if len(self.failures) > known_failures:
            raise PluginError(str(self.failures[-1]))
        if len(self._parts) + len(self._recipes) == before:
            raise PluginError(f"plugin file {path} offers nothing: it needs a function marked @hookimpl")

    def register(self, module: ModuleType | object, source: Source) -> None:
        """Take in what the hooks of a module return.

        Raises:
            PluginError: a name is taken already; names both owners.
        """
        self._entries.setdefault(source.entry, source)
        self._manager.register(module, name=source.entry)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._manager.unregister(name=source.entry)
            self._fail(source, error)
            return
        for hook in (
            self._manager.hook.pgzoo_estimators,
            self._manager.hook.pgzoo_baselines,
            self._manager.hook.pgzoo_objectives,
            self._manager.hook.pgzoo_recipes,
        ):
            for implementation in hook.get_hookimpls():
                if implementation.plugin_name == source.entry:
                    self._take(implementation.function, source)

    def part(self, kind: Kind, name: str) -> type[Part]:
        """Return the class of a part.

        Raises:
            PluginError: no such name; lists the nearest, and the plugins that failed.
        """
        if (kind, name) not in self._parts:
            raise PluginError(unknown(kind, name, self.names(kind)) + self._failure_hint(name))
        return self._parts[kind, name][0]

    def recipe(self, name: str) -> Recipe:
        """Return a recipe; raises PluginError as `part` does."""
        if name not in self._recipes:
            hint = self._failure_hint(name)
            raise PluginError(unknown("plugin", name, self._recipes) + hint)
        return self._recipes[name][0]

    def names(self, kind: Kind) -> list[str]:
        """Return the names of all parts of a kind, sorted."""
        return sorted(name for k, name in self._parts if k == kind)

    def recipes(self) -> list[str]:
        """Return the names of all recipes, sorted."""
        return sorted(self._recipes)

    def source(self, kind: Kind | Literal["recipe"], name: str) -> Source:
        """Return where a part or recipe comes from."""
        if kind == "recipe":
            self.recipe(name)
            return self._recipes[name][1]
        self.part(kind, name)
        return self._parts[kind, name][1]

    def origin(self, cls: type[Part]) -> str:
        """Return where a part's class comes from, also if it was never registered."""
        for known, source in self._parts.values():
            if known is cls:
                return str(source)
        return f"module {cls.__module__}"

    def _claim(self, source: Source) -> None:
        taken = self._entries.get(source.entry)
        if taken is not None and taken != source:
            raise PluginError(
                f"two plugins are called {source.entry!r}: {taken.module} of {taken} "
                f"and {source.module} of {source}; uninstall or rename one"
            )
        self._entries[source.entry] = source

    def _take(self, hook: Any, source: Source) -> None:
        try:
            offered = list(hook())
            for item in offered:
                _check(item)
        except Exception as error:  # a stranger's hook may raise anything; the others must go on
            self._fail(source, error)
            return
        for item in offered:
            if isinstance(item, Recipe):
                _clash("recipe", item.name, self._recipes.get(item.name), source)
                self._recipes[item.name] = (item, source)
            else:
                key = (item.kind, item.name)
                _clash(item.kind, item.name, self._parts.get(key), source)
                self._parts[key] = (item, source)

    def _fail(self, source: Source, error: Exception) -> None:
        self.failures.append(Failure(source, _reason(error)))

    def _failure_hint(self, name: str) -> str:
        mine = [f for f in self.failures if f.source.entry == name] or self.failures
        return "".join(f"\n{failure}" for failure in mine[:1])


@functools.cache
def default_registry() -> Registry:
    """Return the installed plugins, found once a process."""
    return Registry.discover()


def _source(point: importlib.metadata.EntryPoint) -> Source:
    if point.dist is None:
        return Source(point.name, point.value, "unknown")
    return Source(point.name, point.value, point.dist.name, point.dist.version)


def _reason(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def _clash(kind: str, name: str, taken: tuple[Any, Source] | None, source: Source) -> None:
    if taken is not None:
        raise PluginError(
            f"two plugins offer the {kind} {name!r}: {taken[1].module} of {taken[1]} "
            f"and {source.module} of {source}; uninstall or rename one"
        )


def _check(item: Any) -> None:
    """Raise PluginError where an offered object breaks the interface."""
    if not isinstance(item, Recipe):
        if not (isinstance(item, type) and issubclass(item, tuple(PART_TYPES.values()))):
            raise PluginError(f"{item!r} is no Estimator, Baseline, Objective or Recipe")
        if not dataclasses.is_dataclass(item) or not item.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            raise PluginError(f"{item.__name__} must be decorated with @dataclass(frozen=True)")
        if not isinstance(getattr(item, "name", None), str):
            raise PluginError(f"{item.__name__} has no name")
        if taken := {field.name for field in dataclasses.fields(item)} & RESERVED:
            raise PluginError(f"{item.__name__}.{min(taken)} must be written without a type: it is no hyperparameter")
        if item.__abstractmethods__:
            raise PluginError(f"{item.__name__} lacks {', '.join(sorted(item.__abstractmethods__))}")
        try:
            declared(item)
        except ConfigError as error:
            raise PluginError(str(error)) from error
    api = item.plugin_api
    if api.split(".")[0] != PLUGIN_API.split(".")[0]:
        raise PluginError(f"{item.name!r} was written for plugin API {api}; this pgzoo has {PLUGIN_API}")
