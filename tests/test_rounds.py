"""Rounds: the same answers and the same text as plain greedy generation, whatever is done to be fast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from runs import embedded_model, embedded_tokenizer, encoded, sft, small_probe_set
from transformers import AutoModelForCausalLM, GPT2Config, MambaConfig, MistralConfig

from introspection_probe import IntrospectionCallback
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import ProbeExample
from introspection_probe.rollout import Prober, encode_probes, render
from introspection_probe.tasks.base import PromptStyle


def generated(model: Any, prompt: tuple[int, ...], new_tokens: int) -> str:
    """What anybody would call the model's greedy answer."""
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens)
    return str(embedded_tokenizer().decode(output[0, len(prompt) :], skip_special_tokens=True))


def assert_same_as_generate(model: Any) -> tuple[int, int]:
    """For every example and all three prompts; how many explanations left the tree, and how many did not."""
    model.eval()
    probes = encoded(small_probe_set())
    prober = Prober(embedded_tokenizer(), probes)
    round_ = prober.measure(model, step=0)
    assert round_.path == "packed"
    longest = max(len(ids) for probe in probes for ids in probe.explanation_ids)
    for probe, rollout in zip(probes, round_.rollouts, strict=True):
        assert rollout.predicted_text == generated(model, probe.question, longest + 4)
        for prompt, answer in (
            (probe.included, rollout.behavior.included),
            (probe.ablated, rollout.behavior.ablated),
        ):
            said = generated(model, prompt, 1)
            assert answer == said or said not in probe.options
    return round_.generated, len(probes) - round_.generated


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("trained")
    callback = IntrospectionCallback(
        small_probe_set(), db=folder / "h.db", mix_batch_size=16, probe_at_start=False, probe_at_end=False
    )
    trainer = sft(folder, callbacks=[callback], max_steps=60, learning_rate=3e-3)
    trainer.train()
    return trainer.model


def test_rounds_equal_generate_before_training() -> None:
    left, _ = assert_same_as_generate(embedded_model())
    assert left > 0


def test_rounds_equal_generate_after_training(trained: Any) -> None:
    _, stayed = assert_same_as_generate(trained)
    assert stayed > 0


def test_rounds_equal_generate_where_some_explanations_leave_the_tree(trained: Any) -> None:
    """Noise on a trained model: some greedy paths follow the templates part of the way."""
    seen = set()
    for scale in (0.01, 0.02, 0.03):
        model = AutoModelForCausalLM.from_config(trained.config)
        model.load_state_dict(trained.state_dict())
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(scale * torch.randn(parameter.shape, generator=generator))
        left, stayed = assert_same_as_generate(model)
        seen.add(left > 0 and stayed > 0)
    assert True in seen


def test_packed_and_flat_rounds_are_the_same(trained: Any) -> None:
    probes = encoded(small_probe_set())
    rounds = [Prober(embedded_tokenizer(), probes, path=path).measure(trained, step=1) for path in ("packed", "flat")]
    assert rounds[0].rollouts == rounds[1].rollouts
    # Which of them computes fewer tokens depends on the prompts: on ten tokens the eight possible sentences of the
    # tree outweigh the prefix that is shared. benchmarks/round.py measures it on prompts of a usual length.
    assert [round_.path for round_ in rounds] == ["packed", "flat"]


def test_a_round_is_the_same_whatever_the_batches_and_the_train_mode(trained: Any) -> None:
    probes = encoded(small_probe_set())
    trained.train()
    rounds = [
        Prober(embedded_tokenizer(), probes, token_budget=budget).measure(trained, step=1) for budget in (1, 300, 10**6)
    ]
    assert rounds[0].rollouts == rounds[1].rollouts == rounds[2].rollouts
    assert trained.training


@pytest.mark.parametrize(
    "make",
    [
        lambda size: MistralConfig(**size, num_attention_heads=4, num_key_value_heads=2, sliding_window=6),
        lambda size: MambaConfig(vocab_size=size["vocab_size"], hidden_size=32, num_hidden_layers=2),
    ],
    ids=["sliding-window", "mamba"],
)
def test_architectures_that_cannot_be_packed_take_the_flat_path(make: Callable[[dict[str, Any]], Any]) -> None:
    size = {
        "vocab_size": len(embedded_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "initializer_range": 0.3,
    }
    torch.manual_seed(0)
    config = make(size)
    config.eos_token_id = embedded_tokenizer().eos_token_id
    model = AutoModelForCausalLM.from_config(config).eval()
    probes = encoded(small_probe_set())
    prober = Prober(embedded_tokenizer(), probes)
    round_ = prober.measure(model, step=0)
    assert round_.path == "flat"
    assert prober.agreement is not None
    assert not prober.agreement.packed
    for probe, rollout in zip(probes[:5], round_.rollouts, strict=False):
        longest = max(len(ids) for p in probes for ids in p.explanation_ids)
        assert rollout.predicted_text == generated(model, probe.question, longest + 4)


@pytest.mark.parametrize("path", ["packed", "flat"])
def test_a_compiled_model_is_measured_like_itself(path: Literal["packed", "flat"]) -> None:
    """With learned positions, which a padded prompt has to be told."""
    torch.manual_seed(0)
    ends = embedded_tokenizer().eos_token_id
    size = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = GPT2Config(vocab_size=len(embedded_tokenizer()), initializer_range=0.3, eos_token_id=ends, **size)
    model = AutoModelForCausalLM.from_config(config).eval()
    probes = [
        replace(probe, included=probe.included[place % 3 :], question=probe.question[place % 2 :])
        for place, probe in enumerate(encoded(small_probe_set()))
    ]
    plain, compiled = (
        Prober(embedded_tokenizer(), probes, path=path).measure(subject, step=0)
        for subject in (model, torch.compile(model, backend="eager"))
    )
    assert compiled.rollouts == plain.rollouts


def test_a_wide_sliding_window_is_packed() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(embedded_tokenizer()),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=4096,
        eos_token_id=embedded_tokenizer().eos_token_id,
        initializer_range=0.3,
    )
    model = AutoModelForCausalLM.from_config(config)
    assert_same_as_generate(model)


def test_an_out_of_memory_round_halves_its_budget_and_goes_on() -> None:
    model = embedded_model()
    whole, sizes = model.forward, []

    def small_memory(**kwargs: Any) -> Any:
        sizes.append(kwargs["input_ids"].numel())
        if sizes[-1] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(**kwargs)

    probes = encoded(small_probe_set())
    expected = Prober(embedded_tokenizer(), probes, path="packed").measure(model, step=0)
    model.forward = small_memory
    prober = Prober(embedded_tokenizer(), probes, path="packed", token_budget=1500)
    assert prober.measure(model, step=0).rollouts == expected.rollouts
    assert sizes[0] > 400
    assert prober.token_budget == 375


def test_any_other_error_of_a_round_is_not_taken_for_memory() -> None:
    model = embedded_model()

    def broken(**kwargs: Any) -> Any:
        raise RuntimeError("index out of range")

    model.forward = broken
    with pytest.raises(RuntimeError, match="index out of range"):
        Prober(embedded_tokenizer(), encoded(small_probe_set()), path="packed").measure(model, step=0)


def test_answers_of_several_tokens_are_decoded_within_the_answer_set() -> None:
    """Options that share tokens: the packed and the flat path follow the same constrained greedy path."""
    words = sorted(embedded_tokenizer().get_vocab(), key=lambda w: embedded_tokenizer().get_vocab()[w])
    plain = [word for word in words if word.isalpha()][:4]
    assert len(plain) == 4
    options = (f"{plain[0]} {plain[1]}", f"{plain[0]} {plain[2]}", f"{plain[3]} {plain[1]}", plain[2])
    base = small_probe_set().split("probe")[0].example
    examples = [
        ProbeExample(
            id=str(i), group=str(i), task="t", included=probe.example.included, ablated=probe.example.ablated,
            question=probe.example.question, options=options, cue=base.cue,
        )
        for i, probe in enumerate(small_probe_set().split("probe"))
    ]  # fmt: skip
    style = PromptStyle("plain", "", "")
    rendered = [render(embedded_tokenizer(), example, style) for example in examples]
    probes = encode_probes(embedded_tokenizer(), examples, rendered)
    assert max(len(ids) for probe in probes for ids in probe.included_options) > 1
    torch.manual_seed(0)
    model = embedded_model()
    packed, flat = (Prober(embedded_tokenizer(), probes, path=p).behaviors(model) for p in ("packed", "flat"))
    assert packed == flat
    assert {item.behavior.ablated for item in packed} <= set(options)


def test_indistinguishable_answers_are_refused() -> None:
    base = small_probe_set().split("probe")[0].example
    word = base.options[0]
    style = PromptStyle("plain", "", "")
    example = ProbeExample("x", "x", "t", base.included, base.ablated, base.question, (word, f"{word} {word}"), "")
    with pytest.raises(IntrospectionError, match="cannot be told apart"):
        encode_probes(embedded_tokenizer(), [example], [render(embedded_tokenizer(), example, style)])


def test_an_empty_round_is_refused() -> None:
    with pytest.raises(IntrospectionError, match="probe split is empty"):
        Prober(embedded_tokenizer(), [])
