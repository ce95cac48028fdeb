from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from cli_program import Program, run_process
from runs import small_probe_set

from introspection_probe import ProbeSet
from introspection_probe.history import History
from introspection_probe.tasks import task_names
from introspection_probe.tasks.jabberwocky import MODEL_PATH
from iprobe.probe import checkpoint_step, run_identity


@pytest.fixture
def probes(tmp_path: Path) -> Path:
    return small_probe_set().save(tmp_path / "probes")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


def checkpoint(folder: Path) -> Path:
    shutil.copytree(MODEL_PATH, folder)
    return folder


def test_build_makes_a_set_and_says_what_it_measured(program: Program, tmp_path: Path) -> None:
    out = tmp_path / "made" / "jabberwocky"
    done = program("build", "--task", "jabberwocky", "--model", MODEL_PATH, "--out", out, "--n", 200, width=80)
    assert done.code == 0, done.err
    built = ProbeSet.load(out)
    assert (len(built.probes), built.manifest.counts["probe"]) == (200, 60)
    assert built.manifest.model == str(MODEL_PATH)
    changed = sum(probe.behavior.explanation.changed for probe in built.probes)
    (row,) = [line for line in done.out.splitlines() if line.startswith("plain")]
    assert f" {changed / 200:.0%} " in row
    text = " ".join(done.out.split())
    assert "140 examples to train on, 60 to measure, from the embedded Jabberwocky world" in text
    assert built.content_hash[:12] in text
    assert "Warning: with 60 probes a rate is known to +/-13% only" in text
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert "\x1b" not in done.out


def test_build_tries_the_styles_of_hint_mmlu_on_real_questions(program: Program, tmp_path: Path) -> None:
    rows = [{"question": f"What is {i}?", "choices": ["a", "b", "c", "d"]} for i in range(12)]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, [*rows, {"question": "no choices"}])))
    out = tmp_path / "set"
    done = program("build", "--task", "hint-mmlu", "--model", MODEL_PATH, "--out", out, "--data", data, "--n", 12)
    assert done.code == 0, done.err
    for style in ("hint-think/answer", "hint-think/paren", "hint/answer", "hint/paren", "think/answer", "think/paren"):
        assert any(line.startswith(style) for line in done.out.splitlines()), done.out
    assert f"from {data}" in " ".join(done.out.split())
    built = ProbeSet.load(out)
    assert built.manifest.task_options == {"data": str(data)}
    assert len(built.probes) == 12
    assert built.manifest.build["tried"][0]["style"] == "hint-think/answer"


def test_the_users_wording_and_template_arguments_reach_the_prompts(program: Program, tmp_path: Path) -> None:
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(json.dumps({"question": f"{i}?", "choices": ["a", "b"]}) for i in range(4)))
    given = ("--hint", "Psst, {option}!", "--opening", "I say (", "--system", "Be brief.")
    arguments = ("--template-arg", "enable_thinking=true", "--template-arg", 'mood="calm"')
    where = ("--task", "hint-mmlu", "--model", MODEL_PATH, "--out", tmp_path / "set", "--data", data)
    done = program("build", *where, *given, *arguments, "--n", 4)
    assert done.code == 0, done.err
    built = ProbeSet.load(tmp_path / "set")
    assert built.style.template_kwargs == {"enable_thinking": True, "mood": "calm"}
    prompt = built.probes[0].rendered.included
    assert "Be brief." in prompt
    assert "Psst, " in prompt
    assert prompt.endswith("I say (")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--task", "hint-mlmu"], "unknown task 'hint-mlmu': choose one of "),
        (["--hint", "{option}?"], "task 'jabberwocky' has no option 'hint': choose one of facts"),
        (["--probe-share", "1.5"], "the probe share is 1.5"),
        (["--style", "plane"], "has no prompt style 'plane': choose one of plain"),
        (["--model", "/no/such/model"], "there is no model at /no/such/model"),
        (["--out", "/dev/null/set"], "cannot write /dev/null/set"),
        (["--task", "hint-mmlu", "--data", "/no/such.jsonl"], "there is no file /no/such.jsonl"),
        (["--template-arg", "thinking"], "--template-arg 'thinking' is not NAME=JSON"),
        (["--dtype", "int8"], "'int8' is no dtype"),
        (["--device", "gpu"], "'gpu' is no device"),
    ],
)
def test_wrong_use_of_build_is_one_sentence_and_leaves_nothing(
    options: list[str], sentence: str, program: Program, tmp_path: Path
) -> None:
    usual = ["--task", "jabberwocky", "--model", str(MODEL_PATH), "--out", str(tmp_path / "set"), "--n", "10"]
    done = program("build", *usual, *options)
    assert done.code == 2
    assert done.out == ""
    assert sentence in done.err
    assert done.err.splitlines()[-1].startswith("iprobe: ")
    assert not list(tmp_path.iterdir())


def test_build_refuses_a_folder_that_is_there_before_it_loads_a_model(program: Program, probes: Path) -> None:
    done = program("build", "--task", "jabberwocky", "--model", "/no/such/model", "--out", probes)
    assert done.code == 2
    assert "is there already, and nothing is overwritten" in done.err


def test_probe_records_the_round_that_the_report_shows(program: Program, probes: Path, db: Path) -> None:
    done = program("probe", "--model", MODEL_PATH, "--probes", probes, "--db", db)
    assert done.code == 0, done.err
    assert "Behaviour EM" in done.out
    with History.open(str(db)) as history:
        run = history.find_run(None)
        (round_,) = history.rounds(run.id)
        rollouts = {rollout.example_id: rollout.behavior for rollout in history.rollouts(run.id, round_.step)}
    assert (run.kind, run.status, run.step, round_.step) == ("offline", "finished", 0, 0)
    # M0 measured again does what the set says M0 did.
    assert rollouts == {probe.example.id: probe.behavior for probe in small_probe_set().split("probe")}
    report = program("report", "--db", db, "--format", "json")
    shown = json.loads(report.out)
    assert shown["rounds"][0]["behavior"]["both"] == 1.0
    assert shown["rounds"][0]["n"] == 24


def test_checkpoints_of_a_folder_are_rounds_of_one_run(
    program: Program, probes: Path, db: Path, tmp_path: Path
) -> None:
    for step in (20, 3):
        model = checkpoint(tmp_path / "sft" / f"checkpoint-{step}")
        assert program("probe", "--model", model, "--probes", probes, "--db", db).code == 0
    again = program("probe", "--model", model, "--probes", probes, "--db", db)
    assert again.code == 0
    with History.open(str(db)) as history:
        (run,) = history.runs()
        assert run.name == "sft"
        assert [round_.step for round_ in history.rounds(run.id)] == [3, 20]


def test_the_users_run_and_step_come_first(program: Program, probes: Path, db: Path, tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "sft" / "checkpoint-20")
    for step in (7, 8):
        done = program("probe", "--model", model, "--probes", probes, "--db", db, "--run", "mine", "--step", step)
        assert done.code == 0, done.err
    with History.open(str(db)) as history:
        (run,) = history.runs()
        assert run.name == "mine"
        assert [round_.step for round_ in history.rounds(run.id)] == [7, 8]


def test_a_checkpoints_step_is_in_its_name_or_its_trainer_state(tmp_path: Path) -> None:
    assert checkpoint_step("out/checkpoint-500") == 500
    assert checkpoint_step("org/model-7b") == 0
    (tmp_path / "trainer_state.json").write_text('{"global_step": 42}')
    assert checkpoint_step(str(tmp_path)) == 42
    (tmp_path / "trainer_state.json").write_text("[]")
    assert checkpoint_step(str(tmp_path)) == 0


def test_a_run_is_a_folder_of_checkpoints_on_one_probe_set(tmp_path: Path) -> None:
    one, two = (tmp_path / name / "checkpoint-1" for name in ("a", "b"))
    assert run_identity(str(one), None, "hash")[0] == "a"
    identities = {
        run_identity(str(one), None, "hash"),
        run_identity(str(two), None, "hash"),
        run_identity(str(one), None, "other"),
        run_identity(str(one), "a", "hash"),
    }
    assert len({uid for _, uid in identities}) == 4
    assert run_identity(str(one), "x", "hash") == run_identity(str(two), "x", "hash")


def test_wrong_use_of_probe_is_one_sentence_and_makes_no_history(
    program: Program, probes: Path, db: Path, tmp_path: Path
) -> None:
    cases = {
        ("--model", MODEL_PATH, "--probes", tmp_path / "nowhere"): "there is no probe set at",
        ("--model", "/no/such/model", "--probes", probes): "there is no model at /no/such/model",
    }
    for options, sentence in cases.items():
        done = program("probe", *options, "--db", db)
        assert (done.code, done.out) == (2, "")
        assert sentence in done.err
    assert not db.exists()


def test_a_model_with_another_tokenizer_is_refused(program: Program, probes: Path, db: Path, tmp_path: Path) -> None:
    model = checkpoint(tmp_path / "other")
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, other = small_probe_set().probes[0].example.options[:2]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = program("probe", "--model", model, "--probes", probes, "--db", db)
    assert done.code == 2
    assert "does not fit: the same prompts give other token ids; build a probe set with this model" in done.err
    assert not db.exists()


def test_an_unwritable_history_is_found_before_the_measurement(program: Program, probes: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = program("probe", "--model", MODEL_PATH, "--probes", probes, "--db", tmp_path / "file" / "x.db")
    assert done.code == 2
    assert done.out == ""


def test_the_help_of_both_commands_needs_no_torch() -> None:
    for command in ("build", "probe"):
        done = run_process(command, "--help", prelude="sys.modules['torch'] = None; sys.modules['transformers'] = None")
        assert done.code == 0, done.err
        assert "--model" in done.out


def test_every_task_is_named_in_the_help_and_every_option_of_a_task_can_be_given(
    program: Program, tmp_path: Path
) -> None:
    help_text = " ".join(program("build", "--help").out.split())
    assert all(name in help_text for name in task_names())
    where = ("--task", "jabberwocky", "--model", MODEL_PATH, "--out", tmp_path / "set", "--n", 20)
    done = program("build", *where, "--task-option", "facts=test")
    assert done.code == 0, done.err
    built = ProbeSet.load(tmp_path / "set")
    assert built.manifest.task_options == {"facts": "test"}
    assert built.task == "jabberwocky-test"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--task-option", "shout=1"], "has no option 'shout': choose one of data, hint, opening,"),
        (["--task-option", "shout"], "--task-option 'shout' is not NAME=JSON"),
        (["--task-option", 'template_kwargs={"a"'], "the value begins like JSON and does not end like it"),
        (["--task-option", "hint=a {option}", "--hint", "b {option}"], "the task's option 'hint' is given twice"),
        (["--task-option", "hint=a", "--task-option", "hint=b"], "--task-option gives 'hint' twice"),
        (["--task-option", "template_kwargs=5"], "its option 'template_kwargs' is 5; give an object"),
        (["--task-option", "opening=5"], "task 'hint-mmlu': its option 'opening' is 5; give a text"),
    ],
)
def test_a_wrong_task_option_is_one_sentence(
    options: list[str], sentence: str, program: Program, tmp_path: Path
) -> None:
    done = program("build", "--task", "hint-mmlu", "--model", "/no/such", "--out", tmp_path / "set", *options)
    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


def test_malformed_rows_are_skipped_or_refused_as_the_user_chose(program: Program, tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "choices": ["a", "b"]} for i in range(4)]
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, [*rows, {"question": "\x1b[2J", "choices": ["a", "b"]}])))
    usual = ("build", "--task", "hint-mmlu", "--model", MODEL_PATH, "--data", data, "--n", 4, "--style", "hint/paren")
    refused = program(*usual, "--out", tmp_path / "refused", "--bad-rows", "refuse")
    assert refused.code == 2
    assert "row 5: the question contains the control character U+001B" in refused.err
    assert "\x1b" not in refused.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["questions.jsonl"]
    done = program(*usual, "--out", tmp_path / "skipped", "--bad-rows", "skip")
    assert done.code == 0, done.err
    assert len(ProbeSet.load(tmp_path / "skipped").probes) == 4
