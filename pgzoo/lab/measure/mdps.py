"""The MDPs of the lab. Each has a property that exposes a certain fault of estimators or baselines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pgzoo.errors import ConfigError, unknown
from pgzoo.interface.types import Array
from pgzoo.lab.measure.exact import TabularMDP


def chain() -> TabularMDP:
    """Five states in a row. Both ends terminate with a reward, the right one with more, and steps can slip."""
    size, slip = 5, 0.1
    transitions, rewards = _empty(size, 2)
    for state in range(size):
        for action, step in enumerate((-1, 1)):
            for move, probability in ((step, 1 - slip), (-step, slip)):
                next_state = state + move
                end = not 0 <= next_state < size
                transitions[state, action, size if end else next_state] += probability
                if end:
                    rewards[state, action, size] = 1.0 if next_state == size else 0.2
    return TabularMDP("chain", transitions, rewards, np.full(size, 1 / size))


def trap() -> TabularMDP:
    """A 3×3 grid. The goal in a corner pays 1, the trap in the middle costs 1, and each step costs 0.05."""
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
                next_state = row * size + column if inside else state
                probability = 1 - slip if move == action else slip / 3
                transitions[state, action, 9 if next_state in (goal, hole) else next_state] += probability
                if next_state in (goal, hole):
                    rewards[state, action, 9] += probability * (1.0 if next_state == goal else -1.0)
    start = np.where(np.isin(np.arange(9), (5, 7)), 0.5, 0.0)  # next to both
    ends = transitions[:, :, 9]  # next to both, the mean reward of an end is weighted by probability
    rewards[:, :, 9] /= np.where(ends > 0, ends, 1.0)
    return TabularMDP("trap", transitions, rewards - 0.05, start, horizon=12)


def noise() -> TabularMDP:
    """Four states and three actions with random transitions. Rewards are a random mean ± 0.5."""
    rng = np.random.default_rng(5)
    transitions = rng.dirichlet(np.full(5, 0.7), (4, 3))
    rewards = np.repeat(rng.normal(0.0, 1.0, (4, 3, 1)), 5, axis=2)
    return TabularMDP("noise", transitions, rewards, rng.dirichlet(np.ones(4)), noise=0.5)


def lengths() -> TabularMDP:
    """Leave without a reward, or stay and be paid. Episodes have 1 to 20 steps, and long ones pay more."""
    transitions, rewards = _empty(3, 2)
    for state in range(3):
        transitions[state, 0, 3] = 0.7  # leave
        transitions[state, 0, state] = 0.3
        transitions[state, 1, (state + 1) % 3] = 0.95  # stay
        transitions[state, 1, 3] = 0.05
        rewards[state, 1, :] = 0.2 + 0.1 * state
    return TabularMDP("lengths", transitions, rewards, np.eye(3)[0], horizon=20)


def time_limit() -> TabularMDP:
    """Three states and two actions. Nothing terminates an episode; a time limit truncates it after six steps."""
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
    """Return an MDP by name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest one.
    """
    if name not in MDPS:
        raise ConfigError(unknown("MDP", name, MDPS))
    return MDPS[name]()


def _empty(n_states: int, n_actions: int) -> tuple[Array, Array]:
    shape = (n_states, n_actions, n_states + 1)
    return np.zeros(shape), np.zeros(shape)
