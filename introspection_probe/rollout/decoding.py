"""What greedy decoding gives, read off a packed pass, and the real generation where it leaves the tree."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from introspection_probe.rollout.encoding import Ids
from introspection_probe.rollout.forward import TreePass, device_of, forward_flat, left_padded
from introspection_probe.rollout.paths import ProbeTree, Trie, constrained_answer, greedy_walk
from introspection_probe.rollout.tree import Path

VARIANTS = ("included", "ablated")


@dataclass(frozen=True, slots=True)
class Answers:
    """What one example's three prompts gave: indices into its options, and the explanation's token ids.

    ``included`` and ``ablated`` are None where answers are free.
    """

    included: int | None
    ablated: int | None
    explanation: Ids | None


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A greedy path that left the tree: real generation goes on from ``so_far`` plus ``token``."""

    row: int
    so_far: Ids
    token: int


def read_answers(
    done: TreePass, trees: Sequence[ProbeTree], end_tokens: Collection[int]
) -> tuple[list[Answers], list[Unfinished]]:
    """Decode a batch of packed examples. Explanations that left the tree come back as :class:`Unfinished`."""
    argmax = done.logits.argmax(-1).cpu()
    scores = _option_scores(done, trees)
    answers, unfinished = [], []
    for row, packed in enumerate(trees):
        chosen: dict[str, int] = {}
        for name in VARIANTS:
            if name not in packed.tries:
                continue
            trie = packed.tries[name]

            def best(so_far: Ids, allowed: Sequence[int], row: int = row, name: str = name) -> int:
                return best_of(allowed, scores[row, name, so_far])

            chosen[name] = constrained_answer(trie, best)
        explanation: Ids | None = None
        if "question" in packed.tries:

            def most_likely(so_far: Ids, row: int = row, packed: ProbeTree = packed) -> int:
                return int(argmax[row, done.place(packed.tree, packed.column_of["question", so_far])])

            walked, complete = greedy_walk(packed.tries["question"], most_likely, end_tokens)
            if complete:
                explanation = walked
            else:
                unfinished.append(Unfinished(row, walked, most_likely(walked)))
        answers.append(Answers(chosen.get("included"), chosen.get("ablated"), explanation))
    return answers, unfinished


def best_of(allowed: Sequence[int], scores: Sequence[float]) -> int:
    """The allowed token with the highest score; the lowest id among equals, as arg max over the vocabulary gives."""
    return max(zip(scores, (-token for token in allowed), allowed, strict=True))[2]


def _option_scores(done: TreePass, trees: Sequence[ProbeTree]) -> dict[tuple[int, str, Ids], list[float]]:
    """Logits of the allowed next tokens at each place where an answer is chosen, fetched in one transfer."""
    keys, rows, columns, tokens, counts = [], [], [], [], []
    for row, packed in enumerate(trees):
        for name in VARIANTS:
            if name not in packed.tries:
                continue
            trie = packed.tries[name]
            for so_far in {answer[:depth] for answer in trie.answers for depth in range(len(answer))}:
                allowed = trie.followers(so_far)
                keys.append((row, name, so_far))
                counts.append(len(allowed))
                rows += [row] * len(allowed)
                columns += [done.place(packed.tree, packed.column_of[name, so_far])] * len(allowed)
                tokens += allowed
    index = torch.tensor([rows, columns, tokens], dtype=torch.long, device=done.logits.device)
    values = iter(done.logits[index[0], index[1], index[2]].float().tolist())
    return {key: [next(values) for _ in range(count)] for key, count in zip(keys, counts, strict=True)}


def choose_flat(model: nn.Module, tries: Sequence[Trie]) -> list[int]:
    """Greedy decoding within each trie's answers by plain forwards: one for each answer token."""
    chosen: list[Ids] = [()] * len(tries)
    active = list(range(len(tries)))
    while active:
        sequences = [tries[i].prompt + chosen[i] for i in active]
        logits = forward_flat(model, [Path(ids, len(ids) - 1) for ids in sequences])
        for i, row in zip(active, logits, strict=True):
            allowed = tries[i].followers(chosen[i])
            chosen[i] = (*chosen[i], best_of(allowed, row[-1, allowed].float().tolist()))
        active = [i for i in active if chosen[i] not in tries[i].answers]
    return [trie.answers.index(ids) for trie, ids in zip(tries, chosen, strict=True)]


def generate_flat(
    model: nn.Module, prompts: Sequence[Ids], *, max_new_tokens: int, end_tokens: Collection[int]
) -> list[Ids]:
    """The greedy answers to prompts by HF ``generate``, with the end token of those that ended by themselves."""
    from transformers import GenerationConfig

    inputs = left_padded(prompts, device_of(model))
    # Everything that could bend greedy decoding is named, since unnamed fields are filled from the model's own.
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        use_cache=True,
        eos_token_id=sorted(end_tokens),
        pad_token_id=sorted(end_tokens)[0],
    )
    generate: Any = model.generate
    output: Tensor = generate(input_ids=inputs.ids, attention_mask=inputs.mask, generation_config=config)
    answers = []
    for row in output[:, inputs.ids.shape[1] :].tolist():
        said = until_end(row, end_tokens)
        answers.append((*said, *row[len(said) : len(said) + 1]))
    return answers


def until_end(ids: Sequence[int], end_tokens: Collection[int]) -> Ids:
    """The tokens before the first end token."""
    for place, token in enumerate(ids):
        if token in end_tokens:
            return tuple(ids[:place])
    return tuple(ids)


def can_resume(cache: Any, width: int) -> bool:
    """Whether a packed pass's cache holds every column of every layer, so that a path can be cut out of it."""
    from transformers.cache_utils import DynamicLayer

    layers: list[Any] = getattr(cache, "layers", [])

    def is_whole(layer: Any) -> bool:
        return type(layer) is DynamicLayer and layer.keys is not None and bool(layer.keys.shape[2] == width)

    return bool(layers) and all(is_whole(layer) for layer in layers)


def resume(
    model: nn.Module,
    done: TreePass,
    trees: Sequence[ProbeTree],
    unfinished: Sequence[Unfinished],
    *,
    max_new_tokens: int,
    end_tokens: frozenset[int],
) -> list[Ids]:
    """Go on decoding where paths left their trees, on the keys and values already computed for them.

    Args:
        max_new_tokens: answer tokens in all, those read off the tree included.

    Returns:
        The whole answers, without the end token, in the order of ``unfinished``.
    """
    from transformers import DynamicCache

    device = device_of(model)
    trails = []
    for item in unfinished:
        packed = trees[item.row]
        end = packed.column_of["question", item.so_far]
        trail = [end]
        while (parent := int(packed.tree.parents[trail[-1]])) >= 0:
            trail.append(parent)
        trails.append([done.padded(packed.tree, column) for column in reversed(trail)])
    padded = left_padded(trails, device)
    rows = torch.tensor([item.row for item in unfinished], device=device)[:, None]
    cache = DynamicCache()
    for index, layer in enumerate(done.cache.layers):
        # (b, T, H, D) from advanced indexing, back to (b, H, T, D)
        keys, values = (t.transpose(1, 2)[rows, padded.ids].transpose(1, 2) for t in (layer.keys, layer.values))
        cache.update(keys, values, index)

    answers = [[*item.so_far, item.token] for item in unfinished]
    mask = padded.mask
    positions = padded.positions[:, -1:]
    tokens = torch.tensor([[item.token] for item in unfinished], device=device)
    while not all(len(answer) >= max_new_tokens or not end_tokens.isdisjoint(answer) for answer in answers):
        mask = torch.cat([mask, mask.new_ones((len(answers), 1))], dim=1)
        positions = positions + 1
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        tokens = output.logits[:, -1].argmax(-1, keepdim=True)
        for answer, token in zip(answers, tokens[:, 0].tolist(), strict=True):
            answer.append(token)
    return [until_end(answer[:max_new_tokens], end_tokens) for answer in answers]
