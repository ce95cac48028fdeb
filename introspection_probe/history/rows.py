"""What a history gives back: plain frozen records, no SQL and no connection behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from introspection_probe.records import Behavior, Explanation, LossTerm, Responses, RunStatus
from introspection_probe.scoring.counts import RoundScores


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. All times are UTC and timezone-aware.

    Attributes:
        id: number within this history, what people type.
        uid: the run's own identity, see :class:`~introspection_probe.records.RunInfo`.
        step: the last step the run told of.
        started_at: first start.
        resumed_at: latest start; equal to ``started_at`` for a run that was never resumed.
        updated_at: latest write about the run, whatever it was. A run that says ``"running"`` and whose
            ``updated_at`` is long ago has died without saying so.
        overhead: share of wall time that rounds took so far, None when nobody measured it.
    """

    id: int
    uid: str
    name: str
    model: str
    tasks: tuple[str, ...]
    kind: Literal["train", "offline"]
    status: RunStatus
    step: int
    started_at: datetime
    resumed_at: datetime
    updated_at: datetime
    overhead: float | None
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ScoredRound:
    """One round's counts, without its rollouts.

    Attributes:
        scores: by task.
        duration_s: wall-clock seconds.
        tokens, generated, path: as in :class:`~introspection_probe.records.Round`.
        unjudged: examples that are in no score, since no verdict on their answers could be had.
    """

    step: int
    started_at: datetime
    duration_s: float
    tokens: int
    generated: int
    path: Literal["packed", "flat", "endpoint"]
    scores: Mapping[str, RoundScores]
    unjudged: int = 0


@dataclass(frozen=True, slots=True)
class MixedLosses:
    """The mixed losses of the optimizer steps between two rounds.

    Attributes:
        step: optimizer steps done at the last of them.
        steps: how many they are.
        means: by term, before its weight; None where it was not a finite number. What was not mixed in is absent.
    """

    step: int
    steps: int
    means: Mapping[LossTerm, float | None]


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """One example of a round as a person wants to see it. Every text in it is hostile: escape before showing.

    The fields about the probe are None (``options`` empty) when its probe set was never saved to the history.

    Attributes:
        prompt: the input with the cue, shortened around the cue.
        m0: what the starting model answered.
        behavior: what the model answered in this round.
        predicted_text: what it said when asked ``q``.
        predicted: that text parsed, None where it cannot be.
        m0_responses, responses: what the starting model and the model of this round wrote, where answers are free.
    """

    example_id: str
    task: str | None
    prompt: str | None
    cue: str | None
    cue_option: str | None
    options: tuple[str, ...]
    m0: Behavior | None
    behavior: Behavior
    predicted_text: str
    predicted: Explanation | None
    m0_responses: Responses | None = None
    responses: Responses | None = None


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert from the step at which it was raised to the step at which it cleared.

    ``cleared_step`` and ``cleared_at`` are None while the condition holds.
    """

    id: int
    name: str
    task: str
    severity: Literal["warning", "critical"]
    summary: str
    remedy: str
    raised_step: int
    raised_at: datetime
    cleared_step: int | None
    cleared_at: datetime | None

    @property
    def active(self) -> bool:
        """Whether the condition still holds."""
        return self.cleared_at is None

    def stood_at(self, step: int) -> bool:
        """Whether the condition held after this step."""
        return self.raised_step <= step and (self.cleared_step is None or self.cleared_step > step)
