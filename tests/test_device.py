"""`device="auto"`: small networks run on the CPU, everything else where SB3 runs it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from envs import AnySpaces
from gymnasium import spaces

from pgzoo import PolicyGradient
from pgzoo.algorithm.policies import is_small_mlp

VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (36, 36, 3), np.uint8)


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
