"""How costs grow: a round with probes, prompt length and answer-set size; a history with rounds.

    python benchmarks/scale.py [--largest 10000] [--rounds 1000] [--json]

Rounds are on a two-layer Llama of random weights, over random tokens in the shape of Hint-MMLU prompts, so that what is
seen is our own work around the forwards as much as the forwards. Beside each stands the plain forward over as many
tokens, run in turn.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

import torch
from common import emit, in_turn, show
from history import measure
from transformers import AutoModelForCausalLM, LlamaConfig

from introspection_probe.records import Explanation
from introspection_probe.rollout import EncodedProbe, Prober
from introspection_probe.rollout.batching import token_batches
from introspection_probe.rollout.paths import probe_tree

VOCABULARY = 4096
END = 1
CHANGED, UNCHANGED, CLOSE = (2, 3, 4, 5), (2, 3, 6, 7), (8,)


class Words:
    """As much of a tokenizer as a round needs where nothing is to be read."""

    eos_token_id = END

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, ids))


def make_probes(count: int, length: int, options: int) -> list[EncodedProbe]:
    """Probes of ``length`` shared tokens, a cue of 12 and a question of 20, with so many answers of one token."""
    rng = random.Random(0)

    def tokens(number: int) -> tuple[int, ...]:
        return tuple(rng.randrange(100, VOCABULARY) for _ in range(number))

    names = tuple(f"option {i}" for i in range(options))
    answers = tuple((20 + i,) for i in range(options))
    said = [(Explanation(c, name), (*(CHANGED if c else UNCHANGED), *answer, *CLOSE)) for name, answer in
            zip(names, answers, strict=True) for c in (True, False)]  # fmt: skip
    probes = []
    for number in range(count):
        body, cue, opening, asked = tokens(length), tokens(12), (9, 10, 11), tokens(20)
        probes.append(
            EncodedProbe(
                id=str(number),
                options=names,
                included=(*body, *cue, *opening),
                ablated=(*body, *opening),
                question=(*body, *cue, *asked, *opening),
                included_options=answers,
                ablated_options=answers,
                explanations=tuple(explanation for explanation, _ in said),
                explanation_ids=tuple(ids for _, ids in said),
            )
        )
    return probes


def one(model: Any, count: int, length: int, options: int, repeat: int) -> dict[str, float]:
    probes = make_probes(count, length, options)
    prober = Prober(Words(), probes, path="packed", token_budget=8192)
    lengths = [len(probe_tree(probe, explain=False).tree) for probe in probes]
    shapes = [(len(b), -(-sum(lengths[i] for i in b) // len(b))) for b in token_batches(lengths, 8192)]

    def floor() -> None:
        with torch.no_grad():
            for shape in shapes:
                model(input_ids=torch.randint(100, VOCABULARY, shape), use_cache=False, logits_to_keep=1)

    # Answers alone: on random weights every explanation would be generated, which is not what grows here.
    times = in_turn({"round": lambda: prober.behaviors(model), "floor": floor}, repeat=repeat, device="cpu")
    return {
        "probes": count,
        "prompt_tokens": length,
        "options": options,
        "unique_tokens": sum(lengths),
        "seconds": times["round"],
        "ms_per_probe": 1000 * times["round"] / count,
        "cost_over_floor": times["round"] / times["floor"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--largest", type=int, default=10_000, help="most probes")
    parser.add_argument("--rounds", type=int, default=1000, help="rounds of 1,000 rollouts in the history")
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            eos_token_id=END,
        )
    ).eval()
    counts = [count for count in (100, 1000, 10_000) if count <= options.largest]
    found = [one(model, count, 80, 4, options.repeat) for count in counts]
    found += [one(model, 200, length, 4, options.repeat) for length in (20, 200, 800)]
    found += [one(model, 200, 80, answers, options.repeat) for answers in (2, 16, 50)]
    history = measure(options.rounds, 1000)
    if options.json:
        emit({"rounds": found, "history": history})
        return
    show(
        "A round's answers, two-layer Llama, one forward of at most 8,192 tokens",
        ["probes", "prompt tokens", "answers", "unique tokens", "seconds", "ms a probe", "over the floor"],
        [
            [
                f"{row['probes']:,}",
                f"{row['prompt_tokens']}",
                f"{row['options']}",
                f"{row['unique_tokens']:,}",
                f"{row['seconds']:.2f}",
                f"{row['ms_per_probe']:.2f}",
                f"{row['cost_over_floor']:.2f}x",
            ]
            for row in found
        ],
    )
    print()
    show(
        f"A history of {options.rounds:,} rounds of 1,000 rollouts",
        ["", "figure"],
        [[name, f"{value:,.1f}"] for name, value in history.items() if isinstance(value, int | float)],
    )
    print("\nQuery plans:\n")
    for plan in history["query_plans"]:
        print(f"    {plan}")


if __name__ == "__main__":
    main()
