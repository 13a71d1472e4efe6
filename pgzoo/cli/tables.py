"""The table that shows evaluations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgzoo.formatting import format_number

if TYPE_CHECKING:
    from pgzoo.training.evaluation import Evaluation


def headers(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the column headers. `success` is a column if an environment reports it."""
    success = ["success"] if any(e.success_rate is not None for e in evaluations) else []
    return ["episodes", "return", "std", "95 % interval", "length", *success]


def evaluation_row(evaluation: Evaluation, evaluations: Sequence[Evaluation]) -> list[str]:
    """Return the cells of one evaluation under `headers(evaluations)`; return and length are means."""
    low, high = evaluation.interval
    cells = [
        str(len(evaluation.returns)),
        format_number(evaluation.mean),
        format_number(evaluation.std),
        f"[{format_number(low)}, {format_number(high)}]",
        format_number(sum(evaluation.lengths) / len(evaluation.lengths)),
    ]
    if "success" in headers(evaluations):
        rate = evaluation.success_rate
        cells.append("" if rate is None else f"{100 * rate:.0f} %")
    return cells
