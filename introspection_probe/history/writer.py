"""Writes that the training thread never waits for."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from introspection_probe.errors import IntrospectionError
from introspection_probe.history.database import HistoryUnavailableError
from introspection_probe.history.store import History

logger = logging.getLogger(__name__)

Write = Callable[[History], None]

# A round of 1,000 probes waits as about 0.3 MB, and most writes are small.
MAX_PENDING = 10_000
EXIT_TIMEOUT_S = 30.0
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 10.0
_WAIT_WHEN_CLOSING_S = 0.5


@dataclass(frozen=True, slots=True)
class _Pending:
    write: Write
    replaces: str | None


class HistoryWriter:
    """A thread that does the history's writes, in the order they were submitted; a context manager.

    While the database cannot be opened or written, the work is kept and tried again, for as long as the process
    lives. A write that fails for any other reason is reported and left out, since it would fail again. The
    database is opened in the thread: making a ``HistoryWriter`` never fails and never waits.

    Args:
        db: as for :meth:`History.open`.
        on_error: called in the writer's thread, once for each streak of failures and once for each write that
            is left out or lost. It may log; what it raises is logged and dropped.
    """

    def __init__(self, db: str | Path | None, *, on_error: Callable[[Exception], None]) -> None:
        self._db = db
        self._on_error = on_error
        self._pending: deque[_Pending] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._full = False
        self._history: History | None = None
        self._pid = os.getpid()
        # A daemon, since an exit that waits for a locked database would never end; atexit flushes within a limit.
        self._thread = threading.Thread(target=self._run, name="iprobe-history", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def submit(self, write: Write, *, replaces: str | None = None) -> None:
        """Have ``write`` called with the history, soon, and return at once.

        Args:
            write: must be idempotent: after an interruption it is called again.
            replaces: a name; an earlier write of the same name that still waits is dropped in favour of this one
                (heartbeats must not pile up while the database is away).

        Raises:
            IntrospectionError: the writer is closed.
        """
        with self._changed:
            if self._closing:
                raise IntrospectionError("this history writer is closed: make a new one")
            if replaces is not None:
                earlier = [item for item in self._pending if item.replaces == replaces]
                for item in earlier:
                    self._pending.remove(item)
            full = len(self._pending) >= MAX_PENDING
            first = full and not self._full
            self._full = full
            if not full:
                self._pending.append(_Pending(write, replaces))
                self._changed.notify_all()
        if first:
            self._report(
                HistoryUnavailableError(
                    f"{MAX_PENDING} writes wait for the history already; further ones are lost until it can be written"
                )
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything submitted so far is written, at most ``timeout`` seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._pending and not self._busy, timeout)

    def close(self, timeout: float | None = EXIT_TIMEOUT_S) -> bool:
        """Flush for at most ``timeout`` seconds and end the thread; whether everything was written.

        What could not be written is reported to ``on_error``. Closing twice is fine.
        """
        if os.getpid() != self._pid:
            return True  # a forked child has a copy of the queue but not the thread: the parent writes
        with self._changed:
            already = self._closing
            self._closing = True
            self._changed.notify_all()
        atexit.unregister(self.close)
        written = self.flush(timeout)
        if not written and not already:
            self._report(
                HistoryUnavailableError(
                    f"{self._waiting()} writes to the history are lost: it could not be written in time"
                )
            )
        self._thread.join(timeout=1.0 if written else 0.0)
        return written

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _waiting(self) -> int:
        with self._changed:
            return len(self._pending) + self._busy

    def _run(self) -> None:
        while (item := self._next()) is not None:
            self._write_until_done(item)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        if self._history is not None:
            self._history.close()

    def _next(self) -> _Pending | None:
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            if not self._pending:
                return None
            self._busy = True
            return self._pending.popleft()

    def _write_until_done(self, item: _Pending) -> None:
        wait = _FIRST_WAIT_S
        failing = False
        while True:
            try:
                item.write(self._open())
                if failing:
                    logger.warning("the history can be written again")
                return
            except Exception as error:
                trying_helps = self._history is None or isinstance(error, HistoryUnavailableError)
                if not failing or not trying_helps:
                    self._report(error)
                if not trying_helps:
                    return
                failing = True
            self._reopen()
            self._pause(wait)
            wait = min(2 * wait, _LONGEST_WAIT_S)

    def _pause(self, seconds: float) -> None:
        """Wait before the next try; a close() in the meantime makes it short."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)
        if self._closing:
            time.sleep(min(seconds, _WAIT_WHEN_CLOSING_S))

    def _open(self) -> History:
        if self._history is None:
            self._history = History.open(self._db)
        return self._history

    def _reopen(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:
            logger.exception("the history writer's on_error failed on: %s", error)
