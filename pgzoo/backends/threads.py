"""One thread where sharing the work out costs more than it saves.

numpy's BLAS and torch have threads of their own, as many as cores each, which wait for more work without sleeping:
where they take turns, an update of a small network takes twenty times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController

TINY, LARGE = 2**18, 2**25
"""Multiplications in a matrix product: up to the one BLAS keeps to one thread by itself, beyond the other many pay."""


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Let torch compute on one thread, afterwards on as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def blas_threads_for(multiplications: int) -> AbstractContextManager[None]:
    """Return a context for matrix products of so many multiplications: one thread unless they are large."""
    return blas_on_one_thread() if TINY < multiplications <= LARGE else nullcontext()


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Let numpy's matrix products take one thread, afterwards as many as before.

    As `ThreadpoolController.limit` does, but in 4 µs a library in place of 10, and in 2 where it has one already, since
    each minibatch comes here five times.
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
