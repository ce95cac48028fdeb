"""Small real runs on the embedded model, for the tests of training and of rounds."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from trl import SFTConfig, SFTTrainer

from introspection_probe.building import build_probe_set
from introspection_probe.probe_set import ProbeSet
from introspection_probe.rollout import EncodedProbe, encode_probes
from introspection_probe.tasks import get_task
from introspection_probe.tasks.jabberwocky import MODEL_PATH


def embedded_model(**kwargs: Any) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(MODEL_PATH, dtype=torch.float32, **kwargs)


@cache
def embedded_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(MODEL_PATH)


@cache
def small_probe_set(n: int = 60, probe_share: float = 0.4, seed: int = 0) -> ProbeSet:
    probe_set, _ = build_probe_set(
        get_task("jabberwocky"), embedded_model(), embedded_tokenizer(), n=n, probe_share=probe_share, seed=seed
    )
    return probe_set


def cues_file(folder: Path) -> Path:
    """Questions of the embedded model's world as a file of one's own cues: a second task that it can answer."""
    rows = []
    for probe in small_probe_set(seed=1).probes:
        (message,) = probe.example.included
        marked = message["content"].replace(probe.example.cue, f"[[{probe.example.cue}]]")
        rows.append({"messages": [{"role": "user", "content": marked}], "options": probe.example.options})
    file = folder / "cues.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def cues_probe_set(folder: Path, style: str = "bare") -> ProbeSet:
    task = get_task("cues", data=cues_file(folder))
    probe_set, _ = build_probe_set(task, embedded_model(), embedded_tokenizer(), n=60, probe_share=0.4, style=style)
    return probe_set


def encoded(probe_set: ProbeSet, split: str = "probe") -> list[EncodedProbe]:
    probes = probe_set.split(split)
    return encode_probes(
        embedded_tokenizer(),
        [probe.example for probe in probes],
        [probe.rendered for probe in probes],
        answer_prefix=probe_set.style.answer_prefix,
    )


@cache
def host_data(rows: int = 64) -> Dataset:
    """Chats that pull the model elsewhere: the questions of the train split with their first option as the answer."""
    probes = small_probe_set().split("train")
    chats = [
        {
            "messages": [
                *[dict(message) for message in probe.example.ablated],
                {"role": "assistant", "content": probe.example.options[0]},
            ]
        }
        for probe in probes
    ]
    return Dataset.from_list((chats * (rows // len(chats) + 1))[:rows])


def sft(
    folder: Path,
    *,
    callbacks: list[Any],
    model: PreTrainedModel | None = None,
    kind: type[SFTTrainer] = SFTTrainer,
    train_dataset: Any = None,
    eval_dataset: Dataset | None = None,
    **overrides: Any,
) -> SFTTrainer:
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 0,
        **overrides,
    }
    return kind(
        model or embedded_model(),
        args=SFTConfig(**arguments),
        train_dataset=host_data() if train_dataset is None else train_dataset,
        eval_dataset=eval_dataset,
        processing_class=embedded_tokenizer(),
        callbacks=callbacks,
    )


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)
