"""Every kind of vector environment with every wrapper and sampling mode: train, evaluate, save, and evaluate again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3.common.vec_env import unwrap_vec_normalize

from pgzoo import PolicyGradient, Registry
from pgzoo.training.config import load_config
from pgzoo.training.environments import make_env
from pgzoo.training.evaluation import evaluate
from pgzoo.training.experiment import EVAL_SEED_OFFSET, TrainConfig, train
from pgzoo.training.run_folder import new_folder
from pgzoo.training.saved_model import run_normalizer

REGISTRY = Registry.discover()
SAMPLING = {
    "steps": ("a2c", {"n_steps": 16}),
    "episodes": ("rtg_value", {"n_episodes": 2}),
    "groups": ("rloo", {"n_episodes": 4, "group_size": 2}),
}
SUBPROC = pytest.param("subproc", marks=pytest.mark.slow)


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("frame_stack", [None, 2])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("vec_env", ["dummy", SUBPROC, "vector", "envpool"])
def test_a_saved_model_evaluates_as_it_did_in_training(
    vec_env: str, normalize: bool, frame_stack: int | None, sampling: str, tmp_path: Path
) -> None:
    """Finds wrappers that training and evaluation do not share, and statistics that belong to another model.

    The saved final model and the saved best model give the returns of the final evaluation and of the best one in
    evaluations.npz, on the same episodes.
    """
    if vec_env == "envpool":
        pytest.importorskip("envpool")
    plugin, settings = SAMPLING[sampling]
    overrides: dict[str, Any] = {**settings, "n_timesteps": 200, "n_envs": 2, "max_episode_steps": 30}
    overrides |= {"normalize": normalize, "frame_stack": frame_stack, "learning_rate": 0.01}
    config = load_config(REGISTRY, plugin, "CartPole-v1", overrides=overrides)
    options = TrainConfig(seed=1, vec_env=vec_env, device="cpu", eval_freq=60, eval_episodes=4)
    folder = new_folder(tmp_path, plugin, "CartPole-v1")
    result = train(config, REGISTRY, options, folder)
    assert result.final is not None
    assert max(result.final.lengths) <= 30

    evaluations = np.load(folder.path / "evaluations.npz")
    best = int(evaluations["results"].mean(axis=1).argmax())
    expected = {
        folder.model: (len(evaluations["results"]), list(result.final.returns)),
        folder.best_model: (best, list(evaluations["results"][best])),
    }
    for file, (n_before, returns) in expected.items():
        statistics = run_normalizer(config, file)
        assert (statistics is not None) == normalize
        env = make_env(config, n_envs=1, seed=1 + EVAL_SEED_OFFSET, training=False, statistics=statistics)
        model = PolicyGradient.load(file, device="cpu")
        for _ in range(n_before):  # CartPole draws random numbers in its resets only, so any policy will do
            evaluate(model, env, 4)
        assert list(evaluate(model, env, 4).returns) == returns
        assert (unwrap_vec_normalize(env) is not None) == normalize
        env.close()
