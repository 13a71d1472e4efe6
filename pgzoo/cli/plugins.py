"""`pgzoo plugins`: list, show, create and check plugins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options
from pgzoo.interface.parts import AdvantagePart
from pgzoo.registry.plugins import PART_TYPES

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pgzoo.interface.hyperparameters import Param
    from pgzoo.interface.parts import Part, PartSpec, Recipe
    from pgzoo.registry.plugins import Kind, Registry


@click.group("plugins", short_help="List, show, create and check plugins.")
def command() -> None:
    """List, show, create and check plugins: recipes and their parts."""


@command.command("list")
@options.plugin_files
def list_(plugin_files: tuple[Path, ...]) -> None:
    """List all recipes and parts, with the distribution or file of each."""
    from rich.console import Console

    from pgzoo.registry.combination import NAMED_KINDS

    registry = options.find_registry(plugin_files)
    console = Console(markup=False, highlight=False)
    recipes = _table("recipes", "name", "estimator+baseline+objective", "from")
    for name in registry.recipes():
        recipe = registry.recipe(name)
        parts = [_part_name(getattr(recipe, kind)) for kind in NAMED_KINDS]
        recipes.add_row(name, "+".join(parts), str(registry.source("recipe", name)))
    console.print(recipes)
    for kind in PART_TYPES:
        table = _table(f"{kind}s", "name", "unbiased", "description", "from")
        for name in registry.names(kind):
            part = registry.part(kind, name)()
            unbiased = _unbiased(part).split(":")[0] if isinstance(part, AdvantagePart) else ""
            table.add_row(name, unbiased, _headline(part), str(registry.source(kind, name)))
        console.print(table)


@command.command()
@click.argument("name")
@options.plugin_files
def show(name: str, plugin_files: tuple[Path, ...]) -> None:
    """Show a plugin's description and hyperparameters."""
    from rich.console import Console

    from pgzoo.errors import PluginError, unknown

    registry = options.find_registry(plugin_files)
    console = Console(markup=False, highlight=False)
    kinds = [kind for kind in PART_TYPES if name in registry.names(kind)]
    if not kinds and name not in registry.recipes():
        known = [*registry.recipes(), *(part for kind in PART_TYPES for part in registry.names(kind))]
        raise PluginError(unknown("plugin", name, known))
    if name in registry.recipes():
        _show_recipe(console, registry, registry.recipe(name))
    for kind in kinds:
        _show_part(console, registry, kind, registry.part(kind, name)())


@dataclass(frozen=True, kw_only=True)
class CheckArguments:
    """The arguments of `pgzoo plugins check`."""

    names: tuple[str, ...]
    mdps: str
    episodes: int
    seed: int
    as_json: bool
    progress: bool
    plugin_files: tuple[Path, ...]


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…|all")
@click.option("--mdps", default="all", show_default=True, help="MDPs on which bias is measured, separated by commas.")
@click.option("--episodes", type=click.IntRange(min=160), default=200_000, show_default=True,
              help="Episodes on each MDP, for each combination that is declared unbiased.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True,
              help="Seed of policies and episodes.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--progress/--no-progress", default=True, show_default=True, help="Show a progress bar.")
@options.plugin_files
@click.pass_context
def check(ctx: click.Context, /, **params: Any) -> None:
    """Check that plugins follow the interface and are as unbiased as they declare. If one does not, the status is 1.

    The name of a recipe stands for all its parts. The checks change one thing in a rollout and look at the effect, take
    an update, or sample rollouts. A declaration of `unbiased` is tested against the exact gradient on tabular MDPs.
    """
    arguments = CheckArguments(**params)
    registry = options.find_registry(arguments.plugin_files)
    parts = _parts(registry, arguments.names)

    from pgzoo.lab.measure.mdps import MDPS, make_mdp

    mdps = list(MDPS) if arguments.mdps == "all" else [name.strip() for name in arguments.mdps.split(",")]
    for name in mdps:
        make_mdp(name)  # refuses an unknown name before the checks begin

    from pgzoo.cli import conformance
    from pgzoo.cli.progress import Counter
    from pgzoo.lab.conformance.kit import check as check_parts

    options.set_threads(1)
    measured = any(issubclass(part, AdvantagePart) for part in parts)
    with Counter("gradients", shown=measured and arguments.progress and not arguments.as_json) as counter:
        results = check_parts(
            registry, parts, mdps=mdps, n_episodes=arguments.episodes, seed=arguments.seed, progress=counter.show
        )
    conformance.show(results, as_json=arguments.as_json)
    if not all(result.passed for result in results):
        ctx.exit(1)


def _parts(registry: Registry, names: tuple[str, ...]) -> list[type[Part]]:
    """Return the parts with these names and the parts of the recipes with these names, each once."""
    from pgzoo.errors import PluginError, unknown
    from pgzoo.registry.combination import resolve

    entries = [(name, registry.part(kind, name)) for kind in PART_TYPES for name in registry.names(kind)]
    if names == ("all",):
        return [part for _, part in entries]
    parts: list[type[Part]] = []
    for name in names:
        named = [part for part_name, part in entries if part_name == name]
        if name in registry.recipes():
            named += [type(part) for part in resolve(registry, name).parts.values()]
        if not named:
            raise PluginError(unknown("plugin", name, [*registry.recipes(), *(part_name for part_name, _ in entries)]))
        parts += named
    return list(dict.fromkeys(parts))


@command.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(list(PART_TYPES)), required=True, help="Kind of the plugin.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    help="Folder of the package; by default pgzoo-NAME in the working directory.",
)
def new(name: str, kind: str, folder: Path | None) -> None:
    """Create a package with a new plugin, its tests and its entry point."""
    from pgzoo.registry.scaffold import make_package

    folder = folder or Path(f"pgzoo-{name.replace('_', '-')}")
    for path in make_package(options.find_registry(()), name, kind, folder):  # type: ignore[arg-type]
        click.echo(path)
    click.echo(f"Next: pip install -e '{folder}[test]' && pytest {folder}")


def _show_recipe(console: Console, registry: Registry, recipe: Recipe) -> None:
    from pgzoo.registry.combination import resolve
    from pgzoo.registry.settings import AlgorithmConfig
    from pgzoo.registry.spellings import spellings_for

    console.print(f"recipe {recipe.name} ({registry.source('recipe', recipe.name)})", style="bold")
    console.print(recipe.doc)
    combination = resolve(registry, recipe.name)
    table = _params_table()
    for kind, part in combination.parts.items():
        console.print(f"{kind}: {part.name} – {_headline(part)}")
        prefix = "" if kind in ("sampling", "update") else f"{kind}."
        _add_params(table, type(part), part, prefix, without=combination.unused if kind == "update" else ())
    for spelling in spellings_for(combination.baseline, combination.scale):
        _add_param(table, spelling.name, spelling.param, spelling.value(combination.scale))
    _add_params(table, AlgorithmConfig, combination.algorithm, "", without=combination.unused)
    console.print(table)


def _show_part(console: Console, registry: Registry, kind: Kind, part: Part) -> None:
    import inspect

    console.print(f"{kind} {part.name} ({registry.source(kind, part.name)})", style="bold")
    console.print(inspect.getdoc(type(part)) or "")
    console.print(f"needs: {_needs(part) or 'nothing'}")
    if isinstance(part, AdvantagePart):
        console.print(f"unbiased: {_unbiased(part)}")
    table = _params_table()
    _add_params(table, type(part), part, "")
    if table.row_count:
        console.print(table)


def _params_table() -> Table:
    return _table("", "hyperparameter", "default", "meaning")


def _add_params(table: Table, cls: type, values: object, prefix: str, *, without: Collection[str] = ()) -> None:
    """Add one row per hyperparameter that the class declares, except those that have no effect."""
    from pgzoo.interface.hyperparameters import declared

    for param in declared(cls).values():
        if param.name not in without:
            _add_param(table, prefix + param.name, param, getattr(values, param.name))


def _add_param(table: Table, name: str, param: Param, value: Any) -> None:
    """Add a row with a value as the default.

    The allowed values and the search range are below the meaning, which fits 80 columns.
    """
    from rich.text import Text

    limits = f"{param.type_name} {param.range or ''}".strip()
    if param.search is not None:
        limits += f", searched in {param.search}"
    meaning = Text(f"{param.doc}\n" if param.doc else "").append(limits, style="dim")
    table.add_row(name, _as_written(value), meaning)


def _as_written(value: Any) -> str:
    """Return a value as it is written in YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_as_written(item)}" for key, item in value.items()) + "}"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Column, Table

    name, *other_columns = columns
    return Table(
        Column(name, no_wrap=True), *other_columns, title=title or None, title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip


def _part_name(spec: PartSpec) -> str:
    return spec if isinstance(spec, str) else str(spec["name"])


def _headline(part: Part) -> str:
    """Return the first line of the docstring of the plugin's file or, without one, of its class."""
    import sys

    module = sys.modules[type(part).__module__].__doc__
    return ((module or type(part).__doc__ or "").strip().splitlines() or [""])[0]


def _needs(part: Part) -> str:
    return ", ".join(sorted(need.value for need in part.needs))


def _unbiased(part: AdvantagePart) -> str:
    return "yes" if part.unbiased else f"no: {part.bias}"
