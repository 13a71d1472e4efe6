"""The built-in recipes that compare episodes from the same initial state."""

from __future__ import annotations

from collections.abc import Iterable

from pgzoo import Recipe, hookimpl

SEVERAL_EPOCHS = {"n_epochs": 4}
"""With a single epoch ρ = 1 at every step, and the clip has no effect."""

RECIPES = (
    Recipe(
        "rloo",
        "the return minus the mean of the others in its group (RLOO, Kool et al. 2019; Ahmadian et al. 2024)",
        "full_return",
        "leave_one_out",
        {"name": "policy_gradient", "aggregate": "episode_sum"},
        sampling="groups",
    ),
    Recipe(
        "grpo",
        "the return standardised within its group, with a clipped ratio and a KL penalty (Shao et al. 2024)",
        "full_return",
        "group",
        "grpo",
        "group_std",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "dr_grpo",
        "GRPO without division by the standard deviation or by the episode's length (Liu et al. 2025)",
        "full_return",
        "group",
        "dr_grpo",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "dapo",
        "GRPO with an asymmetric clip range that resamples groups of equal returns (Yu et al. 2025)",
        "full_return",
        "group",
        "dapo",
        "group_std",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "gspo",
        "GRPO that clips the ratio of whole episodes (Zheng et al. 2025)",
        "full_return",
        "group",
        "gspo",
        "group_std",
        defaults=SEVERAL_EPOCHS,
    ),
    Recipe(
        "cispo",
        "GRPO in which the clip limits the weight of a step (MiniMax-M1, 2025)",
        "full_return",
        "group",
        "cispo",
        "group_std",
        defaults=SEVERAL_EPOCHS,
    ),
)


@hookimpl
def pgzoo_plugins() -> Iterable[Recipe]:
    """Register the recipes."""
    return RECIPES
