"""An SB3 on-policy algorithm whose parts are plugins: its arguments, its attributes, and how it is set up."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv, VecMonitor

import pgzoo.envs  # noqa: F401 (registers them)
from pgzoo.algorithm.contrib_policies import accepting_use_sde, check_recurrent, check_takes_masks
from pgzoo.algorithm.learning_rates import separate_critic
from pgzoo.algorithm.part_errors import part_errors
from pgzoo.algorithm.part_states import PartStates
from pgzoo.algorithm.policies import (
    check_policy,
    check_policy_class,
    check_spaces,
    checked_policy_kwargs,
    is_small_mlp,
    release_graph,
)
from pgzoo.algorithm.settings import (
    BUFFER_ROWS,
    PART_KEYWORDS,
    Hyperparameter,
    changed,
    check_rollout_size,
    hyperparameter_names,
    part_attributes,
    scheduled,
)
from pgzoo.backends.backend import Backend, is_finite
from pgzoo.backends.choice import Fast, choose_backend, still_applies
from pgzoo.backends.masks import mask_sizes, takes_masks
from pgzoo.errors import ConfigError, DivergenceError, converted
from pgzoo.interface.hyperparameters import Schedule, declared, plain_fields
from pgzoo.interface.parts import Baseline, Estimator, Objective, Part, PartSpec, Sampling, Scale, Spaces, Update
from pgzoo.interface.plans import PlanContext, Seeds
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.schedules import as_schedule
from pgzoo.interface.types import Array, Need
from pgzoo.registry.combination import DEFAULT_RECIPE, Combination, resolve
from pgzoo.registry.other_policies import other_policy
from pgzoo.registry.plugins import Kind, Registry, default_registry
from pgzoo.registry.settings import UPDATE_FIELDS, AlgorithmConfig
from pgzoo.sampling.collector import SamplingAlgorithm
from pgzoo.sampling.finite import REMEDY, distribution_errors, raise_for_action
from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.sampling.modes import SamplingMode

Self = TypeVar("Self", bound="PluginAlgorithm")


class _Unset:
    """The default of an argument that was not passed. It is not None, because None has a meaning in SB3."""

    def __repr__(self) -> str:
        return "<the recipe's default>"


UNSET: Any = _Unset()


class PluginAlgorithm(SamplingAlgorithm):
    """An SB3 on-policy algorithm whose parts are plugins. `PolicyGradient` documents the arguments.

    The settings of `AlgorithmConfig`, and the hyperparameters of parts that SB3's algorithms also have, are attributes
    of the same names (see `settings.py`). Plain attributes are saved. `_setup_model` creates everything that is derived
    from them.

    Attributes:
        registry: where the plugins come from; not saved.
        plugin: what the user chose, a recipe or `estimator+baseline[+objective]`.
        combination: the parts and settings, checked; not saved.
        estimator, baseline, objective, scale, update, sampling: the parts of the combination; not saved.
        has_critic: whether V is trained; not saved.
        parts: name, distribution, class (if that is not of a distribution) and fields of each part by kind.
        part_states: what the parts learned.
        rollout: the last rollout; not saved.
        returns: R̂ (T, N) of the last rollout; not saved.
        group_seed, groups_drawn: the state of the stream of reset seeds.
        fast: "auto", True or False, see `PolicyGradient`.
        saved_by: pgzoo's name and version at the last save; empty before.
        n_timesteps: the steps of training of the entry that `from_zoo` took; None for other models.
        on_nan: what to do if the loss or the gradient of an optimizer step is not finite. "stop" raises an error,
            "skip" leaves out the step and logs the number of such steps as `train/skipped_updates`.
        skipped_updates: the number of steps that were left out.
        iterations_before: the rollouts of the run that `learn` continues; 0 unless a run is resumed. Not saved.
    """

    registry: Registry
    plugin: str
    combination: Combination
    estimator: Estimator
    baseline: Baseline
    objective: Objective
    scale: Scale
    update: Update
    sampling: Sampling
    has_critic: bool
    parts: dict[Kind, dict[str, Any]]
    part_states: PartStates
    rollout: Rollout
    returns: Array
    group_seed: int
    groups_drawn: int
    fast: Fast = "auto"
    saved_by: str
    n_timesteps: int | None = None
    on_nan: str = "stop"
    skipped_updates: int = 0
    iterations_before: int = 0
    _dump_interval: int | None = None
    _postponed: dict[str, Any] | None = None
    critic_learning_rate: float | Schedule | None
    n_epochs: int
    n_critic_updates: int
    batch_size: int | None
    target_kl: float | None
    normalize_advantage: bool | str
    discount_states: bool
    episode_bound: int
    group_size: int
    group_options: dict[str, Any] | None
    log_interval: int

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        plugin: str | Combination = DEFAULT_RECIPE,
        *,
        estimator: PartSpec | Estimator | None = None,
        baseline: PartSpec | Baseline | None = None,
        objective: PartSpec | Objective | None = None,
        scale: PartSpec | Scale | None = None,
        update: PartSpec | Update | None = None,
        sampling: PartSpec | Sampling | None = None,
        plugin_kwargs: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        n_steps: int = UNSET,
        n_episodes: int | None = UNSET,
        group_size: int = UNSET,
        group_options: Mapping[str, Any] | None = UNSET,
        episode_bound: int = UNSET,
        missing_terminal_observation: str = UNSET,
        learning_rate: float | Schedule | Mapping[str, Any] = UNSET,
        critic_learning_rate: float | Schedule | Mapping[str, Any] | None = UNSET,
        batch_size: int | None = UNSET,
        n_epochs: int = UNSET,
        n_critic_updates: int = UNSET,
        gamma: float = UNSET,
        gae_lambda: float = UNSET,
        clip_range: float | Schedule | Mapping[str, Any] = UNSET,
        clip_range_vf: float | Schedule | Mapping[str, Any] | None = UNSET,
        normalize_advantage: bool | str = UNSET,
        ent_coef: float | Schedule | Mapping[str, Any] = UNSET,
        target_entropy: float | None = UNSET,
        vf_coef: float | Schedule | Mapping[str, Any] = UNSET,
        max_grad_norm: float | None = UNSET,
        target_kl: float | None = UNSET,
        discount_states: bool = UNSET,
        use_rms_prop: bool = UNSET,
        rms_prop_eps: float = UNSET,
        use_sde: bool = UNSET,
        sde_sample_freq: int = UNSET,
        log_interval: int = UNSET,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        fast: Fast = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        passed = {name: value for name, value in locals().items() if value is not UNSET}
        arguments = {f"algorithm.{name}": passed[name] for name in declared(AlgorithmConfig) if name in passed}
        arguments.update({name: passed[name] for name in PART_KEYWORDS if name in passed})
        arguments.update({f"update.{name}": passed[name] for name in UPDATE_FIELDS if name in passed})
        policy = other_policy(policy)
        check_policy_class(policy, self.policy_aliases)
        check_arguments(plugin_kwargs, registry, seed, fast)
        check_sb3_arguments(stats_window_size, tensorboard_log, rollout_buffer_class)
        policy_kwargs = checked_policy_kwargs(policy, policy_kwargs)
        self.registry = registry or default_registry()
        combination = resolve(
            self.registry,
            plugin,
            estimator=estimator,
            baseline=baseline,
            objective=objective,
            scale=scale,
            update=update,
            sampling=sampling,
            overrides=merged(arguments, plugin_kwargs),
        )
        config = combination.algorithm
        with converted("cannot make the model"):
            super().__init__(
                policy,
                env,  # type: ignore[arg-type]
                learning_rate=config.learning_rate,
                n_steps=getattr(combination.sampling, "n_steps", BUFFER_ROWS),
                gamma=config.gamma,
                gae_lambda=getattr(combination.estimator, "gae_lambda", 1.0),
                ent_coef=0.0,  # `_adopt` sets the attributes of the update
                vf_coef=1.0,
                max_grad_norm=getattr(combination.update, "max_grad_norm", None),  # type: ignore[arg-type]
                use_sde=config.use_sde,
                sde_sample_freq=config.sde_sample_freq,
                rollout_buffer_class=rollout_buffer_class,
                rollout_buffer_kwargs=rollout_buffer_kwargs,
                stats_window_size=stats_window_size,
                tensorboard_log=tensorboard_log,
                policy_kwargs=_with_optimizer(policy_kwargs, config),
                verbose=verbose,
                seed=seed,
                device=device,
                _init_setup_model=False,
                supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            )
        self.fast = fast
        self._requested_device = device
        self._current_parts: dict[Kind, Part] = {}
        self.saved_by = ""
        self.group_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.groups_drawn = 0
        self._adopt(combination)
        if _init_setup_model:
            self._setup_model()

    @staticmethod
    def _wrap_env(env: Any, verbose: int = 0, monitor_wrapper: bool = True) -> VecEnv:
        """Return the environment as a VecEnv, as SB3 does, after checking its spaces.

        A Gymnasium vector environment is wrapped as well.
        """
        if isinstance(env, VectorEnv):
            env = GymnasiumVecEnv(env)
            env = VecMonitor(env) if monitor_wrapper else env
        check_spaces(env.observation_space, env.action_space)
        return SamplingAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "iterations_before", "_dump_interval", "_postponed"]

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """Compute the remaining progress, at least 0: the last rollout may exceed `total_timesteps`."""
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def predict(
        self,
        observation: Any,
        state: tuple[Array, ...] | None = None,
        episode_start: Array | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[Array, tuple[Array, ...] | None]:
        """Return actions for observations, as SB3 does, or as sb3-contrib's MaskablePPO does with `action_masks`.

        Raises:
            ConfigError: there are masks, and the policy does not take them.
            EnvironmentFailure: an observation is not finite, and neither is the action.
            DivergenceError: an action is not finite for another reason.
        """
        with distribution_errors(lambda: raise_for_action(self.policy.obs_to_tensor(observation)[0], self.policy)):
            if action_masks is None:
                actions, state = super().predict(observation, state, episode_start, deterministic)
            else:
                check_takes_masks(self.policy)
                policy: Any = self.policy
                actions, state = policy.predict(
                    observation, state, episode_start, deterministic, action_masks=np.asarray(action_masks)
                )
            if not is_finite(actions):
                raise DivergenceError(f"the policy's actions are not finite; {REMEDY}")
        return actions, state

    def __getstate__(self) -> dict[str, Any]:
        """Return what `copy.deepcopy` and `pickle` copy: all but the backend, which holds views of the policy."""
        release_graph(self.policy)
        return {name: value for name, value in self.__dict__.items() if name != "_backend"}

    @classmethod
    def from_combination(
        cls: type[Self],
        combination: Combination,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        **arguments: Any,
    ) -> Self:
        """Return a model for a combination that has already been checked.

        Args:
            combination: the parts and the algorithm's settings.
            policy: as in the constructor.
            env: as in the constructor.
            **arguments: the constructor's arguments from `registry` on, except those that the combination determines.
        """
        return cls(policy, env, combination, **arguments)

    @classmethod
    def from_zoo(
        cls: type[Self],
        plugin: str = DEFAULT_RECIPE,
        env: str = "CartPole-v1",
        *,
        vec_env: str = "dummy",
        registry: Registry | None = None,
        seed: int | None = None,
        device: str = "auto",
        fast: Fast = "auto",
        verbose: int = 0,
        **hyperparams: Any,
    ) -> Self:
        """Return a model with the tuned settings of `hyperparams/`, and with the environments of `pgzoo train`.

            model = PolicyGradient.from_zoo("ppo", "Acrobot-v1", gamma=0.98)
            model.learn(model.n_timesteps)

        Args:
            plugin: a recipe or combination.
            env: the name of a registered environment.
            vec_env: "dummy", "subproc", "vector" or "envpool".
            registry: the plugins to choose from; None for the installed ones.
            seed: the seed of the model and of the first environment; None: a random one.
            device: as in the constructor.
            fast: as in the constructor.
            verbose: as in the constructor.
            **hyperparams: keys of the entry, such as `gamma`, `n_envs` or `normalize`; `{"estimator.gae_lambda": 0.9}`.

        Raises:
            PgzooError: an unknown name, or a wrong value.
        """
        runs = importlib.import_module("pgzoo.training.runs")  # by name, because it is built on this class
        model: Self = runs.zoo_model(
            cls, plugin, env, vec_env=vec_env, registry=registry, seed=seed, device=device, fast=fast, verbose=verbose,
            overrides=hyperparams,
        )  # fmt: skip
        return model

    def _adopt(self, combination: Combination) -> None:
        """Adopt a combination, and describe it by plain attributes, which are saved."""
        self.combination = combination
        self.plugin = combination.plugin
        for kind, part in combination.parts.items():
            setattr(self, kind, part)
        self._current_parts.update(combination.parts)
        self._scheduled = scheduled(combination.parts.values())
        self.has_critic = combination.trains_critic
        attributes = {**plain_fields(combination.algorithm), **part_attributes(combination)}
        for name in ("learning_rate", "critic_learning_rate"):
            if isinstance(attributes[name], dict):
                attributes[name] = as_schedule(attributes[name])
        for name in hyperparameter_names():
            self.__dict__.pop(name, None)
        self.__dict__.update(attributes)
        self.parts = {
            kind: {
                "name": part.name,
                "distribution": self.registry.origin(type(part)),
                "class": self.registry.class_path(type(part)),
                "fields": plain_fields(part),
            }
            for kind, part in combination.parts.items()
        }

    def change_hyperparameter(self, name: str, value: Any) -> None:
        """Replace a hyperparameter of the algorithm or of a part. Setting the attribute of that name does the same.

        It takes effect at the next step, minibatch or rollout, whichever reads it. If the parts then need something
        else of a rollout, such as V, it waits for the next rollout.

        Raises:
            ConfigError: the value is wrong, contradicts other settings, or is fixed once the model is built.
        """
        before = self.combination
        after = changed(self.registry, before, name, value)
        if self._postponed is not None and after.needs != before.needs:
            self._postponed[name] = value
            return
        (self._postponed or {}).pop(name, None)
        self._adopt(after)
        if name == "learning_rate":
            self._setup_lr_schedule()
        try:
            if "sampling_mode" in self.__dict__ and _sampled_by(self.combination) != _sampled_by(before):
                self._next_sampling_mode = self._make_sampling_mode()
            if name == "critic_learning_rate" and "policy" in self.__dict__:
                separate_critic(self.policy, self._separates_critic)
            if "part_states" in self.__dict__:
                with part_errors():
                    self.part_states.complete()
        except ConfigError:
            self._adopt(before)
            raise
        if self.combination.needs != before.needs:
            self.__dict__.pop("_backend", None)  # it depends on whether there is a critic

    @property
    def _separates_critic(self) -> bool:
        """Whether the optimizer has a group for the parameters that only the critic has."""
        return self.has_critic and self.critic_learning_rate is not None

    def _begin_or_end_rollout(self, begins: bool) -> None:
        """Make the changes that waited for the end of a rollout and its update.

        From the beginning of a rollout on, `change_hyperparameter` postpones changes of what parts need.
        """
        postponed, self._postponed = self._postponed, None
        for name, value in (postponed or {}).items():
            self.change_hyperparameter(name, value)
        self._postponed = {} if begins else None

    def _make_sampling_mode(self) -> SamplingMode:
        budget = self.objective.resample_budget
        mode = SamplingMode(self.sampling, PlanContext(self.n_envs, self.gamma, self._group_seeds, budget))
        self._check_buffer_class(mode)
        return mode

    def _setup_model(self) -> None:
        self._group_seeds = Seeds(self.group_seed, self.groups_drawn)
        self.sampling_mode, self._next_sampling_mode = self._make_sampling_mode(), None
        if Need.GROUPS in self.combination.needs and getattr(self.sampling, "group_size", None) == 1:
            warnings.warn(f"with group_size=1, {self.plugin!r} has nothing to compare: all Ψ are 0", stacklevel=2)
        normalize = self._vec_normalize_env
        if Need.GROUPS in self.combination.needs and normalize is not None and normalize.norm_reward:
            warnings.warn(
                f"{self.plugin!r} compares returns, but VecNormalize scales the rewards of each step differently; "
                "use norm_reward=False",
                stacklevel=2,
            )
        if self.env is not None:
            check_rollout_size(self.combination, self.n_envs)
        check_policy(self.policy_class, self.observation_space, self.policy_kwargs)
        if takes_masks(self.policy_class):
            mask_sizes(self.action_space)  # refuses continuous actions
        check_recurrent(self.policy_class, self.combination)
        with converted("cannot build the policy"):
            self._choose_device()
            with accepting_use_sde(self):
                super()._setup_model()
        separate_critic(self.policy, self._separates_critic)
        self.make_part_states()
        self._episode_steps = np.zeros(self.n_envs, dtype=int)
        self._choose_backend()

    def make_part_states(self) -> None:
        """Create new states of the parts, for the current policy."""
        with part_errors():
            self.part_states = PartStates(
                self._current_parts, Spaces(self.observation_space, self.action_space, self.policy), self.device
            )

    @property
    def _sampling_state(self) -> torch.nn.Module | None:
        return self.part_states["sampling"]

    @property
    def backend(self) -> Backend:
        """How the policy is evaluated and updated.

        It is chosen again if the policy or its optimizer was replaced, or if parameters were frozen or unfrozen.
        """
        backend = self.__dict__.get("_backend")  # a copied model has none yet
        if backend is None or not still_applies(backend, self.policy, type(self.rollout_buffer), fast=self.fast):
            self._choose_backend()
        return self._backend

    def _choose_backend(self) -> None:
        memory = self.__dict__["_backend"].memory if "_backend" in self.__dict__ else None
        self._backend = choose_backend(
            self.policy, type(self.rollout_buffer), fast=self.fast, has_critic=self.has_critic
        )
        self._backend.memory = memory
        if self.verbose >= 1:
            print(f"Using the {self._backend} backend on {self.device}")

    def _choose_device(self) -> None:
        """Use the CPU for a small MlpPolicy with `device="auto"`: calls to a GPU cost more than the computation."""
        small = self.policy_class is ActorCriticPolicy and is_small_mlp(self.observation_space, self.policy_kwargs)
        if str(self._requested_device) == "auto" and self.device.type != "cpu" and small:
            if self.verbose >= 1:
                print(f"A small MlpPolicy is faster on the CPU; pass device={self.device.type!r} to use the GPU")
            self.device = torch.device("cpu")

    def _check_buffer_class(self, mode: SamplingMode) -> None:
        """Refuse a rollout buffer whose overridden methods would not be called."""
        custom = self.rollout_buffer_class
        if custom is None or custom.__module__ == RolloutBuffer.__module__:
            return
        if mode.whole_episodes:
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


def _sampled_by(combination: Combination) -> tuple[Any, ...]:
    """Return what the sampling mode is made of."""
    return combination.sampling, combination.algorithm.gamma, combination.objective.resample_budget


def _with_optimizer(policy_kwargs: dict[str, Any] | None, config: AlgorithmConfig) -> dict[str, Any]:
    """Return the policy's arguments, with RMSprop if the config asks for it and they name no other optimizer."""
    if not config.use_rms_prop or "optimizer_class" in (policy_kwargs or {}):
        return dict(policy_kwargs or {})
    rms_prop = {"alpha": 0.99, "eps": config.rms_prop_eps, "weight_decay": 0}
    return {**(policy_kwargs or {}), "optimizer_class": torch.optim.RMSprop, "optimizer_kwargs": rms_prop}


def same_policy_kwargs(given: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    """Whether arguments of the policy are those of a saved model, which also have the RMSprop of `use_rms_prop`."""
    chosen = saved.get("optimizer_class") is torch.optim.RMSprop and "optimizer_class" not in given
    return given == {k: v for k, v in saved.items() if not (chosen and k in ("optimizer_class", "optimizer_kwargs"))}


def merged(arguments: dict[str, Any], plugin_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Merge two mappings. Raise ConfigError if they have different values for the same name."""
    for name, value in (plugin_kwargs or {}).items():
        if name in arguments and arguments[name] != value:
            raise ConfigError(f"{name} is given twice, as {arguments[name]!r} and in plugin_kwargs as {value!r}")
    return {**arguments, **(plugin_kwargs or {})}


def check_arguments(plugin_kwargs: Any, registry: Any, seed: Any, fast: Any) -> None:
    """Refuse arguments of the wrong type, which SB3 or torch would only notice later, or never.

    Raises:
        ConfigError: an argument is wrong.
    """
    if plugin_kwargs is not None and not isinstance(plugin_kwargs, Mapping):
        raise ConfigError(f"plugin_kwargs must be a mapping of names and values, not {plugin_kwargs!r}")
    if registry is not None and not isinstance(registry, Registry):
        raise ConfigError(f"registry must be a Registry or None, not {registry!r}")
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, (int, np.integer))):
        raise ConfigError(f"seed must be an integer or None, not {seed!r}")
    if seed is not None and not 0 <= seed < 2**32:
        raise ConfigError(f"seed must lie in [0, 2^32 - 1], not {seed}")
    if not isinstance(fast, bool) and fast != "auto":
        raise ConfigError(f"fast must be 'auto', True or False, not {fast!r}")


def check_sb3_arguments(stats_window_size: Any, tensorboard_log: Any, rollout_buffer_class: Any) -> None:
    """Refuse arguments of SB3's constructor that it does not check.

    Raises:
        ConfigError: an argument is wrong.
    """
    if isinstance(stats_window_size, bool) or not isinstance(stats_window_size, int) or stats_window_size < 1:
        raise ConfigError(f"stats_window_size must be a positive integer, not {stats_window_size!r}")
    if not isinstance(tensorboard_log, (str, os.PathLike, type(None))):
        raise ConfigError(f"tensorboard_log must be a folder or None, not {tensorboard_log!r}")
    is_buffer = isinstance(rollout_buffer_class, type) and issubclass(rollout_buffer_class, RolloutBuffer)
    if rollout_buffer_class is not None and not is_buffer:
        raise ConfigError(f"rollout_buffer_class must be a subclass of RolloutBuffer, not {rollout_buffer_class!r}")


for hyperparameter in hyperparameter_names():
    setattr(PluginAlgorithm, hyperparameter, Hyperparameter(hyperparameter))
