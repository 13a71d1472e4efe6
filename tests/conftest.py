"""One torch thread a test process: these networks are small, and tests run side by side. Fixtures of several files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pgzoo import Registry, hookimpl
from pgzoo.registry.plugins import Source

torch.set_num_threads(1)


@pytest.fixture
def registry_with() -> Callable[..., Registry]:
    """Return a function that makes the installed plugins and some more, in a registry of their own."""

    def make(*items: Any) -> Registry:
        registry = Registry.discover()
        for item in items:
            module = SimpleNamespace(pgzoo_plugins=hookimpl(_returning(item)))
            registry.register(module, Source(f"test_{item.name}", "tests", "file"))
        assert not registry.failures
        return registry

    return make


def _returning(item: Any) -> Callable[[], list[Any]]:
    return lambda: [item]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB, if this machine allows to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
