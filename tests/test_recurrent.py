"""Recurrent policies: parity with sb3-contrib, sequences, memory at the borders of rollouts, and masks with memory."""

from __future__ import annotations

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
from test_masks import Forbidding

from pgzoo import ConfigError, PolicyGradient
from pgzoo.export.policy_file import export_policy
from pgzoo.interface.sequences import Memory
from pgzoo.training.evaluation import evaluate

pytest.importorskip("sb3_contrib")

from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

SMALL: dict[str, Any] = {"lstm_hidden_size": 8, "net_arch": [8]}


class Cue(gym.Env[Any, Any]):
    """The first observation shows which action earns 1 in the last step. The steps between show nothing."""

    def __init__(self, length: int = 4) -> None:
        self.length = length
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(2)

    def _observation(self) -> Any:
        cue = (2 * self.cue - 1) if self.t == 0 else 0
        return np.array([cue, self.t == self.length - 1], np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(2))
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        done = self.t == self.length
        return self._observation(), float(done and action == self.cue), done, False, {}


def recurrent(recipe: str, env: Any = "CartPole-v1", n_envs: int = 3, **arguments: Any) -> PolicyGradient:
    options: dict[str, Any] = {"policy_kwargs": SMALL, "seed": 0, "device": "cpu", **arguments}
    return PolicyGradient("MlpLstmPolicy", make_vec_env(env, n_envs, seed=0), recipe, **options)


def parameters(model: Any) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in model.policy.named_parameters()}


# ---------------------------------------------------------------- equal to sb3-contrib


@pytest.mark.parametrize("env", ["CartPole-v1", "Pendulum-v1"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"shared_lstm": True, "enable_critic_lstm": False},
        {"enable_critic_lstm": False},
        {"n_lstm_layers": 2},
    ],
)
def test_ppo_follows_recurrent_ppo(env: str, kwargs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch with one minibatch. In Pendulum, a time limit cuts the episodes of the fourth rollout.

    RecurrentPPO begins its minibatch at a random step, which cuts one sequence in two. Here it begins at the first one.
    """
    settings: dict[str, Any] = {"n_steps": 64, "n_epochs": 1, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}
    settings["policy_kwargs"] = {**SMALL, **kwargs}
    ours = PolicyGradient("MlpLstmPolicy", make_vec_env(env, 3, seed=0), "ppo", batch_size=None, **settings)
    ours.learn(64 * 3 * 4)
    values = {name: getattr(ours, name) for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm")}
    theirs = RecurrentPPO("MlpLstmPolicy", make_vec_env(env, 3, seed=0), batch_size=192, **settings, **values)
    monkeypatch.setattr(np.random, "randint", lambda *_, **__: 0)
    theirs.learn(64 * 3 * 4)
    expected = parameters(theirs)
    for name, value in parameters(ours).items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


# ---------------------------------------------------------------- sequences


@pytest.mark.parametrize("recipe", ["a2c", "ppo", "reinforce", "rtg_value", "rloo", "grpo"])
def test_sequences_give_the_numbers_of_single_steps(recipe: str) -> None:
    """Finds a memory of another episode or environment, one that is not reset, and steps in the wrong order.

    The steps of a rollout, evaluated as sequences, have the log-probs with which they were sampled one by one. The
    second rollout of `a2c` and `ppo` begins in mid-episode.
    """
    settings = {"a2c": {"n_steps": 6}, "ppo": {"n_steps": 6, "batch_size": 18}}.get(recipe, {})
    model = recurrent(recipe, Cue, **settings)
    model.learn(1)
    model.learning_rate = 0.0
    model._setup_lr_schedule()
    model.learn(1, reset_num_timesteps=False)
    samples = model._samples()
    assert samples.memory is not None
    batch = model.backend.evaluate_actions(samples)
    np.testing.assert_allclose(batch.log_probs.detach(), samples.old_log_probs, rtol=1e-4, atol=1e-5)
    if model.has_critic:
        np.testing.assert_allclose(batch.values.detach(), samples.old_values, rtol=1e-4, atol=1e-5)
    if recipe in ("a2c", "ppo"):
        assert samples.memory.abs().sum() > 0
    half = samples.select(torch.nonzero(samples.episode == samples.episode[-1]).flatten(), 0.5)
    alone = model.backend.evaluate_actions(half)
    np.testing.assert_allclose(alone.log_probs.detach(), batch.log_probs.detach()[-len(half) :], rtol=1e-4, atol=1e-6)


def test_gradients_flow_through_the_whole_sequence() -> None:
    """Against sb3-contrib's own loop over steps, which resets the memory at the starts of episodes."""
    model = recurrent("a2c", Cue, n_envs=1, n_steps=16)
    model.learn(32)
    policy: Any = model.policy
    samples, rollout = model._samples(), model.rollout
    weights = torch.linspace(-1, 1, len(samples))
    policy.zero_grad()
    (model.backend.evaluate_actions(samples).log_probs * weights).sum().backward()  # type: ignore[no-untyped-call]
    found = policy.lstm_actor.weight_hh_l0.grad.clone()
    policy.zero_grad()
    memory = Memory.of(torch.tensor(rollout.memory))
    starts = torch.as_tensor(rollout.step[:, 0] == 0).float()
    assert starts.sum() >= 4
    states = RNNStates(memory.pi, memory.vf)
    _, log_probs, _ = policy.evaluate_actions(samples.observations, samples.actions, states, starts)
    (log_probs * weights).sum().backward()
    expected = policy.lstm_actor.weight_hh_l0.grad
    assert expected.abs().max() > 1e-4
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_minibatches_are_whole_sequences() -> None:
    sizes = []
    model = recurrent("ppo", n_steps=40, batch_size=40, n_epochs=2)
    model.learn(120)
    evaluate_actions = model.backend.evaluate_actions

    def evaluated(samples: Any) -> Any:
        episodes, counts = np.unique(samples.episode, return_counts=True)
        assert counts.tolist() == np.bincount(model.rollout.flat(model.rollout.episode))[episodes].tolist()
        sizes.append(len(samples))
        return evaluate_actions(samples)

    model.backend.evaluate_actions = evaluated  # type: ignore[method-assign]
    model.learn(120)
    assert sum(sizes) == 2 * 120
    assert len(sizes) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "arguments"), [
    ("ppo", {"n_steps": 64, "learning_rate": 5e-3}), ("rtg_value", {"n_episodes": 64, "learning_rate": 1e-2}),
    ("grpo", {"n_episodes": 64, "learning_rate": 5e-3}),
])  # fmt: skip
def test_it_remembers(recipe: str, arguments: Any) -> None:
    """A policy without memory earns 0.5 in Cue."""
    model = recurrent(recipe, Cue, n_envs=8, gamma=1.0, **arguments)
    model.learn(40_000)
    assert evaluate(model, DummyVecEnv([Cue]), 100).mean > 0.95


# ---------------------------------------------------------------- with masks


@pytest.mark.parametrize("action", ["discrete", "multi-discrete", "multi-binary"])
@pytest.mark.parametrize("recipe", ["ppo", "rtg_value", "grpo"])
def test_masks_and_memory_together(recipe: str, action: str, tmp_path: Path) -> None:
    """Forbidding raises if a forbidden action is taken."""
    env = make_vec_env(lambda: Forbidding(action), 2, seed=0)
    settings: dict[str, Any] = {"n_steps": 64, "n_epochs": 2} if recipe == "ppo" else {}
    model = PolicyGradient("MaskableMlpLstmPolicy", env, recipe, policy_kwargs=SMALL, seed=0, device="cpu", **settings)
    model.learn(200)
    samples = model._samples()
    assert samples.memory is not None
    assert samples.action_masks is not None
    evaluate(model, DummyVecEnv([lambda: Forbidding(action)]), 3, deterministic=False)
    model.save(tmp_path / "model.zip")
    loaded = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    for name, value in parameters(model).items():
        np.testing.assert_array_equal(value, parameters(loaded)[name])
    mask = np.zeros((1, samples.action_masks.shape[1]), dtype=bool)
    starts = np.cumsum([0, *env.envs[0].unwrapped.sizes[:-1]])  # type: ignore[attr-defined]
    mask[0, starts] = True
    actions, state = loaded.predict(np.zeros((1, mask.shape[1]), np.float32), action_masks=mask)
    assert not np.any(actions)  # the first action of each dimension is the only one that is allowed
    assert state is not None


def test_everything_allowed_changes_nothing() -> None:
    """Parameters after two updates, against those of MlpLstmPolicy without masks."""
    models = []
    for policy in ("MlpLstmPolicy", "MaskableMlpLstmPolicy"):
        env = make_vec_env(lambda: Forbidding(allow_all=True), 2, seed=0)
        model = PolicyGradient(policy, env, "a2c", policy_kwargs=SMALL, seed=0, device="cpu", n_steps=16)
        models.append(parameters(model.learn(64)))
    for name, value in models[0].items():
        np.testing.assert_allclose(value, models[1][name], rtol=1e-4, atol=1e-6, err_msg=name)


# ---------------------------------------------------------------- saved, played, refused


def test_a_saved_model_plays_as_before(tmp_path: Path) -> None:
    model = recurrent("a2c", Cue)
    model.learn(30)
    model.save(tmp_path / "model.zip")
    loaded = PolicyGradient.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).normal(size=(5, 2, 2)).astype(np.float32)
    states: list[Any] = [None, None]
    for t, observation in enumerate(observations):
        starts = np.full(2, t == 0)
        pairs = [m.predict(observation, s, starts, True) for m, s in zip((model, loaded), states, strict=True)]
        assert pairs[0][0].tolist() == pairs[1][0].tolist()
        states = [state for _, state in pairs]
    assert np.abs(states[0][0]).sum() > 0


def test_the_memory_lasts_between_two_calls_of_learn() -> None:
    """Finds a memory that is empty at the first step of the next rollout, in mid-episode."""
    model = recurrent("a2c", n_envs=2, n_steps=4)
    model.learn(8)
    memory = model.backend.memory
    assert memory is not None
    model.learn(8, reset_num_timesteps=False)
    first = model.rollout.memory
    assert first is not None
    continued = model.rollout.step[0] > 0
    np.testing.assert_array_equal(first[continued], memory.stacked().numpy()[continued])
    assert continued.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"plugin": "trpo"}, "update 'trpo' needs the distribution over actions of the policy"),
        ({"plugin": "rtg_optimal"}, "needs the norms of scores of the policy"),
        ({"plugin": "a2c", "fast": True}, "fast=True is not available with a recurrent policy"),
        ({"plugin": "vtrace"}, "recompute='rollout'"),
    ],
)
def test_what_needs_single_steps_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PolicyGradient("MlpLstmPolicy", "CartPole-v1", device="cpu", policy_kwargs=SMALL, **arguments)


def test_copies_of_environments_and_exports_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not copy the memory of a recurrent policy"):
        recurrent("vine").learn(10)
    with pytest.raises(ConfigError, match="has a memory, which the files of an exported policy lack"):
        export_policy(recurrent("a2c"), tmp_path / "model.onnx")


def test_the_command(tmp_path: Path) -> None:
    (tmp_path / "conf.yml").write_text(
        "default: {policy: MlpLstmPolicy, n_envs: 2, n_steps: 16, policy_kwargs: {lstm_hidden_size: 8}}\n"
    )
    command = [
        "train",
        "--plugin",
        "a2c",
        "--conf-file",
        "conf.yml",
        "-n",
        "200",
        "--no-progress",
        "--eval-freq",
        "100",
    ]
    pgzoo(*command, cwd=tmp_path)
    (run,) = (tmp_path / "logs" / "a2c").iterdir()
    assert "mean_return" in pgzoo("eval", str(run), "-n", "2", "--json", cwd=tmp_path).stdout
