"""What is done about alerts, with a real HTTP server behind the webhook."""

from __future__ import annotations

import json
import logging
import threading
from base64 import b64decode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from queue import Queue

import pytest

from introspection_probe.alerts import CONDITIONS, Judgement, choose_actions
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Alert

LOST = Alert("coupling_lost", "letters", 300, "critical", "The gap is -0.10 <!channel>.", "Check kl_weight.")
STALE = Alert("round_stale", "letters", 300, "warning", "The last round was taken 400 steps ago.", "Look at the log.")
OVER = Alert("round_stale", "letters", 400, "warning", STALE.summary, STALE.remedy, active=False)


def raised(*alerts: Alert) -> Judgement:
    return Judgement(active=alerts, raised=alerts, cleared=())


def no_error(error: Exception) -> None:
    raise error


@pytest.fixture
def receiver() -> Iterator[tuple[str, Queue[dict]]]:
    bodies: Queue[dict] = Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500 if self.path.startswith("/broken") else 200)
            self.end_headers()
            asked = {"type": self.headers["Content-Type"], "authorization": self.headers["Authorization"]}
            bodies.put({**asked, **json.loads(body)})

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_webhook_gets_what_was_raised_and_what_is_over(receiver):
    url, bodies = receiver
    actions = choose_actions(url, run="sft-7", on_error=no_error)
    assert actions.run(Judgement((LOST,), (LOST,), (OVER,)), no_error) is False
    first, second = bodies.get(timeout=10), bodies.get(timeout=10)
    assert (first["name"], first["step"], first["run"], first["active"]) == ("coupling_lost", 300, "sft-7", True)
    assert first["summary"] == LOST.summary
    assert first["type"] == "application/json"
    assert first["text"].startswith("[CRITICAL] sft-7, step 300: coupling_lost.")
    assert "<!channel>" not in first["text"]
    assert (second["name"], second["active"], second["text"][:6]) == ("round_stale", False, "[OVER]")


@pytest.mark.parametrize("path", ["/broken/secret-token", None])
def test_a_webhook_that_fails_is_reported_without_its_secret(receiver, path):
    url = receiver[0] + path if path else "http://127.0.0.1:9/secret-token"
    errors: Queue[Exception] = Queue()
    choose_actions(url, run="sft-7", on_error=errors.put).run(raised(LOST), no_error)
    message = str(errors.get(timeout=10))
    assert "the webhook at 127.0.0.1 did not take the alert" in message
    assert "secret-token" not in message


def test_a_user_and_a_password_in_the_url_go_into_the_header(receiver):
    url, bodies = receiver
    choose_actions(url.replace("//", "//bot:p%40ss@"), run="sft-7", on_error=no_error).run(raised(LOST), no_error)
    scheme, _, credentials = bodies.get(timeout=10)["authorization"].partition(" ")
    assert (scheme, b64decode(credentials)) == ("Basic", b"bot:p@ss")


@pytest.mark.parametrize(
    "wrong",
    ["htps://hooks/secret-token", "https://bot:secret-token@[::1", "https://h/secret-token x", "http:secret-token/"],
)
def test_a_mistyped_webhook_is_refused_at_once_and_not_repeated(wrong):
    with pytest.raises(IntrospectionError, match="on_alert is no http") as raised_error:
        choose_actions(wrong, run="sft-7", on_error=no_error)
    assert "secret-token" not in str(raised_error.value)


def test_a_function_that_raises_does_not_keep_the_others_from_running():
    seen: list[Alert] = []
    errors: list[Exception] = []

    def broken(alert: Alert) -> None:
        raise RuntimeError("pager is down")

    choose_actions([broken, seen.append], run="sft-7", on_error=no_error).run(raised(LOST), errors.append)
    assert seen == [LOST]
    assert [str(error) for error in errors] == ["pager is down"]


def test_only_a_critical_alert_stops_the_run_and_only_when_asked():
    stop, log = (choose_actions(choice, run="sft-7", on_error=no_error) for choice in ("stop", "log"))
    assert stop.run(raised(LOST), no_error) is True
    assert stop.run(raised(STALE), no_error) is False
    assert stop.run(Judgement((LOST,), (), ()), no_error) is False  # it stood before
    assert log.run(raised(LOST), no_error) is False
    assert CONDITIONS["coupling_lost"].severity == "critical"


def test_alerts_are_always_logged(caplog):
    actions = choose_actions("stop", run="sft-7", on_error=no_error)
    with caplog.at_level(logging.INFO, logger="introspection_probe.alerts.actions"):
        actions.run(Judgement((LOST, STALE), (LOST, STALE), (OVER,)), no_error)
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING", "INFO"]
    assert "coupling_lost: The gap is -0.10" in caplog.text
    assert "step 400: round_stale is over" in caplog.text


@pytest.mark.parametrize("wrong", ["email", "ftp://host/x", "https://", ["log", "shout"]])
def test_unknown_actions_are_refused_with_the_choices(wrong):
    with pytest.raises(IntrospectionError, match=r"'log', 'stop', an http\(s\) URL or a function"):
        choose_actions(wrong, run="sft-7", on_error=no_error)
