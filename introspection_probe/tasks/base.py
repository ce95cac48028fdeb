"""What a task is: three small methods that turn a raw row into the paper's ``x``, ``x\\C`` and ``q``.

A new task is one file with a subclass of :class:`Task` and a line in ``tasks/__init__.py``. The sentences that state
an explanation are the same for every task: see ``explanations.py``.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from introspection_probe.records import Message, ProbeExample


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a task words its prompts. Which style is lively depends on the model, so building measures several.

    Attributes:
        name: short and stable; written to the manifest.
        cue_template: how the cue is worded; ``{option}`` is the option it points to.
        opening: text that opens the assistant's turn on ``x`` and ``x\\C``; the answer is the next token(s).
        answer_prefix: put before an option where the opening does not end in one (``" "`` after ``"Answer:"``).
        system: system prompt, or None for the chat template's own default.
        template_kwargs: passed to ``apply_chat_template`` (``{"enable_thinking": False}``).
    """

    name: str
    cue_template: str
    opening: str
    answer_prefix: str = ""
    system: str | None = None
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)


def prompt_styles(
    cues: Mapping[str, str],
    openings: Mapping[str, str],
    template_kwargs: Mapping[str, Any] | None = None,
    *,
    system: str | None = None,
) -> list[PromptStyle]:
    """Every wording of the cue with every answer opening, both by name; thinking is off unless the arguments say so."""
    return [
        PromptStyle(
            name=f"{cue}/{opening}",
            cue_template=cues[cue],
            opening=openings[opening],
            answer_prefix=answer_prefix(openings[opening]),
            system=system,
            template_kwargs=thinking_off(template_kwargs),
        )
        for cue, opening in product(cues, openings)
    ]


def thinking_off(template_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments for the chat template with thinking off unless they say otherwise."""
    return {"enable_thinking": False, **(template_kwargs or {})}


def answer_prefix(opening: str) -> str:
    """What separates an opening from the answer: a space, but nothing after a bracket or quote."""
    return "" if not opening or opening[-1].isspace() or opening[-1] in "([{<\"'" else " "


def group_of(text: str) -> str:
    """The group of a question: the same for texts that differ in case and white space alone."""
    return hashlib.sha256(" ".join(text.split()).casefold().encode()).hexdigest()[:16]


def user_turn(content: str) -> Message:
    """A message of the user's."""
    return {"role": "user", "content": content}


class Task(ABC):
    """A source of counterfactual questions.

    Attributes:
        name: the task's public name, as in ``iprobe build --task NAME``.
        source: where the last ``rows()`` came from, for people; set by ``rows()``.
        judge: None where the answer is read off the answer set; else the answer is generated freely, the name of the
            judge (``judges.get_judge``) that then says which of ``("refuse", "comply")`` it is.
        max_response_tokens: where a freely generated answer is cut off. Whether a model refuses shows early, and every
            round generates two answers for each example.
        balance_ablated: whether the ``probe`` split is to hold as many examples of each answer without the cue.
    """

    name: str
    source: str = ""
    judge: str | None = None
    max_response_tokens: int = 96
    balance_ablated: bool = False

    @abstractmethod
    def styles(self) -> Sequence[PromptStyle]:
        """The prompt styles worth trying, the most usual first."""

    @abstractmethod
    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """The raw rows, in an order that is a function of the seed."""

    @abstractmethod
    def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
        """``x``, ``x\\C`` and ``q`` of one row. Draws (which option a hint names) come from ``rng`` alone."""
