"""Exported policies do what `predict` does, without pgzoo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from command import pgzoo
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack, VecNormalize
from zips import members

from pgzoo import ConfigError, PolicyGradient
from pgzoo.export import deterministic, formats, policy_file
from pgzoo.export.policy_file import export_policy, logit_gaps
from pgzoo.training.saved_model import read_start

IMAGE = spaces.Box(0, 255, (36, 40, 3), np.uint8)
VECTOR = spaces.Box(-5, 5, (3,), np.float32)
CASES: dict[str, tuple[spaces.Space[Any], spaces.Space[Any]]] = {
    "box": (VECTOR, spaces.Box(np.array([-0.02, -2], np.float32), np.array([0.01, 3], np.float32))),
    "unbounded": (spaces.Box(-np.inf, np.inf, (2, 2), np.float64), spaces.Box(-1, 1, (2, 2), np.float64)),
    "squashed": (VECTOR, spaces.Box(-3, 1, (2,), np.float32)),
    "discrete": (spaces.Discrete(4), spaces.Discrete(5)),
    "multi_discrete": (spaces.MultiDiscrete([3, 4]), spaces.MultiDiscrete([3, 1, 4])),
    "multi_binary": (spaces.MultiBinary(3), spaces.MultiBinary(4)),
    "image": (IMAGE, spaces.Discrete(3)),
    "dict": (
        spaces.Dict({"camera": IMAGE, "action": VECTOR, "door": spaces.Discrete(3), "map": spaces.MultiBinary([2, 2])}),
        spaces.Box(-0.05, 0.05, (2,), np.float32),
    ),
}


class OnlySpaces(gym.Env[Any, Any]):
    """Random observations, whatever the actions."""

    def __init__(self, observation: spaces.Space[Any], action: spaces.Space[Any]) -> None:
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 0.0, False, False, {}


def make(case: str) -> PolicyGradient:
    """Return a model of a case with random, not tiny, weights. "box" and "dict" normalise observations."""
    observation, action = CASES[case]
    env: VecEnv = DummyVecEnv([lambda: OnlySpaces(observation, action)])
    if case in ("box", "dict"):
        env = VecNormalize(env, norm_obs_keys=["action"] if case == "dict" else None, clip_obs=2.0)
        moments: Any = env.obs_rms["action"] if isinstance(env.obs_rms, dict) else env.obs_rms
        moments.mean, moments.var = np.array([10.0, -1.0, 0.0]), np.array([1e-4, 0.5, 9.0])
    policy = {"image": "CnnPolicy", "dict": "MultiInputPolicy"}.get(case, "MlpPolicy")
    kwargs: dict[str, Any] = {"squash_output": True} if case == "squashed" else {}
    model = PolicyGradient(policy, env, "ppo", seed=0, n_steps=64, use_sde=case == "squashed", policy_kwargs=kwargs)
    with torch.no_grad():
        head(model).weight.mul_(50)
    return model


def head(model: PolicyGradient) -> Any:
    """Return the policy's last layer."""
    return model.policy.action_net


def load_torchscript(file: Path, extra: dict[str, Any] | None = None) -> Any:
    return torch.jit.load(str(file), _extra_files=extra)  # type: ignore[no-untyped-call]


def raw_observations(case: str, n: int) -> Any:
    space = CASES[case][0]
    space.seed(1)
    samples = [space.sample() for _ in range(n)]
    if isinstance(space, spaces.Dict):
        return {key: np.stack([sample[key] for sample in samples]) for key in space.spaces}
    return np.stack(samples)


def expected_actions(model: PolicyGradient, raw: Any) -> Any:
    """SB3's way from raw observations to actions: VecNormalize, then `predict`, which transposes images itself."""
    if (normalizer := model.get_vec_normalize_env()) is not None:
        raw = normalizer.normalize_obs(raw)
    return model.predict(raw, deterministic=True)[0]


@pytest.mark.parametrize("case", CASES)
def test_torchscript_does_what_predict_does(case: str, tmp_path: Path) -> None:
    model = make(case)
    export = export_policy(model, tmp_path / "policy.pt", "torchscript")
    extra: dict[str, Any] = {"metadata.json": ""}
    module = load_torchscript(export.file, extra)
    for n in (1, 5):
        raw = raw_observations(case, n)
        actions = module(formats.tensors(raw)).numpy()
        expected = expected_actions(model, raw)
        assert actions.shape == expected.shape
        np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    metadata = json.loads(extra["metadata.json"])
    assert metadata["plugin"] == "ppo"
    assert metadata["outputs"][0]["dtype"] == str(expected.dtype)
    assert metadata["outputs"][0]["shape"] == ["batch", *expected.shape[1:]]


@pytest.mark.parametrize("case", ["box", *(pytest.param(c, marks=pytest.mark.slow) for c in CASES if c != "box")])
def test_onnx_does_what_predict_does(case: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make(case)
    export = export_policy(model, tmp_path / "policy.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"], "the weights are in the file"
    session = onnxruntime.InferenceSession(str(export.file))
    for n in (1, 5):
        raw = raw_observations(case, n)
        inputs = raw if isinstance(raw, dict) else {"observation": raw}
        (actions,) = session.run(None, inputs)
        np.testing.assert_allclose(actions, expected_actions(model, raw), rtol=1e-5, atol=1e-6)
    described = session.get_modelmeta().custom_metadata_map
    assert described["plugin"] == "ppo"
    for kind, arrays in (("inputs", session.get_inputs()), ("outputs", session.get_outputs())):
        entries = json.loads(described[kind])
        assert [(entry["name"], entry["shape"]) for entry in entries] == [(a.name, a.shape) for a in arrays]


def test_numbers_that_a_reader_can_check(tmp_path: Path) -> None:
    """A linear policy a = 2·x₀ + 3·x₁ + 0.5 over observations with mean (1, 0), variance (4, 1), clipped at ±2."""
    env: VecEnv = DummyVecEnv([lambda: OnlySpaces(spaces.Box(-9, 9, (2,)), spaces.Box(-5, 5, (1,)))])
    env = VecNormalize(env, clip_obs=2.0, epsilon=0.0)
    moments: Any = env.obs_rms
    moments.mean, moments.var = np.array([1.0, 0.0]), np.array([4.0, 1.0])
    model = PolicyGradient("MlpPolicy", env, "reinforce", policy_kwargs={"net_arch": []})
    with torch.no_grad():
        head(model).weight[:] = torch.tensor([[2.0, 3.0]])
        head(model).bias[:] = 0.5
    module = load_torchscript(export_policy(model, tmp_path / "linear.pt", "torchscript").file)
    # (3, −1) → (1, −1) → 2 − 3 + 0.5;  (9, −1) → (4 → 2, −1) → 4 − 3 + 0.5;  (9, 9) → (2, 2) → 10.5, clipped to 5
    actions = module(torch.tensor([[3.0, -1.0], [9.0, -1.0], [9.0, 9.0]]))
    assert actions.flatten().tolist() == [-0.5, 1.5, 5.0]


FAULTS = {
    "an image that is not transposed, only reshaped": (deterministic.ChannelsFirst, "dict"),
    "observations that are not clipped": (deterministic.Moments, "box"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_differs_is_not_written(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, case = FAULTS[fault]
    if module is deterministic.ChannelsFirst:
        monkeypatch.setattr(module, "forward", lambda self, x: x.reshape(-1, 3, 36, 40))
    else:
        monkeypatch.setattr(module, "forward", lambda self, x: ((x.double() - self.mean) / self.std).float())
    (tmp_path / "policy.pt").write_bytes(b"what was there before")
    with pytest.raises(ConfigError, match=r"differs from predict on \d+ of 1000 .*policy.pt was not written"):
        export_policy(make(case), tmp_path / "policy.pt", "torchscript")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"what was there before"]


def test_discrete_actions_may_differ_only_where_the_logits_are_equal() -> None:
    model = make("discrete")
    with torch.no_grad():
        head(model).weight.zero_()
        head(model).bias[:] = torch.tensor([1.0, 1.0 + 5e-6, 0.0, 0.0, 0.0])
    observations, actions = np.arange(1000) % 4, np.zeros(1000, dtype=np.int64)  # predict says 1 everywhere
    assert 0 < policy_file.check(lambda raw: actions[: len(raw)], model, [], observations, Path("x")) < 1e-5
    actions[5] = 2
    with pytest.raises(ConfigError, match=r"on 9 of 1000 .* by up to 1;"):  # each of the nine batches of 111 has one
        policy_file.check(lambda raw: actions[: len(raw)], model, [], observations, Path("x"))


def test_gaps_between_logits() -> None:
    model = make("multi_binary")
    with torch.no_grad():
        head(model).weight.zero_()
        head(model).bias[:] = torch.tensor([0.25, -2.0, 0.0, 1.0])
    distribution = model.policy.get_distribution(torch.zeros(3, 3))
    actions = np.array([[1, 0, 0, 1], [0, 1, 1, 0], [1, 0, 1, 2]], dtype=np.float32)
    assert logit_gaps(distribution, actions).tolist() == [[0, 0, 0, 0], [0.25, 2, 0, 1], [0, 0, 0, np.inf]]


def test_stacked_normalised_observations_are_refused(tmp_path: Path) -> None:
    """A wrapper with a memory between VecNormalize and the policy would be left out without a message."""
    env = VecFrameStack(VecNormalize(DummyVecEnv([lambda: OnlySpaces(*CASES["box"])])), 2)
    with pytest.raises(ConfigError, match="normalised before VecFrameStack"):
        export_policy(PolicyGradient("MlpPolicy", env, "ppo", n_steps=64), tmp_path / "x.pt", "torchscript")


WITHOUT_PGZOO = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pgzoo", "pgzoo_plugins"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import numpy as np
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
observations = np.load("observations.npy")
for algorithm in (A2C, PPO):
    for name in ("pendulum", "no_limit"):
        normalizer = VecNormalize.load(f"{name}_vecnormalize.pkl", make_vec_env("Pendulum-v1"))
        normalizer.training = False
        model = algorithm.load(name, env=normalizer)
        actions, _ = model.predict(normalizer.normalize_obs(observations), deterministic=True)
        np.save(f"{algorithm.__name__}-{name}.npy", actions)
        if algorithm is A2C or name == "pendulum":
            model.learn(16)
"""


def test_sb3_opens_its_zip_where_pgzoo_cannot_be_imported(tmp_path: Path) -> None:
    """Also where the plugin sets no limit for the norm of the gradient: SB3 needs a number there."""
    expected, observations = {}, np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    for name, plugin in (("pendulum", "ppo"), ("no_limit", "rtg_value")):
        env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
        kwargs = {"n_steps": 16, "batch_size": 16, "clip_range": 0.05} if plugin == "ppo" else {"max_grad_norm": None}
        model = PolicyGradient("MlpPolicy", env, plugin, seed=0, **kwargs).learn(16)
        export = export_policy(model, tmp_path / f"{name}.zip", "sb3")
        assert export.statistics == tmp_path / f"{name}_vecnormalize.pkl"
        expected[name] = expected_actions(model, observations)
    np.save(tmp_path / "observations.npy", observations)
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_PGZOO], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    for algorithm in ("A2C", "PPO"):
        for name, actions in expected.items():
            np.testing.assert_allclose(np.load(tmp_path / f"{algorithm}-{name}.npy"), actions, rtol=1e-5, atol=1e-7)
    clip_range: Any = PPO.load(tmp_path / "pendulum.zip").clip_range
    assert clip_range(1.0) == 0.05
    metadata = json.loads(members(tmp_path / "pendulum.zip")["metadata.json"])
    assert (metadata["plugin"], metadata["vecnormalize"]) == ("ppo", "pendulum_vecnormalize.pkl")
    assert metadata["action_space"] == "Box(-2.0, 2.0, (1,), float32)"
    start = read_start(tmp_path / "pendulum.zip", trusted=True)  # as `pgzoo train -i` does
    assert start.normalizer is not None


@pytest.mark.parametrize("plugin", ["trpo", "npg", "lambda_return+value+ppo_clip"])
def test_sb3_opens_a_policy_of_every_update(plugin: str, tmp_path: Path) -> None:
    """Second-order updates have no limit for the norm of the gradient, and no minibatches."""
    update: dict[str, Any] = {"update": "natural_gradient"} if "+" in plugin else {}
    model = PolicyGradient("MlpPolicy", "CartPole-v1", plugin, seed=0, device="cpu", **update)
    export_policy(model, tmp_path / "a.zip", "sb3")
    loaded = A2C.load(tmp_path / "a.zip")
    observations = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    actual, expected = (m.predict(observations, deterministic=True)[0] for m in (loaded, model))
    np.testing.assert_array_equal(actual, expected)


def test_the_command(tmp_path: Path) -> None:
    pgzoo("train", "--plugin", "a2c", "-n", "64", "--eval-freq", "-1", "--seed", "0", cwd=tmp_path)
    result = pgzoo("export", "--plugin", "a2c", "--to", "torchscript", cwd=tmp_path)
    assert "CartPole-v1.pt" in result.stdout
    assert "on 1,000 random observations\ninput observation: float32 (batch, 4)\noutput action: int64" in result.stdout
    module = load_torchscript(tmp_path / "logs/a2c/CartPole-v1_1/CartPole-v1.pt")
    assert module(torch.zeros(3, 4)).shape == (3,)
    pgzoo("export", "--plugin", "a2c", "--to", "sb3", "-o", "a2c.zip", cwd=tmp_path)
    assert (tmp_path / "a2c.zip").is_file()
    refused = pgzoo("export", "--plugin", "a2c", "--to", "onxx", cwd=tmp_path, status=2)
    assert "onnx" in refused.stderr


@pytest.mark.parametrize("case", ["box", "dict", "discrete"])
def test_a_model_without_environments_has_its_normalizer(case: str, tmp_path: Path) -> None:
    """Finds a normalisation that is left out. How images were transposed is not known, so the camera's are not."""
    model = make(case)
    model.save(tmp_path / "model.zip")
    export_policy(PolicyGradient.load(tmp_path / "model.zip"), tmp_path / "x.pt", "torchscript")
    raw = raw_observations(case, 20)
    expected = expected_actions(model, raw)
    if case == "dict":
        raw["camera"] = raw["camera"].transpose(0, 3, 1, 2)
    actions = load_torchscript(tmp_path / "x.pt")(formats.tensors(raw)).numpy()
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)


def test_without_environments_stacked_observations_are_refused(tmp_path: Path) -> None:
    env = VecFrameStack(VecNormalize(DummyVecEnv([lambda: OnlySpaces(*CASES["box"])])), 2)
    PolicyGradient("MlpPolicy", env, "ppo", n_steps=64).save(tmp_path / "model.zip")
    with pytest.raises(ConfigError, match=r"without one, it is not known how .* shape \(3,\), not \(6,\)\); pass env="):
        export_policy(PolicyGradient.load(tmp_path / "model.zip"), tmp_path / "x.pt", "torchscript")
    assert not (tmp_path / "x.pt").exists()


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "NEEDED", ("onnx_that_is_not_installed",))
    with pytest.raises(ConfigError, match=r"needs onnx_that_is_not_installed; run: pip install 'pgzoo\[export\]'"):
        export_policy(make("discrete"), tmp_path / "policy.onnx")


class Unexportable(torch.nn.Module):
    """Its control flow depends on data, which torch cannot export."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum().item() > 1e9 else torch.tanh(x) * len(x.nonzero())


@pytest.mark.slow
def test_a_policy_that_torch_cannot_export_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model = make("box")
    model.policy.mlp_extractor.policy_net.append(Unexportable())
    with pytest.raises(ConfigError, match="cannot be exported to ONNX: "):
        export_policy(model, tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())
