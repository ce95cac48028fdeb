"""Change-points in the report: the step at which Self EM fell or rose, when that is significant."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cli_program import Program, run_process
from histories import make_probes

from introspection_probe.history import History
from introspection_probe.records import Behavior, Probe, Rollout, Round, RunInfo
from introspection_probe.scoring import score_by_task
from introspection_probe.scoring.drift import change_points
from introspection_probe.tasks.explanations import parse, to_text
from iprobe.shifts import find_shifts


@pytest.fixture
def iprobe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capsys)


def write(db: Path, rates: list[float], *, n: int = 200, tasks: tuple[str, ...] = ("hint-mmlu",)) -> int:
    """A run whose explanations are right at these rates, one round each 100 steps."""
    probes = [probe for task in tasks for probe in make_probes(n, task)]
    with History.open(str(db)) as history:
        run_id = history.start_run(RunInfo("u", "run", "m", tasks))
        for task in tasks:
            mine = [probe for probe in probes if probe.example.task == task]
            history.save_probe_set(run_id, content_hash=task, name=task, task=task, model="m", manifest={}, probes=mine)
        rng = random.Random(0)
        for place, rate in enumerate(rates):
            rollouts = tuple(rollout(probe, rng.random() < rate) for probe in probes)
            at = datetime.now(UTC) - timedelta(minutes=len(rates) - place)
            history.record_round(run_id, Round(100 * place, rollouts, at, 1.0), score_by_task(rollouts, probes))
        history.update_run(run_id, status="finished")
    return run_id


def rollout(probe: Probe, right: bool) -> Rollout:
    truth = probe.behavior.explanation
    text = to_text(truth if right else replace(truth, changed=not truth.changed))
    return Rollout(
        probe.example.id, Behavior(probe.behavior.included, probe.behavior.ablated), text, parse(text, "ABCD")
    )


def test_a_sharp_fall_is_said_in_one_sentence_with_its_step(iprobe: Program, tmp_path: Path) -> None:
    db = tmp_path / "h.db"
    write(db, [0.85] * 6 + [0.5] * 6)
    out = " ".join(iprobe("report", "--db", db).out.split())
    assert out.count("fell sharply") == 1
    assert "Around step 600 Self EM fell sharply, from 0.8" in out
    assert "Around step 600 Self EM fell sharply" in iprobe("report", "--db", db, "--format", "markdown").out
    [point] = json.loads(iprobe("report", "--db", db, "--format", "json").out)["change_points"]
    assert (point["after_step"], point["step"]) == (500, 600)
    assert point["before"] - point["after"] == pytest.approx(0.35, abs=0.06)
    assert point["p"] < 1e-6


def test_a_rise_and_a_fall_are_both_told_in_order(iprobe: Program, tmp_path: Path) -> None:
    db = tmp_path / "h.db"
    write(db, [0.1] * 5 + [0.9] * 8 + [0.6] * 5)
    out = " ".join(iprobe("report", "--db", db).out.split())
    assert "Around step 500 Self EM rose sharply, from 0." in out
    assert ", and around step 1300 it fell sharply, from 0." in out


@pytest.mark.parametrize("rates", [[0.8] * 12, [0.9 - 0.04 * k for k in range(12)], [0.8]])
def test_steady_and_sliding_runs_have_no_sharp_shift(iprobe: Program, tmp_path: Path, rates: list[float]) -> None:
    db = tmp_path / "h.db"
    write(db, rates, n=400)
    assert "sharply" not in iprobe("report", "--db", db).out
    assert json.loads(iprobe("report", "--db", db, "--format", "json").out)["change_points"] == []


def test_it_is_what_the_monitor_finds_with_every_round_in_memory(tmp_path: Path) -> None:
    db = tmp_path / "h.db"
    run_id = write(db, [0.5, 0.5, 0.9, 0.9, 0.9, 0.8, 0.8, 0.3, 0.3, 0.3, 0.9], n=150, tasks=("aita", "hint-mmlu"))
    with History.open(str(db)) as history:
        rounds = history.rounds(run_id)
        for task in ("aita", "hint-mmlu"):
            rows = [
                bytes(r.predicted == r.behavior.explanation for r in history.rollouts(run_id, scored.step, task=task))
                for scored in rounds
            ]
            expected = change_points([scored.step for scored in rounds], rows)
            assert len(expected) >= 2
            assert find_shifts(history, run_id, task, rounds) == tuple(expected)


def test_only_the_rounds_around_a_shift_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = tmp_path / "h.db"
    run_id = write(db, [0.85] * 50 + [0.5] * 50, n=600)
    read: list[int] = []
    matches = History.matches

    def counted(self: History, run_id: int, step: int, *, task: str | None = None) -> dict[int, bool]:
        read.append(step)
        return matches(self, run_id, step, task=task)

    with History.open(str(db)) as history:
        rounds = history.rounds(run_id)
        monkeypatch.setattr(History, "matches", counted)
        [shift] = find_shifts(history, run_id, "hint-mmlu", rounds)
    assert shift.step == 5000
    assert len(read) == len(set(read)) <= 16


def test_a_shift_needs_neither_numpy_nor_scipy(tmp_path: Path) -> None:
    db = tmp_path / "h.db"
    write(db, [0.85] * 6 + [0.5] * 6)
    listed = "import atexit\natexit.register(lambda: sys.stderr.write(repr({'numpy', 'scipy'} & set(sys.modules))))"
    result = run_process("report", "--db", db, prelude=listed, env={"COLUMNS": "200"})
    assert (result.code, result.err) == (0, "set()")
    assert "fell sharply" in result.out
