"""What is done about an alert: log it, call a function, post a webhook, stop the run after saving."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from introspection_probe.alerts.monitor import Judgement
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Alert

if TYPE_CHECKING:
    from concurrent.futures import Future

logger = logging.getLogger(__name__)

OnAlert = Literal["log", "stop"] | str | Callable[[Alert], None]
"""``"log"``, ``"stop"``, the URL of a webhook, or a function of the alert."""

WEBHOOK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Actions:
    """The actions chosen for a run.

    Attributes:
        calls: called with every alert that is raised or cleared, in order.
        stop: whether a raised critical alert ends the run. A warning never does.
    """

    calls: tuple[Callable[[Alert], None], ...]
    stop: bool

    def run(self, judgement: Judgement, on_error: Callable[[Exception], None]) -> bool:
        """Act on what a round changed.

        Args:
            on_error: told of an action that failed; the others are still done.

        Returns:
            Whether the run should save and stop.
        """
        for alert in (*judgement.raised, *judgement.cleared):
            for call in self.calls:
                try:
                    call(alert)
                except Exception as error:  # whatever a user's function raises must not cost the run
                    on_error(error)
        return self.stop and any(alert.severity == "critical" for alert in judgement.raised)


def choose_actions(
    on_alert: OnAlert | Sequence[OnAlert], *, run: str, on_error: Callable[[Exception], None]
) -> Actions:
    """The actions behind ``on_alert``, one or several; alerts are always logged.

    Args:
        run: the run's name, told to webhooks.
        on_error: told, from another thread, of a webhook that could not be reached.

    Raises:
        IntrospectionError: something that is neither a word known here, nor an http(s) URL, nor a function.
    """
    several = [on_alert] if isinstance(on_alert, str) or callable(on_alert) else list(on_alert)
    calls: list[Callable[[Alert], None]] = [log]
    for action in several:
        if callable(action):
            calls.append(action)
        elif action not in ("log", "stop"):
            calls.append(Webhook(action, run=run, on_error=on_error))
    return Actions(tuple(calls), stop="stop" in several)


def log(alert: Alert) -> None:
    """Write the alert to this module's logger."""
    if alert.active:
        level = logging.ERROR if alert.severity == "critical" else logging.WARNING
        logger.log(level, "step %d: %s: %s %s", alert.step, alert.name, alert.summary, alert.remedy)
    else:
        logger.info("step %d: %s is over", alert.step, alert.name)


class Webhook:
    """Posts alerts as JSON, in a thread of its own: a slow receiver does not hold up the training.

    The body holds the alert's fields and the run's name, and ``text``, one line that Slack, Mattermost and their
    relatives show as it is. An interpreter that exits waits for what is under way. A user and a password in the URL go
    into the header.

    Raises:
        IntrospectionError: it is no http(s) URL.
    """

    def __init__(self, url: str, *, run: str, on_error: Callable[[Exception], None]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._url, self._host, self._headers = _parsed(url)
        self._run = run
        self._on_error = on_error
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="iprobe-webhook")

    def __call__(self, alert: Alert) -> None:
        """Queue the alert and return at once."""
        self._pool.submit(self._post, alert).add_done_callback(self._finished)

    def _post(self, alert: Alert) -> None:
        from urllib.request import Request, urlopen

        state = alert.severity.upper() if alert.active else "OVER"
        text = f"[{state}] {self._run}, step {alert.step}: {alert.name}. {alert.summary} {alert.remedy}"
        # A model's answer may hold "<!channel>", which would ring everybody's phone.
        text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        body = json.dumps({**asdict(alert), "run": self._run, "text": text}).encode()
        request = Request(self._url, data=body, headers=self._headers)
        with urlopen(request, timeout=WEBHOOK_TIMEOUT_S):
            pass

    def _finished(self, future: Future[None]) -> None:
        error = future.exception()
        if error is not None:
            # The path of a webhook's URL is its password, so only the host is named, and of what failed no more than
            # the system's own words: other errors repeat what they were given.
            reason = str(error) if isinstance(error, OSError) else type(error).__name__
            self._on_error(ConnectionError(f"the webhook at {self._host} did not take the alert: {reason}"))


def _parsed(url: str) -> tuple[str, str, dict[str, str]]:
    """A URL without user and password, its host, and the headers of a request to it."""
    from base64 import b64encode
    from urllib.parse import unquote, urlsplit, urlunsplit

    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or not url.isprintable() or " " in url:
        # What looks like a URL may hold a password, so it is not repeated.
        shown = "no http(s) URL that can be used" if "/" in url else repr(url)
        raise IntrospectionError(
            f"on_alert is {shown}; it must be 'log', 'stop', an http(s) URL or a function of the alert"
        )
    headers = {"Content-Type": "application/json"}
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(user.encode()).decode()}"
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), host, headers
