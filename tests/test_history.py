"""What is told to a history comes back, on SQLite and on a real PostgreSQL alike."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import postgres
import pytest
from histories import make_probes, make_rollouts, write_run

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History, MixedLosses
from introspection_probe.records import (
    Alert,
    Behavior,
    Explanation,
    MeanLoss,
    Probe,
    Responses,
    Rollout,
    Round,
    RunInfo,
)
from introspection_probe.scoring import score_by_task
from introspection_probe.scoring.counts import (
    BehaviorScores,
    DepartureCounts,
    ExplanationScores,
    PairedCounts,
    RoundScores,
)


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres.server() as server:
        yield server.database()


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "history.db")
    url: str = request.getfixturevalue("postgres_url")
    postgres.clear(url)
    return url


@pytest.fixture
def history(db: str) -> Iterator[History]:
    with History.open(db) as opened:
        yield opened


def info(uid: str = "u1", **changes: Any) -> RunInfo:
    return dataclasses.replace(RunInfo(uid, "sft", "model", ("hint-mmlu",), config={"lr": 1e-5}), **changes)


def a_round(probes: list[Probe], step: int = 10, **changes: Any) -> Round:
    taken = Round(step, make_rollouts(probes, 0.8), datetime.now(UTC), 2.5, tokens=7, generated=3, path="packed")
    return dataclasses.replace(taken, **changes)


def distinct_scores() -> RoundScores:
    """Scores in which no two counts are equal, so that a swapped or forgotten column shows."""
    number = itertools.count(1)

    def counts(cls: type, **known: Any) -> Any:
        unknown = [f.name for f in dataclasses.fields(cls) if f.compare and f.name not in known]
        return cls(**known, **{name: next(number) for name in unknown})

    def target() -> ExplanationScores:
        scores: ExplanationScores = counts(ExplanationScores, constant=Explanation(next(number) % 2 == 0, "B"))
        return scores

    scores: RoundScores = counts(
        RoundScores,
        targets={"self": target(), "orig": target(), "llama": target()},
        behavior=counts(BehaviorScores),
        paired=counts(PairedCounts),
        departures=counts(DepartureCounts, expected=0.25, variance=1.75),
        included_answers={"A": 3, "Größe \u202e": 4},
        ablated_answers={"B": 7},
    )
    return scores


def test_every_count_comes_back_as_it_was_told(history: History) -> None:
    run_id = history.start_run(info())
    scores = {"one": distinct_scores(), "two": dataclasses.replace(distinct_scores(), n=5, departures=None)}
    taken = a_round(make_probes(3))
    history.record_round(run_id, taken, scores)
    [stored] = history.rounds(run_id)
    assert stored.scores == scores
    assert list(stored.scores) == ["one", "two"]
    assert (stored.step, stored.duration_s, stored.tokens, stored.generated, stored.path) == (10, 2.5, 7, 3, "packed")
    assert stored.started_at == taken.started_at


def test_rollouts_come_back_in_their_order(history: History) -> None:
    probes = make_probes(1500)
    run_id = history.start_run(info())
    taken = a_round(probes)
    assert {r.predicted is None for r in taken.rollouts} == {True, False}
    history.record_round(run_id, taken, score_by_task(taken.rollouts, probes))
    assert history.rollouts(run_id, 10) == list(taken.rollouts)
    assert history.rollouts(run_id, 11) == []
    assert history.rollouts(run_id + 1, 10) == []


def test_the_counts_of_the_stored_rollouts_are_the_stored_counts(history: History) -> None:
    probes = make_probes(40)
    run_id = write_run(history, probes=probes, steps=(0, 50, 100))
    for stored in history.rounds(run_id):
        again = score_by_task(history.rollouts(run_id, stored.step), probes)
        assert again == dict(stored.scores)


def test_a_round_taken_again_replaces_the_earlier_one(history: History) -> None:
    probes = make_probes(30)
    run_id = history.start_run(info())
    first, second = a_round(probes), a_round(probes, rollouts=make_rollouts(probes, 0.1), duration_s=9.0)
    for taken in (first, second):
        history.record_round(run_id, taken, score_by_task(taken.rollouts, probes))
    [stored] = history.rounds(run_id)
    assert stored.duration_s == 9.0
    assert stored.scores == score_by_task(second.rollouts, probes)
    assert history.rollouts(run_id, 10) == list(second.rollouts) != list(first.rollouts)


def test_rounds_can_be_read_from_a_step_on(history: History) -> None:
    run_id = write_run(history, n=5, steps=(300, 0, 100, 200))
    assert [stored.step for stored in history.rounds(run_id)] == [0, 100, 200, 300]
    assert [stored.step for stored in history.rounds(run_id, since_step=200)] == [200, 300]


def test_a_task_s_rollouts_are_told_apart(history: History) -> None:
    run_id = write_run(history, tasks=("hint-mmlu", "jabberwocky"), n=20, steps=(0,))
    everything = history.rollouts(run_id, 0)
    one, two = (history.rollouts(run_id, 0, task=task) for task in ("hint-mmlu", "jabberwocky"))
    assert len(one) == len(two) == 20
    assert one + two == everything
    assert {r.example_id.rsplit("-", 1)[0] for r in two} == {"jabberwocky"}
    assert history.rollouts(run_id, 0, task="aita") == []
    wrong = history.disagreements(run_id, 0, task="jabberwocky", limit=None)
    assert wrong
    assert {row.task for row in wrong} == {"jabberwocky"}


def test_disagreements_are_the_examples_whose_explanation_is_not_the_behaviour(history: History) -> None:
    probes = make_probes(200)
    run_id = write_run(history, probes=probes, steps=(0, 100))
    rollouts = history.rollouts(run_id, 100)
    expected = [r for r in rollouts if r.predicted != r.behavior.explanation]
    assert 0 < len(expected) < 200
    found = history.disagreements(run_id, 100, limit=None)
    assert [(row.example_id, row.behavior, row.predicted_text, row.predicted) for row in found] == [
        (r.example_id, r.behavior, r.predicted_text, r.predicted) for r in expected
    ]
    assert history.disagreements(run_id, 100, limit=3) == found[:3]
    by_id = {probe.example.id: probe for probe in probes}
    for row in found:
        probe = by_id[row.example_id]
        assert row.prompt == probe.example.included[0]["content"]
        assert (row.task, row.cue, row.cue_option) == ("hint-mmlu", probe.example.cue, probe.example.cue_option)
        assert (row.options, row.m0) == (probe.example.options, probe.behavior)


def test_the_examples_of_a_round_are_all_of_them_and_tell_which_explanations_match(history: History) -> None:
    run_id = write_run(history, tasks=("hint-mmlu", "jabberwocky"), n=30, steps=(0, 100))
    for step in (0, 100):
        for task in ("hint-mmlu", "jabberwocky"):
            rollouts = history.rollouts(run_id, step, task=task)
            found = history.examples(run_id, step, task=task)
            assert [(row.example_id, row.behavior, row.predicted) for row in found] == [
                (r.example_id, r.behavior, r.predicted) for r in rollouts
            ]
            assert {row.task for row in found} == {task}
            assert all(row.m0 is not None and row.cue is not None for row in found)
            right = history.matches(run_id, step, task=task)
            assert list(right.values()).count(True) == sum(r.predicted == r.behavior.explanation for r in rollouts)
            assert len(right) == 30
    assert right.keys() == history.matches(run_id, 0, task="jabberwocky").keys()
    assert right.keys().isdisjoint(history.matches(run_id, 100, task="hint-mmlu"))
    wrong = {row.example_id for row in history.disagreements(run_id, 100, task="jabberwocky", limit=None)}
    assert [row.example_id in wrong for row in found] == [not hit for hit in right.values()]
    assert history.examples(run_id, 7) == []
    assert history.matches(run_id, 7) == {}


def test_the_latest_run_of_each_name(history: History) -> None:
    first, second = (history.start_run(info(uid, name="again")) for uid in ("u1", "u2"))
    other = history.start_run(info("u3", name="other"))
    assert [run.id for run in history.latest_of_each_name()] == [other, second]
    history.start_run(info("u1", name="again"))  # resumed
    assert [run.id for run in history.latest_of_each_name()] == [first, other]
    assert [run.id for run in history.latest_of_each_name(1)] == [first]


def test_disagreements_without_a_saved_probe_set_have_no_question(history: History) -> None:
    probes = make_probes(3)
    run_id = history.start_run(info())
    rollout = Rollout(probes[0].example.id, Behavior("A", "B"), "what?", None)
    history.record_round(run_id, a_round(probes, rollouts=(rollout,)), {})
    [row] = history.disagreements(run_id, 10)
    assert (row.prompt, row.cue, row.m0, row.task, row.options) == (None, None, None, None, ())
    assert row.behavior == Behavior("A", "B")


def test_a_long_prompt_is_shortened_around_its_cue(history: History) -> None:
    [probe] = make_probes(1, prompt="Once upon a time. " * 4000)
    run_id = history.start_run(info())
    save(history, run_id, [probe])
    wrong = Rollout(probe.example.id, Behavior("A", "B"), "no", None)
    history.record_round(run_id, a_round([probe], rollouts=(wrong,)), {})
    [row] = history.disagreements(run_id, 10)
    assert row.prompt is not None
    assert row.prompt.startswith("Once upon a time.")
    assert probe.example.cue in row.prompt
    assert len(row.prompt) < 1000


def save(history: History, run_id: int, probes: list[Probe], content_hash: str = "hash") -> int:
    return history.save_probe_set(
        run_id, content_hash=content_hash, name="n", task="hint-mmlu", model="m", manifest={"n": 1}, probes=probes
    )


def test_a_probe_set_is_saved_once_however_many_runs_use_it(history: History) -> None:
    probes = make_probes(4)
    probes[0] = dataclasses.replace(probes[0], split="train")
    one, two = history.start_run(info("u1")), history.start_run(info("u2"))
    assert save(history, one, probes) == save(history, one, probes) == save(history, two, probes)
    assert save(history, two, make_probes(5), "other") != save(history, two, probes)
    taken = a_round(probes, rollouts=tuple(Rollout(p.example.id, Behavior("A", "B"), "", None) for p in probes))
    history.record_round(two, taken, {})
    known = {row.example_id: row.prompt for row in history.disagreements(two, 10)}
    assert len(known) == 4
    assert all(known.values())
    history.record_round(one, taken, {})
    unknown = [row.example_id for row in history.disagreements(one, 10) if row.prompt is None]
    assert unknown == [probes[0].example.id], "an example of the train split is no part of a report"


def test_a_resumed_run_goes_on_under_its_uid(history: History) -> None:
    first = history.start_run(info())
    history.update_run(first, step=40, status="failed", overhead=0.05)
    other = history.start_run(info("u2"))
    assert history.find_run(None).id == other
    again = history.start_run(info(name="renamed", config={"lr": 2}))
    assert again == first
    row = history.find_run(None)
    assert (row.id, row.status, row.name, row.step, row.overhead) == (first, "running", "renamed", 40, 0.05)
    assert row.config == {"lr": 2}
    assert row.started_at < row.resumed_at <= row.updated_at
    assert [run.id for run in history.runs()] == [first, other]
    assert [run.id for run in history.runs(limit=1)] == [first]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(history: History) -> None:
    """A run that was killed at step 40 goes on from step 20: what it measured at 30 is no part of its course."""
    run_id, other = history.start_run(info()), history.start_run(info("u2"))
    probes = make_probes(2)
    for run, step in ((run_id, 0), (run_id, 20), (run_id, 30), (other, 30)):
        history.record_round(run, a_round(probes, step), {})
    for name, raised, cleared in (("early", 10, 15), ("standing", 10, None), ("over", 20, 30), ("late", 30, None)):
        history.record_alert(run_id, dataclasses.replace(alert(raised), name=name))
        if cleared is not None:
            history.record_alert(run_id, dataclasses.replace(alert(cleared), name=name, active=False))
    history.update_run(run_id, step=40, status="failed")
    assert history.start_run(info(), after_step=20) == run_id
    assert [scored.step for scored in history.rounds(run_id)] == [0, 20]
    assert history.rollouts(run_id, 30) == []
    assert [scored.step for scored in history.rounds(other)] == [30]
    alerts = {row.name: row for row in history.alerts(run_id)}
    assert {name: (row.active, row.cleared_step) for name, row in alerts.items()} == {
        "early": (False, 15),
        "standing": (True, None),
        "over": (True, None),
    }
    assert history.find_run(str(run_id)).step == 20


def test_every_write_about_a_run_is_a_sign_of_life(history: History) -> None:
    run_id = history.start_run(info())
    seen = [history.find_run(None).updated_at]
    for write in (
        lambda: history.update_run(run_id),
        lambda: history.record_round(run_id, a_round(make_probes(2)), {}),
        lambda: history.record_alert(run_id, alert(10)),
        lambda: save(history, run_id, make_probes(2)),
    ):
        write()
        seen.append(history.find_run(None).updated_at)
    assert seen == sorted(set(seen))
    assert all(moment.tzinfo is UTC for moment in seen)


def test_a_round_moves_the_run_s_step_forward_only(history: History) -> None:
    run_id = history.start_run(info())
    for step in (10, 30, 20):
        history.record_round(run_id, a_round(make_probes(2), step), {})
    assert history.find_run(None).step == 30
    history.update_run(run_id, step=25)
    assert history.find_run(None).step == 25


def test_a_run_is_found_by_id_name_or_the_start_of_its_uid(history: History) -> None:
    one = history.start_run(info("abc123", name="sft-a"))
    two = history.start_run(info("abd456", name="sft-a"))
    three = history.start_run(info("xyz789", name=str(one)))
    assert history.find_run(None).id == three
    assert history.find_run(str(one)).id == one, "an id goes before a name"
    assert history.find_run("sft-a").id == two, "the latest of a name"
    assert history.find_run("abc").id == one
    with pytest.raises(IntrospectionError, match=r"start of 2 runs.*abc123, abd456"):
        history.find_run("ab")
    with pytest.raises(IntrospectionError, match=r"no run 'sft-aa'.*did you mean 'sft-a'"):
        history.find_run("sft-aa")
    for ref in ("%", "_", "", "9" * 10, "9" * 5000, "\x00", "\ud800", "²"):
        with pytest.raises(IntrospectionError) as caught:
            history.find_run(ref)
        assert len(str(caught.value)) < 400


def test_an_empty_history_says_so(history: History) -> None:
    assert history.runs() == []
    with pytest.raises(IntrospectionError, match="holds no run yet"):
        history.find_run(None)
    assert history.rounds(1) == []
    assert history.alerts(1) == []


def alert(step: int, *, active: bool = True, summary: str = "it drifted") -> Alert:
    return Alert("drifted", "hint-mmlu", step, "warning", summary, "look", active=active)


def test_an_alert_stands_from_being_raised_to_being_cleared(history: History) -> None:
    run_id = history.start_run(info())
    history.record_alert(run_id, alert(5, active=False))
    assert history.alerts(run_id) == []
    history.record_alert(run_id, alert(10))
    history.record_alert(run_id, alert(20, summary="it drifted more"))
    [row] = history.alerts(run_id, active_only=True)
    assert (row.raised_step, row.summary, row.active, row.cleared_step) == (10, "it drifted more", True, None)
    history.record_alert(run_id, alert(30, active=False))
    history.record_alert(run_id, alert(40, active=False))
    [row] = history.alerts(run_id)
    assert (row.raised_step, row.cleared_step, row.active) == (10, 30, False)
    assert row.cleared_at is not None
    assert row.cleared_at >= row.raised_at
    assert history.alerts(run_id, active_only=True) == []
    history.record_alert(run_id, alert(50))
    assert [row.raised_step for row in history.alerts(run_id)] == [10, 50]
    history.record_alert(run_id, dataclasses.replace(alert(50), task="other"))
    assert [row.task for row in history.alerts(run_id, active_only=True)] == ["hint-mmlu", "other"]


def test_an_alert_that_a_resumed_run_raises_again_is_the_same_alert(history: History) -> None:
    run_id = history.start_run(info())
    history.record_alert(run_id, alert(10))
    history.record_alert(run_id, alert(20, active=False))
    history.record_alert(run_id, alert(10))
    [row] = history.alerts(run_id)
    assert (row.raised_step, row.active, row.cleared_step) == (10, True, None)


HOSTILE = ("a\x00b", "\ud800", "\x1b[2J", "\u202eevil", "[red]", "<script>", "'; DROP TABLE run; --", "", "é" * 9000)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_hostile_text_is_stored_as_data(history: History, text: str) -> None:
    run_id = history.start_run(RunInfo(f"u{text}", text, text, (text,), config={text: [text, Path("p")]}))
    [probe] = make_probes(1)
    example = dataclasses.replace(probe.example, id=f"x{text}", cue=text, included=({"content": text},))
    save(history, run_id, [dataclasses.replace(probe, example=example)])
    said = Rollout(f"x{text}", Behavior(f"1{text}", f"2{text}"), text, Explanation(True, f"3{text}"))
    scores = dataclasses.replace(distinct_scores(), included_answers={text: 1})
    history.record_round(run_id, a_round([probe], rollouts=(said,)), {text: scores})
    history.record_alert(run_id, Alert(text, text, 1, "critical", text, text))
    [stored] = history.rollouts(run_id, 10)
    [row] = history.disagreements(run_id, 10)
    [raised] = history.alerts(run_id)
    run = history.find_run(str(run_id))
    if text in HOSTILE[2:8]:
        assert stored == said
        assert (run.name, run.model, run.tasks, raised.summary, row.prompt) == (text, text, (text,), text, text)
        assert dict(run.config) == {text: [text, "p"]}
    else:
        assert len(stored.predicted_text) < 4100
        assert stored.predicted_text != stored.behavior.included != stored.behavior.ablated
        stored.predicted_text.encode("utf-8")
    assert history.find_run(text or str(run_id)).id == run_id


def test_texts_that_differ_only_in_what_cannot_be_stored_do_not_clash(history: History) -> None:
    run_id = history.start_run(info())
    said = tuple(Rollout(f"q{i}", Behavior(a, "B"), a, None) for i, a in enumerate(("\x00", "␀", "\ud800", "\ud801")))
    history.record_round(run_id, a_round([], rollouts=said), {})
    assert [r.behavior.included for r in history.rollouts(run_id, 10)] == ["␀", "␀", "\ufffd", "\ufffd"]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_nan_never_reaches_the_database(history: History, number: float) -> None:
    run_id = history.start_run(info(config={"loss": number, "deep": [{"x": number}], "fine": 0.5}))
    assert dict(history.find_run(None).config) == {"loss": None, "deep": [{"x": None}], "fine": 0.5}
    json.dumps(history.find_run(None).config, allow_nan=False)
    with pytest.raises(IntrospectionError, match="duration is"):
        history.record_round(run_id, a_round([], duration_s=number), {})
    with pytest.raises(IntrospectionError, match="overhead is"):
        history.update_run(run_id, overhead=number)
    departures = dataclasses.replace(distinct_scores().departures or DepartureCounts(1, 1, 1, 1, 1, 1), variance=number)
    with pytest.raises(IntrospectionError, match="variance is"):
        history.record_round(run_id, a_round([]), {"t": dataclasses.replace(distinct_scores(), departures=departures)})
    assert history.rounds(run_id) == [], "a refused round leaves nothing behind"


def test_times_are_kept_as_utc(history: History) -> None:
    run_id = history.start_run(info())
    here = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=5)))
    history.record_round(run_id, a_round([], started_at=here), {})
    [stored] = history.rounds(run_id)
    assert stored.started_at == here
    assert stored.started_at.tzinfo is UTC
    with pytest.raises(IntrospectionError, match="no timezone"):
        history.record_round(run_id, a_round([], 20, started_at=datetime(2026, 3, 1)), {})


def test_a_run_that_is_not_there_cannot_be_written_to(history: History) -> None:
    for write in (
        lambda: history.update_run(7),
        lambda: history.record_round(7, a_round([]), {}),
        lambda: history.record_alert(7, alert(1)),
        lambda: save(history, 7, []),
    ):
        with pytest.raises(IntrospectionError, match="no run 7"):
            write()


def test_texts_of_a_write_that_failed_are_written_with_the_next(history: History) -> None:
    run_id = history.start_run(info())
    probes = make_probes(20)
    good = a_round(probes)
    unstorable = Rollout("new", Behavior("A", "B"), "x", Explanation(changed="maybe", content="A"))  # type: ignore[arg-type]
    with pytest.raises(Exception, match="maybe"):
        history.record_round(run_id, dataclasses.replace(good, rollouts=(*good.rollouts, unstorable)), {})
    assert history.rounds(run_id) == []
    history.record_round(run_id, good, {})
    assert history.rollouts(run_id, 10) == list(good.rollouts)


def test_two_writers_share_a_history(db: str) -> None:
    probes = make_probes(50)
    with History.open(db) as one, History.open(db) as two:
        runs = [one.start_run(info("u1")), two.start_run(info("u2"))]
        for step in range(5):
            taken = a_round(probes, step)
            for history, run_id in zip((one, two), runs, strict=True):
                history.record_round(run_id, taken, score_by_task(taken.rollouts, probes))
        for run_id in runs:
            assert len(two.rounds(run_id)) == 5
            assert one.rollouts(run_id, 4) == two.rollouts(run_id, 4) == list(taken.rollouts)


def test_what_was_written_freely_is_kept_with_how_many_have_no_verdict(history: History) -> None:
    run_id = history.start_run(info())
    free, plain = make_probes(4, "refusal"), make_probes(4, "hint-mmlu")
    hostile = Responses("I can't\x1b[2J help \u202e with that.", "Sure. <script>alert(1)</script>")
    free = [dataclasses.replace(probe, responses=hostile) for probe in free]
    save(history, run_id, [*free, *plain])
    # In the middle, so that a place that is off by one shows.
    probes = [*plain[:2], *free, *plain[2:]]
    said = Responses("No.", "Here is how: first ...")
    rollouts = tuple(
        dataclasses.replace(rollout, predicted=None, responses=said if probe in free else None)
        for rollout, probe in zip(make_rollouts(probes, 0.8), probes, strict=True)
        if probe is not free[0]
    )
    taken = a_round(probes, rollouts=rollouts, unjudged=(free[0].example.id,))
    history.record_round(run_id, taken, score_by_task(rollouts, taken.measured(probes)))
    assert history.rollouts(run_id, 10) == list(rollouts)
    [stored] = history.rounds(run_id)
    assert (stored.unjudged, stored.scores["refusal"].n, stored.scores["hint-mmlu"].n) == (1, 3, 4)
    rows = {row.example_id: row for row in history.disagreements(run_id, 10, limit=None)}
    assert rows.keys() == {rollout.example_id for rollout in rollouts}
    for probe in probes:
        row = rows.get(probe.example.id)
        if row is not None:
            assert (row.responses, row.m0_responses) == ((said, hostile) if probe in free else (None, None))


def test_mixed_losses_come_back_and_what_is_not_finite_is_no_number(history: History) -> None:
    run_id, other = history.start_run(info()), history.start_run(info("u2"))
    for step, explanation, kl in ((100, 1.5, 0.25), (150, 0.5, math.nan), (200, math.inf, 0.125)):
        steps = 50 if step > 100 else 100
        losses = {"explanation": MeanLoss(explanation, steps), "kl": MeanLoss(kl, steps)}
        for _ in range(2):  # a resumed run tells the same again
            history.record_losses(run_id, step, losses)
    history.record_losses(other, 10, {"explanation": MeanLoss(2.0, 10)})
    assert history.losses(run_id) == [
        MixedLosses(100, 100, {"explanation": 1.5, "kl": 0.25}),
        MixedLosses(150, 50, {"explanation": 0.5, "kl": None}),
        MixedLosses(200, 50, {"explanation": None, "kl": 0.125}),
    ]
    assert history.losses(other) == [MixedLosses(10, 10, {"explanation": 2.0})]
    history.start_run(info(), after_step=150)
    assert [losses.step for losses in history.losses(run_id)] == [100, 150]
    with pytest.raises(IntrospectionError, match="no run 99"):
        history.record_losses(99, 1, {})
