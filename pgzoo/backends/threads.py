"""Limits torch or NumPy's BLAS to one thread where more threads would slow the work down.

Both have a thread pool with one thread per core, and waiting threads spin. Two pools that take turns therefore compete
for the cores: the update of a small network takes twenty times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

TINY, LARGE = 2**18, 2**25
"""Multiplications in a matrix product. Up to TINY, BLAS uses one thread anyway. Beyond LARGE, more threads pay off."""


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Limit torch to one thread, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def blas_threads_for(multiplications: int) -> AbstractContextManager[None]:
    """Return a context for a matrix product of this size: one BLAS thread, unless the product is tiny or large."""
    return blas_on_one_thread() if TINY < multiplications <= LARGE else nullcontext()


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Limit NumPy's matrix products to one thread, and restore the number afterwards.

    `ThreadpoolController.limit` does the same in 10 µs per library. This takes 4 µs, or 2 µs if the library already
    has one thread. The difference matters because a minibatch enters this context five times.
    """
    pools = [(pool, number) for pool in _blas() if (number := pool.num_threads) > 1]
    for pool, _ in pools:
        pool.set_num_threads(1)
    try:
        yield
    finally:
        for pool, number in pools:
            pool.set_num_threads(number)


@cache
def _blas() -> list[Any]:
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)
