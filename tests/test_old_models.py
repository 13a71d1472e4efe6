"""Models that were saved before the package was rearranged load and go on.

`tests/data/models` was written by commit 30ca4dd: each recipe trained for 64 steps on CartPole-v1 with
seed 0 and four hidden units. `expected.json` has the action probabilities at one observation, and the sum of |x| over
what each part had learned, as that version computed them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from pgzoo import PolicyGradient

FOLDER = Path(__file__).parent / "data" / "models"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))
OBSERVATION = [0.1, -0.2, 0.03, 0.4]


def learned(model: PolicyGradient, name: str) -> float:
    arrays = model.part_states.arrays()[name].values()
    return float(sum(np.abs(np.asarray(x)).sum() for x in arrays))


@pytest.mark.parametrize("recipe", EXPECTED)
def test_an_old_model_loads_and_goes_on(recipe: str, tmp_path: Path) -> None:
    expected: dict[str, Any] = EXPECTED[recipe]
    model = PolicyGradient.load(FOLDER / recipe, env=gym.make("CartPole-v1"), device="cpu")
    with torch.no_grad():
        distribution: Any = model.policy.get_distribution(torch.tensor([OBSERVATION]))
    np.testing.assert_allclose(distribution.distribution.probs[0], expected["probs"], atol=1e-6)
    assert (model.num_timesteps, model._n_updates) == (expected["num_timesteps"], expected["n_updates"])
    assert model.groups_drawn == expected["groups_drawn"]
    assert {name: learned(model, name) for name in expected["states"]} == pytest.approx(expected["states"], rel=1e-6)

    model.learn(32, reset_num_timesteps=False)
    model.save(tmp_path / "again")
    again = PolicyGradient.load(tmp_path / "again", device="cpu")
    for name in expected["states"]:  # what was learned since is saved, not what the old file had
        assert learned(again, name) == pytest.approx(learned(model, name))
    for name in expected["states"]:
        if recipe in ("rtg_moving_average", "advantage"):  # whose states learn from every rollout
            assert learned(again, name) != expected["states"][name]
