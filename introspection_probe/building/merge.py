"""Several probe sets of one task and one M0 joined to a new one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from introspection_probe.building.selection import identity_of, words_of
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.probe_set.signals import read_signal
from introspection_probe.records import Probe, Split


@dataclass(frozen=True, slots=True)
class MergeSummary:
    """What joining did.

    Attributes:
        duplicates: examples left out because an earlier set has them, cue included.
        moved: examples that changed sides, since an earlier set has their question on the other one.
        renamed: examples whose id an earlier set has for another example; they got ``~2`` and so on behind it.
        dropped_labels: label sets that not all of the sets have.
    """

    duplicates: int
    moved: int
    renamed: int
    dropped_labels: tuple[str, ...]


def merge_sets(sets: Sequence[ProbeSet], tokenizer: Any) -> tuple[ProbeSet, MergeSummary]:
    """All examples of the sets in their order, each once, each question on one side: that of the first set with it.

    Args:
        tokenizer: the one that the sets were built with.

    Raises:
        IntrospectionError: fewer than two sets, sets that do not go together, or another tokenizer.
    """
    if len(sets) < 2:
        raise IntrospectionError("one probe set alone cannot be joined: give two or more")
    first = sets[0]
    for number, other in enumerate(sets[1:], 2):
        _check_alike(first, other, number)
    for probe_set in sets:
        probe_set.check_tokenizer(tokenizer)
    common = set.intersection(*(set(probe_set.label_sets) for probe_set in sets))
    dropped = sorted({name for probe_set in sets for name in probe_set.label_sets} - common)
    seen: set[bytes] = set()
    ids: set[str] = set()
    taken = {probe.example.id for probe_set in sets for probe in probe_set.probes}
    groups: dict[bytes, str] = {}
    sides: dict[str, Split] = {}
    joined: list[Probe] = []
    duplicates = moved = renamed = 0
    for number, probe_set in enumerate(sets, 1):
        for probe in probe_set.probes:
            example = probe.example
            if (key := identity_of(example)) in seen:
                duplicates += 1
                continue
            seen.add(key)
            identity = example.id
            if identity in ids:
                # A set that was joined before may have this name already.
                free = (f"{example.id}~{suffix}" for suffix in count(number))
                identity = next(name for name in free if name not in taken)
                renamed += 1
            ids.add(identity)
            taken.add(identity)
            group = groups.setdefault(words_of(example.ablated), example.group)
            side = sides.setdefault(group, probe.split)
            moved += side != probe.split
            joined.append(
                replace(
                    probe,
                    example=replace(example, id=identity, group=group),
                    split=side,
                    labels={name: label for name, label in probe.labels.items() if name in common},
                )
            )
    summary = MergeSummary(duplicates, moved, renamed, tuple(dropped))
    signal = read_signal(first.style.name, [probe.example for probe in joined], [probe.behavior for probe in joined])
    merged = ProbeSet.from_probes(
        joined,
        task=first.task,
        task_options=first.manifest.task_options,
        model=first.manifest.model,
        model_fingerprint=first.manifest.model_fingerprint,
        style=first.style,
        tokenizer=tokenizer,
        seed=first.manifest.seed,
        build={
            "merged": [{"content_hash": s.content_hash, "seed": s.manifest.seed,
                        "task_options": dict(s.manifest.task_options)} for s in sets],
            "signal": asdict(signal),
            **asdict(summary),
        },
        judging=first.manifest.judging,
    )  # fmt: skip
    return merged, summary


def _check_alike(first: ProbeSet, other: ProbeSet, number: int) -> None:
    one, two = first.manifest, other.manifest
    for what, mine, theirs in (
        ("task", one.task, two.task),
        ("M0", one.model_fingerprint or one.model, two.model_fingerprint or two.model),
        ("prompt style", one.style.name, two.style.name),
        ("wording of the prompt style", one.style, two.style),
        ("chat template", one.template_hash[:12], two.template_hash[:12]),
        ("way of judging", one.judging, two.judging),
    ):
        if mine != theirs:
            raise IntrospectionError(
                f"the sets do not go together: the {what} of the first is {mine}, of set {number} it is {theirs}; "
                "build them from one model in one style"
            )
