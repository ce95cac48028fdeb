from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from runs import embedded_model, embedded_tokenizer, small_probe_set
from scipy.stats import entropy

from introspection_probe.building import BuildSummary, build_probe_set
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.signals import Signal, read_signal, signal_warnings
from introspection_probe.records import Behavior, ProbeExample
from introspection_probe.tasks.base import PromptStyle
from introspection_probe.tasks.jabberwocky import Jabberwocky


class Styled(Jabberwocky):
    """The embedded world in other prompt styles, so many questions of it, each asked ``times`` times."""

    def __init__(self, *styles: PromptStyle, questions: int | None = None, times: int = 1) -> None:
        self._styles, self._questions, self._times = styles or super().styles(), questions, times

    def styles(self) -> Sequence[PromptStyle]:
        return self._styles

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        for row in islice(super().rows(seed), self._questions):
            for time in range(self._times):
                yield {**row, "id": f"{row['id']}-{time}", "group": row["id"]}

    def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
        drawn = {**row, "hint": rng.choice(row["options"])}
        return replace(super().example(drawn, style, rng), group=row["group"])


(USUAL,) = Jabberwocky().styles()
DULL = replace(USUAL, name="dull", cue_template="")  # names no option: nothing to follow
JOINED = replace(USUAL, name="joined", opening="The", answer_prefix=" ")  # "The " is one token


def build(task: Jabberwocky, **options: Any) -> tuple[ProbeSet, BuildSummary]:
    return build_probe_set(task, embedded_model(), embedded_tokenizer(), **{"n": 40, **options})


def plain_answer(prompt: str, options: Sequence[str]) -> str:
    """The option that greedy decoding gives when it may only spell options, by one forward pass a token."""
    model, tokenizer = embedded_model().eval(), embedded_tokenizer()
    start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
    texts = {option: tokenizer(prompt + option, add_special_tokens=False)["input_ids"] for option in options}
    end = start
    while len(texts) > 1:
        (so_far,) = {tuple(ids[:end]) for ids in texts.values()}
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([so_far])).logits[0, -1]
        best = max({ids[end] for ids in texts.values()}, key=lambda token: logits[token].item())
        texts = {option: ids for option, ids in texts.items() if ids[end] == best}
        end += 1
    return next(iter(texts))


def test_behaviour_is_the_likeliest_option_by_plain_forwards_of_each_prompt() -> None:
    for probe in small_probe_set().probes:
        rendered, options = probe.rendered, probe.example.options
        expected = Behavior(plain_answer(rendered.included, options), plain_answer(rendered.ablated, options))
        assert probe.behavior == expected
        assert probe.labels == {"orig": expected.explanation}


def test_the_same_arguments_give_the_same_set_and_another_seed_another() -> None:
    one, summary = build(Jabberwocky())
    again, _ = build(Jabberwocky())
    other, _ = build(Jabberwocky(), seed=1)
    assert one.content_hash == again.content_hash
    assert one.manifest.build == again.manifest.build
    assert other.content_hash != one.content_hash
    assert one.manifest.seed == 0
    assert summary.train + summary.probe == len(one.probes) == 40


def test_building_leaves_the_callers_random_numbers_alone() -> None:
    model, tokenizer = embedded_model(), embedded_tokenizer()
    random.seed(1)
    torch.manual_seed(1)
    expected = random.random(), torch.rand(1).item()
    random.seed(1)
    torch.manual_seed(1)
    build_probe_set(Jabberwocky(), model, tokenizer, n=10)
    assert (random.random(), torch.rand(1).item()) == expected


def test_the_liveliest_style_is_kept_wherever_it_stands() -> None:
    for styles in ((DULL, USUAL), (USUAL, DULL)):
        built, summary = build(Styled(*styles), style_sample=20)
        assert built.style == USUAL
        assert [signal.style for signal in summary.tried] == [style.name for style in styles]
        assert [signal.n for signal in summary.tried] == [20, 20]
        by_name = {signal.style: signal for signal in summary.tried}
        assert by_name["dull"].changed < by_name["plain"].changed
        assert by_name["dull"].liveliness < by_name["plain"].liveliness
        assert summary.signal.n == len(built.probes) == 40


def test_the_style_sample_is_part_of_the_set_as_if_there_had_been_no_trial() -> None:
    tried, _ = build(Styled(DULL, USUAL), style_sample=15)
    told, summary = build(Styled(DULL, USUAL), style=USUAL.name)
    assert summary.tried == ()
    assert tried.probes == told.probes
    whole, _ = build(Styled(DULL, USUAL), style_sample=500)
    assert whole.probes == told.probes


def test_a_style_whose_answers_the_tokenizer_joins_is_set_aside_with_the_reason() -> None:
    built, summary = build(Styled(JOINED, USUAL))
    assert built.style == USUAL
    assert list(summary.refused) == ["joined"]
    assert "token" in summary.refused["joined"]
    with pytest.raises(IntrospectionError, match=r"no prompt style fits this model: .*token"):
        build(Styled(JOINED, replace(JOINED, name="joined too")))


def test_what_a_cue_names_is_drawn_for_each_question_from_the_seed_whatever_the_style() -> None:
    def hints(style: str, seed: int) -> list[int]:
        built, _ = build(
            Styled(USUAL, replace(USUAL, name="shouted", cue_template="HINT {option}")), style=style, seed=seed
        )
        return [p.example.options.index(str(p.example.cue_option)) for p in built.probes]

    assert hints("plain", 0) == hints("shouted", 0) != hints("plain", 1)
    assert set(hints("plain", 0)) == {0, 1, 2, 3}


def test_an_unknown_style_names_those_there_are() -> None:
    with pytest.raises(IntrospectionError, match="no prompt style 'plane': choose one of dull, plain"):
        build(Styled(DULL, USUAL), style="plane")


def test_a_question_asked_twice_is_on_one_side() -> None:
    built, _ = build(Styled(times=2), n=80)
    sides: dict[str, set[str]] = {}
    for probe in built.probes:
        sides.setdefault(probe.example.group, set()).add(probe.split)
    assert 40 < len(sides) < 80, "some were asked twice, with other hints"
    assert all(len(side) == 1 for side in sides.values())
    assert sum(side == {"probe"} for side in sides.values()) == round(0.3 * len(sides))


def test_a_task_with_fewer_questions_gives_them_all_and_says_so() -> None:
    built, summary = build(Styled(questions=30), n=100)
    assert len(built.probes) == 30
    assert any("100 questions were asked for" in warning and "30" in warning for warning in summary.warnings)
    with pytest.raises(IntrospectionError, match="1 questions cannot be split"):
        build(Styled(questions=1))


class LongWinded(Jabberwocky):
    """Every other question is longer than the embedded model's window."""

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        for number, row in enumerate(super().rows(seed)):
            yield row if number % 2 else {**row, "question": "tell me " * 200 + row["question"]}


def test_questions_beyond_the_models_window_are_left_out_and_counted() -> None:
    built, summary = build(LongWinded())
    assert summary.too_long == 40
    assert len(built.probes) == 40
    assert "40 questions are longer than the model's window and were left out" in summary.warnings
    assert max(len(p.rendered.question) for p in built.probes) < 400


def test_progress_counts_every_measurement_once_and_ends_at_its_total() -> None:
    seen: list[tuple[str, int, int]] = []
    build(Styled(JOINED, DULL, USUAL), style_sample=10, progress=lambda *step: seen.append(step))
    done = [step[1] for step in seen]
    assert done == sorted(done)
    assert {step[2] for step in seen} == {60}  # 3 styles x 10, and the 30 others
    assert done[-1] == 60
    assert {step[0] for step in seen} == {"dull", "plain"}


def example(options: Sequence[str], cue: str | None = None) -> ProbeExample:
    return ProbeExample("i", "g", "t", (), (), (), tuple(options), "", cue)


answers = st.lists(st.tuples(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from("ABCD")), min_size=1)


@given(answers)
def test_the_signal_is_that_of_a_plain_count_and_scipys_entropy(drawn: list[tuple[str, str, str]]) -> None:
    examples = [example("ABCD", cue) for _, _, cue in drawn]
    signal = read_signal("s", examples, [Behavior(included, ablated) for included, ablated, _ in drawn])
    included, ablated, cues = (np.array(column) for column in zip(*drawn, strict=True))
    assert signal.changed == (included != ablated).sum()
    assert signal.cue_followed == (included == cues).sum()
    assert signal.ablated_answers == {letter: (ablated == letter).sum() for letter in "ABCD"}
    assert signal.included_answers == {letter: (included == letter).sum() for letter in "ABCD"}
    share = signal.changed / len(drawn)
    expected = entropy([share, 1 - share], base=2) * entropy(list(signal.ablated_answers.values()), base=4)
    driven = ((included == cues) & (included != ablated)).sum() / max((included != ablated).sum(), 1)
    assert signal.liveliness == pytest.approx(expected * driven, abs=1e-12)
    assert 0 <= signal.liveliness <= 1 + 1e-12


def test_answers_of_different_sets_are_counted_by_their_place() -> None:
    examples = [example(("blorp", "snib")), example(("wug", "dax", "fep"))]
    signal = read_signal("s", examples, [Behavior("snib", "blorp"), Behavior("fep", "wug")])
    assert signal.ablated_answers == {"#1": 2, "#2": 0, "#3": 0}
    assert signal.included_answers == {"#1": 0, "#2": 1, "#3": 1}
    assert signal.followed_share is None
    assert signal.driven_share == 1


def test_changes_that_do_not_go_where_the_cue_points_make_no_style_lively() -> None:
    cued = [example("ABCD", "D")] * 4
    driven = read_signal("s", cued, [Behavior("D", "A"), Behavior("D", "B"), Behavior("C", "C"), Behavior("D", "D")])
    unsteady = read_signal("s", cued, [Behavior("B", "A"), Behavior("A", "B"), Behavior("C", "C"), Behavior("D", "D")])
    assert driven.changed == unsteady.changed == 2
    assert driven.ablated_answers == unsteady.ablated_answers
    assert (driven.driven_share, driven.liveliness) == (1, 1)
    assert (unsteady.driven_share, unsteady.liveliness) == (0, 0)


def signal_of(changed: int, majority: int, n: int = 1000) -> Signal:
    rest, odd = divmod(n - majority, 3)
    spread = {"A": majority, "B": rest + odd, "C": rest, "D": rest}
    counts = {"cue_pointed": n, "cue_followed": changed, "cue_changed": changed, "cue_driven": changed}
    return Signal("s", n, changed, **counts, included_answers=dict.fromkeys("ABCD", n // 4), ablated_answers=spread)


GOOD: dict[str, Any] = {"train": 700, "probe": 300, "probe_changed": 150}


@pytest.mark.parametrize(
    ("signal", "sides", "words"),
    [
        (signal_of(100, 400), GOOD, None),
        (signal_of(99, 400), GOOD, "always saying 'would not change' is right 90% of the time"),
        (signal_of(900, 400), GOOD, None),
        (signal_of(901, 400), GOOD, "always saying 'would change' is right 90% of the time"),
        (signal_of(500, 800), GOOD, None),
        (signal_of(500, 810), GOOD, "without the cue 81% of the answers are 'A'"),
        (signal_of(500, 400), {**GOOD, "probe": 100, "probe_changed": 50}, None),
        (signal_of(500, 400), {**GOOD, "probe": 99, "probe_changed": 50}, r"99 probes a rate is known to \+/-10%"),
        (signal_of(500, 400), {**GOOD, "probe_changed": 20}, None),
        (signal_of(500, 400), {**GOOD, "probe_changed": 19}, "only 19 of the 300 probes are changed"),
        (signal_of(500, 400), {**GOOD, "probe_changed": 281}, "only 19 of the 300 probes are unchanged"),
        (signal_of(500, 400), {**GOOD, "train": 100}, None),
        (signal_of(500, 400), {**GOOD, "train": 99}, "only 99 explanations to train on"),
    ],
)
def test_a_thin_signal_is_called_thin_from_its_limit_on(signal: Signal, sides: Any, words: str | None) -> None:
    found = signal_warnings(signal, **sides)
    if words is None:
        assert found == []
    else:
        (sentence,) = found
        assert re.search(words, sentence), sentence


def test_a_model_that_answers_the_same_with_every_cue_is_called_out() -> None:
    stuck = replace(signal_of(500, 400), included_answers={"A": 900, "B": 100, "C": 0, "D": 0})
    (sentence,) = signal_warnings(stuck, **GOOD)
    assert sentence.startswith("with the cue 90% of the answers are 'A'")


def test_the_default_set_of_the_embedded_model_has_signal_enough() -> None:
    built, summary = build(Jabberwocky(), n=1000)
    assert summary.warnings == ()
    assert 0.3 < summary.signal.changed_share < 0.6
    assert built.manifest.counts == {"train": 700, "probe": 300}
    assert built.manifest.build["signal"]["changed"] == summary.signal.changed
