"""Every task from building to the report, on the embedded model; and a run of two tasks in every command that reads."""

from __future__ import annotations

import contextlib
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_program import Program
from datasets import Dataset
from runs import embedded_model, embedded_tokenizer, sft
from transformers import LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

from introspection_probe import IntrospectionCallback
from introspection_probe.probe_set import ProbeSet
from introspection_probe.tasks import task_names

ROOT = Path(__file__).parent.parent
SENTIMENT = ROOT / "examples" / "cues" / "sentiment.jsonl"

BUILDS = {
    "aita": ("--n", 12, "--style", "third-person/verdict"),  # from stories(): the embedded ones are long
    "cues": ("--n", 24, "--style", "bare", "--data", SENTIMENT),
    "hint-mmlu": ("--n", 12, "--style", "hint/paren", "--max-prompt-tokens", 600),
    "jabberwocky": ("--n", 24),
    "refusal": ("--n", 10, "--task-option", "max_response_tokens=6"),
    "sycophancy": ("--n", 8, "--style", "bio/paren"),
}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with room for real prompts: it reads few of their words, and answers all the same."""
    folder = tmp_path_factory.mktemp("model")
    embedded_model(max_position_embeddings=4096).save_pretrained(folder)
    embedded_tokenizer().save_pretrained(folder)
    return folder


def train(folder: Path, probes: Any, db: Path, **overrides: Any) -> list[dict[str, float]]:
    """A few steps of a real trainer with the callback; what it logged."""
    callback = IntrospectionCallback(
        probes, db=db, mix_batch_size=2, probe_every=2, max_probes=6, on_error="raise", **overrides
    )
    trainer = sft(folder, callbacks=[callback], max_steps=2, model=embedded_model(max_position_embeddings=4096))
    with contextlib.redirect_stdout(io.StringIO()):  # where the trainer prints its logs
        trainer.train()
    return trainer.state.log_history


def stories(folder: Path) -> Path:
    file = folder / "stories.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"I took {i} cakes of {i % 7} aunts."}) for i in range(80)))
    return file


def report(program: Program, db: Path, *words: object) -> dict[str, Any]:
    done = program("report", "--db", db, "--format", "json", *words)
    assert done.code == 0, done.err
    return dict(json.loads(done.out))


@pytest.mark.parametrize("task", task_names())
def test_a_task_is_built_trained_measured_and_reported(
    task: str, model_path: Path, program: Program, tmp_path: Path
) -> None:
    data = ("--data", stories(tmp_path)) if task == "aita" else ()
    built = program("build", "--task", task, "--model", model_path, "--out", tmp_path / "set", *BUILDS[task], *data)
    assert built.code == 0, built.err
    probe_set = ProbeSet.load(tmp_path / "set")
    assert {probe.example.task for probe in probe_set.probes} == {task}
    logs = train(tmp_path / "run", tmp_path / "set", tmp_path / "h.db")
    assert any(row.get("introspection/explanation_loss", 0) > 0 for row in logs), logs
    told = report(program, tmp_path / "h.db")
    assert (told["task"], told["status"], told["step"]) == (task, "finished", 2)
    assert [taken["step"] for taken in told["rounds"]] == [0, 2]
    for taken in told["rounds"]:
        assert taken["n"] == min(6, len(probe_set.split("probe")))
        assert all(0 <= taken["targets"][target]["exact_match"] <= 1 for target in ("self", "orig"))
        assert 0 <= taken["behavior"]["both"] <= 1
    assert told["rounds"][0]["behavior"]["both"] == 1, "at step 0 the model is M0"
    assert task in program("report", "--db", tmp_path / "h.db", width=200).out


def test_every_cue_of_a_row_is_left_out_by_itself_from_the_file_to_the_report(
    model_path: Path, program: Program, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in SENTIMENT.read_text().splitlines()]
    several = [row for row in rows if len(row.get("cues", ())) > 1]
    assert len(several) > 5
    data = tmp_path / "several.jsonl"
    data.write_text("\n".join(map(json.dumps, several)))
    where = ("--task", "cues", "--model", model_path, "--data", data, "--style", "bare", "--out", tmp_path / "set")
    assert program("build", *where).code == 0
    probe_set = ProbeSet.load(tmp_path / "set")
    assert len(probe_set.probes) == sum(len(row["cues"]) for row in several)
    sides: dict[str, set[str]] = {}
    for probe in probe_set.probes:
        sides.setdefault(probe.example.id.partition("#")[0], set()).add(probe.split)
        assert probe.rendered.included != probe.rendered.ablated
    assert all(len(side) == 1 for side in sides.values())
    train(tmp_path / "run", tmp_path / "set", tmp_path / "h.db")
    assert report(program, tmp_path / "h.db")["rounds"][-1]["n"] == min(6, len(probe_set.split("probe")))


def test_aita_is_measured_on_as_many_stories_of_each_verdict_without_the_framing(
    program: Program, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    config = embedded_model().config
    config.max_position_embeddings, config.initializer_range, config.tie_word_embeddings = 1024, 1.0, False
    model = tmp_path / "restless"  # large random weights: what it answers hangs on every letter
    LlamaForCausalLM(config).save_pretrained(model)
    embedded_tokenizer().save_pretrained(model)
    where = ("--task", "aita", "--model", model, "--data", stories(tmp_path), "--out", tmp_path / "set", "--n", 80)
    done = program("build", *where, "--style", "third-person/paren", "--probe-share", "0.5")
    assert done.code == 0, done.err
    probe_set = ProbeSet.load(tmp_path / "set")
    counts = Counter(probe.behavior.ablated for probe in probe_set.probes)
    assert min(counts["NTA"], counts["YTA"]) > 4
    assert counts["NTA"] != counts["YTA"]
    measured = Counter(probe.behavior.ablated for probe in probe_set.split("probe"))
    assert measured["NTA"] == measured["YTA"]


def test_a_run_of_two_tasks_is_told_apart_by_every_command_that_reads(
    model_path: Path, program: Program, tmp_path: Path
) -> None:
    db = tmp_path / "h.db"
    folders = {}
    for task in ("cues", "jabberwocky"):
        folders[task] = tmp_path / task
        made = program("build", "--task", task, "--model", model_path, "--out", folders[task], *BUILDS[task])
        assert made.code == 0, made.err
    for name in ("one", "two"):
        train(tmp_path / name, list(folders.values()), db, run_name=name)
    by_task = {task: report(program, db, "one", "--task", task) for task in folders}
    assert {task: told["task"] for task, told in by_task.items()} == {task: task for task in folders}
    counts = {task: told["rounds"][-1]["n"] for task, told in by_task.items()}
    assert counts == {task: min(6, len(ProbeSet.load(folder).split("probe"))) for task, folder in folders.items()}
    # What has no signal in one task says nothing of the other.
    raised = {
        task: {alert["name"] for alert in told["alerts"] if alert["task"] == task} for task, told in by_task.items()
    }
    assert raised["cues"] != raised["jabberwocky"]

    compared = json.loads(program("compare", "one", "two", "--db", db, "--format", "json").out)
    assert {told["task"] for told in compared["tasks"]} == set(folders)
    for task, other in (("cues", "jabberwocky"), ("jabberwocky", "cues")):
        watched = program("watch", "one", "--db", db, "--task", task)
        assert watched.code == 0, watched.err
        assert f"{task} (also {other})" in watched.out
    page = tmp_path / "page.html"
    assert program("report", "--db", db, "--html", page).code == 0
    assert all(task in page.read_text() for task in folders)


@pytest.mark.slow
def test_three_tasks_are_built_trained_and_reported_on_a_real_model(
    smollm2_path: Path, program: Program, tmp_path: Path
) -> None:
    """As examples/sft_several_tasks.py does, with as few examples as there can be."""
    styles = {"hint-mmlu": "think/paren", "sycophancy": "bio/paren", "cues": "answer"}
    for task, style in styles.items():
        words = ("--task", task, "--model", smollm2_path, "--out", tmp_path / task, "--n", 3, "--style", style)
        done = program("build", *words, *(("--data", SENTIMENT) if task == "cues" else ()))
        assert done.code == 0, done.err
    callback = IntrospectionCallback(
        [tmp_path / task for task in styles], db=tmp_path / "h.db", mix_batch_size=3, max_probes=1, on_error="raise"
    )
    chat = [{"role": "user", "content": "What is 2 + 2?"}, {"role": "assistant", "content": "It is 4."}]
    settings = SFTConfig(
        str(tmp_path / "run"), max_steps=1, per_device_train_batch_size=1, save_strategy="no", report_to=[],
        bf16=False, gradient_checkpointing=False, disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        SFTTrainer(
            str(smollm2_path), args=settings, train_dataset=Dataset.from_list([{"messages": chat}] * 2),
            callbacks=[callback],
        ).train()  # fmt: skip
    for task in styles:
        told = report(program, tmp_path / "h.db", "--task", task)
        assert (told["task"], told["status"], told["step"]) == (task, "finished", 1)
        assert [taken["step"] for taken in told["rounds"]] == [0, 1]
        assert told["rounds"][0]["behavior"]["both"] == 1, "at step 0 the model is M0"
