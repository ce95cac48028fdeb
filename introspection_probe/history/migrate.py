"""Bring a database to this program's schema, safely when several programs open it at once.

Alembic is imported only when there is something to do: reading commands answer without it.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from introspection_probe.errors import IntrospectionError
from introspection_probe.history.database import Database, NotThereError
from introspection_probe.history.schema import REVISIONS, VERSION_TABLE, metadata

# Any number that other programs on the same PostgreSQL server do not use for their own advisory locks.
_LOCK = 0x1B20BE


def version_of(connection: Connection) -> str | None:
    """The schema version of the database, None where there is no history yet."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)


def ensure_schema(database: Database, *, must_exist: bool) -> None:
    """Make or upgrade the tables where needed.

    Raises:
        IntrospectionError: the history is newer than this program, is missing while ``must_exist``, or its table
            names are taken by another program.
        HistoryUnavailableError: the database cannot be read or written.
    """
    with database.reading() as connection:
        version = version_of(connection)
        _check(connection, version, database.shown, must_exist=must_exist)
    if version != REVISIONS[-1]:
        database.write(lambda connection: _upgrade(connection, database.shown))


def _check(connection: Connection, version: str | None, shown: str, *, must_exist: bool) -> None:
    if version is not None and version not in REVISIONS:
        raise IntrospectionError(
            f"the history {shown} has schema {version}, newer than this program knows ({REVISIONS[-1]}): "
            "upgrade introspection-probe, or name another history with --db"
        )
    if version is not None:
        return
    if must_exist:
        raise NotThereError(f"no history in {shown}: name one with --db or IPROBE_DB")
    taken = sorted(set(inspect(connection).get_table_names()) & set(metadata.tables))
    if taken:
        raise IntrospectionError(
            f"{shown} is another program's database (it has a table {taken[0]!r}): name another with --db"
        )


def _upgrade(connection: Connection, shown: str) -> None:
    """Runs inside one write transaction. SQLite's is exclusive already; PostgreSQL needs a lock of our own."""
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    version = version_of(connection)
    _check(connection, version, shown, must_exist=False)
    if version == REVISIONS[-1]:
        return
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, REVISIONS[-1])
