"""When so much is refused that it is hardly the videos' own fault: storage's failures against the run's budget."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vidproc.errors import PASSING_REASONS, BudgetExceeded
from vidproc.schema import FAILED

FEW = 16
"""So many videos may be refused by storage in any run before it ends early, however small it is."""


@dataclass
class Refusals:
    """How many of the planned videos storage has refused or failed to give, for the first time.

    Beyond the failure budget the run ends at once: no archive is to be set aside because a policy changed overnight.
    """

    planned: int
    budget: float
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, told: Sequence[Mapping[str, Any]]) -> None:
        """Take in ledger rows. Raises `BudgetExceeded`."""
        for row in told:
            if row["status"] in FAILED and row["reason"] in PASSING_REASONS and not row["again"]:
                self.reasons[row["reason"]] += 1 / row["expected"]
        if sum(self.reasons.values()) > max(self.budget * self.planned, FEW):
            counts = ", ".join(f"{reason} {count:.0f}" for reason, count in self.reasons.items())
            raise BudgetExceeded(
                f"storage did not give {counts} of {self.planned} planned videos: the run ends here, and the next one "
                "tries them again. See the view `failures`; allow the reading, or --exclude what is not to be read, or "
                "raise --failure-budget"
            )
