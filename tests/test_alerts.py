"""Every condition is raised when it holds, stays quiet when it does not, and ends when it is over."""

from __future__ import annotations

import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binomtest
from scored_examples import OPTIONS, make_probe

from introspection_probe.alerts import (
    CONDITIONS,
    AlertConfig,
    Judgement,
    Monitor,
    RunMonitor,
    TaskRound,
    evaluate,
    round_stale,
)
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Explanation, Rollout
from introspection_probe.scoring import score_by_task, score_round
from introspection_probe.scoring.comparison import compare

Said = Explanation | None
N = 400
ALARMS = Path(__file__).parent.parent / "docs" / "alarms.md"


def m0(seed: int = 0, n: int = N) -> list[Behavior]:
    """What the starting model answers: half of the answers change with the cue."""
    rng = random.Random(seed)
    return [Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS)) for _ in range(n)]


ORIG = m0()


def truthful(rng: random.Random, now: Behavior, old: Behavior) -> Said:
    """Right about itself 80% of the time."""
    return now.explanation if rng.random() < 0.8 else Explanation(rng.random() < 0.5, rng.choice(OPTIONS))


def taken(
    step: int,
    explain: Callable[[random.Random, Behavior, Behavior], Said] = truthful,
    *,
    moved: float = 0.1,
    now: list[Behavior] | None = None,
    orig: list[Behavior] | None = None,
    labels: dict[int, Explanation] | None = None,
) -> TaskRound:
    """A round at which a share of the behaviours has moved since M0."""
    rng = random.Random(step + 1)
    orig = ORIG if orig is None else orig
    current = now or [Behavior(b.ablated, b.included) if i < moved * len(orig) else b for i, b in enumerate(orig)]
    probes = [make_probe(str(i), behavior) for i, behavior in enumerate(orig)]
    rollouts = [
        Rollout(str(i), behavior, "", explain(rng, behavior, old))
        for i, (behavior, old) in enumerate(zip(current, orig, strict=True))
    ]
    return TaskRound(step, score_round(rollouts, probes), rollouts)


def names(rounds: list[TaskRound], **options: AlertConfig) -> set[str]:
    return {alert.name for alert in evaluate(rounds, task="letters", **options)}


GOOD = [taken(step) for step in (0, 100, 200)]


def test_a_healthy_run_is_quiet():
    assert evaluate([taken(step, moved=step / 10_000) for step in range(0, 1000, 100)]) == []


def test_explanations_drifted():
    worse = taken(300, lambda rng, now, old: truthful(rng, now, old) if rng.random() < 0.7 else Explanation(True, "A"))
    (alert,) = evaluate([*GOOD, worse], task="letters")
    assert (alert.name, alert.severity, alert.step, alert.task) == ("explanations_drifted", "critical", 300, "letters")
    assert "on the same 400 examples" in alert.summary
    assert f"{worse.scores.self_scores.exact_match:.2f} at step 300" in alert.summary
    assert "sharply between step 200 and step 300" in alert.summary


def test_a_slow_fall_is_not_called_sharp():
    def fading(step: int) -> TaskRound:
        share = step / 4000
        return taken(
            step, lambda rng, now, old: Explanation(True, "A") if rng.random() < share else truthful(rng, now, old)
        )

    (alert,) = evaluate([fading(step) for step in range(0, 2000, 100)])
    assert alert.name == "explanations_drifted"
    assert "step by step rather than at once" in alert.summary


def test_a_fall_from_the_best_round_counts_where_the_baseline_could_not_explain_itself():
    """A run from scratch starts at Self EM 0, below which nothing can fall."""
    rounds = [
        taken(0, lambda rng, now, old: None),
        *(taken(step) for step in range(100, 600, 100)),
        taken(600, lambda rng, now, old: truthful(rng, now, old) if rng.random() < 0.5 else Explanation(True, "A")),
    ]
    assert names(rounds[:-1]) == set()
    (alert,) = evaluate(rounds)
    assert alert.name == "explanations_drifted"
    assert "at step 0 to" not in alert.summary


def test_coupling_lost_and_explanations_describe_the_old_model():
    stale = taken(300, lambda rng, now, old: old.explanation, moved=0.25)
    assert names([taken(0, lambda rng, now, old: old.explanation, moved=0), stale]) >= {
        "coupling_lost",
        "explanations_describe_old_model",
    }
    few = taken(300, lambda rng, now, old: old.explanation, moved=0.06)
    config = AlertConfig(min_effect=0.1)
    assert names([taken(0, moved=0), few], config=config) == {"explanations_describe_old_model"}


def test_behavior_drifted_beyond_its_limit():
    assert "behavior_drifted" not in names([taken(0, moved=0), taken(100, moved=0.25)])
    changed = [Behavior("A", "B") if i < 180 else b for i, b in enumerate(ORIG)]
    alerts = evaluate([taken(0, moved=0), taken(100, now=changed)])
    (alert,) = (alert for alert in alerts if alert.name == "behavior_drifted")
    moved = sum(a != b for a, b in zip(changed, ORIG, strict=True))
    assert f"{moved} of 400" in alert.summary


def test_label_agreement_low():
    changed = [Behavior(b.ablated, b.included) if i < 220 else b for i, b in enumerate(ORIG)]
    low = taken(100, now=changed)
    assert low.scores.label_agreement < 0.6
    assert "label_agreement_low" in names([taken(0, moved=0), low])
    near = taken(100, now=[Behavior("A", "B") if i < 150 else b for i, b in enumerate(ORIG)])
    assert 0.68 < near.scores.label_agreement < 0.75
    assert "label_agreement_low" not in names([taken(0, moved=0), near])


def test_explanations_degenerate():
    def always(rng: random.Random, now: Behavior, old: Behavior) -> Said:
        return Explanation(True, now.ablated)

    assert "explanations_degenerate" in names([*GOOD, taken(300, always)])
    # A class that hardly occurs may well be missing.
    few = [Behavior("A", "A") if i < 4 else Behavior("B", "A") for i in range(N)]
    rounds = [taken(step, always, now=few, orig=few) for step in (0, 100)]
    assert "explanations_degenerate" not in names(rounds)


def test_parse_failures():
    def mumbling(rng: random.Random, now: Behavior, old: Behavior) -> Said:
        return truthful(rng, now, old) if rng.random() < 0.75 else None

    alerts = evaluate([*GOOD, taken(300, mumbling)])
    assert "parse_failures" in {alert.name for alert in alerts}


def test_a_model_that_never_explained_itself_has_time_to_learn():
    def silent(rng: random.Random, now: Behavior, old: Behavior) -> Said:
        return None

    rounds = [taken(step, silent) for step in range(0, 500, 100)]
    assert names(rounds[:4]) == set()
    assert names(rounds) == {"parse_failures"}


def test_answers_collapsed():
    collapsed = [Behavior("C", "C") if i < 396 else b for i, b in enumerate(ORIG)]
    alerts = evaluate([*GOOD, taken(300, now=collapsed)])
    (alert,) = (alert for alert in alerts if alert.name == "answers_collapsed")
    assert "the one answer 'C'" in alert.summary


def test_a_probe_set_without_signal_is_told_at_the_first_round_and_stays():
    dull = [Behavior("B", "A") if i < 10 else Behavior("A", "A") for i in range(N)]
    rounds = [taken(step, now=dull, orig=dull) for step in (0, 100)]
    monitor = Monitor("letters")
    first = monitor.look(rounds[0])
    assert [alert.name for alert in first.raised] == ["probe_set_without_signal"]
    assert "in only 10 of 400" in first.raised[0].summary
    second = monitor.look(rounds[1])
    assert [alert.name for alert in second.active] == ["probe_set_without_signal"]
    assert second.raised == ()


def test_round_stale_just_before_and_just_after():
    assert round_stale("letters", step=400, last=100, now=400, every=100) is None
    alert = round_stale("letters", step=401, last=100, now=401, every=100)
    assert alert is not None
    assert "301 steps ago" in alert.summary


def test_an_alert_is_raised_once_kept_with_new_numbers_and_ended():
    monitor = Monitor("letters")
    bad = [
        taken(step, lambda rng, now, old: truthful(rng, now, old) if rng.random() < 0.5 else Explanation(False, "A"))
        for step in (300, 400)
    ]
    judged = [monitor.look(round_) for round_ in [*GOOD, *bad, taken(500)]]
    assert [[a.name for a in j.raised] for j in judged] == [[], [], [], ["explanations_drifted"], [], []]
    assert [[a.name for a in j.active] for j in judged[3:]] == [["explanations_drifted"]] * 2 + [[]]
    assert judged[4].active[0].step == 400
    (over,) = judged[5].cleared
    assert (over.name, over.step, over.active) == ("explanations_drifted", 500, False)


def test_a_small_change_is_quiet_however_significant():
    rounds = [
        taken(0, lambda rng, now, old: now.explanation),
        taken(100, lambda rng, now, old: None if now.explanation == Explanation(True, "A") else now.explanation),
    ]
    fall = rounds[0].scores.self_scores.exact_match - rounds[1].scores.self_scores.exact_match
    assert 0.1 < fall < 0.3
    assert "explanations_drifted" in names(rounds)
    assert "explanations_drifted" not in names(rounds, config=AlertConfig(min_effect=0.35))


def test_the_run_is_compared_with_a_pinned_baseline():
    earlier = taken(5000, lambda rng, now, old: now.explanation)
    assert evaluate([taken(0)]) == []
    assert {alert.name for alert in evaluate([taken(0)], baseline=earlier)} == {"explanations_drifted"}


def test_rounds_are_paired_by_example_id_not_by_place():
    shuffled = [TaskRound(r.step, r.scores, random.Random(0).sample(r.rollouts, len(r.rollouts))) for r in GOOD]
    worse = taken(300, lambda rng, now, old: truthful(rng, now, old) if rng.random() < 0.7 else Explanation(True, "A"))
    assert evaluate([*shuffled, worse]) == evaluate([*GOOD, worse])


def test_rounds_without_a_common_example_are_refused():
    other = [Rollout("other", Behavior("A", "B"), "", None)]
    scores = score_round(other, [make_probe("other", Behavior("A", "B"))])
    with pytest.raises(IntrospectionError, match="step 7 has no example of the baseline"):
        evaluate([GOOD[0], TaskRound(7, scores, other)])
    with pytest.raises(IntrospectionError, match="'letters' is empty"):
        evaluate([TaskRound(0, score_round([], []), [])], task="letters")


@pytest.mark.parametrize(
    "wrong", [{"alpha": 0}, {"alpha": 1}, {"min_effect": -0.1}, {"max_parse_failures": 10}, {"grace_rounds": -1}]
)
def test_impossible_settings_are_refused_by_name(wrong):
    with pytest.raises(IntrospectionError, match=next(iter(wrong))):
        AlertConfig(**wrong)


def test_whole_runs_without_change_stay_silent_where_the_naive_test_does_not():
    """120 runs of 30 rounds, in which every explanation is right or wrong by a chance of its own that never changes."""
    alarms = naive = 0
    orig = m0(n=80)
    for run in range(120):
        rng = random.Random(run)
        chance = [rng.choice([0.1, 0.5, 0.9, 0.95]) for _ in orig]
        probes = [make_probe(str(i), behavior) for i, behavior in enumerate(orig)]
        monitor = Monitor("letters", AlertConfig(min_effect=0.001))
        first: list[Rollout] = []
        naive_alarm = alarm = False
        for step in range(30):
            rollouts = [
                Rollout(
                    str(i), b, "", b.explanation if rng.random() < p else Explanation(not b.explanation.changed, "A")
                )
                for i, (b, p) in enumerate(zip(orig, chance, strict=True))
            ]
            monitor.look(TaskRound(step, score_round(rollouts, probes), rollouts))
            first = first or rollouts
            alarm |= bool(monitor.active)
            naive_alarm |= compare(first, rollouts).p_fall <= 0.01
        alarms += alarm
        naive += naive_alarm
    assert alarms <= 4  # P(Binomial(120, 0.01) > 4) = 0.008
    assert naive >= 12


def test_the_rule_is_the_one_that_the_documentation_gives():
    """The first alarm of runs that fall, against a plain loop over scipy's binomial test."""
    orig = m0(n=120)
    probes = [make_probe(str(i), behavior) for i, behavior in enumerate(orig)]
    firsts = []
    for run in range(12):
        rng = random.Random(run)
        right = [[rng.random() < (0.9 if step < 4 else 0.9 - 0.05 * run) for _ in orig] for step in range(15)]
        monitor, first = Monitor("letters"), None
        for step, row in enumerate(right):
            rollouts = [
                Rollout(str(i), b, "", b.explanation if ok else Explanation(b.explanation.changed, "E"))
                for i, (b, ok) in enumerate(zip(orig, row, strict=True))
            ]
            judged = monitor.look(TaskRound(step, score_round(rollouts, probes), rollouts))
            if first is None and judged.raised:
                first = step
        firsts.append(first)
        assert first == plain_first_alarm(right)
    assert len(set(firsts)) > 2  # early, late and never


def plain_first_alarm(right: list[list[bool]]) -> int | None:
    for look in range(1, len(right)):
        best = max(range(look), key=lambda step: sum(right[step]))
        for reference in (0, best):
            lost = sum(a and not b for a, b in zip(right[reference], right[look], strict=True))
            gained = sum(b and not a for a, b in zip(right[reference], right[look], strict=True))
            weight = (6 / math.pi**2) ** 2 / (look**2 * (reference + 1) ** 2)
            if lost - gained >= 0.02 * len(right[0]) and (
                binomtest(lost, lost + gained, alternative="greater").pvalue <= 0.01 / 7 * weight
            ):
                return look
    return None


def test_tasks_of_a_run_are_judged_apart_and_share_the_budget():
    task_of = {f"{task}{i}": task for task in "xy" for i in range(N)}

    def both(step: int, **options) -> tuple[int, list[Rollout], dict]:
        fine, other = taken(step), taken(step, **options)
        rollouts = [
            Rollout(task + r.example_id, r.behavior, "", r.predicted)
            for task, part in (("x", fine), ("y", other))
            for r in part.rollouts
        ]
        probes = [make_probe(task + str(i), b, task=task) for task in "xy" for i, b in enumerate(ORIG)]
        return step, rollouts, score_by_task(rollouts, probes)

    monitor = RunMonitor(task_of)
    assert monitor.look(*both(0)).active == ()
    judged = monitor.look(*both(100, explain=lambda rng, now, old: None))
    assert {(alert.name, alert.task) for alert in judged.raised} == {
        ("explanations_drifted", "y"),
        ("parse_failures", "y"),
    }
    assert monitor.change_points()["x"] == []
    assert [point.step for point in monitor.change_points()["y"]] == [100]
    with pytest.raises(IntrospectionError, match="'stray' at step 200 is not in this run's probe set"):
        monitor.look(200, [Rollout("stray", Behavior("A", "B"), "", None)], {})


def test_what_stands_about_a_task_stands_on_while_it_is_not_measured():
    """A judge that is down leaves one task without a single answer, and says nothing about its alarms."""
    monitor = RunMonitor({f"{task}{i}": task for task in "xy" for i in range(N)})

    def take(step: int, **explain: Callable[[random.Random, Behavior, Behavior], Said]) -> Judgement:
        rounds = {task: taken(step, how) for task, how in explain.items()}
        rollouts = [
            replace(r, example_id=task + r.example_id) for task, round_ in rounds.items() for r in round_.rollouts
        ]
        return monitor.look(step, rollouts, {task: round_.scores for task, round_ in rounds.items()})

    def standing(judged: Judgement) -> set[tuple[str, str]]:
        return {(alert.name, alert.task) for alert in judged.active}

    take(0, x=truthful, y=truthful)
    before = take(100, x=truthful, y=lambda rng, now, old: None)
    assert ("parse_failures", "y") in standing(before)
    judged = take(200, x=truthful)
    assert standing(judged) == standing(before)
    assert (judged.raised, judged.cleared) == ((), ())
    # And the task that is measured does not hide that the other is overdue.
    assert monitor.look_between(400, every=100, began=0) is None
    take(400, x=truthful)
    stale = monitor.look_between(401, every=100, began=0)
    assert stale is not None
    assert [(alert.name, alert.task) for alert in stale.raised] == [("round_stale", "y")]
    assert standing(take(500, x=truthful)) == {*standing(before), ("round_stale", "y")}
    over = take(600, x=truthful, y=truthful).cleared
    assert {(alert.name, alert.step) for alert in over} >= {("round_stale", 600), ("parse_failures", 600)}


def test_labels_that_are_not_taught_need_not_be_true():
    changed = [Behavior(b.ablated, b.included) if i < 220 else b for i, b in enumerate(ORIG)]
    rounds = [taken(0, moved=0), taken(100, now=changed)]
    task_of = {str(i): "letters" for i in range(N)}
    for untaught in ((), ("letters",)):
        monitor = RunMonitor(task_of, untaught=untaught)
        for round_ in rounds:
            judged = monitor.look(round_.step, round_.rollouts, {"letters": round_.scores})
        found = {alert.name for alert in judged.active}
        assert ("label_agreement_low" in found) is (not untaught)
        assert "behavior_drifted" in found


def test_rounds_that_a_budget_holds_back_are_told_of_once():
    """They are due every 10 steps and fit into the budget every 200."""
    monitor, told = RunMonitor({str(i): "letters" for i in range(N)}), []
    for step in range(0, 2001):
        if step % 200 == 0:
            round_ = taken(step)
            monitor.look(step, round_.rollouts, {"letters": round_.scores})
        judged = monitor.look_between(step, every=10, began=0, stretched=True)
        told += [] if judged is None else [alert.step for alert in judged.raised]
    assert told == [31]
    assert monitor.look_between(2600, every=10, began=0, stretched=True) is None
    judged = monitor.look_between(2601, every=10, began=0, stretched=True)
    assert judged is not None
    assert "601 steps ago, and one was due every 200" in judged.raised[0].summary


WORST: dict[str, tuple[Callable[[Behavior, Behavior], Said], Callable[[Behavior], Behavior]]] = {
    "explanations_drifted": (lambda now, old: None, lambda old: old),
    "coupling_lost": (lambda now, old: old.explanation, lambda old: Behavior("E", "F")),
    "explanations_describe_old_model": (lambda now, old: old.explanation, lambda old: Behavior("E", "F")),
    "behavior_drifted": (lambda now, old: now.explanation, lambda old: Behavior("E", "F")),
    "label_agreement_low": (lambda now, old: now.explanation, lambda old: Behavior("E", "F")),
    "explanations_degenerate": (lambda now, old: Explanation(False, now.ablated), lambda old: old),
    "parse_failures": (lambda now, old: None, lambda old: old),
    "answers_collapsed": (lambda now, old: now.explanation, lambda old: Behavior("A", "A")),
}


def rings(name: str, look: int, n: int) -> bool:
    """Whether the worst rings on so many probes at that look, after looks at which nothing happened."""
    orig = [Behavior("ABCD"[i // 2 % 4], "ABCD"[(i // 2 + (i + 1) % 2) % 4]) for i in range(n)]
    explain, drift = WORST[name]
    probes = [make_probe(str(i), behavior) for i, behavior in enumerate(orig)]

    def at(step: int, now: list[Behavior], said: list[Said]) -> TaskRound:
        rollouts = [Rollout(str(i), b, "", e) for i, (b, e) in enumerate(zip(now, said, strict=True))]
        return TaskRound(step, score_round(rollouts, probes), rollouts)

    monitor = Monitor("letters")
    quiet = at(0, orig, [b.explanation for b in orig])
    for step in range(look):
        monitor.look(replace(quiet, step=step))
    now = [drift(old) for old in orig]
    judged = monitor.look(at(look, now, [explain(b, old) for b, old in zip(now, orig, strict=True)]))
    return name in {alert.name for alert in judged.raised}


def test_the_documentation_says_with_how_few_probes_an_alarm_cannot_ring():
    told = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|$", ALARMS.read_text(), re.MULTILINE)
    assert {name for name, *_ in told} == WORST.keys()
    for name, *counts in told:
        for look, n in zip((1, 10, 100), map(int, counts), strict=True):
            assert rings(name, look, n), (name, look)
            assert not rings(name, look, n - 1), (name, look)


def test_degenerate_explanations_are_not_over_because_none_can_be_read():
    monitor = Monitor("letters")
    for round_ in GOOD:
        monitor.look(round_)
    monitor.look(taken(300, lambda rng, now, old: Explanation(True, now.ablated)))
    judged = monitor.look(taken(400, lambda rng, now, old: None))
    assert "explanations_degenerate" in {alert.name for alert in judged.active}
    assert judged.cleared == ()
    judged = monitor.look(taken(500))
    assert "explanations_degenerate" in {alert.name for alert in judged.cleared}


def test_without_a_least_effect_what_is_significant_rings():
    rounds = [
        taken(0, lambda rng, now, old: now.explanation),
        taken(100, lambda rng, now, old: None if now.explanation == Explanation(True, "A") else now.explanation),
    ]
    assert "explanations_drifted" in names(rounds, config=AlertConfig(min_effect=0))


def test_a_resumed_run_that_measures_fewer_examples_is_judged_on():
    whole, half = {str(i): "letters" for i in range(N)}, {str(i): "letters" for i in range(N // 2)}
    worse = taken(300, lambda rng, now, old: truthful(rng, now, old) if rng.random() < 0.5 else Explanation(True, "A"))
    for task_of, n in ((whole, N), (half, N // 2)):
        monitor = RunMonitor(task_of)
        for round_ in GOOD:
            monitor.recall(round_.step, round_.rollouts, {"letters": round_.scores})
        judged = monitor.look(worse.step, worse.rollouts[:n], {"letters": worse.scores})
        (drifted,) = (alert for alert in judged.raised if alert.name == "explanations_drifted")
        assert f"at step 300 on the same {n} examples" in drifted.summary
    monitor.recall(400, [Rollout("gone", Behavior("A", "B"), "", None)], {"letters": worse.scores})
    assert monitor.active == judged.active


def fading(step: int, truth: float) -> TaskRound:
    return taken(
        step, lambda rng, now, old: truthful(rng, now, old) if rng.random() < truth else Explanation(True, "A")
    )


def test_a_pinned_baseline_is_what_the_first_round_is_already_judged_against():
    pinned = replace(taken(500), run="night\x1b[2J")
    assert evaluate([fading(0, 0.5)]) == []
    (alert,) = evaluate([fading(0, 0.5)], baseline=pinned)
    assert alert.name == "explanations_drifted"
    assert alert.step == 0
    assert f"from {pinned.scores.self_scores.exact_match:.2f} at step 500 of run 'night\\x1b[2J' to" in alert.summary
    assert "most of it before this run's first round" in alert.summary
    monitor = Monitor("letters", baseline=pinned)
    for step in (0, 100, 200):
        monitor.look(fading(step, 0.5))
    # Between two runs nothing happened at a step.
    assert monitor.change_points() == []


def test_a_fall_within_a_run_is_placed_there_although_the_baseline_is_pinned():
    pinned = replace(taken(5000), run="night")
    monitor = Monitor("letters", baseline=pinned)
    for step in range(0, 500, 100):
        assert monitor.look(taken(step)).active == ()
    (alert,) = monitor.look(fading(500, 0.5)).raised
    assert "sharply between step 400 and step 500" in alert.summary
    assert [point.step for point in monitor.change_points()] == [500]


def test_overdue_rounds_are_told_once_and_over_with_the_next_round():
    monitor = RunMonitor({str(i): "letters" for i in range(N)})
    asked = {"every": 10, "began": 0}

    def take(round_: TaskRound) -> Judgement:
        return monitor.look(round_.step, round_.rollouts, {"letters": round_.scores})

    take(taken(0))
    assert monitor.look_between(30, **asked) is None
    judged = monitor.look_between(31, **asked)
    assert judged is not None
    (alert,) = judged.raised
    assert judged.active == (alert,)
    assert (alert.name, alert.task, alert.step, alert.severity) == ("round_stale", "letters", 31, "warning")
    assert "31 steps ago, and one was due every 10" in alert.summary
    assert monitor.look_between(40, **asked) is None
    judged = take(taken(45))
    assert [(over.name, over.step, over.active) for over in judged.cleared] == [("round_stale", 45, False)]
    assert judged.active == ()
    assert monitor.look_between(75, **asked) is None
    assert monitor.look_between(76, **asked) is not None
    # A run that went on at step 1,000 and has taken no round yet.
    later = RunMonitor({"0": "letters"})
    assert later.look_between(1030, every=10, began=1000) is None
    assert later.look_between(1031, every=10, began=1000) is not None


def test_hostile_answers_are_inert_in_a_summary():
    evil = "\x1b[2J\u202e[red]" + "x" * 500
    dull = [Behavior(evil, evil)] * N
    rounds = [taken(0, now=dull, orig=dull)]
    (alert,) = evaluate(rounds)
    assert alert.summary.isprintable()
    bad = taken(100, now=dull)
    (collapsed,) = (alert for alert in evaluate([taken(0), bad]) if alert.name == "answers_collapsed")
    assert collapsed.summary.isprintable()
    assert len(collapsed.summary) < 400


def test_every_condition_says_what_it_means_and_what_to_do():
    assert set(CONDITIONS) == {
        "answers_collapsed",
        "behavior_drifted",
        "coupling_lost",
        "explanations_degenerate",
        "explanations_describe_old_model",
        "explanations_drifted",
        "label_agreement_low",
        "parse_failures",
        "probe_set_without_signal",
        "round_stale",
    }
    for condition in CONDITIONS.values():
        assert condition.severity in ("warning", "critical")
        assert condition.meaning
        assert not condition.meaning.endswith(".")
        assert condition.remedy.endswith(".")


def test_alerts_import_no_torch_and_no_scipy():
    code = (
        "import sys, introspection_probe.alerts;"
        "bad = {'torch', 'transformers', 'scipy', 'numpy', 'pyarrow'} & set(sys.modules);"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
