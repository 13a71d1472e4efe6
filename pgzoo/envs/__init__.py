"""Environments of pgzoo.

They are registered with Gymnasium by importing this module; by importing pgzoo after gymnasium; and by whatever
of pgzoo looks an environment up.
"""

from __future__ import annotations


def register() -> None:
    """Register them; nothing happens the second time."""
    from gymnasium.envs.registration import register, registry

    if "pgzoo/Addition-v0" not in registry:
        register("pgzoo/Addition-v0", entry_point="pgzoo.envs.addition:Addition")


register()
