"""What a check found: a number, a reason and a remedy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note", "ok"]
"""``error``: it cannot work so. ``warning``: worse than it could. ``note``: worth knowing. ``ok``: all is well."""

LEVELS: tuple[Level, ...] = ("error", "warning", "note", "ok")
"""The worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked.

    Attributes:
        code: the check's stable name, such as ``"changed_share"``.
        value: what was found; a share lies between 0 and 1.
        unit: what ``value`` counts: ``"share"``, ``"probes"``, ``"tokens"``; "" for a plain number or a text.
        reason: what this means, without a final stop. Foreign text in it is quoted, but not escaped for markup.
        remedy: what to do, as an order and without a final stop; "" where nothing has to be done.
    """

    level: Level
    code: str
    value: float | str
    unit: str
    reason: str
    remedy: str = ""

    @property
    def sentence(self) -> str:
        """Reason and remedy in one."""
        return f"{self.reason}: {self.remedy}" if self.remedy else self.reason

    @property
    def troubles(self) -> bool:
        """Whether it is an error or a warning."""
        return self.level in ("error", "warning")
