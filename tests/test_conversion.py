"""SB3's buffer, dones and infos, written by hand, and the rollout that `to_rollout` makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer

from pgzoo import Need, Rollout
from pgzoo.backends.backend import Backend
from pgzoo.errors import EnvironmentFailure
from pgzoo.sampling.conversion import to_rollout
from pgzoo.sampling.step_record import StepRecord


class TenTimesCritic:
    """What `to_rollout` uses of a backend, with V(s) = 10 s."""

    bitwise_sb3 = False

    def predict_values(self, observations: Any) -> np.ndarray:
        return 10 * np.asarray(observations, dtype=np.float32)[:, 0]

    def predict_terminal_values(self, observations: Sequence[Any], steps: Any) -> np.ndarray:
        return self.predict_values(np.stack(observations))

    def first_memory_array(self) -> None:
        return None


TRUNCATED = "TimeLimit.truncated"


def filled_buffer() -> RolloutBuffer:
    """Three steps of two environments: V(s) = 10 s in states 1, 2, 3 and 4, 5, 6. The rewards are 1, 2, 3, 4, 5, 6."""
    buffer = RolloutBuffer(3, spaces.Box(0, 100, (1,)), spaces.Discrete(2), n_envs=2)
    buffer.observations[:] = np.array([[1, 4], [2, 5], [3, 6]], dtype=np.float32)[:, :, None]
    buffer.values[:] = 10 * buffer.observations[:, :, 0]
    buffer.rewards[:] = [[1, 2], [3, 4], [5, 6]]
    return buffer


def record_of(
    *rows: Sequence[dict[str, Any] | None],
    active: Sequence[Sequence[bool]] | None = None,
    space: Any = spaces.Box(-9, 9, (1,)),  # noqa: B008 (it is not changed)
) -> StepRecord:
    """One row per step. An entry is None in mid-episode, and the info of an episode that ends."""
    record, episode_steps = StepRecord(np.zeros(2, dtype=bool), space), np.zeros(2, dtype=int)
    for t, row in enumerate(rows):
        dones = np.array([info is not None for info in row])
        mask = np.array(active[t]) if active else np.ones(2, dtype=bool)
        record.add(dones, [info or {} for info in row], mask, np.zeros(2, dtype=int), episode_steps)
        episode_steps += 1
        episode_steps[dones] = 0
    return record


def convert(record: StepRecord, buffer: RolloutBuffer | None = None, **options: Any) -> Rollout:
    """The rollout of a record. The environments are in states 7 and 8 after the last step."""
    options = {
        "last_observations": np.array([[7.0], [8.0]]),
        "update_mask": np.ones((3, 2), dtype=bool),
        "needs": frozenset({Need.VALUES, Need.NEXT_OBSERVATIONS}),
        **options,
    }
    backend = cast(Backend, TenTimesCritic())
    return to_rollout(buffer or filled_buffer(), record, gamma=0.9, backend=backend, **options)


def test_a_step_record_tells_the_two_ends_of_an_episode_apart() -> None:
    """Finds a time limit counted as a termination, `TimeLimit.truncated = False` counted as a time limit, and an end
    of an environment that is not recorded."""
    record = record_of(
        [None, None],
        [{"terminal_observation": np.array([9.0])}, {TRUNCATED: True, "terminal_observation": np.array([6.5])}],
        [{TRUNCATED: False}, {TRUNCATED: True, "terminal_observation": np.array([0.0])}],
        active=[[True, True], [True, True], [True, False]],
    )
    assert np.array(record.terminated).tolist() == [[False, False], [True, False], [True, False]]
    assert np.array(record.truncated).tolist() == [[False, False], [False, True], [False, False]]
    assert np.array(record.step).tolist() == [[0, 0], [1, 1], [0, 0]]  # copies, although SB3's counter is one array
    assert {index: float(x[0]) for index, x in record.terminal_observations.items()} == {(1, 0): 9.0, (1, 1): 6.5}


def test_successors_at_cuts() -> None:
    """Finds a bootstrap from the first state of the next episode, one after a termination, or none at the end of the
    rollout."""
    rollout = convert(
        record_of(
            [{}, None],  # environment 0 terminates and shows no terminal observation
            [None, {TRUNCATED: True, "terminal_observation": np.array([6.5])}],
            [None, {"terminal_observation": np.array([9.0])}],
        )
    )
    # V = 10 s. Environment 0: terminated, then s = 3 in the buffer, then s = 7 after the rollout.
    # Environment 1: s = 5 in the buffer, then the terminal observation 6.5 instead of the reset's 6, then terminated.
    assert rollout.next_values.tolist() == [[0.0, 50.0], [30.0, 65.0], [70.0, 0.0]]
    next_observations = cast(np.ndarray, rollout.next_observations)
    assert next_observations[:, :, 0].tolist() == [[2.0, 5.0], [3.0, 6.5], [7.0, 9.0]]


def test_padding_is_zero_and_has_no_successor() -> None:
    """Finds numbers of steps that were not recorded, or whose group is left out of the update, in sums over arrays.

    Environment 1 waits at t = 1, and the update leaves out t = 2 of environment 0.
    """
    update_mask = np.array([[True, True], [True, True], [False, True]])
    record = record_of([None, {}], [{}, None], [{}, {}], active=[[True, True], [True, False], [True, True]])
    buffer = filled_buffer()
    buffer.rewards[1, 1] = np.nan  # ignored, because the step is not recorded
    rollout = convert(record, buffer, update_mask=update_mask)
    assert rollout.mask.tolist() == [[True, True], [True, False], [False, True]]
    assert rollout.rewards.tolist() == [[1.0, 2.0], [3.0, 0.0], [0.0, 6.0]]
    assert rollout.next_values.tolist() == [[20.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert rollout.terminated.tolist() == [[False, True], [True, False], [False, True]]
    assert rollout.group.tolist() == [[0, 0], [0, -1], [-1, 0]]


def test_dict_observations() -> None:
    """Finds a key that is shifted with another key's array, and a scalar entry of the wrong shape."""
    space = spaces.Dict({"x": spaces.Box(0, 100, (2,)), "n": spaces.Discrete(50)})
    buffer = DictRolloutBuffer(2, space, spaces.Discrete(2), n_envs=2)
    buffer.observations["x"][:] = np.arange(8).reshape(2, 2, 2)
    buffer.observations["n"][:] = np.arange(10, 14).reshape(buffer.observations["n"].shape)
    terminal = {"x": np.array([40.0, 41.0]), "n": 42}
    last = {"x": np.array([[20.0, 21.0], [22.0, 23.0]]), "n": np.array([30, 31])}
    rollout = convert(
        record_of([None, {"terminal_observation": terminal}], [None, None], space=space),
        buffer,
        last_observations=last,
        update_mask=np.ones((2, 2), dtype=bool),
        needs=frozenset({Need.NEXT_OBSERVATIONS}),
    )
    successors = cast(dict[str, np.ndarray], rollout.next_observations)
    assert successors["x"].tolist() == [[[4, 5], [40, 41]], [[20, 21], [22, 23]]]
    assert successors["n"].reshape(2, 2).tolist() == [[12, 42], [30, 31]]


def test_a_truncation_without_terminal_observation_raises() -> None:
    """Finds a bootstrap from a state of the next episode. Without V, the observation is not needed."""
    record = record_of([None, None], [None, {TRUNCATED: True}], [None, None])
    with pytest.raises(
        EnvironmentFailure, match=r"environment 1 reports a time limit without info\['terminal_observation'\]"
    ):
        convert(record)
    assert convert(record, needs=frozenset()).truncated[1, 1]
