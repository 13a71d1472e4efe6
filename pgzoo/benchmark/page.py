"""The report as one HTML page without other files: tables and SVG charts, which also work without JavaScript."""

from __future__ import annotations

import html
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pgzoo.benchmark.summary import PROFILE_THRESHOLDS, Environment, Summary, is_peer
from pgzoo.interface.types import Array

WIDTH, HEIGHT = 400, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 18, 8, 36
N_COLOURS = 8


class TableLike(Protocol):
    """A table of text, see `report.Table`."""

    @property
    def header(self) -> Sequence[str]:
        """The names of the columns."""

    @property
    def rows(self) -> Sequence[Sequence[str]]:
        """The cells."""

    @property
    def keys(self) -> Sequence[str]:
        """The algorithm or environment of each row."""


@dataclass(frozen=True)
class Line:
    """A line of a chart with its interval, at x (k,)."""

    algorithm: str
    x: Array
    value: Array
    low: Array
    high: Array


def page(summary: Summary, tables: Mapping[str, TableLike], definitions: str) -> str:
    """Return the page.

    Args:
        summary: the numbers.
        tables: the tables of `report.tables`.
        definitions: a paragraph that explains the columns.
    """
    style = styles(summary.algorithms)
    across = []
    if summary.profiles:
        lines = [Line(name, PROFILE_THRESHOLDS, p.value, p.low, p.high) for name, p in summary.profiles.items()]
        drawn = chart(lines, style, "normalised score", "fraction of runs above", start=1.0)
        across.append(_figure(drawn, "Performance profiles", tables["profiles"], style))
    if "improvement" in tables:
        across.append(_section("Probability of improvement", table(tables["improvement"], style)))
    names = [env.name for env in summary.environments]
    values = {
        "CHIPS": "".join(_chip(name, style) for name in summary.algorithms),
        "ENVS": "".join(f'<option value="{html.escape(name)}">{html.escape(name)}</option>' for name in names),
        "DEFINITIONS": html.escape(definitions),
        "SUMMARY": _summary(tables["summary"], style) if tables["summary"].rows else "",
        "CARDS": "".join(_card(env, tables[env.name], style) for env in summary.environments),
        "ACROSS": "".join(across),
        "COMMON": html.escape(", ".join(summary.common)),
        "VERSIONS": table(tables["versions"], style),
        "FAILED": "".join(f"<li>{html.escape(f'{job}: {error}')}</li>" for job, error in summary.failed.items())
        + (f"<li>{summary.n_missing} jobs have no result yet.</li>" if summary.n_missing else ""),
    }
    text = (importlib.resources.files("pgzoo.benchmark") / "page.html").read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"<!--{name}-->", value)
    return text


def styles(algorithms: Sequence[str]) -> dict[str, str]:
    """Return the classes of each algorithm: its colour, and dashes for a peer.

    A peer has the colour of the recipe of the same name.
    """
    colours: dict[str, int] = {}
    for name in sorted(algorithms, key=is_peer):
        same = name.partition(":")[2]
        colours[name] = colours[same] if same in colours else len(set(colours.values()))
    return {name: f"c{n % N_COLOURS}" + (" peer" if is_peer(name) else "") for name, n in colours.items()}


def chart(
    lines: Sequence[Line],
    style: Mapping[str, str],
    x_label: str,
    y_label: str,
    guides: Mapping[str, float] | None = None,
    start: float | None = None,
) -> str:
    """Return a line chart as SVG.

    Args:
        lines: the lines.
        style: the classes of each algorithm.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
        guides: horizontal lines by name.
        start: the x of the values that are shown until the pointer moves; None: the last one.
    """
    guides = guides or {}
    ys = np.concatenate([*(np.concatenate([line.low, line.high]) for line in lines), list(guides.values())])
    x_max = max(float(line.x.max()) for line in lines)
    x_ticks, y_ticks = _ticks(0.0, x_max), _ticks(float(ys.min()), float(ys.max()))
    y_low, y_high = min(y_ticks[0], float(ys.min())), max(y_ticks[-1], float(ys.max()))

    def place(x: Any, y: Any) -> list[str]:
        left = LEFT + np.asarray(x) / x_max * (WIDTH - LEFT - RIGHT)
        top = TOP + (y_high - np.asarray(y)) / ((y_high - y_low) or 1.0) * (HEIGHT - TOP - BOTTOM)
        return [f"{a:.1f},{b:.1f}" for a, b in np.broadcast(left, top)]

    parts = []
    for tick in y_ticks:
        y = place(0.0, tick)[0].partition(",")[2]
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{y}" dy=".32em" text-anchor="end">{short(tick)}</text>')
    for tick in (tick for tick in x_ticks if tick <= x_max * 1.005):
        x = place(tick, y_low)[0].partition(",")[0]
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 14}" text-anchor="middle">{short(tick)}</text>')
    for name, value in guides.items():
        y = place(0.0, value)[0].partition(",")[2]
        parts.append(f'<path class="guide" d="M{LEFT} {y}H{WIDTH - RIGHT}"><title>{html.escape(name)}</title></path>')
        parts.append(f'<text class="guide" x="{LEFT + 4}" y="{y}" dy="-.3em">{html.escape(name)}</text>')
    for line in lines:
        band = " ".join([*place(line.x, line.high), *place(line.x, line.low)[::-1]])
        points = " ".join(place(line.x, line.value))
        values = [[_rounded(a) for a in point] for point in zip(line.x, line.value, line.low, line.high, strict=True)]
        parts.append(
            f'<g class="series {style[line.algorithm]}" data-algorithm="{html.escape(line.algorithm)}" '
            f'data-points=\'{json.dumps(values)}\'><polygon points="{band}"/><polyline points="{points}"/></g>'
        )
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    parts.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">{x_label}</text>')
    parts.append(f'<text transform="translate(9 {middle}) rotate(-90)" text-anchor="middle">{y_label}</text>')
    parts.append(f'<path class="cursor" d="M0 {TOP}V{HEIGHT - BOTTOM}"/>')
    label = html.escape(f"{y_label} by {x_label}")
    data = f'data-left="{LEFT}" data-right="{WIDTH - RIGHT}" data-max="{x_max}" data-start="{start or x_max}"'
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" {data}>{"".join(parts)}</svg>'


def table(content: TableLike, style: Mapping[str, str]) -> str:
    """Return a table as HTML. Its rows have the algorithm or the environment as data."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in content.header)
    rows = []
    for number, cells in enumerate(content.rows):
        key = content.keys[number] if content.keys else ""
        swatch = f'<i class="swatch {style[key]}"></i>' if key in style else ""
        first = f'<th scope="row">{swatch}{html.escape(cells[0])}</th>'
        rest = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[1:])
        rows.append(f'<tr data-key="{html.escape(key)}">{first}{rest}</tr>')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _summary(summary: TableLike, style: Mapping[str, str]) -> str:
    return f'<section class="card" id="summary"><h2>Best recipe and best peer</h2>{table(summary, style)}</section>'


def _card(env: Environment, content: TableLike, style: Mapping[str, str]) -> str:
    lines = [
        Line(row.algorithm, row.curve_steps, row.curve.value, row.curve.low, row.curve.high)
        for row in env.rows
        if row.curve is not None
    ]
    guides = {"threshold": env.threshold, **({"random actions": env.random} if env.random is not None else {})}
    drawn = chart(lines, style, "environment steps", "IQM of the return", guides) if lines else ""
    title = f"{env.name}, {short(env.steps)} steps"
    return _figure(drawn, title, content, style, f' data-env="{html.escape(env.name)}"')


def _figure(drawn: str, title: str, content: TableLike, style: Mapping[str, str], data: str = "") -> str:
    return (
        f'<section class="card"{data}><h2>{html.escape(title)}</h2><figure>{drawn}<output></output></figure>'
        f"{table(content, style)}</section>"
    )


def _section(title: str, content: str) -> str:
    return f'<section class="card"><h2>{html.escape(title)}</h2>{content}</section>'


def _chip(name: str, style: Mapping[str, str]) -> str:
    return (
        f'<label class="chip"><input type="checkbox" value="{html.escape(name)}" checked>'
        f'<i class="swatch {style[name]}"></i>{html.escape(name)}</label>'
    )


def _ticks(low: float, high: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(nbins=5).tick_values(low, high if high > low else low + 1.0)]


def short(x: float) -> str:
    """Return a number of steps, or of an axis.

    >>> [short(x) for x in (0, 1000, 250_000, 1.5e6, -0.25)]
    ['0', '1000', '250k', '1.5M', '−0.25']
    """
    text = f"{x / 1e6:g}M" if abs(x) >= 1e6 else f"{x / 1e3:g}k" if abs(x) >= 2e3 else f"{x:g}"
    return text.replace("-", "−")


def _rounded(x: float) -> float:
    return float(f"{x:.5g}")
