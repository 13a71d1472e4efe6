"""Errors that a plugin raises, with its name."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from pgzoo.backends.actor import PolicyActor
from pgzoo.backends.backend import Backend
from pgzoo.errors import MachineError, PgzooError, PluginError, describe, is_machine_fault
from pgzoo.interface.parts import Part, Sampling
from pgzoo.interface.plans import Plan
from pgzoo.sampling.copies import EnvCopies
from pgzoo.sampling.modes import SamplingMode


@contextmanager
def part_errors() -> Iterator[None]:
    """Convert an exception that a part raises to PluginError, which names the part. Other exceptions pass.

    The part is found in the traceback, so that calls of parts need no code of their own, and cost nothing.
    """
    try:
        yield
    except (PgzooError, MemoryError):
        raise
    except Exception as error:
        if (part := part_that_raised(error)) is None:
            raise
        owner = MachineError if is_machine_fault(error) else PluginError
        raise owner(f"{part.kind} {part.name!r} raised {describe(error)}") from error


def part_that_raised(error: BaseException) -> Part | None:
    """Return the part whose method raised an exception, or called what raised it; None if there is none."""
    part: Part | None = None
    sampling: Sampling | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = frame.f_locals.get("self")
        if isinstance(owner, Part):
            part = owner
        elif isinstance(owner, SamplingMode):
            sampling = owner.sampling
        elif isinstance(owner, Plan):
            part = sampling
        elif isinstance(owner, (Backend, PolicyActor, EnvCopies)):  # a part does not answer for what it works with
            part = None
    return part
