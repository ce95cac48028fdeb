"""What a build is of, and what it measured: plain values, the same in every process that works on one set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from introspection_probe.building.asking import Asked
from introspection_probe.probe_set.signals import Signal
from introspection_probe.records import Judging
from introspection_probe.tasks.base import PromptStyle

BUILD_VERSION = 1
"""Raised when the same plan would give other questions or answers: what an older program began is not gone on with."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """Everything that determines a probe set.

    Attributes:
        task_options: the options that the task was made with.
        model: name or path of M0.
        model_fingerprint: of its weights; "" behind an endpoint.
        dtype: what it computes in; "" behind an endpoint.
        tokenizer, template_hash: what renders the prompts.
        style: the style that was asked for; None tries them on ``style_sample`` questions.
        n: questions wanted.
        max_prompt_tokens: longest sequence of a question; None for the model's window.
        balance: a field over which questions are balanced.
        judging: how free answers are judged; None where they are read off the answer set.
        balance_ablated: whether the task wants its probes balanced over the answer without the cue.
    """

    task: str
    task_options: Mapping[str, Any]
    model: str
    model_fingerprint: str
    dtype: str
    tokenizer: str
    template_hash: str
    style: str | None
    style_sample: int
    n: int
    probe_share: float
    seed: int
    max_prompt_tokens: int | None
    balance: str | None
    judging: Judging | None
    balance_ablated: bool
    version: int = BUILD_VERSION

    def as_json(self) -> dict[str, Any]:
        """The plan as plain values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def of_json(cls, plain: Mapping[str, Any]) -> BuildPlan:
        """The plan that :meth:`as_json` wrote.

        Raises:
            TypeError: other fields.
        """
        judging = plain["judging"]
        return cls(**{**plain, "judging": None if judging is None else Judging(**judging)})


@dataclass(frozen=True, slots=True)
class Found:
    """What every process of a build finds alike before it asks its share.

    Attributes:
        source: where the questions came from.
        tried: each style on the sample, in the task's order; empty when there was only one to take.
        refused: why a style could not be tried, by its name.
        questions: how many were chosen.
        read, too_long, duplicates, joined, values, exhausted: see ``selection.Chosen``.
    """

    source: str
    style: PromptStyle
    tried: tuple[Signal, ...]
    refused: Mapping[str, str]
    questions: int
    read: int
    too_long: int
    duplicates: int
    joined: int
    values: Mapping[str, int]
    exhausted: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured: by one process of a build, or by all of them together.

    Attributes:
        asked: the questions with their answers, by their row's number, in that order.
        unjudged: questions on whose answers a judge gave no verdict.
        seconds: of all processes together.
    """

    found: Found
    asked: tuple[tuple[int, Asked], ...]
    unjudged: int
    seconds: float


def brief(value: object) -> str:
    """A value of a plan in a sentence: printable, and cut where it is long."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
