"""The metrics as Prometheus gets them: over real HTTP, parsed, checked by promtool."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from debian import program
from histories import Host, make_probes, make_rollouts
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from introspection_probe import __version__
from introspection_probe.errors import IntrospectionError
from introspection_probe.export.prometheus import Exporter
from introspection_probe.export.samples import METRICS
from introspection_probe.records import Alert, Explanation, Probe, Rollout, Round
from introspection_probe.scoring import paired_difference, score_by_task

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

HOST = Host()
DOCS = Path(__file__).parent.parent / "docs" / "metrics.md"


@pytest.fixture
def exporter() -> Iterator[Exporter]:
    with Exporter("sft", "tiny-model") as made:
        yield made


def scrape(port: int, accept: str = "text/plain", addr: str = "127.0.0.1") -> str:
    request = urllib.request.Request(f"http://{addr}:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=20) as response:
        content: bytes = response.read()
    return content.decode("utf-8")


def series(exporter: Exporter) -> Series:
    port = exporter.serve(0)
    page = scrape(port)
    exporter.close()
    found: Series = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(found: Series, metric: str, **labels: str) -> float | None:
    return found.get((metric, frozenset({"run": "sft", **labels}.items())))


def a_round(probes: list[Probe], step: int = 100, host: Host = HOST, progress: float = 1.0) -> Round:
    return Round(step, make_rollouts(probes, progress, host), datetime.now(UTC), 2.5)


def alert(name: str, *, active: bool = True) -> Alert:
    return Alert(name, "hint-mmlu", 1, "warning", "s", "r", active=active)


def everything(exporter: Exporter) -> None:
    """Have every metric there is."""
    probes = make_probes(100)
    for step in (0, 100):
        taken = a_round(probes, step)
        exporter.observe_round(taken, score_by_task(taken.rollouts, probes))
    exporter.observe_step(101, {"explanation": 0.5, "kl": 0.01}, overhead=0.03)
    exporter.observe_alerts([alert("drifted")])
    exporter.round_failed()


def test_a_round_is_scraped_as_it_was_scored(exporter: Exporter) -> None:
    tasks = {"hint-mmlu": make_probes(120), "jabberwocky": make_probes(80, "jabberwocky")}
    probes = [probe for some in tasks.values() for probe in some]
    taken = a_round(probes)
    scores = score_by_task(taken.rollouts, probes)
    exporter.observe_round(taken, scores)
    found = series(exporter)
    for task, some in tasks.items():
        rollouts = [r for r in taken.rollouts if r.example_id.startswith(task)]
        now = [r.behavior.explanation for r in rollouts]
        orig = [p.behavior.explanation for p in some]
        said = [r.predicted for r in rollouts]
        n = len(some)

        def share(hits: Iterator[bool], n: int = n) -> float:
            return sum(hits) / n

        for target, truth in (("self", now), ("orig", orig)):
            pairs = list(zip(said, truth, strict=True))
            match = share(a == b for a, b in pairs)
            assert value(found, "iprobe_explanation_exact_match_ratio", task=task, target=target) == match
            assert value(found, "iprobe_explanation_matches", task=task, target=target) == pytest.approx(match * n)
            assert value(found, "iprobe_explanation_examples", task=task, target=target) == n
            content = share(a is not None and a.content == b.content for a, b in pairs)
            assert value(found, "iprobe_explanation_content_match_ratio", task=task, target=target) == content
            best = max(sum(b == c for b in truth) for c in truth) / n
            assert value(found, "iprobe_explanation_constant_match_ratio", task=task, target=target) == best
        same = [(r.behavior, p.behavior) for r, p in zip(rollouts, some, strict=True)]
        for variant, expected in (
            ("both", share(a == b for a, b in same)),
            ("included", share(a.included == b.included for a, b in same)),
            ("ablated", share(a.ablated == b.ablated for a, b in same)),
        ):
            assert value(found, "iprobe_behavior_exact_match_ratio", task=task, variant=variant) == expected
        gap = paired_difference(scores[task].paired)
        assert gap is not None
        assert value(found, "iprobe_coupling_gap_ratio", task=task, bound="estimate") == gap.estimate
        assert value(found, "iprobe_coupling_gap_ratio", task=task, bound="lower") == gap.lower
        assert value(found, "iprobe_coupling_gap_ratio", task=task, bound="upper") == gap.upper
        assert gap.lower < gap.estimate < gap.upper
        changed = scores[task].self_scores.changed_f1
        unchanged = scores[task].self_scores.unchanged_f1
        f1 = {"metric": "iprobe_explanation_f1_ratio", "task": task, "target": "self"}
        assert value(found, **f1, **{"class": "changed"}) == changed
        assert value(found, **f1, **{"class": "unchanged"}) == unchanged
        assert changed != unchanged
        moved = sum(a != b for a, b in zip(now, orig, strict=True))
        assert value(found, "iprobe_disagreement_examples", task=task) == moved > 0
        assert value(found, "iprobe_label_agreement_ratio", task=task) == (n - moved) / n
        assert value(found, "iprobe_disagreement_self_share_ratio", task=task) == scores[task].paired.self_share
        assert value(found, "iprobe_probe_examples", task=task) == n
        parsed = [e for e in said if e is not None]
        assert value(found, "iprobe_predicted_changed_ratio", task=task) == sum(e.changed for e in parsed) / len(parsed)
        assert value(found, "iprobe_behavior_changed_ratio", task=task) == share(e.changed for e in now)
        assert value(found, "iprobe_parse_failures_total", task=task) == n - len(parsed) > 0
    assert value(found, "iprobe_rounds_total") == 1
    assert value(found, "iprobe_round_failures_total") == 0
    assert value(found, "iprobe_round_duration_seconds") == 2.5
    assert value(found, "iprobe_last_round_step") == 100
    assert value(found, "iprobe_last_round_timestamp_seconds") == taken.started_at.timestamp() + 2.5


def test_before_the_first_round_there_is_the_run_and_nothing_about_a_round(exporter: Exporter) -> None:
    exporter.observe_step(3)
    found = series(exporter)
    assert {name for name, _ in found} == {
        "iprobe_run_info",
        "iprobe_run_active",
        "iprobe_run_start_time_seconds",
        "iprobe_train_step",
        "iprobe_rounds_total",
        "iprobe_round_failures_total",
    }
    assert value(found, "iprobe_run_info", model="tiny-model", version=__version__) == 1
    assert value(found, "iprobe_run_active") == 1
    began = value(found, "iprobe_run_start_time_seconds")
    assert began is not None
    assert 0 <= time.time() - began < 60
    assert value(found, "iprobe_train_step") == 3


def test_what_was_not_measured_is_absent_not_zero(exporter: Exporter) -> None:
    probes = [probe for probe in make_probes(60) if not probe.behavior.explanation.changed][:5]
    unparsed = tuple(Rollout(p.example.id, p.behavior, "?", None) for p in probes)
    taken = dataclasses.replace(a_round(probes), rollouts=unparsed)
    exporter.observe_round(taken, score_by_task(unparsed, probes))
    found = series(exporter)
    assert value(found, "iprobe_predicted_changed_ratio", task="hint-mmlu") is None
    assert value(found, "iprobe_disagreement_self_share_ratio", task="hint-mmlu") is None
    f1 = {"metric": "iprobe_explanation_f1_ratio", "task": "hint-mmlu", "target": "self"}
    assert value(found, **f1, **{"class": "changed"}) is None
    assert value(found, **f1, **{"class": "unchanged"}) == 0
    assert value(found, "iprobe_explanation_exact_match_ratio", task="hint-mmlu", target="self") == 0


def test_a_round_does_not_show_what_only_the_one_before_measured(exporter: Exporter) -> None:
    probes = make_probes(50)
    for host in (Host(), Host(drift=0.0)):
        taken = a_round(probes, host=host)
        exporter.observe_round(taken, score_by_task(taken.rollouts, probes))
    found = series(exporter)
    assert value(found, "iprobe_disagreement_examples", task="hint-mmlu") == 0
    assert value(found, "iprobe_disagreement_self_share_ratio", task="hint-mmlu") is None
    assert value(found, "iprobe_rounds_total") == 2


def test_counters_count_over_the_rounds(exporter: Exporter) -> None:
    probes = make_probes(40)
    failures = 0
    for _ in range(3):
        taken = a_round(probes)
        failures += sum(r.predicted is None for r in taken.rollouts)
        exporter.observe_round(taken, score_by_task(taken.rollouts, probes))
        exporter.round_failed()
    found = series(exporter)
    assert failures > 0
    assert value(found, "iprobe_parse_failures_total", task="hint-mmlu") == failures
    assert value(found, "iprobe_rounds_total") == value(found, "iprobe_round_failures_total") == 3


def test_mixed_losses_and_overhead_are_those_of_the_last_step(exporter: Exporter) -> None:
    exporter.observe_step(1, {"explanation": 2.0, "kl": 0.5}, overhead=0.2)
    exporter.observe_step(2, {"explanation": 1.0, "kl": math.nan}, overhead=math.nan)
    found = series(exporter)
    assert value(found, "iprobe_train_step") == 2
    assert value(found, "iprobe_mix_loss", term="explanation") == 1.0
    kl = value(found, "iprobe_mix_loss", term="kl")
    assert kl is not None
    assert math.isnan(kl), "a broken loss is shown"
    assert value(found, "iprobe_round_overhead_ratio") == 0.2, "a share that could not be measured is not"


def test_an_alert_is_one_while_it_holds_and_zero_when_cleared(exporter: Exporter) -> None:
    exporter.observe_alerts([alert("drifted"), alert("lost")])
    exporter.observe_alerts([alert("lost"), alert("never", active=False)])
    found = series(exporter)
    assert value(found, "iprobe_alert_active", task="hint-mmlu", alert="drifted") == 0
    assert value(found, "iprobe_alert_active", task="hint-mmlu", alert="lost") == 1
    exporter.observe_alerts([])
    assert value(series(exporter), "iprobe_alert_active", task="hint-mmlu", alert="lost") == 0


def test_a_run_that_has_ended_says_so(exporter: Exporter) -> None:
    exporter.set_active(False)
    assert value(series(exporter), "iprobe_run_active") == 0


HOSTILE = 'a"b\\c\nd{e="f"} 1 \x1b[2J\x00\u202e\ud800<script># HELP x' + "z" * 10_000


def test_hostile_names_make_a_valid_page() -> None:
    probes = [
        dataclasses.replace(
            p,
            example=dataclasses.replace(p.example, task=HOSTILE),
            labels={**p.labels, HOSTILE: Explanation(True, "A")},
        )
        for p in make_probes(5)
    ]
    taken = a_round(probes)
    with Exporter(HOSTILE, HOSTILE) as exporter:
        exporter.observe_round(taken, score_by_task(taken.rollouts, probes))
        exporter.observe_step(1, {HOSTILE: 1.0})
        exporter.observe_alerts([dataclasses.replace(alert(HOSTILE), task=HOSTILE)])
        port = exporter.serve(0)
        page = scrape(port)
        openmetrics = scrape(port, "application/openmetrics-text; version=1.0.0")
    assert check(page) == ""
    assert len(page) < 20_000
    for families in (text_string_to_metric_families(page), parse_openmetrics(openmetrics)):
        labels = {label for family in families for sample in family.samples for label in sample.labels.values()}
        assert all(label.isprintable() and len(label) <= 128 for label in labels)
        assert any(label.startswith('a"b\\c') for label in labels)


def test_names_that_are_one_when_shortened_do_not_break_the_page(exporter: Exporter) -> None:
    probes = make_probes(5)
    taken = a_round(probes)
    scores = score_by_task(taken.rollouts, probes)["hint-mmlu"]
    exporter.observe_round(taken, {"x" * 200 + "a": scores, "x" * 200 + "b": dataclasses.replace(scores, n=7)})
    assert value(series(exporter), "iprobe_probe_examples", task="x" * 128) == 7


def check(page: str) -> str:
    """What promtool has to say about a page."""
    promtool = program("promtool", "prometheus")
    run = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    return run.stdout + run.stderr


def test_promtool_finds_nothing_to_complain_about(exporter: Exporter) -> None:
    everything(exporter)
    page = scrape(exporter.serve(0))
    assert page.count("# TYPE iprobe_") == len(METRICS)
    assert check(page) == ""
    assert check(page + "iprobe_bad_total 1\n") != "", "promtool does check"


def test_the_documented_metrics_are_the_exported_ones(exporter: Exporter) -> None:
    everything(exporter)
    exported = {(name, frozenset(label for label, _ in labels)) for name, labels in series(exporter)}
    rows = re.findall(r"^\| `(iprobe_\w+)` \| (gauge|counter) \| ([\w, ]+) \| .+\. \|$", DOCS.read_text(), re.MULTILINE)
    assert {(name, frozenset(labels.split(", "))) for name, _, labels in rows} == exported
    assert {(name, kind) for name, kind, _ in rows} == {(m.name, m.kind) for m in METRICS.values()}
    assert {m.name for m in METRICS.values()} == {name for name, _ in exported}


def test_a_busy_port_moves_to_the_next_free_one_and_the_log_says_so(
    exporter: Exporter, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port: int = busy.getsockname()[1]
        with caplog.at_level(logging.WARNING):
            served = exporter.serve(port)
        assert port < served <= port + 64
        assert f"port {port} is busy: metrics are served on http://127.0.0.1:{served}/metrics" in caplog.text
        assert "iprobe_run_info" in scrape(served)


@pytest.mark.parametrize(
    ("port", "addr", "reason"),
    [
        (-1, "127.0.0.1", "port -1 does not exist"),
        (70_000, "127.0.0.1", "port 70000 does not exist"),
        (0, "203.0.113.7", "cannot listen on 203.0.113.7"),
        (0, "no such host", "it is no address of this machine"),
        (0, "x" * 100, "it is no address of this machine"),
    ],
)
def test_an_impossible_address_is_one_sentence(exporter: Exporter, port: int, addr: str, reason: str) -> None:
    with pytest.raises(IntrospectionError, match=re.escape(reason)):
        exporter.serve(port, addr)


def test_metrics_are_served_on_loopback_only_unless_told(exporter: Exporter) -> None:
    port = exporter.serve(0)
    hexadecimal = f"{port:04X}"
    listening = [
        line.split()[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{hexadecimal}") and line.split()[3] == "0A"
    ]
    assert listening == [f"0100007F:{hexadecimal}"]


def test_stalled_clients_do_not_block_a_scrape(exporter: Exporter) -> None:
    port = exporter.serve(0)
    stalled = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    try:
        for number, client in enumerate(stalled):
            client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x"[: 3 * number])
        began = time.monotonic()
        assert "iprobe_run_info" in scrape(port)
        assert time.monotonic() - began < 2
    finally:
        for client in stalled:
            client.close()


def test_a_stalled_client_is_dropped(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("introspection_probe.export.server._Handler.timeout", 0.2)
    port = exporter.serve(0)
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"GET /met")
        assert client.recv(1) == b"", "the server hangs up"
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_broken_requests_leave_the_server_alive_and_the_log_empty(
    exporter: Exporter, capfd: pytest.CaptureFixture[str]
) -> None:
    port = exporter.serve(0)
    for request in (
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"POST /metrics HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + b"a: b\r\n" * 500,
    ):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(request)
    assert "iprobe_run_info" in scrape(port)
    assert capfd.readouterr().err == ""


def test_closing_frees_the_port_and_serving_again_keeps_what_was_observed(exporter: Exporter) -> None:
    everything(exporter)
    port = exporter.serve(0)
    exporter.close()
    exporter.close()
    with pytest.raises(OSError):
        scrape(port)
    assert exporter.serve(port) == port
    assert "iprobe_coupling_gap_ratio" in scrape(port)


def test_scrapes_during_rounds_see_whole_rounds(exporter: Exporter) -> None:
    probes = make_probes(20)
    rounds = [a_round(probes, step, progress=step / 50) for step in range(50)]
    scored = [(taken, score_by_task(taken.rollouts, probes)) for taken in rounds]
    matches = {float(r.step): float(s["hint-mmlu"].self_scores.exact_matches) for r, s in scored}
    port = exporter.serve(0)
    done = threading.Event()

    def observe() -> None:
        while not done.is_set():
            for taken, scores in scored:
                exporter.observe_round(taken, scores)

    thread = threading.Thread(target=observe)
    thread.start()
    try:
        for _ in range(20):
            page = scrape(port)
            step = re.search(r'^iprobe_last_round_step{run="sft"} (\S+)$', page, re.MULTILINE)
            match = re.search(
                r'^iprobe_explanation_matches{run="sft",target="self",task="hint-mmlu"} (\S+)$', page, re.MULTILINE
            )
            if step or match:
                assert step
                assert match
                assert matches[float(step[1])] == float(match[1])
    finally:
        done.set()
        thread.join()
    assert len(set(matches.values())) > 1


def test_ipv6_works_where_there_is_ipv6(exporter: Exporter) -> None:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    assert "iprobe_run_info" in scrape(exporter.serve(0, "::1"), addr="[::1]")
