"""Connect Four: its rules, compared with a search of all lines, and its random player."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from pgzoo.envs.connect_four import ConnectFour

LINES = [
    [(row + i * down, column + i * right) for i in range(4)]
    for row, column in itertools.product(range(6), range(7))
    for down, right in ((0, 1), (1, 0), (1, 1), (1, -1))
    if row + 3 * down < 6 and 0 <= column + 3 * right < 7
]


def won(board: Any) -> bool:
    """Whether a board (6, 7) of one player's discs has four in a line, by looking at all 69 lines."""
    return any(all(board[place] for place in line) for line in LINES)


def test_it_passes_gymnasiums_checker() -> None:
    assert len(LINES) == 69
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("pgzoo/ConnectFour-v0", render_mode="ansi").unwrapped, skip_render_check=True)


def test_random_games_end_as_their_boards_say() -> None:
    """Discs never move or float, both players alternate, and the rewards are those of the final board."""
    env, rng, rewards, first = ConnectFour(), np.random.default_rng(0), [], []
    for game in range(300):
        board, _ = env.reset(seed=game)
        first.append(int(board[1].sum()))
        over = False
        while not over:
            masks = env.action_masks()
            np.testing.assert_array_equal(masks, board.sum((0, 1)) < 6)
            before, action = board, rng.choice(np.flatnonzero(masks))
            board, reward, over, truncated, info = env.step(action)
            assert (board >= before).all()
            assert board.sum(0).max() == 1
            assert (np.diff(board.sum(0), axis=0) >= 0).all()  # no disc above an empty place
            assert board[0].sum() - before[0].sum() == 1
            agent_ended_it = won(board[0]) or (board.sum() == 42 and first[-1])
            assert board[0].sum() - board[1].sum() == bool(agent_ended_it) - first[-1]
            expected = 1 if won(board[0]) else -1 if won(board[1]) else 0
            assert (reward, over, truncated) == (expected, expected != 0 or board.sum() == 42, False)
        assert info == {"is_success": reward == 1}
        rewards.append(reward)
    assert 0.35 < np.mean(first) < 0.65
    assert abs(np.mean(rewards)) < 0.2  # two random players


def test_a_full_column_loses() -> None:
    env = ConnectFour(render_mode="ansi")
    env.reset(seed=0)
    env.free[3] = 0
    assert not env.action_masks()[3]
    _, reward, terminated, _, info = env.step(3)
    assert (reward, terminated, info) == (-1.0, True, {"is_success": False})


def test_the_seed_determines_the_other_player() -> None:
    games = []
    for seed in (1, 1, 2):
        env = ConnectFour(render_mode="ansi")
        env.reset(seed=seed)
        for column in (0, 1, 2):
            env.step(column)
        games.append(env.render())
    assert games[0] == games[1] != games[2]
    assert sorted({*str(games[0])}) == ["\n", ".", "o", "x"]


@pytest.mark.parametrize("discs", [[(0, 0), (0, 1), (0, 2)], [(0, 3), (1, 3), (2, 3)], [(0, 0), (1, 1), (2, 2)],
                                   [(0, 6), (1, 5), (2, 4)]])  # fmt: skip
def test_a_fourth_disc_wins_in_each_direction(discs: list[tuple[int, int]]) -> None:
    """Rows count from the bottom. The fourth disc lands on discs of the other player."""
    env = ConnectFour()
    env.reset(seed=0)
    env._begin()
    for row, column in discs:
        env.board[5 - row][column] = 1
    row, column = [2 * last - before for before, last in zip(discs[-2], discs[-1], strict=True)]
    env.free[column] = 6 - row
    _, reward, *_ = env.step(column)
    assert reward == 1
