"""What a probe set says by itself: M0's behaviour, its labels, its two sides. No torch, no tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

from introspection_probe.alerts.conditions import HARDLY_EVER, AlertConfig
from introspection_probe.doctor.power import CHANCE, CHURN, alarm_power, interval_power, probes_needed, smallest_seen
from introspection_probe.findings import Finding, Level
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.signals import (
    MAX_MAJORITY_SHARE,
    MIN_CHANGED_SHARE,
    MIN_CLASS_PROBES,
    read_signal,
    signal_findings,
)
from introspection_probe.probe_set.similar import near_same
from introspection_probe.records import Probe, ProbeExample
from introspection_probe.scoring.intervals import wilson
from introspection_probe.scoring.quoting import quoted
from introspection_probe.scoring.verdict import MIN_LABEL_AGREEMENT

MIN_ENTROPY = 0.3
"""Of the answers' largest entropy. Two answers of ten have it, or two of four at nine to one."""

MAX_LEAKED = 0.1
"""Share of probes with their question on the train side from which held-out scores are no such thing."""

_DIRECTIONS = 6
"""Of more answers than this, changes towards each are too few to be counted apart."""


def behavior_findings(probe_set: ProbeSet) -> list[Finding]:
    """Whether there is anything to explain, and what somebody scores who knows nothing."""
    probes = probe_set.split("probe")
    signal = read_signal(
        probe_set.style.name, [p.example for p in probe_set.probes], [p.behavior for p in probe_set.probes]
    )
    changed = sum(probe.behavior.explanation.changed for probe in probes)
    counts = {"train": len(probe_set.split("train")), "probe": len(probes)}
    return [
        *signal_findings(signal, **counts, probe_changed=changed),
        _majority_label(probes),
        *_constant_f1(changed, len(probes)),
        _entropy("entropy_without_cue", "without", signal.answer_entropy),
        _entropy("entropy_with_cue", "with", signal.included_entropy),
        *_thin_direction(probes),
    ]


def _majority_label(probes: Sequence[Probe]) -> Finding:
    (label, times), *_ = Counter(probe.behavior.explanation for probe in probes).most_common(1)
    share = times / len(probes)
    verb = "would change to" if label.changed else "would not change from"
    reason, remedy = f"{share:.0%} of the probes say that the answer {verb} {quoted(label.content)}", ""
    if share > MAX_MAJORITY_SHARE:
        reason += ", and whoever always says so is right there"
        remedy = "try another prompt style, or balance the set"
    return Finding("warning" if remedy else "ok", "majority_label", share, "share", reason, remedy)


def _constant_f1(changed: int, n: int) -> list[Finding]:
    """F1 = 2p / (p + 1) of a class for whoever always says it, where p is its share."""
    found = []
    for name, count in (("changed", changed), ("unchanged", n - changed)):
        f1 = 2 * count / (count + n)
        reason, remedy = f"always saying '{name}' has an F1 of {f1:.2f}", ""
        level: Level = "ok"
        if count > (1 - MIN_CHANGED_SHARE) * n:
            # changed_share warns of it already: this is what it does to the score.
            level, reason = "note", f"{reason}, which leaves no room above it"
            remedy = "read the F1 of the other class"
        found.append(Finding(level, f"constant_f1_{name}", f1, "F1", reason, remedy))
    return found


def _entropy(code: str, where: str, entropy: float) -> Finding:
    reason, remedy = f"{where} the cue the answers have {entropy:.0%} of the largest entropy", ""
    if entropy < MIN_ENTROPY:
        reason += ", so they are hardly about the questions"
        remedy = "try another opening or system prompt"
    # The share of the majority answer is what warns: this says the same of answers that few or many share.
    return Finding("note" if remedy else "ok", code, entropy, "share", reason, remedy)


def _thin_direction(probes: Sequence[Probe]) -> list[Finding]:
    """The rarest of the labels, where all examples have the same few answers: a direction that hardly ever occurs."""
    options = probes[0].example.options
    if len(options) > _DIRECTIONS or any(probe.example.options != options for probe in probes):
        return []
    counts = Counter(probe.behavior.explanation for probe in probes)
    by_class = Counter(probe.behavior.explanation.changed for probe in probes)
    thinnest = None
    for changed, total in by_class.items():
        for option in options:
            count = sum(times for label, times in counts.items() if (label.changed, label.content) == (changed, option))
            share = count / total * len(options)
            if thinnest is None or share < thinnest[0]:
                thinnest = (share, count, changed, option)
    assert thinnest is not None
    share, count, changed, option = thinnest
    name = f"{'changes to' if changed else 'stays'} {quoted(option)}"
    reason, remedy = f"in {count} of the {len(probes)} probes the answer {name}, the rarest label", ""
    if share < HARDLY_EVER and count < MIN_CLASS_PROBES:
        reason = f"{reason}, so nothing is taught or measured in that direction"
        remedy = "add cues that push that way, or build from more questions"
    return [Finding("warning" if remedy else "ok", "thin_direction", count, "probes", reason, remedy)]


def label_findings(probe_set: ProbeSet, supervision: str) -> list[Finding]:
    """How far labels from elsewhere than M0 fit what M0 did; those that are trained on are judged.

    Args:
        supervision: name of the label set that is trained on.
    """
    if supervision not in probe_set.label_sets:
        names = ", ".join(probe_set.label_sets)
        reason = f"supervision is {quoted(supervision)}, and the probe set has the label sets {names}"
        return [Finding("error", "supervision", supervision, "", reason, "name one of these, or build it")]
    found = []
    for name in probe_set.label_sets:
        if name != "orig":
            matches = sum(probe.labels[name] == probe.behavior.explanation for probe in probe_set.probes)
            found.append(agreement_finding(name, matches, len(probe_set.probes), "M0", used=name == supervision))
    return found


def agreement_finding(name: str, matches: int, n: int, whom: str, *, used: bool) -> Finding:
    """Whether a label set describes a model; an error only where it is used, and too low beyond chance."""
    share, interval = matches / n, wilson(matches, n)
    assert interval is not None
    reason = f"{share:.0%} of the labels {quoted(name)} are true of {whom} ({matches} of {n})"
    code = f"label_agreement_{name}"
    if share >= MIN_LABEL_AGREEMENT:
        return Finding("ok", code, share, "share", reason)
    level: Level = "note" if not used else "error" if interval.upper < MIN_LABEL_AGREEMENT else "warning"
    reason += f", and under {MIN_LABEL_AGREEMENT:.0%} both scores collapse in the paper"
    return Finding(
        level, code, share, "share", reason, "use labels of a model closer to it, such as 'orig' of its own set"
    )


def leak_finding(probe_set: ProbeSet) -> Finding:
    """Whether questions that are measured are taught as well, word for word or nearly."""
    sides: dict[str, dict[str, ProbeExample]] = {"probe": {}, "train": {}}
    for probe in probe_set.probes:
        sides[probe.split].setdefault(_question(probe), probe.example)
    taught, held_out = list(sides["train"]), list(sides["probe"])
    matches = {held_out[match.left]: match for match in near_same(held_out, taught)}
    leaked = [probe for probe in probe_set.split("probe") if _question(probe) in matches]
    n = len(probe_set.split("probe"))
    if not leaked:
        return Finding("ok", "leakage", 0.0, "share", f"none of the {n} probes has its question on the train side")
    share = len(leaked) / n
    first = matches[_question(leaked[0])]
    word = "same" if first.similarity == 1 else "near-same"
    reason = (
        f"{len(leaked)} of the {n} probes have the same or a near-same question on the train side (such as"
        f" {quoted(leaked[0].example.id)}, {word} as {quoted(sides['train'][taught[first.right]].id)}), so what was"
        " learned by heart counts as introspection"
    )
    remedy = "build the set without repeated questions, or give them one group"
    return Finding("error" if share >= MAX_LEAKED else "warning", "leakage", share, "share", reason, remedy)


def _question(probe: Probe) -> str:
    return "\n".join(message["content"] for message in probe.example.ablated)


def power_findings(
    n: int, *, effect: float, looks: int, config: AlertConfig | None = None, wanted: bool = True
) -> list[Finding]:
    """What ``n`` probes can show.

    Args:
        effect: the fall of Self EM that one wants to see, as a share.
        looks: the round after the baseline at which the alarm is asked about.
        wanted: whether somebody named the effect: too few probes for it are a warning then, else a note.
    """
    config = config or AlertConfig()
    assumed = f"{CHANCE:.0%} chance, {CHURN:.0%} of the explanations flip either way by themselves"
    found = []
    seen, needed = smallest_seen(n, interval_power), probes_needed(effect, interval_power)
    enough = interval_power(n, effect) >= CHANCE
    reason = (
        f"with {n} probes no change of Self EM will be seen"
        if seen is None
        else f"with {n} probes a change of Self EM under {_points(seen)} will not be seen between two rounds (95%"
        f" paired interval, {assumed})"
    )
    remedy = "" if enough else _build(needed, effect)
    level: Level = "ok" if enough else "warning" if wanted else "note"
    found.append(Finding(level, "power_interval", *_in_points(seen), reason, remedy))

    power = partial(alarm_power, look=looks, config=config)
    seen = smallest_seen(n, power)
    enough = power(n, effect) >= CHANCE
    reason = (
        f"no fall of Self EM is large enough to raise the alarm explanations_drifted with {n} probes"
        if seen is None
        else f"the alarm explanations_drifted needs a fall of {_points(seen)} to be raised at round {looks}"
        f" (at most {config.alpha:.1%} false alarms in a whole run; {assumed})"
    )
    remedy = ""
    if not enough and effect <= config.min_effect:
        remedy = f"lower alert_min_effect, {config.min_effect:.0%}, under the effect you want to see"
    elif not enough:
        remedy = f"{_build(probes_needed(effect, power), effect)}; a fall that lasts gets another chance each round"
    found.append(Finding("ok" if enough else "note", "power_alarm", *_in_points(seen), reason, remedy))
    return found


def _build(needed: int | None, effect: float) -> str:
    return (
        f"look for more than {_points(effect)}"
        if needed is None
        else f"build {needed:,} probes to see {_points(effect)}"
    )


def _in_points(share: float | None) -> tuple[float | str, str]:
    return ("none", "") if share is None else (round(100 * share, 1), "points")


def _points(share: float) -> str:
    return f"{100 * share:.2g} points" if share < 0.1 else f"{100 * share:.0f} points"
