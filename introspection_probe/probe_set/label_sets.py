"""Label sets made of others: mixtures of two models' labels, and labels with noise (arXiv:2606.32038, section 4.3).

Which examples get which label is drawn from the seed, on each side of the set apart and with exact shares. With one
seed the draws are nested: the examples that 20% noise touches are among those that 30% touches.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.draws import place
from introspection_probe.records import Explanation
from introspection_probe.tasks import explanations


def mixed_labels(probe_set: ProbeSet, shares: Mapping[str, float], seed: int) -> dict[str, Explanation]:
    """For each example the label of one of the label sets, by example id.

    All examples of a group take theirs from one set: two models may disagree on the answer without the cue, and a
    question with two cues would otherwise be taught two answers.

    Args:
        shares: of the groups, by label set; they add up to 1.

    Raises:
        IntrospectionError: an unknown label set, or shares that are none or do not add up to 1.
    """
    for name, share in shares.items():
        if name not in probe_set.label_sets:
            raise IntrospectionError(
                f"there is no label set {name!r} to mix: the probe set has {', '.join(probe_set.label_sets)}"
            )
        if not 0 <= share <= 1:
            raise IntrospectionError(f"the share of {name!r} is {share}: choose one from 0 to 1")
    total = sum(shares.values())
    if not math.isclose(total, 1, abs_tol=1e-6):
        raise IntrospectionError(f"the shares add up to {total:g}: they have to add up to 1, as in orig=0.5,llama=0.5")
    source: dict[str, str] = {}
    for side in ("train", "probe"):
        groups = sorted(
            {probe.example.group for probe in probe_set.probes if probe.split == side},
            key=lambda group: place("mix", seed, group),
        )
        upto, start = 0.0, 0
        for name, share in shares.items():
            upto += share
            end = round(upto * len(groups))
            source |= dict.fromkeys(groups[start:end], name)
            start = end
    return {probe.example.id: probe.labels[source[probe.example.group]] for probe in probe_set.probes}


def noisy_labels(probe_set: ProbeSet, rate: float, seed: int, base: str = "orig") -> dict[str, Explanation]:
    """The labels of a label set, a share of them replaced, by example id.

    A replaced label is another explanation over the example's answer set, each of the others equally likely.

    Args:
        rate: share of the examples of each side whose label is replaced.

    Raises:
        IntrospectionError: an unknown label set, or a rate that is none.
    """
    if base not in probe_set.label_sets:
        raise IntrospectionError(
            f"there is no label set {base!r} to put noise into: the probe set has {', '.join(probe_set.label_sets)}"
        )
    if not 0 <= rate <= 1:
        raise IntrospectionError(f"the noise is {rate}: choose a share from 0 to 1, such as 0.1")
    labels = {probe.example.id: probe.labels[base] for probe in probe_set.probes}
    for side in ("train", "probe"):
        probes = [probe for probe in probe_set.probes if probe.split == side]
        probes.sort(key=lambda probe: place("noise", seed, probe.example.id))
        for probe in probes[: round(rate * len(probes))]:
            identity = probe.example.id
            others = [e for e in explanations.candidates(probe.example.options) if e != labels[identity]]
            labels[identity] = random.Random(f"noise {seed} {identity}").choice(others)
    return labels
