"""The episodes of a group have the same initial state and independent actions, with every VecEnv wrapper of SB3."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from pgzoo_plugins.groups import Groups
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from pgzoo import ConfigError, Episode, EpisodeEnd, PlanContext, PolicyGradient, Registry, Rollout
from pgzoo.errors import EnvironmentFailure
from pgzoo.interface.plans import Seeds
from pgzoo.sampling.resets import reset_with_seeds


class Walk(gym.Env[np.ndarray, Any]):
    """A noisy walk on a line from a random place, in 1 to 6 steps. The reward is the place after the step.

    `options={"place": x}` chooses the initial place.
    """

    def __init__(self, ignores_seed: bool = False) -> None:
        self.observation_space, self.action_space = spaces.Box(-100, 100, (2,)), spaces.Discrete(2)
        self.ignores_seed = ignores_seed

    def _observe(self) -> np.ndarray:
        return np.array([self.place, self.t], dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=None if self.ignores_seed else seed)
        self.t, self.place = 0, float(self.np_random.normal(0, 3))
        if options is not None:
            self.place = float(options["place"])
        return self._observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.place += 2 * float(action) - 1 + self.np_random.normal(0, 0.1)
        done = self.t == 6 or self.np_random.random() < 0.2 + 0.1 * float(action)
        info = {"is_success": self.place > 0} if done else {}
        return self._observe(), self.place, bool(done), False, info


def walks(n: int, kind: Any = DummyVecEnv, **kwargs: Any) -> VecEnv:
    env: VecEnv = kind([lambda: Monitor(Walk(**kwargs))] * n)
    return env


def sample(env: Any, plugin: str = "rloo", updates: int = 1, **options: Any) -> tuple[PolicyGradient, Rollout]:
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **options)
    for update in range(updates):
        model.learn(1, log_interval=None, reset_num_timesteps=update == 0)
    return model, model.rollout


def by_group(rollout: Rollout, x: Any, step: int = 0) -> dict[int, list[Any]]:
    """Return x at the given step of every episode that reaches it, by group."""
    rows: dict[int, list[Any]] = {}
    for t, n in np.argwhere(rollout.mask & (rollout.step == step)):
        rows.setdefault(int(rollout.group[t, n]), []).append(np.asarray(x)[t, n])
    return rows


WRAPPED: dict[str, Callable[[], VecEnv]] = {
    "dummy": lambda: walks(4),
    "subproc": lambda: walks(4, SubprocVecEnv),
    "normalize": lambda: VecNormalize(walks(4)),
    "frame_stack": lambda: VecFrameStack(walks(4), 3),
    "normalize, frame_stack": lambda: VecFrameStack(VecNormalize(walks(4)), 3),
    "frame_stack, normalize": lambda: VecNormalize(VecFrameStack(walks(4), 3)),
    "monitor": lambda: VecMonitor(DummyVecEnv([Walk] * 4)),
    "subproc, normalize": lambda: VecNormalize(walks(4, SubprocVecEnv)),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_episodes_of_a_group_have_the_same_start_and_independent_actions(wrapped: str) -> None:
    env = WRAPPED[wrapped]()
    try:
        _model, rollout = sample(env, group_size=4, n_episodes=24, learning_rate=0.0)
        assert rollout.n_episodes == 24
        firsts = by_group(rollout, rollout.observations)
        assert {group: len(rows) for group, rows in firsts.items()} == dict.fromkeys(range(6), 4)
        assert len({rows[0].tobytes() for rows in firsts.values()}) == 6  # groups have different starts
        assert all((rows == rows[0]).all() for rows in np.array(list(firsts.values())))
        actions = [np.array(rows).ravel() for rows in by_group(rollout, rollout.actions).values()]
        # 4 tosses of a fair coin agree with probability 1/8. They agree in 4 or more of 6 groups with probability 3e-3.
        assert sum(len(set(group)) > 1 for group in actions) >= 3
    finally:
        env.close()


@pytest.mark.parametrize("wrapped", ["dummy", "subproc", "normalize", "frame_stack", "frame_stack, normalize"])
def test_an_environment_that_ignores_its_seed_is_refused(wrapped: str) -> None:
    kinds: dict[str, Callable[[], VecEnv]] = {
        "dummy": lambda: walks(2, ignores_seed=True),
        "subproc": lambda: walks(2, SubprocVecEnv, ignores_seed=True),
        "normalize": lambda: VecNormalize(walks(2, ignores_seed=True)),
        "frame_stack": lambda: VecFrameStack(walks(2, ignores_seed=True), 2),
        "frame_stack, normalize": lambda: VecNormalize(VecFrameStack(walks(2, ignores_seed=True), 2)),
    }
    env = kinds[wrapped]()
    try:
        with pytest.raises(ConfigError, match=r"<Walk instance>>, or one of its wrappers, ignores reset\(seed=…\)"):
            sample(env, group_size=2)
    finally:
        env.close()


def test_the_refusal_names_a_registered_environment() -> None:
    creator: Any = Walk  # the type EnvCreator wants a function of any keyword arguments
    gym.register("Restless-v0", creator, kwargs={"ignores_seed": True})
    with pytest.raises(ConfigError, match="Restless-v0, or one of its wrappers, ignores reset"):
        sample(make_vec_env("Restless-v0", 2), group_size=2)


class SeedsGlobalGenerators(Walk):
    """Seeds the global random generators in reset, as some environments do."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        return super().reset(seed=seed, options=options)


def test_actions_are_independent_although_reset_seeds_global_generators() -> None:
    _, rollout = sample(DummyVecEnv([SeedsGlobalGenerators]), group_size=8, n_episodes=24, learning_rate=0.0)
    actions = [np.array(rows).ravel() for rows in by_group(rollout, rollout.actions).values()]
    assert all(len(set(group)) > 1 for group in actions)  # 8 tosses agree in one of 3 groups with probability 3/128


def test_a_vecenv_without_seeds_is_refused() -> None:
    env = walks(2)
    assert env._seeds == [None, None]  # VecEnv.seed sets them, and so do groups
    del env._seeds
    with pytest.raises(ConfigError, match="DummyVecEnv does not support one seed per environment"):
        reset_with_seeds(env, [Episode(1), Episode(1)])


@pytest.mark.parametrize(
    ("n_envs", "group_size", "n_episodes"), [(1, 3, 6), (4, 3, 9), (5, 4, 8), (8, 2, 4), (3, 1, 3)]
)
def test_groups_span_environments_and_are_complete(n_envs: int, group_size: int, n_episodes: int) -> None:
    _model, rollout = sample(walks(n_envs), group_size=group_size, n_episodes=n_episodes, updates=2)
    firsts = by_group(rollout, rollout.observations)
    assert [len(rows) for rows in firsts.values()] == [group_size] * (n_episodes // group_size)
    assert all((np.array(rows) == rows[0]).all() for rows in firsts.values())
    # Every recorded episode is complete: it starts at step 0 and ends where the environment ended it.
    assert rollout.n_episodes == n_episodes
    assert (rollout.terminated | rollout.truncated)[rollout.last].all()
    assert rollout.lengths.sum() == rollout.mask.sum()
    for episode in range(n_episodes):
        steps = rollout.step[rollout.episode == episode]
        assert sorted(steps) == list(range(len(steps)))


def test_environments_without_an_episode_rest() -> None:
    """Their steps are neither taken, nor counted, nor recorded. The queue has the seeds of both groups."""
    n_steps = []

    class Counted(Walk):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            n_steps.append(1)
            return super().step(action)

    model, rollout = sample(DummyVecEnv([lambda: Monitor(Counted())] * 4), group_size=2, n_episodes=8)
    assert not rollout.mask.all()
    assert model.num_timesteps == rollout.lengths.sum() == len(n_steps)
    assert model.logger.name_to_value["rollout/unused_steps"] == 0
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) == 8
    assert not rollout.rewards[~rollout.mask].any()
    assert (rollout.group[~rollout.mask] == -1).all()


class Steps(DummyVecEnv):
    """A VecEnv whose environments cannot rest, because it steps them in a way of its own."""

    def step_wait(self) -> Any:
        return super().step_wait()


def test_steps_of_environments_that_cannot_rest_count() -> None:
    model, rollout = sample(Steps([lambda: Monitor(Walk())] * 4), group_size=2, n_episodes=8)
    assert model.num_timesteps == rollout.mask.size > rollout.lengths.sum()
    unused = model.logger.name_to_value["rollout/unused_steps"]
    assert unused == pytest.approx(1 - rollout.lengths.sum() / model.num_timesteps)
    assert model.ep_info_buffer is not None
    assert len(model.ep_info_buffer) == 8  # episodes of waiting environments are not counted


class JunkWhileWaiting(Walk):
    """After the episode of a seeded reset, observations and rewards are `junk`, and every step ends an episode."""

    def __init__(self, junk: float) -> None:
        super().__init__()
        self.junk = junk

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        self.waiting = seed is None
        observation, info = super().reset(seed=seed, options=options)
        return np.full_like(observation, self.junk) if self.waiting else observation, info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self.waiting:
            return np.full(2, self.junk, np.float32), self.junk, True, False, {"is_success": True}
        return super().step(action)


@pytest.mark.parametrize("plugin", ["grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "rtg_value", "rtg_optimal"])
def test_steps_of_waiting_environments_do_not_affect_an_update(plugin: str) -> None:
    """Parameters and metrics are bit-identical whatever the observations, rewards and infos on padding are."""

    def train(junk: float) -> tuple[list[Any], dict[str, Any]]:
        env = Steps([lambda: Monitor(JunkWhileWaiting(junk))] * 4)
        options = {"normalize_advantage": "rollout"} if plugin in ("rtg_value", "rtg_optimal") else {}
        model, rollout = sample(
            env, plugin, sampling="groups", group_size=2, n_episodes=8, updates=3, ent_coef=0.1, **options
        )
        assert not rollout.mask.all()
        logged = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
        return [p.detach().numpy() for p in model.policy.parameters()], logged

    parameters, logged = train(0.0)
    parameters_77, logged_77 = train(77.0)
    assert all((a == b).all() for a, b in zip(parameters, parameters_77, strict=True))
    assert logged == logged_77
    assert "rollout/pass@2" in logged


@pytest.mark.parametrize("plugin", ["grpo", "dapo"])
@pytest.mark.parametrize("place", [0, 2])
def test_the_error_for_a_nan_reward_names_the_environment_and_step(plugin: str, place: int) -> None:
    class Broken(Walk):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            observation, _, terminated, truncated, info = super().step(action)
            return observation, float("nan"), terminated, truncated, info

    env = DummyVecEnv([Broken if n == place else Walk for n in range(4)])
    with pytest.raises(
        EnvironmentFailure, match=f"environment {place} returned the reward nan at step 0 of an episode"
    ):
        sample(env, plugin, group_size=4, n_episodes=4)


def test_group_options_reach_the_environment() -> None:
    _, rollout = sample(walks(2), group_size=2, n_episodes=4, group_options={"place": 7.5})
    firsts = by_group(rollout, rollout.observations)
    assert all(row[0] == 7.5 for rows in firsts.values() for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_options": {"plaze": 1}}, r"<Walk instance>> does not accept group_options {'plaze': 1}"),
        ({"sampling": "episodes"}, "group_size has no effect here: 'rloo' samples episodes, set by n_episodes"),
        (
            {"baseline": {"name": "group", "form": "process"}},
            "baseline 'group' needs one return per step with these settings.*use reward_to_go",
        ),
    ],
)
def test_contradictory_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(walks(2), **{"group_size": 2, "n_episodes": 4, **options})


def test_a_group_of_one_episode_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="nothing to compare"):
        sample(walks(2), "grpo", group_size=1, n_episodes=4)


def test_seeds_change_with_every_update_and_continue_after_load(tmp_path: Path) -> None:
    options: dict[str, Any] = {"group_size": 2, "n_episodes": 4, "learning_rate": 0.0}

    def starts(model: PolicyGradient) -> list[float]:
        return [float(rows[0][0]) for rows in by_group(model.rollout, model.rollout.observations).values()]

    model, _ = sample(walks(2), **options)
    seen = [starts(model)]
    model.save(tmp_path / "model")
    for _ in range(2):
        model.learn(1, reset_num_timesteps=False)
        seen.append(starts(model))
    assert len({place for update in seen for place in update}) == 6
    loaded = PolicyGradient.load(tmp_path / "model", walks(2), device="cpu")
    loaded.learn(1, reset_num_timesteps=False)
    assert starts(loaded) == seen[1]
    again, _ = sample(walks(2), **options)
    assert starts(again) == seen[0]


def test_with_gsde_every_episode_of_a_group_has_different_noise() -> None:
    env = make_vec_env("Pendulum-v1", 4, env_kwargs={}, wrapper_class=lambda e: gym.wrappers.TimeLimit(e.unwrapped, 5))
    _, rollout = sample(env, group_size=4, n_episodes=8, use_sde=True)
    for group in by_group(rollout, rollout.actions).values():
        assert len({float(action[0]) for action in group}) == 4


def test_other_recipes_can_sample_groups_and_group_parts_require_them() -> None:
    _, rollout = sample(walks(2), "rtg_value", sampling="groups", group_size=2, n_episodes=4)
    assert rollout.n_episodes == 4
    for sampling in ("steps", "episodes"):
        with pytest.raises(ConfigError, match="baseline 'group' compares episodes from the same initial state"):
            sample(walks(2), "grpo", sampling=sampling)
    with pytest.raises(ConfigError, match=r"multiple of group_size=8.*got 12, the nearest is 16"):
        sample(walks(2), "grpo", n_episodes=12)


def test_pass_rates() -> None:
    """pass@1 is the mean success, pass@G the share of groups with at least one success."""
    plan = Groups(n_episodes=4, group_size=2).plan(PlanContext(4, 1.0, Seeds(0)))
    for episode, success in zip(list(plan.queue), (True, False, False, False), strict=True):
        plan.episode_ended(EpisodeEnd(episode, 0, 1, 0.0, {"is_success": success}))
    assert plan.metrics() == {"pass@1": 0.25, "pass@2": 0.5, "equal_groups": 1.0}


# ---------------------------------------------------------------- dropping groups of equal returns


class Lottery(gym.Env[np.ndarray, Any]):
    """One step. The reward is the action in a fraction `informative` of the initial states, and 1 in the others."""

    def __init__(self, informative: float) -> None:
        self.observation_space, self.action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
        self.informative = informative

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.random()
        return np.array([self.place], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action) if self.place < self.informative else 1.0
        return np.array([self.place], dtype=np.float32), reward, True, False, {}


def test_groups_of_equal_returns_are_dropped_and_replaced() -> None:
    env = DummyVecEnv([lambda: Monitor(Lottery(0.5))] * 8)
    model, rollout = sample(env, "dapo", group_size=8, n_episodes=64, plugin_kwargs={"resample_budget": 10})
    returns = by_group(rollout, rollout.rewards)
    assert len(returns) == 8
    assert all(len(set(map(float, group))) == 2 for group in returns.values())
    resampled = model.logger.name_to_value["rollout/resampled_groups"]
    assert resampled > 0
    assert model.num_timesteps == 8 * (8 + resampled)  # steps of dropped groups count
    assert model.logger.name_to_value["rollout/unused_steps"] == pytest.approx(resampled / (8 + resampled))


class Goal(gym.Env[np.ndarray, Any]):
    """Reward 1 at the end, after 3 steps or more. The returns are equal, unless they are discounted."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.t += 1
        done = self.t >= 3 and (action == 1 or self.t == 12)
        return np.zeros(1, np.float32), float(done), bool(done), False, {}


@pytest.mark.parametrize(("gamma", "is_used"), [(0.9, True), (1.0, False)])
def test_groups_are_dropped_by_their_discounted_returns(gamma: float, is_used: bool) -> None:
    _, rollout = sample(DummyVecEnv([Goal] * 4), "dapo", group_size=8, n_episodes=8, gamma=gamma)
    assert rollout.mask.any() == is_used


def test_the_budget_limits_the_number_of_replacement_groups() -> None:
    env = DummyVecEnv([lambda: Monitor(Lottery(0.0))] * 8)
    model = PolicyGradient(
        "MlpPolicy", env, "dapo", group_size=8, n_episodes=64, plugin_kwargs={"resample_budget": 0.5}, device="cpu"
    )
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(1)
    assert model.num_timesteps == 8 * 12  # 8 groups and 4 replacements
    assert not model.rollout.mask.any()
    assert all((a == b).all() for a, b in zip(before, model.policy.parameters(), strict=True))  # no group has a signal
    model.learn(200, reset_num_timesteps=False)


def test_dropping_groups_requires_groups() -> None:
    with pytest.raises(ConfigError, match="objective 'dapo' compares episodes from the same initial state"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", objective="dapo", sampling="steps", device="cpu")
    assert Registry.discover().recipe("dapo").objective == "dapo"
