"""One torch thread a test process: these networks are small, and tests run side by side."""

from __future__ import annotations

from collections.abc import Callable
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
