"""The history of runs: SQLite by default, PostgreSQL by the same code. See docs/history-schema.md."""

from __future__ import annotations

from introspection_probe.history.database import DEFAULT_URL, HistoryUnavailableError, NotThereError, resolve_url
from introspection_probe.history.rows import AlertRow, ExampleRow, MixedLosses, RunRow, ScoredRound
from introspection_probe.history.store import History
from introspection_probe.history.writer import HistoryWriter

__all__ = [
    "DEFAULT_URL",
    "AlertRow",
    "ExampleRow",
    "History",
    "HistoryUnavailableError",
    "HistoryWriter",
    "MixedLosses",
    "NotThereError",
    "RunRow",
    "ScoredRound",
    "resolve_url",
]
