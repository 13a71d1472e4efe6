"""Bias and variance of `value` and `expected_q` as baselines of the same learned Q, on the lab's MDPs.

python benchmarks/expected_q.py
"""

from __future__ import annotations

from itertools import islice

import torch

from pgzoo.envs import TABULAR
from pgzoo.interface.parts import Spaces
from pgzoo.lab.measure.variance import Lab, MeasureConfig, Measurement, Report, plugin_gradient
from pgzoo.registry.combination import resolve
from pgzoo.registry.plugins import Registry
from pgzoo.training.config import load_config

COMBINATIONS = ("q_value+value", "q_value+expected_q")
GAMMA, N_BATCHES, WARM_UP, SEED = 0.9, 200, 20, 0


def measure(env: str) -> Report:
    """Measure both combinations with one Q. V and Q learn from `WARM_UP` batches of 8 episodes each."""
    registry = Registry.discover()
    plugins = {name: resolve(registry, name) for name in COMBINATIONS}
    config = MeasureConfig(plugins, n_batches=N_BATCHES, gamma=GAMMA, warmup=WARM_UP, seed=SEED)
    lab = Lab(load_config(registry, COMBINATIONS[0], env), registry, config)
    torch.manual_seed(SEED)
    spaces = Spaces(lab.policy.observation_space, lab.policy.action_space, lab.policy)
    value, expected_q = (plugin_gradient(config, name, plugins[name], spaces) for name in COMBINATIONS)
    measurement = Measurement(lab, [value, expected_q])
    explained = lab.episodes.fit_critic(list(islice(lab.episodes.batches(), WARM_UP)))
    for rollout in islice(lab.episodes.batches(), WARM_UP):
        expected_q.learn(rollout)
    value.part_states.load_arrays(expected_q.part_states.arrays())
    for _ in range(N_BATCHES):
        measurement.batch()
    lab.close()
    return measurement.report(explained, stopped_by=None)


def main() -> None:
    print("| MDP | baseline | variance / ‖g‖² | cosine | bias, % |")
    print("|---|---|---|---|---|")
    for env, mdp in TABULAR.items():
        for name, summary in measure(env).summaries.items():
            numbers = [
                f"{x.value * factor:.{digits}f} ({x.low * factor:.{digits}f}–{x.high * factor:.{digits}f})"
                for x, factor, digits in (
                    (summary.relative_variance, 1, 2),
                    (summary.cosine, 1, 2),
                    (summary.bias, 100, 0),
                )
            ]
            print(f"| `{mdp}` | `{name.split('+')[1]}` | {' | '.join(numbers)} |", flush=True)


if __name__ == "__main__":
    main()
