"""Two recipes learn CartPole-v1 with their files in hyperparams/. The final model is evaluated on fresh seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgzoo.registry.plugins import Registry
from pgzoo.training.config import load_config
from pgzoo.training.experiment import TrainConfig, train
from pgzoo.training.run_folder import new_folder


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "at_least"), [("rtg_value", 475), ("ppo", 450)])
def test_a_recipe_learns_cartpole(recipe: str, at_least: float, tmp_path: Path) -> None:
    registry = Registry.discover()
    config = load_config(registry, recipe, "CartPole-v1")
    options = TrainConfig(seed=0, device="cpu", eval_freq=-1, eval_episodes=100)
    result = train(config, registry, options, new_folder(tmp_path, recipe, "CartPole-v1"))
    assert result.final is not None
    assert result.final.mean >= at_least
    assert config.run.n_timesteps <= 500_000
