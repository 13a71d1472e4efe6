"""Environments that pgzoo ships.

They are registered with Gymnasium when this module is imported. Importing pgzoo imports it if Gymnasium is loaded
already, and every function of pgzoo that looks up an environment imports it too.
"""

from __future__ import annotations

TABULAR = {
    "pgzoo/Chain-v0": "chain",
    "pgzoo/Trap-v0": "trap",
    "pgzoo/Noise-v0": "noise",
    "pgzoo/Lengths-v0": "lengths",
    "pgzoo/TimeLimit-v0": "time_limit",
}
"""The lab's MDPs, whose exact policy gradient is known."""


def register() -> None:
    """Register the environments. Calling it again has no effect."""
    from gymnasium.envs.registration import register, registry

    if "pgzoo/Addition-v0" not in registry:
        register("pgzoo/Addition-v0", entry_point="pgzoo.envs.addition:Addition")
        register("pgzoo/ConnectFour-v0", entry_point="pgzoo.envs.connect_four:ConnectFour")
        for name, mdp in TABULAR.items():
            register(name, entry_point="pgzoo.lab.measure.tabular:TabularEnv", kwargs={"mdp": mdp})


register()
