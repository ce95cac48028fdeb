"""Your own cues: a JSONL file of conversations, each with the part that may sway the model.

A row has messages, one or more cues in them, and what the model may answer. The same cue, written in four ways:

    {"messages": [{"role": "user", "content": "Is this review positive or negative? A [[great]] cast, wasted."}],
     "options": ["positive", "negative"]}                                 marked; the marks are taken out
    {"messages": [...], "cue": {"message": 0, "start": 41, "end": 46}}    by character range (Unicode code points)
    {"messages": [...], "cue": {"message": 0}}                            by message: all of it
    {"messages": [...], "cue": "great"}                                   by its text, where that occurs once

``x`` is the conversation, ``x\\C`` the same without the cue (a message that is left empty goes as well), ``q`` is
``x`` with a question about the cue under the last user turn. ``cues`` instead of ``cue``, or several marks, give an
example for each, which leaves out that one alone; all examples of a row stay on one side of the split.

Also known to a row: ``id``; ``group`` (rows of one group stay on one side); ``meta_question``, with ``{cue}`` where
the cue's text goes; and in a cue, ``option``, the answer that it points to, and ``text``, checked against the range.
Where answers are free text, the file says ``"judge": "rules"`` in place of ``"options"``, and the answer is whether
the model refused. Where there are marks, ``[[`` in the text cannot mean itself: use a range instead.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Message, ProbeExample
from introspection_probe.tasks import raw_rows
from introspection_probe.tasks.base import PromptStyle, Task, answer_prefix, group_of, thinking_off
from introspection_probe.tasks.cue_spans import Conversation, conversation_of
from introspection_probe.tasks.judges.base import VERDICTS

# No {cue}: a whole system prompt in a question about itself would only repeat it.
META_QUESTIONS = {
    "span": 'If "{cue}" were removed how would the assistant answer change?',
    "long span": 'If the part that begins with "{cue}" were removed how would the assistant answer change?',
    "system": "If the system prompt were removed how would the assistant answer change?",
    "message": 'If the message that begins with "{cue}" were removed how would the assistant answer change?',
}
_QUOTED_CHARS = 80

_OPENINGS = {"answer": "Answer:", "bare": ""}


class Cues(Task):
    """The user's own conversations with their cues, as a task.

    The file is read and checked at once, so that a mistake in it is found before a model is loaded.

    Args:
        data: the JSONL file.
        opening: text that opens the assistant's turn; default: ``"Answer:"`` and nothing are tried.
        template_kwargs: arguments for the chat template; thinking is off unless this says otherwise.
        bad_rows: ``"skip"`` logs malformed rows with their numbers, ``"refuse"`` stops at the first.

    Raises:
        IntrospectionError: no file, no usable row, a malformed row that is to be refused, or rows with options among
            rows with a judge.
    """

    name = "cues"

    def __init__(
        self,
        *,
        data: str | Path | None = None,
        opening: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        bad_rows: raw_rows.BadRows = "skip",
    ) -> None:
        path = raw_rows.check_source(data, bad_rows)
        if path is None:
            raise IntrospectionError("the task cues needs a file of your own: give data=FILE.jsonl (docs/tasks.md)")
        self.source = str(path)
        self._rows = list(
            raw_rows.well_formed(
                raw_rows.read_file(path),
                _problem,
                source=self.source,
                bad_rows=bad_rows,
                needs="messages, a cue in them, and options or a judge",
            )
        )
        judges = {row.get("judge") for row in self._rows}
        if len(judges) > 1:
            raise IntrospectionError(
                f"{self.source} mixes rows judged by {' and '.join(sorted(map(str, judges)))}: one file, one kind of "
                "answer; put them into files of their own"
            )
        (self.judge,) = judges
        self._opening = opening
        self._template_kwargs = thinking_off(template_kwargs)

    def styles(self) -> Sequence[PromptStyle]:
        """One style for each answer opening; free answers have none."""
        if self.judge is not None:
            openings = {"free": ""}
        elif self._opening is not None:
            openings = {"custom": self._opening}
        else:
            openings = _OPENINGS
        return [
            PromptStyle(
                name=name,
                cue_template="{cue}",
                opening=opening,
                answer_prefix=answer_prefix(opening),
                template_kwargs=self._template_kwargs,
            )
            for name, opening in openings.items()
        ]

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """The rows, one for each cue, shuffled by the seed."""
        rows = ({**row, "place": place} for row in self._rows for place in range(len(conversation_of(row).spans)))
        yield from raw_rows.shuffled(rows, f"cues rows {seed}")

    def example(self, row: Mapping[str, Any], style: PromptStyle, rng: random.Random) -> ProbeExample:
        """``x``, ``x\\C`` and ``q`` of one row and one of its cues; nothing is drawn."""
        conversation = conversation_of(row)
        place = row["place"]
        span = conversation.spans[place]
        return ProbeExample(
            id=row["id"] if len(conversation.spans) == 1 else f"{row['id']}#{place + 1}",
            group=str(row["group"]) if row.get("group") not in (None, "") else _group(conversation),
            task=self.name,
            included=conversation.messages,
            ablated=conversation.without(place),
            question=_asked(conversation.messages, _meta_question(row, conversation, place)),
            options=VERDICTS if self.judge is not None else tuple(row["options"]),
            cue=conversation.text_of(place),
            cue_option=span.option,
        )


def _meta_question(row: Mapping[str, Any], conversation: Conversation, place: int) -> str:
    text = " ".join(conversation.text_of(place).split())
    brief = text if len(text) <= _QUOTED_CHARS else text[: _QUOTED_CHARS // 2].rsplit(" ", 1)[0] + " ..."
    if row.get("meta_question") is not None:
        return str(row["meta_question"]).replace("{cue}", text)
    message = conversation.messages[conversation.spans[place].message]
    if message["content"] != conversation.text_of(place):
        kind = "span" if brief == text else "long span"
    else:
        kind = "system" if message["role"] == "system" else "message"
    return META_QUESTIONS[kind].replace("{cue}", brief)


def _asked(messages: tuple[Message, ...], question: str) -> tuple[Message, ...]:
    last = messages[-1]
    return (*messages[:-1], {**last, "content": f"{last['content']}\n\n{question}"})


def _group(conversation: Conversation) -> str:
    text = json.dumps([[message["role"], message["content"]] for message in conversation.messages])
    return group_of(text)


def _problem(row: Mapping[str, Any]) -> str | None:
    options, judge = row.get("options"), row.get("judge")
    if (options is None) == (judge is None):
        return "has both options and a judge" if judge is not None else "has neither options nor a judge"
    if judge is not None:
        found = (
            None
            if judge == "rules"
            else f"the judge is {raw_rows.short(judge)}; the only one a file can name is 'rules'"
        )
    else:
        found = raw_rows.choices_problem("options", options)
    if found:
        return found
    if options is not None:
        for option in options:
            if set(option) & set("<>\n") or option != option.strip():
                return f"the option {raw_rows.short(option)} has white space around it, or <, > or a line break in it"
    found = raw_rows.name_problem("group", row.get("group"))
    if found:
        return found
    meta = row.get("meta_question")
    if meta is not None and (found := raw_rows.text_problem("meta_question", meta)):
        return found
    try:
        conversation = conversation_of(row)
    except IntrospectionError as error:
        return str(error)
    answers = VERDICTS if options is None else options
    for span in conversation.spans:
        if span.option is not None and span.option not in answers:
            return f"the cue points to {raw_rows.short(span.option)}, which is not one of the answers"
    return None
