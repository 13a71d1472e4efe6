"""Small products take one thread, of BLAS and of torch, and leave as many as they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from stable_baselines3.common.env_util import make_vec_env
from threadpoolctl import threadpool_info, threadpool_limits

from pgzoo import Batch, Objective, PluginError, PolicyGradient, Recipe, Registry
from pgzoo.backends.threads import LARGE, TINY, blas_threads_for
from pgzoo.cli.options import set_threads


def blas_threads() -> int:
    """Return how many threads NumPy's BLAS uses now. SciPy may have loaded another BLAS, which no update calls."""
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return max(int(pool["num_threads"]) for pool in [p for p in pools if "numpy" in p["filepath"]] or pools)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(2, user_api="blas"):
        yield
    torch.set_num_threads(before)


class Spy(Objective):
    """REINFORCE's loss, which notes torch's threads."""

    name = "spy"
    seen: ClassVar[list[int]] = []

    def __call__(self, batch: Batch, state: Any = None) -> Any:
        self.seen.append(torch.get_num_threads())
        return -batch.aggregate(batch.advantages * batch.log_probs), {}


class FailingSpy(Spy):
    """Ends with an error."""

    name = "failing_spy"

    def __call__(self, batch: Batch, state: Any = None) -> Any:
        raise ZeroDivisionError


@pytest.fixture
def make(registry_with: Callable[..., Registry]) -> Callable[..., PolicyGradient]:
    def model(objective: type[Objective] = Spy, **options: Any) -> PolicyGradient:
        recipe = Recipe("spied", "Spied.", estimator="lambda_return", baseline="value", objective=objective.name)
        registry = registry_with(objective, recipe)
        env = make_vec_env("CartPole-v1", 4)
        return PolicyGradient("MlpPolicy", env, "spied", registry=registry, device="cpu", **options)

    return model


def test_an_update_takes_one_thread(make: Callable[..., PolicyGradient], monkeypatch: pytest.MonkeyPatch) -> None:
    """An update has products of some hundred rows with 128 x 128 weights, and a norm of 35,000 numbers, which BLAS may
    share out.
    """
    products: list[tuple[int, int]] = []
    norms: list[int] = []
    dot = np.dot

    def spy(a: Any, b: Any, **options: Any) -> Any:
        if a.ndim == 2:
            products.append((a.shape[0] * a.shape[1] * b.shape[1], blas_threads()))
        elif a is b:
            norms.append(blas_threads())
        return dot(a, b, **options)

    monkeypatch.setattr(np, "dot", spy)
    Spy.seen.clear()
    model = make(n_steps=128, fast=True, policy_kwargs={"net_arch": [128, 128]})
    model.learn(512)
    assert set(Spy.seen) == {1}
    assert {threads for size, threads in products if size > TINY} == {1}
    assert set(norms) == {1}
    assert (torch.get_num_threads(), blas_threads()) == (2, 2)


@pytest.mark.parametrize(("multiplications", "threads"), [(TINY, 2), (TINY + 1, 1), (LARGE, 1), (LARGE + 1, 2)])
def test_many_for_large_products(multiplications: int, threads: int) -> None:
    with blas_threads_for(multiplications):
        assert blas_threads() == threads
    assert blas_threads() == 2


def test_the_plain_path_leaves_them(make: Callable[..., PolicyGradient]) -> None:
    Spy.seen.clear()
    make(n_steps=8, fast=False).learn(32)
    assert set(Spy.seen) == {2}


def test_they_come_back_after_an_error(make: Callable[..., PolicyGradient]) -> None:
    with pytest.raises(PluginError, match=r"failing_spy.* raised ZeroDivisionError"):
        make(FailingSpy, n_steps=8).learn(32)
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), blas_threads_for(TINY + 1):
        raise ZeroDivisionError
    assert blas_threads() == 2


def test_num_threads_is_for_both() -> None:
    set_threads(3)
    assert (torch.get_num_threads(), blas_threads()) == (3, 3)
    set_threads(None)
    assert (torch.get_num_threads(), blas_threads()) == (3, 3)
