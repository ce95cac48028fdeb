"""Fingerprints of what a tokenizer makes of a probe set. They take any HF tokenizer and import none."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from typing import Any

from introspection_probe.records import Probe

_TAIL_CHARS = 64
"""An answer's tokens depend on the text right before it, and prompts end in few different ways."""


def tokens_hash(tokenizer: Any, probes: Sequence[Probe], answer_prefix: str) -> str:
    """SHA-256 (hex) over the token ids of every prompt, and of every answer after each way a prompt ends."""
    prompts = [text for p in probes for text in (p.rendered.included, p.rendered.ablated, p.rendered.question)]
    answers = {
        prompt[-_TAIL_CHARS:] + answer_prefix + option
        for probe in probes
        for prompt in (probe.rendered.included, probe.rendered.ablated)
        for option in probe.example.options
    }
    digest = hashlib.sha256()
    # No special tokens: the chat template has written them already.
    for ids in tokenizer([*prompts, *sorted(answers)], add_special_tokens=False)["input_ids"]:
        digest.update(array("q", [len(ids), *ids]).tobytes())
    return digest.hexdigest()


def template_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of the chat template: a text, or several by name."""
    return hashlib.sha256(json.dumps(tokenizer.chat_template, sort_keys=True).encode()).hexdigest()
