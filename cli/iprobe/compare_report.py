"""The rows and sentences of a comparison, and its Markdown and JSON forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from introspection_probe.history import MixedLosses, RunRow
from introspection_probe.scoring import Interval, wilson
from introspection_probe.scoring.comparison import PairedChange
from introspection_probe.scoring.head_to_head import HeadToHead
from iprobe.comparing import Comparison, TaskComparison
from iprobe.formatting import NOT_MEASURED, interval_text, ratio_text, signed_text
from iprobe.report_json import losses_json
from iprobe.report_markdown import markdown_table
from iprobe.text import markdown_code, markdown_text, safe_text
from iprobe.words import loss_words

_NAME = 200


@dataclass(frozen=True, slots=True)
class Row:
    """A score of A and of B; None where it was not measured.

    Attributes:
        change: B - A with its 95% interval.
        p: of the exact paired test.
    """

    key: str
    label: str
    kind: Literal["ratio", "difference"]
    a: float | None
    b: float | None
    change: Interval | None
    p: float | None

    def cells(self, *, compact: bool = False) -> list[str]:
        """A, B, the change, its interval and p, as text."""
        text = ratio_text if self.kind == "ratio" else signed_text
        bounds = None if self.change is None else (self.change.lower, self.change.upper)
        return [
            text(self.a),
            text(self.b),
            signed_text(None if self.change is None else self.change.estimate),
            interval_text(bounds, signed=True, compact=compact),
            p_text(self.p),
        ]


TITLES = ("A", "B", "B \u2212 A", "95%", "p")


def rows(found: HeadToHead) -> list[Row]:
    """The table's rows, always the same ones."""
    gap = found.gap
    return [
        _paired("self_exact_match", "Self EM", found.self_match),
        _paired("orig_exact_match", "Orig EM", found.orig_match),
        Row(
            "coupling_gap",
            "Coupling gap",
            "difference",
            None if gap is None else gap.a.estimate,
            None if gap is None else gap.b.estimate,
            None if gap is None else gap.interval,
            None if gap is None else gap.p,
        ),
        _paired("parse_failures", "Parse failures", found.parse_failures),
    ]


def _paired(key: str, label: str, change: PairedChange | None) -> Row:
    if change is None:
        return Row(key, label, "ratio", None, None, None, None)
    return Row(key, label, "ratio", change.before, change.after, change.interval(), change.p)


def p_text(p: float | None) -> str:
    """``0.003``; three decimals at most."""
    if p is None:
        return NOT_MEASURED
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def agreement_words(found: HeadToHead) -> str:
    """How often the two behave alike."""
    share = found.agreement
    return (
        f"A and B behave alike on {found.same_both} of {found.n} probes ({share.estimate:.0%}, 95% interval"
        f" {share.lower:.0%} to {share.upper:.0%}): on {found.same_included} with the cue, on {found.same_ablated}"
        " without it."
    )


def left_out_words(one: TaskComparison) -> str | None:
    """Which examples the comparison leaves out; None where there are none."""
    parts = [
        f"{count} {why}"
        for count, why in (
            (one.a_only, "that only A measured"),
            (one.b_only, "that only B measured"),
            (one.relabelled, "whose label, E(M0), is not the same in both"),
        )
        if count
    ]
    return f"Left out: {', '.join(parts)}." if parts else None


def sentences(one: TaskComparison) -> list[str]:
    """What stands under the verdict; safe text."""
    left_out = left_out_words(one)
    return [*one.telling.notes, agreement_words(one.found), *([left_out] if left_out else [])]


def side_words(run: RunRow, step: int, losses: MixedLosses | None) -> str:
    """``run 3, round at step 500, finished; mixed losses: explanation 0.41, KL 0.012``."""
    mixed = None if losses is None else loss_words([losses])
    words = f"run {run.id}, round at step {step}, {safe_text(run.status)}"
    return words if mixed is None else f"{words}; mixed losses: {mixed}"


def sides(
    comparison: Comparison, one: TaskComparison
) -> tuple[tuple[str, RunRow, int, MixedLosses | None], tuple[str, RunRow, int, MixedLosses | None]]:
    """A and B: letter, run, step of the round, mixed losses."""
    a = ("A", comparison.a, one.a_step, one.a_losses)
    return a, ("B", comparison.b, one.b_step, one.b_losses)


def to_markdown(comparison: Comparison) -> str:
    """The whole comparison, ending in a line break."""
    return "\n".join(_lines(comparison)) + "\n"


def _lines(comparison: Comparison) -> Iterator[str]:
    a, b = (markdown_code(run.name, _NAME) for run in (comparison.a, comparison.b))
    yield f"## Comparison of {a} and {b}"
    for one in comparison.tasks:
        yield ""
        yield f"### {markdown_code(one.task, _NAME)}"
        yield ""
        for name, run, step, losses in sides(comparison, one):
            shown = f"{markdown_code(run.name, _NAME)}, {markdown_code(run.model, _NAME)}"
            yield f"- {name}: {shown}, {markdown_text(side_words(run, step, losses))}"
        yield ""
        yield from markdown_table(["", *TITLES], [[row.label, *row.cells()] for row in rows(one.found)])
        yield ""
        yield f"**{markdown_text(one.telling.sentence)}** {markdown_text(' '.join(sentences(one)))}"


def to_json(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison, JSON-able; texts are as stored."""
    return {
        "a": _run(comparison.a),
        "b": _run(comparison.b),
        "tasks": [_task(one) for one in comparison.tasks],
    }


def _run(run: RunRow) -> dict[str, Any]:
    return {"run": run.name, "run_id": run.id, "uid": run.uid, "model": run.model, "status": run.status}


def _task(one: TaskComparison) -> dict[str, Any]:
    found = one.found
    return {
        "task": one.task,
        "a_step": one.a_step,
        "b_step": one.b_step,
        "n": found.n,
        "a_only": one.a_only,
        "b_only": one.b_only,
        "relabelled": one.relabelled,
        "verdict": {
            "kind": one.telling.kind,
            "sentence": one.telling.sentence,
            "notes": list(one.telling.notes),
            "smallest_seen": found.smallest_seen,
        },
        "losses": {
            "a": None if one.a_losses is None else losses_json(one.a_losses),
            "b": None if one.b_losses is None else losses_json(one.b_losses),
        },
        "rows": {row.key: _row(row) for row in rows(found)},
        "behavior_agreement": {
            name: _interval(wilson(count, found.n))
            for name, count in (
                ("both", found.same_both),
                ("included", found.same_included),
                ("ablated", found.same_ablated),
            )
        },
    }


def _row(row: Row) -> dict[str, float | None]:
    return {"a": row.a, "b": row.b, **_interval(row.change), "p": row.p}


def _interval(interval: Interval | None) -> dict[str, float | None]:
    if interval is None:
        return {"estimate": None, "lower": None, "upper": None}
    return {"estimate": interval.estimate, "lower": interval.lower, "upper": interval.upper}
