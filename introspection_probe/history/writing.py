"""What a history is told, as functions of a connection inside a write transaction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Insert, delete, insert, select, update

from introspection_probe.errors import IntrospectionError
from introspection_probe.history import schema as s
from introspection_probe.history.counts import score_rows, task_row
from introspection_probe.history.texts import Texts
from introspection_probe.history.values import NAME_LIMIT, finite, in_utc, now, storable
from introspection_probe.records import Alert, LossTerm, MeanLoss, Message, Probe, Round, RunInfo, RunStatus
from introspection_probe.scoring.counts import RoundScores

# What a person reads of a prompt in a report; the probe set itself holds all of it.
PROMPT_LIMIT = 800


def start_run(connection: Connection, info: RunInfo, *, after_step: int | None = None) -> int:
    """The run's id; a run whose uid is known goes on, under its new name and configuration, after that step."""
    moment = now()
    uid = storable(info.uid, NAME_LIMIT)
    values = {
        "name": storable(info.name),
        "model": storable(info.model),
        "tasks": list(info.tasks),
        "kind": info.kind,
        "status": "running",
        "config": dict(info.config),
        "resumed_at": moment,
        "updated_at": moment,
    }
    run_id: int | None = connection.scalar(select(s.run.c.id).where(s.run.c.uid == uid))
    if run_id is not None:
        if after_step is not None:
            values["step"] = after_step
            _forget_after(connection, run_id, after_step)
        connection.execute(update(s.run).where(s.run.c.id == run_id).values(**values))
        return run_id
    return _inserted(connection, insert(s.run).values(uid=uid, step=0, started_at=moment, **values))


def _forget_after(connection: Connection, run_id: int, step: int) -> None:
    """What a run measured beyond the checkpoint that it goes on from is no part of its course."""
    for table, at in (
        (s.round_, s.round_.c.step),
        (s.mixed_loss, s.mixed_loss.c.step),
        (s.alert, s.alert.c.raised_step),
    ):
        connection.execute(delete(table).where(table.c.run_id == run_id, at > step))
    cleared_later = (s.alert.c.run_id == run_id) & (s.alert.c.cleared_step > step)
    connection.execute(update(s.alert).where(cleared_later).values(cleared_step=None, cleared_at=None))


def save_probe_set(
    connection: Connection,
    texts: Texts,
    run_id: int,
    *,
    content_hash: str,
    name: str,
    task: str,
    model: str,
    manifest: Mapping[str, Any],
    probes: Sequence[Probe],
) -> int:
    """The probe set's id, linked to the run; its examples are written the first time its hash is seen."""
    _touch(connection, run_id)
    content_hash = storable(content_hash, NAME_LIMIT)
    set_id: int | None = connection.scalar(select(s.probe_set.c.id).where(s.probe_set.c.content_hash == content_hash))
    if set_id is None:
        values = {
            "content_hash": content_hash,
            "name": storable(name),
            "task": storable(task, NAME_LIMIT),
            "model": storable(model),
            "manifest": dict(manifest),
            "saved_at": now(),
        }
        set_id = _inserted(connection, insert(s.probe_set).values(**values))
        measured = [probe for probe in probes if probe.split == "probe"]
        ids = texts.ids(connection, [probe.example.id for probe in measured])
        rows = [_example_row(set_id, ids[probe.example.id], probe) for probe in measured]
        if rows:
            connection.execute(insert(s.probe_example), rows)
    link = {"run_id": run_id, "probe_set_id": set_id}
    if connection.execute(select(s.run_probe_set).filter_by(**link)).first() is None:
        connection.execute(insert(s.run_probe_set).values(**link))
    return set_id


def _example_row(set_id: int, example_id: int, probe: Probe) -> dict[str, Any]:
    example = probe.example
    return {
        "probe_set_id": set_id,
        "example_id": example_id,
        "task": storable(example.task, NAME_LIMIT),
        "prompt": storable(snippet(example.included, example.cue)),
        "cue": storable(example.cue, PROMPT_LIMIT),
        "cue_option": None if example.cue_option is None else storable(example.cue_option),
        "options": list(example.options),
        "included": storable(probe.behavior.included),
        "ablated": storable(probe.behavior.ablated),
        "included_response": None if probe.responses is None else storable(probe.responses.included),
        "ablated_response": None if probe.responses is None else storable(probe.responses.ablated),
    }


def snippet(messages: Sequence[Message], cue: str, limit: int = PROMPT_LIMIT) -> str:
    """The messages as one text of about ``limit`` characters: how it begins, and the cue with its surroundings.

    >>> snippet([{"role": "user", "content": "0123456789" * 3 + "Hint: A" + "z" * 30}], "Hint: A", limit=24)
    '01234567 … 9Hint: Az …'
    """
    whole = "\n\n".join(message["content"] for message in messages)
    if len(whole) <= limit:
        return whole
    cue = cue[: limit // 2]
    at = whole.rfind(cue) if cue else -1
    if at < 0:
        return f"{whole[:limit]} …"
    head = limit // 3
    around = max(limit - head - len(cue), 0) // 2
    start, end = max(at - around, 0), min(at + len(cue) + around, len(whole))
    tail = " …" if end < len(whole) else ""
    if start <= head:
        return whole[:end] + tail
    return f"{whole[:head]} … {whole[start:end]}{tail}"


def record_round(
    connection: Connection, texts: Texts, run_id: int, round_: Round, scores: Mapping[str, RoundScores]
) -> None:
    """Write a round; one that was there for the same step is replaced."""
    current = _touch(connection, run_id)
    if round_.step > current:
        connection.execute(update(s.run).where(s.run.c.id == run_id).values(step=round_.step))
    same = (s.round_.c.run_id == run_id) & (s.round_.c.step == round_.step)
    connection.execute(delete(s.round_).where(same))
    values = {
        "run_id": run_id,
        "step": round_.step,
        "started_at": in_utc("the round's start", round_.started_at),
        "duration_s": finite("the round's duration", round_.duration_s),
        "tokens": round_.tokens,
        "generated": round_.generated,
        "path": round_.path,
        "unjudged": len(round_.unjudged),
    }
    round_id = _inserted(connection, insert(s.round_).values(**values))
    for task, task_scores in scores.items():
        connection.execute(insert(s.round_task).values(**task_row(round_id, task, task_scores)))
        connection.execute(insert(s.round_score), score_rows(round_id, task, task_scores))
    _insert_rollouts(connection, texts, round_id, round_)


def _insert_rollouts(connection: Connection, texts: Texts, round_id: int, round_: Round) -> None:
    if not round_.rollouts:
        return
    ids = texts.ids(
        connection,
        (
            value
            for r in round_.rollouts
            for value in (
                r.example_id,
                r.behavior.included,
                r.behavior.ablated,
                r.predicted_text,
                *(() if r.predicted is None else (r.predicted.content,)),
                *(() if r.responses is None else (r.responses.included, r.responses.ablated)),
            )
        ),
    )
    rows = [
        {
            "round_id": round_id,
            "position": position,
            "example_id": ids[r.example_id],
            "included_id": ids[r.behavior.included],
            "ablated_id": ids[r.behavior.ablated],
            "predicted_text_id": ids[r.predicted_text],
            "predicted_changed": None if r.predicted is None else r.predicted.changed,
            "predicted_content_id": None if r.predicted is None else ids[r.predicted.content],
        }
        for position, r in enumerate(round_.rollouts)
    ]
    connection.execute(insert(s.rollout), rows)
    written = [
        {
            "round_id": round_id,
            "position": position,
            "included_id": ids[r.responses.included],
            "ablated_id": ids[r.responses.ablated],
        }
        for position, r in enumerate(round_.rollouts)
        if r.responses is not None
    ]
    if written:
        connection.execute(insert(s.response), written)


def record_losses(connection: Connection, run_id: int, step: int, losses: Mapping[LossTerm, MeanLoss]) -> None:
    """Write the mixed losses of the steps up to ``step``; what was there for it is replaced."""
    _touch(connection, run_id)
    connection.execute(delete(s.mixed_loss).where(s.mixed_loss.c.run_id == run_id, s.mixed_loss.c.step == step))
    rows = [
        {
            "run_id": run_id,
            "step": step,
            "term": term,
            "steps": loss.steps,
            "mean": loss.mean if math.isfinite(loss.mean) else None,
        }
        for term, loss in losses.items()
    ]
    if rows:
        connection.execute(insert(s.mixed_loss), rows)


def update_run(
    connection: Connection,
    run_id: int,
    *,
    step: int | None = None,
    status: RunStatus | None = None,
    overhead: float | None = None,
) -> None:
    """A sign of life, with what is new about the run."""
    values: dict[str, Any] = {"step": step, "status": status}
    values["overhead"] = None if overhead is None else finite("the overhead", overhead)
    _touch(connection, run_id, {key: value for key, value in values.items() if value is not None})


def record_alert(connection: Connection, run_id: int, alert: Alert) -> None:
    """Raise an alert, restate one that is raised, or clear it (``active=False``)."""
    _touch(connection, run_id)
    a = s.alert.c
    name, task = storable(alert.name, NAME_LIMIT), storable(alert.task, NAME_LIMIT)
    mine = (a.run_id == run_id) & (a.name == name) & (a.task == task)
    raised = connection.scalar(select(a.id).where(mine & a.cleared_at.is_(None)))
    if not alert.active:
        if raised is not None:
            cleared = {"cleared_step": alert.step, "cleared_at": now()}
            connection.execute(update(s.alert).where(a.id == raised).values(**cleared))
        return
    words = {
        "severity": alert.severity,
        "summary": storable(alert.summary),
        "remedy": storable(alert.remedy),
        "cleared_step": None,
        "cleared_at": None,
    }
    # A resumed run may raise again what it had raised, and seen cleared, before it was killed.
    known = raised or connection.scalar(select(a.id).where(mine & (a.raised_step == alert.step)))
    if known is not None:
        connection.execute(update(s.alert).where(a.id == known).values(**words))
        return
    fresh = {"run_id": run_id, "name": name, "task": task, "raised_step": alert.step, "raised_at": now()}
    connection.execute(insert(s.alert).values(**fresh, **words))


def _touch(connection: Connection, run_id: int, values: Mapping[str, Any] | None = None) -> int:
    """Say that the run lives; its step so far.

    Raises:
        IntrospectionError: no such run.
    """
    step: int | None = connection.scalar(select(s.run.c.step).where(s.run.c.id == run_id))
    if step is None:
        raise IntrospectionError(f"no run {run_id} in this history: start_run() gives the id")
    connection.execute(update(s.run).where(s.run.c.id == run_id).values(updated_at=now(), **(values or {})))
    return step


def _inserted(connection: Connection, statement: Insert) -> int:
    key = connection.execute(statement).inserted_primary_key
    assert key is not None  # every statement here inserts one row into a table with an id
    return int(key[0])
