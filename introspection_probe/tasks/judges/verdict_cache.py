"""Verdicts that were paid for once, kept in a SQLite file."""

from __future__ import annotations

import logging
import sqlite3
import threading
from pathlib import Path

from introspection_probe.errors import IntrospectionError
from introspection_probe.tasks.judges.base import Verdict

logger = logging.getLogger("introspection_probe")


class VerdictCache:
    """Verdicts by key. May be used from several threads, and the file by several processes.

    Args:
        path: the file, made where there is none; None keeps the verdicts for this process alone.

    Raises:
        IntrospectionError: the file cannot be opened, or is something else.
    """

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._warned = False
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                ":memory:" if path is None else path, timeout=30, check_same_thread=False, isolation_level=None
            )
            self._database.execute("CREATE TABLE IF NOT EXISTS verdict (key TEXT PRIMARY KEY, verdict TEXT NOT NULL)")
        except (OSError, sqlite3.Error) as error:
            raise IntrospectionError(
                f"the judge's cache {path} cannot be used ({error}): delete it or choose another file"
            ) from error

    def get(self, key: str) -> Verdict | None:
        """The verdict, or None."""
        with self._lock:
            row = self._database.execute("SELECT verdict FROM verdict WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        return "refuse" if row[0] == "refuse" else "comply"

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; where the file cannot be written, say so once and go on, since the verdict is known."""
        with self._lock:
            try:
                self._database.execute("INSERT OR REPLACE INTO verdict VALUES (?, ?)", (key, verdict))
            except sqlite3.Error as error:
                if not self._warned:
                    logger.warning("introspection_probe: verdicts are not kept (%s)", error)
                self._warned = True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
