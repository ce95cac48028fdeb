"""`iprobe compare` on real histories: what it pairs, what it refuses, what it says."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program, run_process
from histories import Host, make_probes, make_rollouts, writer
from markdown_it import MarkdownIt
from rich.cells import cell_len
from scipy.stats import binomtest

from introspection_probe.records import Behavior, Probe

STEPS = (0, 100, 200)
GOOD, POOR = Host(follows=0.95, wrong=0.02), Host(follows=0.5, wrong=0.3)
HOSTILE = "[red]x[/red]\x1b[2J\a\u202eevil\u200b|`<script>\n\x9b31m\x7f*_$#1 @me"


@pytest.fixture
def write(db: Path) -> Callable[..., int]:
    return writer(db, n=150, steps=STEPS)


def compared(program: Program, *args: object) -> dict[str, Any]:
    result = program("compare", *args, "--format", "json")
    assert (result.code, result.err) == (0, "")
    found: dict[str, Any] = json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    return found


def refused(program: Program, *args: object) -> str:
    result = program("compare", *args)
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
    return result.err


def test_it_agrees_with_a_plain_count_over_the_rollouts(program: Program, db: Path, write: Callable[..., int]) -> None:
    a, b = write("good", host=GOOD), write("poor", host=POOR)
    found = compared(program, "good", "poor", "--db", db)
    assert (found["a"]["run_id"], found["b"]["run_id"]) == (a, b)
    [task] = found["tasks"]
    probes = make_probes(150)
    ours, theirs = (make_rollouts(probes, 1.0, host) for host in (GOOD, POOR))
    assert (task["task"], task["n"], task["a_step"], task["b_step"]) == ("hint-mmlu", 150, 200, 200)

    def hits(rollouts: Sequence[Any], truth: Callable[[Any, Probe], Any]) -> list[bool]:
        return [r.predicted == truth(r, probe) for r, probe in zip(rollouts, probes, strict=True)]

    for key, truth in (
        ("self_exact_match", lambda r, _: r.behavior.explanation),
        ("orig_exact_match", lambda _, probe: probe.behavior.explanation),
        ("parse_failures", lambda *_: None),
    ):
        before, after = hits(ours, truth), hits(theirs, truth)
        row = task["rows"][key]
        assert (row["a"], row["b"]) == (sum(before) / 150, sum(after) / 150)
        assert row["estimate"] == pytest.approx(row["b"] - row["a"])
        assert row["lower"] <= row["estimate"] <= row["upper"]
        lost = sum(x and not y for x, y in zip(before, after, strict=True))
        gained = sum(y and not x for x, y in zip(before, after, strict=True))
        assert row["p"] == pytest.approx(binomtest(lost, lost + gained).pvalue if lost + gained else 1.0)
    gap, rows = task["rows"]["coupling_gap"], task["rows"]
    assert gap["b"] == pytest.approx(rows["self_exact_match"]["b"] - rows["orig_exact_match"]["b"])
    alike = sum(x.behavior == y.behavior for x, y in zip(ours, theirs, strict=True)) / 150
    assert task["behavior_agreement"]["both"]["estimate"] == pytest.approx(alike)
    assert task["verdict"]["kind"] == "worse"


def test_the_verdict_is_said_in_words_and_turns_with_the_order(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write("good", host=GOOD)
    write("poor", host=POOR)
    out = " ".join(program("compare", "good", "poor", "--db", db).out.split())
    assert "B explains itself worse than A: Self EM 0." in out
    assert "on 150 common probes, exact McNemar p < 0.001." in out
    assert "B explains itself better than A" in program("compare", "poor", "good", "--db", db).out
    assert "**B explains itself better than A" in (
        program("compare", "poor", "good", "--db", db, "--format", "markdown").out
    )
    write("twin", host=GOOD, uid="twin")
    same = " ".join(program("compare", "good", "twin", "--db", db).out.split())
    assert "No difference can be told: Self EM" in same
    assert "A and B behave alike on 150 of 150 probes (100%" in same


def test_a_round_can_be_named(program: Program, db: Path, write: Callable[..., int]) -> None:
    write("a")
    write("b", steps=(0, 100, 300))
    [last] = compared(program, "a", "b", "--db", db)["tasks"]
    assert (last["a_step"], last["b_step"]) == (200, 300)
    [early] = compared(program, "a", "b", "--db", db, "--round", 100)["tasks"]
    assert (early["a_step"], early["b_step"]) == (100, 100)
    assert "run 2 ('b') has no round at step 200: the nearest of its 3 are at 0, 100, 300" in refused(
        program, "a", "b", "--db", db, "--round", 200
    )


def test_runs_are_named_as_in_a_report(program: Program, db: Path, write: Callable[..., int]) -> None:
    a, b = write("a", uid="aaaa-1"), write("b", uid="bbbb-2")
    for refs in ((a, b), ("a", "b"), ("aaaa", "bbbb")):
        found = compared(program, *refs, "--db", db)
        assert (found["a"]["run_id"], found["b"]["run_id"]) == (a, b)
    assert "no run 'c'" in refused(program, "a", "c", "--db", db)
    assert f"run {a} ('a') is compared with itself" in refused(program, a, "a", "--db", db)


def test_only_the_common_examples_count(program: Program, db: Path, write: Callable[..., int]) -> None:
    probes = make_probes(120)
    write("a", probes=probes[:100])
    write("b", probes=probes[40:])
    [task] = compared(program, "a", "b", "--db", db)["tasks"]
    assert (task["n"], task["a_only"], task["b_only"]) == (60, 40, 20)
    out = program("compare", "a", "b", "--db", db).out
    assert "Left out: 40 that only A measured, 20 that only B measured." in out


def test_runs_without_a_common_example_are_refused(program: Program, db: Path, write: Callable[..., int]) -> None:
    probes = make_probes(100)
    write("a", probes=probes[:50])
    write("b", probes=probes[50:])
    assert "have no example of 'hint-mmlu' in common" in refused(program, "a", "b", "--db", db)


def test_examples_that_share_only_an_id_are_refused(program: Program, db: Path, write: Callable[..., int]) -> None:
    write("a", seed=0)
    write("b", seed=1)
    assert "is another question in run 1 ('a') than in run 2 ('b')" in refused(program, "a", "b", "--db", db)


def relabelled(probes: Sequence[Probe], count: int) -> list[Probe]:
    """The same questions, asked of an M0 that answers ``count`` of them otherwise."""

    def other(probe: Probe) -> Probe:
        behavior = Behavior(
            "D" if probe.behavior.included != "D" else "C", "A" if probe.behavior.ablated != "A" else "B"
        )
        return replace(probe, behavior=behavior, labels={"orig": behavior.explanation})

    return [*map(other, probes[:count]), *probes[count:]]


def test_labels_of_another_m0_are_refused_and_a_few_are_left_out(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    probes = make_probes(100)
    write("a", probes=probes)
    write("other", probes=relabelled(probes, 60))
    write("flickers", probes=relabelled(probes, 3))
    error = refused(program, "a", "other", "--db", db)
    assert "the labels of 'hint-mmlu' mean two things: E(M0) differs on 60 of 100 common examples" in error
    [task] = compared(program, "a", "flickers", "--db", db)["tasks"]
    assert (task["n"], task["relabelled"]) == (97, 3)


def test_without_a_saved_probe_set_only_self_is_compared(program: Program, db: Path, write: Callable[..., int]) -> None:
    import sqlite3

    write("a")
    write("b", host=POOR)
    with sqlite3.connect(db) as connection:
        connection.execute("DELETE FROM run_probe_set WHERE run_id = 2")
    connection.close()
    [task] = compared(program, "a", "b", "--db", db)["tasks"]
    assert task["rows"]["coupling_gap"] == dict.fromkeys(("a", "b", "estimate", "lower", "upper", "p"))
    assert task["rows"]["self_exact_match"]["p"] < 0.05
    assert "Orig EM and the gap are left out" in program("compare", "a", "b", "--db", db).out


def test_every_common_task_is_compared_unless_one_is_named(
    program: Program, db: Path, write: Callable[..., int]
) -> None:
    write("a", tasks=("hint-mmlu", "sycophancy", "aita"))
    write("b", tasks=("hint-mmlu", "sycophancy"))
    write("c", tasks=("aita",))
    assert [task["task"] for task in compared(program, "a", "b", "--db", db)["tasks"]] == ["hint-mmlu", "sycophancy"]
    [one] = compared(program, "a", "b", "--db", db, "--task", "sycophancy")["tasks"]
    assert (one["task"], one["n"]) == ("sycophancy", 150)
    assert "have no task in common" in refused(program, "b", "c", "--db", db)
    assert "have no task 'aita' in common" in refused(program, "a", "b", "--db", db, "--task", "aita")


def test_a_run_without_a_round_is_refused(program: Program, db: Path, write: Callable[..., int]) -> None:
    write("a")
    write("b", steps=())
    assert "run 2 ('b') has no round yet" in refused(program, "a", "b", "--db", db)


@pytest.mark.parametrize("width", [20, 32, 44, 60, 80, 140])
def test_every_line_fits_the_terminal_and_hostile_text_is_inert(
    program: Program, db: Path, write: Callable[..., int], width: int
) -> None:
    probes = [
        replace(probe, example=replace(probe.example, id=f"{HOSTILE}{probe.example.id}", task=HOSTILE))
        for probe in make_probes(40)
    ]
    for uid in ("u1", "u2"):
        write(HOSTILE, uid=uid, model=HOSTILE, tasks=(HOSTILE,), probes=probes, n=40)
    result = program("compare", 1, 2, "--db", db, width=width)
    assert result.code == 0
    assert max(cell_len(line) for line in result.out.splitlines()) <= width
    markdown = program("compare", 1, 2, "--db", db, "--format", "markdown").out
    for text in (result.out, markdown, program("compare", 1, 2, "--db", db, "--format", "json").out):
        assert not {unicodedata.category(char) for char in text if char != "\n"} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(markdown)
    inline = [child for token in tokens for child in token.children or []]
    assert not [token for token in tokens if token.type == "html_block"]
    assert {token.content for token in inline if token.type == "html_inline"} <= {"<!-- -->"}


def test_it_imports_nothing_heavy(db: Path, write: Callable[..., int]) -> None:
    write("a", host=GOOD)
    write("b", host=POOR)
    heavy = ("torch", "transformers", "pyarrow", "scipy", "pandas", "alembic", "numpy")
    listed = (
        f"import atexit\natexit.register(lambda: sys.stderr.write(repr([m for m in {heavy!r} if m in sys.modules])))"
    )
    result = run_process("compare", "a", "b", "--db", db, prelude=listed)
    assert (result.code, result.err) == (0, "[]")
