"""`iprobe` as a program: help, version, errors, exit codes, what it imports, what the documentation says of it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from cli_program import Program, run_process
from histories import write_run

from introspection_probe.history import History
from iprobe.main import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
BLOCK_TRAINING = (
    "for name in ('torch', 'transformers', 'accelerate', 'datasets', 'peft', 'trl'): sys.modules[name] = None"
)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "history.db"
    with History.open(str(path)) as history:
        write_run(history, n=40, steps=(0, 100))
    return path


def test_help_names_every_command_and_every_command_has_help(program: Program) -> None:
    out = program("--help").out
    assert [line.split()[0] for line in out.split("Commands:")[1].splitlines() if line.strip()] == list(COMMANDS)
    for command in COMMANDS:
        result = program(command, "--help")
        assert result.code == 0
        assert result.out.startswith(f"Usage: iprobe {command}")


def test_every_command_is_a_file_of_its_own_name() -> None:
    folder = ROOT / "cli" / "iprobe"
    assert all((folder / f"{command}.py").is_file() for command in COMMANDS)
    defined = {
        path.stem
        for path in folder.glob("*.py")
        if re.search(
            rf"^(def {path.stem}\(\n|{path.stem} = typer\.Typer\()", path.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert defined - {"main"} == set(COMMANDS), "a command that main.py does not know"


def test_the_documentation_shows_the_present_help() -> None:
    check = subprocess.run(
        [sys.executable, ROOT / "scripts" / "cli_docs.py", "--check"], capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stderr
    headings = re.findall(r"^## iprobe (\w+)$", (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(COMMANDS)


def test_version(program: Program) -> None:
    result = program("--version")
    assert (result.code, result.out) == (0, f"iprobe {version('introspection-probe')}\n")


def test_a_mistyped_command_is_answered_with_the_right_one(program: Program) -> None:
    result = program("rport")
    assert (result.code, result.out) == (2, "")
    assert result.err == "iprobe: there is no command 'rport': did you mean 'report'?\n"
    assert "\x1b" not in program("xyz\x1b[2J").err


@pytest.mark.parametrize(
    "args",
    [
        ("--nope",),
        ("report", "--nope"),
        ("report", "--examples", "many"),
        ("report", "--format", "xml"),
        ("report", "a", "b"),
    ],
)
def test_wrong_use_exits_with_2_and_no_traceback(program: Program, args: tuple[str, ...]) -> None:
    result = program(*args)
    assert (result.code, result.out) == (2, "")
    assert "Error:" in result.err
    assert "Traceback" not in result.err


@pytest.mark.parametrize("command", ["report", "runs"])
def test_a_missing_history_is_one_sentence_and_stays_missing(program: Program, tmp_path: Path, command: str) -> None:
    missing = tmp_path / "none.db"
    result = program(command, "--db", missing)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"iprobe: no history at {missing}: ")
    assert len(result.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_history_is_found_in_the_environment_and_here(
    program: Program, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert program("runs", IPROBE_DB=str(db)).code == 0
    monkeypatch.chdir(db.parent)
    assert program("runs").code == 2
    db.rename(db.with_name("introspection.db"))
    assert program("runs").code == 0


def test_an_empty_history_is_one_sentence(program: Program, tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    with History.open(str(empty)):
        pass
    assert program("runs", "--db", empty).out == "No run was recorded in this history yet.\n"
    assert json.loads(program("runs", "--db", empty, "--format", "json").out) == []
    result = program("report", "--db", empty)
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)


def test_a_file_that_is_no_history_is_one_sentence(program: Program, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(b"this is not a database, it only looks like a file" * 100)
    for command in ("report", "runs"):
        result = program(command, "--db", other)
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)


def test_an_error_message_is_inert(program: Program, tmp_path: Path) -> None:
    result = program("report", "--db", tmp_path / "a\x1b[2Jb\u202e.db")
    assert result.code == 2
    assert "a\\x1b[2Jb\\u202e.db" in result.err


def test_ctrl_c_exits_with_130(program: Program, db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(History, "open", interrupted)
    result = program("report", "--db", db)
    assert (result.code, result.out, "Traceback" in result.err) == (130, "", False)


def test_a_reader_that_goes_away_is_no_error(db: Path) -> None:
    for args in (["report"], ["report", "--format", "json"], ["runs"], ["report", "--format", "markdown"]):
        words = [sys.executable, "-m", "iprobe.main", *args, "--db", str(db)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.close()
        _, err = process.communicate(timeout=60)
        assert err == b""


def test_a_command_that_leaves_at_once_has_written_all_and_says_how_it_went(db: Path, tmp_path: Path) -> None:
    def iprobe_process(*args: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "iprobe.main", *args, "--db", str(db)]
        return subprocess.run(words, capture_output=True, text=True, timeout=60)

    done = iprobe_process("report", "--format", "json", "--html", str(tmp_path / "page.html"))
    assert (done.returncode, json.loads(done.stdout)["status"]) == (0, "finished")
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")
    assert iprobe_process("report", "--check", "--min-self-em", "1").returncode == 1
    wrong = iprobe_process("report", "no such run")
    assert (wrong.returncode, wrong.stdout, len(wrong.stderr.splitlines())) == (2, "", 1)


def test_reading_commands_import_nothing_heavy(db: Path) -> None:
    heavy = ("torch", "transformers", "trl", "datasets", "pyarrow", "scipy", "sklearn", "pandas", "alembic", "numpy")
    report_imported = (
        f"import atexit\natexit.register(lambda: sys.stderr.write(repr([m for m in {heavy!r} if m in sys.modules])))"
    )
    for args in (("report",), ("report", "--format", "json"), ("report", "--format", "markdown"), ("runs",)):
        result = run_process(*args, "--db", db, prelude=report_imported)
        assert (result.code, result.err) == (0, "[]")


def test_reading_commands_work_without_the_training_extras(db: Path) -> None:
    for args in (("--help",), ("report", "--db", db), ("runs", "--db", db)):
        assert run_process(*args, prelude=BLOCK_TRAINING).code == 0


def test_a_command_that_needs_the_training_extras_says_so(tmp_path: Path) -> None:
    out = tmp_path / "probes"
    result = run_process("build", "--task", "jabberwocky", "--model", "nope", "--out", out, prelude=BLOCK_TRAINING)
    assert (result.code, result.out) == (2, "")
    sentence = result.err.splitlines()[-1]
    assert re.fullmatch(r"iprobe: this command needs the training extras \(\w+ is missing\): .*", sentence)
    assert sentence.endswith("pip install 'introspection-probe[train]'")
    assert "Traceback" not in result.err
    assert not out.exists()


def test_completion_offers_the_commands() -> None:
    result = run_process(
        prelude="import os; os.environ.update(_IPROBE_COMPLETE='complete_bash', COMP_WORDS='iprobe r', COMP_CWORD='1')"
    )
    assert result.out.split() == [command for command in COMMANDS if command.startswith("r")]
