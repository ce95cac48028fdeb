"""`iprobe report` and `iprobe runs` on real histories, as a person and as a program read them."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cli_program import Program, run_process
from histories import Host, hostile_probe, make_probes, make_rollouts, write_run, writer
from markdown_it import MarkdownIt
from rich.cells import cell_len
from sklearn.metrics import f1_score

from introspection_probe.history import History
from introspection_probe.records import Alert, Behavior, Explanation
from introspection_probe.scoring import newcombe

HOSTILE = "[red]x[/red]\x1b[2J\a\u202eevil\u200b|`<script>\n\x9b31m\x7f*_$#1 @me"
SGR = re.compile(r"\x1b\[([0-9;]*)m")
STEPS = (0, 100, 200, 300)


@pytest.fixture
def write(db: Path) -> Callable[..., int]:
    return writer(db, n=60, steps=STEPS)


def report_json(program: Program, *args: object) -> dict[str, Any]:
    result = program("report", *args, "--format", "json")
    assert result.code == 0
    report: dict[str, Any] = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return report


def test_json_agrees_with_a_plain_count_over_the_rollouts(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write(seed=5)
    probes, host = make_probes(60, seed=5), Host()
    report = report_json(program, "--db", db)
    assert [found["step"] for found in report["rounds"]] == list(STEPS)
    for found in report["rounds"]:
        rollouts = make_rollouts(probes, found["step"] / STEPS[-1], host, 5)
        n = found["n"]
        assert n == len(rollouts) == 60
        now = [rollout.behavior.explanation for rollout in rollouts]
        then = [probe.behavior.explanation for probe in probes]
        said = [rollout.predicted for rollout in rollouts]
        hits = {
            "self": [a == b for a, b in zip(said, now, strict=True)],
            "orig": [a == b for a, b in zip(said, then, strict=True)],
        }
        for target, truth in (("self", now), ("orig", then)):
            scores = found["targets"][target]
            assert scores["exact_match"] == pytest.approx(sum(hits[target]) / n)
            assert scores["content_match"] == pytest.approx(
                sum(a is not None and a.content == b.content for a, b in zip(said, truth, strict=True)) / n
            )
            for word, flag in (("changed_f1", True), ("unchanged_f1", False)):
                f1 = f1_score(
                    [b.changed is flag for b in truth],
                    [a is not None and a.changed is flag for a in said],
                    zero_division=0,
                )
                assert scores[word] == pytest.approx(f1)
            best, times = Counter(truth).most_common(1)[0]
            assert scores["constant"]["exact_match"] == pytest.approx(times / n)
            assert Counter(truth)[Explanation(**scores["constant"]["explanation"])] == times, best
        cells = Counter(zip(hits["self"], hits["orig"], strict=True))
        gap = newcombe(cells[True, True], cells[True, False], cells[False, True], cells[False, False])
        assert gap is not None
        assert found["coupling_gap"] == {"estimate": gap.estimate, "lower": gap.lower, "upper": gap.upper}
        resolved = cells[True, False] + cells[False, True]
        assert found["self_share"] == (cells[True, False] / resolved if resolved else None)
        assert found["label_agreement"] == pytest.approx(sum(a == b for a, b in zip(now, then, strict=True)) / n)
        assert found["parse_failures"] == sum(a is None for a in said)
        pairs = [(rollout.behavior, probe.behavior) for rollout, probe in zip(rollouts, probes, strict=True)]
        assert found["behavior"] == {
            "both": pytest.approx(sum(a == b for a, b in pairs) / n),
            "included": pytest.approx(sum(a.included == b.included for a, b in pairs) / n),
            "ablated": pytest.approx(sum(a.ablated == b.ablated for a, b in pairs) / n),
        }
    assert report["examples_total"] == 60 - sum(hits["self"])
    assert report["verdict"]["kind"] in {"coupled", "no_gap", "not_evidence"}


def test_json_names_the_run(program: Program, db: Path, write: Callable[..., int]) -> None:
    run_id = write(name="sft", model="org/model", status="finished")
    report = report_json(program, "--db", db)
    expected = {"run": "sft", "run_id": run_id, "model": "org/model", "task": "hint-mmlu", "status": "finished"}
    assert report.items() >= expected.items()
    assert report["step"] == 300
    assert report["stale"] is False


def test_table_shows_the_same_numbers_as_json(program: Program, db: Path, write: Callable[..., int]) -> None:
    write()
    first, last = (report_json(program, "--db", db)["rounds"][end] for end in (0, -1))
    out = program("report", "--db", db, width=140).out
    for label, key in (("Self EM", "self"), ("Orig EM", "orig")):
        values = [f"{found['targets'][key]['exact_match']:.3f}" for found in (first, last)]
        lower, upper = last["targets"][key]["exact_match_interval"]
        line = next(line for line in out.splitlines() if line.startswith(label))
        assert re.findall(r"\s(\d\.\d{3})\s", line) == values
        assert f"{lower:.2f}\u2013{upper:.2f}" in line
    gap = last["coupling_gap"]
    assert f"{gap['estimate']:+.3f}  {gap['lower']:+.2f} to {gap['upper']:+.2f}" in out
    rows = ("Best constant", "Self share", "Content match", "Changed F1", "Unchanged F1", "Label agreement")
    assert all(row in out for row in (*rows, "Behaviour EM", "Says “changed”", "Parse failures"))
    assert "step 0" in out
    assert "step 300" in out
    assert re.search("[▁▂▃▄▅▆▇█]{3}", out)


def test_a_change_is_the_last_round_minus_the_first(program: Program, db: Path, write: Callable[..., int]) -> None:
    write()
    report = report_json(program, "--db", db)

    def values(found: dict[str, Any]) -> dict[str, Any]:
        own = found["targets"]["self"]
        return {
            "self_exact_match": own["exact_match"],
            "orig_exact_match": found["targets"]["orig"]["exact_match"],
            "constant_match": own["constant"]["exact_match"],
            "coupling_gap": found["coupling_gap"]["estimate"],
            "self_share": found["self_share"],
            "content_match": own["content_match"],
            "changed_f1": own["changed_f1"],
            "unchanged_f1": own["unchanged_f1"],
            "predicted_changed_share": found["predicted_changed_share"],
            "behavior_changed_share": found["behavior_changed_share"],
            "parse_failures": found["parse_failures"],
            "behavior_both": found["behavior"]["both"],
            "behavior_included": found["behavior"]["included"],
            "behavior_ablated": found["behavior"]["ablated"],
            "label_agreement": found["label_agreement"],
        }

    first, last = (values(report["rounds"][end]) for end in (0, -1))
    assert set(report["changes"]) == set(first)
    for key, row in report["changes"].items():
        assert (row["baseline"], row["latest"]) == (first[key], last[key]), key
        if first[key] is None:
            assert row["change"] is None
        else:
            assert row["change"] == pytest.approx(last[key] - first[key])
        if row["lower"] is not None:
            assert row["lower"] <= row["change"] <= row["upper"]


def test_what_was_not_measured_is_a_dash(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(steps=(0,))
    out = program("report", "--db", db).out
    share = next(line for line in out.splitlines() if line.startswith("Self share"))
    assert share.split() == ["Self", "share", "\u2013"]
    assert report_json(program, "--db", db)["rounds"][0]["self_share"] is None


def test_a_run_without_rounds_says_so(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(steps=(), status="running")
    out = program("report", "--db", db).out
    assert "No round was taken yet" in out
    assert "running, step 0" in out
    report = report_json(program, "--db", db)
    assert report["rounds"] == []
    assert report["verdict"] is None
    assert program("report", "--db", db, "--format", "markdown").code == 0


def test_a_run_that_fell_silent_is_called_dead(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(status="running")
    assert "probably dead" not in program("report", "--db", db).out
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE run SET updated_at = '2026-01-01 00:00:00.000000'")
    connection.close()
    out = program("report", "--db", db, width=140).out
    assert "says running, but silent for" in out
    assert "probably dead (last heard of at step 300)" in out
    report = report_json(program, "--db", db)
    assert (report["status"], report["stale"]) == ("running", True)
    assert "silent" in program("runs", "--db", db).out


def test_a_run_whose_rounds_take_long_is_not_called_dead_by_any_command(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    """Half an hour a round, and twenty minutes of silence: it measures."""
    write(status="running")
    silent = (datetime.now(UTC) - timedelta(minutes=20)).replace(tzinfo=None)
    for duration, stale in ((1800.0, False), (300.0, True)):
        with sqlite3.connect(db) as connection:
            connection.execute("UPDATE run SET updated_at = ?", [f"{silent}"])
            connection.execute("UPDATE round SET duration_s = ? WHERE step = 100", [duration])
        connection.close()
        assert report_json(program, "--db", db)["stale"] is stale
        assert json.loads(program("runs", "--db", db, "--format", "json").out)[0]["stale"] is stale
        assert ("silent" in program("runs", "--db", db).out) is stale


def test_a_run_that_ended_is_never_called_silent(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(status="failed")
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE run SET updated_at = '2026-01-01 00:00:00.000000'")
    connection.close()
    assert "failed at step 300" in program("report", "--db", db).out
    assert "failed" in program("runs", "--db", db).out
    assert json.loads(program("runs", "--db", db, "--format", "json").out)[0]["stale"] is False


def test_active_alerts_are_shown_and_cleared_ones_only_in_json(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    def alert(name: str, step: int, *, active: bool = True) -> Alert:
        return Alert(name, "hint-mmlu", step, "critical", f"{name} happened.", "Look at it.", active)

    write(
        alerts=[alert("coupling_lost", 100), alert("behavior_drifted", 200), alert("coupling_lost", 300, active=False)]
    )
    out = program("report", "--db", db).out
    assert "critical: behavior_drifted since step 200" in out
    assert "behavior_drifted happened. Look at it." in out
    assert "coupling_lost" not in out
    alerts = {found["name"]: found for found in report_json(program, "--db", db)["alerts"]}
    assert alerts["behavior_drifted"]["active"] is True
    assert alerts["coupling_lost"]["active"] is False
    assert alerts["coupling_lost"]["cleared_step"] == 300


def test_examples_are_those_whose_explanation_is_not_true_of_the_behaviour(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write()
    examples = report_json(program, "--db", db, "--examples", 1000)["examples"]
    assert len(examples) == report_json(program, "--db", db)["examples_total"] > 3
    for example in examples:
        truth = Behavior(**example["behavior"]).explanation
        assert example["predicted"] != {"changed": truth.changed, "content": truth.content}
        assert example["cue"] in example["prompt"]
    # The most telling first: true of M0, no longer of the model.
    old = Behavior(**examples[0]["m0"]).explanation
    assert examples[0]["predicted"] == {"changed": old.changed, "content": old.content}
    assert len(report_json(program, "--db", db)["examples"]) == 3
    assert report_json(program, "--db", db, "--examples", 0)["examples"] == []
    out = program("report", "--db", db, "--examples", 1).out
    assert f"“{examples[0]['predicted_text']}”  true of M0" in out
    assert "Hint: I think the answer is" in out


def test_one_task_of_several(program: Program, db: Path, write: Callable[..., int]) -> None:
    write(tasks=("hint-mmlu", "sycophancy"))
    first = program("report", "--db", db, "--format", "json")
    assert json.loads(first.out)["task"] == "hint-mmlu"
    assert "choose another with --task" in first.err
    second = report_json(program, "--db", db, "--task", "sycophancy")
    assert second["task"] == "sycophancy"
    assert all(example["id"].startswith("sycophancy") for example in second["examples"])
    assert "also sycophancy: choose with --task" in program("report", "--db", db).out
    wrong = program("report", "--db", db, "--task", "nope")
    assert (wrong.code, wrong.out) == (2, "")
    assert "has no task 'nope': it has hint-mmlu, sycophancy" in wrong.err


@pytest.mark.parametrize("width", [1, 20, 32, 40, 47, 55, 61, 72, 80, 95, 100, 120, 200])
@pytest.mark.parametrize("n_steps", [1, 4])
def test_every_line_fits_the_terminal(
    program: Program, db: Path, write: Callable[..., int], width: int, n_steps: int
) -> None:
    write(
        name="a-rather-long-name-of-a-run-that-goes-on",
        steps=tuple(range(0, n_steps * 10_000, 10_000)),
        alerts=[Alert("coupling_lost", "hint-mmlu", 100, "critical", "It is lost. " * 9, "Look at it.")],
    )
    for command in ("report", "runs"):
        result = program(command, "--db", db, width=width)
        assert result.code == 0
        assert max(cell_len(line) for line in result.out.splitlines()) <= max(width, 8)
        assert all(line == line.rstrip() for line in result.out.splitlines())
    if width >= 40:
        out = program("report", "--db", db, width=width).out
        columns = [line for line in out.splitlines() if re.match(r"(Self EM|Orig EM|Changed F1) ", line)]
        assert len(columns) == 3
        if n_steps > 1:
            assert "change" in out
            assert all(len(re.findall(r"[+\u2212]?\d\.\d{3}", line)) == 3 for line in columns)
        assert all("…" not in re.sub(r"\d…[+\u2212]?\d", "", line) for line in columns)


def test_a_pipe_gets_no_escapes_and_a_terminal_gets_colour(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write()
    assert "\x1b" not in program("report", "--db", db).out
    coloured = SGR.findall(program("report", "--db", db, FORCE_COLOR="1", TERM="xterm-256color").out)
    assert {"36"} <= set(coloured)
    plain = program("report", "--db", db, FORCE_COLOR="1", NO_COLOR="1", TERM="xterm-256color").out
    used = {int(code) for codes in SGR.findall(plain) for code in codes.split(";") if code}
    assert used <= {0, 1, 2, 3, 4}  # bold, dim, italic, underline: weight, no colour


@pytest.fixture
def hostile_db(db: Path, write: Callable[..., int]) -> Path:
    write(
        name=HOSTILE,
        model=HOSTILE,
        tasks=(HOSTILE,),
        uid="u1",
        probes=[
            hostile_probe(0, HOSTILE, HOSTILE),
            hostile_probe(1, HOSTILE * 3, HOSTILE),
            hostile_probe(2, HOSTILE * 4000, HOSTILE),
        ],
        host=Host(drift=0.0, learnt=0.0),
        alerts=[Alert(HOSTILE, HOSTILE, 100, "warning", HOSTILE, HOSTILE)],
    )
    return db


def inert(text: str) -> bool:
    return not any(unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"} for char in text if char != "\n")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_hostile_text_is_inert_in_a_terminal(program: Program, hostile_db: Path, width: int) -> None:
    for command in ("report", "runs"):
        result = program(command, "--db", hostile_db, width=width)
        assert result.code == 0
        assert inert(result.out)
        assert "[red]" in result.out  # shown, not obeyed
        assert max(cell_len(line) for line in result.out.splitlines()) <= width
        assert len(result.out) < 20_000
        coloured = program(command, "--db", hostile_db, width=width, FORCE_COLOR="1", TERM="xterm-256color").out
        assert inert(SGR.sub("", coloured))
    assert "\\x1b[2J\\x07\\u202eevil" in program("report", "--db", hostile_db, width=200).out


def test_hostile_text_is_inert_in_markdown(program: Program, hostile_db: Path) -> None:
    for command in ("report", "runs"):
        result = program(command, "--db", hostile_db, "--format", "markdown")
        assert inert(result.out)
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(result.out)
        inline = [child for token in tokens for child in token.children or []]
        assert not [token for token in tokens if token.type == "html_block"]
        assert {token.content for token in inline if token.type == "html_inline"} <= {"<!-- -->"}
        assert not {token.type for token in inline} & {"link_open", "image", "s_open", "em_open"}
        cells = Counter(token.type for token in tokens)
        assert cells["td_open"] % cells["th_open"] == 0


def test_hostile_text_is_printable_and_unchanged_in_json(program: Program, hostile_db: Path) -> None:
    result = program("report", "--db", hostile_db, "--format", "json")
    assert result.out.replace("\n", "").isascii()
    assert inert(result.out)
    report = json.loads(result.out)
    assert report["run"] == report["model"] == report["task"] == HOSTILE
    assert report["examples"][0]["cue"] == HOSTILE
    runs = json.loads(program("runs", "--db", hostile_db, "--format", "json").out)
    assert [run["run"] for run in runs] == [HOSTILE]


def test_markdown_has_the_table_the_verdict_and_the_examples(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write()
    out = program("report", "--db", db, "--format", "markdown").out
    assert out.startswith("## Introspection report: `sft-demo`\n")
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {9}
    assert "### Where explanation and behaviour part" in out
    assert "&emsp;cue included" in out


def test_runs_lists_the_latest_first(program: Program, db: Path, write: Callable[..., int]) -> None:
    for name in ("one", "two", "three"):
        write(name=name, steps=(0,), n=20)
    assert [run["run"] for run in json.loads(program("runs", "--db", db, "--format", "json").out)] == [
        "three",
        "two",
        "one",
    ]
    two = program("runs", "--db", db, "--limit", 2).out
    assert [line.split()[1] for line in two.splitlines()[1:]] == ["three", "two"]
    assert program("runs", "--db", db, "--limit", 0).code == 2


def test_a_run_is_found_by_number_and_name(program: Program, db: Path, write: Callable[..., int]) -> None:
    first = write(name="one", steps=(0,), n=20)
    write(name="two", steps=(0,), n=20)
    assert report_json(program, first, "--db", db)["run"] == "one"
    assert report_json(program, "one", "--db", db)["run"] == "one"
    assert report_json(program, "--db", db)["run"] == "two"
    wrong = program("report", "twoo", "--db", db)
    assert (wrong.code, wrong.out) == (2, "")
    assert "'two'" in wrong.err
    assert len(wrong.err.splitlines()) == 1


def test_the_suggested_commands_work_when_pasted(program: Program, tmp_path: Path) -> None:
    import shlex

    db = tmp_path / "my history.db"
    with History.open(str(db)) as history:
        write_run(history, n=60, steps=STEPS, tasks=("hint-mmlu", "other task"))
    out = program("report", "--db", db, "--task", "other task", width=200).out
    commands = [line.split("  ")[0] for line in out.splitlines() if line.startswith("iprobe ")]
    assert len(commands) == 3
    for command in commands:
        assert program(*shlex.split(command)[1:]).code == 0


def test_a_password_is_not_repeated(program: Program, db: Path, write: Callable[..., int]) -> None:
    from introspection_probe.history import History
    from iprobe.summary import read_course, summarize
    from iprobe.words import next_steps

    write()
    with History.open(str(db)) as history:
        summary = summarize(read_course(history, None, "postgresql://me:secret@host/db"), None)
    assert "secret" not in str(next_steps(summary))
    assert "secret" not in str(next_steps(replace(summary, db="postgresql://host/db?user=me&password=secret")))


def test_a_stream_that_cannot_write_our_signs_gets_plain_ones(db: Path, write: Callable[..., int]) -> None:
    write()
    result = run_process("report", "--db", db, env={"PYTHONIOENCODING": "ascii", "COLUMNS": "120"})
    assert result.code == 0
    assert result.out.isascii()
    assert "Self EM" in result.out


def test_the_picture_of_a_report_is_well_formed_and_calls_nobody(hostile_db: Path, tmp_path: Path) -> None:
    script = Path(__file__).resolve().parent.parent / "scripts" / "report_svg.py"
    picture = tmp_path / "report.svg"
    subprocess.run([sys.executable, script, "--db", hostile_db, picture], check=True)
    text = picture.read_text(encoding="utf-8")
    shown = "".join(
        element.text or "" for element in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}text")
    )
    assert "Self\u00a0EM" in shown
    assert "<script>" in shown  # as text
    assert not re.search(r"url\(\W*http|href=", text)
