"""Files that a run appends to, and that a resumed run cuts to the length they had at the checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat

from pgzoo.errors import ConfigError
from pgzoo.files import atomic_write, writing
from pgzoo.interface.hyperparameters import shown

MONITORS, PROGRESS = "*monitor.csv", "progress.csv"


def lengths(folder: Path) -> dict[str, int]:
    """Return the length of each file in a run's folder, after what was written is on the disk.

    This is the number of lines of progress.csv, which is rewritten for a new column, and of bytes of Monitor's files.
    """
    sizes = {file.name: _synced_size(file) for file in sorted(folder.glob(MONITORS))}
    progress = folder / PROGRESS
    if progress.is_file():
        _synced_size(progress)
        sizes[PROGRESS] = len(progress.read_bytes().splitlines())
    return sizes


def cut(folder: Path, sizes: Mapping[str, int]) -> None:
    """Cut each file to a length.

    Raises:
        ConfigError: a file is missing or shorter, or is not one of those that `lengths` returns.
    """
    continued = {
        file.name for pattern in (MONITORS, PROGRESS) for file in folder.glob(pattern) if not file.is_symlink()
    }
    for name, size in sizes.items():
        if type(size) is not int or size < 0 or (name not in continued and (folder / name).exists()):
            raise ConfigError(f"{shown(name)} is not a file that a run continues")
        file = folder / name
        lines = file.read_bytes().splitlines(keepends=True) if file.is_file() and name == PROGRESS else []
        if not file.is_file() or (len(lines) if name == PROGRESS else file.stat().st_size) < size:
            raise ConfigError(f"{file} is missing or shorter than at the checkpoint")
        if name == PROGRESS:
            with atomic_write(file) as partial:
                partial.write_bytes(b"".join(lines[:size]))
        else:
            with writing(file):
                os.truncate(file, size)


class ContinuedCSV(CSVOutputFormat):
    """SB3's progress.csv, continued.

    Args:
        file: an existing progress.csv.
    """

    def __init__(self, file: Path) -> None:
        with writing(file):
            self.file = file.open("r+", encoding="utf-8")
        header = self.file.readline().strip()
        self.keys = header.split(",") if header else []
        self.separator, self.quotechar = ",", '"'
        self.file.seek(0, os.SEEK_END)


def _synced_size(file: Path) -> int:
    """Return a file's size, after its content is on the disk."""
    with writing(file), file.open("r+b") as opened:
        os.fsync(opened.fileno())
        return os.fstat(opened.fileno()).st_size
