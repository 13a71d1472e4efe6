"""Measuring gradients: the statistics, the gradients, and `pgzoo variance`."""

from __future__ import annotations

import json
import signal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import pgzoo
from envs import AnySpaces
from gymnasium import spaces
from lab import frozen, plugin_gradient
from sizes import sizes
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo import PolicyGradient, Registry, Spaces
from pgzoo._sb3 import prepare_learning
from pgzoo.lab.measure import sampler as sampling
from pgzoo.lab.measure import statistics, variance
from pgzoo.lab.measure.exact import TabularMDP, actor_parameters, exact_gradient, exact_values
from pgzoo.lab.measure.mdps import make_mdp
from pgzoo.lab.measure.plugin_gradient import PluginGradient
from pgzoo.lab.measure.sampler import Sampler, columns
from pgzoo.lab.measure.score_gradients import PolicyScores, TableScores, policy_inputs
from pgzoo.lab.measure.statistics import exact_moments, moments, resample_weights, summarize
from pgzoo.registry.combination import resolve
from pgzoo.training.stopping import Stopped

REGISTRY = Registry.discover()
FIRST_ORDER = [name for name in REGISTRY.recipes() if REGISTRY.recipe(name).update == "gradient_descent"]


@pytest.fixture(scope="module")
def registry() -> Registry:
    return Registry.discover()


# ---------------------------------------------------------------- statistics


def test_moments_by_hand() -> None:
    """g = (1, 0) and (3, 4): ‖E g‖² is their product, 3; mean norm² (1 + 25)/2 = 13, so tr Cov = 13 − 3 = 10."""
    equal = moments(np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[0.5, 0.5]]))
    assert equal.squared_norm[0] == pytest.approx(3)
    assert equal.variance[0] == pytest.approx(10)
    # A batch that is drawn twice adds nothing to the signal: weights ⅔ and ⅓ give the same product.
    again = moments(np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2 / 3, 1 / 3]]))
    assert again.squared_norm[0] == pytest.approx(3)


def test_many_gradients_are_resampled_less_often() -> None:
    assert statistics.number_of_resamples(400, 4610) == 1000
    assert statistics.number_of_resamples(40_000, 4610) == 108  # 2e10 / 1.844e8
    assert statistics.number_of_resamples(10**6, 10**6) == 100


def test_a_summary_by_hand() -> None:
    """r = (0, 2): E g·r = (0 + 8)/2 = 4, so the scale is 4/4; bias² = 3 − 8 + 4 = −1, clipped to 0."""
    gradients = np.array([[1.0, 0.0], [3.0, 4.0]])
    weights = resample_weights(2, np.random.default_rng(0), 10)
    summary, _ = summarize(gradients, np.array([10, 30]), exact_moments(np.array([0.0, 2.0]), 11), weights)
    assert summary.scale.value == pytest.approx(1.0)
    assert summary.bias.value == 0.0
    assert summary.relative_variance.value == pytest.approx(10 / 3)
    assert summary.snr.value == pytest.approx(np.sqrt(0.3))
    assert summary.steps_for_snr.value == pytest.approx(20 * 10 / 3)
    assert summary.cosine.value == pytest.approx((0 + 0.8) / 2)


def test_intervals_cover_the_true_values() -> None:
    rng = np.random.default_rng(1)
    mean, reference, n = np.array([1.0, 0.5, 0.0]), np.array([1.0, 0.0, 0.0]), 60
    deviations = np.array([1.0, 2.0, 0.5])
    true = {
        "variance": 1 + 4 + 0.25,
        "relative_variance": 5.25 / 1.25,
        "snr": np.sqrt(1.25 / 5.25),
        "bias": 0.5,
        "scale": 1.0,
    }
    hits = dict.fromkeys(true, 0)
    for _ in range(200):
        gradients = rng.normal(mean, deviations, (n, 3))
        weights = resample_weights(n, rng, 200)
        summary, _ = summarize(gradients, np.ones(n), exact_moments(reference, 201), weights)
        for name, value in true.items():
            estimate = getattr(summary, name)
            hits[name] += estimate.low <= value <= estimate.high
    assert all(170 <= n <= 199 for n in hits.values()), (
        hits
    )  # 95 % of 200 is 190; percentile intervals cover slightly less


def test_bias_is_nan_if_the_reference_is_noise() -> None:
    weights = resample_weights(2, np.random.default_rng(0), 5)
    reference = moments(np.array([[1.0], [-1.0]]), weights)  # ‖r‖² = −1
    summary, _ = summarize(np.array([[1.0], [2.0]]), np.ones(2), reference, weights)
    for estimate in (summary.cosine, summary.mean_cosine, summary.bias, summary.scale):
        assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
    assert summary.variance.value == pytest.approx(2.5 - 2)  # mean norm² 5/2 minus the product 2


def test_a_cosine_includes_the_uncertainty_of_its_reference() -> None:
    rng = np.random.default_rng(0)
    gradients = np.tile([[1.0, 0.0]], (40, 1))
    weights = resample_weights(40, rng, 300)
    noisy = moments(rng.normal([1.0, 0.0], 1.0, (40, 2)), resample_weights(40, rng, 300))
    known, _ = summarize(gradients, np.ones(40), exact_moments(np.array([1.0, 0.0]), 301), weights)
    estimated, _ = summarize(gradients, np.ones(40), noisy, weights)
    assert known.cosine.low == known.cosine.high == pytest.approx(1)
    assert estimated.cosine.high - estimated.cosine.low > 0.02


def test_too_few_batches_have_no_intervals() -> None:
    weights = resample_weights(9, np.random.default_rng(0), 50)
    summary, _ = summarize(
        np.random.default_rng(1).normal(size=(9, 3)), np.ones(9), exact_moments(np.ones(3), 51), weights
    )
    assert np.isfinite(summary.variance.value)
    assert np.isnan([summary.variance.low, summary.snr.high]).all()


def test_without_signal_the_snr_is_0_and_the_steps_infinite() -> None:
    gradients = np.array([[1.0], [-1.0]])
    weights = resample_weights(2, np.random.default_rng(0), 5)
    summary, _ = summarize(gradients, np.ones(2), exact_moments(np.ones(1), 6), weights)
    assert summary.snr.value == 0
    assert summary.steps_for_snr.value == np.inf


# ---------------------------------------------------------------- gradients


def test_both_kinds_of_scores_agree(registry: Registry) -> None:
    mdp = make_mdp("trap")
    sampler = frozen(mdp, columns=16, net_arch=[6])
    rollout = next(sampler.batches())
    weights = [plugin_gradient(registry, sampler, plugin).weights(rollout) for plugin in ("rtg", "gae")]
    by_policy = PolicyScores(sampler.policy).gradients(rollout, weights)
    by_table = TableScores(mdp, sampler.policy).gradients(rollout, weights)
    np.testing.assert_allclose(by_policy, by_table, rtol=1e-3, atol=1e-5)


BOX = spaces.Box(-1, 1, (3,), np.float32)
SPACES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any], str, dict[str, Any]]] = {
    "discrete": (BOX, spaces.Discrete(3), "MlpPolicy", {}),
    "multi-discrete": (BOX, spaces.MultiDiscrete([2, 3]), "MlpPolicy", {}),
    "multi-binary": (BOX, spaces.MultiBinary(3), "MlpPolicy", {}),
    "box": (BOX, spaces.Box(-1, 1, (2,), np.float32), "MlpPolicy", {}),
    "gSDE": (
        BOX,
        spaces.Box(-1, 1, (2,), np.float32),
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {"net_arch": []}},
    ),  # without hidden layers, from which SB3 detaches the noise
    "dict": (spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}), spaces.Discrete(3), "MultiInputPolicy", {}),
    "image": (spaces.Box(0, 255, (36, 36, 1), np.uint8), spaces.Discrete(3), "CnnPolicy", {}),
}


@pytest.mark.parametrize("name", SPACES)
def test_scores_of_every_space_are_finite_differences(name: str) -> None:
    """A small step in a random direction changes Σ w log π by its product with the gradient."""
    observation, action, policy, options = SPACES[name]
    arguments = sampling.arguments(4, 0.9)
    env = DummyVecEnv([lambda: AnySpaces(observation, action)] * 2)
    model = PolicyGradient(policy, env, **arguments, **options, seed=0, device="cpu")
    rollout = next(Sampler(model, 4).batches())
    rng = np.random.default_rng(0)
    weights = [np.where(rollout.mask, rng.normal(size=rollout.shape), 0.0) for _ in range(2)]
    gradients = PolicyScores(model.policy).gradients(rollout, weights)
    inputs = policy_inputs(model.policy, rollout)
    actor = actor_parameters(model.policy, *inputs)
    generator = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=generator) / p.numel() ** 0.5 for p in actor]

    def weighted(weight: Any, step: float) -> float:
        with torch.no_grad():
            for p, d in zip(actor, direction, strict=True):
                p.add_(step * d)
            log_probs = model.policy.evaluate_actions(*inputs)[1].double()
            for p, d in zip(actor, direction, strict=True):
                p.sub_(step * d)
        return float((torch.as_tensor(rollout.flat(weight)) * log_probs).sum())

    along = torch.cat([d.flatten() for d in direction]).numpy()
    size = 1e-3
    for weight, gradient in zip(weights, gradients, strict=True):
        slope = (weighted(weight, size) - weighted(weight, -size)) / (2 * size)
        assert gradient @ along == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_own_loss_discounts_states_as_the_recipe_does(registry: Registry) -> None:
    sampler = frozen(make_mdp("noise"), columns=16)
    policy_spaces = Spaces(sampler.policy.observation_space, sampler.policy.action_space, sampler.policy)
    combinations = {
        "rtg": resolve(registry, "rtg"),
        "true": resolve(registry, "rtg", overrides={"discount_states": True}),
    }

    def discounts(**options: Any) -> list[bool]:
        config = variance.MeasureConfig(combinations, **options)
        return [
            variance.plugin_gradient(config, name, combination, policy_spaces).discount_states
            for name, combination in combinations.items()
        ]

    assert discounts() == [True, True]
    assert discounts(own_loss=True) == [False, True]
    assert discounts(own_loss=True, discount_states=True) == [True, True]
    assert discounts(discount_states=False) == [False, False]


@pytest.mark.parametrize("plugin", FIRST_ORDER)
def test_own_loss_is_the_step_that_training_takes(plugin: str, registry: Registry) -> None:
    """SGD at learning rate 1 moves the parameters by the gradient of the recipe's own loss."""
    model = PolicyGradient(
        "MlpPolicy",
        "CartPole-v1",
        plugin,
        n_epochs=1,
        **sizes(plugin, n_steps=64),
        batch_size=None,
        learning_rate=1.0,
        max_grad_norm=None,
        ent_coef=0.0,
        use_rms_prop=False,
        policy_kwargs={"optimizer_class": torch.optim.SGD, "net_arch": [8]},
        seed=3,
        device="cpu",
    )
    prepare_learning(model)
    assert model.env is not None
    model.collect_rollouts(model.env, _no_callback(model), model.rollout_buffer, 64)
    spaces = Spaces(model.observation_space, model.action_space, model.policy)
    measured = PluginGradient(plugin, resolve(registry, plugin), spaces, discount_states=False, own_loss=True)
    measured.part_states = model.part_states  # as they are before the update
    expected = PolicyScores(model.policy).gradients(model.rollout, [measured.weights(model.rollout)])[0]
    actor = actor_parameters(model.policy, *policy_inputs(model.policy, model.rollout))
    before = torch.cat([p.detach().flatten().clone() for p in actor])
    model.train()
    moved = torch.cat([p.detach().flatten() for p in actor]) - before
    assert moved.norm() > 0
    np.testing.assert_allclose(moved.numpy(), expected, rtol=1e-3, atol=1e-5 * float(moved.norm()))


def _no_callback(model: PolicyGradient) -> Any:
    from stable_baselines3.common.callbacks import CallbackList

    callback = CallbackList([])
    callback.init_callback(model)
    return callback


def test_columns_are_a_rollout_of_their_own(registry: Registry) -> None:
    """A batch that is cut out of many columns gets the same advantages as if it had been sampled alone."""
    sampler = frozen(make_mdp("lengths"), columns=24, group_size=4)
    whole = sampler.rollout()
    part = columns(whole, 8, 16)
    assert part.shape[1] == 8
    assert part.mask.any(axis=1).all()
    t = part.shape[0]
    for name in ("rewards", "values", "next_values", "last", "mask", "score_sq_norms", "observations"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:t, 8:16])
    assert sorted(np.unique(part.group[part.mask])) == [0, 1]
    rtg = plugin_gradient(registry, sampler, "rtg")
    np.testing.assert_allclose(part.n_episodes * rtg.weights(part), 24 * rtg.weights(whole)[:t, 8:16])
    # Two groups of four: the leave-one-out mean uses only the episode's own group.
    rloo = plugin_gradient(registry, sampler, "rloo").weights(part)
    alone = [plugin_gradient(registry, sampler, "rloo").weights(columns(whole, i, i + 4)) for i in (8, 12)]
    for i, weights in enumerate(alone):
        t = len(weights)
        np.testing.assert_allclose(2 * rloo[:t, 4 * i : 4 * i + 4], weights)


def test_the_critic_is_fitted_and_the_actor_does_not_change() -> None:
    sampler = frozen(make_mdp("noise"), columns=400)
    head: Any = sampler.policy.action_net
    actor = head.weight.clone()
    explained = sampler.fit_critic(list(islice(sampler.batches(), 50)))
    assert torch.equal(actor, head.weight)
    # V(s) of a tabular policy is known exactly.
    exact = exact_values(make_mdp("noise"), sampler.policy, 0.9)
    with torch.no_grad():
        fitted = sampler.policy.predict_values(torch.eye(4)).numpy().ravel()
    assert np.abs(fitted - exact).max() < 0.5
    assert explained > 0


def test_a_variance_by_hand(registry: Registry) -> None:
    """REINFORCE on a bandit: one state, one step, rewards 1 and 0, π = ½ for each action.

    Ψ ∇ log π is (1)(½, −½) for one action and 0 for the other. Its mean is (¼, −¼), its variance ½·½ − ⅛ = ⅛, and that
    of a batch of 8 is 1/64. With b = ½ it is (½)(½, −½) and (−½)(−½, ½), the same for both, so the variance is 0.
    """
    rewards = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    mdp = TabularMDP("bandit", np.array([[[0.0, 1.0], [0.0, 1.0]]]), rewards, np.ones(1))
    sampler = frozen(mdp, columns=8000)
    policy: Any = sampler.policy
    with torch.no_grad():
        policy.action_net.weight.zero_()
        policy.action_net.bias.zero_()
        policy.value_net.weight.fill_(0.5)
        policy.value_net.bias.zero_()
    scores = TableScores(mdp, sampler.policy)
    plugins = [plugin_gradient(registry, sampler, name) for name in ("reinforce", "rtg_value")]
    gradients = [scores.gradients(r, [p.weights(r) for p in plugins]) for r in islice(sampler.batches(), 5000)]
    weights = np.array(gradients)[:, :, :2]  # those of the weights; those of the biases are the same
    variances = weights.var(axis=0, ddof=1).sum(axis=1)
    assert variances[0] == pytest.approx(1 / 64, rel=0.1)
    assert variances[1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(weights.mean(axis=0)[1], exact_gradient(mdp, sampler.policy, 0.9)[:2], atol=1e-9)


# ---------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    options = ["--plugins", "rtg,gae,rloo,reward_to_go+time_mean", "--env", "pgzoo/Noise-v0", "--batches", "40"]
    options = ["variance", *options, "-P", "leave_one_out:true", "--json"]
    report = json.loads(pgzoo(*options, "--out", "figure.png", cwd=tmp_path).stdout)
    assert list(report["summaries"]) == ["rtg", "gae", "rloo", "reward_to_go+time_mean"]
    assert report["reference"] == "the exact gradient"
    assert all(summary["n_batches"] == 40 for summary in report["summaries"].values())
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
    assert report["settings"]["out"] == "figure.png"
    again = json.loads(pgzoo(*options, cwd=tmp_path).stdout)
    assert again["summaries"] == report["summaries"]  # the same seed


def test_steps_in_copies_count() -> None:
    """An episode of TimeLimit has 6 steps. Two continuations from each state take 2 · (6 + 5 + … + 1) = 42 more."""
    options = ["--plugins", "vine,rtg", "-P", "n_continuations:2", "--episodes", "4"]
    result = pgzoo("variance", *options, "--env", "pgzoo/TimeLimit-v0", "--batches", "10", "--warmup", "1", "--json")
    summaries = json.loads(result.stdout)["summaries"]
    assert summaries["vine"]["steps"] == 4 * (6 + 42)
    assert summaries["rtg"]["steps"] == 4 * 6
    assert 0 < summaries["vine"]["variance"]["value"] < summaries["rtg"]["variance"]["value"]


def test_a_saved_model_of_sb3(tmp_path: Path) -> None:
    A2C("MlpPolicy", "CartPole-v1", seed=0).save(tmp_path / "a2c.zip")
    options = ["variance", "--model", "a2c.zip", "--plugins", "rtg,grpo"]
    options += ["--batches", "3", "--warmup", "1", "--loss", "own"]
    assert "not in a run folder of pgzoo: add its --env" in pgzoo(*options, cwd=tmp_path, status=2).stderr
    assert "--trust" in pgzoo(*options, "--env", "CartPole-v1", cwd=tmp_path, status=2).stderr
    result = pgzoo(*options, "--env", "CartPole-v1", "--trust", cwd=tmp_path)
    assert "over 96 other episodes" in result.stdout  # 3 batches × 4 × 8


REFUSED = [
    (["--plugins", "rtg,gea"], "unknown recipe 'gea'"),
    (["--plugins", ","], "--plugins is empty"),
    (["--env", "CartPole-v7"], "CartPole-v"),
    (["--episodes", "6"], "a batch of 6 episodes cannot be split into groups of 4"),
    (["-P", "gae_lamda:0.9"], "none of reinforce"),
    (["-P", "gae_lambda:2"], "gae_lambda must lie in [0, 1]"),
    (["--out", "figure.jpg"], "unknown kind of figure '.jpg'"),
    (["--out", "nowhere/figure.png"], "does not exist"),
    (["--model", "none.zip", "--env", "CartPole-v1"], "there is no model at none.zip"),
    (["--batches", "100000000", "--env", "CartPole-v1"], "use at most --batches"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_refusals(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = pgzoo("variance", *arguments, cwd=tmp_path, status=2)
    assert message in result.stderr
    assert len(result.stderr.splitlines()) <= 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("after", "error", "status"),
    [(4, KeyboardInterrupt(), 130), (1, KeyboardInterrupt(), 130), (4, Stopped(signal.SIGTERM), 143)],
    ids=["enough", "too early", "SIGTERM"],
)
def test_a_signal_reports_the_batches_so_far(
    after: int, error: KeyboardInterrupt, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = variance.Measurement.batch
    runs: list[Any] = []

    def interrupted(run: Any) -> None:
        if len(runs) == after:
            raise error
        batch(run)
        runs.append(run)

    monkeypatch.setattr(variance.Measurement, "batch", interrupted)
    options = ["--env", "pgzoo/TimeLimit-v0", "--plugins", "rtg", "--warmup", "1", "--no-progress"]
    result = pgzoo("variance", *options, status=status)
    assert ("4 gradients per plugin" in result.stdout) == (after == 4)
    assert ("Interrupted after 4 batches" in result.stderr) == (after == 4)
    assert "Traceback" not in result.stderr


def test_ctrl_c_while_the_reference_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plugins have a third batch already, and the reference does not."""
    weights, called = PluginGradient.weights, []

    def interrupted(plugin_gradient: PluginGradient, rollout: Any) -> Any:
        if plugin_gradient.name == "reward_to_go+value":
            called.append(plugin_gradient)
            if len(called) > 2:
                raise KeyboardInterrupt
        return weights(plugin_gradient, rollout)

    monkeypatch.setattr(PluginGradient, "weights", interrupted)
    options = ["--plugins", "rtg,gae", "--warmup", "1", "--reference-batches", "1", "--no-progress"]
    result = pgzoo("variance", *options, status=130)
    assert "2 gradients per plugin" in result.stdout
    assert "Interrupted after 2 batches" in result.stderr
