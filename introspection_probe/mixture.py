"""What a run is measured on and taught from: one probe set or several, each with its share of the mixed batch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePath
from typing import Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Probe
from introspection_probe.tasks import Task, get_task, task_names

Source = ProbeSet | str | Path
"""A probe set, its folder, or the name of a task."""

Sources = Source | Mapping[str | Path, float] | Sequence[Source | tuple[Source, float]]
"""One source; several of equal weight, or as pairs with their weights; or folders and task names with weights."""


@dataclass(frozen=True, slots=True)
class ToBuild:
    """A task whose probe set is to be built from the model itself, and the JSON-able options it was made with."""

    task: Task
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ingredient:
    """What a user named.

    Attributes:
        name: what people call it: the folder's name, or the task's.
        weight: its share of the mixed batch, relative to the others'.
    """

    name: str
    source: ProbeSet | ToBuild
    weight: float


def read_ingredients(
    probes: Sources, task_options: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[Ingredient, ...]:
    """What was named, with folders loaded and tasks made.

    Args:
        task_options: options of the tasks that were named, by task.

    Raises:
        IntrospectionError: nothing named, something that is no source, an impossible weight, options that the task does
            not take.
    """
    options = dict(task_options or {})
    ingredients = tuple(_ingredient(source, weight, options) for source, weight in _pairs(probes))
    if not ingredients:
        raise IntrospectionError("no probe set was named: give a probe set's folder or a task, or several of these")
    if not any(ingredient.weight for ingredient in ingredients):
        raise IntrospectionError(
            "every probe set has weight 0, so nothing would be mixed in: to measure only, set explanation_weight=0"
        )
    _check_tasks([(item.name, _tasks(item.source)) for item in ingredients])
    if options:
        raise IntrospectionError(
            f"task_options has options for {min(options)!r}, but no probe set of that task is to be built here: "
            "name the task instead of a probe set's folder, or leave them out"
        )
    return ingredients


def _pairs(probes: Sources) -> Iterator[tuple[Any, Any]]:
    if isinstance(probes, Mapping):
        yield from probes.items()
    elif isinstance(probes, ProbeSet | str | Path) or not isinstance(probes, Sequence):
        yield probes, 1.0
    else:
        for item in probes:
            yield item if isinstance(item, tuple) and len(item) == 2 else (item, 1.0)


def _ingredient(source: Any, weight: Any, options: dict[str, Mapping[str, Any]]) -> Ingredient:
    """One of them; takes the options that it uses out of ``options``."""
    if not isinstance(source, ProbeSet | str | Path):
        raise IntrospectionError(
            f"{source!r} is no probe set: give a ProbeSet, a probe set's folder, a task's name, a list of these, or a "
            "dict with their weights"
        )
    name = source.task if isinstance(source, ProbeSet) else str(source)
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not math.isfinite(weight) or weight < 0:
        raise IntrospectionError(f"the weight of {name!r} is {weight!r}; it must be a finite number of 0 or more")
    if isinstance(source, ProbeSet):
        return Ingredient(name, source, float(weight))
    if Path(source).exists():
        return Ingredient(Path(source).resolve().name, ProbeSet.load(source), float(weight))
    if name not in task_names():
        raise IntrospectionError(
            f"{name!r} is neither a probe set's folder nor a task ({', '.join(task_names())}): "
            "make one with `iprobe build`"
        )
    mine = options.pop(name, {})
    return Ingredient(name, ToBuild(get_task(name, **mine), _as_json(name, mine)), float(weight))


def _as_json(task: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as a manifest can hold them."""

    def text(value: object) -> str:
        if isinstance(value, PurePath):
            return str(value)
        raise TypeError(f"{value!r} is no JSON value")

    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(options), default=text))
    except (TypeError, ValueError) as error:
        raise IntrospectionError(
            f"task_options of {task!r} cannot be written into a probe set's manifest ({error}): "
            "use text, numbers, lists and dicts"
        ) from error
    return plain


@dataclass(frozen=True)
class Part:
    """A probe set of a run, with its name for people and its weight."""

    name: str
    probe_set: ProbeSet
    weight: float = 1.0

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of its examples."""
        return _tasks(self.probe_set)

    def measured(self, limit: int | None) -> tuple[Probe, ...]:
        """The probes that a round asks, at most ``limit``."""
        return self.probe_set.split("probe")[:limit]

    def taught(self) -> tuple[Probe, ...]:
        """The probes whose explanations are mixed in; none of a set of weight 0."""
        return self.probe_set.split("train") if self.weight else ()


@dataclass(frozen=True)
class Mixture:
    """The probe sets of a run, in the order in which they were named.

    Raises:
        IntrospectionError: two sets of one task, or with an example id in common.
    """

    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        _check_tasks([(part.name, part.tasks) for part in self.parts])
        for one, other in combinations(self.parts, 2):
            ids = {probe.example.id for probe in one.probe_set.probes}
            same = sorted(probe.example.id for probe in other.probe_set.probes if probe.example.id in ids)
            if same:
                raise IntrospectionError(
                    f"the probe sets {one.name!r} and {other.name!r} both have an example {same[0]!r} ({len(same)} in "
                    "all), and ids tell examples apart: give the rows of one of them other ids and build it again"
                )

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks."""
        return tuple(task for part in self.parts for task in part.tasks)

    @property
    def content_hash(self) -> str:
        """What the sets contain, whatever their order and their weights; of one set it is the set's own."""
        hashes = sorted(part.probe_set.content_hash for part in self.parts)
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()

    def measured(self, limit: int | None) -> tuple[Probe, ...]:
        """The probes that a round asks, at most ``limit`` of each set."""
        return tuple(probe for part in self.parts for probe in part.measured(limit))

    def check_supervision(self, label_set: str) -> None:
        """Refuse a label set that one of the probe sets does not have.

        Raises:
            IntrospectionError: which set has which.
        """
        for part in self.parts:
            known = part.probe_set.label_sets
            if label_set not in known:
                raise IntrospectionError(
                    f"supervision is {label_set!r}; the probe set {part.name!r} has the label sets {', '.join(known)}"
                )

    def facts(self) -> list[dict[str, Any]]:
        """What a history keeps of the sets, JSON-able."""
        return [
            {
                "name": part.name,
                "tasks": list(part.tasks),
                "content_hash": part.probe_set.content_hash,
                "weight": part.weight,
            }
            for part in self.parts
        ]


def _tasks(source: ProbeSet | ToBuild) -> tuple[str, ...]:
    if isinstance(source, ToBuild):
        return (source.task.name,)
    return tuple(dict.fromkeys(probe.example.task for probe in source.probes))


def _check_tasks(named: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Refuse two sets of one task, before one of them is built."""
    for (one, tasks), (other, others) in combinations(named, 2):
        both = set(tasks) & set(others)
        if both:
            raise IntrospectionError(
                f"the probe sets {one!r} and {other!r} are both of task {min(both)!r}, and scores and alarms are kept "
                "by task: give one of the two"
            )
