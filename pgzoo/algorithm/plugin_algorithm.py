"""An SB3 on-policy algorithm whose parts are plugins: its attributes and how it is set up."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space

from pgzoo.algorithm.part_states import PartStates
from pgzoo.backends.backend import Backend
from pgzoo.backends.choice import Fast, choose_backend, still_applies
from pgzoo.errors import ConfigError
from pgzoo.interface.hyperparameters import plain_fields
from pgzoo.interface.parts import Baseline, Estimator, Objective, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.schedules import as_schedule
from pgzoo.interface.types import Array, Need
from pgzoo.registry.combination import Combination
from pgzoo.registry.plugins import Kind, Registry
from pgzoo.sampling.collector import SamplingAlgorithm
from pgzoo.sampling.modes import GroupSeeds, make_sampling_mode

SMALL_LAYER = 256
"""Units of a hidden layer up to which MlpPolicy is faster on a CPU than on a GPU."""


class PluginAlgorithm(SamplingAlgorithm):
    """An SB3 on-policy algorithm whose parts are plugins.

    The settings of `AlgorithmConfig` are attributes of the same names. Plain attributes are saved; everything that is
    derived from them is made by `_setup_model`.

    Attributes:
        registry: where the plugins come from; not saved.
        plugin: what was asked for, a recipe or `estimator+baseline[+objective]`.
        combination: the parts and settings, checked; not saved.
        estimator, baseline, objective: its parts; not saved.
        has_critic: whether V is trained; not saved.
        parts: name, distribution and fields of each part by kind, in plain data.
        part_states: what the parts learned.
        part_state_arrays: the same as plain arrays, at the last save or load.
        rollout: the last rollout; not saved.
        returns: its R̂ (T, N); not saved.
        group_seed, groups_drawn: the state of the stream of group seeds.
        fast: "auto", True or False, see `PolicyGradient`.
        saved_by: pgzoo's name and version at the last save; empty before.
    """

    registry: Registry
    plugin: str
    combination: Combination
    estimator: Estimator
    baseline: Baseline
    objective: Objective
    has_critic: bool
    parts: dict[Kind, dict[str, Any]]
    part_states: PartStates
    part_state_arrays: dict[str, Any]
    rollout: Rollout
    returns: Array
    group_seed: int
    groups_drawn: int
    fast: Fast = "auto"
    saved_by: str
    n_epochs: int
    n_critic_updates: int
    batch_size: int | None
    target_kl: float | None
    normalize_advantage: bool | str
    discount_states: bool
    max_episode_steps: int
    group_size: int
    group_options: dict[str, Any] | None
    log_interval: int

    def _init_plugins(self, combination: Combination, fast: Fast, requested_device: torch.device | str) -> None:
        """Set the attributes that a new model has before it is set up."""
        self.fast = fast
        self._requested_device = requested_device
        self.part_state_arrays = {}
        self.saved_by = ""
        self.group_seed = int(np.random.SeedSequence(self.seed).generate_state(1)[0])
        self.groups_drawn = 0
        self._adopt(combination)

    def _adopt(self, combination: Combination) -> None:
        """Take a combination, and describe it by plain attributes, which are saved."""
        self.combination = combination
        self.plugin = combination.plugin
        self.estimator, self.baseline, self.objective = (
            combination.estimator,
            combination.baseline,
            combination.objective,
        )
        self.has_critic = Need.VALUES in combination.needs
        for name, value in plain_fields(combination.algorithm).items():
            setattr(self, name, value)
        if isinstance(self.learning_rate, dict):
            self.learning_rate = as_schedule(self.learning_rate)
        self.gae_lambda = getattr(combination.estimator, "gae_lambda", 1.0)
        self.parts = {
            kind: {
                "name": part.name,
                "distribution": self.registry.origin(type(part)),
                "fields": plain_fields(part),
            }
            for kind, part in combination.parts.items()
        }

    def _setup_model(self) -> None:
        self._group_seeds = GroupSeeds(self.group_seed, self.groups_drawn)
        self.sampling_mode = make_sampling_mode(
            self.combination, self.n_steps, self.n_envs, self.gamma, self._group_seeds
        )
        if self.combination.sampling == "groups" and self.group_size == 1 and Need.GROUPS in self.combination.needs:
            warnings.warn(f"with group_size=1, {self.plugin!r} has nothing to compare: all Ψ are 0", stacklevel=2)
        self._check_buffer_class()
        self._choose_device()
        super()._setup_model()
        self.make_part_states()
        self.part_states.load_arrays(self.part_state_arrays)
        self._episode_steps = np.zeros(self.n_envs, dtype=int)
        self._choose_backend()

    def make_part_states(self) -> None:
        """Make the states of the parts anew, for the policy as it is now."""
        self.part_states = PartStates(
            self.combination.parts, Spaces(self.observation_space, self.action_space, self.policy), self.device
        )

    @property
    def backend(self) -> Backend:
        """How the policy is evaluated and updated.

        It is chosen again if the policy or its optimizer was replaced, or if parameters were frozen or unfrozen.
        """
        if not still_applies(self._backend, self.policy, type(self.rollout_buffer), fast=self.fast):
            self._choose_backend()
        return self._backend

    def _choose_backend(self) -> None:
        self._backend = choose_backend(
            self.policy, type(self.rollout_buffer), fast=self.fast, has_critic=self.has_critic
        )
        if self.verbose >= 1:
            print(f"Using the {self._backend} backend on {self.device}")

    def _choose_device(self) -> None:
        """Use the CPU for a small MlpPolicy with `device="auto"`: calls to a GPU cost more than the computation."""
        small = self.policy_class is ActorCriticPolicy and is_small_mlp(self.observation_space, self.policy_kwargs)
        if str(self._requested_device) == "auto" and self.device.type != "cpu" and small:
            if self.verbose >= 1:
                print(f"A small MlpPolicy is faster on the CPU; pass device={self.device.type!r} to use the GPU")
            self.device = torch.device("cpu")

    def _check_buffer_class(self) -> None:
        """Refuse a rollout buffer whose overridden methods would not be called."""
        custom = self.rollout_buffer_class
        if custom is None or custom.__module__ == RolloutBuffer.__module__:
            return
        if self.sampling_mode.whole_episodes:
            raise ConfigError(
                f"rollout_buffer_class={custom.__name__} requires sampling='steps', because whole episodes have no "
                f"fixed number of steps; {self.plugin!r} samples episodes"
            )
        overridden = {m for c in custom.__mro__ for m in vars(c) if c.__module__ != RolloutBuffer.__module__}
        if unused := sorted(overridden & {"get", "_get_samples", "compute_returns_and_advantage"}):
            raise ConfigError(
                f"{custom.__name__}.{unused[0]} would not be called: pgzoo draws minibatches itself and gets returns "
                "from an estimator; write an Estimator or Baseline plugin instead"
            )


def is_small_mlp(observation_space: spaces.Space[Any], policy_kwargs: dict[str, Any]) -> bool:
    """Whether MlpPolicy's networks are so small that a CPU is faster than a GPU.

    They are if observations are not images, the features extractor is SB3's default, and no hidden layer has more than
    256 units. On an H100 machine, PPO on CartPole reached 4,206 steps/s on the GPU and 17,883 on the CPU.
    """
    net_arch = policy_kwargs.get("net_arch") or []
    widths = [w for layers in net_arch.values() for w in layers] if isinstance(net_arch, dict) else net_arch
    return (
        isinstance(observation_space, spaces.Box)
        and not is_image_space(observation_space)
        and "features_extractor_class" not in policy_kwargs
        and all(isinstance(width, int) and width <= SMALL_LAYER for width in widths)
    )
