"""A probe set: the versioned folder of counterfactual questions with M0's behaviour and explanations.

    probes/hint-mmlu/
        manifest.json      what it is: task, prompt style, model, fingerprints, counts, content hash
        examples.parquet   a row an example: messages, rendered prompts, split, behaviour, label sets

A set is never changed in place: what a run was measured on must stay readable. The content hash covers the
examples in their order, their labels, the task, the prompt style, the tokens and, where answers are free, M0's
responses and how they were judged, but not the model's path, the date or the program's version: the same behaviour
gives the same hash wherever the set was built.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set.folders import new_folder
from introspection_probe.probe_set.manifest import MANIFEST, Manifest, read_manifest, write_manifest
from introspection_probe.probe_set.rows import from_row, read_rows, to_row, write_rows
from introspection_probe.probe_set.tokens import template_hash, tokens_hash
from introspection_probe.records import Explanation, Judging, Probe, Split
from introspection_probe.tasks.base import PromptStyle

EXAMPLES = "examples.parquet"
SHARD = "shard.json"
"""What stands for the manifest where one of several processes has built its share: see ``building.shards``."""

_LABEL_SET_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class ProbeSet:
    """A manifest and its probes; make one with :meth:`from_probes` or :meth:`load`."""

    manifest: Manifest
    probes: tuple[Probe, ...]

    @classmethod
    def from_probes(
        cls,
        probes: Sequence[Probe],
        *,
        task: str,
        style: PromptStyle,
        tokenizer: Any,
        model: str = "",
        model_fingerprint: str = "",
        task_options: Mapping[str, Any] | None = None,
        seed: int = 0,
        build: Mapping[str, Any] | None = None,
        judging: Judging | None = None,
    ) -> ProbeSet:
        """A new set of these probes, with its fingerprints computed.

        Args:
            judging: how the probes' responses were had and judged; None for probes without responses.

        Raises:
            IntrospectionError: no probes, a repeated id, ``orig`` labels that are not M0's explanations, or responses
                without ``judging`` or the reverse.
        """
        _check_probes(probes, judging)
        # Through JSON, so that a saved set is equal to the one that is read back.
        manifest = Manifest(
            task=task,
            task_options=json.loads(json.dumps(task_options or {})),
            model=model,
            model_fingerprint=model_fingerprint,
            style=style,
            tokenizer=str(tokenizer.name_or_path),
            vocab_size=len(tokenizer),
            template_hash=template_hash(tokenizer),
            tokens_hash=tokens_hash(tokenizer, probes, style.answer_prefix),
            seed=seed,
            counts={},
            label_sets=(),
            content_hash="",
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            build=json.loads(json.dumps(build or {})),
            format_version=1 if judging is None else 2,
            judging=judging,
        )
        return cls(_sealed(manifest, probes), tuple(probes))

    @property
    def task(self) -> str:
        """The task's name."""
        return self.manifest.task

    @property
    def style(self) -> PromptStyle:
        """The prompt style that all prompts were rendered with."""
        return self.manifest.style

    @property
    def content_hash(self) -> str:
        """SHA-256 (hex) of what the set contains."""
        return self.manifest.content_hash

    @property
    def label_sets(self) -> tuple[str, ...]:
        """Names of the label sets that every probe has; ``"orig"`` is M0's own."""
        return self.manifest.label_sets

    def split(self, name: Split) -> tuple[Probe, ...]:
        """The probes of one side, in the order of the set."""
        return tuple(probe for probe in self.probes if probe.split == name)

    def with_labels(
        self, name: str, labels: Mapping[str, Explanation], *, origin: Mapping[str, Any] | None = None
    ) -> ProbeSet:
        """The same set with one label set more, for supervision that comes from another model than M0.

        Args:
            name: lower-case letters, digits, ``_ . -``; not ``orig`` or ``self``.
            labels: an explanation for each example, by example id.
            origin: where they come from, JSON-able; kept in the manifest's ``build`` under ``labels``, for people.

        Raises:
            IntrospectionError: name taken or odd, an example without label, an answer outside the answer set.
        """
        if not _LABEL_SET_NAME.fullmatch(name) or name == "self":
            raise IntrospectionError(
                f"{name!r} cannot name a label set: use lower-case letters, digits, '_', '.', '-', and not 'self'"
            )
        if name in self.label_sets:
            raise IntrospectionError(f"the probe set already has labels named {name!r}: choose another name")
        known = {probe.example.id for probe in self.probes}
        for wrong, sentence in (
            (known - labels.keys(), "has no label for example"),
            (labels.keys() - known, "labels an example that the set does not have:"),
        ):
            if wrong:
                raise IntrospectionError(f"label set {name!r} {sentence} {min(wrong)!r} ({len(wrong)} in all)")
        labelled = []
        for probe in self.probes:
            label = labels[probe.example.id]
            if label.content not in probe.example.options:
                raise IntrospectionError(
                    f"label set {name!r}, example {probe.example.id!r}: {label.content!r} is not one of "
                    f"its answers {', '.join(probe.example.options)}"
                )
            labelled.append(replace(probe, labels={**probe.labels, name: label}))
        build = dict(self.manifest.build)
        if origin is not None:
            build["labels"] = {**build.get("labels", {}), name: json.loads(json.dumps(origin))}
        return ProbeSet(_sealed(replace(self.manifest, build=build), labelled), tuple(labelled))

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Refuse a tokenizer that would read the prompts or the answers otherwise than the set was built for.

        Raises:
            IntrospectionError: what differs, in one sentence.
        """
        found = tokens_hash(tokenizer, self.probes, self.style.answer_prefix)
        if found == self.manifest.tokens_hash:
            return
        theirs, built = len(tokenizer), self.manifest.vocab_size
        if theirs != built:
            differs = f"it has {theirs} tokens, the set's tokenizer had {built}"
        else:
            differs = "the same prompts give other token ids"
        raise IntrospectionError(
            f"the probe set was built with the tokenizer of {self.manifest.tokenizer!r}, and "
            f"{str(tokenizer.name_or_path)!r} does not fit: {differs}; build a probe set with this model"
        )

    def save(self, folder: str | Path) -> Path:
        """Write the set: wholly or not at all. Saving the same set again does nothing.

        Raises:
            IntrospectionError: the folder holds something else, or cannot be written.
        """
        folder = Path(folder)
        if (folder / MANIFEST).exists():
            if read_manifest(folder).content_hash == self.content_hash:
                return folder
            raise IntrospectionError(
                f"{folder} holds another probe set, and sets are never overwritten: "
                f"choose another folder, or delete it first"
            )
        with new_folder(folder) as scratch:
            write_rows(scratch / EXAMPLES, [to_row(probe) for probe in self.probes])
            write_manifest(scratch, self.manifest)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> ProbeSet:
        """Read a set and check that it is whole, unchanged and usable.

        Raises:
            IntrospectionError: missing, unreadable, of a newer format, changed since it was built, or with an
                empty ``probe`` split.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise IntrospectionError(
                f"there is no probe set at {folder}: build one with `iprobe build --task TASK --model MODEL "
                f"--out {folder}`"
            )
        if (folder / SHARD).exists():
            raise IntrospectionError(
                f"{folder} is one shard of a probe set: join all of them with `iprobe probes merge SHARD... --out DIR`"
            )
        manifest = read_manifest(folder)
        probes = []
        for number, row in enumerate(read_rows(folder / EXAMPLES), 1):
            try:
                probes.append(from_row(row))
            except (KeyError, TypeError, ValueError) as error:
                raise IntrospectionError(
                    f"{folder / EXAMPLES}, row {number}, is not an example ({error!r}): build the set again"
                ) from error
        found = _content_hash(manifest, probes)
        if found != manifest.content_hash:
            raise IntrospectionError(
                f"the probe set at {folder} was changed after it was built (content hash {found[:12]}, the "
                f"manifest says {manifest.content_hash[:12]}): restore it or build it again"
            )
        if not manifest.counts.get("probe"):
            raise IntrospectionError(
                f"the probe set at {folder} has no examples in its probe split, so nothing can be measured: "
                f"build it with a larger --probe-share"
            )
        return cls(manifest, tuple(probes))


def check_share(probe_share: float) -> None:
    """Refuse a share of probes that leaves one side empty.

    Raises:
        IntrospectionError: not between 0 and 1.
    """
    if not 0 < probe_share < 1:
        raise IntrospectionError(f"the probe share is {probe_share}: choose one between 0 and 1, such as 0.3")


def split_groups(groups: Iterable[str], probe_share: float, seed: int) -> dict[str, Split]:
    """Which side each group is on: a function of the groups and the seed, whatever their order.

    The groups that come first in the order of a seeded hash make the ``probe`` side, so that few groups change
    sides when others are added or dropped. Of two groups or more, at least one is on each side.

    Raises:
        IntrospectionError: a share that is not between 0 and 1.
    """
    check_share(probe_share)

    def place(group: str) -> bytes:
        return hashlib.sha256(f"{seed}\x00{group}".encode()).digest()

    ordered = sorted(set(groups), key=place)
    count = min(max(round(probe_share * len(ordered)), 1), max(len(ordered) - 1, 1))
    return {group: "probe" if rank < count else "train" for rank, group in enumerate(ordered)}


def _check_probes(probes: Sequence[Probe], judging: Judging | None) -> None:
    if not probes:
        raise IntrospectionError("a probe set needs at least one example: none was given")
    identity, times = Counter(probe.example.id for probe in probes).most_common(1)[0]
    if times > 1:
        raise IntrospectionError(f"example ids must be unique in a probe set: {identity!r} occurs {times} times")
    for probe in probes:
        if probe.labels.get("orig") != probe.behavior.explanation:
            raise IntrospectionError(
                f"example {probe.example.id!r}: the labels 'orig' must be the explanation of M0's behaviour"
            )
        if (probe.responses is None) != (judging is None):
            has, lacks = ("responses", "judge") if judging is None else ("a judge", "responses")
            raise IntrospectionError(
                f"example {probe.example.id!r}: the set has {has} and no {lacks}; judged answers need both"
            )


def _sealed(manifest: Manifest, probes: Sequence[Probe]) -> Manifest:
    """The manifest with everything that follows from the probes: counts, label sets, content hash."""
    counts = Counter(probe.split for probe in probes)
    common = set.intersection(*({*probe.labels} for probe in probes))
    manifest = replace(
        manifest,
        counts={"train": counts["train"], "probe": counts["probe"]},
        label_sets=tuple(sorted(common, key=lambda name: (name != "orig", name))),
    )
    return replace(manifest, content_hash=_content_hash(manifest, probes))


def _content_hash(manifest: Manifest, probes: Iterable[Probe]) -> str:
    digest = hashlib.sha256()
    head = {
        "format_version": manifest.format_version,
        "task": manifest.task,
        "style": asdict(manifest.style),
        "tokens_hash": manifest.tokens_hash,
        "counts": dict(manifest.counts),
        "label_sets": list(manifest.label_sets),
    }
    if manifest.judging is not None:
        head["judging"] = asdict(manifest.judging)
    for row in (head, *map(to_row, probes)):
        digest.update(json.dumps(row, sort_keys=True, separators=(",", ":")).encode())
        digest.update(b"\n")
    return digest.hexdigest()
