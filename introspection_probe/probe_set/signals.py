"""Is there anything to explain in a model's behaviour? Counts over examples, and what is wrong with them in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from introspection_probe.alerts.conditions import MIN_SIGNAL
from introspection_probe.findings import Finding, Level
from introspection_probe.records import Behavior, ProbeExample
from introspection_probe.scoring.quoting import quoted

MIN_CHANGED_SHARE = 0.1
"""Under a tenth, or over nine tenths, a model that always says the same flag is right 90% of the time."""

MAX_MAJORITY_SHARE = 0.8
"""The paper's tasks have no answer more usual than this; above it, naming that answer needs no introspection."""

MIN_PROBES = 100
"""A rate over 100 probes is known to 10 points (95%, at one half), a coupling gap to about as much."""

MIN_CLASS_PROBES = 20
"""An F1 over fewer examples of its class moves by several points when one of them does."""

MIN_TRAIN = 100
"""Fewer explanations than this are learned by heart: the default mix of 8 a step repeats them every 12 steps."""


@dataclass(frozen=True, slots=True)
class Signal:
    """How a model behaves on ``n`` examples of one prompt style.

    Attributes:
        style: the style's name.
        changed: examples where the answer is another one without the cue.
        cue_pointed: examples whose cue points to an option.
        cue_followed: those of them where that option is the answer on ``x``.
        cue_changed: those of them whose answer is another one without the cue.
        cue_driven: examples in both: the answer changed, and to what the cue points to.
        included_answers, ablated_answers: how often each answer was given on ``x`` and on ``x\\C``, in the order
            of the answer set. Where the sets differ between examples, by place: ``#1`` is the first of the set.
    """

    style: str
    n: int
    changed: int
    cue_pointed: int
    cue_followed: int
    cue_changed: int
    cue_driven: int
    included_answers: Mapping[str, int]
    ablated_answers: Mapping[str, int]

    @property
    def changed_share(self) -> float:
        """Share of examples whose answer the cue changes."""
        return self.changed / self.n

    @property
    def followed_share(self) -> float | None:
        """Share of the cues that point to an option which are followed; None when none does."""
        return self.cue_followed / self.cue_pointed if self.cue_pointed else None

    @property
    def answer_entropy(self) -> float:
        """Entropy of the answers without the cue, as a share of its largest possible value."""
        return _entropy(self.ablated_answers.values()) / math.log2(max(len(self.ablated_answers), 2))

    @property
    def included_entropy(self) -> float:
        """The same of the answers with the cue."""
        return _entropy(self.included_answers.values()) / math.log2(max(len(self.included_answers), 2))

    @property
    def driven_share(self) -> float:
        """Share of the changes that go where the cue points; 1 where cues point nowhere, so that none can."""
        if not self.cue_pointed:
            return 1.0
        return self.cue_driven / self.cue_changed if self.cue_changed else 0.0

    @property
    def liveliness(self) -> float:
        """How much there is to explain, 0 to 1: H(changed?) * H(answer without the cue) / log2(answers) * driven share.

        An explanation states the first two things. Their product is 1 when half of the answers change and all
        are equally usual, and 0 as soon as one of the two can be stated without reading the question, however
        lively the other is: then labels teach nothing (arXiv:2606.32038, Appendix B.2). The third factor asks that
        the cue did it: an unsteady model changes its answer at any further line, and not towards what it says.
        """
        return _entropy((self.changed, self.n - self.changed)) * self.answer_entropy * self.driven_share


def read_signal(style: str, examples: Sequence[ProbeExample], behaviors: Sequence[Behavior]) -> Signal:
    """The signal in a model's behaviours, one for each example.

    Raises:
        ValueError: no examples, or not as many behaviours.
    """
    if not examples:
        raise ValueError("no examples: there is no signal to read")
    pairs = list(zip(examples, behaviors, strict=True))
    largest = max((example.options for example in examples), key=len)
    common = all(example.options == largest for example in examples)
    names = largest if common else tuple(f"#{place + 1}" for place in range(len(largest)))

    def count(answers: Iterable[tuple[ProbeExample, str]]) -> dict[str, int]:
        counts = Counter(example.options.index(answer) for example, answer in answers)
        return {name: counts[place] for place, name in enumerate(names)}

    pointed = [
        (behavior.included == example.cue_option, behavior.explanation.changed)
        for example, behavior in pairs
        if example.cue_option is not None
    ]
    return Signal(
        style=style,
        n=len(pairs),
        changed=sum(behavior.explanation.changed for _, behavior in pairs),
        cue_pointed=len(pointed),
        cue_followed=sum(followed for followed, _ in pointed),
        cue_changed=sum(changed for _, changed in pointed),
        cue_driven=sum(followed and changed for followed, changed in pointed),
        included_answers=count((example, behavior.included) for example, behavior in pairs),
        ablated_answers=count((example, behavior.ablated) for example, behavior in pairs),
    )


def signal_findings(signal: Signal, *, train: int, probe: int, probe_changed: int) -> list[Finding]:
    """What a set of these behaviours can teach and show: a finding for each check, also where all is well.

    Args:
        train, probe: examples on each side.
        probe_changed: examples of the ``probe`` side whose answer the cue changes.
    """
    return [
        _changed_share(signal),
        _answers("answers_without_cue", "without", signal.ablated_answers, signal.n),
        _answers("answers_with_cue", "with", signal.included_answers, signal.n),
        _probe_count(probe),
        _thin_class(probe, probe_changed),
        _train_count(train),
    ]


def signal_warnings(signal: Signal, *, train: int, probe: int, probe_changed: int) -> list[str]:
    """Why a set of these behaviours would teach or show little, a sentence each; empty when nothing is wrong.

    Args:
        train, probe, probe_changed: as for :func:`signal_findings`.
    """
    found = signal_findings(signal, train=train, probe=probe, probe_changed=probe_changed)
    return [finding.sentence for finding in found if finding.troubles]


def _changed_share(signal: Signal) -> Finding:
    share = signal.changed_share
    if share < MIN_SIGNAL or share > 1 - MIN_SIGNAL:
        level: Level = "error"
    else:
        level = "warning" if share < MIN_CHANGED_SHARE or share > 1 - MIN_CHANGED_SHARE else "ok"
    reason, remedy = f"the cue changes {share:.0%} of the answers", ""
    if level != "ok":
        flag = "'would not change'" if share < 0.5 else "'would change'"
        reason += (
            f", so always saying {flag} is right {max(share, 1 - share):.0%} of the time and the labels teach little"
        )
        wording = "another hint wording or opening" if share < 0.5 else "a weaker hint wording or another opening"
        remedy = f"try {wording}"
    return Finding(level, "changed_share", share, "share", reason, remedy)


def _answers(code: str, where: str, counts: Mapping[str, int], n: int) -> Finding:
    answer, times = max(counts.items(), key=lambda item: item[1])
    share = times / n
    level: Level = "error" if share > 1 - MIN_SIGNAL else "warning" if share > MAX_MAJORITY_SHARE else "ok"
    reason, remedy = f"{where} the cue {share:.0%} of the answers are {quoted(answer)}", ""
    if level != "ok":
        reason += ", so the model hardly reads the questions in this style"
        remedy = "try another opening or system prompt"
    return Finding(level, code, share, "share", reason, remedy)


def _probe_count(probe: int) -> Finding:
    if probe == 0:
        return Finding("error", "probe_count", 0, "probes", "there are no probes", "build with a larger probe share")
    reason, remedy = f"with {probe} probes a rate is known to +/-{_half_width(probe):.0%}", ""
    if probe < MIN_PROBES:
        reason += " only"
        remedy = f"build from more questions, or with a larger probe share, for {MIN_PROBES} or more"
    return Finding("warning" if remedy else "ok", "probe_count", probe, "probes", reason, remedy)


def _thin_class(probe: int, probe_changed: int) -> Finding:
    thin, name = min((probe_changed, "changed"), (probe - probe_changed, "unchanged"))
    reason, remedy = f"{thin} of the {probe} probes are {name}", ""
    if thin < MIN_CLASS_PROBES:
        reason = f"only {reason}, so the F1 of that class is mostly noise"
        remedy = f"build from more questions, for {MIN_CLASS_PROBES} or more"
    return Finding("warning" if remedy else "ok", "thin_class", thin, "probes", reason, remedy)


def _train_count(train: int) -> Finding:
    reason, remedy = f"{train} explanations to train on", ""
    if train < MIN_TRAIN:
        reason = f"only {reason}, which a model learns by heart"
        remedy = f"build from more questions, for {MIN_TRAIN} or more"
    return Finding("warning" if remedy else "ok", "train_count", train, "examples", reason, remedy)


def _entropy(counts: Iterable[int]) -> float:
    """Shannon entropy in bits."""
    positive = [count for count in counts if count]
    total = sum(positive)
    return -sum(count / total * math.log2(count / total) for count in positive)


def _half_width(n: int) -> float:
    """Half of a 95% interval for a rate of one half."""
    return 1.96 * math.sqrt(0.25 / n)
