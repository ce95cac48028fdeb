"""Rounds: what a model does and says on every probe, with the fewest tokens computed."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from torch import nn

from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Observed, Responses, Rollout, Round
from introspection_probe.rollout import distributed
from introspection_probe.rollout.agreement import Agreement, compare_paths
from introspection_probe.rollout.decoding import (
    VARIANTS,
    Answers,
    can_resume,
    choose_flat,
    generate_flat,
    read_answers,
    resume,
    until_end,
)
from introspection_probe.rollout.encoding import EncodedProbe, Ids
from introspection_probe.rollout.forward import forward_trees
from introspection_probe.rollout.free_answers import check_round, judge_written
from introspection_probe.rollout.isolation import measuring
from introspection_probe.rollout.passes import Passes
from introspection_probe.rollout.paths import ProbeTree, probe_tree, tries_of
from introspection_probe.tasks import explanations
from introspection_probe.tasks.judges.panel import Panel, halves

logger = logging.getLogger(__name__)

DEFAULT_TOKEN_BUDGET = 4096
# Tokens generated beyond the longest explanation, so that "... <B> because" is seen to go on and fails to parse.
_SLACK = 4

Progress = Callable[[int], None]

_Measured = tuple[Answers, bool, int]
"""A probe's answers, whether it needed generation, and the tokens computed for it."""


class Prober:
    """Takes rounds over a fixed list of probes.

    Args:
        tokenizer: decodes explanations and names the end token; its settings are never changed.
        probes: what to measure, from :func:`introspection_probe.rollout.encode_probes`.
        path: ``"packed"``, ``"flat"``, or ``"auto"``: packed where :func:`compare_paths` allows it, asked once.
        token_budget: tokens, padding included, in one forward. Halved when memory runs out, and kept so.

    Raises:
        IntrospectionError: no probes, or an unknown path.
    """

    def __init__(
        self,
        tokenizer: Any,
        probes: Sequence[EncodedProbe],
        *,
        path: Literal["auto", "packed", "flat"] = "auto",
        token_budget: int = DEFAULT_TOKEN_BUDGET,
    ) -> None:
        if not probes:
            raise IntrospectionError("there is nothing to measure: the probe split is empty; build a larger probe set")
        if path not in ("auto", "packed", "flat"):
            raise IntrospectionError(f"path is {path!r}; it must be 'auto', 'packed' or 'flat'")
        self.probes = tuple(probes)
        self.agreement: Agreement | None = None
        self._tokenizer = tokenizer
        self._path = path
        self._passes = Passes(token_budget)
        self._trees: dict[tuple[str, bool], ProbeTree] = {}
        self._max_new_tokens = _SLACK + max(len(ids) for probe in probes for ids in probe.explanation_ids)
        self._panel = Panel()

    @property
    def token_budget(self) -> int:
        """Tokens in one forward, as memory has allowed so far."""
        return self._passes.token_budget

    def uses_packing(self, model: nn.Module) -> bool:
        """Whether rounds on this model are packed; with ``path="auto"`` the first call compares both paths."""
        if self._path != "auto":
            return self._path == "packed"
        if self.agreement is None:
            agreement = distributed.together(lambda: compare_paths(model, self.probes))
            self.agreement = distributed.broadcast(agreement)
            logger.info("introspection_probe: %s", self.agreement.reason)
        return self.agreement.packed

    def measure(self, model: nn.Module, *, step: int, progress: Progress | None = None) -> Round:
        """One round. Every process of a distributed run must call it; every process gets the whole round.

        Args:
            step: optimizer steps done.
            progress: called with the number of examples finished since the last call.

        Raises:
            IntrospectionError: a judge of free answers is out of reach, or gave no verdict on too many examples.
        """
        started_at, clock = datetime.now(UTC), time.perf_counter()
        packed = self.uses_packing(model)
        ends = end_tokens(model, self._tokenizer)
        every = range(len(self.probes))
        with measuring(model):
            measured = self._run(model, packed, ends, every, explain=True, progress=progress)
            written = self._write(model, ends, progress=progress)
        judged = judge_written(self._panel, self._tokenizer, self.probes, written)
        observed = [judged.get(index) or _observed(self.probes[index], measured[index][0]) for index in every]
        check_round(self._panel, self.probes, observed)
        unjudged = tuple(probe.id for probe, item in zip(self.probes, observed, strict=True) if item.behavior is None)
        rollouts, generated, tokens = [], 0, 0
        for probe, item, (answers, was_generated, computed) in zip(
            self.probes, observed, (measured[index] for index in every), strict=True
        ):
            generated += was_generated or probe.free is not None
            tokens += computed
            if item.behavior is None:
                continue
            text = self._tokenizer.decode(list(answers.explanation or ()), skip_special_tokens=True)
            rollouts.append(
                Rollout(
                    example_id=probe.id,
                    behavior=item.behavior,
                    predicted_text=text,
                    predicted=explanations.parse(text, probe.options),
                    responses=None
                    if item.responses is None
                    else Responses(item.responses.included, item.responses.ablated),
                )
            )
        return Round(
            step=step,
            rollouts=tuple(rollouts),
            started_at=started_at,
            duration_s=time.perf_counter() - clock,
            tokens=tokens
            + sum(len(_prompt(self.probes[i], variant)) + len(ids) for (i, variant), ids in written.items()),
            generated=generated,
            path="packed" if packed else "flat",
            unjudged=unjudged,
        )

    def behaviors(self, model: nn.Module, *, progress: Progress | None = None) -> list[Observed]:
        """Only what the model does on ``x`` and ``x\\C``, in the order of the probes.

        Raises:
            IntrospectionError: a judge of free answers is out of reach. One that fails on single examples leaves
                their behaviour None.
        """
        ends = end_tokens(model, self._tokenizer)
        chosen = [index for index, probe in enumerate(self.probes) if probe.free is None]
        measured: dict[int, _Measured] = {}
        if chosen:
            packed = self.uses_packing(model)
            with measuring(model):
                measured = self._run(model, packed, ends, chosen, explain=False, progress=progress)
        with measuring(model):
            written = self._write(model, ends, progress=progress)
        judged = judge_written(self._panel, self._tokenizer, self.probes, written)
        return [judged.get(index) or _observed(probe, measured[index][0]) for index, probe in enumerate(self.probes)]

    def _run(
        self,
        model: nn.Module,
        packed: bool,
        ends: frozenset[int],
        indices: Sequence[int],
        *,
        explain: bool,
        progress: Progress | None,
    ) -> dict[int, _Measured]:
        """For each of these probes: its answers, whether it needed generation, and the tokens computed for it."""
        run = self._packed_batch if packed else self._flat_batch

        def done(index: int) -> None:
            # An example with free answers is not done before these are written.
            if progress is not None and self.probes[index].free is None:
                progress(1)

        return self._passes.over(
            indices,
            lambda index: self._length(self.probes[index], packed, explain),
            lambda batch: run(model, [self.probes[index] for index in batch], ends, explain),
            done,
        )

    def _write(
        self, model: nn.Module, ends: frozenset[int], *, progress: Progress | None
    ) -> dict[tuple[int, str], Ids]:
        """What the model writes freely, by the probe's index and the variant; with the end token where it ended."""
        asked = [(i, variant) for i, probe in enumerate(self.probes) if probe.free is not None for variant in VARIANTS]
        if not asked:
            return {}
        advance = (lambda _: None) if progress is None else halves(progress)

        def write(batch: Sequence[tuple[int, str]]) -> list[Ids]:
            prompts = [_prompt(self.probes[i], variant) for i, variant in batch]
            room = [self.probes[i].answer_tokens for i, _ in batch]
            answers = generate_flat(model, prompts, max_new_tokens=max(room), end_tokens=ends)
            return [ids[:most] for ids, most in zip(answers, room, strict=True)]

        def length(item: tuple[int, str]) -> int:
            probe = self.probes[item[0]]
            return len(_prompt(probe, item[1])) + probe.answer_tokens

        return self._passes.over(asked, length, write, lambda _: advance(1))

    def _packed_batch(
        self, model: nn.Module, probes: Sequence[EncodedProbe], ends: frozenset[int], explain: bool
    ) -> list[_Measured]:
        trees = [self._tree(probe, explain) for probe in probes]
        done = forward_trees(model, [packed.tree for packed in trees], use_cache=explain)
        answers, unfinished = read_answers(done, trees, ends)
        texts: list[Ids] = []
        if distributed.is_sharded(model):
            # Collective forwards: every process generates when any has to, and `generate` keeps them in step.
            if distributed.largest(len(unfinished)):
                texts = self._generate(model, [probes[item.row] for item in unfinished] or probes[:1], ends)
        elif unfinished and can_resume(done.cache, done.width):
            texts = resume(model, done, trees, unfinished, max_new_tokens=self._max_new_tokens, end_tokens=ends)
        elif unfinished:
            texts = self._generate(model, [probes[item.row] for item in unfinished], ends)
        by_row = {item.row: ids for item, ids in zip(unfinished, texts, strict=False)}
        return [
            (
                Answers(a.included, a.ablated, by_row.get(row, a.explanation)),
                row in by_row,
                len(packed.tree) + len(by_row.get(row, ())),
            )
            for row, (a, packed) in enumerate(zip(answers, trees, strict=True))
        ]

    def _flat_batch(
        self, model: nn.Module, probes: Sequence[EncodedProbe], ends: frozenset[int], explain: bool
    ) -> list[_Measured]:
        rows = [row for row, probe in enumerate(probes) if probe.free is None]
        tries = [tries_of(probes[row], explain=False) for row in rows]
        included = dict(zip(rows, choose_flat(model, [trie["included"] for trie in tries]), strict=True))
        ablated = dict(zip(rows, choose_flat(model, [trie["ablated"] for trie in tries]), strict=True))
        texts: list[Ids | None] = [None] * len(probes)
        if explain:
            texts = list(self._generate(model, probes, ends))
        return [
            (
                Answers(included.get(row), ablated.get(row), texts[row]),
                explain,
                (len(probe.included) + len(probe.ablated) if row in included else 0)
                + (len(probe.question) + len(texts[row] or ()) if explain else 0),
            )
            for row, probe in enumerate(probes)
        ]

    def _generate(self, model: nn.Module, probes: Sequence[EncodedProbe], ends: frozenset[int]) -> list[Ids]:
        prompts = [probe.question for probe in probes]
        said = generate_flat(model, prompts, max_new_tokens=self._max_new_tokens, end_tokens=ends)
        return [until_end(ids, ends) for ids in said]

    def _tree(self, probe: EncodedProbe, explain: bool) -> ProbeTree:
        """Built once: the probes of a run never change."""
        key = (probe.id, explain)
        if key not in self._trees:
            self._trees[key] = probe_tree(probe, explain=explain)
        return self._trees[key]

    def _length(self, probe: EncodedProbe, packed: bool, explain: bool) -> int:
        if packed:
            return len(self._tree(probe, explain).tree)
        return len(probe.question) + self._max_new_tokens if explain else max(len(probe.included), len(probe.ablated))


def end_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation config, and the tokenizer's end token.

    Raises:
        IntrospectionError: neither names one.
    """
    generation: Any = getattr(model, "generation_config", None)
    named = getattr(generation, "eos_token_id", None)
    candidates = [*(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id]
    ends = frozenset(int(token) for token in candidates if token is not None)
    if not ends:
        raise IntrospectionError("neither the tokenizer nor the model names an end token: set tokenizer.eos_token")
    return ends


def _observed(probe: EncodedProbe, answers: Answers) -> Observed:
    # Answers are options here.
    assert answers.included is not None
    assert answers.ablated is not None
    return Observed(Behavior(probe.options[answers.included], probe.options[answers.ablated]))


def _prompt(probe: EncodedProbe, variant: str) -> Ids:
    return probe.included if variant == "included" else probe.ablated
