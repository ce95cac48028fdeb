"""How a model behaves on a task's rows in one prompt style: the questions made of the rows, and the answers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from introspection_probe.endpoint import Interview
from introspection_probe.records import Behavior, Judging, ProbeExample, Rendered, Responses
from introspection_probe.rollout import EncodedProbe, encode_probes, measure_behaviors, render, with_tokens
from introspection_probe.tasks.base import PromptStyle, Task
from introspection_probe.tasks.judges import judging_for

Progress = Callable[[str, int, int], None]
"""Called with what is being asked, the examples done so far and the examples to do in all."""


@dataclass(frozen=True, slots=True)
class Question:
    """A task's row in one style, ready to be asked.

    Attributes:
        number: the row's place in ``task.rows()``, from 0.
    """

    number: int
    example: ProbeExample
    rendered: Rendered
    encoded: EncodedProbe

    @property
    def tokens(self) -> int:
        """Tokens of the longest sequence that a round or a mixed step computes for it."""
        probe = self.encoded
        explanation = max(map(len, probe.explanation_ids)) + 1  # the end token
        answer = probe.answer_tokens
        return max(len(probe.included) + answer, len(probe.ablated) + answer, len(probe.question) + explanation)


@dataclass(frozen=True, slots=True)
class Asked:
    """A question in one style, and how the model behaved; with what it wrote where that was free."""

    example: ProbeExample
    rendered: Rendered
    behavior: Behavior
    responses: Responses | None = None


def questions(
    task: Task, tokenizer: Any, seed: int, style: PromptStyle, rows: Sequence[tuple[int, Mapping[str, Any]]]
) -> list[Question]:
    """The questions made of numbered rows, in their order.

    Raises:
        IntrospectionError: the tokenizer cannot express the style.
    """
    # A generator for each row: what a cue names depends neither on the style nor on the rows before it.
    examples = [task.example(row, style, random.Random(f"{seed} {number}")) for number, row in rows]
    rendered = [render(tokenizer, example, style) for example in examples]
    judging = judging_of(task)
    encoded = encode_probes(tokenizer, examples, rendered, answer_prefix=style.answer_prefix, judging=judging)
    return [
        Question(number, example, prompts, probe)
        for (number, _), example, prompts, probe in zip(rows, examples, rendered, encoded, strict=True)
    ]


def ask(
    task: Task,
    model: nn.Module | Interview,
    tokenizer: Any,
    style: PromptStyle,
    asked: Sequence[Question],
    *,
    path: Literal["auto", "packed", "flat"] = "auto",
    progress: Callable[[int], None] | None = None,
) -> list[Asked]:
    """The model's behaviour on questions of one style, without those on which a judge gave no verdict.

    Args:
        path: how a local model's answers are read; see ``rollout.Prober``.
        progress: called with the number of examples finished since the last call.

    Raises:
        IntrospectionError: the judge is out of reach, or the endpoint fails.
    """
    if not asked:
        return []
    examples, rendered = [question.example for question in asked], [question.rendered for question in asked]
    if isinstance(model, Interview):
        judging = judging_of(task)
        observed = model.behaviors(
            examples, rendered, answer_prefix=style.answer_prefix, judging=judging, progress=progress
        )
        if judging is not None:
            observed = with_tokens(tokenizer, rendered, observed, judging.max_tokens)
    else:
        encoded = [question.encoded for question in asked]
        observed = measure_behaviors(model, tokenizer, encoded, path=path, progress=progress)
    return [
        Asked(example, prompts, item.behavior, item.responses)
        for example, prompts, item in zip(examples, rendered, observed, strict=True)
        if item.behavior is not None
    ]


def judging_of(task: Task) -> Judging | None:
    """How the task's answers are judged; None where they are read off the answer set.

    Raises:
        IntrospectionError: the task names a judge that is not known.
    """
    return None if task.judge is None else judging_for(task.judge, task.max_response_tokens)


def window(model: nn.Module | Interview) -> float:
    """Positions the model can read; no limit where its configuration names none (recurrent models)."""
    if isinstance(model, Interview):
        return model.window
    config: Any = model.config
    return float(getattr(config.get_text_config(), "max_position_embeddings", None) or math.inf)
