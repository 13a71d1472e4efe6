"""Groups: episodes from one start, with the actions' noise left free, through every wrapper of SB3."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv, VecFrameStack, VecMonitor, VecNormalize

from pgzoo import ConfigError, PolicyGradient, Registry, Rollout
from pgzoo.sampling.modes import Groups, GroupSeeds, reset_with_seeds


class Walk(gym.Env[np.ndarray, Any]):
    """Begins at a place that the seed draws, and walks left or right with noise; ends after 1 to 6 steps.

    `options={"place": x}` begins at x. The reward is the place after the step.
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
    return kind([lambda: Monitor(Walk(**kwargs))] * n)


def sample(env: Any, plugin: str = "rloo", updates: int = 1, **options: Any) -> tuple[PolicyGradient, Rollout]:
    model = PolicyGradient("MlpPolicy", env, plugin, seed=0, device="cpu", **options)
    for update in range(updates):
        model.learn(1, log_interval=None, reset_num_timesteps=update == 0)
    return model, model.rollout


def by_group(rollout: Rollout, x: Any, step: int = 0) -> dict[int, list[Any]]:
    """Return x at the given step of every episode that has it, by group."""
    found: dict[int, list[Any]] = {}
    for t, n in np.argwhere(rollout.mask & (rollout.step == step)):
        found.setdefault(int(rollout.group[t, n]), []).append(np.asarray(x)[t, n])
    return found


WRAPPED = {
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
def test_a_group_begins_alike_and_acts_apart(wrapped: str) -> None:
    env = WRAPPED[wrapped]()
    try:
        _model, rollout = sample(env, group_size=4, n_episodes=24, learning_rate=0.0)
        assert rollout.n_episodes == 24
        firsts = by_group(rollout, rollout.observations)
        assert {group: len(rows) for group, rows in firsts.items()} == dict.fromkeys(range(6), 4)
        assert len({rows[0].tobytes() for rows in firsts.values()}) == 6  # every group begins elsewhere
        assert all((rows == rows[0]).all() for rows in np.array(list(firsts.values())))
        actions = [np.array(rows).ravel() for rows in by_group(rollout, rollout.actions).values()]
        # 4 tosses of a fair coin are alike with chance 1/8: in 4 groups of 6 or more, with chance 3e-3.
        assert sum(len(set(group)) > 1 for group in actions) >= 3
    finally:
        env.close()


@pytest.mark.parametrize("wrapped", ["dummy", "subproc", "normalize", "frame_stack", "frame_stack, normalize"])
def test_an_environment_that_ignores_its_seed_is_refused(wrapped: str) -> None:
    kinds = {
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
    gym.register("Restless-v0", Walk, kwargs={"ignores_seed": True})
    with pytest.raises(ConfigError, match="Restless-v0, or one of its wrappers, ignores reset"):
        sample(make_vec_env("Restless-v0", 2), group_size=2)


class SeedsTheWorld(Walk):
    """Seeds global generators in reset, as some environments do."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            torch.manual_seed(seed)
            np.random.seed(seed)
            random.seed(seed)
        return super().reset(seed=seed, options=options)


def test_an_environment_that_seeds_global_generators_leaves_the_actions_free() -> None:
    _, rollout = sample(DummyVecEnv([SeedsTheWorld]), group_size=8, n_episodes=24, learning_rate=0.0)
    actions = [np.array(rows).ravel() for rows in by_group(rollout, rollout.actions).values()]
    assert all(len(set(group)) > 1 for group in actions)  # by chance alike in one of three: 3/128


def test_a_vecenv_without_seeds_is_refused() -> None:
    env = walks(2)
    assert env._seeds == [None, None]  # what VecEnv.seed sets, and groups too
    del env._seeds
    with pytest.raises(ConfigError, match="DummyVecEnv does not support one seed per environment"):
        reset_with_seeds(env, [1, 1])


@pytest.mark.parametrize(
    ("n_envs", "group_size", "n_episodes"), [(1, 3, 6), (4, 3, 9), (5, 4, 8), (8, 2, 4), (3, 1, 3)]
)
def test_groups_span_rounds_and_environments_and_are_complete(n_envs: int, group_size: int, n_episodes: int) -> None:
    _model, rollout = sample(walks(n_envs), group_size=group_size, n_episodes=n_episodes, updates=2)
    firsts = by_group(rollout, rollout.observations)
    assert [len(rows) for rows in firsts.values()] == [group_size] * (n_episodes // group_size)
    assert all((np.array(rows) == rows[0]).all() for rows in firsts.values())
    # Every recorded episode is whole: it begins at step 0 and ends where the environment ended it.
    assert rollout.n_episodes == n_episodes
    assert (rollout.terminated | rollout.truncated)[rollout.last].all()
    assert rollout.lengths.sum() == rollout.mask.sum()
    for episode in range(n_episodes):
        steps = rollout.step[rollout.episode == episode]
        assert sorted(steps) == list(range(len(steps)))


def test_waiting_steps_count_and_are_left_out() -> None:
    model, rollout = sample(walks(4), group_size=2, n_episodes=8)
    assert model.num_timesteps == rollout.mask.size
    unused = model.logger.name_to_value["rollout/unused_steps"]
    assert unused == pytest.approx(1 - rollout.lengths.sum() / model.num_timesteps)
    assert unused > 0
    assert len(model.ep_info_buffer) == 8  # those of waiting environments are not counted
    assert not rollout.rewards[~rollout.mask].any()
    assert (rollout.group[~rollout.mask] == -1).all()


def test_normalize_sees_every_step_of_the_vecenv() -> None:
    """As in SB3: also those of waiting environments, and the first observations of each round."""
    env = VecNormalize(walks(4))
    _model, rollout = sample(env, group_size=4, n_episodes=8)
    rounds = 2
    # One reset when the model takes the environment, one before each round; 4 observations a step.
    assert env.obs_rms.count == pytest.approx(4 * (len(rollout.mask) + rounds + 1), abs=1)


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
def test_nothing_of_a_waiting_environment_enters_an_update(plugin: str) -> None:
    """Losses, normalisation, statistics and entropy are the same, bit for bit, whatever stands on padding."""

    def after(junk: float) -> tuple[list[Any], dict[str, Any]]:
        env = DummyVecEnv([lambda: Monitor(JunkWhileWaiting(junk))] * 4)
        options = {"normalize_advantage": "rollout"} if plugin in ("rtg_value", "rtg_optimal") else {}
        model, rollout = sample(
            env, plugin, sampling="groups", group_size=2, n_episodes=8, updates=3, ent_coef=0.1, **options
        )
        assert not rollout.mask.all()
        logged = {key: value for key, value in model.logger.name_to_value.items() if not key.startswith("time/")}
        return [p.detach().numpy() for p in model.policy.parameters()], logged

    (parameters, logged), (others, others_logged) = after(0.0), after(77.0)
    assert all((a == b).all() for a, b in zip(parameters, others, strict=True))
    assert logged == others_logged
    assert "rollout/pass@2" in logged


@pytest.mark.parametrize("plugin", ["grpo", "dapo"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_nan_reward_is_located(plugin: str, place: int) -> None:
    class Broken(Walk):
        def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            observation, _, *rest = super().step(action)
            return observation, float("nan"), *rest

    env = DummyVecEnv([Broken if n == place else Walk for n in range(4)])
    with pytest.raises(ConfigError, match=f"environment {place} returned the reward nan at step 0 of an episode"):
        sample(env, plugin, group_size=4, n_episodes=4)


def test_group_options_reach_the_environment() -> None:
    _, rollout = sample(walks(2), group_size=2, n_episodes=4, group_options={"place": 7.5})
    firsts = by_group(rollout, rollout.observations)
    assert all(row[0] == 7.5 for rows in firsts.values() for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"group_options": {"plaze": 1}}, r"<Walk instance>> does not accept group_options {'plaze': 1}"),
        ({"group_options": {"place": 1}, "sampling": "episodes"}, "group_options requires sampling='groups'"),
        (
            {"baseline": {"name": "group", "form": "process"}},
            r"baseline 'group' compares steps with these settings.*use reward_to_go",
        ),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample(walks(2), **{"group_size": 2, "n_episodes": 4, **options})


def test_a_group_of_one_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="nothing to compare"):
        sample(walks(2), "grpo", group_size=1, n_episodes=4)


def test_seeds_are_new_in_every_update_and_go_on_after_a_load(tmp_path: Path) -> None:
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


def test_with_sde_every_episode_has_its_own_noise() -> None:
    env = make_vec_env("Pendulum-v1", 4, env_kwargs={}, wrapper_class=lambda e: gym.wrappers.TimeLimit(e.unwrapped, 5))
    _, rollout = sample(env, group_size=4, n_episodes=8, use_sde=True)
    for group in by_group(rollout, rollout.actions).values():
        assert len({float(action[0]) for action in group}) == 4


def test_any_recipe_can_sample_groups_and_group_parts_need_them() -> None:
    _, rollout = sample(walks(2), "rtg_value", sampling="groups", group_size=2, n_episodes=4)
    assert rollout.n_episodes == 4
    for sampling in ("steps", "episodes"):
        with pytest.raises(ConfigError, match="baseline 'group' compares episodes from the same initial state"):
            sample(walks(2), "grpo", sampling=sampling)
    with pytest.raises(ConfigError, match=r"multiple of group_size=8.*got 12, the nearest is 16"):
        sample(walks(2), "grpo", n_episodes=12)


def test_pass_rates() -> None:
    """pass@1 is the mean success, pass@G the share of groups with one."""
    mode = Groups(2, 2, 100, 1.0, GroupSeeds(0))
    mode.begin(4)
    mode.reset(walks(4), True)
    ends = np.ones(4, dtype=bool)
    mode.observe(np.zeros(4), ends, [{"is_success": s} for s in (True, False, False, False)], np.ones(4))
    assert mode.finished
    assert mode.metrics() == {"pass@1": 0.25, "pass@2": 0.5, "equal_groups": 1.0}


# ---------------------------------------------------------------- dropping groups that say nothing


class Lottery(gym.Env[np.ndarray, Any]):
    """One step; the reward is the action for every `telling`-th seed's start, else 1 whatever is done."""

    def __init__(self, telling: float) -> None:
        self.observation_space, self.action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)
        self.telling = telling

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.random()
        return np.array([self.place], dtype=np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        reward = float(action) if self.place < self.telling else 1.0
        return np.array([self.place], dtype=np.float32), reward, True, False, {}


def test_groups_without_a_signal_are_dropped_and_sampled_anew() -> None:
    env = DummyVecEnv([lambda: Monitor(Lottery(0.5))] * 8)
    model, rollout = sample(env, "dapo", group_size=8, n_episodes=64, plugin_kwargs={"resample_budget": 10})
    returns = by_group(rollout, rollout.rewards)
    assert len(returns) == 8
    assert all(len(set(map(float, group))) == 2 for group in returns.values())
    resampled = model.logger.name_to_value["rollout/resampled_groups"]
    assert resampled > 0
    assert model.num_timesteps == 8 * (8 + resampled)  # dropped ones were steps too
    assert model.logger.name_to_value["rollout/unused_steps"] == pytest.approx(resampled / (8 + resampled))


class Goal(gym.Env[np.ndarray, Any]):
    """Reward 1 at the end, after 3 steps or more: equal returns, which γ parts."""

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


@pytest.mark.parametrize(("gamma", "kept"), [(0.9, True), (1.0, False)])
def test_returns_are_compared_as_they_are_discounted(gamma: float, kept: bool) -> None:
    _, rollout = sample(DummyVecEnv([Goal] * 4), "dapo", group_size=8, n_episodes=8, gamma=gamma)
    assert rollout.mask.any() == kept


def test_the_budget_limits_what_is_sampled_anew() -> None:
    env = DummyVecEnv([lambda: Monitor(Lottery(0.0))] * 8)
    model = PolicyGradient(
        "MlpPolicy", env, "dapo", group_size=8, n_episodes=64, plugin_kwargs={"resample_budget": 0.5}, device="cpu"
    )
    before = [p.clone() for p in model.policy.parameters()]
    model.learn(1)
    assert model.num_timesteps == 8 * 12  # 8 groups, and half as many again
    assert not model.rollout.mask.any()
    assert all((a == b).all() for a, b in zip(before, model.policy.parameters(), strict=True))  # nothing to learn from
    model.learn(200, reset_num_timesteps=False)


def test_only_groups_can_be_dropped() -> None:
    with pytest.raises(ConfigError, match="objective 'dapo'"):
        PolicyGradient("MlpPolicy", "CartPole-v1", "ppo", objective="dapo", sampling="steps", device="cpu")
    assert Registry.discover().recipe("dapo").objective == "dapo"
