"""Addition: a verifiable reward as in the post-training of language models, learned in seconds on a CPU."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from pgzoo.errors import ConfigError
from pgzoo.interface.types import Array


class Addition(gym.Env[Array, Any]):
    """Add two numbers of `digits` digits in `base`, and write the answer token by token.

    The prompt is two numbers a and b. An action is a token: a digit 0 … base − 1, or the end token (`base`). The right
    answer is a + b, highest digit first, without leading zeros. The episode ends at the end token, or after
    `digits + 2` tokens, the length of the longest right answer with its end token. The reward is 1 at the end token if
    the digits before it are the right answer, else 0. There is no partial credit. At the end of an episode,
    `info["is_success"]` reports the same.

    The observation is MultiDiscrete: the digits of a, the digits of b, then the written tokens, where `base + 1` means
    blank. The seed determines the prompt, and nothing else is random. Episodes with the same seed therefore are
    completions of one prompt. `reset(options={"prompt": (a, b)})` sets the prompt.

    Args:
        digits: the number of digits of each number, leading zeros included.
        base: the base of the number system, at least 2.
        render_mode: "ansi", "human" (prints each prompt with its answer) or None.

    Raises:
        ConfigError: an argument or a prompt is out of range.
    """

    metadata = {"render_modes": ["ansi", "human"], "render_fps": 4}  # noqa: RUF012 (Gymnasium declares it so)

    def __init__(self, digits: int = 1, base: int = 10, render_mode: str | None = None) -> None:
        if digits < 1 or base < 2:
            raise ConfigError(f"Addition needs digits >= 1 and base >= 2, not digits={digits}, base={base}")
        if base**digits > 2**62:
            raise ConfigError(f"Addition's numbers must be below 2^62, which base={base}, digits={digits} exceeds")
        self.digits, self.base, self.render_mode = digits, base, render_mode
        self.end, self.blank, self.length = base, base + 1, digits + 2
        self.action_space = spaces.Discrete(base + 1)
        self.observation_space = spaces.MultiDiscrete([base] * (2 * digits) + [base + 2] * self.length)
        self.prompt, self.written = (0, 0), list[int]()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start an episode with a random prompt, or with options["prompt"]."""
        super().reset(seed=seed)
        highest = self.base**self.digits
        prompt = (options or {}).get("prompt")
        if prompt is None:
            prompt = self.np_random.integers(0, highest, 2)
        if np.shape(prompt) != (2,) or not all(0 <= number < highest for number in prompt):
            raise ConfigError(f"a prompt is two numbers below {highest}, not {prompt}")
        self.prompt, self.written = (int(prompt[0]), int(prompt[1])), []
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Write a token."""
        self.written.append(int(action))
        right = self.written == [*self.numerals(sum(self.prompt)), self.end]
        over = self.written[-1] == self.end or len(self.written) == self.length
        if over and self.render_mode == "human":
            print(self._text(), "right" if right else "wrong")
        return self._observation(), float(right), over, False, {"is_success": right} if over else {}

    def numerals(self, number: int, width: int = 1) -> list[int]:
        """Return the digits of a number, highest first, padded with zeros to a width."""
        digits: list[int] = []
        while number:
            number, digit = divmod(number, self.base)
            digits.insert(0, digit)
        return [0] * (width - len(digits)) + digits

    def _observation(self) -> Array:
        a, b = (self.numerals(number, self.digits) for number in self.prompt)
        blanks = [self.blank] * (self.length - len(self.written))
        return np.array([*a, *b, *self.written, *blanks], dtype=self.observation_space.dtype)

    def render(self) -> str | None:
        """Return the prompt and the written tokens in mode "ansi", such as `3 + 4 = 12.` in base 5."""
        return self._text() if self.render_mode == "ansi" else None

    def _text(self) -> str:
        symbols = "0123456789abcdefghijklmnopqrstuvwxyz"

        def text(tokens: list[int]) -> str:
            if self.base <= len(symbols):
                return "".join("." if token == self.end else symbols[token] for token in tokens)
            return " ".join("." if token == self.end else str(token) for token in tokens)

        a, b = (text(self.numerals(number, self.digits)) for number in self.prompt)
        return f"{a} + {b} = {text(self.written)}"
