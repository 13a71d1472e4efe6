"""Learning curves as text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from pgzoo.formatting import format_number
from pgzoo.plots.arguments import CurveArguments
from pgzoo.plots.curves import OF_EPISODES, UNITS, Curve

MARKS = "●▲■◆○△□◇"
ASCII_MARKS = "o*x+#@%&"
COLOURS = ("bright_blue", "dark_orange", "green", "magenta", "cyan", "yellow", "white", "red")
MIN_HEIGHT, MAX_HEIGHT, MIN_WIDTH = 5, 18, 20


def chart(
    drawn: Sequence[Curve], arguments: CurveArguments, width: int, height: int, *, ascii_only: bool = False
) -> RenderableType:
    """Return the curves as text, one panel per environment. Each curve has a character and a colour.

    Args:
        drawn: the curves.
        arguments: what they show.
        width: the width of the terminal in characters.
        height: its height in lines.
        ascii_only: whether the terminal lacks other characters.
    """
    marks = ASCII_MARKS if ascii_only else MARKS
    parts: list[RenderableType] = []
    n_panels = len({curve.env for curve in drawn})
    rows = min(max((height - 1 - len(drawn)) // n_panels - 2, MIN_HEIGHT), MAX_HEIGHT)
    for env in dict.fromkeys(curve.env for curve in drawn):
        members = [curve for curve in drawn if curve.env == env]
        parts.append(_panel(env, members, arguments, (rows, width), marks))
        for number, curve in enumerate(members):
            colour, mark = COLOURS[number % len(COLOURS)], marks[number % len(marks)]
            seeds = f", {curve.n_runs} seeds" if curve.n_runs > 1 else ""
            latest = f": {format_number(float(curve.y[-1]))} at {format_number(float(curve.x[-1]))}"
            parts.append(Text(f"{mark} {curve.label}{seeds}{latest} {UNITS[arguments.x]}", style=colour))
    return Group(*parts)


def _panel(env: str, members: Sequence[Curve], arguments: CurveArguments, size: tuple[int, int], marks: str) -> Text:
    rows, width = size
    low, high = (f(float(f(c.y)) for c in members) for f in (min, max))
    first, last = min(float(c.x[0]) for c in members), max(float(c.x[-1]) for c in members)
    labels = [format_number(high), format_number((low + high) / 2), format_number(low)]
    margin = max(map(len, labels)) + 1
    columns = max(width - margin - 2, MIN_WIDTH)
    cells = np.full((rows, columns), -1)
    for number, curve in enumerate(members):
        at = np.linspace(curve.x[0], curve.x[-1], 2 * columns)
        x = (at - first) / ((last - first) or 1.0) * (columns - 1)
        y = (np.interp(at, curve.x, curve.y) - low) / ((high - low) or 1.0) * (rows - 1)
        cells[rows - 1 - np.round(y).astype(int), np.round(x).astype(int)] = number
    smoothed = arguments.y in OF_EPISODES and arguments.window > 1
    title = f"{env}: {arguments.y}" + (f", mean of the last {arguments.window}" if smoothed else "")
    text = Text(f"{title}\n", style="bold")
    shown = {0: labels[0], rows // 2: labels[1], rows - 1: labels[2]}
    for row in range(rows):
        text.append(f"{shown.get(row, ''):>{margin}}|", style="not bold")
        for number in cells[row].tolist():
            mark, style = (" ", "") if number < 0 else (marks[number % len(marks)], COLOURS[number % len(COLOURS)])
            text.append(mark, style=f"not bold {style}")
        text.append("\n")
    ends = format_number(first), f"{format_number(last)} {UNITS[arguments.x]}"
    text.append(" " * (margin + 1) + ends[0] + ends[1].rjust(columns - len(ends[0])), style="not bold")
    return text
