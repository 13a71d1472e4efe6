"""How a rollout follows its plan: who plays which episode, what is recorded, and when the rollout is complete."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from pgzoo_plugins.episodes import Episodes
from pgzoo_plugins.groups import Groups
from pgzoo_plugins.steps import Steps
from stable_baselines3.common.vec_env import VecEnv

from pgzoo import ConfigError, Plan, PlanContext, PluginError, Sampling
from pgzoo.interface.plans import Seeds
from pgzoo.sampling.modes import NO_GROUP, SamplingMode


class FakeVecEnv(VecEnv):
    """A VecEnv that only resets. The observation is the seed, or −1 without one. `resets` lists the seeds."""

    def __init__(self, n_envs: int) -> None:
        self.resets: list[list[int | None]] = []
        super().__init__(n_envs, spaces.Box(-1, np.inf, (1,)), spaces.Discrete(2))

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def reset(self) -> np.ndarray:
        self.resets.append(list(self._seeds))
        return np.array([[-1 if seed is None else seed] for seed in self._seeds])

    def step_async(self, actions: np.ndarray) -> None:
        raise NotImplementedError

    step_wait = close = set_attr = env_method = env_is_wrapped = step_async  # type: ignore[assignment]


def begun(sampling: Sampling, n_envs: int, gamma: float = 1.0, budget: float | None = None) -> SamplingMode:
    mode = SamplingMode(sampling, PlanContext(n_envs, gamma, Seeds(0), budget))
    mode.begin(n_envs)
    return mode


def observe(mode: SamplingMode, rewards: list[float], dones: list[int], episode_steps: list[int]) -> None:
    """Record one step. Environments that end an episode begin the next one, as `seeded_resets` lets them."""
    infos: list[dict[str, Any]] = [{} for _ in dones]
    mode.observe(np.array(rewards), np.array(dones, dtype=bool), infos, np.array(episode_steps) - 1)


def play_round(mode: SamplingMode, env: VecEnv, rewards: list[float]) -> list[int]:
    """Reset, end all episodes after one step, and return the groups that were played."""
    assert mode.reset(env, True) is not None
    groups: list[int] = mode.group.tolist()
    observe(mode, rewards, [1] * len(rewards), [1] * len(rewards))
    return groups


def test_steps_records_every_environment_and_never_resets() -> None:
    """Finds an end of an episode that stops the recording, and a count that survives into the next rollout."""
    mode, env = begun(Steps(n_steps=2), 2), FakeVecEnv(2)
    for _ in range(2):
        mode.begin(2)
        for _ in range(2):
            assert not mode.finished
            assert mode.reset(env, False) is None
            observe(mode, [0, 0], [1, 0], [1, 1])
            assert mode.active.tolist() == [True, True]
        assert mode.finished
    assert env.resets == []


def test_episodes_are_those_that_begin_first() -> None:
    """Four episodes: 0 and 1 begin together, and environment 0 begins the others, because its episodes have one step.

    Finds an episode that is recorded after the queue is empty, and a rollout that ends before the last one does.
    """
    mode = begun(Episodes(n_episodes=4), 2)
    mode.reset(FakeVecEnv(2), True)
    recorded = []
    for dones in ([1, 0], [1, 0], [1, 0], [1, 0], [0, 1]):
        assert not mode.finished
        recorded.append(mode.active.tolist())
        observe(mode, [0, 0], dones, [1, 1])
    assert recorded == [[True, True]] * 3 + [[False, True]] * 2
    assert mode.finished


def test_fewer_episodes_than_environments() -> None:
    mode = begun(Episodes(n_episodes=1), 3)
    mode.reset(FakeVecEnv(3), True)
    assert mode.active.tolist() == [True, False, False]
    assert mode.group.tolist() == [0, NO_GROUP, NO_GROUP]


@pytest.mark.parametrize("all_at_start", [True, False])
def test_episodes_resets_once_and_only_in_mid_episode(all_at_start: bool) -> None:
    """Finds an environment that is reset twice in a row, and a rollout that begins in mid-episode."""
    mode, env = begun(Episodes(n_episodes=2), 2), FakeVecEnv(2)
    mode.reset(env, all_at_start)
    mode.reset(env, False)
    assert len(env.resets) == (0 if all_at_start else 1)


@pytest.mark.parametrize(
    "sampling", [Episodes(n_episodes=2, episode_bound=3), Groups(n_episodes=2, group_size=2, episode_bound=3)]
)
def test_an_episode_longer_than_the_bound_raises(sampling: Sampling) -> None:
    """Finds a limit that is off by one, or that also stops an environment that is stepped but not recorded."""
    mode, env = begun(sampling, 2), FakeVecEnv(2)
    mode.reset(env, True)
    observe(mode, [0, 0], [0, 0], [2, 2])
    observe(mode, [0, 0], [1, 0], [3, 2])  # environment 0 ends in time, and is not recorded from then on
    with pytest.raises(ConfigError, match="episode of environment 1 has not ended after 3 steps"):
        observe(mode, [0, 0], [0, 0], [9, 3])


def test_groups_play_rounds_where_single_resets_are_impossible() -> None:
    """Finds a seed per environment, a reset before the round is over, and a group that is cut at the end of a round."""
    mode, env = begun(Groups(n_episodes=6, group_size=3), 4), FakeVecEnv(4)
    first, second = Seeds(0).next(), Seeds(0, n_drawn=1).next()
    observations = mode.reset(env, False)
    assert observations[:, 0].tolist() == [first, first, first, second]
    assert mode.group.tolist() == [0, 0, 0, 1]
    observe(mode, [0] * 4, [1, 1, 0, 1], [1] * 4)
    assert mode.active.tolist() == [False, False, True, False]
    assert mode.reset(env, False) is None  # environment 2 still plays
    observe(mode, [0] * 4, [1, 0, 1, 0], [1, 1, 2, 1])
    assert not mode.finished
    mode.reset(env, False)
    assert mode.group.tolist() == [1, 1, NO_GROUP, NO_GROUP]
    assert env.resets[1] == [second, second, None, None]
    observe(mode, [0] * 4, [1, 1, 0, 0], [1] * 4)
    assert mode.finished


def test_groups_compare_discounted_returns() -> None:
    """Finds undiscounted sums, a discount off by one step, and rewards after an episode's end.

    γ = ½: environment 0 gets 1 + ½ · 2 = 2, and environment 1 gets 2 + 0. Equal, although the sums 3 and 2 differ.
    """
    mode, env = begun(Groups(n_episodes=2, group_size=2), 2, gamma=0.5, budget=0.0), FakeVecEnv(2)
    mode.reset(env, True)
    observe(mode, [1, 2], [0, 1], [1, 1])
    observe(mode, [2, 5], [1, 0], [2, 1])
    assert mode.metrics() == {"equal_groups": 1.0, "resampled_groups": 0}


def test_equal_groups_are_replaced_within_the_budget() -> None:
    """Finds a budget that is counted per round, and groups of equal returns that enter the update.

    Two groups and a budget of 1 allow two more. Group 1 is equal, so 2 replaces it; 2 is equal, so 3 does; then 3 is
    equal as well, but the budget is used up.
    """
    mode, env = begun(Groups(n_episodes=4, group_size=2), 4, budget=1.0), FakeVecEnv(4)
    assert play_round(mode, env, [1, 2, 3, 3]) == [0, 0, 1, 1]
    assert not mode.finished
    assert play_round(mode, env, [4, 4, 8, 9]) == [2, 2, NO_GROUP, NO_GROUP]  # 8 and 9 are not recorded
    assert play_round(mode, env, [5, 5, 8, 9]) == [3, 3, NO_GROUP, NO_GROUP]
    assert mode.finished
    assert mode.update_mask(np.array([[0, 1], [2, NO_GROUP]])).tolist() == [[True, False], [False, False]]
    assert mode.metrics() == {"equal_groups": 0.75, "resampled_groups": 2}


def test_reset_seeds_continue_where_a_saved_model_stopped() -> None:
    """Finds repeated seeds, a stream that starts again after loading, and seeds beyond Gymnasium's and SB3's range."""
    stream = Seeds(5)
    drawn = [stream.next() for _ in range(1000)]
    assert len(set(drawn)) == 1000  # a collision among 2³¹ has probability 1000²/2³² = 0.0002
    assert 0 <= min(drawn) < max(drawn) < 2**31
    resumed = Seeds(5, n_drawn=400)
    assert [resumed.next() for _ in range(3)] == drawn[400:403]


def test_a_plan_must_have_what_its_sampling_provides() -> None:
    """Finds a rollout without an end, and whole episodes that are cut."""

    class Empty(Episodes):
        def plan(self, context: PlanContext, state: Any = None) -> Plan:
            return Plan()

    class Cut(Episodes):
        def plan(self, context: PlanContext, state: Any = None) -> Plan:
            return Plan(n_steps=3)

    for sampling in (Empty(), Cut()):
        with pytest.raises(
            PluginError, match="plan of sampling 'episodes' needs a queue of episodes, and nothing else"
        ):
            begun(sampling, 2)
