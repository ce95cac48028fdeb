"""Asking a model for its behaviour and its explanations. Needs torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from introspection_probe.records import Observed, Round
from introspection_probe.rollout.agreement import Agreement, compare_paths
from introspection_probe.rollout.encoding import EncodedProbe, encode_probes, encode_set, render, with_tokens
from introspection_probe.rollout.prober import DEFAULT_TOKEN_BUDGET, Prober, Progress

__all__ = [
    "DEFAULT_TOKEN_BUDGET",
    "Agreement",
    "EncodedProbe",
    "Prober",
    "compare_paths",
    "encode_probes",
    "encode_set",
    "measure",
    "measure_behaviors",
    "render",
    "with_tokens",
]


def measure(
    model: nn.Module,
    tokenizer: Any,
    probes: Sequence[EncodedProbe],
    *,
    step: int,
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> Round:
    """One round on any model. See :class:`Prober`."""
    return Prober(tokenizer, probes, token_budget=token_budget).measure(model, step=step, progress=progress)


def measure_behaviors(
    model: nn.Module,
    tokenizer: Any,
    probes: Sequence[EncodedProbe],
    *,
    path: Literal["auto", "packed", "flat"] = "auto",
    token_budget: int = DEFAULT_TOKEN_BUDGET,
    progress: Progress | None = None,
) -> list[Observed]:
    """Only what the model does on ``x`` and ``x\\C``. See :class:`Prober`."""
    return Prober(tokenizer, probes, path=path, token_budget=token_budget).behaviors(model, progress=progress)
