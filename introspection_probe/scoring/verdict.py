"""What a round's coupling gap means, in one plain sentence, and whether it may be believed.

A gap Self EM - Orig EM above 0 looks like introspection, yet behaviour that merely drifts towards what the
model says anyway produces one too (Appendix B.2). So a gap is called evidence only when four things hold
together: its interval lies above 0, both classes are told apart (F1 well away from 0), Self beats the best
constant explanation on the same examples, and the explanation leaves the old label where the behaviour did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.intervals import Interval, newcombe, paired_difference
from introspection_probe.scoring.quoting import quoted

VerdictKind = Literal["coupled", "no_gap", "coupling_lost", "not_evidence", "too_few_disagreements", "not_measured"]

# "Well away from 0": where 30% of the examples are unchanged, a model that says "changed" 99% of the time
# reaches 0.07 on the other class at the very best, and 0.29 when it says so 95% of the time.
MIN_F1 = 0.2
# With fewer, not even a unanimous vote of those that can be resolved bears an interval.
MIN_DISAGREEMENTS = 10
# Above this share of examples whose explanation changed, a model does not behave as it did.
MOVED = 0.2
# The paper: both scores collapse when fewer labels agree with the current behaviour.
MIN_LABEL_AGREEMENT = 0.7
# From here on "nearly all" predictions, or all true explanations, are of one class.
NEARLY_ALL = 0.95
MAX_PARSE_FAILURES = 0.1
# The same confidence as the intervals', one side of it: blind departures exceed this in 2.5% of rounds.
MIN_DEPARTURE_Z = 1.96


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement of one round.

    Attributes:
        kind: stable, for programs. ``not_evidence``: whatever the gap, such explanations show no coupling.
        headline: one short sentence, no numbers.
        reason: one or two sentences with the numbers.
        notes: further sentences worth a reader's attention, most important first; may be empty.
        gap: the coupling gap with its 95% interval; None when nothing was measured.
    """

    kind: VerdictKind
    headline: str
    reason: str
    notes: tuple[str, ...] = ()
    gap: Interval | None = None


def judge(scores: RoundScores) -> Verdict:
    """What the round says about the coupling of explanations and behaviour."""
    gap = paired_difference(scores.paired)
    if gap is None:
        return Verdict("not_measured", "Nothing was measured.", "The round holds no example of this task.")
    notes = _notes(scores)
    if scores.parse_failures == scores.n:
        return Verdict(
            "not_evidence",
            "The model does not explain itself yet.",
            f"None of its {scores.n} answers to the meta-question is an explanation that can be parsed.",
            notes,
            gap,
        )
    spread = (
        f"Self {_share(scores.self_scores.exact_match)}, Orig {_share(scores.orig_scores.exact_match)},"
        f" gap {_signed(gap)}"
    )
    paired = scores.paired
    degenerate = _degenerate(scores)
    if degenerate:
        one_sided = _one_sided(scores)
        return Verdict(
            "not_evidence",
            "The gap is not evidence of coupling: the explanations are degenerate.",
            f"{degenerate} ({spread}).",
            tuple(note for note in notes if note != one_sided),  # the reason is just that
            gap,
        )
    if scores.disagreements < MIN_DISAGREEMENTS:
        if scores.disagreements > MOVED * scores.n:
            return Verdict(
                "too_few_disagreements",
                "There are too few examples to tell anything apart.",
                f"Its true explanation differs from M0's on {scores.disagreements} of {scores.n} examples, and fewer"
                f" than {MIN_DISAGREEMENTS} bear no verdict ({spread}).",
                notes,
                gap,
            )
        return Verdict(
            "too_few_disagreements",
            "There is nothing to tell apart: the model still behaves as it did at the start.",
            f"Its true explanation differs from M0's on only {scores.disagreements} of {scores.n} examples,"
            f" and the whole gap comes from those ({spread}).",
            notes,
            gap,
        )
    if gap.upper < 0:
        return Verdict(
            "coupling_lost",
            "Coupling is lost: the explanations describe the model as it was, not as it is.",
            f"{spread}: on the {scores.disagreements} examples whose explanation changed since M0,"
            f" {paired.self_only} predictions fit the current model and {paired.orig_only} the old one.",
            notes,
            gap,
        )
    if gap.lower <= 0:
        return Verdict(
            "no_gap",
            "No coupling gap: the explanations fit the current model no better than the old one.",
            f"{spread}, an interval that includes 0 ({scores.disagreements} examples to tell them apart).",
            notes,
            gap,
        )
    spurious = _spurious(scores)
    if spurious:
        return Verdict(
            "not_evidence",
            "The gap is not evidence of coupling: a drift of behaviour alone would produce it.",
            f"{spurious} ({spread}).",
            notes,
            gap,
        )
    return Verdict(
        "coupled",
        "The explanations follow the model: they fit its behaviour now better than the labels of its start.",
        f"{spread}; {paired.self_only} of the {paired.self_only + paired.orig_only} resolved disagreements"
        " went to the current model,"
        f" and the best constant explanation reaches {_share(scores.self_scores.constant_match)}.",
        notes,
        gap,
    )


def _degenerate(scores: RoundScores) -> str | None:
    """Why the is-changed answers tell nothing, or None when they do."""
    for word, f1 in (
        ("unchanged", scores.self_scores.unchanged_f1),
        ("changed", scores.self_scores.changed_f1),
    ):
        if f1 is None:
            return f'"{word}" neither occurs nor is predicted, so telling the classes apart cannot be shown'
        if f1 < MIN_F1:
            share = scores.predicted_changed_share
            assert share is not None  # some prediction was parsed
            side, of_side = ("changed", share) if share >= 0.5 else ("unchanged", 1 - share)
            return (
                f'The F1 of "{word}" is {f1:.2f}, near 0: the model says "{side}" in {_percent(of_side)} of'
                f" its answers, while that is true of {_percent(_true_share(scores, side))}"
            )
    return None


def _spurious(scores: RoundScores) -> str | None:
    """Why a gap above 0 may be a drift of behaviour alone, or None when it cannot."""
    own = scores.self_scores
    lead = newcombe(
        own.constant_hits,
        own.exact_matches - own.constant_hits,
        own.constant_matches - own.constant_hits,
        own.n - own.exact_matches - own.constant_matches + own.constant_hits,
    )
    if lead is None or own.constant is None or lead.lower <= 0:
        flag = "changed" if own.constant is not None and own.constant.changed else "unchanged"
        content = "" if own.constant is None else quoted(own.constant.content)
        return (
            f"Self EM {_share(own.exact_match)} is not clearly above the {_share(own.constant_match)} that"
            f' saying "{flag}" and {content} every time would reach on the same examples'
        )
    table = scores.departures
    if table is not None and (table.z is None or table.z < MIN_DEPARTURE_Z):
        return (
            f"The explanation leaves the old label on {table.moved_departed} of the"
            f" {table.moved_departed + table.moved_kept} examples that moved, and leaving it as often on every"
            f" example of the same old label would give {table.expected:.0f}: it does not know which ones moved"
        )
    return None


def _notes(scores: RoundScores) -> tuple[str, ...]:
    notes = []
    one_sided = _one_sided(scores)
    if one_sided is not None:
        notes.append(one_sided)
    true = scores.behavior_changed_share
    if true is not None and not 1 - NEARLY_ALL < true < NEARLY_ALL:
        word, share = ("changes", true) if true >= 0.5 else ("does not change", 1 - true)
        notes.append(
            f"The cue {word} the answer in {_percent(share)} of the examples:"
            " such a set holds little to learn or measure."
        )
    agreement = scores.label_agreement
    if agreement is not None and agreement < MIN_LABEL_AGREEMENT:
        notes.append(
            f"Only {_percent(agreement)} of the supervision labels still fit the current behaviour; below"
            f" {_percent(MIN_LABEL_AGREEMENT)} both scores are known to collapse."
        )
    failures = scores.parse_failures
    # Where all of them failed the reason says so.
    if MAX_PARSE_FAILURES * scores.n < failures < scores.n:
        notes.append(f"{failures} of {scores.n} answers to the meta-question could not be parsed.")
    return tuple(notes)


def _one_sided(scores: RoundScores) -> str | None:
    """That nearly all explanations are of one class, if they are."""
    said = scores.predicted_changed_share
    if said is None or 1 - NEARLY_ALL < said < NEARLY_ALL:
        return None
    word, share = ("changed", said) if said >= 0.5 else ("unchanged", 1 - said)
    return (
        f'The model says "{word}" in {_percent(share)} of its answers;'
        f" that is true of {_percent(_true_share(scores, word))}."
    )


def _true_share(scores: RoundScores, word: str) -> float:
    share = scores.behavior_changed / scores.n
    return share if word in ("changed", "changes") else 1 - share


def _share(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f}"


def _percent(value: float) -> str:
    # 99.6% must not be called all of them, nor 0.4% none.
    if 0 < value < 0.01 or 0.99 < value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def _signed(interval: Interval) -> str:
    return f"{interval.estimate:+.2f} (95% interval {interval.lower:+.2f} to {interval.upper:+.2f})"
