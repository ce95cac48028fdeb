"""What the web page shows of one task, as plain values for the template to print.

Texts in here may be hostile still: whatever the template prints is made safe on its way (see `report_html`). Here they
are only cut, so that no text is longer than a person reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from introspection_probe.history import AlertRow, ExampleRow
from introspection_probe.records import Behavior
from introspection_probe.scoring import ExplanationScores, VerdictKind, ratio
from iprobe.charts import Axis
from iprobe.measures import Row
from iprobe.report_html_charts import Figure, figures
from iprobe.summary import Summary
from iprobe.text import ELLIPSIS
from iprobe.words import says_note

_TEXT = 1500
_LINES = 24
_ANSWER = 200
_LANES = 24
_ALERTS = 40
_HEATS = 5

_TONES: Mapping[VerdictKind, tuple[str, str]] = {
    "coupled": ("good", "Coupled"),
    "no_gap": ("caution", "No gap"),
    "coupling_lost": ("bad", "Coupling lost"),
    "not_evidence": ("caution", "Not evidence"),
    "too_few_disagreements": ("neutral", "Nothing to tell apart"),
    "not_measured": ("neutral", "Not measured"),
}

_TILES = (
    ("self_exact_match", "Explanations true of the model now"),
    ("orig_exact_match", "Explanations true of the model at its start"),
    ("coupling_gap", "Self minus Orig"),
    ("self_share", "Where only one of the two fits, the model now does"),
    ("behavior_both", "Questions answered as at the start"),
    ("label_agreement", "Labels that are still true"),
)


@dataclass(frozen=True, slots=True)
class Tile:
    """A number at a glance, and what it is in plain words."""

    row: Row
    words: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A count of a confusion table with its share of the row; ``heat`` is that share in steps from 0 to 5."""

    count: int
    share: float | None
    heat: int


@dataclass(frozen=True, slots=True)
class Confusion:
    """What the model said (changed, unchanged, unreadable) against what it did, in one round.

    Attributes:
        changed: of the examples where the cue truly changes the answer.
        unchanged: of those where it does not.
    """

    step: int
    changed: tuple[Cell, Cell, Cell]
    unchanged: tuple[Cell, Cell, Cell]


@dataclass(frozen=True, slots=True)
class Span:
    """From where to where on the time axis an alarm held, in percent."""

    alert: AlertRow
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Lane:
    """All the times that one condition held."""

    name: str
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One example where explanation and behaviour part.

    Attributes:
        before, cue, after: the question in lines, around the cue; ``cue`` is empty where it is not in the question.
        said_first: what the model said in the first round; None when that is not known.
    """

    row: ExampleRow
    before: tuple[str, ...]
    cue: tuple[str, ...]
    after: tuple[str, ...]
    said: str
    note: str
    said_first: str | None

    @property
    def included_moved(self) -> bool:
        """Whether the answer with the cue is another than at the start."""
        return self.row.m0 is not None and self.row.m0.included != self.row.behavior.included

    @property
    def ablated_moved(self) -> bool:
        """Whether the answer without the cue is another than at the start."""
        return self.row.m0 is not None and self.row.m0.ablated != self.row.behavior.ablated


@dataclass(frozen=True, slots=True)
class TaskView:
    """One task of the run.

    Attributes:
        key: begins the ids of its elements.
        tone: how the verdict is coloured, and with which sign.
        word: the verdict in a word or two.
        main, others: the charts; None and empty while there is no round.
        lanes: alarms on the time axis of the charts.
        alerts: alarms in words, those that hold first; ``alerts_left_out`` are not among them.
    """

    key: str
    summary: Summary
    tone: str
    word: str
    tiles: tuple[Tile, ...]
    main: Figure | None
    others: tuple[Figure, ...]
    lanes: tuple[Lane, ...]
    alerts: tuple[AlertRow, ...]
    alerts_left_out: int
    confusions: tuple[Confusion, ...]
    examples: tuple[Example, ...]


def task_view(key: str, summary: Summary, said_first: Mapping[str, str]) -> TaskView:
    """The page's part about the summary's task.

    Args:
        key: a name for ids, unique on the page.
        said_first: what the model said in the first round, by example id.
    """
    main: Figure | None = None
    others: tuple[Figure, ...] = ()
    lanes: tuple[Lane, ...] = ()
    if summary.rounds:
        held = [
            step for alert in summary.alerts for step in (alert.raised_step, alert.cleared_step) if step is not None
        ]
        mixed = [losses.step for losses in summary.losses]
        axis = Axis.over([*(scored.step for scored in summary.rounds), *held, *mixed])
        main, others = figures(summary, axis)
        lanes = _lanes(summary.alerts, axis)
    tone, word = _TONES[summary.verdict.kind] if summary.verdict else ("neutral", "No round yet")
    alerts = sorted(summary.alerts, key=lambda alert: (not alert.active, alert.severity != "critical"))
    rows = {row.measure.key: row for row in summary.rows}
    return TaskView(
        key=key,
        summary=summary,
        tone=tone,
        word=word,
        tiles=tuple(Tile(rows[name], words) for name, words in _TILES if rows),
        main=main,
        others=others,
        lanes=lanes,
        alerts=tuple(alerts[:_ALERTS]),
        alerts_left_out=max(len(alerts) - _ALERTS, 0),
        confusions=_confusions(summary),
        examples=tuple(_example(row, said_first.get(row.example_id)) for row in summary.examples),
    )


def _confusions(summary: Summary) -> tuple[Confusion, ...]:
    ends = [summary.rounds[0], summary.rounds[-1]] if len(summary.rounds) > 1 else summary.rounds
    return tuple(_confusion(scored.step, summary.scores(scored).self_scores) for scored in ends)


def _confusion(step: int, scores: ExplanationScores) -> Confusion:
    # A prediction of the other class is that class's false positive; what is left of the false negatives is unreadable.
    return Confusion(
        step,
        _cells(scores.changed_tp, scores.unchanged_fp, scores.changed_fn - scores.unchanged_fp),
        _cells(scores.changed_fp, scores.unchanged_tp, scores.unchanged_fn - scores.changed_fp),
    )


def _cells(*counts: int) -> tuple[Cell, Cell, Cell]:
    shares = [ratio(count, sum(counts)) for count in counts]
    first, second, third = (Cell(n, s, round(_HEATS * (s or 0.0))) for n, s in zip(counts, shares, strict=True))
    return first, second, third


def _lanes(alerts: Sequence[AlertRow], axis: Axis) -> tuple[Lane, ...]:
    by_name: dict[str, list[Span]] = {}
    for alert in alerts:
        # What holds still reaches the right edge; what was raised and cleared between two rounds is a dot, not nothing.
        start = axis.x(alert.raised_step)
        end = 100.0 if alert.cleared_step is None else axis.x(alert.cleared_step)
        width = max(end - start, 1.0)
        by_name.setdefault(alert.name, []).append(Span(alert, min(start, 100.0 - width), width))
    return tuple(Lane(name, tuple(spans)) for name, spans in list(by_name.items())[:_LANES])


def _example(row: ExampleRow, said_first: str | None) -> Example:
    prompt, cue = row.prompt or "", row.cue or ""
    at = prompt.rfind(cue) if cue else -1
    before, after = (prompt[:at], prompt[at + len(cue) :]) if at >= 0 else (prompt, "")
    return Example(
        row=row,
        before=_lines(before, from_end=at >= 0),
        cue=_lines(cue) if at >= 0 else (),
        after=_lines(after),
        said=_cut(row.predicted_text, _TEXT),
        note=says_note(row),
        said_first=None if said_first is None else _cut(said_first, _TEXT),
    )


def _lines(text: str, *, from_end: bool = False) -> tuple[str, ...]:
    """The text's lines, not too many and not too long; ``from_end`` keeps the end, where the cue is near."""
    if len(text) > _TEXT:
        text = ELLIPSIS + text[-_TEXT:] if from_end else _cut(text, _TEXT)
    lines = text.split("\n") if text else []
    if len(lines) > _LINES:
        lines = [ELLIPSIS, *lines[-_LINES:]] if from_end else [*lines[:_LINES], ELLIPSIS]
    return tuple(lines)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + ELLIPSIS


def answer(text: str) -> str:
    """An answer, no longer than fits a table."""
    return _cut(text, _ANSWER)


def truth(behavior: Behavior) -> str:
    """The true explanation of a behaviour in few words."""
    word = "changes to" if behavior.explanation.changed else "stays"
    return f"{word} {answer(behavior.explanation.content)}"
