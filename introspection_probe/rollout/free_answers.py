"""Free answers: what a model writes on ``x`` and ``x\\C``, and what the judges say it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from introspection_probe.records import Observed, Responses
from introspection_probe.rollout import distributed
from introspection_probe.rollout.encoding import EncodedProbe, Ids
from introspection_probe.tasks.judges.panel import FreeAnswer, Panel, check_unjudged


def judge_written(
    panel: Panel, tokenizer: Any, probes: Sequence[EncodedProbe], written: Mapping[tuple[int, str], Ids]
) -> dict[int, Observed]:
    """The behaviour of the probes with free answers, by index. Judged on rank 0, told to every process.

    Args:
        written: response ids by the probe's index and the variant.

    Raises:
        IntrospectionError: a judge is out of reach or cannot be made.
    """
    indices = sorted({index for index, _ in written})
    if not indices:
        return {}
    answers = []
    for index in indices:
        free = probes[index].free
        assert free is not None
        included, ablated = written[index, "included"], written[index, "ablated"]
        texts = [str(tokenizer.decode(list(ids), skip_special_tokens=True)) for ids in (included, ablated)]
        responses = Responses(texts[0], texts[1], included, ablated)
        answers.append(FreeAnswer(free.judging, free.requests, responses))
    # Only rank 0 knows what the judges have said.
    observed = distributed.on_main(lambda: panel.observe(answers))
    return dict(zip(indices, observed, strict=True))


def check_round(panel: Panel, probes: Sequence[EncodedProbe], observed: Sequence[Observed]) -> None:
    """Refuse a round in which a judge left too many examples without a verdict.

    Raises:
        IntrospectionError: see :func:`check_unjudged`.
    """
    missing: dict[str, list[bool]] = {}
    for probe, item in zip(probes, observed, strict=True):
        if probe.free is not None:
            missing.setdefault(probe.free.judging.judge, []).append(item.behavior is None)
    for judge, flags in missing.items():
        check_unjudged(judge, sum(flags), len(flags), panel.problem)
