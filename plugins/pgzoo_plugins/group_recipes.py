"""The built-in recipes that compare episodes from the same start."""

from __future__ import annotations

from collections.abc import Iterable

from pgzoo import Recipe, hookimpl

SEVERAL_EPOCHS = {"n_epochs": 4}
"""With one, ρ is 1 throughout, and a clip has nothing to do."""

RECIPES = (
    Recipe(
        "rloo",
        "the return minus the mean of the group's others (RLOO, Kool et al. 2019; Ahmadian et al. 2024)",
        "full_return",
        "leave_one_out",
        {"name": "policy_gradient", "aggregate": "episode_sum"},
        defaults={"sampling": "groups"},
    ),
    Recipe(
        "grpo",
        "the return standardised within its group, clipped, near a reference policy (Shao et al. 2024)",
        "full_return",
        "group",
        "grpo",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "dr_grpo",
        "GRPO without its two biases, the std and each episode's own length (Liu et al. 2025)",
        "full_return",
        {"name": "group", "scale": "none"},
        "dr_grpo",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "dapo",
        "GRPO with an asymmetric clip, and groups without a signal sampled anew (Yu et al. 2025)",
        "full_return",
        "group",
        "dapo",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "gspo",
        "GRPO clipped on the ratio of whole episodes (Zheng et al. 2025)",
        "full_return",
        "group",
        "gspo",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "cispo",
        "GRPO with the clip on the weight of a step (MiniMax-M1, 2025)",
        "full_return",
        "group",
        "cispo",
        defaults=SEVERAL_EPOCHS,
    ),
)


@hookimpl
def pgzoo_recipes() -> Iterable[Recipe]:
    """Offer the recipes."""
    return RECIPES
