"""The HTTP side of `iprobe serve`: ``/metrics`` behind an optional password, ``/-/healthy``, TLS."""

from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from introspection_probe.errors import IntrospectionError
from introspection_probe.export.passwords import is_authorized
from introspection_probe.export.samples import Sample, families

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

HISTORY_UP = "iprobe_history_up"
"""1 when the history could be read for this scrape, 0 when not."""


class StoredRuns(Collector):
    """Samples that are read anew for every scrape. One scrape reads at a time.

    Args:
        read: the samples of all runs.
        wait: a history that could not be read yet is not there yet, which is no failure.
    """

    def __init__(self, read: Callable[[], Iterable[Sample]], *, wait: bool = False) -> None:
        self._read = read
        self._wait = wait
        self._lock = threading.Lock()
        self._failure = ""

    def describe(self) -> list[Family]:
        """Nothing: registering must not read."""
        return []

    def collect(self) -> Iterator[Family]:
        """The families as the history has them; without any of a run's when it cannot be read."""
        with self._lock:
            try:
                samples, failure = list(self._read()), ""
                self._wait = False
            except IntrospectionError as error:
                if self._wait:
                    return
                samples, failure = [], str(error)
            except Exception as error:  # whatever a damaged row does: a scrape is answered, and says that it is blind
                samples, failure = [], f"the history is damaged: {type(error).__name__}: {error}"
            if failure != self._failure:
                logger.log(logging.ERROR if failure else logging.INFO, "%s", failure or "the history is readable again")
            self._failure = failure
        up = GaugeMetricFamily(HISTORY_UP, "1 when the history could be read for this scrape, 0 when not.")
        up.add_metric([], not failure)
        yield up
        yield from families(samples)


def application(collector: Collector, users: Mapping[str, str] | None = None) -> WSGIApplication:
    """The pages as a WSGI application.

    Args:
        users: password hashes by user, asked for at ``/metrics``; None asks nobody. ``/-/healthy`` is open to all,
            since what asks it (a kubelet, a load balancer) has no password.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    metrics: WSGIApplication = make_wsgi_app(registry)

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/-/healthy":
            return _text(start_response, "200 OK", "iprobe serve is healthy.")
        if path != "/metrics":
            return _text(start_response, "404 Not Found", "There is /metrics and /-/healthy.")
        if users is not None and not is_authorized(environ.get("HTTP_AUTHORIZATION"), users):
            challenge = ("WWW-Authenticate", 'Basic realm="iprobe", charset="UTF-8"')
            return _text(start_response, "401 Unauthorized", "A user and a password are needed.", challenge)
        return metrics(environ, start_response)

    return app


def tls_context(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The context to serve https with; None when neither file is given.

    Raises:
        IntrospectionError: one without the other, a file that cannot be read or is not PEM, a key that is encrypted
            or of another certificate.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = ("--tls-cert", "--tls-key") if key is None else ("--tls-key", "--tls-cert")
        raise IntrospectionError(f"{given} is given without {missing}: give both to serve https, or neither for http")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for file in (certificate, key):
        try:
            file.read_bytes()
        except OSError as error:
            raise IntrospectionError(f"cannot read {file}: {error.strerror}: name a PEM file") from error
    try:
        # Without a password of ours an encrypted key would ask for one on the terminal, and wait.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        raise IntrospectionError(
            f"cannot use the certificate {certificate} with the key {key} ({reason}): "
            "both must be PEM files of one pair, the key without a passphrase"
        ) from error
    return context


def _text(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> list[bytes]:
    body = f"{text}\n".encode()
    kind = ("Content-Type", "text/plain; charset=utf-8")
    start_response(status, [kind, ("Content-Length", str(len(body))), *headers])
    return [body]
