"""Atomic file writes: a file is replaced only once the new one is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces `path` if the block succeeds.

    If the block raises, the temporary file is removed and `path` keeps its content. The temporary name ends as
    `path` does, because libraries choose the file format by the suffix.

        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8")
    """
    partial = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
