"""`iprobe serve`: a real process, real HTTP, real TLS, stalled clients, and no torch anywhere near."""

from __future__ import annotations

import base64
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_program import Program, run_process
from debian import program as debian_program
from histories import make_probes, make_rollouts, write_run
from prometheus_client.parser import text_string_to_metric_families

from introspection_probe.export import server
from introspection_probe.export.passwords import sha512_crypt
from introspection_probe.export.samples import Sample
from introspection_probe.export.serve import StoredRuns, application, tls_context
from introspection_probe.export.server import CLIENT_TIMEOUT_S
from introspection_probe.history import History
from introspection_probe.records import Alert, Round, RunInfo
from introspection_probe.scoring import paired_difference, score_by_task
from iprobe.stored_runs import StoredSamples

ROOT = Path(__file__).parent.parent
DRIFTED = Alert("explanations_drifted", "hint-mmlu", 100, "critical", "s", "r")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    with History.open(str(path)) as history:
        write_run(history, name="old", n=40, steps=(0, 100, 200), alerts=[DRIFTED])
        write_run(history, name="now", n=40, steps=(0, 50), status="running", seed=1)
    return path


class Serving:
    """A running `iprobe serve` and how to ask it."""

    def __init__(self, process: subprocess.Popen[str], url: str, context: ssl.SSLContext | None) -> None:
        self.process, self.url, self._context = process, url, context
        self.port = int(url.rsplit(":", 1)[1])

    def get(self, path: str = "/metrics", user: str | None = None, timeout: float = 20) -> tuple[int, str]:
        """Status and body."""
        request = urllib.request.Request(self.url + path)
        if user is not None:
            request.add_header("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}")
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._context) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def series(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        code, page = self.get()
        assert code == 200
        return series(page)


def series(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


@contextmanager
def serving(
    db: Path, *args: object, context: ssl.SSLContext | None = None, python: Path = Path(sys.executable)
) -> Iterator[Serving]:
    command = [python, "-m", "iprobe.main", "serve", "--db", db, "--port", 0, *args]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True, cwd="/")
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        if "waiting" in line:
            line = process.stderr.readline()
        url = re.search(r"(https?://\S+)/metrics", line)
        assert url is not None, line + process.stderr.read()
        yield Serving(process, url[1].replace("127.0.0.1", "localhost"), context)
    finally:
        process.terminate()
        process.wait(20)
        assert process.stderr is not None
        process.stderr.close()


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_the_latest_round_of_every_run_is_served_as_the_history_has_it(db: Path) -> None:
    with serving(db) as served:
        found = served.series()
        assert served.get("/-/healthy") == (200, "iprobe serve is healthy.\n")
        assert served.get("/nothing")[0] == 404
    with History.open(str(db)) as history:
        for name, step, rounds, active in (("old", 200, 3, 0), ("now", 50, 2, 1)):
            run = history.find_run(name)
            last = history.rounds(run.id)[-1]
            scores = last.scores["hint-mmlu"]
            task = {"run": name, "task": "hint-mmlu"}
            gap = paired_difference(scores.paired)
            assert gap is not None
            assert found[key("iprobe_last_round_step", run=name)] == step
            assert found[key("iprobe_rounds_total", run=name)] == rounds
            assert found[key("iprobe_run_active", run=name)] == active
            assert found[key("iprobe_run_start_time_seconds", run=name)] == pytest.approx(run.resumed_at.timestamp())
            matches = found[key("iprobe_explanation_matches", **task, target="self")]
            assert matches == scores.self_scores.exact_matches
            assert found[key("iprobe_coupling_gap_ratio", **task, bound="lower")] == gap.lower
            assert found[key("iprobe_last_round_timestamp_seconds", run=name)] == pytest.approx(
                last.started_at.timestamp() + last.duration_s
            )
            assert key("iprobe_round_failures_total", run=name) not in found, "not measured is not 0"
    alert = {"task": "hint-mmlu", "alert": "explanations_drifted"}
    assert found[key("iprobe_alert_active", run="old", **alert)] == 1
    assert key("iprobe_alert_active", run="now", **alert) not in found
    assert found[key("iprobe_history_up")] == 1


def test_promtool_accepts_the_page(db: Path) -> None:
    with serving(db) as served:
        page = served.get()[1]
    promtool = debian_program("promtool", "prometheus")
    run = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert run.stdout + run.stderr == ""


def test_what_a_running_job_writes_is_served_at_the_next_scrape(db: Path) -> None:
    with serving(db) as served, History.open(str(db)) as history:
        run = history.find_run("now")
        before = served.series()
        probes = make_probes(40, seed=1)
        rollouts = make_rollouts(probes, 1.0, seed=1)
        for step, late in ((75, 60), (100, 102.5)):
            started = run.resumed_at + timedelta(seconds=late)
            history.record_round(run.id, Round(step, rollouts, started, 1.0), score_by_task(rollouts, probes))
        history.record_alert(run.id, DRIFTED)
        after = served.series()
        history.record_alert(
            run.id, Alert("explanations_drifted", "hint-mmlu", 150, "critical", "s", "r", active=False)
        )
        history.update_run(run.id, status="finished")
        ended = served.series()
    step, rounds = key("iprobe_last_round_step", run="now"), key("iprobe_rounds_total", run="now")
    alert = key("iprobe_alert_active", run="now", task="hint-mmlu", alert="explanations_drifted")
    active = key("iprobe_run_active", run="now")
    assert (before[step], before[rounds], before[active], alert in before) == (50, 2, 1, False)
    assert (after[step], after[rounds], after[active], after[alert]) == (100, 4, 1, 1)
    assert (ended[step], ended[rounds], ended[active], ended[alert]) == (100, 4, 0, 0)
    interval = key("iprobe_round_interval_seconds", run="now")
    assert interval not in before, "both rounds were taken before this session of the run"
    assert after[interval] == 42.5


def value(samples: list[Sample], metric: str, run: str) -> float | None:
    return next((s.value for s in samples if s.metric == metric and s.labels[0] == run), None)


def test_a_run_that_was_silent_for_a_day_is_no_longer_active(db: Path) -> None:
    stored = StoredSamples(lambda: History.open(str(db), must_exist=True), 10)
    now = datetime.now(UTC)
    assert value(stored.read(now + timedelta(hours=23)), "iprobe_run_active", "now") == 1
    assert value(stored.read(now + timedelta(hours=25)), "iprobe_run_active", "now") == 0


def test_of_runs_with_one_name_the_latest_is_served_and_the_limit_holds(db: Path) -> None:
    with History.open(str(db)) as history:
        write_run(history, name="old", n=40, steps=(0, 7), seed=2, uid="another")
        write_run(history, name="newest", n=10, steps=(0,), seed=3)
    stored = StoredSamples(lambda: History.open(str(db), must_exist=True), 10)
    samples = stored.read()
    assert value(samples, "iprobe_last_round_step", "old") == 7
    assert len({s.key for s in samples}) == len(samples)
    assert not [s for s in samples if s.metric == "iprobe_alert_active"], "of the earlier run of that name"
    few = StoredSamples(lambda: History.open(str(db), must_exist=True), 2)
    assert {s.labels[0] for s in few.read()} == {"old", "newest"}


def test_a_name_used_again_and_again_does_not_push_out_the_others(db: Path) -> None:
    with History.open(str(db)) as history:
        for seed in range(10, 15):
            write_run(history, name="again", n=10, steps=(0, seed), seed=seed)
    stored = StoredSamples(lambda: History.open(str(db), must_exist=True), 3)
    samples = stored.read()
    assert {name: value(samples, "iprobe_last_round_step", name) for name in ("old", "now", "again")} == {
        "old": 200,
        "now": 50,
        "again": 14,
    }
    with History.open(str(db)) as history:
        first = next(run for run in history.runs() if run.uid == "again-10")
        history.start_run(RunInfo("again-10", "again", first.model, first.tasks))  # resumed, so it is the latest
    assert value(stored.read(), "iprobe_last_round_step", "again") == 10


def test_an_incremental_reading_equals_a_fresh_one(tmp_path: Path) -> None:
    db = str(tmp_path / "h.db")
    probes = make_probes(30)
    now = datetime.now(UTC)
    stored = StoredSamples(lambda: History.open(db, must_exist=True), 10)
    with History.open(db) as history:
        run_id = write_run(history, name="grows", n=30, steps=(0, 10), status="running")
        stored.read(now)
        for step, progress in ((20, 0.2), (20, 0.6), (30, 0.9)):  # a round taken again replaces the earlier one
            rollouts = make_rollouts(probes, progress)
            history.record_round(run_id, Round(step, rollouts, datetime.now(UTC), 1.0), score_by_task(rollouts, probes))
            fresh = StoredSamples(lambda: History.open(db, must_exist=True), 10)
            assert stored.read(now) == fresh.read(now)
        # Resumed from a checkpoint: earlier steps are measured again.
        write_run(history, name="grows", n=30, steps=(0, 10), status="running")
        fresh = StoredSamples(lambda: History.open(db, must_exist=True), 10)
        assert stored.read(now) == fresh.read(now)


def test_a_history_that_cannot_be_read_is_said_not_shown_as_empty(db: Path) -> None:
    with serving(db) as served:
        hidden = db.with_name("away.db")
        db.rename(hidden)
        found = served.series()
        assert found == {key("iprobe_history_up"): 0}
        assert served.get("/-/healthy")[0] == 200
        hidden.rename(db)
        assert served.series()[key("iprobe_history_up")] == 1


def test_a_damaged_history_is_said_and_the_scrape_answered(db: Path) -> None:
    with serving(db) as served:
        assert served.series()[key("iprobe_history_up")] == 1
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("UPDATE run SET tasks = '[half', updated_at = datetime('now') WHERE name = 'now'")
            connection.commit()
        found = served.series()
        assert found[key("iprobe_history_up")] == 0
        assert key("iprobe_run_active", run="old") not in found
        with closing(sqlite3.connect(db)) as connection:
            connection.execute("UPDATE run SET tasks = '[]' WHERE name = 'now'")
            connection.commit()
        assert served.series()[key("iprobe_history_up")] == 1


def test_with_wait_it_starts_before_the_history_is_made(tmp_path: Path) -> None:
    db = tmp_path / "history.db"
    with serving(db, "--wait") as served:
        assert served.series() == {}
        assert served.get("/-/healthy")[0] == 200
        with History.open(str(db)) as history:
            write_run(history, name="first", n=10, steps=(0,))
        assert served.series()[key("iprobe_last_round_step", run="first")] == 0
        db.rename(tmp_path / "away.db")
        assert served.series() == {key("iprobe_history_up"): 0}, "what was there and is gone is a failure"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly(db: Path, number: signal.Signals) -> None:
    with serving(db) as served:
        served.process.send_signal(number)
        assert served.process.wait(10) == 0
        assert served.process.stderr is not None
        assert served.process.stderr.read() == ""


def test_a_stalled_client_does_not_block_scrapes(db: Path) -> None:
    with serving(db) as served:
        stalled = []
        for text in (b"", b"GET /metrics HTTP/1.1\r\nHost: x\r\n"):
            client = socket.create_connection(("localhost", served.port))
            client.sendall(text)
            stalled.append(client)
        began = time.monotonic()
        assert served.get(timeout=CLIENT_TIMEOUT_S / 2)[0] == 200
        assert time.monotonic() - began < CLIENT_TIMEOUT_S / 2
        for client in stalled:
            client.close()


# ---- TLS and passwords ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_pair(tmp_path_factory.mktemp("tls"), "localhost")


def make_pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key."""
    cert, private = folder / f"{name}.crt", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    words += ["-addext", f"subjectAltName=DNS:{name}", "-keyout", str(private), "-out", str(cert)]
    subprocess.run(words, check=True, capture_output=True)
    return cert, private


@pytest.fixture
def passwords(tmp_path: Path) -> Path:
    file = tmp_path / "users"
    out = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input="let me in\n", capture_output=True, text=True, check=True
    ).stdout.strip()
    file.write_text(f"# who may scrape\n\nprometheus:{out}\n")
    return file


def trusting(cert: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(cert))


def test_https_with_a_password(db: Path, pair: tuple[Path, Path], passwords: Path) -> None:
    args = ("--tls-cert", pair[0], "--tls-key", pair[1], "--auth-file", passwords)
    with serving(db, *args, context=trusting(pair[0])) as served:
        assert served.url.startswith("https://")
        assert served.get(user="prometheus:let me in")[0] == 200
        for user in (None, "prometheus:let me out", "prometheus:", "other:let me in", "let me in", ":", "p" * 30_000):
            code, body = served.get(user=user)
            assert (code, "iprobe_" in body) == (401, False), user
        assert served.get("/-/healthy") == (200, "iprobe serve is healthy.\n")
        with pytest.raises(OSError, match=r"reset|closed|EOF|Remote"):
            urllib.request.urlopen(f"http://localhost:{served.port}/metrics", timeout=10)


def test_a_client_that_stalls_in_the_handshake_does_not_block_scrapes(db: Path, pair: tuple[Path, Path]) -> None:
    with serving(db, "--tls-cert", pair[0], "--tls-key", pair[1], context=trusting(pair[0])) as served:
        stalled = [socket.create_connection(("localhost", served.port)) for _ in range(5)]
        began = time.monotonic()
        assert served.get(timeout=CLIENT_TIMEOUT_S / 2)[0] == 200
        assert time.monotonic() - began < CLIENT_TIMEOUT_S / 2
        for client in stalled:
            client.close()


@pytest.mark.parametrize("secured", [False, True])
def test_a_stalled_client_is_dropped(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, secured: bool) -> None:
    monkeypatch.setattr(server, "CLIENT_TIMEOUT_S", 0.3)
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    app = application(StoredRuns(lambda: []))
    serving = server.MetricsServer(app, 0, "127.0.0.1", tls=tls_context(*pair) if secured else None)
    try:
        with socket.create_connection(("127.0.0.1", serving.port), timeout=5) as stalled:
            assert stalled.recv(1) == b"", "closed by the server"
    finally:
        serving.close()


@pytest.mark.parametrize(
    ("password", "salt"), [("secret", "saltsalt"), ("pä:ss wörd", "./aZ09"), ("x" * 200, "sixteen-letters!")]
)
def test_password_hashes_are_those_of_openssl(password: str, salt: str) -> None:
    words = ["openssl", "passwd", "-6", "-salt", salt, "-stdin"]
    made = subprocess.run(words, input=password + "\n", capture_output=True, text=True, check=True).stdout.strip()
    assert sha512_crypt(password.encode(), salt) == made


def test_password_hashes_are_those_of_the_specification() -> None:
    assert sha512_crypt(b"Hello world!", "saltstringsaltst", 10000) == (
        "$6$rounds=10000$saltstringsaltst$OW1/O6BYHV6BcXZu8QVeXbDWra3Oeqh0sbHbbMCVNSnCM/UrjmM0Dp8vOuZeHBy/YTBmSK6H9qs/"
        "y3RnOaw5v."
    )


def refused(program: Program, db: Path, *args: object) -> str:
    """What `iprobe serve` says when it refuses to start: one line."""
    result = program("serve", "--db", db, "--port", 0, *args)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    return result.err


def test_half_configured_tls_refuses_to_start(
    program: Program, db: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    cert, private = pair
    assert "--tls-cert is given without --tls-key" in refused(program, db, "--tls-cert", cert)
    assert "--tls-key is given without --tls-cert" in refused(program, db, "--tls-key", private)
    missing = tmp_path / "none.pem"
    assert f"cannot read {missing}" in refused(program, db, "--tls-cert", cert, "--tls-key", missing)
    other = make_pair(tmp_path, "other")[1]
    assert "of one pair" in refused(program, db, "--tls-cert", cert, "--tls-key", other)
    empty = tmp_path / "empty.pem"
    empty.touch()
    assert "cannot use the certificate" in refused(program, db, "--tls-cert", empty, "--tls-key", private)
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "rsa", "-aes256", "-passout", "pass:x", "-in", private, "-out", locked],
        check=True,
        capture_output=True,
    )
    assert "without a passphrase" in refused(program, db, "--tls-cert", cert, "--tls-key", locked)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the password file"),
        ("", "names no user"),
        ("# nobody\n", "names no user"),
        ("prometheus:hunter2\n", "line 1 of the password file"),
        ("prometheus\n", "line 1 of the password file"),
        (":$6$salt$" + "a" * 86 + "\n", "line 1 of the password file"),
        ("prometheus:$2y$05$abcdefghijklmnopqrstuv\n", "line 1 of the password file"),
        (f"a:$6$salt${'a' * 86}\na:$6$salt${'b' * 86}\n", "line 2 of the password file"),
    ],
)
def test_half_configured_passwords_refuse_to_start(
    program: Program, db: Path, tmp_path: Path, content: str | None, says: str
) -> None:
    file = tmp_path / "passwords"
    if content is not None:
        file.write_text(content)
    error = refused(program, db, "--auth-file", file)
    assert says in error
    assert "hunter2" not in error, "a password that somebody wrote down as it is"


def test_wrong_use_is_said_in_a_sentence(program: Program, db: Path, tmp_path: Path) -> None:
    assert "no history at" in refused(program, tmp_path / "none.db")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is busy" in refused(program, db, "--port", port)
    assert "no address of this machine" in refused(program, db, "--host", "not an address")


# ---- Without torch --------------------------------------------------------------------------------------------------


def test_it_imports_nothing_of_the_training_extras(db: Path) -> None:
    blocked = "for name in ('torch', 'transformers', 'datasets', 'peft', 'trl'): sys.modules[name] = None"
    stop = "import os, signal, threading; threading.Timer(3, os.kill, (os.getpid(), signal.SIGTERM)).start()"
    result = run_process("serve", "--db", db, "--port", 0, prelude=f"{blocked}\n{stop}")
    assert (result.code, result.out) == (0, "")
    assert "serving" in result.err


@pytest.mark.slow
def test_it_runs_from_a_wheel_in_an_environment_with_the_base_dependencies_alone(db: Path, tmp_path: Path) -> None:
    """What an operator does: a fresh virtual environment, `pip install introspection-probe`, `iprobe serve`."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True, capture_output=True)
    python = environment / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", ROOT]
    done = subprocess.run(list(map(str, install)), capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    has_torch = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False, cwd=tmp_path)
    assert has_torch.returncode != 0
    with serving(db, python=python) as served:
        assert served.series()[key("iprobe_last_round_step", run="old")] == 200
