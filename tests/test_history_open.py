"""Opening a history: where it is, that it is made or upgraded safely, and one clear sentence when it cannot be."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import postgres
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from histories import write_run
from sqlalchemy import Connection, create_engine, make_url, text

import introspection_probe.history as package
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import DEFAULT_URL, History, HistoryUnavailableError, resolve_url
from introspection_probe.history.database import Database
from introspection_probe.history.migrate import version_of
from introspection_probe.history.schema import REVISIONS, VERSION_TABLE, metadata
from introspection_probe.records import Behavior, Explanation, MeanLoss, RunInfo

MIGRATIONS = Path(package.__file__).parent / "migrations"


@pytest.fixture(scope="module")
def postgres_server() -> Iterator[postgres.Server]:
    with postgres.server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "history.db")
    server: postgres.Server = request.getfixturevalue("postgres_server")
    return server.database()


def test_the_argument_goes_before_the_environment_and_that_before_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("IPROBE_DB", raising=False)
    assert resolve_url(None) == DEFAULT_URL == "sqlite:///introspection.db"
    monkeypatch.setenv("IPROBE_DB", "")
    assert resolve_url(None) == DEFAULT_URL
    monkeypatch.setenv("IPROBE_DB", "runs/h.db")
    assert resolve_url(None) == "sqlite:///runs/h.db"
    assert resolve_url("/a/b.db") == "sqlite:////a/b.db"
    assert resolve_url("sqlite:///x.db") == "sqlite:///x.db"
    assert resolve_url("postgresql://u:p@h/d") == "postgresql+psycopg://u:p@h/d"
    assert resolve_url("postgresql+psycopg://u@h/d") == "postgresql+psycopg://u@h/d"


@pytest.mark.parametrize("name", ["plain.db", "we ird.db", "ques?tion.db", "ha#sh.db", "100%.db", "é@b:c+.db", "a&b=c"])
def test_any_file_name_is_opened_as_itself(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with History.open(str(path)) as history:
        history.start_run(RunInfo("u", "n", "m", ("t",)))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with History.open(str(path), must_exist=True) as history:
        assert history.find_run(None).uid == "u"
        assert history.shown == str(path)


def test_folders_on_the_way_are_made_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "today" / "h.db"
    with History.open(str(path)):
        assert path.exists()


def test_a_reading_command_creates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "none" / "h.db"
    with pytest.raises(IntrospectionError, match=r"no history at .*h\.db: name one with --db or IPROBE_DB"):
        History.open(str(path), must_exist=True)
    assert list(tmp_path.iterdir()) == []
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(IntrospectionError, match="no history in"):
        History.open(str(empty), must_exist=True)
    with closing(sqlite3.connect(empty)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)


def test_a_reading_command_creates_nothing_in_postgres(postgres_server: postgres.Server) -> None:
    url = postgres_server.database()
    with pytest.raises(IntrospectionError, match="no history in"):
        History.open(url, must_exist=True)
    with create_engine(resolve_url(url)).connect() as connection:
        count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        assert connection.exec_driver_sql(count).scalar() == 0


def test_a_directory_is_refused(tmp_path: Path) -> None:
    for must_exist in (False, True):
        with pytest.raises(IntrospectionError, match=r"is a directory: name a file in it"):
            History.open(str(tmp_path), must_exist=must_exist)


@pytest.mark.parametrize(
    "content", [b"hello, I am a text file and no database\n" * 50, b"SQLite format 3\x00" + b"x" * 4096]
)
def test_a_damaged_file_is_refused_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "h.db"
    path.write_bytes(content)
    for must_exist in (False, True):
        with pytest.raises(
            IntrospectionError, match=r"h\.db: .*(not a database|malformed).*: move the damaged file away"
        ):
            History.open(str(path), must_exist=must_exist)
    assert path.read_bytes() == content


def test_a_history_of_a_newer_program_is_refused(db: str) -> None:
    History.open(db).close()
    engine = create_engine(resolve_url(db))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for must_exist in (False, True):
        with pytest.raises(IntrospectionError, match=r"schema 9999, newer than this program.*: upgrade"):
            History.open(db, must_exist=must_exist)
    with engine.connect() as connection:
        assert connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar() == "9999"
    engine.dispose()


def test_another_program_s_tables_are_left_alone(db: str) -> None:
    engine = create_engine(resolve_url(db))
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE run (mine TEXT)")
    with pytest.raises(IntrospectionError, match=r"another program's database.*'run'"):
        History.open(db)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE run")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num TEXT)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('theirs')")
    with History.open(db) as history:
        assert history.runs() == []
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "theirs"
    engine.dispose()


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("introspection_probe.history.database.CONNECT_TIMEOUT_S", 2)  # the least that libpq takes
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for options in ("", "?connect_timeout=2"):
            began = time.monotonic()
            with pytest.raises(HistoryUnavailableError, match="timeout"):
                History.open(f"postgresql://me@127.0.0.1:{port}/d{options}")
            assert time.monotonic() - began < 10


def test_an_address_that_is_none_is_refused_without_showing_its_password() -> None:
    for url, reason in (
        ("postgresql://me:secret@127.0.0.1:port/d", "is not a database URL"),
        ("oracel://me:secret@127.0.0.1/d", "a database that SQLAlchemy does not know"),
        ("mysql://me:secret@127.0.0.1/d", "needs the Python module MySQLdb"),
        ("postgresql://me:secret@127.0.0.1:1/d", "refused"),
        ("postgresql://me@127.0.0.1:1/d?password=secret", "refused"),
        ("postgresql://me@127.0.0.1:port/d?password=secret", "is not a database URL"),
    ):
        with pytest.raises(IntrospectionError, match=reason) as caught:
            History.open(url)
        # A training process logs it with its traceback.
        assert "secret" not in "".join(traceback.format_exception(caught.value))
        assert "\n" not in str(caught.value)


def unprivileged(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that is bound by file permissions, as root is not."""
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    run = [*powerless, sys.executable, "-c", code, *arguments]
    return subprocess.run(run, capture_output=True, text=True, check=False)


OPEN = """
import sys
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History
try:
    with History.open(sys.argv[1], must_exist=sys.argv[2] == "read") as history:
        print(len(history.rounds(history.find_run(None).id)), "rounds")
except IntrospectionError as error:
    print("refused:", error)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    tmp_path.chmod(0o755)


def test_a_folder_that_may_not_be_written_is_one_sentence(folder: Path) -> None:
    folder.chmod(0o555)
    for place in (folder / "h.db", folder / "deeper" / "h.db"):
        run = unprivileged(OPEN, str(place), "write")
        assert run.stdout.startswith("refused: cannot "), run
        assert "with --db" in run.stdout


def test_a_history_on_a_read_only_medium_can_be_reported(folder: Path) -> None:
    path = folder / "h.db"
    with History.open(str(path)) as history:
        write_run(history, n=3, steps=(0, 1, 2))
    path.chmod(0o444)
    folder.chmod(0o555)
    run = unprivileged(OPEN, str(path), "read")
    assert run.stdout == "3 rounds\n", run
    assert [file.name for file in folder.iterdir()] == ["h.db"]
    run = unprivileged(OPEN, str(path), "write")
    assert run.stdout.startswith("refused: cannot "), run


def test_the_migrations_make_the_tables_that_the_code_uses(db: str) -> None:
    History.open(db).close()
    engine = create_engine(resolve_url(db))
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_program_knows_every_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)
    assert tuple(revision.revision for revision in script.walk_revisions())[::-1] == REVISIONS


def test_a_history_is_upgraded_on_opening_and_can_be_taken_back(db: str) -> None:
    History.open(db).close()
    database = Database(db, must_exist=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def to_base(connection: object) -> None:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")

    database.write(to_base)
    with pytest.raises(IntrospectionError, match="no history in"):
        History.open(db, must_exist=True)
    with History.open(db) as history:
        assert history.runs() == []
    database.close()


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_a_history_of_an_earlier_version_is_upgraded_with_all_that_is_in_it(db: str, revision: str) -> None:
    with History.open(db) as history:
        run_id = write_run(history, n=5, steps=(0, 10))
        before = history.runs(), history.rounds(run_id), history.rollouts(run_id, 10), history.alerts(run_id)
    database = Database(db, must_exist=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def back(connection: object) -> None:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)

    database.write(back)
    with database.reading() as connection:
        assert version_of(connection) == revision
    database.close()
    # A reading command does it, too.
    with History.open(db, must_exist=True) as history:
        after = history.runs(), history.rounds(run_id), history.rollouts(run_id, 10), history.alerts(run_id)
        assert after == before
        assert history.losses(run_id) == []
        history.record_losses(run_id, 10, {"kl": MeanLoss(0.5, 10)})
        assert len(history.losses(run_id)) == 1


def test_many_programs_may_open_a_new_history_at_once(db: str) -> None:
    code = """
import sys
from introspection_probe.history import History
from introspection_probe.records import Behavior, Explanation, RunInfo
print("ready", flush=True)
sys.stdin.readline()
with History.open(sys.argv[1]) as history:
    history.start_run(RunInfo(sys.argv[2], "n", "m", ("t",)))
"""
    programs = [
        subprocess.Popen([sys.executable, "-c", code, db, str(n)], stdin=-1, stdout=-1, stderr=-1, text=True)
        for n in range(4)
    ]
    for program in programs:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        assert program.stdin is not None
        program.stdin.write("go\n")
        program.stdin.flush()
    errors = [program.communicate()[1] for program in programs]
    assert [program.returncode for program in programs] == [0] * 4, errors
    with History.open(db, must_exist=True) as history:
        assert sorted(run.uid for run in history.runs()) == list("0123")


def test_reading_needs_neither_torch_nor_alembic_nor_scipy(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    with History.open(str(path)) as history:
        write_run(history, n=3, steps=(0,))
    blocked = (
        "import sys\nfor name in ('torch', 'transformers', 'alembic', 'scipy', 'pyarrow'): sys.modules[name] = None\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", blocked + OPEN, str(path), "read"], capture_output=True, text=True, check=True
    )
    assert run.stdout == "1 rounds\n"


def test_sqlite_is_set_up_for_several_programs(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "h.db"), must_exist=False)
    with database.reading() as connection:
        settings = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "foreign_keys", "busy_timeout")
        }
    database.close()
    assert settings == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 10_000}


def test_a_locked_history_is_unavailable_not_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("introspection_probe.history.database.BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "h.db"
    with History.open(str(path)) as history, closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(
            HistoryUnavailableError, match=r"cannot write the history .*locked: another program holds it"
        ):
            history.start_run(RunInfo("u", "n", "m", ("t",)))
        assert history.runs() == [], "reading goes on while another program writes"
        other.execute("ROLLBACK")
        assert history.start_run(RunInfo("u", "n", "m", ("t",))) == 1


def test_in_memory_histories_work_for_tests() -> None:
    with History.open("sqlite://") as history:
        assert make_url(resolve_url(":memory:")).database is None
        history.start_run(RunInfo("u", "n", "m", ("t",)))
        assert history.find_run(None).uid == "u"


def test_a_history_of_the_first_schema_keeps_its_rounds(db: str) -> None:
    """As a program of that time wrote it: by its own tables."""
    database = Database(db, must_exist=False)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def as_it_was(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        moment = "'2026-01-01 00:00:00'"
        for statement in (
            "INSERT INTO run (id, uid, name, model, tasks, kind, status, step, config, started_at, resumed_at, "
            f"updated_at) VALUES (1, 'u', 'old', 'm', '[]', 'train', 'finished', 5, '{{}}', {moment}, {moment}, "
            f"{moment})",
            "INSERT INTO round (id, run_id, step, started_at, duration_s, tokens, generated, path) "
            f"VALUES (1, 1, 5, {moment}, 1.5, 90, 0, 'packed')",
            *(f"INSERT INTO text (id, digest, value) VALUES ({i}, {blob(db, i)}, '{v}')"
              for i, v in enumerate(("x-1", "B", "A", "The response would change to <A>"), 1)),
            "INSERT INTO rollout (round_id, position, example_id, included_id, ablated_id, predicted_text_id, "
            "predicted_changed, predicted_content_id) VALUES (1, 0, 1, 2, 3, 4, TRUE, 3)",
        ):  # fmt: skip
            connection.execute(text(statement))

    database.write(as_it_was)
    database.close()
    with History.open(db, must_exist=True) as history:
        [stored] = history.rounds(1)
        assert (stored.step, stored.tokens, stored.unjudged) == (5, 90, 0)
        [rollout] = history.rollouts(1, 5)
        assert (rollout.example_id, rollout.behavior, rollout.responses) == ("x-1", Behavior("B", "A"), None)
        assert rollout.predicted == Explanation(True, "A")


def blob(db: str, number: int) -> str:
    """A digest as the database writes it."""
    digits = f"{number:032x}"
    return f"'\\x{digits}'" if db.startswith("postgresql") else f"X'{digits}'"
