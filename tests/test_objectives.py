"""Every objective is computed by hand on episodes of 1, 2 and 5 steps, and satisfies identities with the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pgzoo_plugins.cispo import CISPO
from pgzoo_plugins.dapo import DAPO
from pgzoo_plugins.dr_grpo import DrGRPO
from pgzoo_plugins.grpo import GRPO
from pgzoo_plugins.gspo import GSPO
from pgzoo_plugins.policy_gradient import PolicyGradientLoss
from pgzoo_plugins.ppo_clip import PPOClip
from pgzoo_plugins.ppo_kl import PPOKL
from rollouts import make_rollout
from sizes import sizes
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import Batch, ConfigError, PolicyGradient
from pgzoo.interface.batch import Samples
from pgzoo.updates.minibatches import minibatches

LENGTHS = [1, 2, 5]
EPISODE = np.repeat([0, 1, 2], LENGTHS)
PSI = np.repeat([1.0, -2.0, 0.5], LENGTHS)
RATIO = np.array([1.5, 0.5, 1.5, 0.9, 1.1, 1.5, 0.5, 1.0])


def make_batch(objective: Any, psi: Any = PSI, ratio: Any = RATIO, episode: Any = EPISODE) -> Batch:
    """Return a batch whose log-probs are a leaf, to read the gradient of the loss with respect to them."""
    lengths = np.bincount(episode)
    rollout = make_rollout(
        np.zeros((max(lengths), len(lengths))),
        mask=np.arange(max(lengths))[:, None] < lengths,
        terminated=np.arange(max(lengths))[:, None] == lengths - 1,
    )
    weights = objective.weights(rollout)
    m = len(psi)
    return Batch(
        observations=torch.zeros(m, 1),
        actions=torch.zeros(m, dtype=torch.long),
        advantages=torch.tensor(psi, dtype=torch.float64),
        returns=torch.zeros(m),
        old_values=torch.zeros(m),
        old_log_probs=torch.full((m,), -0.7, dtype=torch.float64),
        episode=torch.as_tensor(episode),
        weights=None if weights is None else torch.as_tensor(weights),
        progress_remaining=1.0,
        log_probs=(torch.tensor(np.log(ratio)) - 0.7).requires_grad_(),
        values=torch.zeros(m),
        entropy=torch.zeros(m),
    )


def loss_of(objective: Any, state: Any = None, **options: Any) -> float:
    return float(objective(make_batch(objective, **options), state)[0].detach())


def gradient_of(objective: Any, state: Any = None, **options: Any) -> Any:
    batch = make_batch(objective, **options)
    objective(batch, state)[0].backward()
    assert batch.log_probs.grad is not None
    return batch.log_probs.grad.numpy()


# The clipped surrogate min(ρΨ, clip(ρ, .8, 1.2)Ψ) of each step:
#   episode 0, Ψ = 1:    ρ = 1.5 → 1.2
#   episode 1, Ψ = −2:   ρ = .5, 1.5 → −1.6, −3, the sum −4.6
#   episode 2, Ψ = .5:   ρ = .9, 1.1, 1.5, .5, 1 → .45, .55, .6, .25, .5, the sum 2.35


def test_ppo_clip_by_hand() -> None:
    assert loss_of(PPOClip()) == pytest.approx(-(1.2 - 4.6 + 2.35) / 8)
    # The gradient with respect to log π is −ρΨ/8 if the step is not clipped, else 0.
    expected = -np.array([0, 0, -3, 0.45, 0.55, 0, 0.25, 0.5]) / 8
    np.testing.assert_allclose(gradient_of(PPOClip()), expected, atol=1e-12)


def test_grpo_averages_over_steps_then_over_episodes() -> None:
    assert loss_of(GRPO(kl_coef=0)) == pytest.approx(-(1.2 / 1 - 4.6 / 2 + 2.35 / 5) / 3)


class Reference:
    """log π_ref = −0.7 at every step."""

    def log_probs(self, batch: Batch) -> torch.Tensor:
        return batch.old_log_probs


def test_grpo_adds_the_k3_penalty() -> None:
    # q = log π_ref − log π = −log ρ, and therefore k3 = 1/ρ + log ρ − 1. For ρ = 1.5, .5, .9, 1.1, 1 this is
    # .07213177, .30685282, .00575060, .00440109, 0.
    k3 = np.array([0.07213177, 0.30685282, 0.07213177, 0.00575060, 0.00440109, 0.07213177, 0.30685282, 0])
    kl = (k3[0] + k3[1:3].mean() + k3[3:].mean()) / 3
    plain = loss_of(GRPO(kl_coef=0))
    assert loss_of(GRPO(kl_coef=0.5), Reference()) == pytest.approx(plain + 0.5 * kl, abs=1e-7)


def test_the_corrected_penalty_is_weighted_by_the_ratio() -> None:
    k3 = np.array([0.07213177, 0.30685282, 0.07213177, 0.00575060, 0.00440109, 0.07213177, 0.30685282, 0])
    kl = ((RATIO * k3)[0] + (RATIO * k3)[1:3].mean() + (RATIO * k3)[3:].mean()) / 3
    plain = loss_of(GRPO(kl_coef=0))
    corrected = GRPO(kl_coef=0.5, kl_correction=True)
    assert loss_of(corrected, Reference()) == pytest.approx(plain + 0.5 * kl, abs=1e-7)


@pytest.mark.parametrize("corrected", [False, True])
def test_which_divergence_the_penalty_decreases(corrected: bool) -> None:
    """The expected gradient of k3 is that of KL(π_ref ‖ π), that of ρ k3 is that of KL(π ‖ π_ref)."""
    logits = torch.tensor([0.3, -1.0, 0.5], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    log_probs = logits.log_softmax(0)
    probs, old = log_probs.exp(), log_probs.detach()
    q = reference.log() - log_probs
    k3 = q.exp() - q - 1
    of_penalty = (old.exp() * ((log_probs - old).exp() if corrected else 1.0) * k3).sum()
    kl = (probs * -q).sum() if corrected else (reference * q).sum()
    expected, gradient = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (kl, of_penalty))
    torch.testing.assert_close(gradient, expected)
    batch = replace(
        make_batch(GRPO(), psi=np.zeros(3), ratio=np.ones(3), episode=np.arange(3)),
        log_probs=log_probs, old_log_probs=old, weights=old.exp(),
    )  # fmt: skip

    class Fixed:
        def log_probs(self, batch: Batch) -> torch.Tensor:
            return reference.log()

    loss, _ = GRPO(kl_coef=1.0, kl_correction=corrected)(batch, Fixed())
    torch.testing.assert_close(torch.autograd.grad(loss, logits)[0], expected)


def test_dual_clip_by_hand() -> None:
    # Ψ = −2 and ρ = 4, 2: without it −8 and −4, with c = 3 at least −6. Ψ = 1, ρ = 4 is clipped at 1.2 in both cases.
    options = {"psi": np.array([-2.0, -2, 1]), "ratio": np.array([4.0, 2, 4]), "episode": np.array([0, 0, 1])}
    assert loss_of(PPOClip(), **options) == pytest.approx((8 + 4 - 1.2) / 3)
    assert loss_of(PPOClip(dual_clip=3.0), **options) == pytest.approx((6 + 4 - 1.2) / 3)
    np.testing.assert_allclose(gradient_of(PPOClip(dual_clip=3.0), **options), [0, 4 / 3, 0])  # ρ |Ψ| / 3
    assert loss_of(GRPO(kl_coef=0, dual_clip=3.0), **options) == pytest.approx(((6 + 4) / 2 - 1.2) / 2)


def test_a_dual_clip_that_is_never_reached_changes_nothing() -> None:
    np.testing.assert_array_equal(gradient_of(PPOClip(dual_clip=2.0)), gradient_of(PPOClip()))
    with pytest.raises(ConfigError, match="dual_clip"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", plugin_kwargs={"dual_clip": 1.0})


def test_dr_grpo_divides_by_a_constant_length() -> None:
    assert loss_of(DrGRPO(length=10)) == pytest.approx(-(1.2 - 4.6 + 2.35) / 3 / 10)


def test_dapo_clips_higher_upwards() -> None:
    # With ε_high = .28, the steps with ρ = 1.5 give 1.28 (episode 0) and .64 (episode 2). The mean is over all 8 steps.
    assert loss_of(DAPO()) == pytest.approx(-(1.28 - 4.6 + 0.45 + 0.55 + 0.64 + 0.25 + 0.5) / 8)


def test_dapo_with_equal_clip_ranges_is_ppo_clip() -> None:
    equal = DAPO(clip_range_low=0.2, clip_range_high=0.2)
    np.testing.assert_allclose(gradient_of(equal), gradient_of(PPOClip(clip_range=0.2)), atol=1e-12)


def test_gspo_clips_the_geometric_mean_of_the_ratios() -> None:
    # Geometric means: 1.5; √(.5 · 1.5) = .8660254; (.9 · 1.1 · 1.5 · .5 · 1)^(1/5) = .7425^.2 = .9421917.
    # ε = .2: min(1.5, 1.2) = 1.2; −2 · .8660254 = −1.7320508; .5 · .9421917 = .4710959.
    assert loss_of(GSPO(clip_range=0.2)) == pytest.approx(-(1.2 - 1.7320508 + 0.4710959) / 3, abs=1e-7)
    # The gradient of s with respect to each log π is s/T. Episode 0 is clipped, 1 has 1.7320508/2/3, 2 −.4710959/5/3.
    expected = np.repeat([0, 1.7320508 / 6, -0.4710959 / 15], LENGTHS)
    np.testing.assert_allclose(gradient_of(GSPO(clip_range=0.2)), expected, atol=1e-7)


def test_gspo_on_episodes_of_one_step_is_ppo_clip() -> None:
    single = {"episode": np.arange(8)}
    gspo, ppo = GSPO(clip_range=0.2), PPOClip(clip_range=0.2)
    assert loss_of(gspo, **single) == pytest.approx(loss_of(ppo, **single))
    np.testing.assert_allclose(gradient_of(gspo, **single), gradient_of(ppo, **single), atol=1e-12)


@pytest.mark.parametrize(
    ("parts", "part"),
    [
        ({"estimator": "reward_to_go"}, "estimator 'reward_to_go'"),
        ({"baseline": "time_mean"}, "baseline 'time_mean'"),
        ({"baseline": "value"}, "baseline 'value'"),
    ],
)
def test_gspo_refuses_parts_with_several_advantages_per_episode(parts: Any, part: str) -> None:
    with pytest.raises(
        ConfigError, match=f"objective 'gspo' needs one advantage per episode, but {part} gives each step"
    ):
        PolicyGradient("MlpPolicy", "CartPole-v1", "gspo", device="cpu", **parts)


@pytest.mark.parametrize("baseline", ["none", "batch_mean", "moving_average", "leave_one_out", "optimal", "group"])
def test_baselines_that_declare_per_episode_give_one_advantage_per_episode(baseline: str) -> None:
    model = small("rtg", estimator="full_return", baseline=baseline, sampling="groups")
    updates(model, 1)
    advantages, episode = model.rollout_buffer.advantages, model.rollout.episode
    assert all(np.ptp(advantages[episode == index]) == 0 for index in range(model.rollout.n_episodes))


def test_cispo_limits_the_weight_and_keeps_the_gradient() -> None:
    # The gradient is −min(ρ, 1.28) Ψ/8, which is not 0 at any step.
    weight = np.minimum(RATIO, 1.28)
    np.testing.assert_allclose(gradient_of(CISPO()), -weight * PSI / 8, atol=1e-12)


def test_ppo_kl_by_hand() -> None:
    objective: Any = PPOKL(initial_kl_coef=0.5)
    state = objective.make_state(None)
    # ρΨ: 1.5 | −1, −3 | .45, .55, .75, .25, .5, the sum 0. For ρ = 1.5, .5, .9, 1.1, 1, (ρ − 1) − log ρ is .09453489,
    # .19314718, .00536052, .00468982, 0. The sum is 3 · .09453489 + 2 · .19314718 + .00536052 + .00468982 = .67994937.
    assert loss_of(PPOKL(), state) == pytest.approx(0.5 * 0.67994937 / 8, abs=1e-7)


@pytest.mark.parametrize("objective", [PPOKL(), CISPO(), PPOClip(), DAPO()], ids=lambda o: o.name)
def test_at_ratio_one_the_gradient_is_that_of_policy_gradient(objective: Any) -> None:
    state = objective.make_state(None)
    ones = np.ones(8)
    plain = gradient_of(PolicyGradientLoss(), ratio=ones)
    np.testing.assert_allclose(plain, -PSI / 8, atol=1e-12)
    np.testing.assert_allclose(gradient_of(objective, state, ratio=ones), plain, atol=1e-12)


# ---------------------------------------------------------------- states of objectives


def test_ppo_kl_adapts_its_coefficient() -> None:
    objective: Any = PPOKL(kl_target=0.01, initial_kl_coef=1.0)
    state = objective.make_state(None)

    def after(ratios: list[float]) -> float:
        rollout = make_rollout([0, 0, 0], ratios=ratios, mask=[1, 1, 0])
        objective.update(rollout, np.zeros((3, 1)), state, None)
        return float(state.kl_coef)

    # (ρ − 1) − log ρ is .01767844 at ρ = 1.2 and 0 at ρ = 1. A mean KL of .01767844 > .015 doubles the coefficient.
    # .00883922 leaves it, between .00667 and .015. A mean of 0 halves it. The third step is padding.
    assert after([1.2, 1.2, 9]) == 2.0
    assert after([1.2, 1.0, 9]) == 2.0
    assert after([1.0, 1.0, 9]) == 1.0


@pytest.mark.parametrize(("ratio", "limit"), [(1.0, 1e-6), (3.0, 1e6)])
def test_ppo_kl_keeps_its_coefficient_within_limits(ratio: float, limit: float) -> None:
    objective: Any = PPOKL()
    state = objective.make_state(None)
    rollout = make_rollout([0], ratios=[ratio])
    for _ in range(200):
        objective.update(rollout, np.zeros((1, 1)), state, None)
    assert float(state.kl_coef) == pytest.approx(limit)


def small(plugin: str, **options: Any) -> PolicyGradient:
    options = {**sizes(plugin, n_episodes=16), "learning_rate": 0.01, **options}
    return PolicyGradient("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), plugin, seed=0, device="cpu", **options)


def minibatches_of(model: PolicyGradient, samples: Samples) -> Iterator[Samples]:
    whole_episodes = model.objective.whole_episodes
    return minibatches(samples, model.batch_size, whole_episodes=whole_episodes, shuffle_whole=False)


def action_weights(policy: Any) -> torch.Tensor:
    head: torch.nn.Linear = policy.action_net
    return head.weight.detach().clone()


def reference_weights(model: PolicyGradient) -> torch.Tensor:
    state: Any = model.part_states["objective"]
    return action_weights(state.policy)


def updates(model: PolicyGradient, n: int) -> None:
    for _ in range(n):
        model.learn(1, reset_num_timesteps=False)


def test_the_initial_reference_does_not_change_and_is_saved(tmp_path: Any) -> None:
    model = small("grpo")
    first = action_weights(model.policy)
    updates(model, 3)
    assert torch.equal(reference_weights(model), first)
    assert not torch.equal(action_weights(model.policy), first)
    model.save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", make_vec_env("CartPole-v1", 4), device="cpu")
    assert torch.equal(reference_weights(loaded), first)
    updates(loaded, 1)
    assert torch.equal(reference_weights(loaded), first)


def test_the_initial_reference_is_the_policy_at_the_start_of_training(tmp_path: Any) -> None:
    trained = small("rloo")
    updates(trained, 1)
    trained.save(tmp_path / "trained")
    model = small("grpo")
    model.set_parameters(tmp_path / "trained.zip")  # after the model was made
    updates(model, 1)
    assert torch.equal(reference_weights(model), action_weights(trained.policy))

    without = small("grpo", plugin_kwargs={"kl_coef": 0})
    updates(without, 1)
    without.save(tmp_path / "without")
    loaded = PolicyGradient.load(
        tmp_path / "without", make_vec_env("CartPole-v1", 4), device="cpu", plugin_kwargs={"kl_coef": 0.1}
    )
    updates(loaded, 1)
    assert torch.equal(reference_weights(loaded), action_weights(without.policy))


def test_an_average_reference_copies_buffers() -> None:
    from pgzoo import ReferencePolicy

    model = small("rtg")
    model.policy.register_buffer("seen", torch.zeros(2))
    reference = ReferencePolicy(model.policy)
    model.policy.get_buffer("seen").fill_(3.0)
    reference.follow(0.9)
    assert torch.equal(reference.policy.get_buffer("seen"), torch.full((2,), 3.0))


def test_a_refreshed_reference_is_copied_every_two_updates() -> None:
    model = small("grpo", plugin_kwargs={"reference": "refreshed", "refresh_every": 2})
    history = [action_weights(model.policy)]
    for copied_at in (0, 2, 2, 4):  # after updates 1 to 4
        updates(model, 1)
        history.append(action_weights(model.policy))
        assert torch.equal(reference_weights(model), history[copied_at])


def test_an_average_reference_is_a_moving_average_of_the_policy() -> None:
    model = small("grpo", plugin_kwargs={"reference": "average", "decay": 0.75})
    average = action_weights(model.policy)
    for _ in range(3):
        updates(model, 1)
        average = 0.75 * average + 0.25 * action_weights(model.policy)
        torch.testing.assert_close(reference_weights(model), average)


def test_grpo_without_a_penalty_has_no_reference() -> None:
    assert small("grpo", plugin_kwargs={"kl_coef": 0}).part_states["objective"] is None


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
def test_a_reference_can_copy_any_policy(env: str) -> None:
    sde = env == "Pendulum-v1"
    model = PolicyGradient("MlpPolicy", env, "grpo", use_sde=sde, group_size=2, n_episodes=2, device="cpu")
    updates(model, 2)
    assert model.logger.name_to_value["train/reference_kl"] > 0


def test_the_reference_kl_is_zero_while_the_policy_does_not_move() -> None:
    model = small("grpo", learning_rate=0.0)
    updates(model, 1)
    assert model.logger.name_to_value["train/reference_kl"] == pytest.approx(0, abs=1e-6)


def test_the_adapted_kl_coefficient_is_saved(tmp_path: Any) -> None:
    options = {"n_steps": 64, "learning_rate": 0.0, "plugin_kwargs": {"kl_target": 0.5}}
    model = small("ppo_kl", **options)
    updates(model, 3)
    assert model.logger.name_to_value["train/kl_coef"] == 0.125  # the policy does not move: halved three times
    model.save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", make_vec_env("CartPole-v1", 4), device="cpu")
    state: Any = loaded.part_states["objective"]
    assert float(state.kl_coef) == 0.125


@pytest.mark.parametrize("plugin", ["grpo", "dr_grpo", "dapo", "gspo", "cispo"])
def test_recipes_with_a_ratio_use_a_rollout_for_four_epochs(plugin: str) -> None:
    model = small(plugin)
    updates(model, 1)
    assert model.n_epochs == 4
    assert model.logger.name_to_value["train/approx_kl"] > 0  # in the last epoch, when the policy has moved


def test_the_entropy_is_logged_as_a_mean_whatever_the_aggregate() -> None:
    for plugin in ("grpo", "dr_grpo", "rloo"):
        model = small(plugin, learning_rate=0.0)
        updates(model, 1)
        # The policy is almost uniform over two actions: the entropy is ln 2.
        assert -model.logger.name_to_value["train/entropy_loss"] == pytest.approx(np.log(2), abs=1e-3)


# ---------------------------------------------------------------- minibatches


@pytest.mark.parametrize("plugin", ["grpo", "dr_grpo", "gspo", "rloo"])
@pytest.mark.parametrize("batch_size", [None, 40])
def test_minibatches_keep_the_scale_of_the_loss(plugin: str, batch_size: int | None) -> None:
    """The losses of the minibatches, weighted by their share of the steps or episodes, sum to that of the rollout."""
    model = small(plugin, batch_size=batch_size)
    updates(model, 1)
    samples = model._samples()
    with torch.no_grad():
        whole = float(model.backend.evaluate_actions(samples).aggregate(samples.advantages))
        parts = 0.0
        steps = []
        for minibatch in minibatches_of(model, samples):
            steps.append(len(minibatch))
            share = len(minibatch) / len(samples)
            if model.objective.whole_episodes:
                share = len(torch.unique(minibatch.episode)) / len(torch.unique(samples.episode))
            parts += share * float(model.backend.evaluate_actions(minibatch).aggregate(minibatch.advantages))
    assert sum(steps) == len(samples)
    assert (len(steps) > 1) == (batch_size is not None)
    assert parts == pytest.approx(whole, abs=1e-4)


def test_minibatches_of_gspo_consist_of_whole_episodes() -> None:
    model = small("gspo", batch_size=40)
    updates(model, 1)
    samples = model._samples()
    lengths = torch.bincount(samples.episode)
    seen: list[int] = []
    for minibatch in minibatches_of(model, samples):
        episodes, counts = torch.unique(minibatch.episode, return_counts=True)
        assert torch.equal(counts, lengths[episodes])
        seen += episodes.tolist()
    assert sorted(seen) == list(range(16))
