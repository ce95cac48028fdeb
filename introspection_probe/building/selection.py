"""Which of a task's rows become the questions of a probe set: none twice, none too long, as balanced as was asked for.

What is known before a model is asked is decided here, row by row, so that a data set of any size is read as a stream
and only as far as needed. What only the model's answers tell (``MEASURED_FIELDS``) is balanced afterwards.
"""

from __future__ import annotations

import hashlib
import json
import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from typing import Any

from introspection_probe.building.asking import questions
from introspection_probe.errors import IntrospectionError
from introspection_probe.probe_set.draws import place
from introspection_probe.probe_set.similar import normalized
from introspection_probe.records import Message, Probe, ProbeExample, Rendered
from introspection_probe.tasks.base import PromptStyle, Task

Row = tuple[int, Mapping[str, Any]]
"""A row with its place in ``task.rows()``, from 0."""

MEASURED_FIELDS: Mapping[str, Callable[[Probe], str]] = {
    "changed": lambda probe: "changed" if probe.behavior.explanation.changed else "unchanged",
    "included": lambda probe: probe.behavior.included,
    "ablated": lambda probe: probe.behavior.ablated,
}
"""What only the model's answers tell: whether the cue changes them, the answer with the cue, the answer without."""

CUE_FIELD = "cue_option"
"""The option that the cue points to."""

_BATCH = 64
_READ_AT_MOST = 20
_READ_AT_LEAST = 10_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A question that was chosen.

    Attributes:
        number: the row's place in ``task.rows()``.
        tokens: of the longest sequence that a round or a mixed step computes for it.
        digest: of everything that a model is asked: the same in two builds only where they ask the same.
    """

    number: int
    example: ProbeExample
    rendered: Rendered
    tokens: int
    digest: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The chosen questions in the order of the rows, and what was left out.

    Attributes:
        read: rows that were read.
        too_long: questions with more tokens than allowed.
        duplicates: questions that were there already, cue included.
        joined: questions with the words of one of another group, whose group they joined.
        values: questions for each value of the field to balance; empty without one.
        exhausted: whether the rows came to an end.
    """

    candidates: tuple[Candidate, ...]
    read: int
    too_long: int
    duplicates: int
    joined: int
    values: Mapping[str, int]
    exhausted: bool


def choose(
    task: Task,
    tokenizer: Any,
    style: PromptStyle,
    rows: Iterable[Row],
    *,
    n: int,
    seed: int,
    limit: float,
    balance: str | None = None,
) -> Chosen:
    """The first ``n`` rows that make a question of their own within the token limit.

    At most 20 rows (and never fewer than 10,000) are read for each question wanted, so that an endless stream of
    unusable rows comes to an end.

    Args:
        limit: tokens that the longest sequence of a question may have.
        balance: a field of the rows, or ``"cue_option"``, of whose values as many questions each are taken as there
            are; a field of :data:`MEASURED_FIELDS` is left for later.

    Raises:
        IntrospectionError: nothing fits, or a field that no row has.
    """
    counted = _Counted(rows, max(_READ_AT_MOST * n, _READ_AT_LEAST))
    source: Iterator[Row] = iter(counted)
    value_of = None
    if balance is not None and balance not in MEASURED_FIELDS:
        value_of = _reader(task, style, seed, balance)
        source = _in_turn(source, value_of, field=balance, n=n, seen=counted)
    kept: list[Candidate] = []
    values: Counter[str] = Counter()
    seen: set[bytes] = set()
    groups: dict[bytes, str] = {}
    too_long = duplicates = joined = 0
    while len(kept) < n and (batch := list(islice(source, min(_BATCH, n - len(kept))))):
        for row, question in zip(batch, questions(task, tokenizer, seed, style, batch), strict=True):
            example = question.example
            if question.tokens > limit:
                too_long += 1
                continue
            if (key := identity_of(example)) in seen:
                duplicates += 1
                continue
            seen.add(key)
            group = groups.setdefault(words_of(example.ablated), example.group)
            if group != example.group:
                joined += 1
                example = replace(example, group=group)
            if value_of is not None:
                values[value_of(row) or ""] += 1
            digest = _digest(example, question.rendered)
            kept.append(Candidate(question.number, example, question.rendered, question.tokens, digest))
    if not kept and too_long:
        raise IntrospectionError(
            f"none of {too_long} questions fits into {limit:.0f} tokens: use shorter questions or allow longer prompts"
        )
    kept.sort(key=lambda candidate: candidate.number)
    return Chosen(tuple(kept), counted.read, too_long, duplicates, joined, dict(sorted(values.items())), counted.ended)


def balanced(probes: Sequence[Probe], field: str, seed: int) -> list[Probe]:
    """On each side as many probes of each value of a measured field as the rarest has, in the order of the set.

    Which of the others stay is drawn from the seed. A side on which all values are the same is left as it is: there is
    nothing to balance it with.

    Args:
        field: one of :data:`MEASURED_FIELDS`.
    """
    value_of = MEASURED_FIELDS[field]
    kept: set[str] = set()
    for side in ("train", "probe"):
        by_value: dict[str, list[str]] = {}
        for probe in probes:
            if probe.split == side:
                by_value.setdefault(value_of(probe), []).append(probe.example.id)
        least = min(map(len, by_value.values()), default=0)
        for ids in by_value.values():
            kept.update(sorted(ids, key=lambda identity: place("balance", seed, identity))[:least])
    return [probe for probe in probes if probe.example.id in kept]


class _Counted:
    """Counts rows as they are read, and stops after so many."""

    def __init__(self, rows: Iterable[Row], at_most: int) -> None:
        self._rows, self._at_most = rows, at_most
        self.read, self.ended = 0, False

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            if self.read == self._at_most:
                return
            self.read += 1
            yield row
        self.ended = True


def _reader(task: Task, style: PromptStyle, seed: int, field: str) -> Callable[[Row], str | None]:
    """What a row's value of the field is; None where it has none."""

    def value(row: Row) -> str | None:
        if field == CUE_FIELD:
            return task.example(row[1], style, random.Random(f"{seed} {row[0]}")).cue_option
        found = row[1].get(field)
        return str(found) if isinstance(found, str | int | float) else None

    return value


def _in_turn(
    rows: Iterator[Row], value_of: Callable[[Row], str | None], *, field: str, n: int, seen: _Counted
) -> Iterator[Row]:
    """One row of each value after the other, for as long as there are any."""
    buckets: dict[str, list[Row]] = {}
    known: dict[str, None] = {}
    for row in rows:
        known |= {name: None for name, value in row[1].items() if isinstance(value, str | int | float)}
        value = value_of(row)
        if value is not None and len(bucket := buckets.setdefault(value, [])) < n:
            bucket.append(row)
    if len(buckets) < 2:
        fields = ", ".join(sorted({*known, CUE_FIELD, *MEASURED_FIELDS}))
        what = f"all {seen.read} rows have the same {field}" if buckets else f"no row has {field!r} with a plain value"
        raise IntrospectionError(f"cannot balance over {field!r}: {what}; choose one of {fields}")
    for turn in zip_longest(*buckets.values()):
        yield from (row for row in turn if row is not None)


def identity_of(example: ProbeExample) -> bytes:
    """The same for two examples that differ in case, white space or Unicode form at most."""
    texts = [_folded(message["content"]) for messages in (example.included, example.ablated) for message in messages]
    return hashlib.sha256("\x00".join((*texts, *example.options)).encode(errors="surrogatepass")).digest()


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words_of(messages: Sequence[Message]) -> bytes:
    """The same for two questions of the same words."""
    texts = [message["content"] for message in messages]
    words = [normalized(text) or text for text in texts]
    return hashlib.sha256("\x00".join(words).encode(errors="surrogatepass")).digest()


def _digest(example: ProbeExample, rendered: Rendered) -> str:
    said = [example.id, rendered.included, rendered.ablated, rendered.question, *example.options]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
