"""Action masks: parity with sb3-contrib, equality without a restriction, and actions that are never taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from pgzoo import ConfigError, EnvironmentFailure, PolicyGradient
from pgzoo.backends.masks import action_masks
from pgzoo.export.policy_file import export_policy
from pgzoo.interface.types import Need
from pgzoo.lab.measure.exact import actor_parameters
from pgzoo.lab.measure.score_gradients import PolicyScores
from pgzoo.registry.plugins import Registry
from pgzoo.training.evaluation import evaluate
from pgzoo.training.playing import play

contrib = pytest.importorskip("sb3_contrib")

from sb3_contrib import MaskablePPO  # noqa: E402
from sb3_contrib.common import envs as contrib_envs  # noqa: E402
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback  # noqa: E402
from sb3_contrib.common.maskable.evaluation import evaluate_policy  # noqa: E402
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy  # noqa: E402
from sb3_contrib.common.wrappers import ActionMasker  # noqa: E402

ACTIONS: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(5),
    "multi-discrete": spaces.MultiDiscrete([2, 3]),
    "multi-binary": spaces.MultiBinary(3),
}
SIZES = {"discrete": [5], "multi-discrete": [2, 3], "multi-binary": [2, 2, 2]}
REGISTRY = Registry.discover()
each_action = pytest.mark.parametrize("action", ACTIONS)
DEEP = {"net_arch": [8], "activation_fn": torch.nn.Tanh}
BACKENDS: dict[str, dict[str, Any]] = {
    "sb3": {"fast": False},
    "batched": {"policy_kwargs": {**DEEP, "activation_fn": torch.nn.ELU}},
    "numpy": {"fast": True, "policy_kwargs": DEEP},
}


class Forbidding(gym.Env[Any, Any]):
    """Allows a random set of actions in each state, which the observation shows. A forbidden action is an error.

    The reward is 1 for the first allowed action of every dimension, and episodes have 3 to 9 steps.
    """

    def __init__(self, action: str = "discrete", allow_all: bool = False) -> None:
        self.sizes, self.allow_all = SIZES[action], allow_all
        self.action_space = ACTIONS[action]
        self.observation_space = spaces.Box(0, 1, (sum(self.sizes),), np.float32)

    def action_masks(self) -> Any:
        return self.mask

    def _draw(self) -> Any:
        parts = [self.np_random.random(size) < 0.5 for size in self.sizes]
        for part in parts:
            part[self.np_random.integers(len(part))] = True
        self.mask = np.concatenate(parts)
        if self.allow_all:
            self.mask[:] = True
        return self.mask.astype(np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.length, self.t = int(self.np_random.integers(3, 10)), 0
        return self._draw(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        starts = np.cumsum([0, *self.sizes[:-1]])
        chosen = np.atleast_1d(action).astype(int)
        assert self.mask[starts + chosen].all(), f"{action} is forbidden by {self.mask}"
        first = [int(part.argmax()) for part in np.split(self.mask, starts[1:])]
        self.t += 1
        return self._draw(), float(np.array_equal(chosen, first)), self.t == self.length, False, {}


def masked(recipe: str, action: str = "discrete", n_envs: int = 2, **arguments: Any) -> PolicyGradient:
    env = make_vec_env(lambda: Forbidding(action), n_envs=n_envs, seed=0)
    return PolicyGradient("MaskableMlpPolicy", env, recipe, seed=0, device="cpu", **arguments)


def parameters(model: Any) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


# ---------------------------------------------------------------- equal to others


@pytest.mark.parametrize(
    "make",
    [
        lambda: contrib_envs.InvalidActionEnvDiscrete(dim=8, n_invalid_actions=4),
        lambda: contrib_envs.InvalidActionEnvMultiDiscrete(dims=[3, 4], n_invalid_actions=1),
        lambda: contrib_envs.InvalidActionEnvMultiBinary(dims=4, n_invalid_actions=2),
    ],
)
def test_ppo_follows_maskable_ppo_bit_by_bit(make: Any) -> None:
    settings: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 4, "learning_rate": 1e-3, "seed": 0}
    ours = PolicyGradient("MaskableMlpPolicy", make(), "ppo", fast=False, device="cpu", **settings).learn(192)
    values = {name: getattr(ours, name) for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")}
    theirs = MaskablePPO("MlpPolicy", make(), clip_range=0.2, device="cpu", **settings, **values)
    theirs.learn(192)
    expected = parameters(theirs)
    for name, value in parameters(ours).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("recipe", ["ppo", "reinforce", "rtg_value", "rloo", "grpo"])
def test_masks_that_allow_everything_change_nothing(recipe: str) -> None:
    """With the numpy backend, every parameter is that of a training without masks. Finds another order of draws."""
    models = []
    for policy in ("MlpPolicy", "MaskableMlpPolicy"):
        env = make_vec_env(lambda: Forbidding(allow_all=True), n_envs=2, seed=0)
        settings = {"n_steps": 64} if recipe == "ppo" else {}
        model = PolicyGradient(policy, env, recipe, seed=0, device="cpu", fast=True, **settings)  # type: ignore[arg-type]
        models.append(parameters(model.learn(200)))
    for name, value in models[0].items():
        if recipe == "grpo":  # its reference policy is evaluated by torch, where sb3-contrib normalises logits twice
            np.testing.assert_allclose(value, models[1][name], rtol=1e-4, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(value, models[1][name], err_msg=name)


@each_action
@pytest.mark.parametrize("other", ["batched", "numpy"])
def test_backends_agree(other: str, action: str) -> None:
    """Log-probs, entropies and a step on a masked rollout, against sb3-contrib's own policy and autograd."""
    model = masked("a2c", action, n_steps=16, **BACKENDS[other])
    assert model.backend.name == other
    model.learn(32)
    rollout, samples = model.rollout, model._samples()
    assert rollout.action_masks is not None
    assert not rollout.action_masks.all()
    policy: Any = model.policy
    policy.optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    weights = torch.linspace(-1, 1, len(samples))
    _, log_probs, entropy = policy.evaluate_actions(
        samples.observations, samples.actions, action_masks=samples.action_masks
    )
    loss = (log_probs * weights).sum() + (entropy * weights).sum()
    expected = torch.autograd.grad(loss, policy.action_net.weight)[0].numpy()
    backend, before = model.backend, policy.action_net.weight.detach().numpy().copy()
    backend.begin_update()
    batch = backend.evaluate_actions(samples)
    np.testing.assert_allclose(batch.log_probs.detach(), log_probs.detach(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.entropy.detach(), entropy.detach(), rtol=1e-4, atol=1e-5)
    backend.step((batch.log_probs * weights).sum() + (batch.entropy * weights).sum(), None)
    found = before - policy.action_net.weight.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_forbidden_action_has_probability_0_and_no_gradient(name: str) -> None:
    """By hand: with the allowed logits y, ∂log π_a/∂y_j = 1[j = a] − π_j, with π the softmax over allowed actions."""
    model = masked("rtg_value", n_episodes=4, **BACKENDS[name])
    model.learn(1)
    samples = model._samples()
    policy: Any = model.policy
    mask, action = samples.action_masks.numpy()[0], int(samples.actions[0])  # type: ignore[union-attr]
    first = samples.select(torch.tensor([0]), 1.0)
    with torch.no_grad():
        features = policy.mlp_extractor.forward_actor(policy.extract_features(first.observations))
        logits = policy.action_net(features).numpy()[0].astype(float)
    exp = np.where(mask, np.exp(logits), 0)
    expected = (np.arange(5) == action) - exp / exp.sum()
    model.backend.begin_update()
    batch = model.backend.evaluate_actions(first)
    np.testing.assert_allclose(batch.log_probs.item(), np.log(exp[action] / exp.sum()), rtol=1e-4)
    before = policy.action_net.bias.detach().numpy().copy()
    policy.optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    backend = model.backend
    backend.begin_update()
    batch = backend.evaluate_actions(first)
    backend.step(-batch.log_probs.sum(), None)
    gradient = policy.action_net.bias.detach().numpy() - before
    np.testing.assert_allclose(gradient, expected, rtol=1e-3, atol=1e-5)
    assert np.abs(gradient[~mask]).max(initial=0) < (1e-7 if name != "numpy" else 1e-30)


# ---------------------------------------------------------------- every sampling mode


@each_action
@pytest.mark.parametrize("recipe", ["a2c", "ppo", "reinforce", "rtg_value", "rloo", "grpo", "trpo", "vine"])
def test_forbidden_actions_are_never_taken(recipe: str, action: str) -> None:
    """The environment raises if one is taken: in steps, episodes, groups and copies of environments."""
    settings = {"n_steps": 64} if recipe in ("ppo", "trpo") else {}
    model = masked(recipe, action, **settings)
    model.learn(200)
    masks = model.rollout.action_masks
    assert masks is not None
    assert masks.shape == (*model.rollout.shape, sum(SIZES[action]))
    chosen = model.rollout.actions.astype(int) + np.cumsum([0, *SIZES[action][:-1]])
    taken = np.take_along_axis(masks, chosen, axis=2)
    assert taken[model.rollout.mask].all()


def test_it_learns_the_allowed_action() -> None:
    model = masked("a2c", n_envs=8, n_steps=16, learning_rate=1e-2)
    before = mean_reward(model)
    model.learn(8_000)
    assert mean_reward(model) > max(0.9, before)


def mean_reward(model: PolicyGradient) -> float:
    env = DummyVecEnv([Forbidding for _ in range(4)])
    env.seed(5)
    result = evaluate(model, env, 40)
    return sum(result.returns) / sum(result.lengths)


def test_estimators_of_the_next_distribution_are_refused() -> None:
    """The masks of the state at which an episode is cut are not known."""
    needs = {Need.DISTRIBUTION, Need.NEXT_OBSERVATIONS}
    names = [name for name in REGISTRY.names("estimator") if needs <= REGISTRY.part("estimator", name)().needs]
    assert names
    for name in names:
        with pytest.raises(ConfigError, match="cannot be used with action masks"):
            masked(f"{name}+value").learn(100)


# ---------------------------------------------------------------- predict, evaluate, save


def test_predictions_obey_the_masks(tmp_path: Path) -> None:
    model = masked("a2c")
    observation, mask = np.zeros(5, np.float32), np.array([0, 0, 1, 0, 0])
    for deterministic in (True, False):
        assert model.predict(observation, deterministic=deterministic, action_masks=mask)[0] == 2
    rows = np.eye(5)[[3, 1]]
    assert model.predict(np.zeros((2, 5), np.float32), action_masks=rows)[0].tolist() == [3, 1]
    model.save(tmp_path / "model.zip")
    loaded = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    assert isinstance(loaded.policy, MaskableActorCriticPolicy)
    assert loaded.predict(observation, action_masks=mask)[0] == 2
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, parameters(loaded)[name])
    loaded.set_env(make_vec_env(Forbidding, n_envs=2))
    loaded.learn(50)


def test_models_with_masks_are_not_exported(tmp_path: Path) -> None:
    """Finds an exported policy that takes forbidden actions."""
    with pytest.raises(ConfigError, match="MaskableActorCriticPolicy needs action masks"):
        export_policy(masked("a2c"), tmp_path / "model.zip", "sb3")
    assert not list(tmp_path.iterdir())


def test_evaluations_and_playing_obey_the_masks() -> None:
    model, env = masked("a2c"), DummyVecEnv([Forbidding, Forbidding])
    assert len(evaluate(model, env, 6, deterministic=False).returns) == 6
    assert len(list(play(model, env, n_episodes=6, deterministic=False, episode_bound=100))) >= 6


def test_the_evaluations_of_sb3_contrib_obey_the_masks() -> None:
    """A forbidden action would raise an error."""
    env = DummyVecEnv([Forbidding])
    model: Any = masked("a2c")
    returns, lengths = evaluate_policy(model, env, n_eval_episodes=5, return_episode_rewards=True, warn=False)
    assert len(returns) == len(lengths) == 5  # type: ignore[arg-type]
    callback = MaskableEvalCallback(env, n_eval_episodes=2, eval_freq=10, verbose=0, warn=False)
    model.learn(20, callback)
    assert callback.last_mean_reward > -np.inf


def test_a_policy_without_masks_refuses_them() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu")
    with pytest.raises(ConfigError, match="ActorCriticPolicy takes no action_masks; train with 'MaskableMlpPolicy'"):
        model.predict(np.zeros(4, np.float32), action_masks=np.ones(2))


# ---------------------------------------------------------------- errors of environments


class Wrong(Forbidding):
    """Returns what a test sets."""

    wrong: Any = None

    def action_masks(self) -> Any:
        if isinstance(self.wrong, Exception):
            raise self.wrong
        return self.wrong


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.ones(4), r"action_masks\(\) of environment 0 has 4 entries; it must be 5"),
        (np.zeros(5), r"action_masks\(\) of environment 0 allows no action$"),
        (ValueError("the board is full"), r"action_masks\(\) failed: .*the board is full"),
    ],
)
def test_wrong_masks_have_an_owner(wrong: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wrong, "wrong", wrong)
    with pytest.raises(EnvironmentFailure, match=message):
        PolicyGradient("MaskableMlpPolicy", Wrong(), "a2c", device="cpu").learn(10)


def test_a_dimension_without_an_allowed_action_is_named() -> None:
    inner = Forbidding("multi-discrete")
    env = DummyVecEnv([lambda: inner])
    env.reset()
    inner.mask = np.array([1, 1, 0, 0, 0], bool)
    with pytest.raises(EnvironmentFailure, match="allows no action in dimension 1"):
        action_masks(env, env.action_space)


def test_environments_without_masks_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"the environment has no method action_masks\(\)"):
        PolicyGradient("MaskableMlpPolicy", "CartPole-v1", "a2c", device="cpu").learn(10)
    with pytest.raises(ConfigError, match="action masks need discrete actions, and the action space is Box"):
        PolicyGradient("MaskableMlpPolicy", "Pendulum-v1", "a2c", device="cpu")
    with pytest.raises(ConfigError, match=r"gSDE.* can only be used with continuous actions"):
        PolicyGradient("MaskableMlpPolicy", "CartPole-v1", "a2c", use_sde=True, device="cpu")


# ---------------------------------------------------------------- the command


class Masker(ActionMasker):
    """CartPole, in which pushing to the left is always forbidden."""

    def __init__(self, env: Any) -> None:
        super().__init__(env, lambda _: np.array([False, True]))


def test_the_command_finds_masks(tmp_path: Path) -> None:
    (tmp_path / "conf.yml").write_text("default: {env_wrapper: test_masks.Masker, n_envs: 2}\n")
    command = ["train", "--plugin", "a2c", "--conf-file", "conf.yml", "-n", "200", "--no-progress"]
    result = pgzoo(*command, "--eval-freq", "100", cwd=tmp_path)
    assert "The environment has action masks, which MaskableMlpPolicy uses" in result.stderr
    (run,) = (tmp_path / "logs" / "a2c").iterdir()
    shown = json.loads(pgzoo("eval", str(run), "-n", "2", "--trust", "--json", cwd=tmp_path).stdout)
    assert 8 <= shown["mean_return"] <= 10  # pushes in one direction only


def test_the_lab_measures_the_masked_gradient() -> None:
    """Scores by backpropagation, against autograd through the log-probs of the update. Finds scores without masks."""
    model = masked("reinforce", n_episodes=8)
    model.learn(1)
    rollout = model.rollout
    assert rollout.action_masks is not None
    assert not rollout.action_masks[rollout.mask].all()
    weights = np.random.default_rng(0).normal(size=rollout.shape)
    (found,) = PolicyScores(model.policy).gradients(rollout, [weights])
    samples, policy = model._samples(), model.policy
    values: Any = policy
    _, log_probs, _ = values.evaluate_actions(samples.observations, samples.actions, action_masks=samples.action_masks)
    loss = (log_probs * torch.as_tensor(rollout.flat(weights), dtype=torch.float32)).sum()
    parameters = actor_parameters(policy, samples.observations, samples.actions)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-6)
