"""One probe set built by several processes: each asks its share, and the shares are joined to the set that one gives.

    probes/hint-mmlu-3/          from `iprobe build ... --shard 3/8 --out probes/hint-mmlu-3`
        shard.json               the plan, which share it is, and what every process found alike
        examples.parquet         the questions of this share with the answers, as in a probe set

Shares are dealt out by batches, so that every question is asked in the company in which one process would ask it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from introspection_probe.building.asking import Asked
from introspection_probe.building.make_set import BuildSummary, make_set
from introspection_probe.building.plan import BuildPlan, Found, Measured, brief
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set import EXAMPLES, SHARD, ProbeSet
from introspection_probe.probe_set.folders import new_folder
from introspection_probe.probe_set.rows import from_row, read_rows, to_row, write_rows
from introspection_probe.probe_set.signals import Signal
from introspection_probe.records import Probe
from introspection_probe.tasks.base import PromptStyle

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """One process's share.

    Attributes:
        index, count: which, from 0, of how many.
    """

    plan: BuildPlan
    measured: Measured
    index: int
    count: int


def parse_shard(text: str) -> tuple[int, int]:
    """``"3/8"``, the third of eight, as ``(2, 8)``.

    Raises:
        IntrospectionError: not I/N with I from 1 to N.
    """
    index, slash, count = text.partition("/")
    if not slash or not (index.isascii() and index.isdigit() and count.isascii() and count.isdigit()):
        raise IntrospectionError(f"the shard {text!r} is not I/N: the third of eight is 3/8")
    if not 1 <= int(index) <= int(count):
        raise IntrospectionError(f"there is no shard {text}: I goes from 1 to N")
    return int(index) - 1, int(count)


def save_shard(shard: Shard, folder: Path) -> None:
    """Write it, wholly or not at all.

    Raises:
        IntrospectionError: the folder is there already, or cannot be written.
    """
    content = {
        "format_version": _FORMAT,
        "shard": [shard.index, shard.count],
        "plan": shard.plan.as_json(),
        "found": asdict(shard.measured.found),
        "numbers": [number for number, _ in shard.measured.asked],
        "unjudged": shard.measured.unjudged,
        "seconds": shard.measured.seconds,
    }
    rows = [
        # The sides are not known before all shares are there.
        to_row(Probe(item.example, item.rendered, "train", item.behavior, {}, item.responses))
        for _, item in shard.measured.asked
    ]
    with new_folder(folder) as scratch:
        write_rows(scratch / EXAMPLES, rows)
        (scratch / SHARD).write_text(json.dumps(content, indent=2) + "\n", encoding="ascii")


def load_shard(folder: Path) -> Shard:
    """Read it.

    Raises:
        IntrospectionError: missing, unreadable, or of a newer format.
    """
    path = folder / SHARD
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        if content["format_version"] > _FORMAT:
            raise IntrospectionError(f"{path} was written by a newer program: upgrade introspection-probe")
        probes = [from_row(row) for row in read_rows(folder / EXAMPLES)]
        asked = tuple(
            (number, Asked(probe.example, probe.rendered, probe.behavior, probe.responses))
            for number, probe in zip(content["numbers"], probes, strict=True)
        )
        index, count = content["shard"]
        measured = Measured(_found(content["found"]), asked, content["unjudged"], content["seconds"])
        return Shard(BuildPlan.of_json(content["plan"]), measured, index, count)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, IntrospectionError):
            raise
        raise IntrospectionError(f"{path} cannot be read ({error!r}): build this shard again") from error


def merge_shards(folders: Sequence[Path], tokenizer: Any) -> tuple[ProbeSet, BuildSummary]:
    """The probe set that one process would have built, and its summary.

    Args:
        tokenizer: the one that the shards were built with.

    Raises:
        IntrospectionError: shards of different builds, one that is missing or given twice, or another tokenizer.
    """
    shards = [load_shard(folder) for folder in folders]
    by_index: dict[int, Path] = {}
    count = shards[0].count
    for folder, shard in zip(folders, shards, strict=True):
        _check_alike(folders[0], shards[0], folder, shard)
        if shard.index in by_index:
            raise IntrospectionError(
                f"{by_index[shard.index]} and {folder} are both shard {shard.index + 1} of {count}: give each once"
            )
        by_index[shard.index] = folder
    missing = [str(index + 1) for index in range(count) if index not in by_index]
    if missing:
        raise IntrospectionError(
            f"of {count} shards {len(missing)} are missing (number {', '.join(missing[:10])}): build them, and give all"
        )
    measured = Measured(
        found=shards[0].measured.found,
        asked=tuple(sorted((item for shard in shards for item in shard.measured.asked), key=lambda item: item[0])),
        unjudged=sum(shard.measured.unjudged for shard in shards),
        seconds=sum(shard.measured.seconds for shard in shards),
    )
    return make_set(shards[0].plan, measured, tokenizer)


def _check_alike(first_folder: Path, first: Shard, folder: Path, shard: Shard) -> None:
    """Refuse a shard of another build than the first's."""
    for one, other in (
        (first.plan.as_json(), shard.plan.as_json()),
        ({"number of shards": first.count}, {"number of shards": shard.count}),
        (_plain(first.measured.found), _plain(shard.measured.found)),
    ):
        differing = next((name for name in one if one[name] != other.get(name)), None)
        if differing is not None:
            raise IntrospectionError(
                f"{first_folder} and {folder} are not of one build: {differing} is {brief(one[differing])} in the "
                f"first and {brief(other.get(differing))} in the second; build all shards with the same arguments "
                "on the same data"
            )


def _plain(found: Found) -> dict[str, Any]:
    return {field.name: getattr(found, field.name) for field in fields(Found)}


def _found(row: Mapping[str, Any]) -> Found:
    return Found(
        **{
            **row,
            "style": PromptStyle(**row["style"]),
            "tried": tuple(Signal(**signal) for signal in row["tried"]),
        }
    )
