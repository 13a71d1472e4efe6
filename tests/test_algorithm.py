"""PolicyGradient as an SB3 algorithm: spaces, options, logs, saving and loading."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from envs import AnySpaces, Clock
from gymnasium import spaces
from parts import ValueAndSuccessors
from pgzoo_plugins.policy_gradient import PolicyGradientLoss
from same import assert_same
from sizes import sizes
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo import ConfigError, PluginError, PolicyGradient, Registry
from pgzoo.updates.minibatches import reevaluated

RECIPES = Registry.discover().recipes()

OBSERVATIONS = {
    "box": spaces.Box(-1, 1, (3,)),
    "discrete": spaces.Discrete(5),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(4),
    "image": spaces.Box(0, 255, (36, 36, 3), np.uint8),
    "dict": spaces.Dict({"image": spaces.Box(0, 255, (36, 36, 1), np.uint8), "vector": spaces.Box(-1, 1, (2,))}),
}
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([3, 2]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,)),
}


def model_on(observations: str, actions: str, plugin: str, **options: Any) -> PolicyGradient:
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(observations, "MlpPolicy")
    make = lambda: AnySpaces(OBSERVATIONS[observations], ACTIONS[actions])  # noqa: E731
    env = DummyVecEnv([make, make])
    return PolicyGradient(
        policy, env, plugin, **sizes(plugin, n_steps=8, n_episodes=4, group_size=2), batch_size=None, seed=0,
        device="cpu", **options,
    )  # fmt: skip


@pytest.mark.parametrize("plugin", ["rtg", "advantage", "ppo", "grpo", "rtg_optimal", "vtrace"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_action_spaces(actions: str, plugin: str) -> None:
    model = model_on("box", actions, plugin).learn(40)
    action, _ = model.predict(np.zeros(3, np.float32))
    assert ACTIONS[actions].contains(action[()] if actions == "discrete" else action)


@pytest.mark.parametrize("plugin", ["rtg", "advantage"])
@pytest.mark.parametrize("observations", OBSERVATIONS)
def test_observation_spaces(observations: str, plugin: str) -> None:
    model = model_on(observations, "discrete", plugin, baseline=ValueAndSuccessors()).learn(40)
    assert np.isfinite(model.rollout_buffer.advantages).all()
    next_observations = model.rollout.next_observations
    if observations == "dict":
        assert isinstance(next_observations, dict)
        assert next_observations["vector"].shape == (*model.rollout.shape, 2)


@pytest.mark.parametrize("plugin", ["gae", "rtg_value"])
def test_gsde_and_squashed_actions(plugin: str) -> None:
    options: dict[str, Any] = {
        "use_sde": True,
        "sde_sample_freq": 3,
        "policy_kwargs": {"squash_output": True},
    }
    model = model_on("box", "box", plugin, **options).learn(40)
    assert np.isfinite(model.rollout_buffer.advantages).all()


class OwnPolicy(ActorCriticPolicy):
    """A custom policy class that notes in which mode it samples and learns."""

    modes: ClassVar[dict[str, set[bool]]] = {"sampling": set(), "learning": set()}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.modes["sampling"].add(self.training)
        return super().forward(*args, **kwargs)

    def evaluate_actions(self, *args: Any, **kwargs: Any) -> Any:
        self.modes["learning"].add(self.training)
        return super().evaluate_actions(*args, **kwargs)


def test_custom_policy_class_and_its_modes() -> None:
    """Batch normalisation and dropout rest while sampling and work while learning."""
    PolicyGradient(OwnPolicy, "CartPole-v1", "gae", n_steps=16, device="cpu").learn(48)
    assert OwnPolicy.modes == {"sampling": {False}, "learning": {True}}


# ---------------------------------------------------------------- arguments


def test_recipe_defaults_and_given_arguments() -> None:
    a2c = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    assert (a2c.n_steps, a2c.gae_lambda, a2c.log_interval) == (5, 1.0, 100)
    assert isinstance(a2c.policy.optimizer, torch.optim.RMSprop)
    ppo = PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", device="cpu", n_steps=64, clip_range=0.1)
    objective: Any = ppo.objective
    assert (ppo.n_steps, ppo.batch_size, ppo.n_epochs, objective.clip_range) == (64, 64, 10, 0.1)
    assert isinstance(ppo.policy.optimizer, torch.optim.Adam)


def test_the_keywords_of_a2c_and_ppo_are_taken() -> None:
    import inspect

    from stable_baselines3 import PPO

    ours = set(inspect.signature(PolicyGradient).parameters)
    for theirs in (A2C, PPO):
        assert set(inspect.signature(theirs).parameters) <= ours


def test_parts_by_string_mapping_instance_and_flat_keyword() -> None:
    from pgzoo_plugins.lambda_return import LambdaReturn

    def gae_lambda(**options: Any) -> float:
        model = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", device="cpu", **options)
        assert isinstance(model.estimator, LambdaReturn)
        return model.estimator.gae_lambda

    assert gae_lambda() == 0.95
    assert gae_lambda(gae_lambda=0.5) == 0.5
    assert gae_lambda(plugin_kwargs={"gae_lambda": "0.5"}) == 0.5
    assert gae_lambda(plugin_kwargs={"estimator.gae_lambda": 0.5}) == 0.5
    assert gae_lambda(estimator={"gae_lambda": 0.5}) == 0.5
    assert gae_lambda(estimator={"name": "lambda_return", "gae_lambda": 0.5}) == 0.5
    assert gae_lambda(estimator=LambdaReturn(gae_lambda=0.5)) == 0.5
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", baseline="batch_mean", device="cpu")
    assert model.baseline.name == "batch_mean"


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        ("rtg", {"gae_lambda": 0.5}, "unknown hyperparameter 'gae_lambda'"),
        ("gae", {"gae_lambda": 0.5, "plugin_kwargs": {"gae_lambda": 0.6}}, "given twice"),
        ("gae", {"gae_lambda": 0.5, "plugin_kwargs": {"estimator.gae_lambda": 0.6}}, "given twice"),
        ("gae", {"gae_lambda": 1.5}, r"gae_lambda must lie in \[0, 1\], not 1.5"),
        ("gae", {"gamma": "high"}, "gamma must be float, not 'high'"),
        ("gae", {"n_epochs": 4}, "correct for one epoch only"),
        ("rtg", {"sampling": "steps"}, "needs complete episodes"),
        ("rtg", {"sampling": "stepz"}, "did you mean 'steps'"),
        ("gea", {}, "did you mean 'gae'"),
        ("reward_to_go+valeu", {}, "unknown baseline 'valeu'; did you mean 'value'"),
        ("gae", {"plugin_kwargs": {"lambda": 0.5}}, "unknown hyperparameter 'lambda'"),
        ("gae", {"plugin_kwargs": {"critic.x": 1}}, "unknown part 'critic'"),
        ("ppo", {"batch_size": 1}, "batch_size above 1"),
        ("ppo", {"clip_range": -0.1}, "clip_range must lie in"),
        ("reinforce", {"n_critic_updates": 5}, "n_critic_updates trains V, which no part of 'reinforce' reads"),
    ],
)
def test_refusals(plugin: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, PluginError), match=message):
        PolicyGradient("MlpPolicy", "CartPole-v1", plugin, device="cpu", **options)


def test_schedules() -> None:
    model = PolicyGradient(
        "MlpPolicy",
        "CartPole-v1",
        "ppo",
        n_steps=32,
        n_epochs=1,
        learning_rate={"schedule": "linear", "initial": 0.01},
        clip_range=lambda left: 0.1 + 0.1 * left,
        device="cpu",
    ).learn(64)
    # After the second of two rollouts no progress remains.
    assert model.policy.optimizer.param_groups[0]["lr"] == 0.0
    assert model.logger.name_to_value["train/clip_range"] == pytest.approx(0.1)


@pytest.mark.parametrize("over", ["rollout", "minibatch", True])
def test_normalize_advantage(over: Any) -> None:
    seen: list[torch.Tensor] = []

    class Recording(PolicyGradientLoss):
        name = "recording"

        def __call__(self, batch: Any, state: Any = None) -> Any:
            seen.append(batch.advantages.detach().clone())
            return super().__call__(batch, state)

    model = model_on("box", "discrete", "gae", objective=Recording(), normalize_advantage=over)
    model.learn(16)
    assert len(seen) == 1
    assert float(seen[0].mean()) == pytest.approx(0, abs=1e-6)
    assert float(seen[0].std()) == pytest.approx(1, abs=1e-5)
    assert model.rollout_buffer.advantages.std() != pytest.approx(1, abs=1e-3)  # what callbacks see is not normalised


def test_target_kl_stops_the_epochs() -> None:
    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "ppo", n_steps=64, n_epochs=50, learning_rate=0.05, target_kl=0.01, seed=0,
        device="cpu",
    )  # fmt: skip
    model.learn(64)
    assert model._n_updates < 50


def test_further_critic_updates_leave_the_actor_alone() -> None:
    """The same rollout, then 0 or 20 further passes: V comes closer to the returns, the actor stays."""

    def after(n_critic_updates: int) -> tuple[dict[str, torch.Tensor], float]:
        model = PolicyGradient(
            "MlpPolicy", "CartPole-v1", "gae", n_steps=64, n_critic_updates=n_critic_updates, seed=0, device="cpu"
        ).learn(64)
        samples = model._samples()
        with torch.no_grad():
            errors = model.policy.predict_values(samples.observations).flatten() - samples.returns
        return dict(model.policy.state_dict()), float(errors.square().mean())

    (plain, plain_error), (further, further_error) = after(0), after(20)
    actor = [name for name in plain if "policy_net" in name or "action_net" in name]
    assert len(actor) == 6
    assert all(torch.equal(plain[name], further[name]) for name in actor)
    assert further_error < 0.95 * plain_error


def test_vtrace_is_recomputed_before_each_further_epoch(registry_with: Any) -> None:
    from pgzoo_plugins.vtrace import VTrace

    seen: list[tuple[Any, Any, Any]] = []

    class Watched(VTrace):
        name = "watched"

        def __call__(self, rollout: Any, state: Any = None) -> Any:
            returns = super().__call__(rollout, state)
            seen.append((rollout.ratios, rollout.values, returns))
            return returns

    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "watched+value", registry=registry_with(Watched), n_steps=64, n_epochs=3,
        learning_rate=0.01, seed=0, device="cpu",
    )  # fmt: skip
    model.learn(64)
    assert len(seen) == 3
    assert (seen[0][0] == 1).all()
    for (_, values, returns), (later_ratios, later_values, later_returns) in itertools.pairwise(seen):
        assert abs(later_ratios - 1).max() > 1e-3
        assert abs(later_values - values).max() > 1e-3
        assert abs(later_returns - returns).max() > 1e-3
    # The critic as it is now, of the true successors: one step later it is V(s_t) of the next row.
    inside = ~model.rollout.last[:-1, 0]
    now = reevaluated(model.rollout, model._samples(), model.backend)
    np.testing.assert_allclose(now.next_values[:-1, 0][inside], now.values[1:, 0][inside], rtol=1e-5)


def test_further_epochs_of_vtrace_have_the_gradient_of_impala() -> None:
    """ρ_t ∇log π(a_t|s_t) (r_t + γ v_{t+1} − V(s_t)), ρ cut at 1, seen from outside by an SGD step of size 1."""
    from pgzoo_plugins.vtrace import VTrace

    model = PolicyGradient(
        "MlpPolicy", "CartPole-v1", "vtrace", n_steps=64, n_epochs=2, learning_rate=1e-9, max_grad_norm=None,
        policy_kwargs={"optimizer_class": torch.optim.SGD}, seed=0, vf_coef=0.0, device="cpu",
    )  # fmt: skip
    model.learn(64)
    head: Any = model.policy.action_net
    with torch.no_grad():  # away from the policy that sampled
        head.weight.add_(0.5 * torch.randn(2, 64, generator=torch.Generator().manual_seed(1)))
    now = reevaluated(model.rollout, model._samples(), model.backend)
    model._compute_advantages(now)
    samples = model._samples()
    psi = np.minimum(now.ratios, 1) * (VTrace()(now) - now.values)
    np.testing.assert_allclose(samples.advantages.numpy(), psi[:, 0], rtol=1e-5, atol=1e-5)
    targets = VTrace().critic_targets(now, psi)
    np.testing.assert_allclose(samples.returns.numpy(), targets[:, 0], rtol=1e-5)


def test_one_sgd_step_is_the_gradient() -> None:
    """Seen from outside: with SGD at rate 1, −Δθ is the gradient of the loss written out by hand."""
    model = PolicyGradient(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 2, seed=3),
        "rtg",
        n_episodes=4,
        learning_rate=1.0,
        max_grad_norm=None,
        policy_kwargs={"optimizer_class": torch.optim.SGD},
        seed=0,
        device="cpu",
    )
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
    model.learn(1)
    moved = {name: before[name] - p.detach() for name, p in model.policy.named_parameters()}
    rollout = model.rollout
    model.policy.load_state_dict(before)
    model.policy.zero_grad()
    loss = torch.zeros(())
    for n in range(2):
        for t in np.flatnonzero(rollout.mask[:, n]):
            later = [k for k in range(t, len(rollout.mask)) if rollout.episode[k, n] == rollout.episode[t, n]]
            reward_to_go = sum(0.99 ** (k - t) for k in later)  # every reward of CartPole is 1
            observation = torch.as_tensor(np.asarray(rollout.observations)[t, n])[None]
            action = torch.as_tensor(rollout.actions[t, n])
            log_prob = model.policy.get_distribution(observation).log_prob(action)
            loss = loss - reward_to_go * log_prob[0] / rollout.mask.sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for name, p in model.policy.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(moved[name], p.grad, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- callbacks and logs


class Look(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[Any] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        assert isinstance(self.model, PolicyGradient)
        buffer = self.model.rollout_buffer
        self.shapes.append((buffer.advantages.shape, buffer.returns.shape, buffer.values.shape))
        np.testing.assert_allclose(buffer.advantages, buffer.returns - buffer.values, atol=1e-4)


@pytest.mark.parametrize("plugin", ["gae", "rtg_value"])
def test_callbacks_find_the_buffer(plugin: str) -> None:
    look = Look()
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = PolicyGradient("MlpPolicy", env, plugin, **sizes(plugin, n_steps=16, n_episodes=2), device="cpu", seed=0)
    model.learn(100, callback=look)
    shape = model.rollout.shape
    assert look.shapes[-1] == (shape, shape, shape)


def test_eval_callback(tmp_path: Path) -> None:
    callback = EvalCallback(
        make_vec_env("CartPole-v1"), eval_freq=50, log_path=str(tmp_path), best_model_save_path=str(tmp_path)
    )
    PolicyGradient("MlpPolicy", "CartPole-v1", "rtg_value", device="cpu").learn(120, callback=callback)
    assert (tmp_path / "best_model.zip").is_file()
    assert PolicyGradient.load(tmp_path / "best_model", device="cpu").plugin == "rtg_value"


def test_log_keys() -> None:
    def keys(plugin: str, env: Any) -> set[str]:
        model = PolicyGradient("MlpPolicy", env, plugin, **sizes(plugin, n_steps=16, n_episodes=2), device="cpu")
        model.learn(64)
        return set(model.logger.name_to_value)

    common = {
        "train/learning_rate",
        "train/entropy_loss",
        "train/loss",
        "train/advantage_std",
        "train/n_updates",
    }
    critic = {"train/explained_variance", "train/value_loss"}
    assert common | critic | {"train/policy_loss"} <= keys("a2c", "CartPole-v1")
    ppo = {"train/policy_gradient_loss", "train/approx_kl", "train/clip_fraction", "train/clip_range"}
    assert common | critic | ppo | {"train/std"} <= keys("ppo", "Pendulum-v1")
    assert critic.isdisjoint(keys("rtg", "CartPole-v1"))
    assert "train/q_loss" in keys("advantage", "CartPole-v1")
    assert "train/moving_average" in keys("rtg_moving_average", "CartPole-v1")


# ---------------------------------------------------------------- save and load


def small(plugin: str, env: Any = "CartPole-v1") -> PolicyGradient:
    options: dict[str, Any] = {"batch_size": 32, "n_epochs": 2} if plugin == "ppo" else {}
    return PolicyGradient(
        "MlpPolicy",
        env,
        plugin,
        **sizes(plugin, n_steps=32, n_episodes=4, group_size=4),
        seed=0,
        device="cpu",
        **options,
    )


@pytest.mark.parametrize("plugin", RECIPES)
def test_save_and_load(plugin: str, tmp_path: Path) -> None:
    """Same predictions, the same plugin states, and the same parameters after learning on."""
    model = small(plugin)
    model.learn(100)
    model.save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", device="cpu")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    assert (
        model.predict(observations, deterministic=True)[0] == loaded.predict(observations, deterministic=True)[0]
    ).all()
    assert_same(model.get_parameters(), loaded.get_parameters())
    assert loaded.parts == model.parts
    assert loaded.combination == model.combination

    for one in (model, loaded):
        one.set_env(make_vec_env("CartPole-v1", 1, seed=5))
        one.set_random_seed(5)
        one.learn(100, reset_num_timesteps=False)
    assert model.num_timesteps == loaded.num_timesteps
    assert_same(model.get_parameters(), loaded.get_parameters())


def test_what_plugins_learned_survives(tmp_path: Path) -> None:
    average = small("rtg_moving_average")
    average.learn(200)
    average.save(tmp_path / "average")
    state: Any = PolicyGradient.load(tmp_path / "average", device="cpu").part_states["baseline"]
    assert float(state.total / state.weight) > 5
    q = small("advantage")
    q.learn(100)
    names = set(q.get_parameters())
    assert names == {"policy", "policy.optimizer", "estimator_state", "estimator_state.optimizer"}
    other = small("advantage")
    other.set_parameters(q.get_parameters())
    assert_same(other.get_parameters(), q.get_parameters())
    q.save(tmp_path / "q")
    another = small("advantage")
    another.set_parameters(tmp_path / "q.zip", device="cpu")
    assert_same(another.get_parameters(), q.get_parameters())
    another.set_parameters({"policy": other.policy.state_dict()}, exact_match=False)


@pytest.mark.parametrize("plugin", ["rtg", "advantage", "a2c", "ppo"])
def test_sb3_opens_our_files(plugin: str, tmp_path: Path) -> None:
    model = small(plugin)
    model.learn(64)
    model.save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        groups = {name for name in archive.namelist() if name.endswith(".pth")}
        assert groups == {"policy.pth", "policy.optimizer.pth", "pytorch_variables.pth"}
        assert b"pgzoo_plugins" not in archive.read("data")
    theirs = A2C.load(tmp_path / "model", device="cpu")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    ours, _ = model.predict(observations, deterministic=True)
    assert (theirs.predict(observations, deterministic=True)[0] == ours).all()


def test_load_takes_changes(tmp_path: Path) -> None:
    small("ppo").learn(32).save(tmp_path / "model")
    loaded: Any = PolicyGradient.load(
        tmp_path / "model", device="cpu", gae_lambda=0.5, n_epochs=1, plugin_kwargs={"clip_range": 0.3}
    )
    assert loaded.estimator.gae_lambda == 0.5
    assert loaded.objective.clip_range == 0.3
    assert loaded.n_epochs == 1
    with pytest.raises(ConfigError, match="baseline cannot change on load"):
        PolicyGradient.load(tmp_path / "model", baseline="none")


def test_an_instance_of_an_unregistered_class() -> None:
    from dataclasses import dataclass

    from pgzoo_plugins.lambda_return import LambdaReturn

    @dataclass(frozen=True)
    class Zero(LambdaReturn):
        def __call__(self, rollout: Any, state: Any = None) -> Any:
            return np.zeros(rollout.shape)

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", estimator=Zero(gae_lambda=0.3), n_steps=8, device="cpu")
    model.learn(8)
    assert isinstance(model.estimator, Zero)
    assert model.estimator.gae_lambda == 0.3
    assert not model.returns.any()


def test_a_part_may_have_a_field_named_like_a_setting(registry_with: Any) -> None:
    from dataclasses import dataclass

    from pgzoo import Baseline

    @dataclass(frozen=True)
    class Own(Baseline):
        name = "own_gamma"
        gamma: float = 0.5

        def __call__(self, rollout: Any, returns: Any, state: Any = None) -> Any:
            return 0.0

    def model(**options: Any) -> PolicyGradient:
        plugin, registry = "reward_to_go+own_gamma", registry_with(Own)
        return PolicyGradient("MlpPolicy", "CartPole-v1", plugin, registry=registry, device="cpu", **options)

    both: Any = model(gamma=0.9, plugin_kwargs={"baseline.gamma": 0.1})
    assert (both.gamma, both.baseline.gamma) == (0.9, 0.1)
    with pytest.raises(ConfigError, match=r"write algorithm\.gamma or baseline\.gamma"):
        model(plugin_kwargs={"gamma": 0.9})


def test_files_of_other_algorithms_are_refused(tmp_path: Path) -> None:
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "a2c")
    with pytest.raises(ConfigError, match="saved by another algorithm"):
        PolicyGradient.load(tmp_path / "a2c", device="cpu")


def test_a_learners_rate_can_be_changed_on_load(tmp_path: Path) -> None:
    small("advantage").learn(64).save(tmp_path / "model")
    loaded = PolicyGradient.load(tmp_path / "model", None, "cpu", plugin_kwargs={"q_learning_rate": 1e-5})
    optimizer = loaded.part_states.parameters()["estimator_state.optimizer"]
    assert optimizer["param_groups"][0]["lr"] == 1e-5
    assert optimizer["state"]  # its moments were kept


def test_callbacks_may_change_advantages() -> None:
    class Erase(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            assert isinstance(self.model, PolicyGradient)
            self.model.rollout_buffer.advantages[:] = 0

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", n_steps=16, vf_coef=0.0, device="cpu")
    head: Any = model.policy.action_net
    before = head.weight.detach().clone()
    model.learn(16, callback=Erase())
    assert torch.equal(before, head.weight)


def test_a_missing_plugin_is_named(tmp_path: Path, registry_with: Any) -> None:
    from test_exact_gradient import SeesTheAction

    registry = registry_with(SeesTheAction)
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "reward_to_go+sees_the_action", registry=registry, device="cpu")
    model.save(tmp_path / "model")
    with pytest.raises(PluginError, match=r"baseline 'sees_the_action' of file tests, which is not installed"):
        PolicyGradient.load(tmp_path / "model", device="cpu")
    assert PolicyGradient.load(tmp_path / "model", device="cpu", registry=registry).baseline.name == "sees_the_action"


def test_save_to_a_stream_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small("rtg")
    stream = io.BytesIO()
    model.save(stream)
    stream.seek(0)
    assert PolicyGradient.load(stream, device="cpu").plugin == "rtg"
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model.zip").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_evaluate_policy_and_set_env() -> None:
    model = small("rtg_value").learn(64)
    returns, lengths = evaluate_policy(model, make_vec_env("CartPole-v1"), 3, return_episode_rewards=True)
    assert returns == lengths  # CartPole gives 1 a step
    model.set_env(gym.make("CartPole-v1"))
    model.learn(64, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        model.set_env(Clock())


def test_a_logger_that_somebody_holds_has_the_last_update() -> None:
    held = Logger(None, [])
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    model.set_logger(held)
    model.learn(20)
    assert held.name_to_value["train/loss"] == model.logger.name_to_value["train/loss"] != 0
    other = Logger(None, [])
    model.set_logger(other)
    assert not model.logger.name_to_value


@pytest.mark.parametrize(("metric", "message"), [
    (None, "the metric 'mine' is None, not a number"),
    (np.zeros(3), r"the metric 'mine' has shape \(3,\); it must be one number"),
    (torch.zeros(2, 2), r"the metric 'mine' has shape \(2, 2\)"),
])  # fmt: skip
def test_a_metric_is_one_number(metric: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    own = type(model.objective).__call__
    monkeypatch.setattr(type(model.objective), "__call__", lambda *given: (own(*given)[0], {"mine": metric}))
    with pytest.raises(PluginError, match=message):
        model.learn(5)
