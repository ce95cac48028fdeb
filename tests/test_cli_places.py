"""The training side of `iprobe` on odd machines: where files cannot be, devices that are not there, no tokenizer."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_program import Program
from runs import embedded_model, small_probe_set

from introspection_probe import ProbeSet
from introspection_probe.history import History
from introspection_probe.tasks.jabberwocky import MODEL_PATH

BUILD = ("build", "--task", "jabberwocky", "--model", MODEL_PATH, "--n", 40)


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    return small_probe_set().save(tmp_path / "pröbes of mine")


def test_what_to_type_next_can_be_pasted(program: Program, tmp_path: Path) -> None:
    out = tmp_path / "a set; ♥"
    done = program(*BUILD, "--out", out)
    assert done.code == 0, done.err
    assert f"--probes '{out}'`" in done.err
    db = tmp_path / "my history.db"
    done = program("probe", "--model", MODEL_PATH, "--probes", out, "--db", db)
    assert f"see `iprobe report 1 --db '{db}'`" in done.err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*BUILD, "--out", "."), ". is the folder that you are in: name a new one in it"),
        ((*BUILD, "--out", "x" * 300), f"{'x' * 300}: File name too long"),
        (("demo", "--dir", "file"), "cannot make the folder file: File exists; choose another one with --dir"),
        (("demo", "--explanation-weight=-1", "--dir", "new"), "explanation_weight is -1.0"),
        (("follow", ".", "--probes", "PROBES", "--device", "cuda:99"), "'cuda:99' is no device of this machine"),
        (("follow", ".", "--probes", "PROBES", "--device", "meta"), "'meta' is no device of this machine"),
        (("follow", ".", "--probes", "PROBES", "--dtype", "int4"), "'int4' is no dtype"),
        (("probe", "--probes", "PROBES", "--model", "file"), "file is a file: give the folder that save_pretrained"),
    ],
)
def test_an_impossible_place_is_one_sentence_and_leaves_nothing(
    arguments: tuple[object, ...],
    sentence: str,
    program: Program,
    probes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    if "." not in arguments or "follow" in arguments:
        (here / "file").write_text("")
    before = set(here.iterdir())
    done = program(*(probes if argument == "PROBES" else argument for argument in arguments))
    assert (done.code, done.out) == (2, "")
    assert done.err.splitlines()[-1].startswith(f"iprobe: {sentence}")
    assert set(here.iterdir()) == before
    assert set(tmp_path.iterdir()) == {here, probes}


def test_a_demo_never_takes_the_place_of_somebodys_own_probe_set(program: Program, tmp_path: Path) -> None:
    own = ProbeSet.load(small_probe_set().save(tmp_path / "saved"))
    shutil.copytree(tmp_path / "saved", tmp_path / "work" / "probes")
    manifest = tmp_path / "work" / "probes" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(MODEL_PATH), "my-model"))
    done = program("demo", "--steps", 1, "--dir", tmp_path / "work")
    assert done.code == 2
    assert "holds another probe set, and sets are never overwritten" in done.err
    assert ProbeSet.load(tmp_path / "work" / "probes").probes == own.probes


def test_a_tokenizer_can_be_named_where_none_was_saved(program: Program, probes: Path, tmp_path: Path) -> None:
    out, db = tmp_path / "out", tmp_path / "h.db"
    for step in (1, 2):
        embedded_model().save_pretrained(out / f"step-{step}")
    follow = ("follow", out, "--probes", probes, "--once", "--poll", 0.1, "--db", db)
    refused = program(*follow)
    assert refused.code == 1
    assert refused.err.count("has no tokenizer that loads") == 2
    assert "name one with --tokenizer" in refused.err
    for option in ("--tokenizer", "--base"):  # the base's own is good enough
        done = program(*follow[:-1], tmp_path / f"{option}.db", option, MODEL_PATH)
        assert done.code == 0, done.err
    done = program("probe", "--model", out / "step-1", "--probes", probes, "--db", db, "--tokenizer", MODEL_PATH)
    assert done.code == 0, done.err
    for name, steps in (("--tokenizer", [1, 2]), ("--base", [0, 1, 2])):
        with History.open(str(tmp_path / f"{name}.db"), must_exist=True) as history:
            assert [round_.step for round_ in history.rounds(history.find_run(None).id)] == steps


def test_ctrl_c_in_a_demo_ends_it_without_a_traceback_and_ends_its_run(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "iprobe.main", "demo", "--dir", str(tmp_path / "demo"), "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "HOME"},
    )
    deadline = time.monotonic() + 90
    while not (tmp_path / "demo" / "introspection.db").exists():
        assert time.monotonic() < deadline
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.2)
    time.sleep(3)  # into training
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130
    assert "Traceback" not in said
    with History.open(str(tmp_path / "demo" / "introspection.db"), must_exist=True) as history:
        assert [run.status for run in history.runs()] == ["failed"]
