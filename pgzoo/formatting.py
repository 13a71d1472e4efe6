"""Numbers as people read them."""

from __future__ import annotations

import math


def format_number(x: float, digits: int = 4) -> str:
    """Return a number with at most `digits` significant digits, and thousands separated by commas.

    The digits of the integer part are always kept.

    >>> [format_number(x) for x in (12345.6, 500.0, 0.123456, -3.14159, math.inf)]
    ['12,346', '500', '0.1235', '-3.142', '∞']
    """
    if not math.isfinite(x):
        return "nan" if math.isnan(x) else "∞" if x > 0 else "-∞"
    rounded = f"{x:.{digits}g}"
    if abs(float(rounded)) >= 10 ** (digits - 1):
        return f"{x:,.0f}"
    return rounded
