"""A rollout is a value: what it holds does not depend on when it is read."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.policies import ActorCriticPolicy

from pgzoo import Baseline, Need, PolicyGradient, Rollout

NEEDS = {Need.VALUES, Need.COMPLETE_EPISODES, Need.SCORES} | {Need[n] for n in ("RATIOS",) if n in Need.__members__}


class Seen:
    """What the part below saw: rollouts, and scores and ratios that were first read in `update`."""

    rollouts: list[Rollout]
    scores: list[Any]
    ratios: list[Any]


@dataclass(frozen=True)
class ReadsLate(Baseline):
    """b = 0. It reads scores and ratios in `update`, after the policy moved, and keeps every rollout."""

    name = "reads_late"
    needs = frozenset(NEEDS)

    def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
        return 0.0

    def update(self, rollout: Any, returns: Any, state: Any, optimizer: Any) -> Any:
        Seen.rollouts.append(rollout)
        Seen.scores.append(rollout.score_sq_norms.copy())
        Seen.ratios.append(rollout.ratios.copy())
        return {}


@pytest.fixture
def model() -> PolicyGradient:
    Seen.rollouts, Seen.scores, Seen.ratios = [], [], []
    return PolicyGradient(
        "MlpPolicy", "CartPole-v1", "rtg", baseline=ReadsLate(), n_episodes=3, learning_rate=0.05, seed=0, device="cpu"
    )


def distribution(policy: ActorCriticPolicy, rollout: Rollout) -> torch.Tensor:
    """π(· | s_t), (T, 2), of the only environment."""
    observations = torch.as_tensor(np.array(rollout.observations)[:, 0])
    with torch.no_grad():
        categorical: Any = policy.get_distribution(observations).distribution
        probabilities: torch.Tensor = categorical.probs
    return probabilities


def scores_by_hand(policy: ActorCriticPolicy, rollout: Rollout) -> Any:
    """Σ_j (1[j = a] − π_j)² of two actions is 2 (1 − π_a)²."""
    probs = distribution(policy, rollout)
    chosen = probs.gather(1, torch.as_tensor(rollout.actions[:, 0]).long())[:, 0]
    return (2 * (1 - chosen) ** 2).numpy()


def test_scores_read_in_update_are_those_of_the_policy_that_sampled(model: PolicyGradient) -> None:
    before = copy.deepcopy(model.policy)
    model.learn(1)
    (rollout,), (scores,) = Seen.rollouts, Seen.scores
    np.testing.assert_allclose(scores[:, 0], scores_by_hand(before, rollout), atol=1e-5)
    moved = np.abs(scores_by_hand(before, rollout) - scores_by_hand(model.policy, rollout)).max()
    assert moved > 1e-3, "the policy must have moved for this test to mean anything"


def test_a_kept_rollout_keeps_its_scores_and_ratios(model: PolicyGradient) -> None:
    before = copy.deepcopy(model.policy)
    model.learn(1)
    sampled, updated = model.rollout, Seen.rollouts[0]
    model.learn(1, reset_num_timesteps=False)
    assert model.rollout.shape != sampled.shape, "the two rollouts must differ in length for this test"
    expected = scores_by_hand(before, sampled)
    for rollout in (sampled, updated):
        np.testing.assert_allclose(rollout.score_sq_norms[:, 0], expected, atol=1e-5)
    assert (sampled.ratios == 1).all()
    assert np.array_equal(updated.ratios, Seen.ratios[0])


def test_ratios_in_update_are_those_of_the_updated_policy(model: PolicyGradient) -> None:
    before = copy.deepcopy(model.policy)
    model.learn(1)
    (rollout,), (ratios,) = Seen.rollouts, Seen.ratios
    actions = torch.as_tensor(rollout.actions[:, 0]).long()
    new, old = (distribution(policy, rollout).gather(1, actions)[:, 0] for policy in (model.policy, before))
    np.testing.assert_allclose(ratios[:, 0], (new / old).numpy(), rtol=1e-4)
    assert np.abs(ratios - 1).max() > 1e-3
