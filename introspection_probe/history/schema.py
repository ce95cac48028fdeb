"""The tables, as docs/history-schema.md describes them. Alembic's migrations make them; a test keeps both equal.

``rollout`` is the one table that grows: a row for each example of each round. It holds small integers only
(every text lives once in ``text``), and its primary key is its clustering order, so that reading a round touches
just that round's pages.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from introspection_probe.history.values import UTCDateTime

REVISIONS = ("0001", "0002", "0003")
"""Every schema version this program knows, oldest first; the last is the one it reads and writes."""

VERSION_TABLE = "iprobe_schema_version"
"""Not Alembic's default name: the database may belong to a program that uses Alembic, too."""

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(column_0_label)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _run_id() -> Column[int]:
    return Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), nullable=False)


run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("uid", String(400), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("tasks", JSON, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("status", String(16), nullable=False),
    Column("step", Integer, nullable=False),
    Column("overhead", Float),
    Column("config", JSON, nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("resumed_at", UTCDateTime, nullable=False, index=True),
    Column("updated_at", UTCDateTime, nullable=False),
)

probe_set = Table(
    "probe_set",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("content_hash", String(400), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("task", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("saved_at", UTCDateTime, nullable=False),
)

run_probe_set = Table(
    "run_probe_set",
    metadata,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("probe_set_id", Integer, ForeignKey("probe_set.id"), primary_key=True),
)

text = Table(
    "text",
    metadata,
    Column("id", Integer, primary_key=True),
    # Unique by digest, not by value: PostgreSQL cannot index a long text, and SQLite would store it twice.
    Column("digest", LargeBinary(16), nullable=False, unique=True),
    Column("value", Text, nullable=False),
)

probe_example = Table(
    "probe_example",
    metadata,
    Column("probe_set_id", Integer, ForeignKey("probe_set.id", ondelete="CASCADE"), primary_key=True),
    Column("example_id", Integer, ForeignKey("text.id"), primary_key=True),
    Column("task", Text, nullable=False),
    Column("prompt", Text, nullable=False),
    Column("cue", Text, nullable=False),
    Column("cue_option", Text),
    Column("options", JSON, nullable=False),
    Column("included", Text, nullable=False),
    Column("ablated", Text, nullable=False),
    Column("included_response", Text),
    Column("ablated_response", Text),
    sqlite_with_rowid=False,
)

round_ = Table(
    "round",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("step", Integer, nullable=False),
    Column("started_at", UTCDateTime, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("tokens", BigInteger, nullable=False),
    Column("generated", Integer, nullable=False),
    Column("path", String(16), nullable=False),
    Column("unjudged", Integer, nullable=False, server_default="0"),
    UniqueConstraint("run_id", "step"),
)

round_task = Table(
    "round_task",
    metadata,
    Column("round_id", Integer, ForeignKey("round.id", ondelete="CASCADE"), primary_key=True),
    Column("task", String(400), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("behavior_n", Integer, nullable=False),
    Column("behavior_both_matches", Integer, nullable=False),
    Column("behavior_included_matches", Integer, nullable=False),
    Column("behavior_ablated_matches", Integer, nullable=False),
    Column("paired_both", Integer, nullable=False),
    Column("paired_self_only", Integer, nullable=False),
    Column("paired_orig_only", Integer, nullable=False),
    Column("paired_neither", Integer, nullable=False),
    Column("disagreements", Integer, nullable=False),
    Column("label_agreement_matches", Integer, nullable=False),
    Column("predicted_changed", Integer, nullable=False),
    Column("predicted_unchanged", Integer, nullable=False),
    Column("cue_followed", Integer, nullable=False),
    Column("cue_pointed", Integer, nullable=False),
    Column("moved_departed", Integer),
    Column("moved_kept", Integer),
    Column("still_departed", Integer),
    Column("still_kept", Integer),
    Column("departures_expected", Float),
    Column("departures_variance", Float),
    Column("included_answers", JSON, nullable=False),
    Column("ablated_answers", JSON, nullable=False),
    sqlite_with_rowid=False,
)

round_score = Table(
    "round_score",
    metadata,
    Column("round_id", Integer, primary_key=True),
    Column("task", String(400), primary_key=True),
    Column("target", String(400), primary_key=True),
    Column("n", Integer, nullable=False),
    Column("exact_matches", Integer, nullable=False),
    Column("content_matches", Integer, nullable=False),
    Column("flag_matches", Integer, nullable=False),
    Column("changed_tp", Integer, nullable=False),
    Column("changed_fp", Integer, nullable=False),
    Column("changed_fn", Integer, nullable=False),
    Column("unchanged_tp", Integer, nullable=False),
    Column("unchanged_fp", Integer, nullable=False),
    Column("unchanged_fn", Integer, nullable=False),
    Column("parse_failures", Integer, nullable=False),
    Column("constant_changed", Boolean),
    Column("constant_content", Text),
    Column("constant_matches", Integer, nullable=False),
    Column("constant_hits", Integer, nullable=False),
    ForeignKeyConstraint(["round_id", "task"], ["round_task.round_id", "round_task.task"], ondelete="CASCADE"),
    sqlite_with_rowid=False,
)

rollout = Table(
    "rollout",
    metadata,
    Column("round_id", Integer, ForeignKey("round.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("example_id", Integer, ForeignKey("text.id"), nullable=False),
    Column("included_id", Integer, ForeignKey("text.id"), nullable=False),
    Column("ablated_id", Integer, ForeignKey("text.id"), nullable=False),
    Column("predicted_text_id", Integer, ForeignKey("text.id"), nullable=False),
    Column("predicted_changed", Boolean),
    Column("predicted_content_id", Integer, ForeignKey("text.id")),
    sqlite_with_rowid=False,
)

response = Table(
    "response",
    metadata,
    Column("round_id", Integer, ForeignKey("round.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("included_id", Integer, ForeignKey("text.id"), nullable=False),
    Column("ablated_id", Integer, ForeignKey("text.id"), nullable=False),
    sqlite_with_rowid=False,
)

mixed_loss = Table(
    "mixed_loss",
    metadata,
    Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("term", String(16), primary_key=True),
    Column("steps", Integer, nullable=False),
    Column("mean", Float),
    sqlite_with_rowid=False,
)

alert = Table(
    "alert",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("name", String(400), nullable=False),
    Column("task", String(400), nullable=False),
    Column("severity", String(16), nullable=False),
    Column("summary", Text, nullable=False),
    Column("remedy", Text, nullable=False),
    Column("raised_step", Integer, nullable=False),
    Column("raised_at", UTCDateTime, nullable=False),
    Column("cleared_step", Integer),
    Column("cleared_at", UTCDateTime),
    UniqueConstraint("run_id", "name", "task", "raised_step"),
)
