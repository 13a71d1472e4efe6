"""Environments of pgzoo.

They are registered with Gymnasium by importing this module; by importing pgzoo after gymnasium; and by whatever
of pgzoo looks an environment up.
"""

from __future__ import annotations

TABULAR = {
    "pgzoo/Chain-v0": "chain",
    "pgzoo/Trap-v0": "trap",
    "pgzoo/Noise-v0": "noise",
    "pgzoo/Lengths-v0": "lengths",
    "pgzoo/TimeLimit-v0": "time_limit",
}
"""The lab's MDPs, whose policy gradient is known exactly."""


def register() -> None:
    """Register them; nothing happens the second time."""
    from gymnasium.envs.registration import register, registry

    if "pgzoo/Addition-v0" not in registry:
        register("pgzoo/Addition-v0", entry_point="pgzoo.envs.addition:Addition")
        for name, mdp in TABULAR.items():
            register(name, entry_point="pgzoo.lab.measure.tabular:TabularEnv", kwargs={"mdp": mdp})


register()
