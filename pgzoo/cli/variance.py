"""`pgzoo variance`: how much noise, and how much bias, each plugin's gradient has."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgzoo.cli import options
from pgzoo.cli.train import INTERRUPTED

if TYPE_CHECKING:
    from pgzoo.lab.measure.statistics import Estimate
    from pgzoo.lab.measure.variance import Lab, Report
    from pgzoo.registry.plugins import Registry
    from pgzoo.training.config import ExperimentConfig

FIGURES = (".png", ".pdf", ".svg")
WIDTH = 100
"""Columns of the table where there is no terminal."""


@click.command("variance", short_help="Measure the variance and bias of plugins' gradients.")
@click.option("--plugins", default="reinforce,rtg,rtg_batch_mean,rtg_value,gae", show_default=True,
              metavar="NAME,…|all", help="Recipes, or estimator+baseline.")  # fmt: skip
@click.option("--env", help="A registered environment; by default the model's, else CartPole-v1.")
@click.option("--model", type=click.Path(path_type=Path), help="The policy to freeze, a saved model; by default a new "
              "one.")  # fmt: skip
@click.option("--batches", type=click.IntRange(min=2), default=200, show_default=True, help="Gradients of each plugin.")
@click.option("--episodes", type=click.IntRange(min=1), default=8, show_default=True, help="Of one gradient.")
@click.option("--group-size", type=click.IntRange(min=1), default=4, show_default=True,
              help="Episodes from each start, for plugins that compare groups.")  # fmt: skip
@click.option("-P", "--hyperparams", "pairs", multiple=True, metavar="NAME:VALUE",
              help="A hyperparameter of the plugins that have it (may be repeated).")  # fmt: skip
@click.option("--gamma", type=click.FloatRange(0, 1), help="γ of the objective; by default the model's, else 0.99.")
@click.option("--discount-states/--no-discount-states", default=None,
              help="Multiply Ψ by γ^t, as the gradient of the discounted objective asks; or not, as SB3. Default: yes "
              "for the sum, and as the recipe does for its own loss.")  # fmt: skip
@click.option("--loss", type=click.Choice(["sum", "own"]), default="sum", show_default=True,
              help="sum: over each episode, the policy gradient itself; own: each recipe's own loss, normalised "
              "advantages and all.")  # fmt: skip
@click.option("--snr", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
              help="For how many steps reach it.")  # fmt: skip
@click.option("--warmup", type=click.IntRange(min=0), default=20, show_default=True,
              help="Batches that the critic, and what plugins learn, are fitted to first; 0: as they are.")  # fmt: skip
@click.option("--reference-batches", type=click.IntRange(min=1), default=4, show_default=True,
              help="For each batch, those of the independent reference, where no exact gradient is known.")  # fmt: skip
@click.option("--n-envs", type=click.IntRange(min=1), default=64, show_default=True, help="Environments side by side, "
              "rounded to whole batches; it changes the speed.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0, max=2**32 - 1), default=0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Draw a figure: .png, .pdf or .svg.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--num-threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of torch and BLAS."
)
@options.gym_packages
@options.plugin_files
@click.option("--progress/--no-progress", default=True, show_default=True, help="The progress bar.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    """Measure the variance and bias of plugins' gradients.

    A frozen policy is sampled, and every plugin gives its gradient of the same batches of whole episodes; those that
    compare groups, of as many episodes in groups. Bias is against the exact gradient on pgzoo/Chain-v0 and the other
    tabular environments, elsewhere against a large independent sample. Intervals are bootstrapped, 95 %.
    """
    _check_figure(given["out"])
    with _lab(given) as lab:
        from pgzoo.cli.progress import Counter
        from pgzoo.lab.measure.variance import measure

        with Counter("batches", shown=given["progress"] and not given["as_json"]) as counter:
            report = measure(lab, counter.show)
        name = lab.config.env
    if given["out"] is not None:
        from pgzoo.lab.measure.figure import draw

        draw(report, f"{name}, one gradient of {given['episodes']} episodes", given["out"])
    if given["as_json"]:
        settings = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
        click.echo(json.dumps(_finite({"env": name, "settings": settings, **report.plain()})))
    else:
        _show(report, given["snr"])
        if given["out"] is not None:
            click.echo(f"Drawn in {given['out']}")
    if report.interrupted:
        click.echo(f"Interrupted after {report.n_batches} batches.", err=True)
        ctx.exit(INTERRUPTED)


def _check_figure(path: Path | None) -> None:
    """Refuse before anything is measured."""
    from pgzoo.errors import ConfigError, unknown

    if path is None:
        return
    if path.suffix not in FIGURES:
        raise ConfigError(unknown("kind of figure", path.suffix or path.name, FIGURES))
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"--out {path}: there is no folder {path.absolute().parent}")


def _lab(given: dict[str, Any]) -> Any:
    """Return the frozen policy in a context that closes its environments."""
    from contextlib import closing

    from pgzoo.training.config import check_environment, register_packages

    registry = options.find_registry(given["plugin_files"])
    names = _names(registry, given["plugins"])
    register_packages(given["gym_packages"])
    if given["env"] is not None:
        check_environment(given["env"])
    options.set_threads(given["num_threads"])  # batches are small: several only wait for each other
    config, start, statistics = _frozen(registry, given)
    gamma = config.combination.algorithm.gamma if given["gamma"] is None else given["gamma"]

    from pgzoo.lab.measure.variance import Lab, MeasureConfig

    measurement = MeasureConfig(
        plugins=_specs(registry, names, given["pairs"]),
        n_batches=given["batches"],
        batch=given["episodes"],
        group_size=given["group_size"],
        gamma=gamma,
        warmup=given["warmup"],
        reference_batches=given["reference_batches"],
        discount_states=given["discount_states"],
        own_loss=given["loss"] == "own",
        n_envs=given["n_envs"],
        seed=given["seed"],
    )
    lab: Lab = Lab(config, registry, measurement, start, statistics)
    return closing(lab)


def _names(registry: Registry, text: str) -> list[str]:
    from pgzoo.errors import ConfigError
    from pgzoo.registry.combination import resolve

    names = registry.recipes() if text == "all" else [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError("--plugins names none")
    for name in names:
        resolve(registry, name)
    return list(dict.fromkeys(names))


def _specs(registry: Registry, names: list[str], pairs: tuple[str, ...]) -> dict[str, Any]:
    """Return each plugin's parts, with the values that they have a field for; refuse one that none has."""
    from pgzoo.errors import ConfigError
    from pgzoo.interface.hyperparameters import declared
    from pgzoo.registry.combination import resolve
    from pgzoo.training.config import parse_pairs

    values = parse_pairs(pairs, "-P")
    combinations, used = {}, set()
    for name in names:
        parts = resolve(registry, name).parts
        fields = {field for part in parts.values() for field in declared(type(part))}
        own = {key: value for key, value in values.items() if key.rpartition(".")[2] in fields}
        used |= set(own)
        combinations[name] = resolve(registry, name, overrides=own)
    if unused := [key for key in values if key not in used]:
        raise ConfigError(f"-P {unused[0]}: none of {', '.join(names)} has this hyperparameter")
    return combinations


def _frozen(registry: Registry, given: dict[str, Any]) -> tuple[ExperimentConfig, Any, Path | None]:
    """Return how the environment is wrapped, the model to begin with, and its statistics."""
    from pgzoo.errors import ConfigError
    from pgzoo.training.config import config_from_entry, load_config
    from pgzoo.training.run_folder import open_folder, read_yaml

    path = given["model"]
    if path is None:
        return load_config(registry, "rtg_value", given["env"] or "CartPole-v1"), None, None
    from pgzoo.training.experiment import read_start

    try:
        folder = open_folder(path)
    except ConfigError:
        if given["env"] is None:
            raise ConfigError(f"--model {path} lies in no run folder of pgzoo: say which --env it plays") from None
        return load_config(registry, "rtg_value", given["env"]), read_start(path, "cpu"), None
    args = read_yaml(folder.details / "args.yml")
    if given["env"] not in (None, args["env"]):
        raise ConfigError(f"--model {path} plays {args['env']}, not {given['env']}")
    file = folder.model if path.is_dir() else path
    config = config_from_entry(
        registry, str(args["plugin"]), str(args["env"]), read_yaml(folder.details / "config.yml")
    )
    return config, read_start(file, "cpu"), folder.statistics_of(file)


def _show(report: Report, snr: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Column, Table

    from pgzoo.lab.measure.statistics import ENOUGH_BATCHES

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    critic = "" if report.explained_variance is None else f"; V explains {report.explained_variance:.2f} of the returns"
    console.print(f"Mean return {report.mean_return:.4g}, {report.n_parameters:,} actor parameters{critic}.")
    console.print(f"{report.n_batches} gradients each; bias and cosine against {report.reference}.")
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
    if any(math.isnan(s.cosine.value) for s in report.summaries.values()):
        console.print("The reference is lost in its own noise: nothing to measure bias by; take more --batches.")
    elif report.n_batches < ENOUGH_BATCHES:
        console.print(f"Intervals need {ENOUGH_BATCHES} batches.")
    elif any(math.isnan(s.cosine.low) for s in report.summaries.values()):
        console.print("The reference is hardly above its own noise: no intervals by it; take more --batches.")
    rate = report.n_gradients / max(report.gradient_seconds, 1e-9)
    console.print(
        f"Sampling took {report.sampling_seconds:.1f} s; {report.n_gradients:,} gradients took "
        f"{report.gradient_seconds:.1f} s, {rate:,.0f} a second."
    )


def _cell(estimate: Estimate, factor: float = 1.0) -> str:
    """Return the number above its interval."""
    low, high = _number(estimate.low * factor), _number(estimate.high * factor)
    return f"{_number(estimate.value * factor)}\n[dim]{low}–{high}[/dim]"


def _number(x: float) -> str:
    if not math.isfinite(x):
        return "∞" if x > 0 else "nan"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def _finite(value: Any) -> Any:
    """Return plain data with null in place of numbers that JSON has no word for."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
