"""VecEnvs that return odd types: a model trains on them as on the same environments with SB3's types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sizes import sizes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

from pgzoo import PolicyGradient
from pgzoo.errors import EnvironmentFailure
from pgzoo.sampling.conventions import converted_reset, converted_step
from pgzoo.training.guarded import GuardedVecEnv

N = 3


class Odd(VecEnvWrapper):
    """Changes what a VecEnv returns."""

    def __init__(self, venv: Any, step: Callable[..., Any], reset: Callable[[Any], Any] = lambda x: x) -> None:
        super().__init__(venv)
        self._step, self._reset = step, reset

    def reset(self) -> Any:
        return self._reset(self.venv.reset())

    def step_wait(self) -> Any:
        return self._step(*self.venv.step_wait())


def changed(**changes: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a function that changes some of the four values of a step."""

    def step(*values: Any) -> Any:
        names = ("obs", "rewards", "dones", "infos")
        return tuple(changes.get(name, lambda x: x)(value) for name, value in zip(names, values, strict=True))

    return step


ODD_DONES: dict[str, Callable[[Any], Any]] = {
    "uint8": lambda d: d.astype(np.uint8),
    "int64": lambda d: d.astype(np.int64),
    "float": lambda d: d.astype(float),
    "list": lambda d: d.tolist(),
    "list of int": lambda d: [int(x) for x in d],
    "tuple": tuple,
    "column": lambda d: d[:, None],
    "object": lambda d: d.astype(object),
    "tensor": torch.as_tensor,
}
ODD: dict[str, Callable[..., Any]] = {
    **{f"dones {name}": changed(dones=convert) for name, convert in ODD_DONES.items()},
    "rewards list": changed(rewards=lambda r: r.tolist()),
    "rewards int": changed(rewards=lambda r: r.astype(int)),
    "rewards float64": changed(rewards=lambda r: r.astype(float)),
    "rewards column": changed(rewards=lambda r: r[:, None]),
    "rewards tensor": changed(rewards=torch.as_tensor),
    "infos tuple": changed(infos=tuple),
    "infos None": changed(infos=lambda infos: [info or None for info in infos]),
    "infos empty": changed(infos=lambda infos: infos if any("episode" in i for i in infos) else []),
    "infos array": changed(infos=lambda infos: np.array(infos, dtype=object)),
    "observations list": changed(obs=lambda x: x.tolist()),
}


def parameters(plugin: str, fast: Any, step: Callable[..., Any] | None, **options: Any) -> dict[str, torch.Tensor]:
    env: Any = make_vec_env("CartPole-v1", N, seed=5)
    if step is not None:
        env = Odd(env, step)
    size = {"batch_size": None, **sizes(plugin, n_steps=32, n_episodes=6, group_size=3)}
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", fast=fast, **{**size, **options})
    seen: list[Any] = []

    def look(found: dict[str, Any], _: Any) -> bool:
        seen.append((found["dones"], found["rewards"], found["infos"]))
        return True

    model.learn(200, callback=look)
    for dones, rewards, infos in seen:
        assert (dones.dtype, dones.shape, rewards.dtype, rewards.shape) == (bool, (N,), np.float32, (N,))
        assert [type(info) for info in infos] == [dict] * N
    assert model.ep_info_buffer
    return {name: x.clone() for name, x in model.policy.state_dict().items()}


@pytest.mark.parametrize("kind", ODD)
def test_odd_types_train_as_sb3s_types(kind: str) -> None:
    """The environments' own types, and SB3's: the same parameters to the last bit."""
    expected, ours = (parameters("gae", "auto", step) for step in (None, ODD[kind]))
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


@pytest.mark.parametrize("fast", ["auto", False])
@pytest.mark.parametrize("plugin", ["a2c", "ppo", "reinforce", "grpo", "rtg_value"])
def test_dones_of_every_recipe_and_backend(plugin: str, fast: Any) -> None:
    step = changed(dones=ODD_DONES["uint8"], rewards=lambda r: r.tolist(), infos=tuple)
    expected, ours = (parameters(plugin, fast, s) for s in (None, step))
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


def test_dones_of_the_batched_backend() -> None:
    options: dict[str, Any] = {"policy_kwargs": {"activation_fn": torch.nn.ELU}}
    expected, ours = (parameters("gae", "auto", s, **options) for s in (None, ODD["dones uint8"]))
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


@pytest.mark.parametrize("form", [lambda x: (x, {}), lambda x: (x, [{}] * N), lambda x: x.tolist()])
def test_odd_resets(form: Callable[[Any], Any]) -> None:
    """`reset` of Gymnasium's vector environments returns a pair."""
    for plugin in ("gae", "reinforce", "grpo"):
        env = Odd(make_vec_env("CartPole-v1", N, seed=0), lambda *values: values, form)
        size = sizes(plugin, n_steps=16, n_episodes=3, group_size=3)
        PolicyGradient("MlpPolicy", env, plugin, device="cpu", **size).learn(100)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda o, r, d, i: (o, r, d, d, i), "step returned 5 values; an SB3 VecEnv returns .*GymnasiumVecEnv"),
        (lambda o, r, d, i: o, "step returned a ndarray"),
        (changed(dones=lambda d: d[:2]), r"dones of shape \(2,\) for 3 environments"),
        (changed(dones=lambda d: d * np.nan), "dones that are neither true nor false"),
        (changed(rewards=lambda r: ["a"] * N), "rewards that are not numbers: ValueError"),
        (changed(rewards=lambda r: None), "rewards that are not numbers|rewards of shape"),
        (changed(infos=lambda i: {"episode": np.zeros(N)}), "one dict of infos.*GymnasiumVecEnv"),
        (changed(infos=lambda i: i[:1]), "1 infos for 3 environments"),
        (changed(infos=lambda i: [3] * N), "environment 0 returned an info of type int"),
        (changed(infos=lambda i: 3), "infos of type int"),
        (changed(obs=lambda x: x[:, :-1]), r"an observation of shape \(3, 3\), not \(3, 4\)"),
        (changed(obs=lambda x: x[:-1]), r"an observation of shape \(2, 4\), not \(3, 4\)"),
        (changed(obs=lambda x: [[1.0], [1.0, 2.0], []]), "an observation that is no array: ValueError"),
        (changed(obs=lambda x: None), "an observation of type object, which is not numeric"),
        (changed(obs=lambda x: x.astype(str)), "an observation of type <U32, which is not numeric"),
    ],
)
def test_what_cannot_be_converted_is_refused(step: Callable[..., Any], message: str) -> None:
    env = Odd(make_vec_env("CartPole-v1", N, seed=0), step)
    with pytest.raises(EnvironmentFailure, match=message):
        PolicyGradient("MlpPolicy", env, "gae", n_steps=8, device="cpu").learn(100)


def test_arrays_of_sb3s_types_are_not_converted() -> None:
    rewards, dones = np.zeros(N, dtype=np.float32), np.zeros(N, dtype=bool)
    infos: list[dict[str, Any]] = [{} for _ in range(N)]
    result = converted_step((np.zeros((N, 4)), rewards, dones, infos), N, spaces.Box(-1, 1, (4,)))
    assert result[1] is rewards
    assert result[2] is dones
    assert result[3] is infos


def test_a_copy_has_the_same_memory_order() -> None:
    """SB3 gives transposed images to torch, whose kernels depend on the order."""
    image = np.zeros((N, 5, 6, 3)).transpose(0, 3, 1, 2)
    copy = converted_reset(image, N, spaces.Box(0, 255, (3, 5, 6)))
    assert copy.strides == image.strides
    assert not np.shares_memory(copy, image)


def test_a_terminal_observation_of_another_shape_is_refused() -> None:
    def shorten(infos: Any) -> Any:
        for info in infos:
            if "terminal_observation" in info:
                info["terminal_observation"] = info["terminal_observation"][:2]
        return infos

    env = Odd(make_vec_env("CartPole-v1", N, seed=0), changed(infos=shorten))
    with pytest.raises(EnvironmentFailure, match=r"terminal observation of shape \(2,\), not \(4,\)"):
        PolicyGradient("MlpPolicy", env, "gae", n_steps=64, device="cpu").learn(200)


def test_dones_of_a_wrapper_reach_vecnormalize_as_booleans() -> None:
    """VecNormalize indexes its returns with them: as integers, they would clear environments 0 and 1."""

    def trained(step: Any) -> tuple[float, dict[str, torch.Tensor]]:
        env = VecNormalize(GuardedVecEnv(Odd(make_vec_env("CartPole-v1", N, seed=0), step), "wrapper Odd"))
        model = PolicyGradient("MlpPolicy", env, "gae", n_steps=32, seed=0, device="cpu").learn(300)
        return float(env.ret_rms.var), model.policy.state_dict()

    (variance, expected), (found, ours) = trained(changed()), trained(changed(dones=ODD_DONES["uint8"]))
    assert found == variance
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


class Reused(VecEnvWrapper):
    """Returns observations and terminal observations in memory that the next step uses again."""

    def __init__(self, venv: Any) -> None:
        super().__init__(venv)
        self.memory = np.zeros((N, 4), dtype=np.float32)
        self.terminal = np.zeros((N, 4), dtype=np.float32)

    def reset(self) -> Any:
        first: Any = self.venv.reset()
        self.memory[:] = first
        return self.memory

    def step_wait(self) -> Any:
        self.terminal[:] = -77
        result: Any = self.venv.step_wait()
        observations, rewards, dones, infos = result
        self.memory[:] = observations
        for info, terminal in zip(infos, self.terminal, strict=True):
            if "terminal_observation" in info:
                terminal[:] = info["terminal_observation"]
                info["terminal_observation"] = terminal
        return self.memory, rewards, dones, infos


@pytest.mark.parametrize("fast", ["auto", False])
def test_memory_that_is_used_again(fast: Any) -> None:
    """Time limits of 7 steps, so that V of terminal observations counts."""

    def trained(wrap: Any) -> dict[str, torch.Tensor]:
        env = wrap(make_vec_env("CartPole-v1", N, seed=5, env_kwargs={"max_episode_steps": 7}))
        model = PolicyGradient("MlpPolicy", env, "a2c", n_steps=8, seed=0, device="cpu", fast=fast).learn(100)
        return dict(model.policy.state_dict())

    expected, ours = trained(lambda env: env), trained(Reused)
    assert all(torch.equal(expected[name], ours[name]) for name in expected)


# ---------------------------------------------------------------- time limits without terminal observation


def without_terminal(env: Any) -> Any:
    def hide(infos: Any) -> Any:
        return [{k: v for k, v in info.items() if k != "terminal_observation"} for info in infos]

    return Odd(env, changed(infos=hide))


def test_a_time_limit_without_terminal_observation() -> None:
    """The error names the setting; both values of the setting train, with the V that they promise."""

    def make(**options: Any) -> PolicyGradient:
        env = without_terminal(make_vec_env("CartPole-v1", N, seed=5, env_kwargs={"max_episode_steps": 4}))
        return PolicyGradient("MlpPolicy", env, "a2c", n_steps=8, seed=0, learning_rate=0.0, device="cpu", **options)

    with pytest.raises(EnvironmentFailure, match="set missing_terminal_observation to 'last_observation'"):
        make().learn(24)
    model = make(missing_terminal_observation="terminate").learn(24)
    ends = model.rollout.step == 3
    assert model.rollout.terminated[ends].all()
    assert not model.rollout.next_values[ends].any()
    model = make(missing_terminal_observation="last_observation").learn(24)
    assert model.rollout.truncated[ends].all()
    np.testing.assert_allclose(model.rollout.next_values[ends], model.rollout.values[ends], rtol=1e-5)
