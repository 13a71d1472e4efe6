"""`pgzoo plugins`: what there is, and what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pgzoo.interface.parts import Part, Recipe
    from pgzoo.registry.plugins import Kind, Registry


@click.group("plugins", short_help="List the plugins, or show one.")
def command() -> None:
    """List the plugins, or show one."""


@command.command("list")
@options.plugin_files
def list_(plugin_files: tuple[Path, ...]) -> None:
    """List every recipe, estimator, baseline and objective, and where each comes from."""
    from rich.console import Console

    from pgzoo.registry.plugins import PART_TYPES

    registry = options.find_registry(plugin_files)
    console = Console(markup=False, highlight=False)
    recipes = _table("recipes", "name", "estimator+baseline+objective", "from")
    for name in registry.recipes():
        recipe = registry.recipe(name)
        parts = [_part_name(getattr(recipe, kind)) for kind in PART_TYPES]
        recipes.add_row(name, "+".join(parts), str(registry.source("recipe", name)))
    console.print(recipes)
    for kind in PART_TYPES:
        table = _table(f"{kind}s", "name", "unbiased", "what", "from")
        for name in registry.names(kind):
            part = registry.part(kind, name)()
            unbiased = "" if kind == "objective" else _unbiased(part).split(":")[0]
            table.add_row(name, unbiased, _headline(part), str(registry.source(kind, name)))
        console.print(table)


@command.command()
@click.argument("name")
@options.plugin_files
def show(name: str, plugin_files: tuple[Path, ...]) -> None:
    """Show what a plugin does and every hyperparameter it takes."""
    from rich.console import Console

    from pgzoo.errors import PluginError, unknown
    from pgzoo.registry.plugins import PART_TYPES

    registry = options.find_registry(plugin_files)
    console = Console(markup=False, highlight=False)
    found = False
    if name in registry.recipes():
        found = True
        _show_recipe(console, registry, registry.recipe(name))
    for kind in PART_TYPES:
        if name in registry.names(kind):
            found = True
            _show_part(console, registry, kind, registry.part(kind, name)())
    if not found:
        known = [*registry.recipes(), *(n for kind in PART_TYPES for n in registry.names(kind))]
        raise PluginError(unknown("plugin", name, known))


@command.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME…|all")
@click.option("--mdps", default="all", show_default=True, help="Where bias is measured: names with commas.")
@click.option("--episodes", type=click.IntRange(min=160), default=200_000, show_default=True,
              help="On each MDP, for each combination declared unbiased.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--progress/--no-progress", default=True, show_default=True, help="The progress bar.")
@options.plugin_files
@click.pass_context
def check(ctx: click.Context, /, names: tuple[str, ...], plugin_files: tuple[Path, ...], **given: Any) -> None:
    """Check that plugins keep to the interface and are as unbiased as they say; status 1 if one does not.

    A recipe's name stands for its parts. A call is checked by changing one thing of a rollout and looking at what
    follows; a declaration of `unbiased` is tested against the exact gradient on tabular MDPs.
    """
    registry = options.find_registry(plugin_files)
    parts = _parts(registry, names)

    from pgzoo.lab.measure.mdps import MDPS, make_mdp

    mdps = list(MDPS) if given["mdps"] == "all" else [name.strip() for name in given["mdps"].split(",")]
    for name in mdps:
        make_mdp(name)

    from pgzoo.cli import conformance
    from pgzoo.cli.progress import Counter
    from pgzoo.lab.conformance.kit import check as run

    options.set_threads(1)
    with Counter("gradients", shown=given["progress"] and not given["as_json"]) as counter:
        found = run(registry, parts, mdps=mdps, n_episodes=given["episodes"], seed=given["seed"], progress=counter.show)
    conformance.show(found, as_json=given["as_json"])
    if not all(one.passed for one in found):
        ctx.exit(1)


def _parts(registry: Registry, names: tuple[str, ...]) -> list[Any]:
    """Return the parts of these names, of a recipe all of its own; each once."""
    from pgzoo.errors import PluginError, unknown
    from pgzoo.registry.combination import resolve
    from pgzoo.registry.plugins import PART_TYPES

    every = {(kind, name): registry.part(kind, name) for kind in PART_TYPES for name in registry.names(kind)}
    if names == ("all",):
        return list(every.values())
    found: list[Any] = []
    for name in names:
        own = [cls for (_, other), cls in every.items() if other == name]
        if name in registry.recipes():
            own += [type(part) for part in resolve(registry, name).parts.values()]
        if not own:
            raise PluginError(unknown("plugin", name, [*registry.recipes(), *(other for _, other in every)]))
        found += own
    return list(dict.fromkeys(found))


@command.command()
@click.argument("name")
@click.option("--kind", type=click.Choice(["baseline", "estimator", "objective"]), required=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to; by default pgzoo-NAME here.")
def new(name: str, kind: str, folder: Path | None) -> None:
    """Write a package with a new plugin, its tests and its entry point."""
    from pgzoo.registry.scaffold import make_package

    folder = folder or Path(f"pgzoo-{name.replace('_', '-')}")
    for path in make_package(options.find_registry(()), name, kind, folder):  # type: ignore[arg-type]
        click.echo(path)
    click.echo(f"Next: pip install -e '{folder}[test]' && pytest {folder}")


def _show_recipe(console: Console, registry: Registry, recipe: Recipe) -> None:
    from pgzoo.registry.combination import resolve
    from pgzoo.registry.settings import AlgorithmConfig

    console.print(f"recipe {recipe.name} ({registry.source('recipe', recipe.name)})", style="bold")
    console.print(recipe.doc)
    combination = resolve(registry, recipe.name)
    table = _params_table()
    for kind, part in combination.parts.items():
        console.print(f"{kind}: {part.name} – {_headline(part)}")
        _add_params(table, type(part), part, f"{kind}.")
    console.print(f"sampling: {combination.sampling}")
    _add_params(table, AlgorithmConfig, combination.algorithm, "")
    console.print(table)


def _show_part(console: Console, registry: Registry, kind: Kind, part: Part) -> None:
    import inspect

    console.print(f"{kind} {part.name} ({registry.source(kind, part.name)})", style="bold")
    console.print(inspect.getdoc(type(part)) or "")
    console.print(f"needs: {_needs(part) or 'nothing'}")
    if kind != "objective":
        console.print(f"unbiased: {_unbiased(part)}")
    table = _params_table()
    _add_params(table, type(part), part, "")
    if table.row_count:
        console.print(table)


def _params_table() -> Table:
    return _table("", "hyperparameter", "default", "allowed", "search", "meaning")


def _add_params(table: Table, cls: type, values: Any, prefix: str) -> None:
    from pgzoo.interface.hyperparameters import declared

    for param in declared(cls).values():
        allowed = f"{param.type_name} {param.range or ''}".strip()
        default = str(getattr(values, param.name))
        table.add_row(prefix + param.name, default, allowed, str(param.search or ""), param.doc)


def _table(title: str, *columns: str) -> Table:
    from rich import box
    from rich.table import Column, Table

    first, *rest = columns
    return Table(
        Column(first, no_wrap=True), *rest, title=title or None, title_justify="left", title_style="bold",
        box=box.SIMPLE_HEAD, pad_edge=False,
    )  # fmt: skip


def _part_name(combination: Any) -> str:
    return combination if isinstance(combination, str) else str(combination["name"])


def _headline(part: Part) -> str:
    """Return the first line of the plugin file's docstring, else of the class's."""
    import sys

    module = sys.modules[type(part).__module__].__doc__
    return ((module or type(part).__doc__ or "").strip().splitlines() or [""])[0]


def _needs(part: Part) -> str:
    return ", ".join(sorted(need.value for need in part.needs))


def _unbiased(part: Any) -> str:
    return "yes" if part.unbiased else f"no: {part.bias}"
