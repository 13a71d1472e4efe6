"""The built-in recipes that need no groups, in the order of a course."""

from __future__ import annotations

from collections.abc import Iterable

from pgzoo import Recipe, hookimpl

PPO_DEFAULTS = {
    "learning_rate": 3e-4,
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "max_grad_norm": 0.5,
}

RECIPES = (
    Recipe(
        "reinforce",
        "REINFORCE: every action is credited with the return of the whole episode (Williams 1992)",
        "full_return",
    ),
    Recipe(
        "rtg",
        "reward-to-go: an action is credited with later rewards only (Sutton et al. 2000; GPOMDP)",
        "reward_to_go",
    ),
    Recipe(
        "rtg_batch_mean",
        "reward-to-go minus the mean return of the batch (Weaver & Tao 2001)",
        "reward_to_go",
        "batch_mean",
    ),
    Recipe(
        "rtg_moving_average",
        "reward-to-go minus a moving average over earlier batches (Williams 1992)",
        "reward_to_go",
        "moving_average",
    ),
    Recipe(
        "rtg_value",
        "reward-to-go minus a learned V: REINFORCE with baseline (Sutton & Barto 2018, sec. 13.4)",
        "reward_to_go",
        "value",
    ),
    Recipe(
        "rtg_optimal",
        "reward-to-go minus the constant baseline of least variance (Greensmith et al. 2004; Peters & Schaal 2008)",
        "reward_to_go",
        "optimal",
    ),
    Recipe(
        "td_value",
        "the TD residual: one-step actor-critic (Sutton & Barto 2018, sec. 13.5)",
        "td",
        "value",
    ),
    Recipe(
        "n_step_value",
        "n-step actor-critic (Mnih et al. 2016)",
        "n_step",
        "value",
    ),
    Recipe(
        "gae",
        "generalized advantage estimation with the plain policy gradient (Schulman et al. 2016)",
        "lambda_return",
        "value",
    ),
    Recipe(
        "advantage",
        "the advantage Q(s, a) − Σ π Q(s, ·) of one learned Q (Sutton et al. 2000)",
        "q_value",
        "expected_q",
    ),
    Recipe(
        "a2c",
        "SB3's A2C with its defaults (Mnih et al. 2016)",
        {"name": "lambda_return", "gae_lambda": 1.0},
        "value",
        defaults={
            "learning_rate": 7e-4,
            "n_steps": 5,
            "max_grad_norm": 0.5,
            "use_rms_prop": True,
            "rms_prop_eps": 1e-5,
            "log_interval": 100,
        },
    ),
    Recipe(
        "ppo",
        "SB3's PPO with its defaults (Schulman et al. 2017)",
        "lambda_return",
        "value",
        "ppo_clip",
        "minibatch_std",
        defaults=PPO_DEFAULTS,
    ),
    Recipe(
        "rtg_ppo",
        "PPO's clip with the returns of whole episodes: several passes per rollout, and no bootstrapping",
        "reward_to_go",
        "value",
        "ppo_clip",
        "minibatch_std",
        defaults={"learning_rate": 3e-4, "batch_size": 128, "n_epochs": 10, "max_grad_norm": 0.5},
    ),
    Recipe(
        "ppo_kl",
        "PPO with an adaptive KL penalty instead of the clip (Schulman et al. 2017, sec. 4)",
        "lambda_return",
        "value",
        "ppo_kl",
        "minibatch_std",
        defaults=PPO_DEFAULTS,
    ),
    Recipe(
        "vtrace",
        "the policy gradient over several epochs, with V-trace returns (IMPALA, Espeholt et al. 2018)",
        "vtrace",
        "value",
        defaults={"n_epochs": 4},
    ),
)


@hookimpl
def pgzoo_plugins() -> Iterable[Recipe]:
    """Register the recipes."""
    return RECIPES
