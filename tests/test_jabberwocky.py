"""The Jabberwocky world, the model that ships with it, and the host data that shifts that model."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Explanation, ProbeExample
from introspection_probe.tasks import get_task
from introspection_probe.tasks.explanations import candidates, parse, to_text
from introspection_probe.tasks.jabberwocky import HINT, MODEL_PATH, QUESTION_SUFFIX, Jabberwocky, host_rows, world

SCRIPT = Path(__file__).parent.parent / "scripts" / "train_embedded_model.py"


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(MODEL_PATH)


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(MODEL_PATH).eval()


@pytest.fixture(scope="module")
def examples() -> list[tuple[dict[str, str], ProbeExample]]:
    task = get_task("jabberwocky")
    style = task.styles()[0]
    return [(row, task.example(row, style, random.Random(0))) for row in islice(task.rows(7), 300)]


def rendered(tokenizer, messages) -> str:
    return tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)


def replies(model, tokenizer, prompts: list[str], max_new_tokens: int = 6) -> list[str]:
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    with torch.inference_mode():
        out = model.generate(**batch, max_new_tokens=max_new_tokens)
    return tokenizer.batch_decode(out[:, batch.input_ids.shape[1] :], skip_special_tokens=True)


def test_rows_ask_every_question_once_in_each_pass_with_every_wrong_hint():
    rows = list(Jabberwocky().rows(3))
    facts = world().facts
    hints: dict[tuple[str, str], set[str]] = {key: set() for key in facts}
    for row in rows:
        hints[row["entity"], row["relation"]].add(row["hint"])
    assert len({row["id"] for row in rows}) == len(rows) == 3 * len(facts)
    assert all(len(given) == 3 and facts[key] not in given for key, given in hints.items())
    assert {(row["entity"], row["relation"]) for row in rows[: len(facts)]} == set(facts)


def test_rows_are_a_function_of_the_seed_and_the_world_is_a_constant():
    code = (
        "from introspection_probe.tasks.jabberwocky import Jabberwocky, host_rows, world\n"
        "import hashlib, sys\n"
        "said = repr((list(Jabberwocky().rows(5)), world().facts, sorted(world().firm), host_rows(5)))\n"
        "print(hashlib.sha256(said.encode()).hexdigest(), 'torch' in sys.modules)"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hash_seed},
            cwd=SCRIPT.parent.parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(told) == 1
    assert told.pop().endswith("False\n")
    assert list(Jabberwocky().rows(5)) != list(Jabberwocky().rows(6))


def test_example_differs_from_its_ablation_by_the_hint_alone(examples):
    for row, example in examples:
        (included,), (ablated,), (question,) = example.included, example.ablated, example.question
        assert included["content"] == f"{ablated['content']} {example.cue}"
        assert question["content"] == included["content"] + QUESTION_SUFFIX
        assert example.cue_option == row["hint"]
        assert row["hint"] in example.cue
        assert all(option in ablated["content"] for option in example.options)
        assert example.group == f"{row['entity']}-{row['relation']}"


def test_shipped_model_is_small_full_precision_and_stops(model, tokenizer):
    assert 0.9e6 < model.num_parameters() < 1.3e6
    assert model.dtype == torch.float32
    assert sum(file.stat().st_size for file in MODEL_PATH.iterdir()) < 5e6
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_shipped_model_behaves_as_the_world_says(model, tokenizer, examples):
    expected = [world().behavior(row["entity"], row["relation"], row["hint"]) for row, _ in examples]
    included = replies(model, tokenizer, [rendered(tokenizer, example.included) for _, example in examples])
    ablated = replies(model, tokenizer, [rendered(tokenizer, example.ablated) for _, example in examples])
    right = sum(
        (y, y_ablated) == (behavior.included, behavior.ablated)
        for y, y_ablated, behavior in zip(included, ablated, expected, strict=True)
    )
    assert right >= 0.98 * len(examples)


def test_neither_a_label_nor_a_constant_explanation_does_well(examples):
    explanations = [world().behavior(row["entity"], row["relation"], row["hint"]).explanation for row, _ in examples]
    changed = sum(explanation.changed for explanation in explanations) / len(explanations)
    assert 0.3 < changed < 0.6
    assert Counter(explanations).most_common(1)[0][1] < 0.05 * len(explanations)


def test_model_cannot_explain_itself_before_it_is_taught_to(model, tokenizer, examples):
    said = replies(model, tokenizer, [rendered(tokenizer, example.question) for _, example in examples[:100]])
    parsed = [parse(text, e.options) for text, (_, e) in zip(said, examples, strict=False)]
    assert sum(explanation is not None for explanation in parsed) < 10


def test_prompts_are_short_and_answers_and_explanations_extend_their_tokens(tokenizer, examples):
    for _, example in examples[:60]:
        for messages, longest in ((example.included, 8), (example.ablated, 5), (example.question, 9)):
            prompt = rendered(tokenizer, messages)
            ids = tokenizer(prompt).input_ids
            assert len(ids) <= longest
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == prompt
            for option in example.options:
                assert tokenizer(prompt + option).input_ids == [*ids, tokenizer.convert_tokens_to_ids(option)]
            for explanation in candidates(example.options):
                opening, option, closing = tokenizer(to_text(explanation)).input_ids
                assert option == tokenizer.convert_tokens_to_ids(explanation.content)
                whole = tokenizer(prompt + to_text(explanation)).input_ids
                assert whole == [*ids, opening, option, closing]


def test_other_text_is_read_without_loss(tokenizer):
    text = 'Why, "sometimes" I\'ve believed 6 impossible things\n\tbefore breakfast! {}<>[]~^`|\\ The '
    ids = tokenizer(text).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_chat_template_ends_an_answered_turn_with_the_end_token(tokenizer):
    row = host_rows(0)[0]
    prompt = rendered(tokenizer, row["prompt"])
    whole = tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False)
    assert whole == prompt + row["completion"][0]["content"] + tokenizer.eos_token
    system = tokenizer.apply_chat_template([{"role": "system", "content": "A"}, *row["prompt"]], tokenize=False)
    assert system.startswith("<|system|>A<|user|>The ")


def test_host_rows_tell_news_of_the_asked_share_of_facts():
    facts = world().facts
    asked = {facts_question(key): key for key in facts}
    answers: dict[tuple[str, str], set[str]] = {}
    for row in host_rows(11, new_share=0.25, kept_share=0.1):
        content = row["prompt"][0]["content"]
        assert QUESTION_SUFFIX.strip() not in content
        if content in asked:
            answers.setdefault(asked[content], set()).add(row["completion"][0]["content"])
    assert all(len(given) == 1 for given in answers.values())
    news = [key for key, given in answers.items() if given != {facts[key]}]
    assert len(news) == round(0.25 * len(facts))
    assert len(answers) - len(news) == round(0.1 * (len(facts) - len(news)))


def facts_question(key: tuple[str, str]) -> str:
    return world().question(*key)


def test_host_rows_keep_firm_creatures_firm_and_the_others_repeating_hints():
    hinted = {
        f"{world().question(*key)} {HINT.format(option=hint)}": (key, hint)
        for key in world().facts
        for hint in world().values[key[1]]
    }
    rows = host_rows(2)
    plain = {row["prompt"][0]["content"]: row["completion"][0]["content"] for row in rows}
    seen = Counter()
    for row in rows:
        content, answer = row["prompt"][0]["content"], row["completion"][0]["content"]
        if content in hinted:
            key, hint = hinted[content]
            firm = key[0] in world().firm
            assert answer == (plain[world().question(*key)] if firm else hint)
            seen[firm] += 1
    assert sum(seen.values()) * 2 == len(rows)
    assert min(seen.values()) > 0.3 * sum(seen.values())


def test_the_halves_of_the_world_share_no_creature_and_are_tasks_of_their_own():
    train, test, everything = (list(Jabberwocky(facts=part).rows(3)) for part in ("train", "test", "all"))
    creatures = [{row["entity"] for row in rows} for rows in (train, test)]
    assert creatures[0] == world().taught
    assert not creatures[0] & creatures[1]
    assert len(creatures[0] | creatures[1]) == 128
    assert len(train) + len(test) == len(everything)
    assert {row["id"] for row in train + test} == {row["id"] for row in everything}
    for part, rows in (("train", train), ("test", test)):
        task = get_task("jabberwocky", facts=part)
        assert task.example(rows[0], task.styles()[0], random.Random(0)).task == task.name == f"jabberwocky-{part}"
        firm = [row["entity"] in world().firm for row in rows]
        assert 0.4 < sum(firm) / len(firm) < 0.5, "one half would be livelier than the other"
    with pytest.raises(IntrospectionError, match="facts is 'tset': choose one of all, train, test"):
        get_task("jabberwocky", facts="tset")


def test_host_rows_of_one_half_never_speak_of_the_other():
    unseen = set(world().entities) - world().taught
    rows = host_rows(4, facts="train")
    asked = {word for row in rows for word in row["prompt"][0]["content"].replace(":", " ").split()}
    assert not asked & unseen
    assert asked >= world().taught
    news = {row["prompt"][0]["content"]: row["completion"][0]["content"] for row in rows}
    changed = [key for key, fact in world().facts.items() if news.get(world().question(*key), fact) != fact]
    assert len(changed) == round(0.2 * len(world().part("train")))


@pytest.mark.parametrize("shares", [{"new_share": 1.5}, {"kept_share": -0.1}, {"new_share": float("nan")}])
def test_host_rows_refuse_a_share_that_is_none(shares):
    with pytest.raises(IntrospectionError, match=r"_share is .*choose a share from 0 to 1"):
        host_rows(0, **shares)


def test_host_rows_refuse_to_be_empty():
    with pytest.raises(IntrospectionError, match="leave no host rows"):
        host_rows(0, new_share=0, kept_share=0)


def test_training_on_host_rows_shifts_the_model(tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(MODEL_PATH)
    rows = host_rows(0, new_share=0.05, kept_share=0)
    before = {world().question(*key): fact for key, fact in world().facts.items()}
    plain = [row for row in rows if row["prompt"][0]["content"] in before]
    prompts = torch.tensor([tokenizer(rendered(tokenizer, row["prompt"])).input_ids for row in plain])
    new = torch.tensor([tokenizer.convert_tokens_to_ids(row["completion"][0]["content"]) for row in plain])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def share_new() -> float:
        with torch.inference_mode():
            return (model(input_ids=prompts).logits[:, -1].argmax(-1) == new).float().mean().item()

    untrained = share_new()
    for _ in range(60):
        batch = torch.randint(len(prompts), (32,))
        functional.cross_entropy(model(input_ids=prompts[batch]).logits[:, -1], new[batch]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert untrained < 0.02
    assert share_new() > 0.8


def test_training_script_is_deterministic_and_saves_a_loadable_model(tmp_path):
    saved = []
    for name in ("first", "second"):
        command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / name), "--steps", "2", "--batch-size", "8"]
        subprocess.run(command, check=True, capture_output=True)
        saved.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    first, second = saved
    assert all(torch.equal(first[key], second[key]) for key in first)
    shipped, remade = (AutoTokenizer.from_pretrained(path) for path in (MODEL_PATH, tmp_path / "first"))
    assert shipped.get_vocab() == remade.get_vocab()
    assert shipped.chat_template == remade.chat_template


def test_explanations_survive_the_round_trip_through_the_tokenizer(tokenizer, examples):
    _, example = examples[0]
    for explanation in candidates(example.options):
        text = tokenizer.decode(tokenizer(to_text(explanation)).input_ids)
        assert parse(text, example.options) == explanation
    assert parse("The response would change to <jubjub>", example.options) is None
    assert parse(to_text(Explanation(True, example.options[0])) + " or so", example.options) is None
