"""Every recipe that the README names learns a small MDP, and does not if its advantages are wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import PolicyGradient, Registry
from pgzoo.lab.measure.exact import TabularMDP, action_probabilities
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.tabular import TabularVecEnv
from pgzoo.registry.combination import resolve

REGISTRY = Registry.discover()
README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
RECIPES = [name for name in REGISTRY.recipes() if re.search(rf"(?<![\w+/]){name}(?![\w+/])", README)]
GAMMA = 0.95
UPDATES = 40
BOUND = 0.8


class WrongAdvantages(BaseCallback):
    """Shuffles the advantages of each rollout among its steps, or changes their sign."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.rng = fault, np.random.default_rng(0)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        model: Any = self.model
        advantages, mask = model.rollout_buffer.advantages.copy(), model.rollout.mask
        advantages[mask] = -advantages[mask] if self.fault == "sign" else self.rng.permutation(advantages[mask])
        model.rollout_buffer.advantages = advantages


def largest_return(mdp: TabularMDP) -> float:
    """Return the largest J, by backward recursion over the horizon."""
    assert mdp.horizon is not None
    rewards, values = (mdp.transitions * mdp.rewards).sum(axis=2), np.zeros(mdp.n_states)
    for _ in range(mdp.horizon):
        values = (rewards + GAMMA * mdp.transitions[:, :, :-1] @ values).max(axis=1)
    return float(mdp.start @ values)


def progress(recipe: str, *, seed: int = 0, fault: str = "") -> float:
    """Return how far the policy gets from the J of the uniform policy, 0, to the largest J, 1, both exact."""
    mdp, n_envs = make_mdp("trap"), 16
    combination = resolve(REGISTRY, recipe)
    sampling = combination.sampling.name
    settings: dict[str, Any] = {"n_steps": 16} if sampling == "steps" else {"n_episodes": 2 * n_envs}
    if sampling == "groups":
        settings["group_size"] = 8
    if fault and hasattr(combination.update, "n_epochs"):
        settings["n_epochs"] = 1  # before later epochs, vtrace computes its advantages again
    env: Any = TabularVecEnv(mdp, n_envs, seed)
    if sampling == "vine":  # it copies separate environments
        env = make_vec_env("pgzoo/Trap-v0", n_envs, seed=seed)
    model = PolicyGradient(
        "MlpPolicy", env, recipe, gamma=GAMMA, learning_rate=0.05, **settings,
        policy_kwargs={"net_arch": []}, seed=seed, device="cpu",
    )  # fmt: skip
    for _ in range(UPDATES):
        model.learn(1, WrongAdvantages(fault) if fault else None, reset_num_timesteps=False)
    with torch.no_grad():
        final = float(mdp.objective(action_probabilities(mdp, model.policy), GAMMA))
    uniform = torch.full((mdp.n_states, mdp.n_actions), 1 / mdp.n_actions, dtype=torch.float64)
    start = float(mdp.objective(uniform, GAMMA))
    return (final - start) / (largest_return(mdp) - start)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_learns(recipe: str) -> None:
    """With seeds 0 and 1 all recipes reach 0.95 or more."""
    assert progress(recipe) > BOUND


@pytest.mark.parametrize("fault", ["sign", "shuffled"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_does_not_learn_from_wrong_advantages(recipe: str, fault: str) -> None:
    """With the wrong sign all recipes end below −0.6, with shuffled ones below 0.4."""
    assert progress(recipe, fault=fault) < BOUND


def test_the_recipes_are_those_of_the_readme() -> None:
    assert {"rtg_value", "ppo", "grpo", "advantage", "vtrace"} <= set(RECIPES)
