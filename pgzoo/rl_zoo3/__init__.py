"""pgzoo's recipes as algorithms of RL Zoo: `python -m pgzoo.rl_zoo3 train --algo pgzoo`, or `register()` in a program.

RL Zoo has no entry point for algorithms, and imports `--gym-packages` only after it has read `--algo`. So a program
registers the recipes first, and then calls RL Zoo.
"""

from __future__ import annotations

from pgzoo.rl_zoo3.registration import configuration, register

__all__ = ["configuration", "register"]
