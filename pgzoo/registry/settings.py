"""The hyperparameters of the algorithm itself, declared in the same way as a plugin's.

Names that also exist in SB3's A2C and PPO have the same meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pgzoo.interface.hyperparameters import Positive, Range, Schedule, Search

SAMPLING_KEYWORDS = ("n_steps", "n_episodes", "group_size", "group_options", "episode_bound")
"""Keyword arguments of `PolicyGradient` that are hyperparameters of the sampling."""


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """How to discount, optimise and log. The defaults of a recipe replace those of this class."""

    missing_terminal_observation: Annotated[
        Literal["error", "terminate", "last_observation"],
        "at a time limit without terminal observation: stop, treat it as a termination, or use the observation before",
    ] = "error"
    learning_rate: Annotated[float | Schedule, Range(0), Search(1e-5, 1e-2, log=True), "step size of the optimizer"] = (
        7e-4
    )
    batch_size: Annotated[
        int | None, Range(1), Search(choices=(32, 64, 128, 256)), "steps per minibatch; none: the whole rollout"
    ] = None
    n_epochs: Annotated[int, Range(1, 10_000), Search(choices=(1, 4, 10)), "passes over a rollout"] = 1
    n_critic_updates: Annotated[
        int,
        Range(0, 10_000),
        Search(choices=(0, 5, 10, 20)),
        "further passes over a rollout that train the critic alone",
    ] = 0
    gamma: Annotated[
        float, Range(0, 1), Search(choices=(0.9, 0.95, 0.98, 0.99, 0.995, 0.999)), "γ, discount factor"
    ] = 0.99
    ent_coef: Annotated[float, Range(0), Search(1e-5, 0.1, log=True), "weight of the entropy bonus"] = 0.0
    vf_coef: Annotated[float, Range(0), Search(0.2, 1.0), "weight of the critic's loss"] = 0.5
    max_grad_norm: Annotated[
        float | None, Positive, Search(0.3, 5.0, log=True), "largest norm of the gradient; none: do not clip"
    ] = 0.5
    normalize_advantage: Annotated[
        bool | Literal["rollout", "minibatch"],
        Search(choices=(False, True)),
        "to mean 0 and standard deviation 1; true: per minibatch, as in SB3",
    ] = False
    target_kl: Annotated[
        float | None, Positive, "stop an update's epochs when the KL exceeds 1.5 times this; none: do not stop"
    ] = None
    discount_states: Annotated[bool, "multiply Ψ_t by γ^t, as the discounted objective requires"] = False
    use_rms_prop: Annotated[bool, "RMSprop instead of Adam"] = False
    rms_prop_eps: Annotated[float, Positive, "ε of RMSprop"] = 1e-5
    use_sde: Annotated[bool, "state-dependent exploration (gSDE)"] = False
    sde_sample_freq: Annotated[int, Range(-1), "steps between new gSDE noise; -1: once per rollout"] = -1
    log_interval: Annotated[int, Range(1), "updates between two logs"] = 1
