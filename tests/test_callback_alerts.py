"""Alarms of a real run: told to people, kept in the history, exported, acted on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from runs import embedded_tokenizer, sft, small_probe_set
from transformers import TrainerCallback

from introspection_probe import IntrospectionCallback
from introspection_probe.alerts import CONDITIONS
from introspection_probe.history import History
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Alert
from introspection_probe.rollout import Prober


class Metrics(TrainerCallback):
    """What a scrape sees after each step."""

    def __init__(self, callback: IntrospectionCallback) -> None:
        self._callback = callback
        self.pages: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with urlopen(f"http://127.0.0.1:{self._callback.metrics_port}/metrics", timeout=5) as page:
            self.pages.append(page.read().decode())


def sides_swapped() -> ProbeSet:
    """Measured on what :func:`small_probe_set` trains on: a tiny model explains those examples perfectly."""
    original = small_probe_set()
    other = {"train": "probe", "probe": "train"}
    return ProbeSet.from_probes(
        [replace(probe, split=other[probe.split]) for probe in original.probes],
        task=original.task,
        style=original.style,
        tokenizer=embedded_tokenizer(),
    )


def drifting(folder: Path, probe_set: ProbeSet | None = None, **config: Any) -> tuple[Any, IntrospectionCallback]:
    """A run whose behaviour is torn away from M0's."""
    callback = IntrospectionCallback(
        probe_set or small_probe_set(),
        db=folder / "h.db",
        probe_every=2,
        explanation_weight=0,
        on_error="raise",
        **config,
    )
    return callback, {"learning_rate": 2e-2, "max_steps": 8, "save_strategy": "no"}


def test_an_alarm_reaches_the_function_the_history_and_the_metrics(tmp_path: Path) -> None:
    told: list[Alert] = []
    callback, arguments = drifting(tmp_path, on_alert=told.append, prometheus_port=0)
    metrics = Metrics(callback)
    sft(tmp_path / "out", callbacks=[callback, metrics], **arguments).train()
    assert "behavior_drifted" in {alert.name for alert in told}
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        kept = {alert.name for alert in history.alerts(history.find_run(None).id)}
    assert kept == {alert.name for alert in told}
    assert 'iprobe_alert_active{alert="behavior_drifted"' in metrics.pages[-1]
    assert 'alert="behavior_drifted"' not in metrics.pages[0]


def test_stop_saves_a_checkpoint_and_ends_the_run_at_the_first_critical_alarm(tmp_path: Path) -> None:
    told: list[Alert] = []
    callback, arguments = drifting(tmp_path, sides_swapped(), on_alert=["stop", told.append])
    # A model that explains itself, then forgets: taught first, then only the host's data at a high rate.
    trained = sft(
        tmp_path / "taught",
        callbacks=[
            IntrospectionCallback(
                small_probe_set(), db=tmp_path / "t.db", mix_batch_size=16, probe_at_start=False, probe_at_end=False
            )
        ],
        max_steps=60,
        learning_rate=3e-3,
    )
    trained.train()
    trainer = sft(tmp_path / "out", callbacks=[callback], model=trained.model, **arguments)
    trainer.train()
    critical = [alert for alert in told if alert.severity == "critical"]
    assert critical
    stopped = critical[0].step
    assert trainer.state.global_step == stopped < 8
    assert (tmp_path / "out" / f"checkpoint-{stopped}" / "model.safetensors").exists()
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert history.find_run(None).status == "stopped"


def test_alarms_of_a_resumed_run_go_on_where_they_were(tmp_path: Path) -> None:
    def run(steps: int, **more: Any) -> list[Alert]:
        told: list[Alert] = []
        callback, arguments = drifting(tmp_path, on_alert=told.append)
        trainer = sft(
            tmp_path / "out",
            callbacks=[callback],
            **{**arguments, "max_steps": steps, "save_strategy": "steps", "save_steps": 8},
        )
        trainer.train(**more)
        return told

    assert "behavior_drifted" in {alert.name for alert in run(8)}
    # Raised already: it stands, so nobody is told again.
    assert "behavior_drifted" not in {alert.name for alert in run(12, resume_from_checkpoint=True) if alert.active}


def test_what_came_after_the_checkpoint_is_forgotten_and_what_stood_there_is_exported_at_once(tmp_path: Path) -> None:
    def run(steps: int, **more: Any) -> list[str]:
        callback, arguments = drifting(tmp_path, prometheus_port=0, probe_at_end=False)
        metrics = Metrics(callback)
        saving = {**arguments, "max_steps": steps, "save_strategy": "steps", "save_steps": 4}
        sft(tmp_path / "out", callbacks=[callback, metrics], **saving).train(**more)
        return metrics.pages

    run(7)
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        first = history.find_run(None)
        history.record_alert(first.id, Alert("answers_collapsed", "jabberwocky", 6, "critical", "All are A.", "Stop."))
        stood = {alert.name for alert in history.alerts(first.id) if alert.stood_at(4)}
        assert [scored.step for scored in history.rounds(first.id)] == [0, 2, 4, 6]
    assert stood
    (page,) = run(5, resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert history.find_run(None).id == first.id
        assert [scored.step for scored in history.rounds(first.id)] == [0, 2, 4]
        assert {alert.name for alert in history.alerts(first.id, active_only=True)} == stood
    lines = [line for line in page.splitlines() if line.startswith("iprobe_alert_active{")]
    assert {
        name for name in CONDITIONS for line in lines if f'alert="{name}"' in line and line.endswith(" 1.0")
    } == stood


def test_a_run_that_cannot_be_scraped_writes_its_metrics_and_takes_them_away_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "textfile"
    folder.mkdir()
    seen: list[str] = []

    class Look(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            seen.extend(file.read_text() for file in folder.glob("*.prom"))

    callback, arguments = drifting(tmp_path, prometheus=f"textfile:{folder}")
    sft(tmp_path / "out", callbacks=[callback, Look()], **arguments).train()
    assert any("iprobe_" in page for page in seen)
    assert not list(folder.glob("*.prom"))


def test_rounds_that_do_not_come_are_told_once_and_are_over_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Alert] = []
    measure = Prober.measure

    def broken_for_a_while(self: Prober, model: Any, *, step: int, **options: Any) -> Any:
        if 1 <= step <= 5:
            raise RuntimeError("the probe broke")
        return measure(self, model, step=step, **options)

    monkeypatch.setattr(Prober, "measure", broken_for_a_while)
    callback = IntrospectionCallback(
        small_probe_set(), db=tmp_path / "h.db", probe_every=1, explanation_weight=0, on_alert=told.append
    )
    sft(tmp_path / "out", callbacks=[callback], max_steps=7, learning_rate=1e-6).train()
    stale = [(alert.step, alert.active) for alert in told if alert.name == "round_stale"]
    # One is missing after three: the fourth step without a round says so.
    assert stale == [(4, True), (6, False)]
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        (kept,) = (a for a in history.alerts(history.find_run(None).id) if a.name == "round_stale")
    assert (kept.raised_step, kept.cleared_step) == (4, 6)


def test_an_overhead_that_leaves_no_room_for_rounds_is_told(tmp_path: Path) -> None:
    told: list[Alert] = []
    callback = IntrospectionCallback(
        small_probe_set(),
        db=tmp_path / "h.db",
        probe_every=1,
        max_overhead=1e-6,
        on_alert=told.append,
        probe_at_end=False,
    )
    sft(tmp_path / "out", callbacks=[callback], max_steps=6).train()
    assert [(alert.step, alert.active) for alert in told if alert.name == "round_stale"] == [(4, True)]


def test_an_alarm_about_missing_rounds_outlives_a_restart(tmp_path: Path) -> None:
    def run(steps: int, probe_at_end: bool, **more: Any) -> list[tuple[int, bool]]:
        told: list[Alert] = []
        callback = IntrospectionCallback(
            small_probe_set(),
            db=tmp_path / "h.db",
            probe_every=1,
            max_overhead=1e-6,
            probe_at_end=probe_at_end,
            on_alert=told.append,
        )
        arguments = {"max_steps": steps, "save_strategy": "steps", "save_steps": 5}
        sft(tmp_path / "out", callbacks=[callback], **arguments).train(**more)
        return [(alert.step, alert.active) for alert in told if alert.name == "round_stale"]

    assert run(5, probe_at_end=False) == [(4, True)]
    assert run(7, probe_at_end=True, resume_from_checkpoint=True) == [(6, False)]
