"""From messages to text to token ids: the three prompts of an example and every answer that may follow them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import (
    Explanation,
    Judging,
    Message,
    Observed,
    Probe,
    ProbeExample,
    Rendered,
    Responses,
)
from introspection_probe.tasks import explanations
from introspection_probe.tasks.base import PromptStyle
from introspection_probe.tasks.judges.panel import request_of

Ids = tuple[int, ...]

# How much of a prompt's end can matter to how the text after it is tokenized: no tokenizer we know merges further.
_TAIL = 64


@dataclass(frozen=True, slots=True)
class EncodedProbe:
    """An example in token ids.

    Attributes:
        id: the example's id.
        options: the answer set, as text.
        included, ablated, question: the three prompts.
        included_options, ablated_options: ids of each option after each prompt, in the order of ``options``.
        explanations: every explanation over the answer set.
        explanation_ids: ids of each one's sentence after ``question``, in the same order, without an end token.
        free: where answers are free and judged; there are no ``included_options`` and ``ablated_options`` then.
    """

    id: str
    options: tuple[str, ...]
    included: Ids
    ablated: Ids
    question: Ids
    included_options: tuple[Ids, ...]
    ablated_options: tuple[Ids, ...]
    explanations: tuple[Explanation, ...]
    explanation_ids: tuple[Ids, ...]
    free: FreeText | None = None

    @property
    def answer_tokens(self) -> int:
        """Tokens of the longest answer that may be computed after ``included`` or ``ablated``."""
        if self.free is not None:
            return self.free.judging.max_tokens
        return max(map(len, self.included_options + self.ablated_options))


@dataclass(frozen=True, slots=True)
class FreeText:
    """What an example with free answers has in place of options.

    Attributes:
        requests: the user's words in ``x`` and in ``x\\C``, for the judge.
        responses: ids of what M0 wrote on each, with the end token where it ended by itself; empty while M0 has not
            been asked.
    """

    judging: Judging
    requests: tuple[str, str]
    responses: tuple[Ids, Ids]


def render(tokenizer: Any, example: ProbeExample, style: PromptStyle) -> Rendered:
    """The example's three prompts under the tokenizer's chat template and a prompt style.

    Raises:
        IntrospectionError: the tokenizer has no chat template, or the template refuses the messages.
    """

    def prompt(messages: Sequence[Message], opening: str) -> str:
        if style.system is not None and (not messages or messages[0]["role"] != "system"):
            messages = [{"role": "system", "content": style.system}, *messages]
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=True,
            **style.template_kwargs,
        )
        return str(text) + opening

    if not getattr(tokenizer, "chat_template", None):
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise IntrospectionError(
            f"tokenizer {name!r} has no chat template: set tokenizer.chat_template, or use the instruct model"
        )
    try:
        return Rendered(
            included=prompt(example.included, style.opening),
            ablated=prompt(example.ablated, style.opening),
            question=prompt(example.question, ""),
        )
    except Exception as error:
        raise IntrospectionError(f"the chat template refuses example {example.id!r}: {error}") from error


def encode_probes(
    tokenizer: Any,
    examples: Sequence[ProbeExample],
    rendered: Sequence[Rendered],
    *,
    answer_prefix: str = "",
    judging: Judging | None = None,
    responses: Sequence[Responses | None] = (),
) -> list[EncodedProbe]:
    """Token ids of the examples' prompts, answers and explanations.

    Args:
        answer_prefix: what stands before an option after the prompt (:attr:`PromptStyle.answer_prefix`).
        judging: how answers are judged where they are free; None where they are options.
        responses: with ``judging``, what M0 wrote on each example; left out while it has not been asked.

    Raises:
        IntrospectionError: a prompt's tokens are not the beginning of the tokens of prompt and answer together (then
            what is asked and what is trained would differ), or the answers cannot be told apart token by token.
    """
    encoder = _Encoder(tokenizer)
    texts = [text for r in rendered for text in (r.included, r.ablated, r.question)]
    prompts = encoder.prompts(texts)
    encoded = []
    for index, (example, prompt) in enumerate(zip(examples, rendered, strict=True)):
        included, ablated, question = prompts[3 * index : 3 * index + 3]
        answers = [] if judging is not None else [answer_prefix + option for option in example.options]
        candidates = explanations.candidates(example.options)
        probe = EncodedProbe(
            id=example.id,
            options=example.options,
            included=included,
            ablated=ablated,
            question=question,
            included_options=tuple(encoder.after(prompt.included, included, text) for text in answers),
            ablated_options=tuple(encoder.after(prompt.ablated, ablated, text) for text in answers),
            explanations=tuple(candidates),
            explanation_ids=tuple(
                encoder.after(prompt.question, question, explanations.to_text(candidate)) for candidate in candidates
            ),
            free=None if judging is None else _free_text(judging, example, responses[index] if responses else None),
        )
        _check_options(probe, answers)
        encoded.append(probe)
    return encoded


def encode_set(tokenizer: Any, probe_set: ProbeSet, probes: Sequence[Probe]) -> list[EncodedProbe]:
    """:func:`encode_probes` of probes of a set, in the set's style and with M0's responses.

    Raises:
        IntrospectionError: as :func:`encode_probes`.
    """
    return encode_probes(
        tokenizer,
        [probe.example for probe in probes],
        [probe.rendered for probe in probes],
        answer_prefix=probe_set.style.answer_prefix,
        judging=probe_set.manifest.judging,
        responses=[probe.responses for probe in probes],
    )


def with_tokens(
    tokenizer: Any, rendered: Sequence[Rendered], observed: Sequence[Observed], max_tokens: int
) -> list[Observed]:
    """Responses that are known as text alone (from an endpoint) with the tokens that the text has after its prompt.

    A response of fewer than ``max_tokens`` tokens gets the tokenizer's end token: the model ended it by itself.
    """
    texts = [
        (prompt, text)
        for prompts, item in zip(rendered, observed, strict=True)
        if item.responses is not None
        for prompt, text in ((prompts.included, item.responses.included), (prompts.ablated, item.responses.ablated))
    ]
    encoder = _Encoder(tokenizer)
    alone = encoder.prompts([prompt for prompt, _ in texts])
    together = encoder.prompts([prompt + text for prompt, text in texts])
    tails = []
    for (_, text), before, whole in zip(texts, alone, together, strict=True):
        # Where the tokenizer joins prompt and text, the model cannot have written the text so.
        ids = whole[len(before) :] if whole[: len(before)] == before else encoder.prompts([text])[0]
        ended = len(ids) < max_tokens and tokenizer.eos_token_id is not None
        tails.append((*ids, int(tokenizer.eos_token_id)) if ended else ids[:max_tokens])
    ids_of = iter(tails)
    return [
        item
        if item.responses is None
        else replace(item, responses=replace(item.responses, included_ids=next(ids_of), ablated_ids=next(ids_of)))
        for item in observed
    ]


def _free_text(judging: Judging, example: ProbeExample, responses: Responses | None) -> FreeText:
    return FreeText(
        judging=judging,
        requests=(request_of(example.included), request_of(example.ablated)),
        responses=((), ()) if responses is None else (responses.included_ids, responses.ablated_ids),
    )


class _Encoder:
    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._continuations: dict[tuple[str, str], Ids] = {}

    def prompts(self, texts: Sequence[str]) -> list[Ids]:
        if not texts:
            return []
        return [tuple(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def after(self, prompt: str, prompt_ids: Ids, text: str) -> Ids:
        """The tokens of ``text`` where it follows ``prompt``."""
        key = (prompt[-_TAIL:], text)
        found = self._continuations.get(key)
        if found is None:
            (together,) = self.prompts([prompt + text])
            found = together[len(prompt_ids) :]
            if together[: len(prompt_ids)] != prompt_ids or not found:
                raise IntrospectionError(
                    f"the tokenizer joins the end of the prompt {prompt[-24:]!r} with the answer {text!r}: "
                    "use a prompt style whose opening ends at a token boundary"
                )
            self._continuations[key] = found
        return found


def _check_options(probe: EncodedProbe, answers: Sequence[str]) -> None:
    for option_ids in (probe.included_options, probe.ablated_options):
        for one, ids in enumerate(option_ids):
            for other, other_ids in enumerate(option_ids):
                if one != other and other_ids[: len(ids)] == ids:
                    raise IntrospectionError(
                        f"example {probe.id!r}: the tokens of answer {answers[one]!r} begin answer {answers[other]!r}, "
                        "so the two cannot be told apart; reword the options or change answer_prefix"
                    )
