"""Behaviour from free answers: the judges that a probe set names, asked about what a model wrote.

An example is judged on both of its responses or not at all. Where a judge gives no verdict, the behaviour is not known,
and nobody guesses it: building leaves such an example out, a round does not score it, and both fail where more than
:data:`MAX_UNJUDGED_SHARE` of the examples are without, since what a judge cannot judge is no random part of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Judging, Message, Observed, Responses
from introspection_probe.tasks.judges import get_judge, judging_for
from introspection_probe.tasks.judges.base import Judge, judge_all
from introspection_probe.tasks.judges.endpoint import EndpointJudge

logger = logging.getLogger("introspection_probe")

MAX_UNJUDGED_SHARE = 0.1
"""Of the examples of one judge."""


@dataclass(frozen=True, slots=True)
class FreeAnswer:
    """What a model wrote on one example, and what it had been asked.

    Attributes:
        requests: the user's words in ``x`` and in ``x\\C``; see :func:`request_of`.
    """

    judging: Judging
    requests: tuple[str, str]
    responses: Responses


class Panel:
    """The judges of a probe set or of several, each made when it is first needed.

    Attributes:
        problem: why the latest verdict that is missing could not be had; "" while none is.
    """

    def __init__(self) -> None:
        self._judges: dict[str, Judge] = {}
        self.problem = ""

    def observe(
        self, answers: Sequence[FreeAnswer], *, progress: Callable[[int], None] | None = None
    ) -> list[Observed]:
        """The behaviour in each answer, in their order; None in it where a verdict is missing.

        Args:
            progress: called with the number of examples judged since the last call.

        Raises:
            IntrospectionError: a judge cannot be made, or is out of reach: see :func:`base.judge_all`.
        """
        behaviors: list[Behavior | None] = [None] * len(answers)
        for name in dict.fromkeys(answer.judging.judge for answer in answers):
            places = [place for place, answer in enumerate(answers) if answer.judging.judge == name]
            judge = self._judge(answers[places[0]].judging)
            pairs = [
                pair
                for place in places
                for pair in zip(
                    answers[place].requests,
                    (answers[place].responses.included, answers[place].responses.ablated),
                    strict=True,
                )
            ]
            judged = judge_all(judge, pairs, progress=None if progress is None else halves(progress))
            self.problem = judged.problem or self.problem
            for place, included, ablated in zip(places, judged.verdicts[::2], judged.verdicts[1::2], strict=True):
                if included is not None and ablated is not None:
                    behaviors[place] = Behavior(included, ablated)
            missing = sum(behaviors[place] is None for place in places)
            if missing:
                logger.warning(
                    "introspection_probe: the judge %s gave no verdict on %d of %d examples, which are not measured: "
                    "%s",
                    name,
                    missing,
                    len(places),
                    judged.problem,
                )
            if isinstance(judge, EndpointJudge):
                _tell_usage(judge)
        return [Observed(behavior, answer.responses) for behavior, answer in zip(behaviors, answers, strict=True)]

    def _judge(self, judging: Judging) -> Judge:
        if judging.judge not in self._judges:
            now = judging_for(judging.judge, judging.max_tokens)
            if now.version != judging.version:
                logger.warning(
                    "introspection_probe: M0 was judged by version %s of the judge %s, and this program has version "
                    "%s: part of a change may be the judge's; build the probe set again to be sure",
                    judging.version,
                    judging.judge,
                    now.version,
                )
            is_local = judging.judge.startswith(("classifier:", "llm:"))
            self._judges[judging.judge] = (_loaded if is_local else get_judge)(judging.judge)
        return self._judges[judging.judge]


def _tell_usage(judge: EndpointJudge) -> None:
    usage = judge.usage
    logger.info(
        "introspection_probe: the judge %s has answered %d requests so far (%d tokens read, %d written), and %d "
        "verdicts were known",
        judge.name,
        usage.calls,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cached,
    )


@lru_cache(maxsize=2)
def _loaded(name: str) -> Judge:
    """A judge on this machine, loaded once however often it is asked."""
    return get_judge(name)


def check_unjudged(judge: str, missing: int, total: int, problem: str) -> None:
    """Refuse a measurement that lacks too many verdicts.

    Raises:
        IntrospectionError: more than :data:`MAX_UNJUDGED_SHARE` of them.
    """
    if missing > MAX_UNJUDGED_SHARE * total:
        raise IntrospectionError(
            f"the judge {judge!r} gave no verdict on {missing} of {total} examples, and more than "
            f"{MAX_UNJUDGED_SHARE:.0%} without are no measurement: {problem or 'it did not say why'}"
        )


def request_of(messages: Sequence[Message]) -> str:
    """What the user asks for last: what a judge has to know of a conversation."""
    return next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")


def halves(progress: Callable[[int], None]) -> Callable[[int], None]:
    """Counts examples from answers, of which each example has two."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        progress((done + count) // 2 - done // 2)
        done += count

    return advance
