"""How the conformance kit's verdict is shown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

if TYPE_CHECKING:
    from pgzoo.lab.conformance.kit import Conformance

MARKS = {"ok": "[green]ok[/]", "failed": "[red]FAILED[/]", "note": "note", "skipped": "[dim]–[/]"}


def show(found: Sequence[Conformance], *, as_json: bool) -> None:
    """Print each part's findings and its badge; or one JSON object."""
    if as_json:
        passed = all(one.passed for one in found)
        click.echo(json.dumps({"passed": passed, "parts": [one.plain() for one in found]}))
        return
    console = Console(highlight=False, soft_wrap=True)
    for one in found:
        console.print(f"[bold]{one.kind} {one.name}[/]")
        for finding in one.findings:
            message = f"  {escape(finding.message)}" if finding.message else ""
            console.print(f"  {MARKS[finding.status]:<6} {finding.check}{message}")
        for bias in one.biases:
            if (ratio := bias.variance_by_none) is not None:
                console.print(
                    f"  variance by none's, {bias.entry.label} on {bias.mdp}: {ratio.value:.3g} "
                    f"({ratio.low:.3g} to {ratio.high:.3g})"
                )
        if one.seconds is not None:
            console.print(f"  {one.seconds * 1e6:,.0f} µs a call, on 256 steps of 8 environments")
        failed = sum(finding.status == "failed" for finding in one.findings)
        verdict = "conforms" if one.passed else f"does not conform: {failed} of {len(one.findings)} checks failed"
        console.print(f"{one.kind} {one.name} {verdict}")
        console.print(f"{escape(one.badge)}\n")
