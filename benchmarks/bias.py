"""The bias of every estimator and baseline, against the exact gradient of each of the lab's MDPs.

    python benchmarks/bias.py [--episodes 200000] [--out benchmarks/results/bias.jsonl]

What `pgzoo plugins check all` measures, as one line of JSON a combination and MDP, and as a table: the mean gradient's
length along ∇J, by ‖∇J‖, with a 95 % bootstrap interval; 1 is unbiased. About ten minutes.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from pgzoo import Registry
from pgzoo.cli.progress import Counter
from pgzoo.lab.measure.bias import EPISODES, FALSE_ALARM, Bias, entries, measure, variants
from pgzoo.lab.measure.mdps import MDPS


def cell(bias: Bias) -> str:
    scale = bias.scale
    return f"{scale.value:.3f} ({scale.low:.3f} to {scale.high:.3f})"


@click.command()
@click.option("--episodes", default=EPISODES, show_default=True, help="Of each combination, on each MDP.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("benchmarks/results/bias.jsonl"))
def main(episodes: int, out: Path) -> None:
    """Print a table, and write the lines."""
    torch.set_num_threads(1)
    registry = Registry.discover()
    parts = [registry.part(kind, name) for kind in ("estimator", "baseline") for name in registry.names(kind)]
    chosen = entries(registry, [part for cls in parts for part in variants(cls)])  # type: ignore[type-abstract, arg-type]
    with Counter("gradients", shown=True) as counter:
        found = measure(registry, chosen, list(MDPS), n_episodes=episodes, progress=counter.show)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(bias.plain()) + "\n" for bias in found))
    click.echo("| combination | declared | " + " | ".join(MDPS) + " |\n|---|---|" + "---|" * len(MDPS))
    for entry in chosen:
        cells = {bias.mdp: cell(bias) for bias in found if bias.entry is entry}
        row = " | ".join(cells.get(mdp, "") for mdp in MDPS)
        click.echo(f"| {entry.label} | {'unbiased' if entry.tested else ''} | {row} |")
    tested = [bias for bias in found if bias.entry.tested]
    outside = sum(not bias.scale.low <= 1 <= bias.scale.high for bias in tested)
    click.echo(
        f"\n{len(tested)} declarations tested jointly at a false-alarm rate of {FALSE_ALARM:g}: "
        f"{sum(bias.alarm for bias in tested)} alarms, smallest p {min(bias.p_value for bias in tested):.2g}, "
        f"least power {min(bias.power for bias in tested):.3f}; {outside} of their 95 % intervals leave 1 out"
    )


if __name__ == "__main__":
    main()
