"""The connection: which database, opened how, transactions that retry, errors in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, NoSuchModuleError
from sqlalchemy.pool import ConnectionPoolEntry

from introspection_probe.errors import IntrospectionError
from introspection_probe.history.values import to_json

DEFAULT_URL = "sqlite:///introspection.db"
BUSY_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5
# A race between two writers of the same new text or round; each retry sees what the other wrote.
_WRITE_ATTEMPTS = 5

T = TypeVar("T")


class HistoryUnavailableError(IntrospectionError):
    """The database cannot be reached or written right now: locked, full, unwritable, down. Trying later may help."""


class NotThereError(IntrospectionError):
    """There is no such history, or no such run in it: it may yet come."""


def resolve_url(db: str | Path | None) -> str:
    """The SQLAlchemy URL of the history: ``db``, else the environment's ``IPROBE_DB``, else ``DEFAULT_URL``.

    A bare file path is a SQLite file. ``postgresql://`` means psycopg 3, the driver this project tests.

    Raises:
        IntrospectionError: it is no URL, or names a database that SQLAlchemy does not know.
    """
    text = str(db or os.environ.get("IPROBE_DB") or DEFAULT_URL)
    if "://" not in text:
        if text == ":memory:":
            return "sqlite://"
        path = Path(text).expanduser()
        return URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        # Not even as the cause: it may quote a part of the URL, and tracebacks end up in logs.
        raise IntrospectionError(
            f"{_without_password(text)!r} is not a database URL: use a file path, sqlite:///FILE or "
            "postgresql://USER@HOST/NAME"
        ) from None
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    return url.render_as_string(hide_password=False)


def _without_password(text: str) -> str:
    """A malformed URL may still hold a password: everything before the last @ goes, and every option."""
    head, at, tail = text.partition("?")[0].rpartition("@")
    return f"{head.partition('://')[0]}://…@{tail}" if at else tail


class Database:
    """An engine, and the two ways to use it: ``reading()`` and ``write(fn)``.

    Args:
        db: as for :func:`resolve_url`.
        must_exist: do not create anything, and open a file on a read-only medium for reading alone.
    """

    def __init__(self, db: str | Path | None, *, must_exist: bool) -> None:
        self._url = make_url(resolve_url(db))
        self.shown = _shown(self._url)
        self.file = _sqlite_file(self._url)
        if self.file is not None:
            _check_file(self.file, self.shown, must_exist=must_exist)
        self._engine = self._make_engine(read_only=must_exist and _not_writable(self.file))

    @property
    def dialect(self) -> str:
        """``"sqlite"`` or ``"postgresql"``."""
        return self._engine.dialect.name

    def _make_engine(self, *, read_only: bool) -> Engine:
        url = _read_only_url(self.file) if read_only and self.file is not None else self._url
        kind = url.get_backend_name()
        # A server that does not answer must hold up neither a scrape nor the begin of a training run.
        hurried = kind == "postgresql" and "connect_timeout" not in url.query
        patience = {"connect_timeout": CONNECT_TIMEOUT_S} if hurried else {}
        try:
            engine = create_engine(url, json_serializer=to_json, pool_pre_ping=kind != "sqlite", connect_args=patience)
        except NoSuchModuleError as error:
            raise IntrospectionError(
                f"{self.shown} names a database that SQLAlchemy does not know: use sqlite:///FILE or "
                "postgresql://USER@HOST/NAME"
            ) from error
        except ModuleNotFoundError as error:
            raise IntrospectionError(
                f"{self.shown} needs the Python module {error.name}, which is not installed (for PostgreSQL: "
                "pip install 'introspection-probe[postgres]')"
            ) from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_read_only if read_only else _prepare)
            event.listen(engine, "begin", _begin)
        return engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection in one read transaction, so that several queries see the same state.

        Raises:
            HistoryUnavailableError: the database cannot be read.
        """
        with self._errors("read"), self._engine.connect() as connection:
            yield connection

    def write(self, fn: Callable[[Connection], T]) -> T:
        """``fn``'s result, its writes committed together; ``fn`` may be called again when another writer raced it.

        Raises:
            HistoryUnavailableError: the database cannot be written.
        """
        with self._errors("write"):
            for _ in range(_WRITE_ATTEMPTS - 1):
                try:
                    return self._write_once(fn)
                except DBAPIError as error:
                    if not _raced(error):
                        raise
            return self._write_once(fn)

    def _write_once(self, fn: Callable[[Connection], T]) -> T:
        with self._engine.connect().execution_options(iprobe_write=True) as connection, connection.begin():
            return fn(connection)

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            reason = " ".join(str(error.orig).split())
            raise HistoryUnavailableError(
                f"cannot {doing} the history {self.shown}: {reason}{_remedy(reason)}"
            ) from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def _shown(url: URL) -> str:
    """How messages name the database: the file's path, or the URL without its password and options."""
    # PostgreSQL takes a password among the options, too.
    return _sqlite_path(url) or url.set(query={}).render_as_string(hide_password=True)


def _sqlite_path(url: URL) -> str | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return None if url.database.startswith("file:") else url.database


def _sqlite_file(url: URL) -> Path | None:
    path = _sqlite_path(url)
    return Path(path) if path else None


def _check_file(file: Path, shown: str, *, must_exist: bool) -> None:
    if file.is_dir():
        raise IntrospectionError(f"{shown} is a directory: name a file in it, for instance {file / 'introspection.db'}")
    if must_exist and not file.exists():
        raise NotThereError(
            f"no history at {shown}: name one with --db or IPROBE_DB, or run where introspection.db lies"
        )
    if not must_exist:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HistoryUnavailableError(
                f"cannot make the folder of the history {shown}: {error.strerror}: choose another place with --db"
            ) from error


def _not_writable(file: Path | None) -> bool:
    return file is not None and not (os.access(file, os.W_OK) and os.access(file.parent, os.W_OK))


def _read_only_url(file: Path) -> URL:
    """A file that nobody here may write: WAL needs its side files, so without them it is read as unchanging."""
    wal = file.with_name(file.name + "-wal")
    unchanging = not wal.exists() or wal.stat().st_size == 0
    query = {"mode": "ro", "uri": "true"} | ({"immutable": "1"} if unchanging else {})
    return URL.create("sqlite", database=f"file:{quote(str(file.resolve()))}", query=query)


def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    # None: this module says BEGIN itself. Python's own would start a write as a read and then fail to upgrade.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _prepare_read_only(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    writing = connection.get_execution_options().get("iprobe_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def _raced(error: DBAPIError) -> bool:
    # 40001 serialization failure, 40P01 deadlock: PostgreSQL asks for the transaction to be repeated.
    state = getattr(error.orig, "sqlstate", None)
    return isinstance(error, IntegrityError) or state in ("40001", "40P01")


def _remedy(reason: str) -> str:
    if "not a database" in reason or "malformed" in reason:
        return ": move the damaged file away, or name another with --db"
    if "readonly" in reason or "unable to open" in reason or "permission denied" in reason.lower():
        return ": check who may write there, or name another place with --db"
    if "locked" in reason:
        return ": another program holds it; try again, or end that program"
    return ""
