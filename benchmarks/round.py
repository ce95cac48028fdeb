"""What a round costs, packed, against the ways one would do it otherwise and against the floor.

    python benchmarks/round.py [--teach 8] [--model PATH] [--probes 24] [--device cuda] [--json]

(a) three batched `generate` calls; (b) our flat path; (c) lm-evaluation-harness scoring the answers on `x` alone, at
the better of two batch sizes; (d) the floor: one plain forward over as many tokens as the trees have unique ones.
All of them in turn in one process. `--teach N` first mixes explanations in for N steps, so that answers stay in the
tree, as they do in a run; 0 measures the untaught model, whose every explanation has to be generated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from common import arguments, emit, encoded, in_turn, load, machine, probes_of, show
from torch import nn

from introspection_probe.config import IntrospectionConfig
from introspection_probe.records import Round
from introspection_probe.rollout import EncodedProbe, Prober
from introspection_probe.rollout.batching import token_batches
from introspection_probe.rollout.paths import probe_tree
from introspection_probe.training import Mixer, MixExample


def teach(model: nn.Module, tokenizer: Any, probe_set: Any, steps: int, rate: float) -> None:
    """Mix explanations in, as a run does, until the model answers in their form."""
    probes = probe_set.split("train")
    examples = [
        MixExample.of(e, probe.behavior, probe.labels["orig"], tokenizer.eos_token_id)
        for e, probe in zip(encoded(probe_set, tokenizer, "train"), probes, strict=True)
    ]
    config = IntrospectionConfig(kl_weight=0, mix_batch_size=8)
    mixer = Mixer(examples, config, content_hash=probe_set.content_hash, packed=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        mixer.backward(model, step)
        optimizer.step()
        optimizer.zero_grad()


def generate_round(
    model: Any, tokenizer: Any, probes: Sequence[EncodedProbe], batch: int, new_tokens: int
) -> list[tuple[str, str, str]]:
    """The usual way: `generate` on each of the three prompts, batched and left-padded."""
    texts: list[list[str]] = []
    for prompts, limit in (
        ([p.included for p in probes], 1),
        ([p.ablated for p in probes], 1),
        ([p.question for p in probes], new_tokens),
    ):
        found = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            padded = tokenizer.pad(
                {"input_ids": [list(prompts[i]) for i in chosen]}, padding_side="left", return_tensors="pt"
            ).to(model.device)
            output = model.generate(**padded, do_sample=False, max_new_tokens=limit)
            said = tokenizer.batch_decode(output[:, padded["input_ids"].shape[1] :], skip_special_tokens=True)
            for i, text in zip(chosen, said, strict=True):
                found[i] = text
        texts.append(found)
    return list(zip(*texts, strict=True))


def is_same(round_: Round, generated: Sequence[tuple[str, str, str]], probes: Sequence[EncodedProbe]) -> bool:
    """Whether a round says what `generate` says. Answers are compared where `generate` stays in the answer set."""
    for rollout, probe, (included, ablated, explanation) in zip(round_.rollouts, probes, generated, strict=True):
        for ours, theirs in ((rollout.behavior.included, included), (rollout.behavior.ablated, ablated)):
            if theirs.strip() in probe.options and theirs.strip() != ours:
                return False
        if rollout.predicted_text != explanation:
            return False
    return True


def floor_batches(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Shapes (B, T) of plain inputs with as many tokens as the trees have nodes, in as many forwards."""
    shapes = []
    for batch in token_batches(lengths, budget):
        tokens = sum(lengths[i] for i in batch)
        shapes.append((len(batch), -(-tokens // len(batch))))
    return shapes


def floor_forward(model: Any, shapes: Sequence[tuple[int, int]]) -> None:
    with torch.no_grad():
        for shape in shapes:
            model(
                input_ids=torch.randint(5, 1000, shape, device=model.device), use_cache=False, logits_to_keep=1
            ).logits.argmax(-1).cpu()


def lm_eval_round(model: Any, tokenizer: Any, probes: Sequence[EncodedProbe], batch: int) -> Callable[[], Any]:
    """lm-evaluation-harness scoring the options of `x`: one multiple-choice question an example."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, max_length=2048)

    def run() -> Any:
        requests = [
            Instance("loglikelihood", {}, (tokenizer.decode(p.included), option), place, metadata=("x", i, 1))
            for i, p in enumerate(probes)
            for place, option in enumerate(p.options)
        ]
        return harness.loglikelihood(requests, disable_tqdm=True)

    return run


def main() -> None:
    parser = arguments(str(__doc__).split("\n\n")[0], probes=24)
    parser.add_argument("--teach", type=int, default=8, help="mixed steps before measuring; 0: untaught")
    parser.add_argument("--teach-rate", type=float, default=2e-4)
    parser.add_argument("--probe-set", help="a built Hint-MMLU set of this model, instead of building one")
    parser.add_argument("--without-lm-eval", action="store_true", help="where lm-eval is not installed")
    options: argparse.Namespace = parser.parse_args()
    model, tokenizer = load(options)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    probe_set, probes = probes_of(model, tokenizer, options.probes, options.probe_set)
    teach(model, tokenizer, probe_set, options.teach, options.teach_rate)
    model.eval()

    packed = Prober(tokenizer, probes, path="packed", token_budget=options.token_budget)
    flat = Prober(tokenizer, probes, path="flat", token_budget=options.token_budget)
    round_ = packed.measure(model, step=0)
    lengths = [len(probe_tree(probe).tree) for probe in probes]
    unique, plain = sum(lengths), sum(len(p.included) + len(p.ablated) + len(p.question) for p in probes)
    shapes = floor_batches(lengths, options.token_budget)
    new_tokens = 4 + max(len(ids) for probe in probes for ids in probe.explanation_ids)
    batches = sorted({8, min(options.probes, 32)} if options.device == "cpu" else {64, 256, options.probes})

    def best(ways: dict[int, Callable[[], Any]]) -> int:
        if len(ways) == 1:
            return next(iter(ways))
        times = in_turn({str(b): way for b, way in ways.items()}, repeat=1, device=options.device, warm_up=False)
        return int(min(times, key=lambda name: times[name]))

    generate = {b: lambda b=b: generate_round(model, tokenizer, probes, b, new_tokens) for b in batches}
    batch = best(generate)
    identical = is_same(round_, generate[batch](), probes)
    ways: dict[str, Callable[[], Any]] = {
        "packed": lambda: packed.measure(model, step=0),
        "generate": generate[batch],
        "flat": lambda: flat.measure(model, step=0),
        "floor": lambda: floor_forward(model, shapes),
    }
    if not options.without_lm_eval:
        harness = {b: lm_eval_round(model, tokenizer, probes, b) for b in batches}
        ways["lm_eval"] = harness[best(harness)]
    times = in_turn(ways, repeat=options.repeat, device=options.device)

    result = {
        "machine": machine(options),
        "probes": len(probes),
        "taught_steps": options.teach,
        "unique_tokens": unique,
        "plain_tokens": plain,
        "generated_examples": round_.generated,
        "seconds": times,
        "examples_per_second": len(probes) / times["packed"],
        "unique_tokens_per_second": unique / times["packed"],
        "speedup_over_generate": times["generate"] / times["packed"],
        "speedup_over_flat": times["flat"] / times["packed"],
        # Three questions an example here, one there.
        "speedup_over_lm_eval": 3 * times["lm_eval"] / times["packed"] if "lm_eval" in times else None,
        "cost_over_floor": times["packed"] / times["floor"],
        "identical_to_generate": identical,
    }
    if options.json:
        emit(result)
        return
    names = {
        "packed": "packed round",
        "generate": f"(a) three generate calls, batch {batch}",
        "flat": "(b) flat path",
        "lm_eval": "(c) lm-eval, answers on x alone",
        "floor": "(d) floor: one plain forward",
    }
    show(
        f"{result['machine']}: {len(probes)} probes, {plain:,} prompt tokens, {unique:,} unique, "
        f"{round_.generated} generated; identical to generate: {identical}",
        ["", "seconds", "examples/s", "unique tokens/s", "packed is"],
        [
            [
                names[name],
                f"{seconds:.2f}",
                f"{len(probes) / seconds:.1f}",
                f"{unique / seconds:,.0f}" if name in ("packed", "floor") else "",
                "" if name == "packed" else f"{seconds / times['packed']:.2f}x",
            ]
            for name, seconds in times.items()
        ],
    )


if __name__ == "__main__":
    main()
