"""Prompt trees: structure for any sequences, arithmetic on several architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen3Config,
)
from trl.trainer.utils import add_fused_lm_head

from introspection_probe.rollout.batching import token_batches
from introspection_probe.rollout.forward import path_logits
from introspection_probe.rollout.tree import Path, build_tree

VOCABULARY = 97
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=8),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3),
}


@st.composite
def paths(draw: st.DrawFn) -> list[Path]:
    """Sequences over few tokens, so that they share prefixes, repeat, and contain each other."""
    sequences = draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=7))
    return [Path(tuple(ids), draw(st.integers(0, len(ids) - 1))) for ids in sequences]


@given(paths())
def test_every_path_spells_its_sequence_from_the_root(given_paths: list[Path]) -> None:
    tree = build_tree(given_paths)
    for path, columns in zip(given_paths, tree.columns, strict=True):
        assert tuple(tree.ids[columns]) == path.ids
        assert tree.positions[columns].tolist() == list(range(len(path.ids)))
        assert tree.parents[columns].tolist() == [-1, *columns[:-1].tolist()]


@given(paths())
def test_each_prefix_stands_once(given_paths: list[Path]) -> None:
    prefixes = {path.ids[:end] for path in given_paths for end in range(1, len(path.ids) + 1)}
    assert len(build_tree(given_paths)) == len(prefixes)


@given(paths())
def test_the_mask_is_exactly_ancestry(given_paths: list[Path]) -> None:
    tree = build_tree(given_paths)
    mask = tree.ancestry()
    for node in range(len(tree)):
        expected, walk = set(), node
        while walk >= 0:
            expected.add(walk)
            walk = int(tree.parents[walk])
        assert set(mask[node].nonzero()[0].tolist()) == expected


@given(paths())
def test_wanted_nodes_are_the_last_columns_and_no_others(given_paths: list[Path]) -> None:
    tree = build_tree(given_paths)
    wanted = {
        int(column)
        for path, columns in zip(given_paths, tree.columns, strict=True)
        for column in columns[path.read_from :]
    }
    assert wanted == set(range(len(tree) - tree.reads, len(tree)))


@pytest.mark.parametrize("bad", [[], [Path((), 0)], [Path((1, 2), 2)]])
def test_impossible_paths_are_refused(bad: list[Path]) -> None:
    with pytest.raises(ValueError):
        build_tree(bad)


@given(st.lists(st.integers(1, 50), max_size=30), st.integers(1, 200))
def test_batches_hold_every_item_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = token_batches(lengths, budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= budget
        assert min(lengths[index] for index in batch) >= 0.85 * max(lengths[index] for index in batch)


def wrapped(name: str, wrapping: str) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[name])
    if wrapping in ("trl", "trl+lora"):
        add_fused_lm_head(model)
    if wrapping.endswith("lora"):
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.eval()


MODELS = {
    (name, wrapping): wrapped(name, wrapping) for name in CONFIGS for wrapping in ("plain", "trl", "lora", "trl+lora")
}


@pytest.mark.parametrize(("name", "wrapping"), MODELS)
@settings(max_examples=15, deadline=None)
@given(groups=st.lists(paths(), min_size=1, max_size=3))
def test_packing_and_reading_equals_separate_forwards(name: str, wrapping: str, groups: list[list[Path]]) -> None:
    model = MODELS[name, wrapping]
    with torch.no_grad():
        packed = path_logits(model, groups, packed=True)
        for group, found in zip(groups, packed, strict=True):
            for path, logits in zip(group, found, strict=True):
                alone = model(torch.tensor([path.ids])).logits[0, path.read_from :]
                torch.testing.assert_close(logits, alone, atol=3e-5, rtol=1e-4)


def test_a_binding_sliding_window_is_seen_to_disagree() -> None:
    """The mask says nothing of a window that counts columns: this is what the start-up comparison looks for."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(MistralConfig(**SMALL, sliding_window=4)).eval()
    long = Path(tuple(range(1, 20)), 18)
    with torch.no_grad():
        (packed,), (flat,) = (path_logits(model, [[long]], packed=packed)[0] for packed in (True, False))
    assert (packed - flat).abs().max() > 0.1
