"""What the doctor says about power is what simulated runs show, judged by the monitor and by the paired interval."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from doctored import probe_set

from introspection_probe.alerts import AlertConfig
from introspection_probe.alerts.monitor import Monitor, TaskRound
from introspection_probe.doctor import Settings, examine
from introspection_probe.doctor.power import (
    CHURN,
    EXACT_MATCH,
    alarm_power,
    interval_power,
    probes_needed,
    smallest_seen,
)
from introspection_probe.records import Explanation, Probe, Rollout
from introspection_probe.scoring.comparison import count_pairs
from introspection_probe.scoring.rounds import score_round

RUNS = 300
Bits = np.ndarray


def after_a_fall(before: Bits, fall: float, rng: np.random.Generator) -> Bits:
    """Each probe is lost with chance churn + fall, gained with churn, as shares of all probes."""
    share = before.mean()
    lost = rng.random(before.size) < (CHURN + fall) / share
    gained = rng.random(before.size) < CHURN / (1 - share)
    return np.where(before, ~lost, gained)


def before_of(n: int) -> Bits:
    return np.arange(n) < EXACT_MATCH * n


def margin(chance: float) -> float:
    """Four standard errors of a share over so many runs, and a little."""
    return 4 * (chance * (1 - chance) / RUNS) ** 0.5 + 0.01


@pytest.mark.parametrize(("n", "fall"), [(200, 0.08), (200, 0.03), (500, 0.05), (60, 0.15)])
def test_the_chance_that_an_interval_shows_a_fall_is_that_of_simulated_rounds(n: int, fall: float) -> None:
    rng = np.random.default_rng(n)
    before = before_of(n)
    seen = 0
    for _ in range(RUNS):
        interval = count_pairs(zip(before.tolist(), after_a_fall(before, fall, rng).tolist(), strict=True)).interval()
        seen += interval is not None and interval.upper < 0
    expected = interval_power(n, fall)
    assert seen / RUNS == pytest.approx(expected, abs=margin(expected))


@cache
def probes_of(n: int) -> tuple[Probe, ...]:
    return probe_set(n=n, probe_share=1.0).probes


def task_round(step: int, right: Bits) -> TaskRound:
    rollouts = []
    probes = probes_of(right.size)
    for probe, matched in zip(probes, right.tolist(), strict=True):
        true = probe.behavior.explanation
        wrong = "ABCD"[("ABCD".index(true.content) + 1) % 4]
        said = true if matched else Explanation(true.changed, wrong)
        rollouts.append(Rollout(probe.example.id, probe.behavior, "", said))
    return TaskRound(step, score_round(rollouts, probes), rollouts)


@pytest.mark.parametrize(("n", "fall", "look"), [(200, 0.14, 1), (200, 0.16, 3), (400, 0.08, 2)])
def test_the_chance_of_an_alarm_is_that_of_the_monitor(n: int, fall: float, look: int) -> None:
    rng = np.random.default_rng(look)
    before = before_of(n)
    quiet = [task_round(step, before) for step in range(look)]
    raised = 0
    for _ in range(RUNS):
        monitor = Monitor("made", AlertConfig())
        for round_ in quiet:
            assert not monitor.look(round_).raised
        judged = monitor.look(task_round(look, after_a_fall(before, fall, rng)))
        raised += "explanations_drifted" in {alert.name for alert in judged.raised}
    expected = alarm_power(n, fall, look=look)
    assert 0.1 < expected < 0.95
    assert raised / RUNS == pytest.approx(expected, abs=margin(expected))


def test_the_smallest_fall_and_the_probes_it_needs_agree() -> None:
    for power in (interval_power, partial(alarm_power, look=5)):
        for n in (100, 1000):
            seen = smallest_seen(n, power)
            assert seen is not None
            assert power(n, seen) >= 0.8 > power(n, seen - 0.005)
            needed = probes_needed(seen, power)
            assert needed is not None
            assert needed == pytest.approx(n, rel=0.12)
    assert probes_needed(0.02, partial(alarm_power, look=5)) is None  # the alarm is quiet below alert_min_effect


def test_two_hundred_probes_do_not_show_a_fall_under_eight_points() -> None:
    found = {f.code: f for f in examine(probe_set(n=400), effect=0.05).findings}
    assert found["power_interval"].level == "warning"
    assert "with 200 probes a change of Self EM under 8." in found["power_interval"].reason
    assert "build 470 probes" in found["power_interval"].remedy
    limited = {f.code: f for f in examine(probe_set(n=1000), Settings(max_probes=200)).findings}
    assert limited["power_interval"].value == found["power_interval"].value
    enough = {f.code: f.level for f in examine(probe_set(n=1000), effect=0.05).findings}
    assert enough["power_interval"] == "ok"
