"""The mean gradient of unbiased recipes is the exact one, and the test detects every planted bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from tabular import TABULAR_POLICY, TabularVecEnv, logits, small_mdp

from pgzoo import Array, Baseline, PolicyGradient, Rollout, State

RECIPES = {
    "reinforce": "reinforce",
    "rtg": "rtg",
    "rtg_moving_average": "rtg_moving_average",
    "rtg_value": "rtg_value",
    "leave_one_out": "full_return+leave_one_out",
    "rtg_leave_one_out": "reward_to_go+leave_one_out",
    "time_mean": "reward_to_go+time_mean",
    "rtg_optimal": "rtg_optimal",
    "rloo": "rloo",
    "rtg_optimal in groups": "rtg_optimal",
    "james_stein in groups": "full_return+james_stein",
    "step_group in groups": "reward_to_go+step_group",
    "optimal_token in groups": "reward_to_go+optimal_token",
    "length_weighted in groups": "full_return+length_weighted",
}
FALSE_ALARM = 1e-4


def gradients(
    plugin: str,
    gamma: float,
    *,
    columns: int = 250,
    n_episodes: int = 500,
    updates: int = 80,
    discount_states: bool = True,
    **options: Any,
) -> tuple[np.ndarray, np.ndarray]:
    """Return (updates, S·A) estimates of the gradient with respect to the logits of a fixed policy, and the exact one.

    SGD with learning rate 1 moves the parameters by the estimate. They are reset after each update.
    """
    mdp = small_mdp()
    env = TabularVecEnv(mdp, columns, seed=11)
    if plugin.endswith(("time_mean", "optimal_token", "length_weighted")):
        options["plugin_kwargs"] = {"leave_one_out": True}
    model = PolicyGradient(
        "MlpPolicy",
        env,
        plugin,
        objective={"name": "policy_gradient", "aggregate": "episode_sum"},
        n_episodes=n_episodes,
        gamma=gamma,
        discount_states=discount_states,
        learning_rate=1.0,
        vf_coef=0.0 if "value" not in plugin else 0.5,
        max_grad_norm=None,
        policy_kwargs={
            **TABULAR_POLICY,
            "optimizer_class": torch.optim.SGD,
        },
        seed=1,
        device="cpu",
        **options,
    )
    actor: Any = model.policy.action_net
    with torch.no_grad():  # a policy that is not uniform, and a wrong critic of a realistic size
        actor.weight.copy_(torch.randn(3, 4, generator=torch.Generator().manual_seed(2)))
        model.policy.value_net.weight.fill_(2.0)
    exact = mdp.gradient(logits(model.policy), gamma).ravel()
    start = {name: value.clone() for name, value in actor.state_dict().items()}
    estimates = []
    model.learn(1)  # the first update initialises the moving average and is not measured
    for _ in range(updates):
        actor.load_state_dict(start)
        model.learn(1, reset_num_timesteps=False)
        moved = actor.weight.detach() - start["weight"]
        estimates.append(moved.T.numpy().ravel().astype(np.float64))
    return np.array(estimates), exact


def t_squared(estimates: np.ndarray, exact: np.ndarray) -> float:
    """Return the p-value of Hotelling's T² for the hypothesis that the mean estimate is the exact gradient.

    In every estimate the logits of a state sum to 0, so one action per state is left out.
    """
    from scipy import stats

    n_actions = 3
    free = np.arange(len(exact)) % n_actions != 0
    x, mu = estimates[:, free], exact[free]
    n, p = x.shape
    gap = x.mean(axis=0) - mu
    statistic = n * gap @ np.linalg.solve(np.cov(x.T), gap)
    return float(stats.f.sf(statistic * (n - p) / (p * (n - 1)), p, n - p))


@pytest.mark.parametrize(
    ("gamma", "recipes"),
    [
        pytest.param(1.0, list(RECIPES), marks=pytest.mark.slow, id="1.0"),
        pytest.param(0.8, list(RECIPES)[:9], id="0.8"),
        pytest.param(0.8, list(RECIPES)[9:], marks=pytest.mark.slow, id="0.8 in groups"),
    ],
)
def test_unbiased_recipes_jointly(gamma: float, recipes: list[str]) -> None:
    def p_value(name: str, plugin: str) -> float:
        # Groups of 5 share the initial state and noise. They reveal a baseline that includes its own episode.
        options: dict[str, Any] = {"sampling": "groups", "group_size": 5} if "groups" in name or name == "rloo" else {}
        return t_squared(*gradients(plugin, gamma, **options))

    p_values = {name: p_value(name, RECIPES[name]) for name in recipes}
    assert min(p_values.values()) > FALSE_ALARM / (2 * len(RECIPES)), p_values  # Bonferroni over both γ


@dataclass(frozen=True)
class SeesTheAction(Baseline):
    """b_t = 0.3·a_t, which biases the gradient."""

    name = "sees_the_action"
    unbiased = True

    def __call__(self, rollout: Rollout, returns: Array, state: State = None) -> Array:
        return 0.3 * rollout.actions[..., 0]


@pytest.mark.parametrize("wrong", ["action", "batch_mean", "group", "no discount_states", "full_return with γ^t"])
def test_the_test_detects_a_planted_bias(wrong: str, registry_with: Any) -> None:
    if wrong == "action":
        registry = registry_with(SeesTheAction)
        p = t_squared(*gradients("reward_to_go+sees_the_action", 1.0, registry=registry))
    elif wrong == "batch_mean":
        # With 500 episodes the bias is 1/500 and cannot be detected. With 5 episodes it is 1/5.
        small: dict[str, Any] = {"columns": 5, "n_episodes": 5, "updates": 2000}
        p = t_squared(*gradients("full_return+batch_mean", 1.0, **small))
        assert t_squared(*gradients("full_return+leave_one_out", 1.0, **small)) > FALSE_ALARM
    elif wrong == "group":  # its mean includes the episode itself
        p = t_squared(*gradients("full_return+group", 1.0, group_size=5, plugin_kwargs={"scale": "none"}))
    elif wrong == "no discount_states":
        p = t_squared(*gradients("rtg", 0.8, discount_states=False))
    else:
        from pgzoo_plugins.full_return import FullReturn

        @dataclass(frozen=True)
        class TwiceDiscounted(FullReturn):
            name = "twice_discounted"
            discounted_from = "step"  # type: ignore[assignment]  # planted: FullReturn fixes it to "start"

        p = t_squared(*gradients("twice_discounted+none", 0.8, registry=registry_with(TwiceDiscounted)))
    assert p < FALSE_ALARM


def test_the_exact_gradient_agrees_with_finite_differences() -> None:
    mdp = small_mdp()
    point = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = mdp.gradient(point, 0.8)
    numeric = np.empty_like(exact)
    for place in np.ndindex(*exact.shape):
        bump = torch.zeros_like(point)
        bump[place] = 1e-5
        up, down = mdp.objective(point + bump, 0.8), mdp.objective(point - bump, 0.8)
        numeric[place] = float(up - down) / 2e-5
    assert np.linalg.norm(numeric - exact) < 1e-6 * np.linalg.norm(exact)
