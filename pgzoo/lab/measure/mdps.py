"""The lab's MDPs: each has something that a wrong estimator or baseline trips over."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.lab.measure.exact import TabularMDP


def chain() -> TabularMDP:
    """Five states in a row; both ends pay and terminate, the right one more, and a step may slip."""
    size, slip = 5, 0.1
    transitions, rewards = _empty(size, 2)
    for state in range(size):
        for action, step in enumerate((-1, 1)):
            for move, chance in ((step, 1 - slip), (-step, slip)):
                following = state + move
                end = not 0 <= following < size
                transitions[state, action, size if end else following] += chance
                if end:
                    rewards[state, action, size] = 1.0 if following == size else 0.2
    return TabularMDP("chain", transitions, rewards, np.full(size, 1 / size))


def trap() -> TabularMDP:
    """A 3×3 grid: the goal in a corner pays 1, the trap in the middle costs 1; each step costs 0.05."""
    size, slip = 3, 0.1
    goal, hole = 8, 4
    transitions, rewards = _empty(9, 4)
    for state in range(9):
        for action in range(4):
            for move in range(4):
                row, column = divmod(state, size)
                row += (-1, 0, 1, 0)[move]
                column += (0, 1, 0, -1)[move]
                inside = 0 <= row < size and 0 <= column < size
                following = row * size + column if inside else state
                chance = 1 - slip if move == action else slip / 3
                transitions[state, action, 9 if following in (goal, hole) else following] += chance
                if following in (goal, hole):
                    rewards[state, action, 9] += chance * (1.0 if following == goal else -1.0)
    start = np.where(np.isin(np.arange(9), (5, 7)), 0.5, 0.0)  # beside both
    ends = transitions[:, :, 9]  # beside both goal and trap an end pays their mean, weighted by their chances
    rewards[:, :, 9] /= np.where(ends > 0, ends, 1.0)
    return TabularMDP("trap", transitions, rewards - 0.05, start, horizon=12)


def noise() -> TabularMDP:
    """Four states and three actions with random transitions, and rewards of ±0.5 about random means."""
    rng = np.random.default_rng(5)
    transitions = rng.dirichlet(np.full(5, 0.7), (4, 3))
    rewards = np.repeat(rng.normal(0.0, 1.0, (4, 3, 1)), 5, axis=2)
    return TabularMDP("noise", transitions, rewards, rng.dirichlet(np.ones(4)), noise=0.5)


def lengths() -> TabularMDP:
    """Leave for nothing, or stay and be paid: episodes of 1 to 20 steps, and long ones pay more."""
    transitions, rewards = _empty(3, 2)
    for state in range(3):
        transitions[state, 0, 3] = 0.7  # leave
        transitions[state, 0, state] = 0.3
        transitions[state, 1, (state + 1) % 3] = 0.95  # stay
        transitions[state, 1, 3] = 0.05
        rewards[state, 1, :] = 0.2 + 0.1 * state
    return TabularMDP("lengths", transitions, rewards, np.eye(3)[0], horizon=20)


def time_limit() -> TabularMDP:
    """Three states and two actions without any end, cut by a time limit after six steps."""
    rng = np.random.default_rng(8)
    transitions = np.zeros((3, 2, 4))
    transitions[:, :, :3] = rng.dirichlet(np.ones(3), (3, 2))
    rewards = np.repeat(rng.normal(0.5, 1.0, (3, 2, 1)), 4, axis=2)
    return TabularMDP("time_limit", transitions, rewards, rng.dirichlet(np.ones(3)), horizon=6, time_limit=True)


MDPS: dict[str, Callable[[], TabularMDP]] = {
    "chain": chain,
    "trap": trap,
    "noise": noise,
    "lengths": lengths,
    "time_limit": time_limit,
}


def make_mdp(name: str) -> TabularMDP:
    """Return the MDP of a name; raises ConfigError with the nearest one."""
    if name not in MDPS:
        raise ConfigError(unknown("MDP", name, MDPS))
    return MDPS[name]()


def _empty(n_states: int, n_actions: int) -> tuple[Array, Array]:
    shape = (n_states, n_actions, n_states + 1)
    return np.zeros(shape), np.zeros(shape)
