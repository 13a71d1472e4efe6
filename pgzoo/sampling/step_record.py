"""What SB3's rollout buffer does not store about each step. Nothing after this module reads infos."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from pgzoo.interface.types import Array
from pgzoo.sampling.conventions import converted_observations


@dataclass
class StepRecord:
    """What SB3's rollout buffer does not store: how each step ended, whether it is recorded, and terminal observations.

    Attributes:
        none_ended: (N,) an array of False, shared by all steps at which no environment is done.
        space: the observation space.
        terminal_observations: the last observation of an episode by (t, n). A VecEnv resets the environment immediately
            and returns the first observation of the next episode instead. They are copies, because an environment may
            use its memory again.
        action_masks: (N, number of actions) which actions were allowed; empty without masks.
    """

    none_ended: Array
    space: spaces.Space[Any]
    terminated: list[Array] = field(default_factory=list)
    truncated: list[Array] = field(default_factory=list)
    mask: list[Array] = field(default_factory=list)
    step: list[Array] = field(default_factory=list)
    group: list[Array] = field(default_factory=list)
    terminal_observations: dict[tuple[int, int], Any] = field(default_factory=dict)
    action_masks: list[Array] = field(default_factory=list)

    def add(self, dones: Array, infos: list[dict[str, Any]], active: Array, group: Array, episode_steps: Array) -> None:
        """Record how one step ended. All arrays are (N,).

        Raises:
            EnvironmentFailure: a terminal observation does not belong to the space.
        """
        terminated = truncated = self.none_ended
        if np.count_nonzero(dones):
            truncated = np.zeros_like(dones)
            for n in np.flatnonzero(dones & active):
                truncated[n] = bool(infos[n].get("TimeLimit.truncated", False))
                if (observation := infos[n].get("terminal_observation")) is not None:
                    self.terminal_observations[len(self.mask), int(n)] = converted_observations(
                        observation, self.space, (), "terminal observation"
                    )
            terminated = dones & active & ~truncated
        self.terminated.append(terminated)
        self.truncated.append(truncated)
        self.mask.append(active)
        self.step.append(episode_steps.copy())
        self.group.append(group)
