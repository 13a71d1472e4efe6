"""How the results of the conformance kit are printed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from pgzoo.formatting import format_number

if TYPE_CHECKING:
    from pgzoo.lab.conformance.kit import Conformance

MARKS = {"ok": "[green]ok[/]    ", "failed": "[red]FAILED[/]", "note": "note  ", "skipped": "[dim]–[/]     "}
"""The mark of each status, padded to the same width."""


def show(results: Sequence[Conformance], *, as_json: bool) -> None:
    """Print the findings and the badge of each part, or one JSON object."""
    if as_json:
        passed = all(result.passed for result in results)
        click.echo(json.dumps({"passed": passed, "parts": [result.to_dict() for result in results]}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for result in results:
        _show_part(console, result)


def _show_part(console: Console, result: Conformance) -> None:
    console.print(f"[bold]{result.kind} {result.name}[/]")
    for finding in result.findings:
        message = f"  {escape(finding.message)}" if finding.message else ""
        console.print(f"  {MARKS[finding.status]} {finding.check}{message}")
    for bias in result.biases:
        if (ratio := bias.variance_by_none) is not None:
            value, low, high = (format_number(x, 3) for x in (ratio.value, ratio.low, ratio.high))
            label = escape(bias.entry.label)
            console.print(f"  variance relative to none, {label} on {bias.mdp}: {value} ({low} to {high})")
    if result.seconds is not None:
        console.print(f"  {format_number(result.seconds * 1e6)} µs per call on 256 steps of 8 environments")
    failed = sum(finding.status == "failed" for finding in result.findings)
    verdict = "conforms" if result.passed else f"does not conform: {failed} of {len(result.findings)} checks failed"
    console.print(f"{result.kind} {result.name} {verdict}")
    console.print(f"{escape(result.badge)}\n")
