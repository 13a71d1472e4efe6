"""`pgzoo variance`: the variance and bias of plugins' gradients."""

from __future__ import annotations

import json
import math
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options

if TYPE_CHECKING:
    from pgzoo.lab.measure.statistics import Estimate
    from pgzoo.lab.measure.variance import Lab, Report
    from pgzoo.registry.combination import Combination
    from pgzoo.registry.plugins import Registry
    from pgzoo.training.config import ExperimentConfig
    from pgzoo.training.saved_model import Start

FIGURE_SUFFIXES = (".png", ".pdf", ".svg")
WIDTH = 100
"""The width of the table if the output is not a terminal."""


@dataclass(frozen=True)
class VarianceConfig:
    """The options of `pgzoo variance`; their meaning is in the help."""

    plugins: str
    env: str | None
    model: Path | None
    batches: int
    episodes: int
    group_size: int
    pairs: tuple[str, ...]
    gamma: float | None
    discount_states: bool | None
    loss: str
    snr: float
    warmup: int
    reference_batches: int
    n_envs: int
    seed: int
    out: Path | None
    as_json: bool
    num_threads: int
    gym_packages: tuple[str, ...]
    plugin_files: tuple[Path, ...]
    trusted: bool
    progress: bool


@click.command("variance", short_help="Measure the variance and bias of plugins' gradients.")
@click.option("--plugins", default="reinforce,rtg,rtg_batch_mean,rtg_value,gae", show_default=True,
              metavar="NAME,…|all", help="Recipes, or combinations estimator+baseline[+objective]. all: every recipe "
              "that does not copy environments.")  # fmt: skip
@click.option("--env", help="A registered environment; by default that of --model, or CartPole-v1.")
@click.option("--model", type=click.Path(path_type=Path),
              help="A saved model whose policy is measured; by default a new policy.")  # fmt: skip
@click.option("--batches", type=click.IntRange(min=2), default=200, show_default=True, help="Gradients per plugin.")
@click.option("--episodes", type=click.IntRange(min=1), default=8, show_default=True, help="Episodes per gradient.")
@click.option("--group-size", type=click.IntRange(min=1), default=4, show_default=True,
              help="Episodes from each initial state, for plugins that compare groups.")  # fmt: skip
@click.option("-P", "--hyperparams", "pairs", multiple=True, metavar="NAME:VALUE",
              help="Set a hyperparameter of all plugins that have it (may be repeated).")  # fmt: skip
@click.option("--gamma", type=click.FloatRange(0, 1), help="γ of the objective; by default that of --model, or 0.99.")
@click.option("--discount-states/--no-discount-states", default=None,
              help="Multiply Ψ_t by γ^t, as the gradient of the discounted objective requires; or do not, as in SB3. "
              "By default yes with --loss sum, and as the recipe does with --loss own.")  # fmt: skip
@click.option("--loss", type=click.Choice(["sum", "own"]), default="sum", show_default=True,
              help="sum: the policy gradient, summed over each episode; own: each recipe's own loss, with its "
              "aggregate and normalised advantages.")  # fmt: skip
@click.option("--snr", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
              help="The signal-to-noise ratio for which the number of steps is shown.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True,
              help="Batches to which the critic is fitted and from which plugins learn first; 0: neither.")  # fmt: skip
@click.option("--reference-batches", type=click.IntRange(min=1), default=4, show_default=True,
              help="Batches of the independent reference for each measured batch, if the exact gradient is "
              "unknown.")  # fmt: skip
@click.option("--n-envs", type=click.IntRange(min=1), default=64, show_default=True,
              help="Environments stepped together, rounded to whole batches. Affects only the speed.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Draw a figure: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--num-threads", type=click.IntRange(min=1), default=1, show_default=True,
              help="Threads of torch and BLAS.")  # fmt: skip
@options.gym_packages
@options.plugin_files
@options.trust
@click.option("--progress/--no-progress", default=True, show_default=True, help="Show a progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **values: Any) -> None:
    """Measure the variance and bias of plugins' gradients.

    A frozen policy is sampled, and every plugin computes its gradient from the same batches of whole episodes. Plugins
    that compare groups get as many episodes in groups. A plugin that copies environments, such as vine, gets as many
    episodes of its own, and the steps in its copies count. On pgzoo/Chain-v0 and the other tabular environments, bias
    is measured against the exact gradient; on other environments, against a large independent sample. Intervals are
    95 % bootstrap intervals.
    """
    config = VarianceConfig(**values)
    _check_figure(config.out)
    with _make_lab(config) as lab:
        from pgzoo.cli.progress import Counter
        from pgzoo.lab.measure.variance import measure

        with Counter("batches", shown=config.progress and not config.as_json) as counter:
            report = measure(lab, counter.show)
        env = lab.config.env
    if config.out is not None:
        from pgzoo.lab.measure.figure import draw

        draw(report, f"{env}, {config.episodes} episodes per gradient", config.out)
    if config.as_json:
        click.echo(json.dumps(_json_data({"env": env, "settings": asdict(config), **report.to_dict()})))
    else:
        _show(report, config.snr)
        if config.out is not None:
            click.echo(f"Figure saved as {config.out}")
    if report.stopped_by is not None:
        click.echo(f"Interrupted after {report.n_batches} batches.", err=True)
        ctx.exit(128 + report.stopped_by)  # as shells expect it


def _check_figure(path: Path | None) -> None:
    """Refuse a path that cannot be written, before anything is measured."""
    from pgzoo.errors import ConfigError, unknown

    if path is None:
        return
    if path.suffix not in FIGURE_SUFFIXES:
        raise ConfigError(unknown("kind of figure", path.suffix or path.name, FIGURE_SUFFIXES))
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: the folder {path.absolute().parent} does not exist")


def _make_lab(config: VarianceConfig) -> AbstractContextManager[Lab]:
    """Return a context with the frozen policy, which closes its environments."""
    from contextlib import closing

    from pgzoo.training.config import check_environment, register_packages

    registry = options.find_registry(config.plugin_files)
    names = _plugin_names(registry, config.plugins)
    register_packages(config.gym_packages)
    if config.env is not None:
        check_environment(config.env)
    options.set_threads(config.num_threads)  # batches are small, so more threads mostly wait for each other
    experiment, start = _frozen_policy(registry, config)

    from pgzoo.lab.measure.variance import Lab, MeasureConfig

    measure_config = MeasureConfig(
        plugins=_combinations(registry, names, config.pairs),
        n_batches=config.batches,
        batch=config.episodes,
        group_size=config.group_size,
        gamma=experiment.combination.algorithm.gamma if config.gamma is None else config.gamma,
        warmup=config.warmup,
        reference_batches=config.reference_batches,
        discount_states=config.discount_states,
        own_loss=config.loss == "own",
        n_envs=config.n_envs,
        seed=config.seed,
    )
    return closing(Lab(experiment, registry, measure_config, start))


def _plugin_names(registry: Registry, text: str) -> list[str]:
    from pgzoo.errors import ConfigError
    from pgzoo.interface.types import Need
    from pgzoo.registry.combination import resolve

    anywhere = [n for n in registry.recipes() if Need.VALUES not in resolve(registry, n).sampling.provides]
    names = anywhere if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--plugins is empty; name recipes separated by commas, or all")
    for name in names:
        resolve(registry, name)
    return list(dict.fromkeys(names))


def _combinations(registry: Registry, names: list[str], pairs: tuple[str, ...]) -> dict[str, Combination]:
    """Return each plugin's combination with the hyperparameters of -P that it has. Refuse one that no plugin has."""
    from pgzoo.errors import ConfigError
    from pgzoo.interface.hyperparameters import declared
    from pgzoo.registry.combination import resolve
    from pgzoo.training.config import parse_pairs

    values = parse_pairs(pairs, "-P")
    combinations: dict[str, Combination] = {}
    used: set[str] = set()
    for name in names:
        parts = resolve(registry, name).parts
        fields = {field for part in parts.values() for field in declared(type(part))}
        overrides = {key: value for key, value in values.items() if key.rpartition(".")[2] in fields}
        used |= set(overrides)
        combinations[name] = resolve(registry, name, overrides=overrides)
    if unused := [key for key in values if key not in used]:
        raise ConfigError(f"-P {unused[0]}: none of {', '.join(names)} has this hyperparameter")
    return combinations


def _frozen_policy(registry: Registry, config: VarianceConfig) -> tuple[ExperimentConfig, Start | None]:
    """Return the environment's configuration and the saved model."""
    from pgzoo.errors import ConfigError
    from pgzoo.registry.combination import DEFAULT_RECIPE
    from pgzoo.training.config import load_config
    from pgzoo.training.run_folder import open_folder

    path = config.model
    if path is None:
        return load_config(registry, DEFAULT_RECIPE, config.env or "CartPole-v1"), None
    from pgzoo.training.saved_model import read_config, read_start
    from pgzoo.training.trust import check_arguments, check_configuration

    try:
        folder = open_folder(path)
    except ConfigError:
        if config.env is None:
            raise ConfigError(f"--model {path} is not in a run folder of pgzoo: add its --env") from None
        start = read_start(path, trusted=config.trusted)
        overrides = {"normalize": True} if start.normalizer is not None else {}
        return load_config(registry, DEFAULT_RECIPE, config.env, overrides=overrides), start
    experiment = read_config(folder, registry)
    if not config.trusted:
        check_arguments(
            folder.path, experiment.env, (), (), given_env=config.env or "", given_packages=config.gym_packages,
            given_files=(),
        )  # fmt: skip
        check_configuration(experiment.run, folder.path)
    if config.env not in (None, experiment.env):
        raise ConfigError(f"--model {path} was trained on {experiment.env}, not {config.env}")
    file = folder.model if path.is_dir() else path
    start = read_start(file, trusted=config.trusted)
    start.check_normalization(bool(experiment.run.normalize))
    return experiment, start


def _show(report: Report, snr: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from pgzoo.formatting import format_number

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    critic = ""
    if report.explained_variance is not None:
        critic = f"; V explains {report.explained_variance:.2f} of the variance of returns"
    mean_return = format_number(report.mean_return)
    console.print(f"Mean return {mean_return}, {report.n_parameters:,} actor parameters{critic}.")
    reference = f"bias and cosine relative to {report.reference}"
    console.print(f"{report.n_batches} gradients per plugin; {reference}.", soft_wrap=True)
    headers = ["steps", "variance\n/ ‖g‖²", "SNR", "cosine", "bias, %", f"steps for\nSNR {snr:g}"]
    table = Table(
        Column("plugin", no_wrap=True),
        *[Column(header, justify="right", no_wrap=True) for header in headers],
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for name, s in report.summaries.items():
        cells = [
            _cell(s.relative_variance),
            _cell(s.snr),
            _cell(s.cosine),
            _cell(s.bias, 100),
            _cell(s.steps_for_snr, snr**2),
        ]
        table.add_row(name, f"{s.steps:.0f}", *cells)
    console.print(table)
    if warning := _reference_warning(report):
        console.print(warning)
    rate = report.n_gradients / max(report.gradient_seconds, 1e-9)
    console.print(
        f"Sampling took {report.sampling_seconds:.1f} s; {report.n_gradients:,} gradients took "
        f"{report.gradient_seconds:.1f} s, {rate:,.0f} per second."
    )


def _reference_warning(report: Report) -> str:
    """Return why numbers or intervals are missing; empty if none are."""
    from pgzoo.lab.measure.statistics import ENOUGH_BATCHES

    cosines = [summary.cosine for summary in report.summaries.values()]
    if any(math.isnan(cosine.value) for cosine in cosines):
        return "The reference is not above its own noise, so bias and cosine are unknown: use more --batches."
    if report.n_batches < ENOUGH_BATCHES:
        return f"Intervals need at least {ENOUGH_BATCHES} batches."
    if any(math.isnan(cosine.low) for cosine in cosines):
        return "The reference is hardly above its own noise, so bias and cosine have no intervals: use more --batches."
    return ""


def _cell(estimate: Estimate, factor: float = 1.0) -> str:
    """Return the number above its interval."""
    from pgzoo.formatting import format_number

    value, low, high = (format_number(x * factor, 3) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value}\n[dim]{low}–{high}[/dim]"


def _json_data(value: Any) -> Any:
    """Return data that JSON can hold: paths as strings, and null for numbers that are not finite."""
    if isinstance(value, dict):
        return {key: _json_data(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_data(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value
