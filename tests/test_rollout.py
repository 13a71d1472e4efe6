"""Rollout's derived arrays, and Batch's aggregates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from rollouts import RAGGED, make_rollout

from pgzoo import Batch, PluginError, Rollout
from pgzoo.interface.types import Aggregate

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


def test_discounts_are_zero_at_every_last_step() -> None:
    """Terminated, truncated, and cut at the edge of the rollout."""
    rollout = make_rollout([1, 2, 3, 4], terminated=[1, 0, 0, 0], truncated=[0, 0, 1, 0], gamma=0.9)
    close(rollout.discounts[:, 0], [0, 0.9, 0, 0])


def test_discounted_sums_by_hand() -> None:
    """γ = 0.5: 1 | 2 + 0.5 · 3 | 4. With decay 0.5: 2 + 0.25 · 3."""
    rollout = make_rollout([1, 2, 3, 4], terminated=[1, 0, 0, 0], truncated=[0, 0, 1, 0], gamma=0.5)
    close(rollout.discounted_sums(rollout.rewards)[:, 0], [1, 3.5, 3, 4])
    close(rollout.discounted_sums(rollout.rewards, 0.5)[:, 0], [1, 2.75, 3, 4])
    assert rollout.discounted_sums(rollout.rewards).dtype == np.float32
    close(rollout.discounted_sums(np.ones((4, 1), dtype=int))[:, 0], [1, 1.5, 1, 1])


@pytest.mark.parametrize(
    ("name", "need"),
    [("values", "VALUES"), ("next_values", "VALUES"), ("next_observations", "NEXT_OBSERVATIONS"),
     ("ratios", "RATIOS"), ("score_sq_norms", "SCORES"), ("distribution", "DISTRIBUTION"),
     ("next_distribution", "DISTRIBUTION and Need.NEXT_OBSERVATIONS")],
)  # fmt: skip
def test_an_absent_array_names_the_need(name: str, need: str) -> None:
    zeros = np.zeros((2, 1), np.float32)
    no = zeros.astype(bool)
    rollout = Rollout(
        rewards=zeros, terminated=no, truncated=no, mask=~no, step=zeros.astype(int), log_probs=zeros, gamma=1.0,
        actions=zeros[..., None], observations=zeros[..., None],
    )  # fmt: skip
    with pytest.raises(PluginError, match=rf"rollout\.{name} is absent: .* must declare Need\.{need}"):
        getattr(rollout, name)
    assert not hasattr(rollout, name)
    assert getattr(rollout.replace(**{name: zeros}), name).shape == (2, 1)
    assert not hasattr(rollout.replace(gamma=0.5), name)


def test_replace_changes_what_is_derived() -> None:
    rollout = make_rollout([1, 2, 3])
    assert rollout.n_episodes == 1
    assert rollout.replace(terminated=np.array([[True], [False], [True]])).n_episodes == 2


def test_arrays_are_read_only() -> None:
    rollout = make_rollout([1, 2, 3], values=[1, 2, 3])
    for name in ("rewards", "values", "observations", "last", "group"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(rollout, name)[0] = 1


def test_flat_and_scatter_are_inverse() -> None:
    rollout = make_rollout(**RAGGED)
    flat = rollout.flat(rollout.rewards)
    assert flat.tolist() == [1, 2, 3, 10, 20, 30, 40]  # environment by environment, as SB3's buffer
    close(rollout.scatter(flat)[rollout.mask], rollout.rewards[rollout.mask])
    assert rollout.scatter(flat)[3, 0] == 0


def batch(aggregate: Aggregate) -> Batch:
    """The seven steps of RAGGED with x = 1 … 7."""
    rollout = make_rollout(**RAGGED)
    weights = rollout.weights(aggregate)
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
def test_aggregates_by_hand(aggregate: Aggregate, expected: float) -> None:
    whole = batch(aggregate)
    assert float(whole.aggregate(whole.values)) == pytest.approx(expected)


@pytest.mark.parametrize("aggregate", ["step_mean", "episode_sum", "episode_mean"])
def test_minibatches_average_to_the_whole(aggregate: Aggregate) -> None:
    """Over all minibatches of one step, the mean of the aggregate is the whole's."""
    whole = batch(aggregate)
    parts: list[Any] = [whole.select(torch.tensor([i]), 1 / 7) for i in range(7)]
    means = [float(part.aggregate(part.advantages)) for part in parts]
    assert np.mean(means) == pytest.approx(float(whole.aggregate(whole.advantages)))


def test_scheduled_values() -> None:
    whole = batch("step_mean")
    assert whole.scheduled(0.2) == 0.2
    assert whole.scheduled(lambda left: 2 * left) == 0.5
    assert whole.scheduled({"schedule": "linear", "initial": 0.4}) == pytest.approx(0.1)
    assert whole.scheduled({"schedule": "linear", "initial": 1, "final": 0.5, "end_fraction": 0.5}) == 0.5
