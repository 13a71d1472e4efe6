"""Rollout's derived arrays, and Batch's aggregates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rollouts import RAGGED, make_rollout

from pgzoo import Batch

close = np.testing.assert_allclose


def test_episodes_are_numbered_column_by_column() -> None:
    rollout = make_rollout(**RAGGED)
    assert rollout.episode.T.tolist() == [[0, 0, 1, -1], [2, 2, 2, 2]]
    assert rollout.last.T.tolist() == [[False, True, True, False], [False, False, False, True]]
    assert rollout.lengths.tolist() == [2, 1, 4]
    assert rollout.n_episodes == 3
    close(rollout.episode_sums(rollout.rewards), [3, 3, 100])


def test_a_fragment_ends_at_the_edge() -> None:
    rollout = make_rollout([1, 2, 3], truncated=[0, 1, 0])
    assert rollout.last[:, 0].tolist() == [False, True, True]
    assert rollout.episode[:, 0].tolist() == [0, 0, 1]


def test_discounts_are_zero_after_termination_only() -> None:
    rollout = make_rollout([1, 2, 3], terminated=[1, 0, 0], truncated=[0, 1, 0], gamma=0.9)
    close(rollout.discounts[:, 0], [0, 0.9, 0.9])


def test_flat_and_scatter_are_inverse() -> None:
    rollout = make_rollout(**RAGGED)
    flat = rollout.flat(rollout.rewards)
    assert flat.tolist() == [1, 2, 3, 10, 20, 30, 40]  # environment by environment, as SB3's buffer
    close(rollout.scatter(flat)[rollout.mask], rollout.rewards[rollout.mask])
    assert rollout.scatter(flat)[3, 0] == 0


def batch(aggregate: str) -> Batch:
    """The seven steps of RAGGED with x = 1 … 7."""
    rollout = make_rollout(**RAGGED)
    weights = rollout.weights(aggregate)  # type: ignore[arg-type]
    x = torch.arange(1.0, 8.0)
    return Batch(
        observations=x, actions=x, advantages=x, returns=x, old_values=x, old_log_probs=torch.zeros(7),
        episode=torch.as_tensor(rollout.flat(rollout.episode)),
        weights=None if weights is None else torch.as_tensor(weights),
        progress_remaining=0.25, log_probs=torch.zeros(7), values=x, entropy=x,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("step_mean", 28 / 7),
        ("episode_sum", (3 + 3 + 22) / 3),  # 1+2, 3, 4+5+6+7
        ("episode_mean", (1.5 + 3 + 5.5) / 3),
    ],
)
def test_aggregates_by_hand(aggregate: str, expected: float) -> None:
    whole = batch(aggregate)
    assert float(whole.aggregate(whole.values)) == pytest.approx(expected)


@pytest.mark.parametrize("aggregate", ["step_mean", "episode_sum", "episode_mean"])
def test_minibatches_average_to_the_whole(aggregate: str) -> None:
    """Over all minibatches of one step, the mean of the aggregate is the whole's."""
    whole = batch(aggregate)
    parts = [whole.select(torch.tensor([i]), 1 / 7) for i in range(7)]
    means = [float(part.aggregate(part.advantages)) for part in parts]  # type: ignore[attr-defined]
    assert np.mean(means) == pytest.approx(float(whole.aggregate(whole.advantages)))


def test_scheduled_values() -> None:
    whole = batch("step_mean")
    assert whole.scheduled(0.2) == 0.2
    assert whole.scheduled(lambda left: 2 * left) == 0.5
    assert whole.scheduled({"schedule": "linear", "initial": 0.4}) == pytest.approx(0.1)
    assert whole.scheduled({"schedule": "linear", "initial": 1, "final": 0.5, "end_fraction": 0.5}) == 0.5
