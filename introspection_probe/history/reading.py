"""The questions a history answers, as functions of a connection."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, or_, select

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import schema as s
from introspection_probe.history.counts import Row, round_scores
from introspection_probe.history.database import NotThereError
from introspection_probe.history.rows import AlertRow, ExampleRow, MixedLosses, RunRow, ScoredRound
from introspection_probe.history.texts import chunks, values_of
from introspection_probe.history.values import NAME_LIMIT, storable
from introspection_probe.records import Behavior, Explanation, Responses, Rollout

_ID = re.compile(r"[0-9]{1,10}")
_LARGEST_ID = 2**31 - 1  # PostgreSQL's INTEGER


def runs(connection: Connection, limit: int | None = None) -> list[RunRow]:
    """The runs, the most recently started (or resumed) first."""
    query = select(s.run).order_by(s.run.c.resumed_at.desc(), s.run.c.id.desc()).limit(limit)
    return [_run(row) for row in _rows(connection, query)]


def latest_of_each_name(connection: Connection, limit: int | None = None) -> list[RunRow]:
    """Of every name the run that was started (or resumed) last; the latest names first."""
    newest = (s.run.c.resumed_at.desc(), s.run.c.id.desc())
    place = func.row_number().over(partition_by=s.run.c.name, order_by=newest)
    ranked = select(s.run.c.id, place.label("place")).subquery()
    query = select(s.run).join(ranked, ranked.c.id == s.run.c.id).where(ranked.c.place == 1)
    return [_run(row) for row in _rows(connection, query.order_by(*newest).limit(limit))]


def find_run(connection: Connection, ref: str | None, shown: str) -> RunRow:
    """The run that ``ref`` means: None the latest, else an id, a name (the latest of it), the start of a uid."""
    newest = select(s.run).order_by(s.run.c.resumed_at.desc(), s.run.c.id.desc())
    if ref is None:
        latest = _rows(connection, newest.limit(1))
        if not latest:
            raise NotThereError(f"the history {shown} holds no run yet: train with the callback, or iprobe probe")
        return _run(latest[0])
    conditions = [s.run.c.name == storable(ref)]
    if _ID.fullmatch(ref) and int(ref) <= _LARGEST_ID:
        conditions.insert(0, s.run.c.id == int(ref))
    for condition in conditions:
        named = _rows(connection, newest.where(condition).limit(1))
        if named:
            return _run(named[0])
    found = _rows(connection, newest.where(func.substr(s.run.c.uid, 1, len(ref)) == storable(ref)))
    if len(found) == 1:
        return _run(found[0])
    if found:
        uids = ", ".join(sorted(row["uid"] for row in found)[:5])
        raise IntrospectionError(f"{ref!r} is the start of {len(found)} runs' uids ({uids}): give more of it")
    raise NotThereError(f"no run {storable(ref, 100)!r} in the history {shown}: {_suggestion(connection, ref)}")


def _suggestion(connection: Connection, ref: str) -> str:
    query = select(s.run.c.name).order_by(s.run.c.resumed_at.desc(), s.run.c.id.desc()).limit(1000)
    names = list(dict.fromkeys(connection.scalars(query)))
    if not names:
        return "it holds no run yet"
    close = get_close_matches(ref, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    return f"the latest is {names[0]!r}, and `iprobe runs` lists all"


def _run(row: Row) -> RunRow:
    return RunRow(**(dict(row) | {"tasks": tuple(row["tasks"])}))


def _rows(connection: Connection, query: Select[Any]) -> list[Row]:
    """The rows as plain dicts, in which a look-up costs less than in SQLAlchemy's own mappings."""
    result = connection.execute(query)
    names = tuple(result.keys())
    return [dict(zip(names, row, strict=True)) for row in result]


def rounds(connection: Connection, run_id: int, since_step: int | None = None) -> list[ScoredRound]:
    """The counts of a run's rounds in order of step, from ``since_step`` on."""
    mine = select(s.round_.c.id).where(s.round_.c.run_id == run_id)
    if since_step is not None:
        mine = mine.where(s.round_.c.step >= since_step)
    targets: dict[tuple[int, str], list[Row]] = defaultdict(list)
    for row in _rows(connection, select(s.round_score).where(s.round_score.c.round_id.in_(mine))):
        targets[row["round_id"], row["task"]].append(row)
    tasks: dict[int, list[Row]] = defaultdict(list)
    query = select(s.round_task).where(s.round_task.c.round_id.in_(mine)).order_by(s.round_task.c.task)
    for row in _rows(connection, query):
        tasks[row["round_id"]].append(row)
    query = select(s.round_).where(s.round_.c.id.in_(mine)).order_by(s.round_.c.step)
    return [
        ScoredRound(
            step=row["step"],
            started_at=row["started_at"],
            duration_s=row["duration_s"],
            tokens=row["tokens"],
            generated=row["generated"],
            path=row["path"],
            unjudged=row["unjudged"],
            scores={task["task"]: round_scores(task, targets[row["id"], task["task"]]) for task in tasks[row["id"]]},
        )
        for row in _rows(connection, query)
    ]


def longest_rounds(connection: Connection, run_ids: Sequence[int]) -> dict[int, float]:
    """The duration of each run's longest round, in seconds; runs without a round are left out."""
    r = s.round_.c
    longest: dict[int, float] = {}
    for some in chunks(run_ids):
        query = select(r.run_id, func.max(r.duration_s)).where(r.run_id.in_(some)).group_by(r.run_id)
        longest.update((run_id, duration) for run_id, duration in connection.execute(query))
    return longest


def losses(connection: Connection, run_id: int) -> list[MixedLosses]:
    """A run's mixed losses in order of step."""
    of_run = select(s.mixed_loss).where(s.mixed_loss.c.run_id == run_id)
    query = of_run.order_by(s.mixed_loss.c.step, s.mixed_loss.c.term)
    return [
        MixedLosses(step, max(row["steps"] for row in rows), {row["term"]: row["mean"] for row in rows})
        for step, group in groupby(_rows(connection, query), key=lambda row: row["step"])
        if (rows := list(group))
    ]


def content_hashes(connection: Connection, run_id: int) -> frozenset[str]:
    """The content hashes of the probe sets that the run was measured with."""
    linked = s.probe_set.join(s.run_probe_set, s.run_probe_set.c.probe_set_id == s.probe_set.c.id)
    query = select(s.probe_set.c.content_hash).select_from(linked).where(s.run_probe_set.c.run_id == run_id)
    return frozenset(connection.scalars(query))


def rollouts(connection: Connection, run_id: int, step: int, task: str | None = None) -> list[Rollout]:
    """The rollouts of a round in the order they were taken, of one task or of all."""
    query = _rollouts(connection, run_id, step, task)
    if query is None:
        return []
    rows = _rows(connection, query.order_by(s.rollout.c.position))
    value = values_of(connection, _text_ids(rows))
    return [
        Rollout(
            value[row["example_id"]],
            _behavior(row, value),
            value[row["predicted_text_id"]],
            _said(row, value),
            _responses(row, value),
        )
        for row in rows
    ]


def disagreements(
    connection: Connection, run_id: int, step: int, task: str | None = None, limit: int | None = 20
) -> list[ExampleRow]:
    """The examples of a round where what the model said is not what it did, in the order they were taken."""
    query = _rollouts(connection, run_id, step, task)
    return [] if query is None else _examples(connection, query.where(_wrong()).limit(limit), run_id, task)


def examples(connection: Connection, run_id: int, step: int, task: str | None = None) -> list[ExampleRow]:
    """Every example of a round, in the order they were taken."""
    query = _rollouts(connection, run_id, step, task)
    return [] if query is None else _examples(connection, query, run_id, task)


def matches(connection: Connection, run_id: int, step: int, task: str | None = None) -> dict[int, bool]:
    """Whether what the model said is what it did, by example; the keys mean the same in every round."""
    query = _rollouts(connection, run_id, step, task)
    if query is None:
        return {}
    asked = query.with_only_columns(s.rollout.c.example_id, _wrong())
    return {example: not wrong for example, wrong in connection.execute(asked)}


def _wrong() -> ColumnElement[bool]:
    """Of a rollout: what the model said is not what it did."""
    r = s.rollout.c
    return or_(
        r.predicted_changed.is_(None),
        r.predicted_changed != (r.included_id != r.ablated_id),
        r.predicted_content_id != r.ablated_id,
    )


def _examples(connection: Connection, query: Select[Any], run_id: int, task: str | None) -> list[ExampleRow]:
    rows = _rows(connection, query.order_by(s.rollout.c.position))
    value = values_of(connection, _text_ids(rows))
    probes = _probes(connection, run_id, [row["example_id"] for row in rows])
    return [_example(row, probes.get(row["example_id"]), value, task) for row in rows]


def _example(row: Row, probe: Row | None, value: dict[int, str], task: str | None) -> ExampleRow:
    return ExampleRow(
        example_id=value[row["example_id"]],
        task=task if probe is None else probe["task"],
        prompt=None if probe is None else probe["prompt"],
        cue=None if probe is None else probe["cue"],
        cue_option=None if probe is None else probe["cue_option"],
        options=() if probe is None else tuple(probe["options"]),
        m0=None if probe is None else Behavior(probe["included"], probe["ablated"]),
        behavior=_behavior(row, value),
        predicted_text=value[row["predicted_text_id"]],
        predicted=_said(row, value),
        m0_responses=None
        if probe is None or probe["included_response"] is None
        else Responses(probe["included_response"], probe["ablated_response"]),
        responses=_responses(row, value),
    )


def _rollouts(connection: Connection, run_id: int, step: int, task: str | None) -> Select[Any] | None:
    """The query for a round's rollouts, or None where the round, or the task in it, is not there."""
    here = (s.round_.c.run_id == run_id) & (s.round_.c.step == step)
    round_id = connection.scalar(select(s.round_.c.id).where(here))
    if round_id is None:
        return None
    w, r = s.response.c, s.rollout.c
    same = (w.round_id == r.round_id) & (w.position == r.position)
    columns = (s.rollout, w.included_id.label("included_response_id"), w.ablated_id.label("ablated_response_id"))
    query = select(*columns).select_from(s.rollout.outerjoin(s.response, same)).where(r.round_id == round_id)
    if task is None:
        return query
    measured = set(connection.scalars(select(s.round_task.c.task).where(s.round_task.c.round_id == round_id)))
    if storable(task, NAME_LIMIT) not in measured:
        return None
    # Which task an example belongs to is known from its probe set; a round of one task needs no asking.
    return query if len(measured) == 1 else query.where(s.rollout.c.example_id.in_(_examples_of(run_id, task)))


def _examples_of(run_id: int, task: str) -> Select[tuple[int]]:
    sets = select(s.run_probe_set.c.probe_set_id).where(s.run_probe_set.c.run_id == run_id)
    p = s.probe_example.c
    return select(p.example_id).where(p.probe_set_id.in_(sets), p.task == storable(task, NAME_LIMIT))


def _probes(connection: Connection, run_id: int, example_ids: Sequence[int]) -> dict[int, Row]:
    sets = select(s.run_probe_set.c.probe_set_id).where(s.run_probe_set.c.run_id == run_id)
    found: dict[int, Row] = {}
    for some in chunks(example_ids):
        p = s.probe_example.c
        query = select(s.probe_example).where(p.probe_set_id.in_(sets), p.example_id.in_(some))
        found.update((row["example_id"], row) for row in _rows(connection, query))
    return found


def _text_ids(rows: Sequence[Row]) -> set[int]:
    columns = (
        "example_id",
        "included_id",
        "ablated_id",
        "predicted_text_id",
        "predicted_content_id",
        "included_response_id",
        "ablated_response_id",
    )
    return {row[column] for row in rows for column in columns if row[column] is not None}


def _behavior(row: Row, value: dict[int, str]) -> Behavior:
    return Behavior(value[row["included_id"]], value[row["ablated_id"]])


def _responses(row: Row, value: dict[int, str]) -> Responses | None:
    if row["included_response_id"] is None:
        return None
    return Responses(value[row["included_response_id"]], value[row["ablated_response_id"]])


def _said(row: Row, value: dict[int, str]) -> Explanation | None:
    if row["predicted_changed"] is None:
        return None
    return Explanation(row["predicted_changed"], value[row["predicted_content_id"]])


def alerts(connection: Connection, run_id: int, *, active_only: bool = False) -> list[AlertRow]:
    """A run's alerts in the order in which they were raised."""
    query = select(s.alert).where(s.alert.c.run_id == run_id)
    if active_only:
        query = query.where(s.alert.c.cleared_at.is_(None))
    rows = _rows(connection, query.order_by(s.alert.c.raised_step, s.alert.c.id))
    return [AlertRow(**{key: value for key, value in row.items() if key != "run_id"}) for row in rows]
