"""PolicyGradient: one SB3 on-policy algorithm for every combination of parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from pgzoo.algorithm.advantages import compute_advantages
from pgzoo.algorithm.learning_rates import set_critic_learning_rate
from pgzoo.algorithm.part_errors import part_errors
from pgzoo.algorithm.plugin_algorithm import UNSET
from pgzoo.algorithm.saving import SavableAlgorithm
from pgzoo.backends.action_distributions import rollout_distributions
from pgzoo.backends.backend import Backend
from pgzoo.backends.score_norms import rollout_score_sq_norms
from pgzoo.errors import ConfigError
from pgzoo.interface.batch import Samples
from pgzoo.interface.hyperparameters import declared
from pgzoo.interface.rollout import Rollout
from pgzoo.interface.schedules import as_schedule, value_at
from pgzoo.interface.types import Need
from pgzoo.registry.settings import AlgorithmConfig
from pgzoo.sampling.collector import unflatten
from pgzoo.updates.learner import UpdateLearner
from pgzoo.updates.metrics import UpdateMetrics, compute_deferred
from pgzoo.updates.minibatches import current_ratios, minibatches, reevaluated, rescaled, to_samples

LEARNING_RATE = declared(AlgorithmConfig)["learning_rate"]
CRITIC_LEARNING_RATE = declared(AlgorithmConfig)["critic_learning_rate"]

Self = TypeVar("Self", bound="PolicyGradient")


class PolicyGradient(SavableAlgorithm):
    r"""A policy gradient made of plugins.

        g = E[ Σ_t Ψ_t · ∇θ log πθ(a_t | s_t) ],    Ψ_t = (R̂_t − b_t) / c_t

    (Schulman et al. 2016, eq. 1). The estimator gives R̂, the baseline b, the scale c, the objective the loss.

    The arguments from `sampling` to `log_interval` default to the recipe's values. Arguments that SB3's A2C or PPO
    also have mean the same here.

    Args:
        policy: "MlpPolicy", "CnnPolicy", "MultiInputPolicy" or a class, as in SB3.
        env: an environment, a VecEnv, or the name of a registered environment.
        plugin: a recipe ("reinforce", "rtg_value", "gae", "a2c", "ppo", …) or "estimator+baseline[+objective]".
        estimator: replaces the recipe's: a name, a mapping of name and fields, or an instance.
        baseline: as estimator.
        objective: as estimator.
        scale: as estimator.
        update: as estimator.
        plugin_kwargs: hyperparameters by name, `{"gae_lambda": 0.9, "baseline.decay": 0.5}`.
        registry: the plugins to choose from; None for the installed ones.
        sampling: "steps", "episodes", "groups", "vine", or "auto" for what the parts need.
        n_steps: steps per environment and update, for "steps".
        n_episodes: whole episodes per update over all environments. For "episodes" by default the smallest multiple of
            the number of environments that is at least 8. For "groups" a multiple of group_size, by default 4 groups.
        group_size: G, episodes from each initial state, for "groups".
        group_options: passed to reset(options=…), for "groups".
        episode_bound: a longer episode is an error, for "episodes" and "groups".
        missing_terminal_observation: what to do if the environment reports a time limit without terminal observation:
            "error" stops, "terminate" treats it as a termination, "last_observation" uses the observation before.
        learning_rate: a number, a function of the remaining progress, or a schedule as a mapping.
        critic_learning_rate: the same for the parameters that only the critic has; None: learning_rate.
        batch_size: steps per minibatch; None for the whole rollout. A field of the update, such as gradient_descent, as
            are n_epochs, n_critic_updates, ent_coef, target_entropy, vf_coef, max_grad_norm and target_kl.
        n_epochs: passes over a rollout.
        n_critic_updates: additional passes over a rollout that train only the critic, as in sb3-contrib's TRPO.
        gamma: discount factor γ.
        gae_lambda: λ of the part that has this field, such as the estimator lambda_return.
        clip_range: ε of the part that has this field, such as the objective ppo_clip; may be a schedule.
        clip_range_vf: the clip range of the values in the same part; None: do not clip.
        normalize_advantage: "rollout" chooses the scale rollout_std, "minibatch" or True minibatch_std, False neither.
        ent_coef: weight of the entropy bonus, which is aggregated over steps as the objective's loss is; may be a
            schedule.
        target_entropy: adapt the entropy's weight, which begins at ent_coef, until the mean entropy of the policy is
            this, in nats; None: do not adapt it.
        vf_coef: weight of the critic's loss, if there is a critic; may be a schedule.
        max_grad_norm: clip the gradient to this norm; None: do not clip.
        target_kl: stop an update's epochs once the approximate KL exceeds 1.5 times this; None: do not stop.
        discount_states: multiply Ψ_t by γ^t, which the gradient of the discounted objective requires.
        use_rms_prop: use RMSprop instead of Adam.
        rms_prop_eps: ε of RMSprop.
        use_sde: use state-dependent exploration (gSDE).
        sde_sample_freq: steps between new gSDE noise; −1: once per rollout.
        log_interval: updates between two logs, unless you pass another number to `learn`.
        rollout_buffer_class: a subclass of SB3's RolloutBuffer that stores the steps; None for SB3's class.
        rollout_buffer_kwargs: keyword arguments of the buffer's constructor.
        stats_window_size: the number of episodes over which the logged return is averaged.
        tensorboard_log: TensorBoard's folder; None: do not log there.
        policy_kwargs: arguments of the policy, such as `{"net_arch": [32, 32]}`.
        verbose: 0: print nothing, 1: SB3's log tables and the choice of backend, 2: debug.
        seed: the seed of all random number generators; None: do not seed.
        device: a torch device. "auto" uses the GPU if there is one, but the CPU for small networks of "MlpPolicy".
        fast: "auto" uses the fastest backend that applies, False always uses SB3's own calls, True raises if the numpy
            backend does not apply.

    Raises:
        PgzooError: an unknown plugin or hyperparameter, a value out of range, or parts that contradict each other or
            their settings.
    """

    # ---------------------------------------------------------------- sample, and compute advantages

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Sample a rollout and compute its advantages. Return False if a callback stopped training."""
        self._begin_or_end_rollout(begins=True)
        needs = self.combination.needs
        with part_errors():
            rollout = self._sample(env, callback, rollout_buffer, n_rollout_steps, needs)
        if rollout is None:
            return False
        if rollout.mask.any():  # otherwise every group was dropped
            rollout = self._evaluated(rollout, needs)
        self.rollout = rollout
        if self.sampling_mode.whole_episodes:
            self.logger.record("rollout/unused_steps", 1.0 - rollout.mask.sum() / self.sampling_mode.n_env_steps)
        with part_errors():
            for name, metric in self.sampling_mode.metrics().items():
                self.logger.record(f"rollout/{name}", metric)
            if rollout.mask.any():  # otherwise every group was dropped
                self._compute_advantages(rollout)
        callback.on_rollout_end()
        return True

    def _evaluated(self, rollout: Rollout, needs: frozenset[Need]) -> Rollout:
        """Return the rollout with what parts need of the policy that sampled."""
        if Need.SCORES in needs:
            rollout = rollout.replace(score_sq_norms=rollout_score_sq_norms(self.policy, rollout))
        if Need.DISTRIBUTION in needs and any(
            Need.DISTRIBUTION in part.needs for kind, part in self.combination.parts.items() if kind != "update"
        ):
            rollout = rollout.replace(**rollout_distributions(self.policy, rollout))
        return rollout

    def _compute_advantages(self, rollout: Rollout) -> None:
        """Write Ψ_t = (R̂_t − b_t) / c_t into SB3's buffer, where callbacks may change it."""
        computed = compute_advantages(
            self.estimator, self.baseline, self.scale, rollout, self.part_states, discount_states=self.discount_states
        )
        advantages = computed.advantages
        if not self.objective.multi_epoch:
            advantages = advantages * self.estimator.importance_weights(rollout, self.part_states["estimator"])
        targets = self.estimator.critic_targets(rollout, computed.returns, self.part_states["estimator"])
        self.returns = np.where(rollout.mask, computed.returns, 0.0)
        self.rollout_buffer.returns = np.where(rollout.mask, targets, 0.0).astype(np.float32)
        self.rollout_buffer.advantages = np.where(rollout.mask, advantages, 0.0).astype(np.float32)

    # ---------------------------------------------------------------- update

    def train(self) -> None:
        """Update the policy on the rollout, then let the parts learn from it."""
        if not self.rollout.mask.any():
            return
        if unflatten(buffer := self.rollout_buffer):
            values = {"values": buffer.values} if self.has_critic else {}
            self.rollout = self.rollout.replace(log_probs=buffer.log_probs, **values)
        backend = self.backend
        backend.begin_update()
        progress_remaining = self._current_progress_remaining
        learning_rate = value_at(LEARNING_RATE, self.lr_schedule, progress_remaining)
        for param, schedule in self._scheduled:
            value_at(param, schedule, progress_remaining)
        update_learning_rate(self.policy.optimizer, learning_rate)
        self.logger.record("train/learning_rate", learning_rate)
        if self._separates_critic:
            critic_rate = value_at(CRITIC_LEARNING_RATE, as_schedule(self.critic_learning_rate), progress_remaining)
            set_critic_learning_rate(self.policy, critic_rate)
            self.logger.record("train/critic_learning_rate", critic_rate)
        metrics = UpdateMetrics(f"objective {self.objective.name!r}")
        with part_errors():
            with backend.update_threads():
                self._update_parameters(backend, metrics)
            self._update_part_states(backend, metrics)
        self._log_update(metrics)
        self._begin_or_end_rollout(begins=False)

    def _update_parameters(self, backend: Backend, metrics: UpdateMetrics) -> None:
        """Let the update move the policy's parameters."""
        whole_episodes = self.objective.whole_episodes or backend.recurrent
        learner = UpdateLearner(
            self._samples(),
            backend,
            self.objective,
            self.scale,
            self.part_states,
            metrics,
            split=partial(minibatches, whole_episodes=whole_episodes, shuffle_whole=backend.bitwise_sb3),
            recompute=partial(self._recomputed, backend) if self.estimator.recompute == "epoch" else None,
            verbose=self.verbose >= 1,
            skip_nan=self.on_nan == "skip",
        )
        metrics.set(learner.apply(self.update), f"update {self.update.name!r}")
        self.skipped_updates += learner.n_skipped
        self._n_updates += max(learner.n_passes, 1)

    def _recomputed(self, backend: Backend, samples: Samples) -> Samples:
        """Return the samples with the advantages that the current policy gives them."""
        self._compute_advantages(reevaluated(self.rollout, samples, backend))
        return self._samples()

    def _samples(self) -> Samples:
        """Return the rollout's steps with the advantages of SB3's buffer."""
        rollout, buffer = self.rollout, self.rollout_buffer
        samples = to_samples(
            rollout,
            self.policy,
            advantages=buffer.advantages,
            critic_targets=buffer.returns,
            old_values=rollout.values if self.has_critic else None,
            weights=self.objective.weights(rollout, self.part_states["objective"]),
            progress_remaining=self._current_progress_remaining,
            device=self._backend.device,
        )
        return rescaled(samples, self.scale, "rollout", self.part_states["scale"])

    def _update_part_states(self, backend: Backend, metrics: UpdateMetrics) -> None:
        rollout = self.rollout
        parts, needs = self.combination.parts.values(), self.combination.needs
        if Need.RATIOS in needs and any(Need.RATIOS in part.needs and part.learns for part in parts):
            rollout = rollout.replace(ratios=current_ratios(rollout, self._samples(), backend))
        metrics.set(self.part_states.update(rollout, self.returns), "the update of a part")

    def _log_update(self, metrics: UpdateMetrics) -> None:
        mask, advantages, targets = self.rollout.mask, self.rollout_buffer.advantages, self.rollout_buffer.returns
        extra: dict[str, Callable[[], float]] = {
            "advantage_std": lambda: float(np.std(advantages[mask])),
        }
        if self.has_critic:
            values = self.rollout.values
            extra["explained_variance"] = lambda: explained_variance(values[mask], targets[mask])
        if isinstance(self.action_space, spaces.Box) and hasattr(self.policy, "log_std"):
            std = torch.exp(self.policy.log_std.detach())
            extra["std"] = lambda: std.mean().item()
        metrics.write(self.logger, **extra)
        if self.on_nan == "skip":
            self.logger.record("train/skipped_updates", self.skipped_updates)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

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
        """Train as SB3's `learn` does. `log_interval` defaults to the recipe's, `tb_log_name` to the recipe's name.

        Raises:
            PgzooError: an argument is wrong, an environment or a plugin fails, or training diverges.
        """
        if isinstance(total_timesteps, bool) or not isinstance(total_timesteps, (int, float, np.number)):
            raise ConfigError(f"total_timesteps must be a number, not {total_timesteps!r}")
        if not total_timesteps >= 0:  # also nan
            raise ConfigError(f"total_timesteps must be 0 or more, not {total_timesteps}")
        if log_interval is UNSET:
            log_interval = self.log_interval
        elif log_interval is not None:
            log_interval = declared(AlgorithmConfig)["log_interval"].validate(log_interval)
        self._dump_interval = log_interval if self.iterations_before else None
        try:
            super().learn(
                total_timesteps,
                callback,
                1 if self._dump_interval else log_interval,  # type: ignore[arg-type]
                self.plugin if tb_log_name is None else tb_log_name,
                reset_num_timesteps,
                progress_bar,
            )
        finally:
            self._begin_or_end_rollout(begins=False)
        self.iterations_before = 0
        compute_deferred(self.logger)
        self.backend.check_parameters()
        return self

    def dump_logs(self, iteration: int = 0) -> None:
        """Log as SB3 does. A resumed run continues to count the iterations of the run that it resumes."""
        iteration += self.iterations_before
        if iteration % (self._dump_interval or 1) == 0:
            super().dump_logs(iteration)
