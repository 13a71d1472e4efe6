"""The variance of gradients with the baselines that compare the episodes of a group.

    python benchmarks/baselines.py [--batches 1000] [--out benchmarks/results/baselines.jsonl]

Each gradient has eight groups of 4, 8 or 16 episodes, and all combinations get the same ones. The tables contain the
variance relative to that of `full_return` with `leave_one_out`, with a 95 % bootstrap interval over batches. A
baseline that contains its own episode also shortens the gradient. For biased ones, the tables also contain the bias,
and the variance ratio of the gradient that is rescaled to its true length along ∇J. The policy is that of samplings.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from samplings import REGISTRY, Row, cell, measure

from pgzoo.envs import TABULAR
from pgzoo.files import atomic_write
from pgzoo.lab.measure.bias import FALSE_ALARM
from pgzoo.registry.combination import Combination, resolve

GROUP_SIZES = (4, 8, 16)
N_GROUPS = 8
REFERENCE = "leave_one_out"
EFFECT = 0.1
"""The bias, as a share of ‖∇J‖, for which the power of the tests is computed."""
OTHERS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("james_stein", {}),
    ("length_weighted", {"leave_one_out": True}),
    ("optimal", {}),
    ("time_mean", {"leave_one_out": True}),
    ("step_group", {}),
    ("optimal_token", {"leave_one_out": True}),
    ("none", {}),
    ("group", {}),
    ("length_weighted", {}),
    ("optimal_token", {}),
)


def combination(estimator: str, baseline: str, fields: dict[str, Any]) -> Combination:
    """Return two parts in groups, without a scale."""
    overrides = {f"baseline.{name}": value for name, value in fields.items()}
    return resolve(REGISTRY, f"{estimator}+{baseline}", scale="none", sampling="groups", overrides=overrides)


def combinations() -> dict[str, Combination]:
    """Return all combinations by the text of their row. Each estimator begins with the reference."""
    baselines = [(REFERENCE, {}), *OTHERS]
    chosen = {}
    for estimator in ("full_return", "reward_to_go"):
        for baseline, fields in baselines:
            label = f"`{baseline}`" + (", leave_one_out" if fields else "")
            chosen[f"`{estimator}` | {label}"] = combination(estimator, baseline, fields)
    return chosen


@click.command()
@click.option("--batches", default=1000, show_default=True, help="Gradients of each combination.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/baselines.jsonl"))
def main(batches: int, out: Path) -> None:
    """Measure, write the results and print the tables."""
    torch.set_num_threads(1)
    chosen = combinations()
    level = FALSE_ALARM / (len(TABULAR) * len(GROUP_SIZES) * len(chosen))
    results: dict[tuple[str, int], dict[str, Row]] = {}
    for env, mdp in TABULAR.items():
        for size in GROUP_SIZES:
            settings = {"batch": size * N_GROUPS, "group_size": size, "n_envs": size * N_GROUPS, "warmup": 0}
            results[mdp, size] = measure(env, chosen, batches, level, EFFECT, **settings)
            click.echo(f"{mdp}, groups of {size}", err=True)
    lines = [
        json.dumps({"mdp": mdp, "group_size": size, "combination": name, "p": row.p_value, **row.summary.to_dict()})
        for (mdp, size), rows in results.items()
        for name, row in rows.items()
    ]
    with atomic_write(out) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for mdp in TABULAR.values():
        show(mdp, {size: results[mdp, size] for size in GROUP_SIZES}, chosen)
    unbiased = [name for name, c in chosen.items() if c.baseline.unbiased]
    tested = [rows[name] for rows in results.values() for name in unbiased]
    click.echo(
        f"\n{len(tested)} tests of bias together at a false-alarm rate of {FALSE_ALARM:g}: smallest p "
        f"{min(row.p_value for row in tested):.2g}; median power to detect {EFFECT:.0%}: "
        f"{np.median([row.power for row in tested]):.2f}"
    )


def show(mdp: str, by_size: dict[int, dict[str, Row]], chosen: dict[str, Combination]) -> None:
    """Print the table of one MDP."""
    columns = [f"groups of {size}" for size in by_size]
    click.echo(f"\n`{mdp}`\n\n| R̂ | baseline | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for name in next(iter(by_size.values())):
        cells = []
        for rows in by_size.values():
            summary = rows[name].summary
            ratio, scale = summary.variance_ratio, summary.scale.value
            biased = f"; bias {summary.bias.value:.0%}, rescaled {ratio.value / scale**2:.2f}"
            cells.append(cell(ratio) + ("" if chosen[name].baseline.unbiased else biased))
        click.echo(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
