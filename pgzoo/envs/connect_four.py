"""Connect Four against a random player: a small game in which not every action is always allowed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pgzoo.interface.types import Array

ROWS, COLUMNS = 6, 7
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))
SYMBOLS = ".xo"


class ConnectFour(gym.Env[Array, Any]):
    """Drop discs into seven columns of six places, and connect four of them before a random player does.

    The other player takes every column that is not full with equal probability. Either player begins with equal
    probability. The reward is 1 for a win, −1 for a loss, and 0 for a full board and every other step. A full column
    loses the game, and `action_masks()` says which columns are not full. At the end of an episode,
    `info["is_success"]` says whether it was won.

    The observation is two boards of 6 × 7 numbers, from the top row down: 1 for the agent's discs in the first, and for
    the other player's discs in the second. The seed determines which player begins, and the random numbers of the
    other player.

    Args:
        render_mode: "ansi" or None.
    """

    metadata = {"render_modes": ["ansi"], "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.action_space = spaces.Discrete(COLUMNS)
        self.observation_space = spaces.Box(0, 1, (2, ROWS, COLUMNS), np.float32)
        self._begin()

    def _begin(self) -> None:
        self.board = [[0] * COLUMNS for _ in range(ROWS)]
        self.free = [ROWS] * COLUMNS
        self._observation = np.zeros(self.observation_space.shape or (), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start a game, with the other player's first disc if it begins."""
        super().reset(seed=seed)
        self._begin()
        if self.np_random.random() < 0.5:
            self._drop(2, self._random_column())
        return self._observation.copy(), {}

    def action_masks(self) -> Array:
        """Return which columns are not full, (7,)."""
        return np.array(self.free) > 0

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Drop a disc, and let the other player drop one."""
        reward = None
        if self.free[int(action)] == 0:
            reward = -1.0
        elif self._drop(1, int(action)):
            reward = 1.0
        elif any(self.free) and self._drop(2, self._random_column()):
            reward = -1.0
        elif not any(self.free):
            reward = 0.0
        over = reward is not None
        return self._observation.copy(), reward or 0.0, over, False, {"is_success": reward == 1} if over else {}

    def _random_column(self) -> int:
        columns = [column for column, free in enumerate(self.free) if free]
        return columns[int(self.np_random.integers(len(columns)))]

    def _drop(self, player: int, column: int) -> bool:
        """Drop a disc of player 1, the agent, or 2. Return whether it completes a line of four."""
        self.free[column] -= 1
        row = self.free[column]
        self.board[row][column] = player
        self._observation[player - 1, row, column] = 1
        for down, right in DIRECTIONS:
            connected = (
                1 + self._count(player, row, column, down, right) + self._count(player, row, column, -down, -right)
            )
            if connected >= 4:
                return True
        return False

    def _count(self, player: int, row: int, column: int, down: int, right: int) -> int:
        """Return the number of a player's discs that follow a place in one direction."""
        count = 0
        while True:
            row, column = row + down, column + right
            if not (0 <= row < ROWS and 0 <= column < COLUMNS and self.board[row][column] == player):
                return count
            count += 1

    def render(self) -> str | None:
        """Return the board in mode "ansi", x for the agent's discs and o for the other player's."""
        if self.render_mode != "ansi":
            return None
        return "\n".join("".join(SYMBOLS[disc] for disc in row) for row in self.board)
