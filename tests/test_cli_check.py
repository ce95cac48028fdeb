"""`iprobe report --check`: what a CI system sees of it, its exit code and its JUnit file."""

from __future__ import annotations

import json
import sqlite3
import time
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cli_program import Program
from histories import make_probes, make_rollouts, writer
from junitparser import Failure, JUnitXml
from lxml import etree

from introspection_probe.alerts import CONDITIONS
from introspection_probe.history import History
from introspection_probe.records import Alert, Round, RunInfo
from introspection_probe.scoring import score_by_task, score_round

HOSTILE = "[red]x[/red]\x1b[2J\a\u202eevil\ufffe|]]>`<failure>&\n\x9b31m\x7f"
STEPS = (0, 100, 200)
SCHEMA = Path(__file__).parent / "data" / "schemas" / "junit-10.xsd"


@pytest.fixture
def write(db: Path) -> Callable[..., int]:
    return writer(db, n=60, steps=STEPS)


def alert(name: str = "coupling_lost", *, task: str = "hint-mmlu", active: bool = True, says: str = "Lost.") -> Alert:
    return Alert(name, task, 100, "critical", says, "Look at it.", active)


def conditions(program: Program, *args: object) -> tuple[int, dict[tuple[str, str | None], dict[str, Any]]]:
    """The exit code and the conditions by name and task."""
    result = program("report", *args, "--check", "--format", "json")
    check = json.loads(result.out)["check"]
    assert check["holds"] is (result.code == 0)
    return result.code, {(one["name"], one["task"]): one for one in check["conditions"]}


def test_a_run_without_alerts_passes(program: Program, db: Path, write: Callable[..., int]) -> None:
    write()
    result = program("report", "--db", db, "--check")
    assert (result.code, result.err) == (0, "")
    assert "Self EM" in result.out
    assert "conditions hold" in result.out
    code, found = conditions(program, "--db", db)
    assert code == 0
    alerts = {name for (name, _), one in found.items() if one["kind"] == "alert"}
    assert alerts == set(CONDITIONS)
    assert program("report", "--db", db, "--check", "--format", "markdown").code == 0


def test_an_alert_that_stands_fails_and_one_that_cleared_does_not(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write(alerts=[alert(), alert("behavior_drifted"), alert("behavior_drifted", active=False)])
    result = program("report", "--db", db, "--check")
    assert result.code == 1
    assert result.err == "iprobe: 1 of 12 conditions does not hold: coupling_lost\n"
    assert "fails  coupling_lost  critical since step 100: Lost. Look at it." in result.out
    code, found = conditions(program, "--db", db)
    assert code == 1
    assert [name for (name, _), one in found.items() if not one["holds"]] == ["coupling_lost"]
    markdown = program("report", "--db", db, "--check", "--format", "markdown")
    assert markdown.code == 1
    assert "- **fails** `coupling_lost`: critical since step 100" in markdown.out
    assert program("report", "--db", db).code == 0, "only --check judges"


def test_an_alert_that_this_program_does_not_know_fails_too(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write(alerts=[alert("invented_later")])
    assert program("report", "--db", db, "--check").err.endswith(": invented_later\n")


@pytest.mark.parametrize(("status", "code"), [("finished", 0), ("stopped", 0), ("running", 0), ("failed", 1)])
def test_a_failed_run_fails(program: Program, db: Path, write: Callable[..., int], status: str, code: int) -> None:
    write(status=status)
    result = program("report", "--db", db, "--check")
    assert (result.code, "run_status" in result.err) == (code, bool(code))


def test_a_run_that_died_without_saying_so_fails(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(status="running")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE run SET updated_at = '2026-01-01 00:00:00.000000'")
    connection.close()
    result = program("report", "--db", db, "--check")
    assert (result.code, "probably dead" in result.out, "run_status" in result.err) == (1, True, True)


def test_a_run_without_a_round_fails(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(steps=())
    result = program("report", "--db", db, "--check", "--min-self-em", 0)
    assert (result.code, result.err) == (1, "iprobe: 1 of 2 conditions does not hold: round_taken\n")


@pytest.mark.parametrize(
    ("option", "read"),
    [
        ("--min-self-em", lambda last: last["targets"]["self"]["exact_match"]),
        ("--min-gap", lambda last: last["coupling_gap"]["estimate"]),
        ("--min-label-agreement", lambda last: last["label_agreement"]),
    ],
)
def test_a_threshold_is_held_against_the_number_in_the_report(
    program: Program, db: Path, write: Callable[..., int], option: str, read: Callable[[dict[str, Any]], float]
) -> None:
    write()
    value = read(json.loads(program("report", "--db", db, "--format", "json").out)["rounds"][-1])
    assert conditions(program, "--db", db, option, value)[0] == 0
    code, found = conditions(program, "--db", db, option, value + 1e-6)
    name = option.removeprefix("--").replace("-", "_")
    assert (code, found[name, "hint-mmlu"]["holds"]) == (1, False)
    says = found[name, "hint-mmlu"]["says"]
    assert f"{value:.3f}" in says
    assert "95% interval" in says
    assert "only more probes could tell" in says
    far = conditions(program, "--db", db, option, 1.0)[1][name, "hint-mmlu"]
    assert (far["holds"], "only more probes" in far["says"]) == (False, False)


def test_what_was_not_measured_does_not_meet_a_threshold(program: Program, db: Path) -> None:
    with History.open(str(db)) as history:
        run_id = history.start_run(RunInfo("u", "empty", "m", ("hint-mmlu",)))
        history.record_round(run_id, Round(0, (), datetime.now(UTC), 1.0), {"hint-mmlu": score_round([], [])})
    code, found = conditions(program, "--db", db, "--min-gap", -1)
    assert (code, found["min_gap", "hint-mmlu"]["holds"]) == (1, False)
    assert "was not measured" in found["min_gap", "hint-mmlu"]["says"]


def test_every_task_is_checked_unless_one_is_named(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(tasks=("hint-mmlu", "sycophancy"), alerts=[alert(task="sycophancy")])
    result = program("report", "--db", db, "--check")
    assert (result.code, result.err.endswith(": coupling_lost (sycophancy)\n")) == (1, True)
    assert program("report", "--db", db, "--check", "--task", "hint-mmlu").code == 0
    assert program("report", "--db", db, "--check", "--task", "sycophancy").code == 1


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--min-self-em", "0.7"), "--min-self-em is given without --check"),
        (("--min-gap", "0"), "--min-gap is given without --check"),
        (("--junit", "x.xml"), "--junit is given without --check"),
        (("--check", "--min-self-em", "70"), "min-self-em"),
        (("--check", "--min-gap", "nan"), "min-gap"),
        (("--check", "--junit", "no/such/folder/x.xml"), "cannot write the JUnit file"),
        (("nope", "--check"), "no run 'nope'"),
    ],
)
def test_wrong_use_is_2_and_not_1(
    program: Program, db: Path, write: Callable[..., int], args: tuple[str, ...], says: str
) -> None:
    write(alerts=[alert()])
    result = program("report", "--db", db, *args)
    assert (result.code, result.out) == (2, "")
    assert says in result.err


def test_junit_has_a_test_case_for_each_condition(
    program: Program, db: Path, write: Callable[..., int], tmp_path: Path
) -> None:
    write(name="sft", tasks=("hint-mmlu", "sycophancy"), alerts=[alert(says="Gap <0> & falling.")])
    junit = tmp_path / "iprobe.xml"
    code, found = conditions(program, "--db", db, "--junit", junit, "--min-self-em", 0.99)
    assert code == 1
    [suite] = JUnitXml.fromfile(str(junit))
    wrong = [key for key, one in found.items() if not one["holds"]]
    assert (suite.name, suite.tests, suite.failures, suite.errors) == ("iprobe sft", len(found), len(wrong), 0)
    cases = {(case.name, case.classname.removeprefix("iprobe sft").removeprefix(".") or None): case for case in suite}
    assert cases.keys() == found.keys()
    assert [key for key, case in cases.items() if not case.is_passed] == wrong
    [failure] = cases["coupling_lost", "hint-mmlu"].result
    assert isinstance(failure, Failure)
    assert (failure.type, failure.message) == ("alert", "critical since step 100: Gap <0> & falling. Look at it.")
    assert {prop.name: prop.value for prop in suite.properties()}["status"] == "finished"


def test_a_run_of_many_tasks_is_read_once(program: Program, db: Path) -> None:
    """A hundred tasks over fifty rounds: read anew for each task it took minutes."""
    tasks = [f"task-{number:03}" for number in range(100)]
    probes = [probe for task in tasks for probe in make_probes(2, task)]
    rollouts = make_rollouts(probes, 1.0)
    scores = score_by_task(rollouts, probes)
    with History.open(str(db)) as history:
        run_id = history.start_run(RunInfo("u", "many", "m", tuple(tasks)))
        for step in range(50):
            history.record_round(run_id, Round(step, rollouts, datetime.now(UTC), 1.0), scores)
        history.update_run(run_id, status="finished")
    began = time.monotonic()
    code, found = conditions(program, "--db", db)
    assert time.monotonic() - began < 10
    assert {task for _, task in found} == {*tasks, None}
    assert (code, len(found)) == (0, 1 + 100 * (1 + len(CONDITIONS)))
    out = program("report", "--db", db, width=200).out
    assert "(also task-001, task-002, task-003, task-004, task-005, task-006 and 93 more: choose with --task)" in out
    refused = program("report", "--db", db, "--task", "nothing").err
    assert "it has task-000, task-001, task-002, task-003, task-004, task-005 and 94 more" in refused


@pytest.mark.parametrize("kind", ["passing", "failing", "hostile", "no round"])
def test_junit_fits_the_schema_of_jenkins(
    program: Program, db: Path, write: Callable[..., int], tmp_path: Path, kind: str
) -> None:
    options: dict[str, dict[str, Any]] = {
        "passing": {},
        "failing": {"alerts": [alert()], "status": "failed"},
        "hostile": {"name": HOSTILE * 200, "model": HOSTILE, "tasks": (HOSTILE,), "uid": HOSTILE},
        "no round": {"steps": ()},
    }
    write(**options[kind])
    junit = tmp_path / "iprobe.xml"
    code = program("report", "--db", db, "--check", "--junit", junit).code
    assert code == (kind in ("failing", "no round"))
    schema = etree.XMLSchema(etree.parse(SCHEMA))
    schema.assertValid(etree.parse(junit))
    spoilt = tmp_path / "spoilt.xml"
    spoilt.write_text(junit.read_text().replace(" failures=", " failing="))
    assert not schema.validate(etree.parse(spoilt)), "the schema does refuse"


def test_hostile_text_is_inert_in_junit(program: Program, db: Path, write: Callable[..., int], tmp_path: Path) -> None:
    write(
        name=HOSTILE,
        model=HOSTILE,
        tasks=(HOSTILE,),
        uid=HOSTILE,
        alerts=[alert(HOSTILE, task=HOSTILE, says=HOSTILE * 500)],
    )
    junit = tmp_path / "iprobe.xml"
    result = program("report", "--db", db, "--check", "--junit", junit)
    assert (result.code, "Traceback" in result.err) == (1, False)
    text = junit.read_text(encoding="utf-8")
    shown = "".join(ElementTree.fromstring(text).itertext())  # an illegal character would not parse
    assert "\\x1b[2J\\x07\\u202eevil\\ufffe|]]>`<failure>&" in shown
    assert {element.tag for element in ElementTree.fromstring(text).iter()} == {
        *("testsuites", "testsuite", "properties", "property", "testcase", "failure")
    }
    for output in (text, result.out, result.err):
        assert not {unicodedata.category(char) for char in output} & {"Cf", "Cs", "Co", "Zl", "Zp"}
        assert not [char for char in output if unicodedata.category(char) == "Cc" and char != "\n"]
    assert len(text) < 20_000
