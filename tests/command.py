"""The `pgzoo` command, run in this process or in a new one."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgzoo.cli import main

PGZOO = [sys.executable, "-m", "pgzoo"]


@dataclass(frozen=True)
class Result:
    """The exit status and output of a command."""

    returncode: int
    stdout: str
    stderr: str


def pgzoo(*arguments: str, cwd: Path | None = None, status: int | None = 0, in_process: bool = True) -> Result:
    """Run `pgzoo ARGUMENTS` in a folder and assert its exit status, unless `status` is None.

    In this process it takes milliseconds, while a new interpreter needs two seconds to import torch. Use
    `in_process=False` for tests of signals, of imports, and of state that a process keeps.
    """
    if in_process:
        result = _here(arguments, cwd)
    else:
        environment = {**os.environ, "COLUMNS": "120"}
        process = subprocess.run(
            [*PGZOO, *arguments], cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        result = Result(process.returncode, process.stdout, process.stderr)
    assert status is None or result.returncode == status, result.stdout + result.stderr
    return result


def _here(arguments: tuple[str, ...], cwd: Path | None) -> Result:
    out, err = io.StringIO(), io.StringIO()
    columns, argv = os.environ.get("COLUMNS"), sys.argv
    os.environ["COLUMNS"], sys.argv = "120", ["pgzoo", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), contextlib.ExitStack() as stack:
            if cwd is not None:
                stack.enter_context(_working_directory(cwd))
            try:
                main(list(arguments))
                status: Any = 0
            except SystemExit as stop:
                status = stop.code
    finally:
        sys.argv = argv
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return Result(int(status or 0), out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _working_directory(folder: Path) -> Any:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
