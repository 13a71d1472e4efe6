"""The bias of every estimator and baseline, against the exact gradient on each MDP of the lab.

    python benchmarks/bias.py [--episodes 200000] [--out benchmarks/results/bias.jsonl]

Measures the same as `pgzoo plugins check all`. Writes one line of JSON per combination and MDP, and prints a table of
the mean gradient's length along ∇J relative to ‖∇J‖, with a 95 % bootstrap interval; 1 is unbiased. Takes about ten
minutes.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from pgzoo import Registry
from pgzoo.cli.progress import Counter
from pgzoo.files import atomic_write
from pgzoo.lab.measure.bias import EPISODES, FALSE_ALARM, Bias, entries, measure, variants
from pgzoo.lab.measure.mdps import MDPS


def cell(bias: Bias) -> str:
    scale = bias.scale
    return f"{scale.value:.3f} ({scale.low:.3f} to {scale.high:.3f})"


@click.command()
@click.option("--episodes", default=EPISODES, show_default=True, help="Episodes per combination and MDP.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/bias.jsonl"))
def main(episodes: int, out: Path) -> None:
    """Measure, write the results and print the table."""
    torch.set_num_threads(1)
    registry = Registry.discover()
    parts = [registry.part(kind, name) for kind in ("estimator", "baseline") for name in registry.names(kind)]
    chosen = entries(registry, [part for cls in parts for part in variants(cls)])  # type: ignore[arg-type]  # the registry returns concrete parts
    with Counter("gradients", shown=True) as counter:
        biases = measure(registry, chosen, list(MDPS), n_episodes=episodes, progress=counter.show)
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as partial:
        partial.write_text("".join(json.dumps(bias.to_dict()) + "\n" for bias in biases), encoding="utf-8")
    click.echo("| combination | declared | " + " | ".join(MDPS) + " |\n|---|---|" + "---|" * len(MDPS))
    for entry in chosen:
        cells = {bias.mdp: cell(bias) for bias in biases if bias.entry is entry}
        row = " | ".join(cells.get(mdp, "") for mdp in MDPS)
        click.echo(f"| {entry.label} | {'unbiased' if entry.declared_unbiased else ''} | {row} |")
    tested = [bias for bias in biases if bias.entry.declared_unbiased]
    outside = sum(not bias.scale.low <= 1 <= bias.scale.high for bias in tested)
    click.echo(
        f"\n{len(tested)} declarations tested together at a false-alarm rate of {FALSE_ALARM:g}: "
        f"{sum(bias.alarm for bias in tested)} alarms, smallest p {min(bias.p_value for bias in tested):.2g}, "
        f"smallest power {min(bias.power for bias in tested):.3f}; {outside} of their 95 % intervals exclude 1"
    )


if __name__ == "__main__":
    main()
