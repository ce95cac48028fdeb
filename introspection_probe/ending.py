"""Notices that a run is over although its trainer never said so.

``on_train_end`` is not called when ``train()`` is left by an exception, and nothing else tells a callback. Two things
are certain all the same: a trainer that was dropped trains no more, and neither does one whose process exits. The
first is seen as the death of an object that only the trainer's callback holds, the second by ``atexit``. A script that
catches the exception and keeps the trainer shows neither; its run is known to be over when the process exits.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

from introspection_probe.records import RunStatus

logger = logging.getLogger("introspection_probe")


class Ending:
    """Calls ``end`` once, with how the run ended, when ``watched`` is dropped or the interpreter exits.

    Make it after whatever ``end`` uses has registered its own exit: the last registered exits first.

    Args:
        watched: lives as long as the run may go on.
        end: must not hold ``watched``.
    """

    def __init__(self, watched: object, end: Callable[[RunStatus], None]) -> None:
        self._end = end
        self._over = False
        self._lock = threading.Lock()
        self._pid = os.getpid()
        # Garbage may be collected in any thread and inside any lock, so that nothing is done there but this put,
        # which is made for it.
        self._dropped: SimpleQueue[bool] = SimpleQueue()
        self._finalizer = weakref.finalize(watched, self._dropped.put, True)
        self._finalizer.atexit = False
        threading.Thread(target=self._wait, name="iprobe-ending", daemon=True).start()
        atexit.register(self._exit)

    def cancel(self) -> None:
        """The run was ended properly."""
        with self._lock:
            self._over = True
        self._finalizer.detach()
        atexit.unregister(self._exit)
        self._dropped.put(False)

    def _wait(self) -> None:
        if self._dropped.get():
            self._finish("failed")
            # Not before: an exit has to wait for it, since the interpreter does not wait for this thread.
            atexit.unregister(self._exit)

    def _exit(self) -> None:
        if os.getpid() != self._pid:
            return  # a forked child: the run is its parent's
        # What the interpreter has just printed a traceback of; an exception that the script caught is not there.
        error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
        self._finish("stopped" if isinstance(error, KeyboardInterrupt) else "failed")

    def _finish(self, status: RunStatus) -> None:
        with self._lock:  # held while it ends, so that an exit waits for what the other thread has begun
            if self._over:
                return
            self._over = True
            try:
                self._end(status)
            except Exception:
                logger.exception("a run that had failed could not be closed")
