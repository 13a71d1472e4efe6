"""The fast path does what SB3's own calls do: the same probabilities, gradients, optimizer state and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from parts import ValueAndSuccessors
from scipy import stats
from sizes import sizes
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo import ConfigError, PolicyGradient, Registry
from pgzoo.errors import DivergenceError

BOX = spaces.Box(-1, 1, (3,), np.float32)
ACTIONS = {
    "discrete": spaces.Discrete(3),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}
OBSERVATIONS = {
    "vector": (BOX, "MlpPolicy"),
    "dict": (spaces.Dict({"a": BOX, "b": spaces.Discrete(2)}), "MultiInputPolicy"),
    "image": (spaces.Box(0, 255, (36, 36, 1), np.uint8), "CnnPolicy"),
}


def model_on(action: str, plugin: str, *, observation: str = "vector", **options: Any) -> PolicyGradient:
    space, policy = OBSERVATIONS[observation]
    env = DummyVecEnv([lambda: TimeLimit(AnySpaces(space, ACTIONS[action]), 3)] * 4)
    model = PolicyGradient(policy, env, plugin, seed=0, device="cpu", **options)
    model.set_logger(Logger(None, []))
    model._setup_learn(1, None)
    return model


def sampled(model: PolicyGradient) -> PolicyGradient:
    callback = CallbackList([])
    callback.init_callback(model)
    assert model.env is not None
    model.collect_rollouts(model.env, callback, model.rollout_buffer, model.n_steps)
    return model


def pair(action: str, plugin: str, **options: Any) -> tuple[PolicyGradient, PolicyGradient]:
    """A fast and a plain model with the same parameters and the fast one's rollout."""
    fast, plain = (model_on(action, plugin, fast=how, **options) for how in (True, False))
    sampled(fast)
    plain.rollout, plain.rollout_buffer, plain.returns = fast.rollout, fast.rollout_buffer, fast.returns
    assert (fast.backend.name, plain.backend.name) == ("numpy", "sb3")
    return fast, plain


def train(model: PolicyGradient, updates: int = 1) -> torch.Tensor:
    """Update with the same minibatches; return the parameters, end to end."""
    for update in range(updates):
        np.random.seed(update)
        model.train()
    return torch.cat([p.detach().flatten().clone() for p in model.policy.parameters()])


# ---------------------------------------------------------------- the same numbers

REGISTRY = Registry.discover()
FIRST_ORDER = [name for name in REGISTRY.recipes() if REGISTRY.recipe(name).update == "gradient_descent"]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("plugin", FIRST_ORDER)
def test_gradients_are_the_same(plugin: str, action: str) -> None:
    """One step of SGD at learning rate 1, the entropy bonus on, in one minibatch: it moves by the gradient."""
    options: dict[str, Any] = {"n_epochs": 1, "n_critic_updates": 0, "batch_size": None, **sizes(plugin, n_steps=16)}
    sgd = {"optimizer_class": torch.optim.SGD, "net_arch": [16, 16]}
    fast, plain = pair(action, plugin, **options, learning_rate=1.0, max_grad_norm=None, use_rms_prop=False,
                       ent_coef=0.01, policy_kwargs=sgd)  # fmt: skip
    before = torch.cat([p.detach().flatten().clone() for p in plain.policy.parameters()])
    expected, found = train(plain) - before, train(fast) - before
    assert expected.norm() > 1e-6
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.AdamW, {"weight_decay": 0.1, "amsgrad": True}),
        (torch.optim.RMSprop, {"eps": 1e-5, "momentum": 0.5}),
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (RMSpropTFLike, {"eps": 1e-5}),
    ],
)
@pytest.mark.parametrize("n_critic_updates", [0, 2])
def test_updates_and_what_the_optimizer_remembers_are_the_same(
    optimizer: Any, options: dict[str, Any], n_critic_updates: int
) -> None:
    """Three updates of several minibatches and ReLU; then three more, each by the other path on the same model."""
    policy = {"optimizer_class": optimizer, "optimizer_kwargs": options, "activation_fn": torch.nn.ReLU}
    fast, plain = pair("box", "ppo", n_steps=24, batch_size=32, n_epochs=2, n_critic_updates=n_critic_updates,
                       use_rms_prop=False, policy_kwargs=policy)  # fmt: skip
    torch.testing.assert_close(train(fast, 3), train(plain, 3), rtol=1e-4, atol=1e-5)
    mine, theirs = (model.policy.optimizer.state_dict() for model in (fast, plain))
    assert mine["param_groups"] == theirs["param_groups"]
    assert mine["state"].keys() == theirs["state"].keys()
    for number, state in theirs["state"].items():
        for key, value in state.items():
            torch.testing.assert_close(mine["state"][number][key], value, rtol=1e-3, atol=1e-5)


def test_a_critic_that_is_not_trained_stays() -> None:
    """`rtg` has no critic: its value network does not move, and the optimizer knows nothing of it."""
    fast, plain = pair("discrete", "rtg")
    torch.testing.assert_close(train(fast, 3), train(plain, 3), rtol=1e-4, atol=1e-6)
    assert fast.policy.optimizer.state_dict()["state"].keys() == plain.policy.optimizer.state_dict()["state"].keys()


@pytest.mark.parametrize("steps_together", [5, 100])
@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("observation", OBSERVATIONS)
def test_values_and_log_probs_of_a_rollout_are_the_policys(
    observation: str, action: str, steps_together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """12 steps of 4 environments: two whole blocks and a part of one, or less than one."""
    for backend in ("batched", "numpy_mlp"):
        monkeypatch.setattr(f"pgzoo.backends.{backend}.STEPS_TOGETHER", 4 * steps_together)
    model = sampled(model_on(action, "gae", observation=observation, n_steps=12, baseline=ValueAndSuccessors()))
    assert model.backend.name == ("numpy" if observation == "vector" else "batched")
    rollout, samples = model.rollout, model._samples()
    with torch.no_grad():
        values, log_probs, _ = model.policy.evaluate_actions(samples.observations, samples.actions)
        following = model.policy.predict_values(rollout.tensors(rollout.next_observations, "cpu")).flatten()
    torch.testing.assert_close(samples.old_values, values.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(samples.old_log_probs, log_probs, rtol=1e-4, atol=1e-5)
    expected = np.where(rollout.terminated, 0, rollout.scatter(following))
    np.testing.assert_allclose(rollout.next_values, expected, rtol=1e-4, atol=1e-5)
    assert rollout.truncated.any()


@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary"])
def test_actions_have_the_policys_probabilities(action: str) -> None:
    """One observation, 40,000 actions, χ² against exp log π of every combination."""
    model = model_on(action, "gae", fast=True, policy_kwargs={"ortho_init": False})
    head: Any = model.policy.action_net
    with torch.no_grad():
        head.bias.copy_(torch.linspace(-1, 1, len(head.bias)))
    model.backend.begin_rollout(256)
    observation = torch.zeros(4, 3)
    actions = np.concatenate([model.backend.act(observation)[0].reshape(4, -1) for _ in range(10_000)])
    every, counts = np.unique(actions, axis=0, return_counts=True)
    given = torch.as_tensor(every)
    with torch.no_grad():
        given = given.flatten() if action == "discrete" else given
        log_probs = model.policy.evaluate_actions(torch.zeros(len(every), 3), given)[1]
    probabilities = log_probs.exp().double().numpy()
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    expected = probabilities / probabilities.sum() * len(actions)
    assert stats.chisquare(counts, expected).pvalue > 1e-4


def test_continuous_actions_are_normal() -> None:
    model = model_on("box", "gae", fast=True, policy_kwargs={"log_std_init": -1.0})
    model.backend.begin_rollout(256)
    observation = torch.ones(4, 3)
    actions = np.concatenate([model.backend.act(observation)[0] for _ in range(5_000)])
    with torch.no_grad():
        normal: Any = model.policy.get_distribution(observation).distribution
        mean = normal.mean[0].numpy()
    standard = (actions - mean) / np.exp(-1.0)
    assert all(stats.kstest(column, "norm").pvalue > 1e-4 for column in standard.T)


# ---------------------------------------------------------------- one place decides


class OwnPolicy(ActorCriticPolicy):
    """A subclass, which may override anything."""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "numpy"),
        ({"fast": False}, "sb3 (fast=False)"),
        ({"use_sde": True}, "sb3 (gSDE)"),
        ({"policy": OwnPolicy}, "sb3 (the policy OwnPolicy)"),
        ({"policy_kwargs": {"activation_fn": torch.nn.ELU}}, "batched (the activation ELU)"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.Adadelta}}, "batched (the optimizer Adadelta)"),
        ({"policy_kwargs": {"optimizer_class": torch.optim.Adagrad}}, "batched (the optimizer Adagrad)"),
    ],
)
def test_the_choice_and_its_reason(options: dict[str, Any], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    policy = options.pop("policy", "MlpPolicy")
    model = PolicyGradient(policy, "Pendulum-v1", "gae", device="cpu", verbose=1, **options)
    assert str(model.backend) == expected
    assert f"Using the {expected} backend on cpu" in capsys.readouterr().out


def test_fast_can_be_switched_off_on_a_model() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    assert model.backend.name == "numpy"
    model.fast = False
    assert str(model.backend) == "sb3 (fast=False)"
    model.learn(10)
    model.fast = "auto"
    assert model.backend.name == "numpy"


def test_fast_or_an_error() -> None:
    with pytest.raises(ConfigError, match="fast=True is not available with gSDE; use fast='auto'"):
        PolicyGradient("MlpPolicy", "Pendulum-v1", "gae", use_sde=True, fast=True, device="cpu")


def test_divergence_is_told() -> None:
    """The first layer is finite and the output is not: no action reaches the environment."""
    model = model_on("box", "gae", fast=True, n_steps=8)
    head: Any = model.policy.action_net
    with torch.no_grad():
        head.bias.fill_(float("nan"))
    with pytest.raises(DivergenceError, match=r"training diverged: policy.action_net.bias is nan; lower learning_rate"):
        sampled(model)
    assert model.num_timesteps == 0


def test_log_probs_that_overflow_are_told() -> None:
    """σ = e⁻⁸⁷ is finite. The drawn action rounds to the mean, or to a number that is ten thousand σ away."""
    model = model_on("box", "gae", fast=True, n_steps=8)
    with torch.no_grad():
        model.policy.log_std.fill_(-87.0)
    with pytest.raises(DivergenceError, match=r"training diverged: log π .* lower learning_rate"):
        sampled(model)


# ---------------------------------------------------------------- saving, loading, changing what is underneath


def test_files_are_the_same(tmp_path: Path) -> None:
    """A2C opens both; every tensor has memory of its own; a model goes on as if it had not been saved."""
    fast, plain = pair("discrete", "a2c")
    train(fast, 2)
    train(plain, 2)
    for name, model in (("fast", fast), ("plain", plain)):
        model.save(tmp_path / name)
    loaded = {name: A2C.load(tmp_path / name, device="cpu") for name in ("fast", "plain")}
    mine, theirs = (loaded[name].policy.optimizer.state_dict() for name in ("fast", "plain"))
    for number, state in theirs["state"].items():
        for key, value in state.items():
            assert mine["state"][number][key].shape == value.shape
            torch.testing.assert_close(mine["state"][number][key], value, rtol=1e-3, atol=1e-6)
            assert mine["state"][number][key].untyped_storage().nbytes() == value.untyped_storage().nbytes()
    sizes = [(tmp_path / f"{name}.zip").stat().st_size for name in ("fast", "plain")]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    again = PolicyGradient.load(tmp_path / "fast", env=fast.env, device="cpu")
    again.set_logger(Logger(None, []))
    again.rollout, again.rollout_buffer, again.returns = fast.rollout, fast.rollout_buffer, fast.returns
    again._current_progress_remaining = fast._current_progress_remaining
    torch.testing.assert_close(train(again), train(fast), rtol=0, atol=0)


def test_parameters_that_are_set_are_taken() -> None:
    """`set_parameters` in the middle: the actor sees it at once, the optimizer goes on from its state."""
    fast, plain = pair("box", "ppo", n_steps=16)
    train(fast, 2)
    train(plain, 1)
    kept = plain.get_parameters()
    fast.set_parameters(kept)
    torch.testing.assert_close(train(fast), train(plain), rtol=1e-4, atol=1e-6)
    sampled(fast)
    samples = fast._samples()
    with torch.no_grad():
        log_probs = fast.policy.evaluate_actions(samples.observations, samples.actions)[1]
    torch.testing.assert_close(samples.old_log_probs, log_probs, rtol=1e-4, atol=1e-5)


def test_a_policy_that_is_replaced_is_followed() -> None:
    model, other = model_on("discrete", "gae"), model_on("discrete", "gae", policy_kwargs={"net_arch": [5]})
    model.policy = other.policy
    samples = sampled(model)._samples()
    with torch.no_grad():
        expected = other.policy.evaluate_actions(samples.observations, samples.actions)[1]
    torch.testing.assert_close(samples.old_log_probs, expected, rtol=1e-4, atol=1e-5)


def test_a_frozen_part_or_another_optimizer_takes_another_path() -> None:
    """What is frozen after the model was made does not learn, on any path."""
    model = model_on("box", "a2c")
    assert model.backend.name == "numpy"
    model.policy.log_std.requires_grad_(False)
    before = model.policy.log_std.clone()
    assert str(model.backend) == "batched (frozen or double-precision parameters)"
    after = train(sampled(model))
    assert torch.equal(model.policy.log_std, before)
    assert not torch.equal(after, train(model))
    model.policy.log_std.requires_grad_(True)
    model.policy.optimizer = torch.optim.NAdam(model.policy.parameters(), lr=1e-3)
    assert str(model.backend) == "batched (the optimizer NAdam)"


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
def test_every_group_of_an_optimizer_keeps_its_options(optimizer: Any) -> None:
    """Finds parameters that learn with the options of another group."""
    after = []
    for model in pair("box", "a2c"):
        parameters = list(model.policy.parameters())
        groups = [{"params": [p], "weight_decay": 0.1 * (i % 3)} for i, p in enumerate(parameters)]
        model.policy.optimizer = optimizer(groups, lr=1e-2)
        after.append(train(model))
    torch.testing.assert_close(after[0], after[1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.RMSprop, torch.optim.SGD])
def test_a_state_of_the_actor_alone_goes_on_where_a_critic_learns_too(optimizer: Any) -> None:
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    policy_kwargs = {"optimizer_class": optimizer, "optimizer_kwargs": momentum}
    kwargs: dict[str, Any] = {"policy_kwargs": policy_kwargs, "use_rms_prop": False}
    start = model_on("discrete", "reinforce", **kwargs)
    train(sampled(start))
    fast, plain = pair("discrete", "gae", **kwargs)
    for model in (fast, plain):
        model.set_parameters(start.get_parameters())
    torch.testing.assert_close(train(fast, 3), train(plain, 3), rtol=1e-4, atol=1e-6)


def test_a_parameter_with_other_memory_learns_on() -> None:
    fast, plain = pair("box", "a2c")
    for model in (fast, plain):
        train(model)
        model.policy.log_std.data = torch.full_like(model.policy.log_std, -0.5)
    torch.testing.assert_close(train(fast), train(plain), rtol=1e-4, atol=1e-6)
    assert (fast.policy.log_std != -0.5).all()


def test_a_batch_serves_one_step() -> None:
    fast, _ = pair("discrete", "a2c")
    first = fast.backend.evaluate_actions(fast._samples())
    second = fast.backend.evaluate_actions(fast._samples())
    with pytest.raises(RuntimeError, match="depend on the batch evaluated last"):
        fast.backend.step(first.log_probs.mean(), None)
    fast.backend.step(second.log_probs.mean(), None)
    with pytest.raises(RuntimeError, match="each batch allows one step"):
        fast.backend.step(second.log_probs.mean(), None)
