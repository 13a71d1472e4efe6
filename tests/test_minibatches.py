"""A rollout as tensors, its minibatches, and how the current policy evaluates it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pgzoo_plugins.minibatch_std import MinibatchStd
from rollouts import RAGGED, make_rollout
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo import Rollout
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.interface.batch import Samples
from pgzoo.interface.types import Aggregate
from pgzoo.updates.minibatches import current_ratios, minibatches, reevaluated, rescaled, to_samples

close = np.testing.assert_allclose


def make_policy() -> ActorCriticPolicy:
    torch.manual_seed(0)
    return ActorCriticPolicy(spaces.Box(-1, 1, (1,)), spaces.Discrete(2), lambda left: 0.0)


def ragged() -> Rollout:
    """Seven steps in two environments. Every step has its own observation, successor and log π_old."""
    rollout = make_rollout(**RAGGED, values=np.zeros((4, 2)))
    t_and_n = np.arange(8, dtype=np.float32).reshape(4, 2)
    return rollout.replace(
        next_observations=(10 + t_and_n)[..., None], log_probs=np.where(rollout.mask, -0.1 * t_and_n, 0)
    )


def samples_of(rollout: Rollout, policy: ActorCriticPolicy, aggregate: Aggregate = "step_mean") -> Samples:
    rewards = rollout.rewards
    return to_samples(rollout, policy, advantages=rewards, critic_targets=-rewards, weights=rollout.weights(aggregate))


def test_samples_are_ordered_by_environment_and_have_no_padding() -> None:
    """Finds steps in time order, and fields in different orders. Row 3 of the first environment is padding."""
    rollout = ragged()
    samples = to_samples(
        rollout, make_policy(), advantages=rollout.rewards, critic_targets=2.0 * rollout.rewards,
        old_values=rollout.rewards + 0.5, progress_remaining=0.25,
    )  # fmt: skip
    assert len(samples) == 7
    assert samples.advantages.tolist() == [1, 2, 3, 10, 20, 30, 40]
    assert samples.returns.tolist() == [2, 4, 6, 20, 40, 60, 80]
    assert samples.old_values.tolist() == [1.5, 2.5, 3.5, 10.5, 20.5, 30.5, 40.5]
    assert samples.observations.flatten().tolist() == [0, 2, 4, 1, 3, 5, 7]
    assert samples.actions.tolist() == [0, 0, 0, 1, 1, 1, 1]  # flat integers, as a Categorical takes them
    assert samples.episode.tolist() == [0, 0, 1, 2, 2, 2, 2]
    close(samples.old_log_probs, [0, -0.2, -0.4, -0.1, -0.3, -0.5, -0.7], rtol=1e-6)
    assert samples.advantages.dtype == samples.returns.dtype == torch.float32
    assert (samples.weights, samples.progress_remaining) == (None, 0.25)
    assert samples_of(rollout, make_policy()).old_values.tolist() == [0] * 7  # without a critic


def take(samples: Samples, batch_size: int | None, **options: Any) -> list[Samples]:
    options = {"whole_episodes": False, "shuffle_whole": False, **options}
    return list(minibatches(samples, batch_size, **options))


@pytest.mark.parametrize(("batch_size", "lengths"), [(3, [3, 3, 1]), (7, [7]), (100, [7]), (None, [7])])
def test_minibatches_of_steps_have_each_step_once(batch_size: int | None, lengths: list[int]) -> None:
    """Finds a remainder that is dropped or padded, and fields that are shuffled differently."""
    samples = samples_of(ragged(), make_policy())
    batches = take(samples, batch_size, shuffle_whole=True)
    assert [len(batch) for batch in batches] == lengths
    assert sorted(torch.cat([batch.advantages for batch in batches]).tolist()) == [1, 2, 3, 10, 20, 30, 40]
    for batch in batches:
        assert torch.equal(batch.returns, -batch.advantages)
        rows = [[1, 2, 3, 10, 20, 30, 40].index(int(x)) for x in batch.advantages]
        assert torch.equal(batch.observations, samples.observations[rows])


def test_one_minibatch_is_shuffled_only_on_request() -> None:
    """SB3's PPO shuffles it, its A2C does not. Finds a wasted copy, and an order that differs from theirs."""
    samples = samples_of(ragged(), make_policy())
    (batch,) = take(samples, None)
    assert batch is samples
    np.random.seed(3)
    expected = samples.advantages[np.random.permutation(7)]  # the order of SB3's RolloutBuffer.get
    np.random.seed(3)
    (batch,) = take(samples, None, shuffle_whole=True)
    assert torch.equal(batch.advantages, expected)


@pytest.mark.parametrize(("batch_size", "n_batches"), [(4, 3), (5, 3), (1, 6), (12, 1), (None, 1)])
def test_minibatches_of_episodes_have_each_episode_once_and_whole(batch_size: int | None, n_batches: int) -> None:
    """Six episodes of two steps. With size 5, one that starts at step 0 … 4 is in the first minibatch: 3 + 2 + 1."""
    rollout = make_rollout(np.arange(12).reshape(4, 3), terminated=[[0, 0, 0], [1, 1, 1]] * 2)
    batches = take(samples_of(rollout, make_policy()), batch_size, whole_episodes=True)
    assert len(batches) == n_batches
    if batch_size == 5:
        assert [len(batch) for batch in batches] == [6, 4, 2]
    for batch in batches:
        assert torch.bincount(batch.episode)[torch.unique(batch.episode)].tolist() == [2] * (len(batch) // 2)
    assert sorted(torch.cat([batch.episode for batch in batches]).tolist()) == sorted([*range(6)] * 2)
    assert sorted(torch.cat([batch.advantages for batch in batches]).tolist()) == list(range(12))


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_weights_keep_their_scale(whole_episodes: bool) -> None:
    """RAGGED has three episodes. The weight of a step is 1/3 in the rollout.

    In a minibatch of B of the 7 steps it is 1/3 · 7/B. In one of E of the 3 episodes it is 1/3 · 3/E = 1/E. Finds
    minibatches whose gradient grows or shrinks with their size.
    """
    samples = samples_of(ragged(), make_policy(), "episode_sum")
    batches = take(samples, 2, whole_episodes=whole_episodes)
    assert len(batches) > 1
    for batch in batches:
        n_episodes = len(torch.unique(batch.episode))
        expected = 1 / n_episodes if whole_episodes else 7 / 3 / len(batch)
        assert batch.weights is not None
        close(batch.weights, [expected] * len(batch), rtol=1e-6)


def test_each_minibatch_is_normalised_by_itself() -> None:
    """1, 3 → ∓1/√2: the mean is 2 and the sample deviation √2. One step alone has no deviation and stays as it is.

    Finds a deviation with n instead of n − 1, and one that is taken over the whole rollout: 1, 3, 4.
    """

    def normalised(samples: Samples) -> torch.Tensor:
        return rescaled(samples, MinibatchStd(), "minibatch", None).advantages

    samples = samples_of(make_rollout([1, 3, 4]), make_policy())
    pair, single = samples.select(torch.tensor([0, 1]), 2 / 3), samples.select(torch.tensor([2]), 1 / 3)
    close(normalised(pair), [-(0.5**0.5), 0.5**0.5], rtol=1e-6)
    assert normalised(single).tolist() == [4]
    assert samples.advantages.tolist() == [1, 3, 4]


def expected_ratios(rollout: Rollout, policy: Any) -> Any:
    """π(a|s) / π_old(a|s), from the softmax of the logits, one step at a time; 0 on padding."""
    ratios = np.zeros(rollout.shape)
    for t, n in np.argwhere(rollout.mask):
        observation = torch.tensor(np.asarray(rollout.observations)[t, n])[None]
        logits = policy.action_net(policy.mlp_extractor.forward_actor(observation))[0]
        probability = float(logits.detach().softmax(0)[int(rollout.actions[t, n, 0])])
        ratios[t, n] = probability / np.exp(rollout.log_probs[t, n])
    return ratios


def test_reevaluation_against_softmax_and_critic() -> None:
    """Finds π_old/π, the probability of another action, columns that are mixed up, and a rollout that is changed.

    Also V of the next row instead of the true successor, and a bootstrap after termination.
    """
    rollout, policy = ragged(), make_policy()
    head: Any = policy.action_net
    with torch.no_grad():
        head.weight.add_(torch.randn(2, 64))  # away from the uniform policy
    samples, backend = samples_of(rollout, policy), SB3Backend(policy, has_critic=True)
    now = reevaluated(rollout, samples, backend)
    for ratios in (current_ratios(rollout, samples, backend), now.ratios):
        close(ratios, expected_ratios(rollout, policy), rtol=1e-5)
    assert np.ptp(now.ratios[rollout.mask]) > 0.1
    for t, n in np.argwhere(rollout.mask):
        value = policy.predict_values(torch.tensor([[2.0 * t + n]])).item()  # observations count row by row
        successor_value = policy.predict_values(torch.tensor([[10 + 2.0 * t + n]])).item()
        assert now.values[t, n] == pytest.approx(value, rel=1e-5)
        assert now.next_values[t, n] == pytest.approx(0 if rollout.terminated[t, n] else successor_value, rel=1e-5)
    assert (now.values[3, 0], now.next_values[3, 0]) == (0, 0)  # padding
    assert (rollout.values == 0).all()


def test_reevaluation_is_without_dropout_and_returns_to_training() -> None:
    """Finds random ratios, and an update that goes on in evaluation mode. Without a critic, V stays absent."""
    policy = make_policy()
    policy.mlp_extractor.policy_net.append(torch.nn.Dropout(0.5))
    rollout = make_rollout([1, 2, 3])
    samples = replace(samples_of(rollout, policy), old_log_probs=torch.full((3,), -1.0))
    backend = SB3Backend(policy, has_critic=False)
    policy.set_training_mode(True)
    first, second = (reevaluated(rollout, samples, backend) for _ in range(2))
    assert np.array_equal(first.ratios, second.ratios)
    assert policy.training
    assert not hasattr(first, "values")
    assert not hasattr(first, "next_values")
