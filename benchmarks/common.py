"""What the benchmarks of rounds and of mixing share: a model, its probe set, timing in turn, one table."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from introspection_probe.building import build_probe_set
from introspection_probe.probe_set import ProbeSet
from introspection_probe.rollout import EncodedProbe, encode_probes
from introspection_probe.tasks import get_task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))


def arguments(description: str, **defaults: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", help="folder or name; default: SmolLM2-135M-Instruct (see examples/smollm2.py)")
    parser.add_argument("--probes", type=int, default=defaults.get("probes", 64), help="probes measured or mixed")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--token-budget", type=int, default=4096, help="tokens in one forward pass")
    parser.add_argument("--repeat", type=int, default=defaults.get("repeat", 3), help="times each way is run")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def load(options: argparse.Namespace) -> tuple[nn.Module, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if options.model is None:
        from smollm2 import smollm2

        options.model = str(smollm2())
    options.dtype = options.dtype or ("bfloat16" if options.device.startswith("cuda") else "float32")
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    return model.to(options.device), AutoTokenizer.from_pretrained(options.model)


def probes_of(
    model: nn.Module, tokenizer: Any, count: int, folder: str | None = None
) -> tuple[ProbeSet, list[EncodedProbe]]:
    """``count`` Hint-MMLU examples, on the probe side; as many again stand on the train side of a set built here."""
    if folder is not None:
        found = ProbeSet.load(folder)
        return found, encoded(found, tokenizer, "probe")[:count]
    probe_set, _ = build_probe_set(
        get_task("hint-mmlu"),
        model,
        tokenizer,
        n=2 * count,
        probe_share=0.5,
        seed=0,
        style=get_task("hint-mmlu").styles()[0].name,
    )
    return probe_set, encoded(probe_set, tokenizer, "probe")


def encoded(probe_set: ProbeSet, tokenizer: Any, split: Any) -> list[EncodedProbe]:
    probes = probe_set.split(split)
    return encode_probes(
        tokenizer,
        [probe.example for probe in probes],
        [probe.rendered for probe in probes],
        answer_prefix=probe_set.style.answer_prefix,
    )


def in_turn(
    ways: Mapping[str, Callable[[], Any]], *, repeat: int, device: str, warm_up: bool = True
) -> dict[str, float]:
    """Median seconds of each way. They take turns, so that a slow minute of the machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(-int(warm_up), repeat):
        for name, way in ways.items():
            synchronize(device)
            start = time.perf_counter()
            way()
            synchronize(device)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def machine(options: argparse.Namespace) -> str:
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{torch.get_num_threads()} threads"
    return f"{Path(options.model).name}, {options.dtype}, {where}, torch {torch.__version__}"


def show(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    print(f"{title}\n")
    print(f"| {' | '.join(head)} |")
    print(f"|{'|'.join(['---'] + ['---:'] * (len(head) - 1))}|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def emit(result: Mapping[str, Any]) -> None:
    print(json.dumps(result, indent=2))
