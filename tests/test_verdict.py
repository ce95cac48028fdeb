"""The verdict says "coupled" of models that know what changed in them, and of no model that does not.

Every model here is simulated with a known way of explaining itself, over questions with four letters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from scored_examples import OPTIONS, make_round

from introspection_probe.records import Behavior, Explanation
from introspection_probe.scoring import RoundScores, judge, score_round

Explainer = Callable[[random.Random, Behavior, Behavior], Explanation | None]


def simulate(
    explain: Explainer,
    drift: Callable[[random.Random, Behavior], Behavior],
    *,
    n: int = 500,
    seed: int = 0,
    changed: float = 0.5,
    answers: tuple[int, ...] = (3, 3, 2, 2),
) -> RoundScores:
    """A round in which M0 answers at random, ``drift`` makes Mt of it, and ``explain`` is what Mt says."""
    rng = random.Random(seed)
    orig = []
    for _ in range(n):
        ablated = rng.choices(OPTIONS, answers)[0]
        other = rng.choice([option for option in OPTIONS if option != ablated])
        orig.append(Behavior(other if rng.random() < changed else ablated, ablated))
    now = [drift(rng, behavior) for behavior in orig]
    said = [explain(rng, old, current) for old, current in zip(orig, now, strict=True)]
    return score_round(*make_round(orig, now, said))


def anywhere(rng: random.Random, orig: Behavior) -> Behavior:
    """A quarter of the questions get new answers, in no direction."""
    return Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS)) if rng.random() < 0.25 else orig


def towards_changed_b(rng: random.Random, orig: Behavior) -> Behavior:
    """Nearly half of the questions drift to the one behaviour (C, B)."""
    return Behavior("C", "B") if rng.random() < 0.45 else orig


def towards_following(rng: random.Random, orig: Behavior) -> Behavior:
    """The hint wins more often: half of the unmoved answers now change."""
    if orig.included == orig.ablated and rng.random() < 0.5:
        return Behavior("C" if orig.ablated != "C" else "D", orig.ablated)
    return orig


def introspective(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """Right about itself 70% of the time, the old label 15%, a guess otherwise."""
    luck = rng.random()
    if luck < 0.7:
        return now.explanation
    return orig.explanation if luck < 0.85 else Explanation(rng.random() < 0.5, rng.choice(OPTIONS))


def constant(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """The same to every question."""
    return Explanation(True, "B")


def always_changed(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """Knows the question's answer, and says "would change" 99% of the time."""
    return Explanation(rng.random() < 0.99, now.ablated)


def memory_or_constant(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """The old label for 35% of the questions, the drift's direction for the rest, whatever the question."""
    return orig.explanation if rng.random() < 0.35 else Explanation(True, "B")


def memory_or_flag(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """The old content always; "changed" for most, whatever the question."""
    return Explanation(orig.explanation.changed or rng.random() < 0.7, orig.ablated)


def stale(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
    """The old label, nearly always."""
    return orig.explanation if rng.random() < 0.9 else now.explanation


def silent(rng: random.Random, orig: Behavior, now: Behavior) -> None:
    """Nothing that can be parsed."""


@pytest.mark.parametrize("drift", [anywhere, towards_changed_b, towards_following])
def test_a_model_that_knows_what_moved_is_coupled(drift):
    verdicts = [judge(simulate(introspective, drift, seed=seed)) for seed in range(20)]
    assert [v.kind for v in verdicts] == ["coupled"] * 20
    assert all(v.gap.lower > 0 for v in verdicts)


@pytest.mark.parametrize(
    ("explain", "drift"),
    [
        (constant, towards_changed_b),
        (memory_or_constant, towards_changed_b),
        (memory_or_flag, towards_following),
        (always_changed, anywhere),
    ],
)
def test_a_gap_that_drift_alone_produces_is_not_evidence(explain, drift):
    verdicts = [judge(simulate(explain, drift, seed=seed)) for seed in range(60)]
    # Each of these has a gap whose interval lies above 0 in most of the rounds: that is the trap.
    assert sum(v.gap.lower > 0 for v in verdicts) > 30
    assert sum(v.kind == "coupled" for v in verdicts) <= 4


def test_the_smollm2_run_is_caught():
    """Self 0.69, Orig 0.63, and "would change" 99% of the time: issue 01, item 8."""

    def drift(rng: random.Random, orig: Behavior) -> Behavior:
        return towards_following(rng, orig) if rng.random() < 0.3 else orig

    scores = simulate(always_changed, drift, n=1000, changed=0.63)
    assert scores.self_scores.exact_match == pytest.approx(0.69, abs=0.03)
    assert scores.orig_scores.exact_match == pytest.approx(0.63, abs=0.03)
    verdict = judge(scores)
    assert verdict.gap.lower > 0
    assert verdict.kind == "not_evidence"
    assert "not evidence of coupling" in verdict.headline
    assert f"{scores.self_scores.unchanged_f1:.2f}" in verdict.reason
    assert f"{100 * scores.predicted_changed_share:.0f}%" in verdict.reason
    assert f"Self {scores.self_scores.exact_match:.2f}" in verdict.reason


def test_doing_no_better_than_the_best_constant_is_named_as_such():
    """Both classes are told apart and the gap is large, but one sentence repeated would have scored as well."""

    def explain(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
        return now.explanation if rng.random() < 0.65 else Explanation(rng.random() < 0.5, rng.choice(OPTIONS))

    def drift(rng: random.Random, orig: Behavior) -> Behavior:
        return Behavior("A", "A") if rng.random() < 0.6 else orig

    scores = simulate(explain, drift, answers=(12, 1, 1, 1), changed=0.4)
    assert min(scores.self_scores.changed_f1, scores.self_scores.unchanged_f1) > 0.4
    verdict = judge(scores)
    assert verdict.gap.lower > 0
    assert verdict.kind == "not_evidence"
    assert "saying \"unchanged\" and 'A' every time" in verdict.reason


def test_explanations_of_the_old_model_are_coupling_lost():
    verdict = judge(simulate(stale, anywhere))
    assert verdict.kind == "coupling_lost"
    assert verdict.gap.upper < 0


def test_a_model_that_follows_neither_more_shows_no_gap():
    def torn(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
        return rng.choice([orig, now]).explanation

    verdict = judge(simulate(torn, anywhere))
    assert verdict.kind == "no_gap"
    assert "includes 0" in verdict.reason


def test_a_model_that_did_not_drift_leaves_nothing_to_tell_apart():
    verdict = judge(simulate(introspective, lambda rng, orig: orig))
    assert verdict.kind == "too_few_disagreements"
    assert "only 0 of 500" in verdict.reason


def test_few_examples_that_have_all_moved_are_not_called_a_model_that_stayed():
    orig = [Behavior("A", "B" if i % 2 else "A") for i in range(8)]
    now = [Behavior("C", "D" if i % 2 else "C") for i in range(8)]
    verdict = judge(score_round(*make_round(orig, now, [behavior.explanation for behavior in now])))
    assert verdict.kind == "too_few_disagreements"
    assert verdict.headline == "There are too few examples to tell anything apart."
    assert "on 8 of 8 examples" in verdict.reason


def test_a_model_that_says_nothing_parsable():
    verdict = judge(simulate(silent, anywhere))
    assert verdict.kind == "not_evidence"
    assert "None of its 500 answers" in verdict.reason
    assert not any("parsed" in note for note in verdict.notes), "said once"


def test_what_the_reason_says_no_note_repeats():
    for explain in (always_changed, constant):
        verdict = judge(simulate(explain, anywhere))
        assert "degenerate" in verdict.headline
        assert 'the model says "changed"' in verdict.reason
        assert not any('The model says "changed"' in note for note in verdict.notes)
    nearly = judge(simulate(lambda rng, _, now: Explanation(rng.random() < 0.96, now.ablated), anywhere, changed=0.95))
    repeated = [note for note in nearly.notes if 'The model says "changed"' in note]
    assert len(repeated) + nearly.reason.count('the model says "changed"') == 1


def test_an_empty_round_is_not_measured():
    verdict = judge(score_round([], []))
    assert (verdict.kind, verdict.gap) == ("not_measured", None)


def test_low_label_agreement_is_noted_with_its_number():
    def drift(rng: random.Random, orig: Behavior) -> Behavior:
        return Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS)) if rng.random() < 0.6 else orig

    scores = simulate(introspective, drift)
    assert scores.label_agreement < 0.7
    notes = judge(scores).notes
    assert any(f"{100 * scores.label_agreement:.0f}% of the supervision labels" in note for note in notes)
    assert not any("supervision labels" in note for note in judge(simulate(introspective, anywhere)).notes)


def test_a_probe_set_without_signal_is_noted():
    scores = simulate(introspective, anywhere, changed=0.0, n=60)
    dull = replace(scores, targets=simulate(introspective, lambda rng, orig: orig, changed=0.0, n=60).targets)
    assert any("holds little to learn" in note for note in judge(dull).notes)


def test_many_parse_failures_are_noted():
    def mumbling(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation | None:
        return introspective(rng, orig, now) if rng.random() < 0.8 else None

    scores = simulate(mumbling, anywhere)
    assert any(f"{scores.parse_failures} of 500 answers" in note for note in judge(scores).notes)


def test_percentages_near_the_ends_are_not_rounded_to_all_or_none():
    def explain(rng: random.Random, orig: Behavior, now: Behavior) -> Explanation:
        return Explanation(rng.random() < 0.997, now.ablated)

    scores = simulate(explain, anywhere, n=1000)
    assert 0.99 < scores.predicted_changed_share < 1
    assert "100%" not in judge(scores).reason
