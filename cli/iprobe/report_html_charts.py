"""Which curves the web page shows, and the words beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from introspection_probe.history import MixedLosses
from introspection_probe.records import LossTerm
from introspection_probe.scoring import Interval
from introspection_probe.scoring.verdict import MIN_F1, MIN_LABEL_AGREEMENT
from iprobe.charts import RATIO, Axis, Drawing, Label, Look, Series, difference_scale, draw, zero_scale
from iprobe.formatting import loss_text
from iprobe.measures import Row
from iprobe.summary import Summary
from iprobe.values import value_interval_text, value_text
from iprobe.words import LOSS_NAMES


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its words.

    Attributes:
        key: unique within the page's task, for ids.
        title: a question that the chart answers, or what it shows.
        caption: how to read it.
        description: the curves' ends in words, for those who do not see them.
        limit: a line across, with its name.
        banded: some curve has a band.
        readings: for each round, all its values as text.
    """

    key: str
    title: str
    caption: str
    description: str
    drawing: Drawing
    limit: Label | None
    banded: bool
    readings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Plan:
    key: str
    title: str
    caption: str
    curves: tuple[tuple[str, str, Look], ...]  # measure, name, look
    limit: tuple[float, str] | None = None


_MAIN = _Plan(
    "coupling",
    "Which model do the explanations describe?",
    "Share of explanations that are true of the model as it is now (Self) and of the model as it started (Orig)."
    " A model that knows itself stays high on Self while Orig falls away. Saying the best single sentence every time"
    " would reach the thin line.",
    (
        ("self_exact_match", "Self: true of the model now", "self"),
        ("orig_exact_match", "Orig: true of the model at its start", "orig"),
        ("constant_match", "Best constant answer", "plain"),
    ),
)
_OTHERS = (
    _Plan(
        "gap",
        "Coupling gap",
        "Self minus Orig on the same questions. Above the zero line, explanations follow the model; below it, they"
        " describe the model of the start.",
        (("coupling_gap", "Gap", "first"),),
        (0.0, "no gap"),
    ),
    _Plan(
        "share",
        "Where old and new behaviour differ",
        "Of the explanations that fit only one of the two, the share that fits the model now.",
        (("self_share", "Self share", "self"),),
        (0.5, "one half"),
    ),
    _Plan(
        "behavior",
        "Behaviour against the start",
        "Share of questions that are still answered as at the start: with the cue, without it, and both.",
        (
            ("behavior_included", "With the cue", "second"),
            ("behavior_ablated", "Without the cue", "third"),
            ("behavior_both", "Both", "first"),
        ),
    ),
    _Plan(
        "labels",
        "Label agreement",
        "Share of the labels it is taught that are still true of it. Below the line both scores are known to collapse.",
        (("label_agreement", "Labels still true", "first"),),
        (MIN_LABEL_AGREEMENT, f"limit {MIN_LABEL_AGREEMENT}"),
    ),
    _Plan(
        "f1",
        "Are both kinds told apart?",
        "F1 of “changed” and of “unchanged”. One of them near 0 means the model says the same whatever it does.",
        (("changed_f1", "Changed", "first"), ("unchanged_f1", "Unchanged", "second")),
        (MIN_F1, f"limit {MIN_F1}"),
    ),
    _Plan(
        "shares",
        "What it says against what it does",
        "How often it says that the cue changes its answer, and how often that is so. The two should be close.",
        (("predicted_changed_share", "Says “changed”", "second"), ("behavior_changed_share", "Truly changed", "first")),
    ),
)


def figures(summary: Summary, axis: Axis) -> tuple[Figure, tuple[Figure, ...]]:
    """The main chart and the others; the summary has at least one round."""
    rows = {row.measure.key: row for row in summary.rows}
    intervals = {row.measure.key: _intervals(summary, row) for row in summary.rows}
    main, *others = (_figure(plan, summary, axis, rows, intervals) for plan in (_MAIN, *_OTHERS))
    if summary.losses:
        others.append(_losses(summary.losses, axis))
    return main, tuple(others)


def _losses(losses: Sequence[MixedLosses], axis: Axis) -> Figure:
    """The mixed losses, which have neither intervals nor an upper end; what was not finite is a gap in the curve."""
    looks: Mapping[LossTerm, Look] = {"explanation": "first", "kl": "second"}
    steps = [stretch.step for stretch in losses]
    curves = {
        term: [stretch.means.get(term) for stretch in losses]
        for term in LOSS_NAMES
        if any(term in stretch.means for stretch in losses)
    }

    def name(term: LossTerm) -> str:
        return LOSS_NAMES[term][0].upper() + LOSS_NAMES[term][1:]

    series = [Series(name(term), looks[term], curve, (), loss_text(curve[-1])) for term, curve in curves.items()]
    drawing = draw(axis, steps, series, zero_scale([value for curve in curves.values() for value in curve]))
    return Figure(
        key="losses",
        title="Mixed losses",
        caption="What explanations and KL cost, before their weights: the mean over the steps up to each round.",
        description=" ".join(
            f"{name(term)}: {loss_text(curve[0])} at step {steps[0]:,}, {loss_text(curve[-1])} at step {steps[-1]:,}."
            for term, curve in curves.items()
        ),
        drawing=drawing,
        limit=None,
        banded=False,
        readings=tuple(
            f"step {step:,}: " + "; ".join(f"{name(term)} {loss_text(curve[i])}" for term, curve in curves.items())
            for i, step in enumerate(steps)
        )
        if drawing.columns
        else (),
    )


def _intervals(summary: Summary, row: Row) -> tuple[Interval | None, ...]:
    measure = row.measure.interval
    return () if measure is None else tuple(measure(summary.scores(scored)) for scored in summary.rounds)


def _figure(
    plan: _Plan,
    summary: Summary,
    axis: Axis,
    rows: Mapping[str, Row],
    intervals: Mapping[str, Sequence[Interval | None]],
) -> Figure:
    steps = [scored.step for scored in summary.rounds]
    series = [
        Series(
            name,
            look,
            rows[key].curve,
            # The thin line is there to compare with, and has no band of its own.
            () if look == "plain" else intervals[key],
            value_text(rows[key].measure, rows[key].latest),
        )
        for key, name, look in plan.curves
    ]
    if any(rows[key].measure.kind == "difference" for key, _, _ in plan.curves):
        scale = difference_scale(
            [i for one in series for i in one.intervals], [v for one in series for v in one.values]
        )
    else:
        scale = RATIO
    drawing = draw(axis, steps, series, scale)
    return Figure(
        key=plan.key,
        title=plan.title,
        caption=plan.caption,
        description=" ".join(_described(rows[key], name, steps) for key, name, _ in plan.curves),
        drawing=drawing,
        limit=None if plan.limit is None else Label(scale.y(plan.limit[0]), plan.limit[1]),
        banded=any(curve.band for curve in drawing.curves),
        readings=tuple(
            f"step {step:,}: " + "; ".join(_reading(rows[key], name, intervals[key], i) for key, name, _ in plan.curves)
            for i, step in enumerate(steps)
        )
        if drawing.columns
        else (),
    )


def _described(row: Row, name: str, steps: Sequence[int]) -> str:
    latest = f"{value_text(row.measure, row.latest)} at step {steps[-1]:,}"
    if row.latest is None:
        latest = f"not measured at step {steps[-1]:,}"
    if len(steps) == 1:
        return f"{name}: {latest}."
    baseline = "not measured" if row.baseline is None else value_text(row.measure, row.baseline)
    return f"{name}: {baseline} at step {steps[0]:,}, {latest}."


def _reading(row: Row, name: str, intervals: Sequence[Interval | None], index: int) -> str:
    value = row.curve[index]
    if value is None:
        return f"{name.partition(':')[0]} not measured"
    bounds = value_interval_text(row.measure, intervals[index]) if intervals else ""
    return f"{name.partition(':')[0]} {value_text(row.measure, value)}" + (f" ({bounds})" if bounds else "")
