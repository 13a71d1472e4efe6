"""PolicyGradient: one SB3 on-policy algorithm for every combination of estimator, baseline and objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.utils import explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

import pgzoo.envs  # noqa: F401 (registers them)
from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.algorithm.minibatches import minibatches, reviewed, scores, to_samples
from pgzoo.algorithm.part_states import PartStates
from pgzoo.algorithm.saving import PART_KEYWORDS, PluginAlgorithm, merged
from pgzoo.backends.choice import Fast, Path, Terms, choose_path
from pgzoo.errors import ConfigError, PluginError
from pgzoo.interface.hyperparameters import Schedule, declared
from pgzoo.interface.parts import Baseline, Estimator, Need, Objective, PartSpec, Spaces
from pgzoo.interface.rollout import Rollout
from pgzoo.registry.combination import resolve
from pgzoo.registry.plugins import Registry, default_registry
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.sampling.collector import collect
from pgzoo.sampling.modes import Episodes, Groups, Plan, Steps

Self = TypeVar("Self", bound="PolicyGradient")


class _Unset:
    """Stands for an argument that was not given: None means something in SB3."""

    def __repr__(self) -> str:
        return "<the recipe's default>"


UNSET: Any = _Unset()


class PolicyGradient(PluginAlgorithm):
    r"""A policy gradient made of three plugins.

        g = E[ Σ_t Ψ_t · ∇θ log πθ(a_t | s_t) ],    Ψ_t = (R̂_t − b_t) / c_t

    (Schulman et al. 2016, eq. 1): the estimator gives R̂, the baseline b and c, the objective the loss. An
    argument that is not given takes the recipe's default; all but the first eight are A2C's and PPO's.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a class, as in SB3.
        env: an environment, a VecEnv, or the name of a registered one.
        plugin: a recipe ("reinforce", "rtg_value", "gae", "a2c", "ppo", …) or
            "estimator+baseline[+objective]".
        estimator: replaces the recipe's: a name, a mapping of name and fields, or an instance.
        baseline: as estimator.
        objective: as estimator.
        plugin_kwargs: hyperparameters by field, `{"gae_lambda": 0.9, "baseline.decay": 0.5}`.
        registry: the plugins to choose from; by default the installed ones.
        sampling: "steps", "episodes", "groups", or "auto" for what the parts need.
        n_steps: steps per environment and update, for `steps`.
        n_episodes: whole episodes per update over all environments, for `episodes`: a multiple of their
            number, 8 (rounded up to one) by default. For `groups` a multiple of group_size, 4 of them by
            default.
        group_size: G, episodes from each initial state, for `groups`.
        group_options: what `groups` pass to reset(options=…).
        max_episode_steps: an episode longer than this is an error, for `episodes` and `groups`.
        learning_rate: a number, a function of the remaining progress, or a schedule as a mapping.
        batch_size: steps per minibatch; None: the whole rollout.
        n_epochs: passes over a rollout.
        n_critic_updates: further passes for the critic alone, as in sb3-contrib's TRPO.
        gamma: discount factor γ.
        gae_lambda: forwarded to the part that has the field; as are clip_range and clip_range_vf.
        normalize_advantage: False, "rollout", or "minibatch" (True).
        ent_coef: weight of the entropy bonus, which is aggregated over steps as the objective's loss is.
        vf_coef: weight of the critic's loss, where there is a critic.
        max_grad_norm: clip the gradient to this norm; None: do not.
        target_kl: stop an update's epochs once the approximate KL exceeds 1.5 times this.
        discount_states: multiply Ψ_t by γ^t, as the gradient of the discounted objective asks.
        log_interval: updates between two logs, unless `learn` says otherwise.
        fast: "auto": sample and update on the fastest path that goes; False: by SB3's own calls; True: fast or an
            error.

    Raises:
        PgzooError: an unknown plugin or hyperparameter, a value out of range, parts that contradict each
            other or their settings.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ActorCriticPolicy,
        "CnnPolicy": ActorCriticCnnPolicy,
        "MultiInputPolicy": MultiInputActorCriticPolicy,
    }

    plugin: str
    n_epochs: int
    n_critic_updates: int
    batch_size: int | None
    target_kl: float | None
    normalize_advantage: bool | Literal["rollout", "minibatch"]
    discount_states: bool
    max_episode_steps: int
    group_size: int
    group_options: dict[str, Any] | None
    group_seed: int
    groups_drawn: int
    log_interval: int
    _unsaid: dict[str, Callable[[], float]]

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | str | None,
        plugin: str = "gae",
        *,
        estimator: PartSpec | Estimator | None = None,
        baseline: PartSpec | Baseline | None = None,
        objective: PartSpec | Objective | None = None,
        plugin_kwargs: Mapping[str, Any] | None = None,
        registry: Registry | None = None,
        sampling: str = UNSET,
        n_steps: int = UNSET,
        n_episodes: int | None = UNSET,
        group_size: int = UNSET,
        group_options: Mapping[str, Any] | None = UNSET,
        max_episode_steps: int = UNSET,
        learning_rate: float | Schedule | Mapping[str, Any] = UNSET,
        batch_size: int | None = UNSET,
        n_epochs: int = UNSET,
        n_critic_updates: int = UNSET,
        gamma: float = UNSET,
        gae_lambda: float = UNSET,
        clip_range: float | Schedule | Mapping[str, Any] = UNSET,
        clip_range_vf: float | Schedule | Mapping[str, Any] | None = UNSET,
        normalize_advantage: bool | str = UNSET,
        ent_coef: float = UNSET,
        vf_coef: float = UNSET,
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
        given = {name: value for name, value in locals().items() if value is not UNSET}
        arguments = {f"algorithm.{name}": given[name] for name in declared(AlgorithmConfig) if name in given}
        arguments.update({name: given[name] for name in PART_KEYWORDS if name in given})
        overrides = merged(arguments, plugin_kwargs)
        self.registry = registry or default_registry()
        combination = resolve(
            self.registry,
            plugin,
            estimator=estimator,
            baseline=baseline,
            objective=objective,
            overrides=overrides,
        )
        settings = combination.algorithm
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate=settings.learning_rate,
            n_steps=settings.n_steps,
            gamma=settings.gamma,
            gae_lambda=getattr(combination.estimator, "gae_lambda", 1.0),
            ent_coef=settings.ent_coef,
            vf_coef=settings.vf_coef,
            max_grad_norm=settings.max_grad_norm,  # type: ignore[arg-type]
            use_sde=settings.use_sde,
            sde_sample_freq=settings.sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=dict(policy_kwargs or {}),
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
            supported_action_spaces=(
                spaces.Box,
                spaces.Discrete,
                spaces.MultiDiscrete,
                spaces.MultiBinary,
            ),
        )
        if settings.use_rms_prop and "optimizer_class" not in self.policy_kwargs:
            self.policy_kwargs["optimizer_class"] = torch.optim.RMSprop
            self.policy_kwargs["optimizer_kwargs"] = {
                "alpha": 0.99,
                "eps": settings.rms_prop_eps,
                "weight_decay": 0,
            }
        self.fast = fast
        self.part_state_arrays = {}
        self.saved_by = ""
        self.group_seed = int(np.random.SeedSequence(seed).generate_state(1)[0])
        self.groups_drawn = 0
        self._changes = {}
        self._unsaid = {}
        self._adopt(combination)
        if _init_setup_model:
            self._setup_model()

    # ---------------------------------------------------------------- set-up

    def _setup_model(self) -> None:
        self.combination = self._resolved_combination()
        self._adopt(self.combination)
        self.estimator, self.baseline, self.objective = (
            self.combination.estimator,
            self.combination.baseline,
            self.combination.objective,
        )
        self.has_critic = Need.VALUES in self.combination.needs
        self._plan = self._make_plan()
        self._refuse_unusable_buffer()
        super()._setup_model()
        self.make_part_states()
        self.part_states.load_arrays(self.part_state_arrays)
        self._episode_steps = np.zeros(self.n_envs, dtype=int)
        self._choose_path()

    def _choose_path(self) -> None:
        self._path = choose_path(self)
        if self.verbose >= 1:
            print(f"Sampling and updating on the path {self._path}")

    @property
    def path(self) -> Path:
        """How it samples and updates: chosen anew where the policy or its optimizer was replaced, or frozen in part."""
        if not self._path.holds():
            self._choose_path()
        return self._path

    def make_part_states(self) -> None:
        """Build what the parts learn afresh, on the policy as it is now."""
        spaces = Spaces(self.observation_space, self.action_space, self.policy)
        self.part_states = PartStates(self.combination.parts, spaces, self.device)

    def _make_plan(self) -> Plan:
        if self.combination.sampling == "steps":
            return Steps(self.n_steps)
        n_episodes = self.combination.n_episodes(self.n_envs)
        if self.combination.sampling == "episodes":
            return Episodes(n_episodes, self.max_episode_steps)
        if self.group_size == 1 and Need.GROUPS in self.combination.needs:
            warnings.warn(f"with group_size=1 {self.plugin!r} has nothing to compare: all Ψ are 0", stacklevel=2)
        return Groups(
            n_episodes // self.group_size,
            self.group_size,
            self.max_episode_steps,
            self.gamma,
            self._next_group_seed,
            self.group_options,
            self.objective.resample_budget,
        )

    def _next_group_seed(self) -> int:
        """Return the next group's seed, of a stream of its own that a saved model continues."""
        self.groups_drawn += 1
        return int(np.random.SeedSequence([self.group_seed, self.groups_drawn]).generate_state(1)[0] >> 1)

    def _refuse_unusable_buffer(self) -> None:
        """Refuse a custom buffer whose overrides would be ignored."""
        custom = self.rollout_buffer_class
        if custom is None or custom.__module__ == RolloutBuffer.__module__:
            return
        if self._plan.whole_episodes:
            raise ConfigError(
                f"rollout_buffer_class={custom.__name__} goes with sampling='steps' only, since whole "
                f"episodes have no fixed number of steps; {self.plugin!r} samples episodes"
            )
        overridden = {m for c in custom.__mro__ for m in vars(c) if c.__module__ != RolloutBuffer.__module__}
        if unused := sorted(overridden & {"get", "_get_samples", "compute_returns_and_advantage"}):
            raise ConfigError(
                f"{custom.__name__}.{unused[0]} would not be called: pgzoo draws minibatches itself and asks "
                "an estimator for the returns; write it as an Estimator or Baseline plugin"
            )

    # ---------------------------------------------------------------- sample, then credit

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Sample a rollout and credit its actions; False if a callback asked to stop."""
        rollout = collect(self, env, callback, rollout_buffer, n_rollout_steps, self._plan)
        if rollout is None:
            return False
        if Need.SCORES in self.combination.needs:
            rollout = replace(rollout, _scores=lambda: scores(self))
        self.rollout = rollout
        if self._plan.whole_episodes:
            self._logger.record("rollout/unused_steps", 1.0 - rollout.mask.mean())
        for name, metric in self._plan.metrics().items():
            self._logger.record(f"rollout/{name}", metric)
        if rollout.mask.any():  # else every group was dropped
            self._credit(rollout)
        callback.on_rollout_end()
        return True

    def _credit(self, rollout: Rollout) -> None:
        """Ψ_t = (R̂_t − b_t) / c_t; callbacks may change it in the buffer."""
        found = compute_advantages(
            self.estimator, self.baseline, rollout, self.part_states, discount_states=self.discount_states
        )
        advantages = found.advantages
        if not self.objective.multi_epoch:
            advantages = advantages * self.estimator.importance_weights(rollout)
        targets = self.estimator.critic_targets(rollout, found.returns, self.part_states["estimator"])
        self.returns = np.where(rollout.mask, found.returns, 0.0)
        self.rollout_buffer.returns = np.where(rollout.mask, targets, 0.0).astype(np.float32)
        self.rollout_buffer.advantages = np.where(rollout.mask, advantages, 0.0).astype(np.float32)

    # ---------------------------------------------------------------- update

    def train(self) -> None:
        """Update the policy with the rollout, then what the plugins learn."""
        if not self.rollout.mask.any():
            return
        path = self.path
        path.begin_update()
        update_learning_rate(self.policy.optimizer, rate := self.lr_schedule(self._current_progress_remaining))
        self._logger.record("train/learning_rate", rate)
        with path.threads():
            log, loss = self._update(path)
        rollout = replace(self.rollout, _ratios=lambda: reviewed(self).ratios)
        for name, value in self.part_states.update(rollout, self.returns).items():
            log[name] = [_number(name, value)]
        self._log(log, loss)

    def _update(self, path: Path) -> tuple[dict[str, list[Any]], Terms]:
        """Go through the minibatches; return what there is to log of each, and the last one's loss."""
        samples = to_samples(self)
        log: dict[str, list[Any]] = {}
        continue_training = True

        for epoch in range(self.n_epochs):
            if epoch > 0 and self.estimator.recompute == "epoch":
                self._credit(reviewed(self))
                samples = to_samples(self)
            log["approx_kl"] = []
            for minibatch in minibatches(self, samples):
                batch = path.evaluated(minibatch)
                policy_loss, metrics = self.objective(batch, self.part_states["objective"])
                loss = [(1.0, policy_loss)]
                if self.ent_coef:
                    loss.append((-self.ent_coef, batch.aggregate(batch.entropy)))
                if self.has_critic:
                    value_loss = self.objective.value_loss(batch)
                    loss.append((self.vf_coef, value_loss))
                    metrics = {**metrics, "value_loss": value_loss}

                approx_kl = partial(_approx_kl, batch.log_probs.detach(), batch.old_log_probs)
                entropy_loss = partial(_entropy_loss, batch.entropy.detach())
                metrics = {"entropy_loss": entropy_loss, "approx_kl": approx_kl, **metrics}
                for name, value in metrics.items():
                    log.setdefault(name, []).append(_number(name, value))
                if self.target_kl is not None and (kl := approx_kl()) > 1.5 * self.target_kl:
                    continue_training = False
                    if self.verbose >= 1:
                        print(f"Early stopping at epoch {epoch} due to reaching max kl: {kl:.2f}")
                    break

                path.descend(loss)
            self._n_updates += 1
            if not continue_training:
                break

        for _ in range(self.n_critic_updates):
            for minibatch in minibatches(self, samples):
                batch = path.evaluated(minibatch)
                path.descend([(self.vf_coef, self.objective.value_loss(batch))])
        return log, loss

    def _log(self, log: Mapping[str, list[Any]], loss: Terms) -> None:
        """Keep what the update has to say until the logger is asked for: mostly it is not before the next one."""
        mask, advantages, targets = self.rollout.mask, self.rollout_buffer.advantages, self.rollout_buffer.returns
        self._unsaid |= {name: partial(_mean, values) for name, values in log.items()}
        self._unsaid["loss"] = partial(_total, [(weight, term.detach()) for weight, term in loss])
        self._unsaid["advantage_std"] = lambda: float(np.std(advantages[mask]))
        if self.has_critic:
            values = self.rollout.values
            self._unsaid["explained_variance"] = lambda: explained_variance(values[mask], targets[mask])
        if hasattr(self.policy, "log_std"):
            std = torch.exp(self.policy.log_std.detach())
            self._unsaid["std"] = lambda: std.mean().item()
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @property
    def logger(self) -> Logger:
        """SB3's logger, which by now holds what the last update had to say."""
        for name in list(self._unsaid):
            self._logger.record(f"train/{name}", self._unsaid.pop(name)())
        return self._logger

    def set_logger(self, logger: Logger) -> None:
        """Log there from now on."""
        self._unsaid = {}
        super().set_logger(logger)

    # ---------------------------------------------------------------- learn

    def learn(
        self: Self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = UNSET,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train as SB3's `learn` does; `log_interval` and `tb_log_name` default to the recipe's."""
        self._unsaid = {}
        super().learn(
            total_timesteps,
            callback,
            self.log_interval if log_interval is UNSET else log_interval,  # type: ignore[arg-type]
            self.plugin if tb_log_name is None else tb_log_name,
            reset_num_timesteps,
            progress_bar,
        )
        _ = self.logger  # which somebody may hold
        return self


def _approx_kl(log_probs: torch.Tensor, old_log_probs: torch.Tensor) -> float:
    """Return the mean of (ρ − 1) − log ρ, which estimates KL(π_old ‖ π) (Schulman 2020)."""
    log_ratio = log_probs.cpu().numpy() - old_log_probs.cpu().numpy()
    return float(np.mean((np.exp(log_ratio) - 1) - log_ratio))


def _entropy_loss(entropy: torch.Tensor) -> float:
    return -entropy.mean().item()


def _total(loss: Terms) -> float:
    return sum(weight * term.item() for weight, term in loss)


def _mean(values: list[Any]) -> float:
    return sum(float(value() if callable(value) else value) for value in values) / len(values)


def _number(name: str, value: Any) -> Any:
    """Return a metric as it is worked out later: a number, a tensor of one without its graph, or what gives one."""
    if callable(value) and not isinstance(value, torch.Tensor):
        return value
    shape = getattr(value, "shape", ())
    if max(shape, default=1) > 1:
        raise PluginError(f"the metric {name!r} has shape {tuple(shape)}; it must be one number")
    if not isinstance(value, (int, float, np.generic, np.ndarray, torch.Tensor)):
        raise PluginError(f"the metric {name!r} is {value!r}, not a number")
    return value.detach() if isinstance(value, torch.Tensor) else value
