"""Builds that are stopped and gone on with, shared among processes, and that choose their questions."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program
from runs import embedded_model, embedded_tokenizer

from introspection_probe import ProbeSet
from introspection_probe.building import BuildSummary, build_probe_set
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set.manifest import Manifest
from introspection_probe.records import ProbeExample
from introspection_probe.tasks.base import PromptStyle
from introspection_probe.tasks.jabberwocky import MODEL_PATH, Jabberwocky


class Kinds(Jabberwocky):
    """The embedded world's rows, changed by a function of their number, with a field ``kind``."""

    def __init__(self, change: Any = None) -> None:
        self._change = change or (lambda number, row: row)
        self.read = 0

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        for number, row in enumerate(super().rows(seed)):
            self.read += 1
            yield self._change(number, {**row, "kind": "rare" if number % 10 == 0 else "usual"})


def build(task: Jabberwocky, **options: Any) -> tuple[ProbeSet, BuildSummary]:
    return build_probe_set(task, embedded_model(), embedded_tokenizer(), **{"n": 40, **options})


def questions_file(folder: Path, count: int = 240) -> Path:
    rng = random.Random(0)
    rows = [
        {"question": f"Is {rng.randrange(10**6)} {word}?", "choices": ["no", "yes", "never", "maybe"]}
        for word in ("odd", "prime", "large")
        for _ in range(count // 3)
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def build_words(data: Path, out: Path, *more: object) -> list[str]:
    usual = ["build", "--task", "hint-mmlu", "--model", MODEL_PATH, "--data", data, "--out", out, "--n", 240]
    return [str(word) for word in (*usual, *more)]


def without_time(manifest: Manifest) -> Manifest:
    return replace(manifest, created_at="")


def answers(partial: Path) -> int:
    file = partial / "answers.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return questions_file(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """What one process builds that nobody stops."""
    out = data.parent / "whole"
    subprocess.run([sys.executable, "-m", "iprobe.main", *build_words(data, out)], check=True, capture_output=True)
    return out


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_was_stopped_goes_on_to_the_set_of_an_uninterrupted_one(
    stop: signal.Signals, data: Path, whole: Path, tmp_path: Path, program: Program
) -> None:
    out, partial = tmp_path / "set", tmp_path / "set.partial"
    words = build_words(data, out)
    process = subprocess.Popen([sys.executable, "-m", "iprobe.main", *words], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 100
    while answers(partial) < 60 and time.monotonic() < deadline:  # in the middle of trying the styles
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert not out.exists()
    if stop == signal.SIGINT:
        assert b"the same command goes on from there" in errors
    with (partial / "answers.jsonl").open("ab") as file:
        file.write(b'{"style": "hint/an')  # as a machine that goes down leaves it
    before = answers(partial)
    done = program(*words)
    assert done.code == 0, done.err
    assert f"Going on where a build was stopped: {before} answers" in done.err
    assert (out / "examples.parquet").read_bytes() == (whole / "examples.parquet").read_bytes()
    resumed, uninterrupted = ProbeSet.load(out), ProbeSet.load(whole)
    assert without_time(resumed.manifest) == without_time(uninterrupted.manifest)
    assert not partial.exists()


def test_what_was_asked_before_the_stop_is_not_asked_again(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(label: str, done: int, total: int) -> None:
        if done >= 150:
            raise Stop

    with pytest.raises(Stop):
        build(Jabberwocky(), n=200, work=tmp_path / "work", progress=stop)
    kept = answers(tmp_path / "work")
    assert 0 < kept < 150
    model = embedded_model()
    asked = 0

    def count(module: Any, inputs: Any, kwargs: Any) -> None:
        nonlocal asked
        asked += 1

    model.register_forward_pre_hook(count, with_kwargs=True)
    resumed, _ = build_probe_set(Jabberwocky(), model, embedded_tokenizer(), n=200, work=tmp_path / "work")
    part = asked
    anew, _ = build_probe_set(Jabberwocky(), model, embedded_tokenizer(), n=200)
    assert resumed == replace(anew, manifest=replace(anew.manifest, created_at=resumed.manifest.created_at))
    assert part < asked - part


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"seed": 1}, "seed was 0 there and is 1 now"),
        ({"n": 201}, "n was 200 there and is 201 now"),
        ({"balance": "changed"}, "balance was None there and is 'changed' now"),
        ({"task_options": {"facts": "all"}}, "task_options was {} there and is {'facts': 'all'} now"),
    ],
)
def test_another_argument_does_not_go_on_with_a_stopped_build(
    changed: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    stopped(tmp_path / "work")
    before = (tmp_path / "work" / "answers.jsonl").read_bytes()
    with pytest.raises(IntrospectionError, match=sentence) as refused:
        build(Jabberwocky(), **{"n": 200, "work": tmp_path / "work", **changed})
    assert "or delete that folder to start anew" in str(refused.value)
    assert (tmp_path / "work" / "answers.jsonl").read_bytes() == before


def stopped(work: Path) -> None:
    def stop(label: str, done: int, total: int) -> None:
        if done >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(Jabberwocky(), n=200, work=work, progress=stop)


def test_other_weights_or_other_rows_do_not_go_on_with_a_stopped_build(tmp_path: Path) -> None:
    stopped(tmp_path / "work")
    model = embedded_model()
    model.get_input_embeddings().weight.data += 1
    with pytest.raises(IntrospectionError, match="model_fingerprint was"):
        build_probe_set(Jabberwocky(), model, embedded_tokenizer(), n=200, work=tmp_path / "work")
    edited = Kinds(lambda number, row: {**row, "question": "So. " + row["question"]} if number == 3 else row)
    with pytest.raises(IntrospectionError, match=r"row 4 is another one now\): put the data back"):
        build(edited, n=200, work=tmp_path / "work")


def test_two_processes_do_not_build_in_one_folder(tmp_path: Path) -> None:
    def meanwhile(label: str, done: int, total: int) -> None:
        with pytest.raises(IntrospectionError, match="another process is building in"):
            build(Jabberwocky(), work=tmp_path / "work")

    build(Jabberwocky(), work=tmp_path / "work", progress=meanwhile)


def test_a_build_that_fails_before_it_asks_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(IntrospectionError, match="cannot balance over 'colour': no row has"):
        build(Kinds(), balance="colour", work=tmp_path / "work")
    assert not list(tmp_path.iterdir())


def test_a_question_that_is_there_already_is_left_out_whatever_its_spelling() -> None:
    def twice(number: int, row: dict[str, Any]) -> dict[str, Any]:
        if number % 2 == 0:
            twice.last = row  # type: ignore[attr-defined]
            return row
        last: dict[str, Any] = twice.last  # type: ignore[attr-defined]
        return {**last, "id": f"{last['id']}-again", "question": f" {last['question']}".replace("The", "THE ")}

    built, summary = build(Kinds(twice))
    assert (len(built.probes), summary.duplicates) == (40, 39)
    assert not any(probe.example.id.endswith("-again") for probe in built.probes)


def test_the_same_question_with_another_cue_is_another_example_on_the_same_side() -> None:
    class Regrouped(Kinds):
        """Every question with two hints, as two rows that know nothing of each other."""

        def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
            for row in super().rows(seed):
                other = next(o for o in row["options"] if o != row["hint"])
                yield row
                yield {**row, "id": f"{row['id']}-b", "hint": other, "question": row["question"].replace(",", " ;")}

        def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
            return replace(super().example(row, style, rng), group=row["id"])

    built, summary = build(Regrouped())
    assert (len(built.probes), summary.duplicates, summary.joined) == (40, 0, 20)
    sides: dict[str, set[str]] = {}
    for probe in built.probes:
        sides.setdefault(probe.example.id.removesuffix("-b"), set()).add(probe.split)
    assert len(sides) == 20
    assert all(len(side) == 1 for side in sides.values())


def test_long_questions_are_left_out_counted_and_others_taken_in_their_place() -> None:
    plain, _ = build(Jabberwocky())
    prompts = [probe.rendered.question for probe in plain.probes]
    longest = max(len(ids) for ids in embedded_tokenizer()(prompts, add_special_tokens=False)["input_ids"]) + 4
    wordy = Kinds(lambda number, row: row if number % 3 else {**row, "question": "tell me " * 40 + row["question"]})
    built, summary = build(wordy, max_prompt_tokens=longest)
    assert (len(built.probes), summary.too_long) == (40, 20)
    (sentence,) = [warning for warning in summary.warnings if "longer" in warning]
    assert sentence == (
        f"20 questions are longer than the model's window or the cap of {longest} tokens and were left out"
    )
    with pytest.raises(IntrospectionError, match=r"none of \d+ questions fits into 2 tokens"):
        build(Jabberwocky(), max_prompt_tokens=2)


def test_rows_are_read_as_far_as_needed_and_an_endless_stream_of_unusable_ones_ends() -> None:
    task = Kinds()
    build(task, n=40)
    assert task.read < 150

    class Endless(Kinds):
        def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
            first = next(iter(super().rows(seed)))
            while True:
                self.read += 1
                yield first

    with pytest.raises(IntrospectionError, match="1 questions cannot be split"):
        build(Endless(), n=10)


def test_a_field_of_the_rows_is_balanced_and_told() -> None:
    task = Kinds()
    built, summary = build(task, balance="kind", n=60)
    assert summary.values == {"rare": 30, "usual": 30}
    rows = {row["id"]: row["kind"] for row in Kinds().rows(0)}
    assert Counter(rows[probe.example.id] for probe in built.probes) == {"rare": 30, "usual": 30}
    assert build(Kinds(), balance="kind", n=60)[0].content_hash == built.content_hash
    scarce = Kinds(lambda number, row: {**row, "kind": "rare" if number in (5, 700, 800) else "usual"})
    _, summary = build(scarce, balance="kind")
    assert summary.values == {"rare": 3, "usual": 37}
    assert "the questions are not balanced over kind: there are only 3 of 'rare'" in summary.warnings


def test_where_the_cue_points_is_balanced() -> None:
    class Pointing(Kinds):
        """Hints name the first option nine times out of ten."""

        def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
            place = 0 if rng.random() < 0.9 else 1
            example = super().example({**row, "hint": row["options"][place]}, style, rng)
            return replace(example, options=("a", "b"), cue_option="ab"[place])

    chosen, summary = build(Pointing(), balance="cue_option")
    assert summary.values == {"a": 20, "b": 20}
    assert Counter(probe.example.cue_option for probe in chosen.probes) == {"a": 20, "b": 20}


def test_what_the_answers_tell_is_balanced_on_each_side() -> None:
    plain, _ = build(Jabberwocky(), n=300)
    built, summary = build(Jabberwocky(), n=300, balance="changed")
    for side in ("train", "probe"):
        counts = Counter(probe.behavior.explanation.changed for probe in built.split(side))
        before = Counter(probe.behavior.explanation.changed for probe in plain.split(side))
        assert counts == dict.fromkeys((True, False), min(before.values()))
    assert summary.unbalanced == 300 - len(built.probes) > 0
    kept = {probe.example.id for probe in built.probes}
    assert list(built.probes) == [probe for probe in plain.probes if probe.example.id in kept]
