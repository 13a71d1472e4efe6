"""The algorithm's own hyperparameters, declared as a plugin declares its own.

Names, and meanings where SB3 has them, are those of SB3's A2C and PPO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pgzoo.interface.hyperparameters import Range, Schedule, Search

POSITIVE = Range(1)
NOT_NEGATIVE = Range(0)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """How to sample, optimise and log; a recipe's defaults replace these."""

    sampling: Annotated[
        Literal["auto", "steps", "episodes", "groups"], "what a rollout is made of; auto: what the parts need"
    ] = "auto"
    n_steps: Annotated[
        int, POSITIVE, Search(choices=(8, 16, 32, 64, 128, 256, 512)), "steps per environment and update"
    ] = 128
    n_episodes: Annotated[
        int | None,
        POSITIVE,
        Search(choices=(4, 8, 16, 32)),
        "whole episodes per update, over all environments",
    ] = None
    group_size: Annotated[int, POSITIVE, Search(choices=(4, 8, 16)), "episodes from each initial state, for groups"] = 8
    group_options: Annotated[dict[str, Any] | None, "what groups pass to reset(options=…)"] = None
    max_episode_steps: Annotated[int, POSITIVE, "a longer episode is an error"] = 100_000
    learning_rate: Annotated[float | Schedule, Range(0), Search(1e-5, 1e-2, log=True), "step size of the optimizer"] = (
        7e-4
    )
    batch_size: Annotated[
        int | None,
        POSITIVE,
        Search(choices=(32, 64, 128, 256)),
        "steps per minibatch; none: all at once, as policy_gradient asks",
    ] = None
    n_epochs: Annotated[int, POSITIVE, Search(choices=(1, 4, 10)), "passes over a rollout"] = 1
    n_critic_updates: Annotated[
        int, NOT_NEGATIVE, Search(choices=(0, 5, 10, 20)), "further passes over a rollout for the critic alone"
    ] = 0
    gamma: Annotated[
        float, Range(0, 1), Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995, 0.999)), "γ, discount factor"
    ] = 0.99
    ent_coef: Annotated[float, NOT_NEGATIVE, Search(1e-5, 0.1, log=True), "weight of the entropy bonus"] = 0.0
    vf_coef: Annotated[float, NOT_NEGATIVE, Search(0.2, 1.0), "weight of the critic's loss"] = 0.5
    max_grad_norm: Annotated[
        float | None, Range(0, open_low=True), Search(0.3, 5.0, log=True), "clip the gradient to this norm"
    ] = 0.5
    normalize_advantage: Annotated[
        bool | Literal["rollout", "minibatch"],
        Search(choices=(False, True)),
        "to mean 0 and std 1; true: over each minibatch, as in SB3",
    ] = False
    target_kl: Annotated[float | None, Range(0, open_low=True), "stop the epochs at 1.5 times this KL"] = None
    discount_states: Annotated[bool, "multiply Ψ_t by γ^t, which the discounted objective asks for"] = False
    use_rms_prop: Annotated[bool, "RMSprop in place of Adam"] = False
    rms_prop_eps: Annotated[float, Range(0, open_low=True), "ε of RMSprop"] = 1e-5
    use_sde: Annotated[bool, "state-dependent exploration (gSDE)"] = False
    sde_sample_freq: Annotated[int, Range(-1), "new gSDE noise every this many steps; -1: once a rollout"] = -1
    log_interval: Annotated[int, POSITIVE, "updates between two logs"] = 1
