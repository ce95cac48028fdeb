"""What the mixed losses were from round to round: measured in a real run, kept, and shown by every reading command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from cli_program import Program
from histories import write_run
from runs import sft, small_probe_set

from introspection_probe import IntrospectionCallback
from introspection_probe.history import History
from introspection_probe.records import MeanLoss
from iprobe.stored_runs import StoredSamples


@pytest.fixture
def iprobe(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(monkeypatch, capsys)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Two runs that mix in, and one that does not. In the second, the KL term breaks."""
    path = tmp_path / "h.db"
    with History.open(str(path)) as history:
        steps = (0, 100, 200, 300)
        fine, broken = (write_run(history, name=name, n=40, steps=steps, seed=1) for name in ("fine", "broken"))
        write_run(history, name="bare", n=40, steps=steps, seed=1)
        for run, last in ((fine, 0.0125), (broken, math.nan)):
            for step, explanation, kl in ((100, 1.5, 0.002), (200, 0.75, 0.01), (300, 0.5, last)):
                history.record_losses(run, step, {"explanation": MeanLoss(explanation, 100), "kl": MeanLoss(kl, 100)})
    return path


def trained(folder: Path, **config: Any) -> tuple[list[Any], list[dict[str, float]]]:
    """The losses in the history, and those that the host logged step by step."""
    callback = IntrospectionCallback(small_probe_set(), db=folder / "h.db", on_error="raise", **config)
    trainer = sft(folder / "out", callbacks=[callback], max_steps=5)
    trainer.train()
    with History.open(str(folder / "h.db"), must_exist=True) as history:
        kept = history.losses(history.find_run(None).id)
    return kept, [row for row in trainer.state.log_history if "introspection/explanation_loss" in row]


@pytest.mark.parametrize("probe_at_end", [True, False])
def test_the_mean_of_each_stretch_is_that_of_the_steps_which_the_host_logged(
    tmp_path: Path, probe_at_end: bool
) -> None:
    kept, logged = trained(tmp_path, probe_every=2, probe_at_end=probe_at_end)
    assert [(losses.step, losses.steps) for losses in kept] == [(2, 2), (4, 2), (5, 1)]
    for losses in kept:
        mine = [row for row in logged if losses.step - losses.steps < row["step"] <= losses.step]
        assert len(mine) == losses.steps
        for term in ("explanation", "kl"):
            assert losses.means[term] == pytest.approx(fmean(row[f"introspection/{term}_loss"] for row in mine), 1e-4)


def test_a_term_that_is_not_mixed_in_has_no_loss_and_a_run_that_mixes_nothing_has_none(tmp_path: Path) -> None:
    kept, _ = trained(tmp_path / "a", probe_every=5, kl_weight=0)
    assert [sorted(losses.means) for losses in kept] == [["explanation"]]
    assert trained(tmp_path / "b", probe_every=5, explanation_weight=0) == ([], [])


def test_every_reading_command_shows_them(iprobe: Program, db: Path, tmp_path: Path) -> None:
    words = "explanation 0.5 █▃▁ (1.5 at first), KL 0.0125 ▁▆█ (0.002 at first)"
    for command in (("report", "fine"), ("watch", "fine")):
        assert words in iprobe(*command, "--db", db, width=160).out
        assert "explanation" not in iprobe(command[0], "bare", "--db", db, width=160).out.split("Self EM")[0]
    page = tmp_path / "page.html"
    assert "mixed losses" in iprobe("report", "fine", "--db", db, "--format", "markdown", "--html", page).out
    figure = page.read_text().split("<strong>Mixed losses</strong>")[1].split("</figure>")[0]
    assert "Explanation: 1.5 at step 100, 0.5 at step 300." in figure
    assert "step 200: Explanation 0.75; KL 0.01" in figure
    iprobe("report", "bare", "--db", db, "--html", page)
    assert "Mixed losses" not in page.read_text()


def test_json_has_them_and_what_is_not_finite_is_null(iprobe: Program, db: Path) -> None:
    for run, last in (("fine", 0.0125), ("broken", None)):
        report = json.loads(iprobe("report", run, "--db", db, "--format", "json").out)
        assert [losses["step"] for losses in report["losses"]] == [100, 200, 300]
        assert report["losses"][-1] == {"step": 300, "steps": 100, "means": {"explanation": 0.5, "kl": last}}
    assert json.loads(iprobe("report", "bare", "--db", db, "--format", "json").out)["losses"] == []


def test_a_loss_that_was_no_number_is_called_so(iprobe: Program, db: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert "KL not finite ▁█  (0.002 at first)" in iprobe("report", "broken", "--db", db, "--html", page, width=160).out
    assert "KL: 0.002 at step 100, not finite at step 300." in page.read_text()
    assert "nan" not in page.read_text().lower().split("<strong>mixed losses")[1].split("</figure>")[0]


def test_a_comparison_sets_them_side_by_side(iprobe: Program, db: Path) -> None:
    for form in ("table", "markdown"):
        shown = iprobe("compare", "fine", "broken", "--db", db, "--format", form, width=160).out.replace("\\", "")
        assert "mixed losses: explanation 0.5, KL 0.0125" in shown
        assert "mixed losses: explanation 0.5, KL not finite" in shown
    found = json.loads(iprobe("compare", "fine", "bare", "--round", 200, "--db", db, "--format", "json").out)
    (task,) = found["tasks"]
    assert task["losses"] == {
        "a": {"step": 200, "steps": 100, "means": {"explanation": 0.75, "kl": 0.01}},
        "b": None,
    }


def test_serve_exports_the_last_ones(db: Path) -> None:
    samples = StoredSamples(lambda: History.open(str(db), must_exist=True), 10).read()
    found = {s.labels: s.value for s in samples if s.metric == "iprobe_mix_loss"}
    assert math.isnan(found.pop(("broken", "kl")))
    assert found == {("fine", "explanation"): 0.5, ("fine", "kl"): 0.0125, ("broken", "explanation"): 0.5}


def test_a_watch_can_be_read_by_a_program(iprobe: Program, db: Path) -> None:
    lines = iprobe("watch", "fine", "--db", db, "--format", "json").out.splitlines()
    (look,) = map(json.loads, lines)
    report = json.loads(iprobe("report", "fine", "--db", db, "--format", "json").out)
    assert look["round"] == report["rounds"][-1]
    assert look["losses"] == report["losses"][-1]
    assert look["verdict"] == report["verdict"]
    assert {key: look[key] for key in ("run", "run_id", "status", "step", "task")} == {
        "run": "fine",
        "run_id": report["run_id"],
        "status": "finished",
        "step": 300,
        "task": "hint-mmlu",
    }
    assert (look["rounds"], look["alerts"], look["trouble"]) == (4, [], None)
