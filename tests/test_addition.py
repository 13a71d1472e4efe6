"""Addition: the seed determines the prompt, and only a completely right answer is rewarded."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

from pgzoo import ConfigError
from pgzoo.envs.addition import Addition


def write(env: Addition, prompt: tuple[int, int], tokens: list[int]) -> list[tuple[float, bool]]:
    """Return reward and termination of each step."""
    env.reset(options={"prompt": prompt})
    return [env.step(token)[1:3] for token in tokens]


@pytest.mark.parametrize("kwargs", [{}, {"digits": 2, "base": 4}, {"base": 2, "render_mode": "ansi"}])
def test_it_passes_gymnasiums_checker(kwargs: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("pgzoo/Addition-v0", **kwargs).unwrapped, skip_render_check=True)


def test_only_the_whole_right_answer_is_rewarded() -> None:
    env = Addition(digits=1, base=5)
    end = 5
    # 3 + 4 = 7, which is 12 in base 5.
    assert write(env, (3, 4), [1, 2, end]) == [(0.0, False), (0.0, False), (1.0, True)]
    assert write(env, (3, 4), [1, end]) == [(0.0, False), (0.0, True)]
    assert write(env, (3, 4), [1, 3, end])[-1] == (0.0, True)
    assert write(env, (3, 4), [2, 1, end])[-1] == (0.0, True)
    assert write(env, (3, 4), [1, 2, 0])[-1] == (0.0, True)  # the limit of tokens, without an end token
    assert write(env, (1, 2), [3, end])[-1] == (1.0, True)
    assert write(env, (1, 2), [0, 3, end])[-1] == (0.0, True)  # no leading zeros
    assert write(env, (0, 0), [0, end])[-1] == (1.0, True)
    assert write(env, (0, 0), [end]) == [(0.0, True)]


def test_several_digits_in_base_ten() -> None:
    assert write(Addition(digits=2), (7, 95), [1, 0, 2, 10])[-1] == (1.0, True)
    assert write(Addition(digits=2), (7, 5), [1, 2, 10])[-1] == (1.0, True)


def test_the_observation_is_the_prompt_and_the_written_tokens() -> None:
    env = Addition(digits=2, base=4)
    observation, _ = env.reset(options={"prompt": (1, 14)})  # 01 and 32 in base 4
    assert observation.tolist() == [0, 1, 3, 2, 5, 5, 5, 5]
    observation, _, _, _, info = env.step(3)
    assert observation.tolist() == [0, 1, 3, 2, 3, 5, 5, 5]
    assert info == {}
    assert env.step(3)[4] == {}
    observation, reward, *_, info = env.step(4)  # 33 in base 4 is 15
    assert observation.tolist() == [0, 1, 3, 2, 3, 3, 4, 5]
    assert (reward, info) == (1.0, {"is_success": True})


def test_the_seed_determines_the_prompt() -> None:
    env = Addition(digits=3)
    prompts = []
    for seed in (0, 0, 1, 2):
        env.reset(seed=seed)
        prompts.append(env.prompt)
    assert prompts[0] == prompts[1]
    assert len(set(prompts)) == 3


def test_every_prompt_is_drawn() -> None:
    env = Addition(base=3)
    env.reset(seed=0)
    seen = set()
    for _ in range(300):
        env.reset()
        seen.add(env.prompt)
    assert len(seen) == 9  # one prompt is missing with probability (8/9)^300 = 5e-16


def test_rendering(capsys: pytest.CaptureFixture[str]) -> None:
    ansi = Addition(base=5, render_mode="ansi")
    write(ansi, (3, 4), [1, 2, 5])
    assert ansi.render() == "3 + 4 = 12."
    write(Addition(base=40, render_mode="human"), (3, 39), [1, 2, 40])
    assert capsys.readouterr().out == "3 + 39 = 1 2 . right\n"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Addition(digits=0), "digits >= 1 and base >= 2, not digits=0"),
        (lambda: Addition(base=1), "base=1"),
        (lambda: Addition(digits=19), "must be below"),
        (lambda: Addition().reset(options={"prompt": 3}), "a prompt is two numbers below 10, not 3"),
        (lambda: Addition(base=4).reset(options={"prompt": (1, 4)}), "two numbers below 4"),
    ],
)
def test_refusals(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "program",
    [
        "import gymnasium, pgzoo; gymnasium.make('pgzoo/Addition-v0')",
        "import pgzoo, gymnasium, pgzoo.envs; gymnasium.make('pgzoo/Addition-v0')",
        "import gymnasium; gymnasium.make('pgzoo.envs:pgzoo/Addition-v0')",
        "import pgzoo.training.environments, gymnasium; gymnasium.make('pgzoo/Addition-v0')",
        "from pgzoo import PolicyGradient; PolicyGradient('MlpPolicy', 'pgzoo/Addition-v0', 'grpo')",
    ],
)
def test_it_is_registered(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
