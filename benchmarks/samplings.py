"""Gradients of samplings that make plans of their own, against the exact gradient of the lab's MDPs.

    python benchmarks/samplings.py vine     values from copied environments, at equal numbers of steps
    python benchmarks/samplings.py queue    more episodes than environments, and the first episodes that end

The policy is a linear softmax policy with random weights, and γ is 0.9. Both tables contain 95 % bootstrap intervals.
The last line tests all unbiased rows together, see `pgzoo.lab.measure.bias`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import click
import numpy as np
import torch
from pgzoo_plugins.episodes import Episodes
from pgzoo_plugins.groups import Groups

from pgzoo import Array, Episode, Plan, PlanContext, Registry, RolloutEnd, State
from pgzoo.envs import TABULAR
from pgzoo.interface.parts import Spaces
from pgzoo.lab.measure.bias import EFFECT, FALSE_ALARM, hotelling
from pgzoo.lab.measure.score_gradients import TableScores
from pgzoo.lab.measure.statistics import Estimate, Summary
from pgzoo.lab.measure.variance import Lab, MeasureConfig, Measurement, plugin_gradient, warm_up
from pgzoo.registry.combination import Combination, resolve
from pgzoo.training.config import load_config

GAMMA, SEED, GROUP_SIZE = 0.9, 0, 4
VINE_EFFECT = 0.1
"""The bias for which the power of the tests of `vine` is computed. Its steps are too expensive for a smaller one."""
REGISTRY = Registry.discover()


@dataclass(frozen=True)
class QueuedEpisodes(Episodes):
    """The plan of `episodes`. By another name, the lab samples it as training does."""

    name = "queued_episodes"


@dataclass(frozen=True)
class QueuedGroups(Groups):
    """The plan of `groups`."""

    name = "queued_groups"
    group_size: int = GROUP_SIZE


@dataclass(frozen=True)
class FirstToEnd(Episodes):
    """The first n_episodes episodes that end. They are short too often."""

    name = "first_to_end"

    def plan(self, context: PlanContext, state: State = None) -> Plan:
        """Return a queue that is just long enough: until n episodes have ended, no environment waits."""
        assert self.n_episodes is not None
        return FirstToEndPlan(self.n_episodes, context.n_envs)


class FirstToEndPlan(Plan):
    """Each episode is a group of its own, so that the update can be limited to some episodes."""

    def __init__(self, n_episodes: int, n_envs: int) -> None:
        self.n_episodes, self.n_begun = n_episodes, n_episodes + n_envs - 1
        super().__init__(Episode(group=number) for number in range(self.n_begun))

    def update_mask(self, end: RolloutEnd) -> Array:
        """Return which steps (T, N) belong to the episodes with the smallest last step."""
        ends = [np.flatnonzero((end.group == number).any(axis=1)).max() for number in range(self.n_begun)]
        return np.isin(end.group, np.argsort(ends, kind="stable")[: self.n_episodes])


@dataclass(frozen=True)
class Row:
    """A measured combination on one MDP, with the p-value and the power of Hotelling's T²."""

    summary: Summary
    p_value: float
    power: float


def measure(
    env: str,
    combinations: Mapping[str, Combination],
    n_batches: int,
    level: float,
    effect: float = EFFECT,
    **settings: Any,
) -> dict[str, Row]:
    """Return the rows of one MDP. The power of their tests is the chance to detect a bias of `effect` · ‖∇J‖."""
    config = MeasureConfig(combinations, n_batches=n_batches, gamma=GAMMA, seed=SEED, **settings)
    experiment = load_config(REGISTRY, "rtg_value", env)
    linear = {"net_arch": [], "ortho_init": False}
    lab = Lab(replace(experiment, run=replace(experiment.run, policy_kwargs=linear)), REGISTRY, config)
    with torch.no_grad():  # a policy that is not uniform
        weight = lab.policy.action_net.weight
        weight.copy_(0.5 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(SEED)))
    assert lab.mdp is not None
    lab.scores = TableScores(lab.mdp, lab.policy)
    spaces = Spaces(lab.policy.observation_space, lab.policy.action_space, lab.policy)
    plugins = [plugin_gradient(config, name, combination, spaces) for name, combination in combinations.items()]
    measurement = Measurement(lab, plugins)
    explained = warm_up(lab, plugins) if config.warmup else None
    for _ in range(n_batches):
        measurement.batch()
    report = measurement.report(explained, stopped_by=None)
    lab.close()
    assert measurement.exact is not None
    rows = {}
    for name, summary in report.summaries.items():
        gradients = np.array(measurement.records[name].gradients, dtype=np.float64)
        rows[name] = Row(summary, *hotelling(gradients, measurement.exact, level, lab.scores.rank, effect))
    return rows


def cell(estimate: Estimate, factor: float = 1.0, digits: int = 2) -> str:
    """Return the number with its interval."""
    return " ".join(
        (
            f"{estimate.value * factor:.{digits}f}",
            f"({estimate.low * factor:.{digits}f}–{estimate.high * factor:.{digits}f})",
        )
    )


def show_test(rows: list[Row], effect: float) -> None:
    """Print the smallest p-value and the powers of the rows that must be unbiased."""
    click.echo(
        f"\n{len(rows)} tests together at a false-alarm rate of {FALSE_ALARM:g}: smallest p "
        f"{min(row.p_value for row in rows):.2g}; powers to detect a bias of {effect:.0%}: "
        + ", ".join(f"{power:.2f}" for power in sorted(row.power for row in rows))
    )


@click.group()
def main() -> None:
    """Measure samplings that make plans of their own."""
    torch.set_num_threads(1)


@main.command()
@click.option("--batches", default=2000, show_default=True, help="Gradients of each combination.")
def vine(batches: int) -> None:
    """Measure `td` + `value` with values from copied environments, beside estimators without copies."""
    combinations = {
        f"`td` + `value`, `vine` with K = {k}": resolve(REGISTRY, "vine", overrides={"n_continuations": k})
        for k in (1, 4)
    }
    for baseline in ("value", "leave_one_out"):
        combinations[f"`reward_to_go` + `{baseline}`"] = resolve(REGISTRY, f"reward_to_go+{baseline}")
    rows: list[Row] = []
    click.echo("| MDP | combination | steps per gradient | variance / ‖g‖² | bias, % | steps for SNR 1 |")
    click.echo("|---|---|---|---|---|---|")
    for env, mdp in TABULAR.items():
        # in a single environment, no step is spent on waiting
        level = FALSE_ALARM / (len(TABULAR) * len(combinations))
        measured = measure(env, combinations, batches, level, VINE_EFFECT, n_envs=1)
        for name, row in measured.items():
            s = row.summary
            numbers = f"{cell(s.relative_variance)} | {cell(s.bias, 100, 1)} | {cell(s.steps_for_snr, digits=0)}"
            click.echo(f"| `{mdp}` | {name} | {s.steps:.0f} | {numbers} |")
        rows += measured.values()
    show_test(rows, VINE_EFFECT)


@main.command()
@click.option("--batches", default=1000, show_default=True, help="Gradients of each combination.")
@click.option("--episodes", default=512, show_default=True, help="Episodes per gradient.")
@click.option("--n-envs", default=256, show_default=True, help="Environments.")
def queue(batches: int, episodes: int, n_envs: int) -> None:
    """Measure queues of episodes, and the first episodes that end."""
    combinations = {
        "`episodes`": resolve(REGISTRY, "reward_to_go+none", sampling=QueuedEpisodes()),
        "`groups`": resolve(REGISTRY, "full_return+leave_one_out", sampling=QueuedGroups(n_episodes=episodes)),
        "the first to end": resolve(REGISTRY, "reward_to_go+none", sampling=FirstToEnd()),
    }
    level = FALSE_ALARM / (len(TABULAR) * (len(combinations) - 1))
    columns = [
        measure(env, combinations, batches, level, batch=episodes, group_size=GROUP_SIZE, n_envs=n_envs, warmup=0)
        for env in TABULAR
    ]
    click.echo("| sampling | combination | " + " | ".join(f"`{mdp}`" for mdp in TABULAR.values()) + " |")
    click.echo("|---|---|" + "---|" * len(columns))
    for name, c in combinations.items():
        cells = " | ".join(cell(column[name].summary.scale) for column in columns)
        click.echo(f"| {name} | `{c.estimator.name}` + `{c.baseline.name}` | {cells} |")
    show_test([row for column in columns for name, row in column.items() if name != "the first to end"], EFFECT)
    biased = ", ".join(f"{column['the first to end'].p_value:.2g}" for column in columns)
    click.echo(f"p of the first to end: {biased}")


if __name__ == "__main__":
    main()
