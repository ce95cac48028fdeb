"""`iprobe serve`: the latest of all runs of a history, for Prometheus to scrape."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from iprobe.console import note
from iprobe.options import DbOption


def serve(
    db: DbOption = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one, a busy one is an error.")
    ] = 9464,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")] = "127.0.0.1",
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="How many names of runs to serve, the latest first.")
    ] = 200,
    wait: Annotated[
        bool, typer.Option("--wait", help="Start before the history exists, and serve it once a run has made it.")
    ] = False,
    tls_cert: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Serve https with this certificate (PEM, with its chain).")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")] = None,
    auth_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Ask for a user and password of this file, as `htpasswd -5` makes it."),
    ] = None,
) -> None:
    """Serve the last round of every run of a history to Prometheus.

    Of several runs with one name it serves the latest. A process of its own beside the training: it needs no torch,
    outlives the runs, and tells of runs that have ended. /metrics are the metrics, /-/healthy answers without a
    password. Ends with Ctrl-C or SIGTERM.
    """
    from introspection_probe.errors import IntrospectionError
    from introspection_probe.export.passwords import read_password_file
    from introspection_probe.export.serve import StoredRuns, application, tls_context
    from introspection_probe.export.server import MetricsServer
    from introspection_probe.history import History
    from iprobe.stored_runs import StoredSamples
    from iprobe.text import safe_text

    tls = tls_context(tls_cert, tls_key)
    users = None if auth_file is None else read_password_file(auth_file)
    stored = StoredSamples(lambda: History.open(db, must_exist=True), limit)
    try:
        with History.open(db, must_exist=True) as history:
            shown = safe_text(history.shown, 200)
        stored.read()  # what can never work is said now, not at the first scrape
    except IntrospectionError as error:
        if not wait:
            raise
        note(f"iprobe: waiting: {safe_text(str(error), 500)}")
        shown = "the history that is to come"

    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("iprobe: %(message)s"))
    logging.getLogger("introspection_probe.export.serve").addHandler(handler)
    server = MetricsServer(application(StoredRuns(stored.read, wait=wait), users), port, host, tls=tls, move=False)
    scheme, place = "http" if tls is None else "https", f"[{host}]" if ":" in host else host
    note(f"iprobe: serving {shown} on {scheme}://{place}:{server.port}/metrics")
    if users is not None and tls is None and host not in ("127.0.0.1", "::1", "localhost"):
        note("iprobe: passwords cross the network readable by everybody on it: give --tls-cert and --tls-key")
    ended.wait()
    server.close()


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        from iprobe.text import safe_text

        return safe_text(super().format(record), 2000)
