"""Behaviour and explanations of a model behind an endpoint: the same as a local round, from text alone.

What a local round reads off its own logits is asked for here. No tokenizer is needed: the server says which tokens an
answer has after a prompt. One request gives the likeliest first tokens after a prompt; where an answer is not
decided by its first token, or none of the answers' first tokens is among the likeliest, each answer is scored as it
stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from introspection_probe.endpoint.client import Completion, Endpoint, Scored
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import (
    Behavior,
    Judging,
    Observed,
    Probe,
    ProbeExample,
    Rendered,
    Responses,
    Rollout,
    Round,
)
from introspection_probe.tasks import explanations
from introspection_probe.tasks.judges.panel import FreeAnswer, Panel, check_unjudged, halves, request_of

Tokens = tuple[str, ...]

# As in local rounds: how much of a prompt's end can matter to the tokens after it, and how many tokens are written
# beyond the longest explanation, so that "... <B> because" is seen to go on.
_TAIL = 64
_SLACK = 4
# Explanations differ by their answers only: the longest by characters are the longest by tokens or near it.
_MEASURED_LENGTHS = 64

Progress = Callable[[int], None]


class Interview:
    """Asks one model.

    Attributes:
        scored: prompts whose answer took more than one request so far.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._panel = Panel()
        self._continuations: dict[tuple[str, str], Tokens] = {}
        self.scored = 0

    def behaviors(
        self,
        examples: Sequence[ProbeExample],
        rendered: Sequence[Rendered],
        *,
        answer_prefix: str = "",
        judging: Judging | None = None,
        progress: Progress | None = None,
    ) -> list[Observed]:
        """The answers on ``x`` and ``x\\C``: greedy decoding within the answer set, token by token, or freely.

        Args:
            answer_prefix: what stands before an option after the prompt (``PromptStyle.answer_prefix``).
            judging: how free answers are judged; None where answers are options. An example on which the judge fails
                has no behaviour.
            progress: called with the number of examples finished since the last call.

        Raises:
            IntrospectionError: the server fails or cannot score text, the judge is out of reach, or the model's
                tokenizer joins the end of a prompt with an answer.
        """
        prompts = [prompt for r in rendered for prompt in (r.included, r.ablated)]
        if judging is not None:
            return self._judged(examples, prompts, judging, progress)
        options = [example.options for example in examples for _ in range(2)]
        texts = [[answer_prefix + option for option in answers] for answers in options]
        self._learn_tokens((prompt, text) for prompt, answers in zip(prompts, texts, strict=True) for text in answers)
        advance = None if progress is None else halves(progress)
        first = self._endpoint.complete(prompts, max_tokens=1, top=True, progress=advance)
        chosen = [
            self._read(prompt, answers, completion)
            for prompt, answers, completion in zip(prompts, texts, first, strict=True)
        ]
        undecided = [index for index, choice in enumerate(chosen) if choice is None]
        self.scored += len(undecided)
        scores = self._score([(prompts[index], texts[index]) for index in undecided])
        for index, tokens in zip(undecided, scores, strict=True):
            chosen[index] = choose(tokens)
        answers = [group[choice] for group, choice in zip(options, chosen, strict=True) if choice is not None]
        return [Observed(Behavior(*pair)) for pair in zip(answers[::2], answers[1::2], strict=True)]

    def _judged(
        self, examples: Sequence[ProbeExample], prompts: Sequence[str], judging: Judging, progress: Progress | None
    ) -> list[Observed]:
        """What the model writes after the prompts, two for each example, and the behaviour that it is judged to be."""
        advance = None if progress is None else halves(progress)
        written = self._endpoint.complete(prompts, max_tokens=judging.max_tokens, progress=advance)
        return self._panel.observe(
            [
                FreeAnswer(
                    judging,
                    (request_of(example.included), request_of(example.ablated)),
                    Responses(included.text, ablated.text),
                )
                for example, included, ablated in zip(examples, written[::2], written[1::2], strict=True)
            ]
        )

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._endpoint.model

    @property
    def window(self) -> float:
        """Tokens that the model can read."""
        return self._endpoint.window

    def measure(
        self,
        probes: Sequence[Probe],
        *,
        step: int,
        answer_prefix: str = "",
        judging: Judging | None = None,
        progress: Progress | None = None,
    ) -> Round:
        """One round over the probes.

        Args:
            step: optimizer steps done.
            answer_prefix, judging: as for :meth:`behaviors`.
            progress: called with the number of answers (three for each probe) finished since the last call.

        Raises:
            IntrospectionError: as :meth:`behaviors`; no probes; no verdict on too many of them.
        """
        if not probes:
            raise IntrospectionError("there is nothing to measure: the probe split is empty; build a larger probe set")
        started_at, clock, before = datetime.now(UTC), time.perf_counter(), self._endpoint.tokens
        observed = self.behaviors(
            [probe.example for probe in probes],
            [probe.rendered for probe in probes],
            answer_prefix=answer_prefix,
            judging=judging,
            progress=None if progress is None else lambda count: progress(2 * count),
        )
        unjudged = tuple(
            probe.example.id for probe, item in zip(probes, observed, strict=True) if item.behavior is None
        )
        if judging is not None:
            check_unjudged(judging.judge, len(unjudged), len(probes), self._panel.problem)
        said = self._endpoint.complete(
            [probe.rendered.question for probe in probes], max_tokens=self._longest(probes) + _SLACK, progress=progress
        )
        return Round(
            step=step,
            rollouts=tuple(
                Rollout(
                    example_id=probe.example.id,
                    behavior=item.behavior,
                    predicted_text=completion.text,
                    predicted=explanations.parse(completion.text, probe.example.options),
                    responses=item.responses,
                )
                for probe, item, completion in zip(probes, observed, said, strict=True)
                if item.behavior is not None
            ),
            started_at=started_at,
            duration_s=time.perf_counter() - clock,
            tokens=self._endpoint.tokens - before,
            generated=len(probes),
            path="endpoint",
            unjudged=unjudged,
        )

    def _read(self, prompt: str, texts: Sequence[str], completion: Completion) -> int | None:
        """The answer that the first token decides, or None where it takes more than that."""
        firsts = [self._continuations[_key(prompt, text)][0] for text in texts]
        if len(set(firsts)) < len(firsts):
            return None
        seen = [place for place, token in enumerate(firsts) if token in completion.top]
        # What is not among the likeliest is less likely than all that is.
        return max(seen, key=lambda place: completion.top[firsts[place]]) if seen else None

    def _learn_tokens(self, continuations: Iterable[tuple[str, str]]) -> None:
        """Ask for the tokens of each text after each way a prompt ends."""
        unknown: dict[tuple[str, str], tuple[str, str]] = {}
        for prompt, text in continuations:
            if _key(prompt, text) not in self._continuations:
                unknown.setdefault(_key(prompt, text), (prompt, text))
        scored = self._after(list(unknown.values()))
        for key, tokens in zip(unknown, scored, strict=True):
            self._continuations[key] = tokens.tokens

    def _score(self, asked: Sequence[tuple[str, Sequence[str]]]) -> list[list[Scored]]:
        """For each prompt: its answers' tokens with their log-probabilities there."""
        scored = iter(self._after([(prompt, text) for prompt, texts in asked for text in texts]))
        return [[next(scored) for _ in texts] for _, texts in asked]

    def _after(self, pairs: Sequence[tuple[str, str]]) -> list[Scored]:
        """The part of ``prompt + text`` that is the text's, as the server reads the whole."""
        prompts = list(dict.fromkeys(prompt for prompt, _ in pairs))
        scored = self._endpoint.score([*prompts, *(prompt + text for prompt, text in pairs)])
        alone = dict(zip(prompts, scored, strict=False))
        found = []
        for (prompt, text), whole in zip(pairs, scored[len(prompts) :], strict=True):
            start = len(alone[prompt].tokens)
            if whole.tokens[:start] != alone[prompt].tokens or len(whole.tokens) == start:
                raise IntrospectionError(
                    f"the model's tokenizer joins the end of the prompt {prompt[-24:]!r} with the answer {text!r}: "
                    "build a probe set with this model"
                )
            found.append(Scored(whole.tokens[start:], whole.logprobs[start:]))
        return found

    def _longest(self, probes: Sequence[Probe]) -> int:
        """Tokens of the longest explanation."""
        texts = {
            explanations.to_text(candidate): probe.rendered.question
            for probe in probes
            for candidate in explanations.candidates(probe.example.options)
        }
        longest = sorted(texts, key=lambda text: (-len(text), text))[:_MEASURED_LENGTHS]
        return max(len(scored.tokens) for scored in self._after([(texts[text], text) for text in longest]))


def choose(options: Sequence[Scored]) -> int:
    """Greedy decoding within the answer set: at each place the likeliest of the tokens that lead to an answer.

    Log-probabilities of two options may be compared at a place where everything before it is the same.

    Raises:
        IntrospectionError: one option's tokens begin another's, so the two cannot be told apart.
    """
    left = list(range(len(options)))
    depth = 0
    while len(left) > 1:
        if any(len(options[index].tokens) <= depth for index in left):
            raise IntrospectionError(
                "the tokens of one answer begin another's, so the two cannot be told apart: reword the options"
            )
        # The first of equals, as the answer set has them.
        best = max(left, key=lambda index: options[index].logprobs[depth] or 0.0)
        left = [index for index in left if options[index].tokens[depth] == options[best].tokens[depth]]
        depth += 1
    return left[0]


def _key(prompt: str, text: str) -> tuple[str, str]:
    return prompt[-_TAIL:], text
