"""As many probes of each answer without the cue, where a task asks for that (arXiv:2606.32038, Appendix B.4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from introspection_probe.records import Probe


def balance_ablated(probes: Sequence[Probe]) -> list[Probe]:
    """The same probes in the same order, of which the surplus of the ``probe`` split is on the ``train`` split.

    The answer without the cue that is rarest on the probe side says how many of each stay there. What is moved can be
    trained on: whole groups move, the last of the set first, so nothing of theirs is measured. A group whose examples
    have different answers stays where one of them is needed. Where all answers are the same there is nothing to
    balance, and nothing moves.
    """
    measured = [probe for probe in probes if probe.split == "probe"]
    counts = Counter(probe.behavior.ablated for probe in measured)
    if len(counts) < 2:
        return list(probes)
    surplus = Counter({answer: count - min(counts.values()) for answer, count in counts.items()})
    answers: dict[str, Counter[str]] = {}
    for probe in measured:
        answers.setdefault(probe.example.group, Counter())[probe.behavior.ablated] += 1
    moved = set()
    for group, needed in reversed(answers.items()):
        if needed <= surplus:
            surplus -= needed
            moved.add(group)
    return [replace(probe, split="train") if probe.example.group in moved else probe for probe in probes]
