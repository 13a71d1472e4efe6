"""The hyperparameters of the algorithm itself, declared in the same way as a plugin's.

Names that also exist in SB3's A2C and PPO have the same meaning here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pgzoo.interface.hyperparameters import Positive, Range, Schedule, Search

UPDATE_FIELDS = (
    "n_epochs", "batch_size", "n_critic_updates", "ent_coef", "target_entropy", "vf_coef", "max_grad_norm", "target_kl",
)  # fmt: skip
"""Arguments of SB3's algorithms that are hyperparameters of the update.

They are written without `update.` in YAML and in studies. `algorithm.n_epochs`, as older files and models say, means
`update.n_epochs`.
"""

SAMPLING_KEYWORDS = ("n_steps", "n_episodes", "group_size", "group_options", "episode_bound")
"""Keyword arguments of `PolicyGradient` that are hyperparameters of the sampling, written without `sampling.`"""

SHORT = {"algorithm": None, "update": UPDATE_FIELDS, "sampling": SAMPLING_KEYWORDS}
"""The hyperparameters that are written without their owner; None for all of an owner's."""


def short_name(key: str) -> str:
    """Return a hyperparameter's name in YAML: `n_epochs` for `update.n_epochs`, `gamma` for `algorithm.gamma`."""
    owner, _, field = key.rpartition(".")
    fields = SHORT.get(owner, ())
    return field if fields is None or field in fields else key


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
    critic_learning_rate: Annotated[
        float | Schedule | None, Range(0), "step size of the parameters that only the critic has; none: learning_rate"
    ] = None
    gamma: Annotated[float, Range(0, 1), Search(0.9, 0.9999, scale="log1m"), "γ, discount factor"] = 0.99
    discount_states: Annotated[bool, "multiply Ψ_t by γ^t, as the discounted objective requires"] = False
    use_rms_prop: Annotated[bool, "RMSprop instead of Adam"] = False
    rms_prop_eps: Annotated[float, Positive, "ε of RMSprop"] = 1e-5
    use_sde: Annotated[bool, "state-dependent exploration (gSDE)"] = False
    sde_sample_freq: Annotated[int, Range(-1), "steps between new gSDE noise; -1: once per rollout"] = -1
    log_interval: Annotated[int, Range(1), "updates between two logs"] = 1
