"""The plain frozen records that travel between the rooms of the library.

Nothing here imports anything but the standard library, so that every room, torch or not, can use it.
The words are those of the paper (arXiv:2606.32038): see docs/concepts.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

Message = Mapping[str, str]
"""One chat message: ``{"role": "system" | "user" | "assistant", "content": "..."}``."""

Split = Literal["train", "probe"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is said about the cue: would removing it change the answer, and what is the answer without it?

    Made by rule from a :class:`Behavior` (then it is true of that model), or parsed from what a model said.
    """

    changed: bool
    content: str


@dataclass(frozen=True, slots=True)
class Behavior:
    """``B(M)``: a model's answer on the input ``x`` with the cue, and on ``x\\C`` without it."""

    included: str
    ablated: str

    @property
    def explanation(self) -> Explanation:
        """``E(M)``: the true explanation of this behaviour."""
        return Explanation(changed=self.included != self.ablated, content=self.ablated)


@dataclass(frozen=True, slots=True)
class Responses:
    """What a model wrote on ``x`` and on ``x\\C`` where it answers freely: the texts that a judge read as a
    :class:`Behavior`.

    Attributes:
        included, ablated: without the end token; hostile like any text of a model.
        included_ids, ablated_ids: the tokens as generated, with the end token where the model ended by itself. Empty
            where only the text matters: in rounds and in histories.
    """

    included: str
    ablated: str
    included_ids: tuple[int, ...] = ()
    ablated_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Judging:
    """How free answers become behaviour.

    Attributes:
        judge: the judge's name, as ``tasks.judges.get_judge`` takes it.
        version: what the judge called its way of judging when M0 was judged.
        max_tokens: tokens after which a response is cut off.
    """

    judge: str
    version: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Observed:
    """What a model did on one example.

    Attributes:
        behavior: None where it answers freely and no verdict could be had: it is not known, which is not 0.
        responses: what it wrote; None where the answers were read off the answer set.
    """

    behavior: Behavior | None
    responses: Responses | None = None


@dataclass(frozen=True, slots=True)
class Rendered:
    """The three prompts of an example as the model reads them, up to the first answer token.

    Each is the chat template applied to the messages, with the generation prompt; ``included`` and ``ablated``
    end with the prompt style's answer opening (for instance ``"The answer is ("``), ``question`` does not.
    """

    included: str
    ablated: str
    question: str


@dataclass(frozen=True, slots=True)
class ProbeExample:
    """One counterfactual question, as messages, before any chat template.

    Attributes:
        id: unique within the probe set.
        group: the unit of the train/probe split (the question without its cue); all examples of a group
            land on the same side.
        task: name of the task that made it.
        included: the messages of ``x``.
        ablated: the messages of ``x\\C``.
        question: the messages of the meta-question ``q``.
        options: the answer set, in the form in which the model's answer is written (``("A", "B", "C", "D")``).
        cue: the cue's text, for people.
        cue_option: the option that the cue points to, or None when it points to none.
    """

    id: str
    group: str
    task: str
    included: tuple[Message, ...]
    ablated: tuple[Message, ...]
    question: tuple[Message, ...]
    options: tuple[str, ...]
    cue: str
    cue_option: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """A row of a probe set: an example, the prompts rendered from it, M0's behaviour and the label sets.

    Attributes:
        behavior: M0's behaviour.
        labels: explanations by label set; ``"orig"`` is always there and equals ``behavior.explanation``.
        responses: what M0 wrote, where the task's answers are free and judged; else None.
    """

    example: ProbeExample
    rendered: Rendered
    split: Split
    behavior: Behavior
    labels: Mapping[str, Explanation]
    responses: Responses | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    """What a model did on one example: both answers, and what it said when asked ``q``.

    ``predicted`` is None when ``predicted_text`` cannot be parsed; that counts as a failure, never as a match.
    ``responses`` is None where the answers were read off the answer set.
    """

    example_id: str
    behavior: Behavior
    predicted_text: str
    predicted: Explanation | None
    responses: Responses | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """One measurement of a model over the ``probe`` split, at a training step.

    Attributes:
        step: optimizer steps done when the round was taken.
        rollouts: one for each probe that was measured, in the order of the probe set.
        started_at: UTC, timezone-aware.
        duration_s: wall-clock seconds.
        tokens: tokens computed by the packed or flat passes (padding not counted).
        generated: examples that needed real generation: the explanation left the tree, or the answers are free.
        path: how the answers were obtained.
        unjudged: ids of the examples for which no verdict could be had. They have no rollout, and are in no score.
    """

    step: int
    rollouts: tuple[Rollout, ...]
    started_at: datetime
    duration_s: float
    tokens: int = 0
    generated: int = 0
    path: Literal["packed", "flat", "endpoint"] = "flat"
    unjudged: tuple[str, ...] = ()

    def measured(self, probes: Sequence[Probe]) -> tuple[Probe, ...]:
        """Those of the probes that this round has a rollout of: what it can be scored against."""
        missing = frozenset(self.unjudged)
        return tuple(probe for probe in probes if probe.example.id not in missing)


LossTerm = Literal["explanation", "kl"]


@dataclass(frozen=True, slots=True)
class MeanLoss:
    """A term of the mixed loss, before its weight: its mean over so many optimizer steps.

    A step at which it was not a finite number makes the mean none, too.
    """

    mean: float
    steps: int


RunStatus = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What identifies and describes a run.

    Attributes:
        uid: random, made once, kept in the run's output folder, so that a resumed run goes on under it.
        name: what people call it; need not be unique.
        kind: ``"train"`` for a callback in a trainer, ``"offline"`` for `iprobe probe` and `iprobe follow`.
        config: the callback's configuration and what is known of the host, JSON-able.
    """

    uid: str
    name: str
    model: str
    tasks: tuple[str, ...]
    kind: Literal["train", "offline"] = "train"
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition worth waking somebody for, as it stood at a step.

    Attributes:
        name: the condition's stable name, e.g. ``"explanations_drifted"``.
        severity: ``"warning"`` or ``"critical"``.
        summary: one sentence: what happened, with the numbers.
        remedy: one sentence: what to do.
    """

    name: str
    task: str
    step: int
    severity: Literal["warning", "critical"]
    summary: str
    remedy: str
    active: bool = True
