"""Probes as plain rows, and rows as a Parquet file: the columns of a probe set's ``examples.parquet``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Explanation, Message, Probe, ProbeExample, Rendered, Responses

if TYPE_CHECKING:
    import pyarrow as pa


def to_row(probe: Probe) -> dict[str, Any]:
    """One probe as JSON-able values: a column each, label sets sorted by name."""
    example = probe.example
    row: dict[str, Any] = {
        "id": example.id,
        "group": example.group,
        "task": example.task,
        "split": probe.split,
        "included": _plain(example.included),
        "ablated": _plain(example.ablated),
        "question": _plain(example.question),
        "options": list(example.options),
        "cue": example.cue,
        "cue_option": example.cue_option,
        "rendered_included": probe.rendered.included,
        "rendered_ablated": probe.rendered.ablated,
        "rendered_question": probe.rendered.question,
        "behavior_included": probe.behavior.included,
        "behavior_ablated": probe.behavior.ablated,
        "labels": [
            {"set": name, "changed": label.changed, "content": label.content}
            for name, label in sorted(probe.labels.items())
        ],
    }
    if probe.responses is not None:
        # Only where answers are free: other sets keep the columns, and so the content hash, that they always had.
        row |= {
            "response_included": probe.responses.included,
            "response_ablated": probe.responses.ablated,
            "response_included_ids": list(probe.responses.included_ids),
            "response_ablated_ids": list(probe.responses.ablated_ids),
        }
    return row


def from_row(row: Mapping[str, Any]) -> Probe:
    """The probe that :func:`to_row` made the row of.

    Raises:
        KeyError, TypeError, ValueError: a missing or wrong value.
    """
    if row["split"] not in ("train", "probe"):
        raise ValueError(f"split is {row['split']!r}")
    return Probe(
        example=ProbeExample(
            id=row["id"],
            group=row["group"],
            task=row["task"],
            included=tuple(row["included"]),
            ablated=tuple(row["ablated"]),
            question=tuple(row["question"]),
            options=tuple(row["options"]),
            cue=row["cue"],
            cue_option=row["cue_option"],
        ),
        rendered=Rendered(row["rendered_included"], row["rendered_ablated"], row["rendered_question"]),
        split=row["split"],
        behavior=Behavior(row["behavior_included"], row["behavior_ablated"]),
        labels={label["set"]: Explanation(label["changed"], label["content"]) for label in row["labels"]},
        responses=_responses(row),
    )


def _responses(row: Mapping[str, Any]) -> Responses | None:
    if row.get("response_included") is None:
        return None
    return Responses(
        included=row["response_included"],
        ablated=row["response_ablated"],
        included_ids=tuple(row["response_included_ids"]),
        ablated_ids=tuple(row["response_ablated_ids"]),
    )


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of :func:`to_row` as Parquet, zstd-compressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    judged = any("response_included" in row for row in rows)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=_schema(judged=judged)), path, compression="zstd")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of such a file.

    Raises:
        IntrospectionError: missing, not Parquet, or with other columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise IntrospectionError(f"{path.parent} is no whole probe set: it has no {path.name}") from error
    except (pa.ArrowException, OSError) as error:
        raise IntrospectionError(f"{path} cannot be read: restore it or build the set again ({error})") from error
    missing = sorted(set(_schema(judged=False).names) - set(table.column_names))
    if missing:
        raise IntrospectionError(f"{path} lacks the columns {', '.join(missing)}: build the set again")
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _schema(*, judged: bool) -> pa.Schema:
    import pyarrow as pa

    text = pa.string()
    messages = pa.list_(pa.struct([("role", text), ("content", text)]))
    labels = pa.list_(pa.struct([("set", text), ("changed", pa.bool_()), ("content", text)]))
    columns: dict[str, pa.DataType] = dict.fromkeys(("id", "group", "task", "split"), text)
    columns |= dict.fromkeys(("included", "ablated", "question"), messages)
    columns |= {"options": pa.list_(text), "cue": text, "cue_option": text}
    columns |= dict.fromkeys(("rendered_included", "rendered_ablated", "rendered_question"), text)
    columns |= dict.fromkeys(("behavior_included", "behavior_ablated"), text)
    columns["labels"] = labels
    if judged:
        columns |= dict.fromkeys(("response_included", "response_ablated"), text)
        columns |= dict.fromkeys(("response_included_ids", "response_ablated_ids"), pa.list_(pa.int32()))
    return pa.schema(list(columns.items()))


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message["role"], "content": message["content"]} for message in messages]
