"""Sampling: what is recorded, what is left out, and how SB3's conventions are converted."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from envs import Clock
from gymnasium import spaces
from parts import ValueAndSuccessors
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
)

from pgzoo import ConfigError, PolicyGradient, Rollout

MIXED = ((3, "terminated"), (2, "truncated"))


def monitored_clock(ends: Any) -> Monitor[Any, Any]:
    return Monitor(Clock(ends))


def clocks(*ends: Any) -> DummyVecEnv:
    return DummyVecEnv([partial(monitored_clock, e) for e in ends])


def sample(env: Any, plugin: str, updates: int = 1, **options: Any) -> tuple[PolicyGradient, Rollout]:
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **options)
    for update in range(updates):
        model.learn(1, log_interval=None, reset_num_timesteps=update == 0)
    return model, model.rollout


def test_steps_keep_rewards_raw_and_ends_apart() -> None:
    model, rollout = sample(clocks(MIXED), "gae", n_steps=8)
    # Episodes of 3 (terminated), 2 (truncated) and again 3: rewards 1 2 3 | 1 2 | 1 2 3.
    assert rollout.rewards[:, 0].tolist() == [1, 2, 3, 1, 2, 1, 2, 3]
    assert np.flatnonzero(rollout.terminated[:, 0]).tolist() == [2, 7]
    assert np.flatnonzero(rollout.truncated[:, 0]).tolist() == [4]
    assert rollout.step[:, 0].tolist() == [0, 1, 2, 0, 1, 0, 1, 2]
    assert model.rollout_buffer.rewards[:, 0].tolist() == [1, 2, 3, 1, 2, 1, 2, 3]


@pytest.mark.parametrize("fast", [False, True])
def test_next_values_are_those_of_the_true_successor(fast: bool) -> None:
    model, rollout = sample(
        clocks(MIXED), "gae", n_steps=7, learning_rate=0.0, fast=fast, baseline=ValueAndSuccessors()
    )

    def value(t: int, number: int) -> float:
        with torch.no_grad():
            return model.policy.predict_values(torch.tensor([[float(t), float(number)]])).item()

    expected = [value(1, 0), value(2, 0), 0.0, value(1, 1), value(2, 1), value(1, 2), value(2, 2)]
    np.testing.assert_allclose(rollout.next_values[:, 0], expected, rtol=1e-5)
    # The terminal observation is (2, 1), at a time limit; the next episode's first would be (0, 2).
    assert np.asarray(rollout.next_observations)[:, 0].tolist() == [
        [1, 0],
        [2, 0],
        [3, 0],
        [1, 1],
        [2, 1],
        [1, 2],
        [2, 2],
    ]


def test_step_counts_go_on_across_fragments() -> None:
    _, rollout = sample(clocks(((5, "terminated"),)), "gae", updates=2, n_steps=3)
    assert rollout.step[:, 0].tolist() == [3, 4, 0]


def test_episodes_are_whole_and_begin_in_the_order_of_a_queue_and_padding_is_left_out() -> None:
    """Environment 0 plays 1, 2 and 1 steps while 1 plays 4. Both are free then, and 0 takes the fifth episode."""
    short, long = ((1, "terminated"), (2, "terminated")), ((4, "truncated"),)
    model, rollout = sample(clocks(short, long), "rtg", n_episodes=5)
    assert rollout.mask.T.tolist() == [[True] * 6, [True] * 4 + [False] * 2]
    assert rollout.lengths.tolist() == [1, 2, 1, 2, 4]
    assert rollout.rewards.T.tolist() == [[1, 1, 2, 1, 1, 2], [1, 2, 3, 4, 0, 0]]
    assert model.num_timesteps == 10  # environment 1 rests for two steps
    assert model.logger.name_to_value["rollout/unused_steps"] == 0
    assert model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    assert [e["l"] for e in model.ep_info_buffer] == [1, 2, 1, 4, 2]
    assert list(model.ep_success_buffer) == [True, True, True, False, True]


def test_episodes_of_waiting_environments_do_not_enter_the_statistics() -> None:
    """While environment 1 plays its 6 steps, environment 0 ends three more episodes, which are not recorded.

    The environments of this VecEnv cannot rest.
    """

    class Steps(DummyVecEnv):
        def step_wait(self) -> Any:
            return super().step_wait()

    ends: Any = ((2, "terminated"),), ((6, "terminated"),)
    model, _ = sample(Steps([partial(monitored_clock, e) for e in ends]), "rtg", n_episodes=2)
    assert model.num_timesteps == 12
    assert model.ep_info_buffer is not None
    assert sorted(e["l"] for e in model.ep_info_buffer) == [2, 6]


def test_every_rollout_of_episodes_begins_with_a_reset() -> None:
    _, rollout = sample(clocks(((1, "terminated"),), ((4, "terminated"),)), "rtg", updates=3, n_episodes=2)
    assert rollout.step[0].tolist() == [0, 0]
    assert np.asarray(rollout.observations)[0, :, 0].tolist() == [0, 0]


def test_episodes_do_not_favour_short_ones() -> None:
    """Lengths are 1 or 20 by the toss of a coin: the sampled share of short ones is a half.

    Taking the first K of 8 environments that end would take nearly only short ones.
    """

    class Coin(Clock):
        def reset(self, **kwargs: Any) -> Any:
            result = super().reset(**kwargs)
            self.ends = ((1 if self.np_random.random() < 0.5 else 20, "terminated"),)
            return result

    env = DummyVecEnv([Coin] * 8)
    model = PolicyGradient("MlpPolicy", env, "rtg", n_episodes=16, seed=1, device="cpu")
    lengths = []
    for update in range(30):
        model.learn(1, reset_num_timesteps=update == 0)
        lengths += model.rollout.lengths.tolist()
    short = np.mean(np.array(lengths) == 1)
    assert abs(short - 0.5) < 4 * 0.5 / np.sqrt(480)  # four standard errors of 480 tosses


def test_an_endless_episode_is_an_error() -> None:
    with pytest.raises(ConfigError, match="environment 1 has not ended after 50 steps"):
        sample(clocks(((3, "terminated"),), ((10**9, "terminated"),)), "rtg", n_episodes=2, episode_bound=50)


def test_any_number_of_episodes_can_be_sampled() -> None:
    """Finds fewer episodes than environments, and a number that is rounded."""
    for n_episodes in (1, 2, 8):
        _, rollout = sample(clocks(MIXED, MIXED, MIXED), "rtg", n_episodes=n_episodes)
        assert rollout.n_episodes == n_episodes
    _, rollout = sample(clocks(MIXED, MIXED, MIXED), "rtg")
    assert rollout.n_episodes == 9  # the default of 8, rounded up to a multiple of the environments


def test_critic_free_recipes_never_read_a_critic() -> None:
    """With V replaced by NaN nothing changes, for every recipe that declares no critic."""

    def trained(break_critic: bool, plugin: str) -> dict[str, torch.Tensor]:
        model = PolicyGradient(
            "MlpPolicy", make_vec_env("CartPole-v1", 2, seed=0), plugin, seed=0, n_episodes=4, device="cpu"
        )
        if break_critic:
            with torch.no_grad():
                model.policy.value_net.bias.fill_(float("nan"))
        model.learn(500)
        state = model.policy.state_dict()
        return {name: value for name, value in state.items() if "value" not in name}

    for plugin in ("reinforce", "rtg", "rtg_batch_mean", "rtg_moving_average", "full_return+leave_one_out"):
        whole, broken = trained(False, plugin), trained(True, plugin)
        assert all(torch.equal(whole[name], broken[name]) for name in whole), plugin
    gae = PolicyGradient("MlpPolicy", "CartPole-v1", "gae", device="cpu")
    assert gae.has_critic


def test_a_nan_reward_is_located() -> None:
    class Broken(Clock):
        def step(self, action: Any) -> Any:
            obs, reward, *rest = super().step(action)
            return obs, float("nan") if self.t == 2 else reward, *rest

    with pytest.raises(ValueError, match="environment 0 returned the reward nan at step 1 of an episode"):
        sample(
            DummyVecEnv([Broken]),
            "rtg",
            plugin_kwargs=None,
            n_steps=8,
            estimator={"name": "td"},
            baseline="value",
        )


@pytest.mark.parametrize("plugin", ["rtg", "gae"])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda: make_vec_env("CartPole-v1", 2, vec_env_cls=SubprocVecEnv),
        lambda: VecNormalize(make_vec_env("CartPole-v1", 2)),
        lambda: VecFrameStack(make_vec_env("CartPole-v1", 2), 3),
        lambda: VecMonitor(DummyVecEnv([Clock, Clock])),
    ],
    ids=["subproc", "normalize", "framestack", "monitor"],
)
def test_vec_envs(wrap: Any, plugin: str) -> None:
    env = wrap()
    try:
        size: dict[str, Any] = {"n_episodes": 4} if plugin == "rtg" else {"n_steps": 32}
        model = PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **size)
        model.learn(200)
        assert model.num_timesteps >= 200
        assert model.ep_info_buffer
        assert np.isfinite(model.rollout_buffer.advantages).all()
    finally:
        env.close()


def test_vec_normalize_keeps_terminal_observations_normalised() -> None:
    """With statistics frozen at mean 100 and variance 4 every successor is (x − 100) / 2."""
    env = VecNormalize(clocks(MIXED), norm_reward=False, training=False, clip_obs=1000)
    assert isinstance(env.obs_rms, RunningMeanStd)
    env.obs_rms.mean, env.obs_rms.var = np.full(2, 100.0), np.full(2, 4.0)
    _, rollout = sample(env, "gae", n_steps=8, baseline=ValueAndSuccessors())
    assert rollout.rewards[:3, 0].tolist() == [1, 2, 3]
    raw = [1, 2, 3, 1, 2, 1, 2, 3]
    np.testing.assert_allclose(np.asarray(rollout.next_observations)[:, 0, 0], (np.array(raw) - 100) / 2, rtol=1e-4)


@pytest.mark.parametrize("fast", [False, True])
def test_locals_that_callbacks_find(fast: bool) -> None:
    seen: list[set[str]] = []

    def look(local: dict[str, Any], _: Any) -> bool:
        seen.append(set(local))
        return True

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu", fast=fast)
    model.learn(5, callback=look)
    names = "env callback rollout_buffer n_rollout_steps n_steps obs_tensor actions values log_probs"
    assert set(f"{names} clipped_actions new_obs rewards dones infos".split()) <= seen[0]


@pytest.mark.parametrize("fast", [False, True])
def test_a_rollout_is_let_go_when_the_next_is_there(fast: bool) -> None:
    kept: list[weakref.ref[Any]] = []

    class Watch(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            assert isinstance(self.model, PolicyGradient)
            kept.append(weakref.ref(self.model.rollout))

    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", device="cpu", fast=fast)
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            model.learn(10, callback=Watch())
    finally:
        gc.enable()
    assert [ref() is not None for ref in kept] == [False, False, False, True]


def test_a_callback_can_stop_in_the_middle_of_episodes() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", device="cpu", seed=0)
    model.learn(1000, callback=lambda local, _: local["self"].num_timesteps < 5)
    assert model.num_timesteps == 5
    model.learn(200, reset_num_timesteps=False)
    assert model.rollout.step[0].tolist() == [0]


class Kept(RolloutBuffer):
    """A custom buffer that only counts what it is given."""

    added = 0

    def add(self, *args: Any, **kwargs: Any) -> None:
        super().add(*args, **kwargs)
        type(self).added += 1


class Greedy(RolloutBuffer):
    def get(self, batch_size: int | None = None) -> Any:
        return super().get(batch_size)


def test_custom_buffers() -> None:
    model = PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", rollout_buffer_class=Kept, device="cpu")
    model.learn(10)
    assert Kept.added == 10
    with pytest.raises(ConfigError, match=r"Greedy\.get would not be called"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "a2c", rollout_buffer_class=Greedy)
    with pytest.raises(ConfigError, match="requires sampling='steps'"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "rtg", rollout_buffer_class=Kept)


def test_gsde_noise_of_a_running_episode_stays() -> None:
    """Two environments whose episodes take 3 and 5 steps: each one's noise changes after its own end alone."""

    class Continuous(Clock):
        def __init__(self, ends: Any) -> None:
            super().__init__(ends)
            self.action_space = spaces.Box(-1, 1, (1,))

    seen: list[Any] = []

    def look(local: dict[str, Any], _: Any) -> bool:
        seen.append(local["self"].policy.action_dist.exploration_matrices.clone())
        return True

    ends = ((3, "terminated"),), ((5, "terminated"),)
    env = DummyVecEnv([partial(Continuous, e) for e in ends])
    model = PolicyGradient("MlpPolicy", env, "rtg", n_episodes=4, use_sde=True, device="cpu", seed=0)
    model.learn(1, callback=look)
    for n, changes in enumerate(([3, 6], [5])):
        assert [t for t in range(1, 10) if not torch.equal(seen[t][n], seen[t - 1][n])] == changes


def test_a_stop_at_the_first_step_does_not_shift_what_comes_after() -> None:
    model = PolicyGradient("MlpPolicy", clocks(((4, "terminated"),)), "rtg", n_episodes=1, device="cpu")
    model.learn(1, callback=lambda *_: False)
    model.learn(1, reset_num_timesteps=False)
    assert model.rollout.rewards[:, 0].tolist() == [1, 2, 3, 4]
    assert np.asarray(model.rollout.observations)[:, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_rollout_outlives_the_next_one() -> None:
    model, first = sample(clocks(MIXED), "gae", n_steps=8, baseline=ValueAndSuccessors())
    model.learn(1, reset_num_timesteps=False)
    assert np.asarray(first.next_observations)[:-1, 0, 0].tolist() == [1, 2, 3, 1, 2, 1, 2]


def test_time_mean_with_waiting_environments() -> None:
    short, long = ((1, "terminated"), (1, "terminated"), (20, "terminated")), ((5, "terminated"),)
    model, rollout = sample(clocks(short, long), "reward_to_go+time_mean", n_episodes=3)
    assert rollout.mask.T.sum(axis=1).tolist() == [2, 5]
    assert np.isfinite(model.rollout_buffer.advantages).all()
    assert rollout.step[~rollout.mask].tolist() == [0] * 3


def test_gsde_noise_is_drawn_anew_for_each_episode() -> None:
    """In one environment of Pendulum (200 steps) with two episodes a rollout, the noise matrix changes once."""
    seen: list[Any] = []

    def look(local: dict[str, Any], _: Any) -> bool:
        seen.append(local["self"].policy.action_dist.exploration_matrices.clone())
        return True

    model = PolicyGradient("MlpPolicy", "Pendulum-v1", "rtg", n_episodes=2, use_sde=True, device="cpu", seed=0)
    model.learn(1, callback=look)
    changes = [t for t in range(1, len(seen)) if not torch.equal(seen[t], seen[t - 1])]
    assert changes == [200]
