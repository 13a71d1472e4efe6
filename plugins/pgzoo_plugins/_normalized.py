"""The normalisation of advantages, which the scales of SB3 share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

EPS = 1e-8
"""SB3 adds this to the standard deviation."""


def normalized(advantages: torch.Tensor) -> torch.Tensor:
    """Return (Ψ − mean Ψ) / (std Ψ + 1e-8) with the sample standard deviation; a single Ψ unchanged."""
    if len(advantages) < 2:
        return advantages
    return (advantages - advantages.mean()) / (advantages.std() + EPS)
