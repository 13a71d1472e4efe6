"""The state of an environment, written as JSON and arrays, continues in a new environment."""

from __future__ import annotations

import io
import json
from collections import deque
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from envs import AnySpaces
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecNormalize

from pgzoo.sampling.gymnasium_vec_env import GymnasiumVecEnv
from pgzoo.training.env_states import Decoder, Encoder, NotPlain, decode_env, encode_env
from pgzoo.training.vec_envs import make_vector_env

SPACES = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Tuple((spaces.Discrete(3),))})


def copied(value: Any, current: Any = None) -> Any:
    """Return a value that went through JSON."""
    encoder = Encoder()
    text = json.dumps(encoder.encode(value, "x"))
    return Decoder(encoder.arrays).decode(json.loads(text), current)


def played(env: VecEnv, actions: list[Any]) -> list[Any]:
    results = []
    for action in actions:
        observations, rewards, dones, _ = env.step(action)
        results.append((np.array(observations), np.array(rewards), np.array(dones)))
    return results


def separate(name: str, **kwargs: Any) -> Callable[[], VecEnv]:
    return lambda: make_vec_env(name, 2, seed=0, env_kwargs=kwargs)


ENVS: dict[str, Callable[[], VecEnv]] = {
    **{name: separate(name) for name in ("CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "Blackjack-v1")},
    "FrozenLake-v1": separate("FrozenLake-v1", is_slippery=True),
    "vector": lambda: make_vector_env("CartPole-v1", 2, {}),
    "sync": lambda: GymnasiumVecEnv(SyncVectorEnv([lambda: gym.make("CartPole-v1")] * 2)),
    "wrapped": lambda: VecFrameStack(VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0)), 3),
    "a space's generator": lambda: DummyVecEnv([lambda: Monitor(AnySpaces(SPACES["a"], spaces.Discrete(2)))]),
}


@pytest.mark.parametrize("name", ENVS)
def test_a_copy_plays_on_as_its_original(name: str) -> None:
    """Finds an attribute, a wrapper or a generator that is left out. The original is the reference."""
    original, new = ENVS[name](), ENVS[name]()
    original.reset()
    original.action_space.seed(0)
    actions = [np.array([original.action_space.sample() for _ in range(original.num_envs)]) for _ in range(60)]
    played(original, actions[:17])
    encoder = Encoder()
    state = json.loads(json.dumps(encode_env(encoder, original)))
    assert state["reason"] == ""
    expected = played(original, actions[17:])
    new.reset()
    assert decode_env(Decoder(encoder.arrays), state, new) == ""
    for before, after in zip(expected, played(new, actions[17:]), strict=True):
        for a, b in zip(before, after, strict=True):
            np.testing.assert_array_equal(a, b)


def test_values() -> None:
    values = [None, True, 3, 2**100, 0.1, float("inf"), "x", (1, 2), {1: "a", (2, 3): [4]}, {5}, np.float32(0.1)]
    assert copied(values) == values
    assert copied(deque([1, 2])) == deque([1, 2])
    array = copied(np.arange(6, dtype=np.int16).reshape(2, 3))
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
def test_generators(bits: Any) -> None:
    generator = np.random.Generator(bits(3))
    generator.random(5)
    new = copied(generator)
    np.testing.assert_array_equal(new.random(5), generator.random(5))


def test_what_is_shared_stays_shared() -> None:
    """Finds a copy whose second name for an array no longer follows the first."""
    array = np.zeros(2)
    first, second = copied([array, array])
    first[0] = 1
    assert second[0] == 1
    current = [np.ones(2)]
    view = current[0]
    copied([array], current)
    assert view.tolist() == [0, 0]


class Plain:
    """An object of plain data."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Plain(file=io.StringIO()), r"x\.file is of type StringIO"),
        ([{"a": np.array([object()])}], r"x\[0\]\['a'\] is an array of objects"),
        (iter([]), "x is of type list_iterator"),
        (1j, "x is of type complex"),
    ],
)
def test_what_is_not_plain_is_named(value: Any, message: str) -> None:
    with pytest.raises(NotPlain, match=message):
        copied(value)


def test_another_class_is_refused() -> None:
    with pytest.raises(NotPlain, match="there is a NoneType where the checkpoint has a Plain"):
        copied(Plain(x=1))
    assert copied(Plain(x=1), Plain(x=2)).x == 1
    with pytest.raises(NotPlain, match="there is a NoneType where the checkpoint has an enum's SAME_STEP"):
        copied(AutoresetMode.SAME_STEP)
    assert copied(AutoresetMode.SAME_STEP, AutoresetMode.DISABLED) is AutoresetMode.SAME_STEP


def test_statistics_survive_environments_that_do_not() -> None:
    original = VecNormalize(SubprocVecEnv([lambda: gym.make("CartPole-v1")]))
    new = VecNormalize(make_vec_env("CartPole-v1", 1))
    try:
        original.reset()
        encoder = Encoder()
        state = encode_env(encoder, original)
        assert state["reason"] == "they are in a SubprocVecEnv"
        assert decode_env(Decoder(encoder.arrays), state, new) == state["reason"]
        np.testing.assert_array_equal(new.obs_rms.mean, original.obs_rms.mean)  # type: ignore[attr-defined]
    finally:
        original.close()
