"""The option to leave out the episode that a baseline is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pgzoo import Baseline


@dataclass(frozen=True)
class OptionalLeaveOneOut(Baseline):
    """A baseline that is computed from several episodes, and is unbiased if it excludes the one it is compared with."""

    leave_one_out: Annotated[bool, "use only the other episodes, which is unbiased"] = False

    @property
    def unbiased(self) -> bool:
        """True with `leave_one_out`."""
        return self.leave_one_out

    @property
    def bias(self) -> str:
        """Why it is biased without `leave_one_out`."""
        return "" if self.leave_one_out else "the mean includes the return it is compared with"
