"""What mixing adds to a host's step, against the floor and against the usual way.

    python benchmarks/mix.py [--model PATH] [--device cuda] [--host-batch 4] [--host-tokens 256] [--json]

The floor: the host's step and one more plain forward and backward, over as many tokens as the mixed trees have unique
ones. The usual way: three padded forwards with gradient, and the two reference forwards of a second model that stays
resident. All of them in turn in one process; peak memory on a GPU.
"""

from __future__ import annotations

import copy
import gc
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import arguments, emit, encoded, in_turn, load, machine, probes_of, show
from torch import nn
from torch.nn import functional

from introspection_probe.config import IntrospectionConfig
from introspection_probe.rollout.forward import left_padded
from introspection_probe.rollout.tree import build_tree
from introspection_probe.training import Mixer, MixExample


def host_step(model: Any, ids: torch.Tensor) -> None:
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def plain_step(model: Any, shape: tuple[int, int], keep: int) -> None:
    """A forward and backward over so many tokens, with logits at so many places."""
    ids = torch.randint(5, 1000, shape, device=model.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=keep).logits.float()
    functional.cross_entropy(logits.flatten(0, 1), ids[:, -keep:].flatten()).backward()


def separate_step(model: Any, reference: Any, examples: list[MixExample]) -> None:
    """Explanation loss and KL as they are usually written: a padded batch for each prompt, a second model."""
    for place in (0, 1, 2):
        paths = [example.paths[place] for example in examples]
        inputs = left_padded([path.ids for path in paths], model.device)
        keep = max(len(path.ids) - path.read_from for path in paths)
        arguments = {
            "input_ids": inputs.ids,
            "attention_mask": inputs.mask,
            "position_ids": inputs.positions,
            "logits_to_keep": keep,
            "use_cache": False,
        }
        now = model(**arguments).logits.float().log_softmax(-1)
        if place == 2:
            targets = torch.full((len(paths), keep), -100)
            for row, example in enumerate(examples):
                targets[row, keep - len(example.targets) :] = torch.tensor(example.targets)
            loss = functional.nll_loss(now.flatten(0, 1), targets.flatten().to(now.device), ignore_index=-100)
        else:
            with torch.no_grad():
                then = reference(**arguments).logits.float().log_softmax(-1)
            loss = functional.kl_div(now, then, log_target=True, reduction="sum") / (2 * len(paths))
        loss.backward()


def resident_bytes() -> int:
    """Bytes of all tensors alive, each storage counted once."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if isinstance(thing, torch.Tensor):
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def peak(step: Callable[[], Any], device: str) -> int | None:
    if not device.startswith("cuda"):
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def main() -> None:
    parser = arguments(str(__doc__).split("\n\n")[0])
    parser.add_argument("--mix-batch", type=int, default=8)
    parser.add_argument("--host-batch", type=int, default=4)
    parser.add_argument("--host-tokens", type=int, default=256)
    parser.add_argument("--probe-set", help="a built Hint-MMLU set of this model, instead of building one")
    options = parser.parse_args()
    model, tokenizer = load(options)
    probe_set, _ = probes_of(model, tokenizer, max(options.mix_batch * 4, 32), options.probe_set)
    examples = [
        MixExample.of(e, probe.behavior, probe.labels["orig"], tokenizer.eos_token_id)
        for e, probe in zip(encoded(probe_set, tokenizer, "train"), probe_set.split("train"), strict=True)
    ]
    config = IntrospectionConfig(mix_batch_size=options.mix_batch, token_budget=options.token_budget)
    before = resident_bytes()
    mixer = Mixer(examples, config, content_hash=probe_set.content_hash, packed=True)
    with tempfile.TemporaryDirectory() as folder:
        mixer.capture_reference(model, Path(folder) / "reference.safetensors", steps=1)
        ours = resident_bytes() - before
        before = resident_bytes()
        reference: nn.Module = copy.deepcopy(model).eval()
        theirs = resident_bytes() - before
        measure(options, model, reference, mixer, examples, ours, theirs)


def measure(
    options: Any, model: Any, reference: Any, mixer: Mixer, examples: list[MixExample], ours: int, theirs: int
) -> None:
    ids = torch.randint(5, 1000, (options.host_batch, options.host_tokens), device=options.device)
    drawn = [examples[i] for i in mixer.draw(0)]
    trees = [build_tree(example.paths) for example in drawn]
    unique = sum(map(len, trees))
    shape = (len(trees), math.ceil(unique / len(trees)))
    keep = max(tree.reads for tree in trees)

    def with_host(extra: Callable[[], Any]) -> Callable[[], None]:
        def step() -> None:
            model.zero_grad(set_to_none=True)
            extra()
            host_step(model, ids)

        return step

    ways = {
        "host": with_host(lambda: None),
        "mixed": with_host(lambda: mixer.backward(model, 0)),
        "floor": with_host(lambda: plain_step(model, shape, keep)),
        "separate": with_host(lambda: separate_step(model, reference, drawn)),
    }
    model.train()
    times = in_turn(ways, repeat=options.repeat, device=options.device)
    peaks = {name: peak(step, options.device) for name, step in ways.items()}
    plain = sum(len(path.ids) for example in drawn for path in example.paths)
    result = {
        "machine": machine(options),
        "host_tokens": ids.numel(),
        "mixed_unique_tokens": unique,
        "mixed_plain_tokens": plain,
        "seconds": times,
        "cost_over_host": times["mixed"] / times["host"],
        "cost_over_floor": times["mixed"] / times["floor"],
        # Of the mixed part alone: the host's own step is the same in both.
        "speedup_over_separate": (times["separate"] - times["host"]) / (times["mixed"] - times["host"]),
        "step_speedup_over_separate": times["separate"] / times["mixed"],
        "extra_resident_bytes": ours,
        "separate_extra_resident_bytes": theirs,
        "peak_bytes": peaks,
    }
    if options.json:
        emit(result)
        return
    labels = {
        "host": "host alone",
        "mixed": "host + mixing",
        "floor": "floor: host + plain pass over the unique tokens",
        "separate": "host + three forwards and a reference model",
    }
    show(
        f"{result['machine']}: {ids.numel():,} host tokens, {len(drawn)} mixed examples of {plain:,} tokens "
        f"({unique:,} unique)",
        ["", "seconds a step", "over the floor", "extra resident MB", "peak MB"],
        [
            [
                labels[name],
                f"{seconds:.3f}",
                f"{seconds / times['floor']:.2f}x",
                {"mixed": f"{ours / 1e6:.1f}", "separate": f"{theirs / 1e6:.1f}"}.get(name, "0.0"),
                "" if peaks[name] is None else f"{(peaks[name] or 0) / 1e6:,.0f}",
            ]
            for name, seconds in times.items()
        ],
    )


if __name__ == "__main__":
    main()
