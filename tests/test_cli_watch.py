"""`iprobe watch` in a real terminal, in a pipe, and what it makes of a run that waits, goes on, hangs and ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program, run_process
from histories import make_probes, make_rollouts, writer
from rich.cells import cell_len
from rich.console import Console

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
from introspection_probe.records import Alert, Round, RunInfo
from introspection_probe.scoring import score_by_task
from iprobe.watch_view import render
from iprobe.watching import Look, Watched

HOSTILE = "[red]x[/red]\x1b[2J\a\u202eevil\u200b|`<script>\n\x9b31m\x7f*_$#1 @me"
DRIFTED = Alert("behavior_drifted", "hint-mmlu", 100, "critical", "It drifted: 40 of 60.", "Look at it.")


@pytest.fixture
def write(db: Path) -> Callable[..., int]:
    return writer(db, n=60, steps=(0, 100, 200), status="running")


def add_round(db: Path, run_id: int, step: int) -> None:
    probes = make_probes(60)
    rollouts = make_rollouts(probes, 1.0)
    with History.open(str(db)) as history:
        taken = Round(step, rollouts, datetime.now(UTC), 1.0)
        history.record_round(run_id, taken, score_by_task(rollouts, probes))


def end(db: Path, run_id: int) -> None:
    with History.open(str(db)) as history:
        history.update_run(run_id, status="finished")


class Terminal:
    """A pseudo-terminal with `iprobe watch` in it, started as a shell would start it."""

    def __init__(self, db: Path, *args: object, columns: int, lines: int) -> None:
        self._master, self.slave = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.slave)
        words = ["watch", "--db", str(db), "--every", "0.2", *map(str, args)]
        environment = {k: v for k, v in os.environ.items() if k not in ("IPROBE_DB", "COLUMNS", "LINES", "NO_COLOR")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "iprobe.main", *words],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env=environment | {"TERM": "xterm-256color"},
            # A session of its own with the terminal as its controlling one: only then does Ctrl-C mean anything.
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),  # type: ignore[func-returns-value]
        )
        self.shown = ""

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read(self, seconds: float) -> str:
        """What comes within that time."""
        new, until = "", time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and select.select([self._master], [], [], left)[0]:
            new += os.read(self._master, 65536).decode("utf-8", "replace")
        self.shown += new
        return new

    def wait_for(self, text: str, seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < until, self.shown
            self.read(0.1)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait(self) -> int:
        """Its exit code; what it wrote last is in ``shown``."""
        until = time.monotonic() + 20
        while self.process.poll() is None and time.monotonic() < until:
            self.read(0.1)
        self.read(0.2)
        return self.process.wait(1)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.slave)
        os.close(self._master)


@contextmanager
def watching(db: Path, *args: object, columns: int = 100, lines: int = 40) -> Iterator[Terminal]:
    terminal = Terminal(db, *args, columns=columns, lines=lines)
    try:
        yield terminal
    finally:
        terminal.close()


def is_as_before(terminal: Terminal) -> None:
    """Settings as they were, cursor visible, never on another screen, no mouse, no scroll region."""
    assert termios.tcgetattr(terminal.slave) == terminal.before
    assert not re.search(r"\x1b\[\?(47|1047|1049|1000|1002|1003|1006|1015)[hl]", terminal.shown)
    assert not re.search(r"\x1b\[\d*;?\d*r|\x1b\[[23]J|\x1bc", terminal.shown)
    assert terminal.shown.rfind("\x1b[?25h") > terminal.shown.rfind("\x1b[?25l")


def test_ctrl_c_ends_it_cleanly_and_leaves_the_terminal_as_it_was(db: Path, write: Callable[..., int]) -> None:
    write(alerts=[DRIFTED])
    with watching(db) as terminal:
        terminal.wait_for("Ctrl-C ends")
        terminal.read(0.5)
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        is_as_before(terminal)
        for text in ("sft-demo", "running, step 200", "Self EM", "behavior_drifted since step 100", "It drifted"):
            assert text in re.sub(r"\x1b\[[0-9;]*m", "", terminal.shown)
        assert "Traceback" not in terminal.shown
        assert "Aborted" not in terminal.shown
        assert re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.shown).endswith("\n"), (
            "the prompt comes on a line of its own"
        )


def test_ctrl_c_while_waiting_is_clean_too(db: Path) -> None:
    with watching(db) as terminal:
        terminal.wait_for("Waiting for a run: no history at")
        terminal.type(b"\x03")
        assert terminal.wait() == 0
        is_as_before(terminal)
    assert not db.exists(), "watching makes no history"


def test_a_killed_watch_leaves_the_cursor(db: Path, write: Callable[..., int]) -> None:
    write()
    with watching(db) as terminal:
        terminal.wait_for("Ctrl-C ends")
        terminal.process.send_signal(signal.SIGKILL)
        terminal.wait()
        is_as_before(terminal)


def test_it_shows_a_new_round_and_ends_with_the_run(db: Path, write: Callable[..., int]) -> None:
    run_id = write()
    with watching(db) as terminal:
        terminal.wait_for("the last one at step 200")
        add_round(db, run_id, 300)
        terminal.wait_for("the last one at step 300")
        end(db, run_id)
        assert terminal.wait() == 0
        assert "finished at step 300" in terminal.shown
        is_as_before(terminal)


def test_it_draws_over_its_last_view_and_anew_in_another_width(db: Path, write: Callable[..., int]) -> None:
    write()
    with watching(db, columns=100, lines=30) as terminal:
        terminal.wait_for("Ctrl-C ends")
        again = terminal.read(1.0)
        assert again.count("\x1b[1A\x1b[2K") >= 10, "it goes up and clears line by line"
        terminal.resize(60, 30)
        terminal.shown = ""
        terminal.wait_for("Ctrl-C ends")
        terminal.read(0.5)
        lines = re.split(r"\r?\n", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r(?!\n)", "", terminal.shown))
        assert max(cell_len(line) for line in lines[-15:]) <= 60
        terminal.type(b"\x03")
        assert terminal.wait() == 0


def test_it_waits_for_the_history_then_for_the_run(db: Path) -> None:
    with watching(db, "later") as terminal:
        terminal.wait_for("no history at")
        with History.open(str(db)) as history:
            terminal.wait_for("no run 'later'")
            history.start_run(RunInfo("u", "later", "org/model", ("hint-mmlu",)))
        terminal.wait_for("no round was taken yet")
        end(db, 1)
        assert terminal.wait() == 0


def test_in_a_pipe_it_prints_a_snapshot_whenever_something_happened(db: Path, write: Callable[..., int]) -> None:
    run_id = write()

    def go_on() -> None:
        time.sleep(2.5)
        add_round(db, run_id, 300)
        time.sleep(1.0)
        end(db, run_id)

    host = threading.Thread(target=go_on)
    host.start()
    result = run_process("watch", "--db", db, "--every", 0.2)
    host.join()
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
    assert len(re.findall(r"^--- \d\d:\d\d:\d\d UTC$", result.out, re.MULTILINE)) == 3
    first, second, last = result.out.split("--- ")[1:]
    assert "the last one at step 200" in first
    assert "the last one at step 300" in second
    assert "finished at step 300" in last


def test_a_program_gets_an_object_a_line_whenever_something_happened(db: Path, write: Callable[..., int]) -> None:
    def go_on() -> None:
        time.sleep(2.5)
        run_id = write(alerts=[replace(DRIFTED, summary="[red]\x1b[2J\u202e\n")])
        time.sleep(1.0)
        end(db, run_id)

    host = threading.Thread(target=go_on)
    host.start()
    result = run_process("watch", "--db", db, "--every", 0.2, "--format", "json")
    host.join()
    assert (result.code, result.err) == (0, "")
    looks = [json.loads(line) for line in result.out.splitlines()]
    assert looks[0]["run"] is None
    assert "no history at" in looks[0]["trouble"]
    assert (looks[-1]["run"], looks[-1]["status"], looks[-1]["trouble"]) == ("sft-demo", "finished", None)
    assert looks[-1]["round"]["step"] == 200
    assert [alert["summary"] for alert in looks[-1]["alerts"]] == ["[red]\x1b[2J\u202e\n"]
    assert result.out.isascii()
    assert "\x1b" not in result.out


def test_a_run_that_has_ended_is_shown_once(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(status="failed", alerts=[DRIFTED])
    result = program("watch", "--db", db)
    assert (result.code, result.err) == (0, "")
    assert "failed at step 200" in result.out
    assert "behavior_drifted" in result.out


def test_what_waiting_cannot_help_is_said_at_once(
    program: Program, db: Path, write: Callable[..., int], tmp_path: Path
) -> None:
    write()
    other = tmp_path / "other.db"
    other.write_bytes(b"this is not a database, it only looks like a file" * 100)
    for args, says in (
        (("--db", other), "not a database"),
        (("--db", tmp_path), "is a directory"),
        (("--db", db, "--task", "nope"), "has no task 'nope': it has hint-mmlu"),
        (("--db", db, "--every", "0"), "every"),
    ):
        result = program("watch", *args)
        assert (result.code, result.out, says in result.err) == (2, "", True), result.err


def test_it_needs_no_torch_and_nothing_heavy(db: Path, write: Callable[..., int]) -> None:
    write(status="finished")
    heavy = ("torch", "transformers", "pyarrow", "scipy", "pandas", "alembic", "numpy")
    listed = (
        f"import atexit\natexit.register(lambda: sys.stderr.write(repr([m for m in {heavy!r} if m in sys.modules])))"
    )
    result = run_process("watch", "--db", db, prelude=listed)
    assert (result.code, result.err) == (0, "[]")


# ---- The look and the view, without a terminal ----------------------------------------------------------------------


def shown(look: Look, width: int = 100, height: int = 40) -> str:
    console = Console(width=width, height=height, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(render(look, console))
    return capture.get()


def later(look: Look, **ago: float) -> Look:
    """The same look, read so much later."""
    assert look.summary is not None
    return replace(look, summary=replace(look.summary, now=look.summary.now + timedelta(**ago)))


def test_a_late_round_and_a_silent_run_are_said_in_words(db: Path, write: Callable[..., int]) -> None:
    run_id = write(steps=())
    probes = make_probes(60)
    rollouts = make_rollouts(probes, 0.5)
    with History.open(str(db)) as history:
        started = history.find_run(None).resumed_at
        for step in (0, 100, 200):
            taken = Round(step, rollouts, started + timedelta(minutes=step / 10), 1.0)
            history.record_round(run_id, taken, score_by_task(rollouts, probes))
    look = Watched(str(db), None, None).look()
    assert look.every_s == 600
    assert "the last one at step 200, 9 min 59 s ago, usually every 10 min" in shown(later(look, minutes=30))
    assert "overdue: the last round was at step 200, 35 min" in shown(later(look, minutes=55.1))
    assert look.summary is not None
    silent = replace(look, summary=replace(look.summary, stale=True))
    assert "probably dead" in shown(silent)


def test_a_look_reads_only_what_is_new_and_sees_what_a_fresh_one_sees(
    db: Path, write: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = write()
    watched = Watched(str(db), None, None)
    watched.look()
    since: list[int | None] = []
    rounds = History.rounds

    def counted(self: History, run_id: int, *, since_step: int | None = None) -> Any:
        since.append(since_step)
        return rounds(self, run_id, since_step=since_step)

    monkeypatch.setattr(History, "rounds", counted)
    watched.look()
    assert since == []
    add_round(db, run_id, 300)
    with History.open(str(db)) as history:
        history.record_alert(run_id, DRIFTED)
    look = watched.look()
    assert since == [200]
    fresh = Watched(str(db), None, None).look()
    assert look.summary is not None
    assert fresh.summary is not None
    assert (look.summary.rounds, look.summary.rows, look.alarms) == (
        fresh.summary.rounds,
        fresh.summary.rows,
        fresh.alarms,
    )
    assert [alarm.name for alarm in look.alarms] == ["behavior_drifted"]


def test_the_run_stays_the_same_when_a_later_one_begins(db: Path, write: Callable[..., int]) -> None:
    first = write(name="again")
    watched = Watched(str(db), "again", None)
    watched.look()
    write(name="again", seed=1)
    look = watched.look()
    assert look.summary is not None
    assert (look.summary.run.id, look.trouble) == (first, None)


def test_a_history_that_vanishes_is_trouble_and_not_the_end(db: Path, write: Callable[..., int]) -> None:
    write()
    watched = Watched(str(db), None, None)
    watched.look()
    db.rename(db.with_suffix(".away"))
    look = watched.look()
    assert not look.ended
    assert "trying again: the history is gone" in shown(look)
    db.with_suffix(".away").rename(db)
    assert watched.look().trouble is None
    db.with_suffix(".bad").mkdir()
    with pytest.raises(IntrospectionError):
        Watched(str(db.with_suffix(".bad")), None, None).look()


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [10, 16, 24, 60])
def test_every_view_fits_and_hostile_text_is_inert(
    db: Path, write: Callable[..., int], width: int, height: int
) -> None:
    probes = [replace(probe, example=replace(probe.example, task=HOSTILE, cue=HOSTILE)) for probe in make_probes(20)]
    alarm = Alert(HOSTILE, HOSTILE, 100, "critical", HOSTILE * 30, HOSTILE)
    write(name=HOSTILE, model=HOSTILE, tasks=(HOSTILE,), probes=probes, alerts=[alarm], n=20)
    text = shown(Watched(str(db), None, None).look(), width, height)
    assert max(cell_len(line) for line in text.splitlines()) <= width
    assert not [c for c in text if c != "\n" and unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}]
    assert "[red]" in text
    if width >= 80 and height >= 24:
        assert len(text.splitlines()) < height
        assert "Self EM" in text
