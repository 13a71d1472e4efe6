"""Random input: damaged models, run folders and checkpoints, YAML, hyperparameters and options.

    python benchmarks/fuzz.py --cases 10000

tests/fuzzing.py defines the kinds of input and the checks of each case. `make test` draws a few hundred cases of them.
A case that fails is printed in the simplest form that hypothesis finds, and the exit status is 1.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import fuzzing
from fuzz_commands import ACCEPTED, REFUSED


@click.command()
@click.option("--cases", default=10_000, show_default=True, help="Cases in all.")
@click.option("--seed", default=0, show_default=True)
@click.option("--kind", "kinds", type=click.Choice(list(fuzzing.KINDS)), multiple=True, help="Only these kinds.")
def main(cases: int, seed: int, kinds: tuple[str, ...]) -> None:
    """Draw and check the cases, and print how many were accepted and refused."""
    torch.set_num_threads(1)
    logging.disable()
    total, failures = Counter[str](), 0
    chosen = {name: fuzzing.KINDS[name].share for name in kinds or fuzzing.KINDS}
    for name, share in chosen.items():
        begin = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            try:
                n_cases = round(cases * share / sum(chosen.values()))
                outcomes = fuzzing.run_kind(name, n_cases, Path(folder), seed)
            except Exception:
                failures += 1
                traceback.print_exc()
                continue
        total += outcomes
        print(f"{name}: {_sentence(outcomes)}, in {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"{total.total():,} cases: {_sentence(total)}; {failures} kinds with a failure")
    sys.exit(min(failures, 1))


def _sentence(outcomes: Counter[str]) -> str:
    return f"{outcomes[ACCEPTED]:,} accepted, {outcomes[REFUSED]:,} refused"


if __name__ == "__main__":
    main()
