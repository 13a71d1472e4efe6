"""The sampling in the documentation works as it is written there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from stable_baselines3.common.env_util import make_vec_env

from pgzoo import PolicyGradient, Registry

PAGE = Path(__file__).parents[1] / "docs" / "write-a-sampling.md"


def test_the_sampling_of_the_page(tmp_path: Path) -> None:
    """40 episodes from 3 levels have 3 initial states. The page promises fewer than 40 lines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) < 40
    (tmp_path / "levels.py").write_text(code, encoding="utf-8")
    model = PolicyGradient(
        "MlpPolicy",
        make_vec_env("CartPole-v1", 4, seed=0),
        "rtg_value",
        registry=Registry.discover([tmp_path / "levels.py"]),
        sampling={"name": "levels", "n_levels": 3, "n_episodes": 40},
        device="cpu",
        seed=0,
    ).learn(1)
    rollout = model.rollout
    starts = np.asarray(rollout.observations)[rollout.mask & (rollout.step == 0)]
    assert len(starts) == 40
    assert len(np.unique(starts, axis=0)) == 3
