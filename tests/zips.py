"""Zip files as dicts, for tests that damage saved models."""

from __future__ import annotations

import zipfile
from pathlib import Path


def members(path: Path) -> dict[str, bytes]:
    """Return the content of a zip file by name."""
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path: Path, content: dict[str, bytes]) -> Path:
    """Write a zip file, and return its path."""
    with zipfile.ZipFile(path, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return path
