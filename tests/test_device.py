"""Devices: which one "auto" means, where samples are during an update, and states that follow their parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces
from pgzoo_plugins.minibatch_std import MinibatchStd
from rollouts import make_rollout
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch.utils._python_dispatch import TorchDispatchMode

from pgzoo import PolicyGradient, Rollout
from pgzoo.algorithm.policies import is_small_mlp
from pgzoo.backends import backend as backend_module
from pgzoo.backends.backend import move_state
from pgzoo.backends.sb3 import SB3Backend
from pgzoo.backends.score_norms import rollout_score_sq_norms
from pgzoo.interface.batch import Samples, index_rows
from pgzoo.updates import minibatches as minibatch_module
from pgzoo.updates.minibatches import current_ratios, minibatches, observation_device, reevaluated, rescaled, to_samples

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)
IMAGE_CHANNELS_FIRST = spaces.Box(0, 255, (3, 36, 36), np.uint8)


@pytest.fixture
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


def chosen(policy: str, space: spaces.Space[Any], device: str, **policy_kwargs: Any) -> torch.device:
    """The device that a model would be set up on; no tensor is made."""
    env = AnySpaces(space, spaces.Discrete(2))
    model = PolicyGradient(
        policy, env, "a2c", device=device, policy_kwargs=policy_kwargs, verbose=1, _init_setup_model=False
    )
    model._choose_device()
    return model.device


@pytest.mark.usefixtures("pretended_gpu")
@pytest.mark.parametrize(
    ("policy", "space", "device", "policy_kwargs", "expected"),
    [
        ("MlpPolicy", VECTOR, "auto", {}, "cpu"),
        ("MlpPolicy", VECTOR, "auto", {"net_arch": [256, 256]}, "cpu"),
        ("MlpPolicy", VECTOR, "auto", {"net_arch": [512]}, "cuda"),
        ("MlpPolicy", VECTOR, "auto", {"net_arch": {"pi": [64], "vf": [512]}}, "cuda"),
        ("MlpPolicy", VECTOR, "cuda", {}, "cuda"),
        ("MlpPolicy", VECTOR, "cpu", {}, "cpu"),
        ("CnnPolicy", IMAGE, "auto", {}, "cuda"),
    ],
)
def test_the_device(policy: str, space: Any, device: str, policy_kwargs: Any, expected: str, capsys: Any) -> None:
    assert chosen(policy, space, device, **policy_kwargs).type == expected
    says_so = "A small MlpPolicy is faster on the CPU; pass device='cuda' to use the GPU" in capsys.readouterr().out
    assert says_so == (device == "auto" and expected == "cpu")


def test_without_a_gpu_nothing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert chosen("MlpPolicy", VECTOR, "auto").type == "cpu"
    assert "faster on the CPU" not in capsys.readouterr().out


def test_what_is_small() -> None:
    assert is_small_mlp(VECTOR, {"net_arch": {"pi": [64], "vf": [256]}})
    assert not is_small_mlp(spaces.Dict({"x": VECTOR}), {})
    assert not is_small_mlp(IMAGE, {})
    assert not is_small_mlp(VECTOR, {"features_extractor_class": torch.nn.Identity})


# ---------------------------------------------------------------- where samples are during an update


class Transfers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records every copy between devices as "from → to"."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        source = next((x for x in args if isinstance(x, torch.Tensor)), None)
        if source is not None and isinstance(result, torch.Tensor) and source.device != result.device:
            self.seen.append(f"{source.device} → {result.device}")
        return result


def image_policy(device: str) -> ActorCriticCnnPolicy:
    policy = ActorCriticCnnPolicy(IMAGE_CHANNELS_FIRST, spaces.Discrete(2), lambda _: 1e-3)
    return policy.to(device)


def image_rollout(n_steps: int = 6, n_envs: int = 2) -> Rollout:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, n_steps, n_envs, 3, 36, 36), dtype=np.uint8)
    rewards = np.arange(n_steps * n_envs, dtype=float).reshape(n_steps, n_envs)
    rollout = make_rollout(rewards, values=np.zeros((n_steps, n_envs)))
    return rollout.replace(observations=images[0], next_observations=images[1])


def image_samples(policy: ActorCriticCnnPolicy) -> Samples:
    rollout = image_rollout()
    return to_samples(rollout, policy, advantages=rollout.rewards, critic_targets=rollout.rewards)


@pytest.mark.parametrize("whole_episodes", [False, True])
def test_no_sample_leaves_the_device_in_an_update(whole_episodes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device "meta" has no numbers, but it is another device. One index per epoch is copied there."""
    monkeypatch.setattr(minibatch_module, "observation_device", lambda observations, device: device)
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)  # it would read numbers
    policy = image_policy("meta")
    samples = image_samples(policy)
    assert (samples.observations.device.type, samples.observations.dtype) == ("meta", torch.uint8)
    if whole_episodes:  # the episodes are read on the CPU, which "meta" refuses
        monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.arange(len(self)) // 6)
    backend = SB3Backend(policy, has_critic=True)
    with Transfers() as transfers:
        for minibatch in minibatches(samples, 4, whole_episodes=whole_episodes, shuffle_whole=True):
            batch = backend.evaluate_actions(rescaled(minibatch, MinibatchStd(), "minibatch", None))
            loss = batch.aggregate(batch.ratio * batch.advantages) + batch.values.mean()
            loss.backward()  # type: ignore[no-untyped-call]
    assert transfers.seen == ["cpu → meta"]


@pytest.mark.parametrize(("free", "expected"), [(2.1, "cuda"), (1.9, "cpu")])
def test_observations_are_kept_on_a_gpu_if_they_fit(
    free: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may take half of what is free. Of that, torch holds a part in reserve."""
    observations: Any = {"image": np.zeros((8, 100), np.uint8), "vector": np.zeros((8, 25), np.float32)}  # 1,600 bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(1600 * free) - 300, 10**6))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 700)
    assert observation_device(observations, torch.device("cuda")).type == expected
    assert observation_device(observations, torch.device("cpu")).type == "cpu"


class OnAGpu(torch.Tensor):
    """A tensor that claims to be on a GPU. Moved to a device, it is an ordinary tensor."""

    device = property(lambda self: torch.device("cuda"))

    def to(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)


def test_minibatches_of_a_large_rollout_go_through_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    empty, to = torch.empty, torch.Tensor.to

    def record_empty(*args: Any, pin_memory: bool, **kwargs: Any) -> torch.Tensor:
        calls.append(pin_memory)
        return empty(*args, **kwargs)

    def record_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args == (torch.device("cuda"),):
            calls.append(kwargs)
            return self
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch, "empty", record_empty)
    monkeypatch.setattr(torch.Tensor, "to", record_to)
    images = torch.arange(24, dtype=torch.uint8).reshape(6, 4)
    rows = index_rows({"image": images}, torch.tensor([5, 0]).as_subclass(OnAGpu))["image"]
    assert rows.tolist() == [[20, 21, 22, 23], [0, 1, 2, 3]]
    assert rows.dtype == torch.uint8
    assert calls == [True, {"non_blocking": True}]


def test_whole_rollouts_are_evaluated_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve steps in blocks of five give what they give together. Finds a block that is lost or out of order."""
    policy, rollout = image_policy("cpu"), image_rollout()
    samples, backend = image_samples(policy), SB3Backend(policy, has_critic=True)
    sizes: list[int] = []
    policy.features_extractor.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))

    def evaluate() -> list[Any]:
        now = reevaluated(rollout, samples, backend)
        return [
            now.ratios, now.values, now.next_values, current_ratios(rollout, samples, backend),
            rollout_score_sq_norms(policy, rollout),
        ]  # fmt: skip

    together = evaluate()
    assert sizes == [12] * 4
    sizes.clear()
    for module in (minibatch_module, backend_module):
        monkeypatch.setattr(module, "STEPS_TOGETHER", 5)
    for block, whole in zip(evaluate(), together, strict=True):
        np.testing.assert_allclose(block, whole, rtol=1e-4, atol=1e-6)
        assert np.ptp(whole) > 0
    assert sizes == [5, 5, 2] * 4


# ---------------------------------------------------------------- states follow their parameters


@pytest.mark.parametrize("fused", [False, True])
def test_the_state_of_an_optimizer_moves_to_its_parameters(fused: bool) -> None:
    """Step counts stay on the CPU, unless the optimizer needs them beside the parameter."""
    parameter = torch.nn.Parameter(torch.zeros(2, device="meta"))
    optimizer = torch.optim.Adam([parameter], capturable=fused)
    optimizer.state[parameter] = {"step": torch.tensor(3.0), "exp_avg": torch.ones(2), "other": 5}
    move_state(optimizer)
    state = optimizer.state[parameter]
    assert state["exp_avg"].device.type == "meta"
    assert state["step"].device.type == ("meta" if fused else "cpu")
    assert state["other"] == 5


def test_a_step_count_from_a_gpu_is_moved_before_the_next_update() -> None:
    """`set_parameters(path)` loads to the GPU if there is one, and torch leaves step counts there."""
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "grpo", device="cpu", n_episodes=4, group_size=2, seed=0)
    model.learn(1)
    after_one_update = copy.deepcopy(model.get_parameters())
    for fast in ("auto", False):
        saved = copy.deepcopy(after_one_update)
        for state in saved["policy.optimizer"]["state"].values():
            state["step"] = state["step"].as_subclass(OnAGpu)
        model.fast = fast
        model.set_parameters(saved)
        steps = [state["step"] for state in model.policy.optimizer.state.values()]
        assert all(type(step) is OnAGpu for step in steps)
        model.learn(1)
        steps = [state["step"] for state in model.policy.optimizer.state.values()]
        assert all(type(step) is torch.Tensor for step in steps)
        assert {float(step) for step in steps} == {8.0}  # four epochs before saving and four after loading


def test_a_parts_optimizer_is_moved_when_it_is_loaded() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg_value", estimator="q_value", n_steps=64, device="cpu")
    model.learn(1)
    saved = copy.deepcopy(model.part_states.parameters())
    for state in saved["estimator_state.optimizer"]["state"].values():
        state["step"] = state["step"].as_subclass(OnAGpu)
    model.part_states.load_parameters(saved)
    loaded = model.part_states.parameters()["estimator_state.optimizer"]["state"]
    assert all(type(state["step"]) is torch.Tensor for state in loaded.values())
