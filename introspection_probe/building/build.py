"""Build a probe set: choose questions, ask M0, keep its behaviour.

Whether a model follows a cue depends on the wording of the prompt far more than on the question: one model
answers "C" to 99% of them in one style and is swayed by half of the cues in another. So each style of the task is
tried on the same questions with the same cues, and the liveliest (``signals.Signal.liveliness``) is used.

Questions are asked in batches that are the same whether one process asks them all, several share them
(``shards``) or one goes on where another was stopped (``work``): so the set is the same as well.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from torch import nn

from introspection_probe.building.asking import Asked, Progress, Question, ask, judging_of, window
from introspection_probe.building.make_set import BuildSummary, make_set
from introspection_probe.building.plan import BuildPlan, Found, Measured
from introspection_probe.building.selection import Candidate, Chosen, Row, choose
from introspection_probe.building.work import Answer, BuildWork, WorkError
from introspection_probe.endpoint import Interview
from introspection_probe.errors import IntrospectionError
from introspection_probe.models import model_fingerprint
from introspection_probe.probe_set import ProbeSet, check_share
from introspection_probe.probe_set.signals import Signal, read_signal
from introspection_probe.probe_set.tokens import template_hash
from introspection_probe.rollout import EncodedProbe, Prober, encode_probes
from introspection_probe.tasks.base import PromptStyle, Task

__all__ = ["STYLE_SAMPLE", "BuildSummary", "build_probe_set", "measure", "plan_of"]

STYLE_SAMPLE = 48
"""Questions that each style is tried on: a share is then known to 14 points, enough to tell styles apart."""

BATCH = 64
"""Questions asked between two looks at the work folder: a process that is killed loses at most so many."""

_Path = Literal["auto", "packed", "flat"]


def build_probe_set(
    task: Task,
    model: nn.Module | Interview,
    tokenizer: Any,
    *,
    n: int = 1000,
    probe_share: float = 0.3,
    seed: int = 0,
    style: str | None = None,
    style_sample: int = STYLE_SAMPLE,
    max_prompt_tokens: int | None = None,
    balance: str | None = None,
    model_name: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> tuple[ProbeSet, BuildSummary]:
    """A probe set of M0's behaviour on ``n`` of the task's questions, and what was measured on the way.

    The same arguments give the same set: which option a cue names is drawn from the seed and the question's
    place, so that every style is tried with the same cues.

    Args:
        model: M0: a loaded model, or one behind an endpoint; ``tokenizer`` has to be its own either way.
        n: questions wanted: the first that fit and are not there already; all where the task has fewer.
        probe_share: share of the questions that are measured on and never trained on, split by group.
        style: a style's name; default: the one with the largest liveliness on the sample.
        style_sample: questions that each style is tried on.
        max_prompt_tokens: leave out questions whose longest sequence (a prompt with its answer or explanation) has
            more tokens; default: than the model's window.
        balance: a field of the task's rows or ``"cue_option"``: as many questions of each of its values; or one of
            ``selection.MEASURED_FIELDS``: as many examples of each value are kept on each side, of ``n`` asked.
        model_name: for the manifest; default: where the model says it was loaded from.
        task_options: the options that the task was made with, for the manifest.
        work: a folder for what is measured, so that a build that is stopped can be gone on with; the caller deletes
            it when the set is saved.

    Raises:
        IntrospectionError: unknown style or field, no style that the tokenizer can express, too few questions, or a
            work folder of another build.
    """
    plan = plan_of(
        task,
        model,
        tokenizer,
        n=n,
        probe_share=probe_share,
        seed=seed,
        style=style,
        style_sample=style_sample,
        max_prompt_tokens=max_prompt_tokens,
        balance=balance,
        model_name=model_name,
        task_options=task_options,
    )
    with BuildWork(work, plan.as_json()) as answers:
        measured = measure(plan, task, model, tokenizer, answers, progress=progress)
    return make_set(plan, measured, tokenizer)


def plan_of(
    task: Task,
    model: nn.Module | Interview,
    tokenizer: Any,
    *,
    n: int,
    probe_share: float,
    seed: int,
    style: str | None,
    max_prompt_tokens: int | None,
    balance: str | None,
    model_name: str | None,
    task_options: Mapping[str, Any] | None,
    style_sample: int = STYLE_SAMPLE,
) -> BuildPlan:
    """What is to be built. Arguments as for :func:`build_probe_set`.

    Raises:
        IntrospectionError: an impossible number, or an unknown style.
    """
    if n < 2:
        raise IntrospectionError(f"{n} questions cannot be split: ask for 2 or more")
    check_share(probe_share)
    _candidates(task, style)
    return BuildPlan(
        task=task.name,
        task_options=dict(task_options or {}),
        model=model_name or str(model.model if isinstance(model, Interview) else model.name_or_path),
        model_fingerprint=model_fingerprint(model) if isinstance(model, nn.Module) else "",
        dtype=str(next(model.parameters()).dtype) if isinstance(model, nn.Module) else "",
        tokenizer=str(tokenizer.name_or_path),
        template_hash=template_hash(tokenizer),
        style=style,
        style_sample=style_sample,
        n=n,
        probe_share=probe_share,
        seed=seed,
        max_prompt_tokens=max_prompt_tokens,
        balance=balance,
        judging=judging_of(task),
        balance_ablated=task.balance_ablated,
    )


def measure(
    plan: BuildPlan,
    task: Task,
    model: nn.Module | Interview,
    tokenizer: Any,
    work: BuildWork,
    *,
    shard: tuple[int, int] = (0, 1),
    progress: Progress | None = None,
) -> Measured:
    """Choose the style and the questions, and ask one process's share of them.

    Args:
        shard: which share, from 0, of how many. The styles are tried by every process, all else is asked once.
    """
    started = time.monotonic()
    rows = enumerate(task.rows(plan.seed))
    head = list(islice(rows, plan.style_sample))
    build = _Build(plan, task, model, tokenizer, work, progress)
    style, tried, refused = build.choose_style(head)
    chosen = build.choose(style, chain(head, rows), plan.n, plan.balance)
    if len(chosen.candidates) < 2:
        raise IntrospectionError(f"{len(chosen.candidates)} questions cannot be split: ask for 2 or more")
    asked, unjudged = build.ask_share(style, chosen.candidates, shard)
    found = Found(
        source=task.source,
        style=style,
        tried=tuple(tried),
        refused=refused,
        questions=len(chosen.candidates),
        read=chosen.read,
        too_long=chosen.too_long,
        duplicates=chosen.duplicates,
        joined=chosen.joined,
        values=chosen.values,
        exhausted=chosen.exhausted,
    )
    return Measured(found, tuple(asked), unjudged, time.monotonic() - started)


class _Build:
    """One process's build."""

    def __init__(
        self,
        plan: BuildPlan,
        task: Task,
        model: nn.Module | Interview,
        tokenizer: Any,
        work: BuildWork,
        progress: Progress | None,
    ) -> None:
        self._plan, self._task, self._model, self._tokenizer, self._work = plan, task, model, tokenizer, work
        self._progress, self._done, self._total = progress, 0, 0
        self._limit = min(window(model), plan.max_prompt_tokens or window(model))
        self._sampled: dict[str, frozenset[int]] = {}

    def choose(self, style: PromptStyle, rows: Iterable[Row], n: int, balance: str | None) -> Chosen:
        """The questions in a style. See :func:`selection.choose`."""
        return choose(
            self._task,
            self._tokenizer,
            style,
            rows,
            n=n,
            seed=self._plan.seed,
            limit=self._limit,
            balance=balance,
        )

    def choose_style(self, head: Sequence[Row]) -> tuple[PromptStyle, list[Signal], dict[str, str]]:
        """The liveliest style on the first rows, the signal of each that could be tried, and why others could not."""
        styles = _candidates(self._task, self._plan.style)
        if len(styles) == 1:
            return styles[0], [], {}
        self._total = len(styles) * len(head) + max(self._plan.n - len(head), 0)
        tried: list[tuple[PromptStyle, Signal]] = []
        refused: dict[str, str] = {}
        for style in styles:
            expected = self._done + len(head)
            try:
                sample = self.choose(style, head, len(head), None).candidates
                asked = [item for batch in _batches(sample) for _, item in self._ask(style, batch, "auto")]
                tried.append((style, _signal(style, asked)))
                self._sampled[style.name] = frozenset(candidate.number for candidate in sample)
            except WorkError:
                raise
            except IntrospectionError as error:
                refused[style.name] = str(error)
            self._done = expected
        if not tried:
            raise IntrospectionError(f"no prompt style fits this model: {next(iter(refused.values()))}")
        # max() takes the first of equals, and a task names its most usual style first.
        best, _ = max(tried, key=lambda trial: trial[1].liveliness)
        return best, [signal for _, signal in tried], refused

    def ask_share(
        self, style: PromptStyle, candidates: Sequence[Candidate], shard: tuple[int, int]
    ) -> tuple[list[tuple[int, Asked]], int]:
        """The questions of this share with their answers, in the order of the rows, and how many have no verdict."""
        index, count = shard
        sampled = self._sampled.get(style.name, frozenset())
        batches = list(_batches([candidate for candidate in candidates if candidate.number not in sampled]))
        mine = batches[index::count]
        self._total = self._done + sum(map(len, mine))
        path = self._path(style, candidates)
        asked = [item for batch in mine for item in self._ask(style, batch, path)]
        wanted = sum(map(len, mine))
        if index == 0:
            # Every process has the answers to these already; the first takes them along.
            shared = [candidate for candidate in candidates if candidate.number in sampled]
            asked += _answered(shared, self._work.known(style.name, shared) or ())
            wanted += len(shared)
        return sorted(asked, key=lambda item: item[0]), wanted - len(asked)

    def _ask(self, style: PromptStyle, batch: Sequence[Candidate], path: _Path) -> list[tuple[int, Asked]]:
        """The questions of a batch with their answers, without those on which a judge gave no verdict."""
        answers = self._work.known(style.name, batch)
        if answers is None:
            answers = self._answers(style, batch, path)
            self._work.keep(style.name, batch, answers)
        else:
            self._advance(style, len(batch))
        return _answered(batch, answers)

    def _answers(self, style: PromptStyle, batch: Sequence[Candidate], path: _Path) -> list[Answer]:
        self._advance(style, 0)
        questions = [
            Question(candidate.number, candidate.example, candidate.rendered, encoded)
            for candidate, encoded in zip(batch, self._encoded(style, batch), strict=True)
        ]
        asked = ask(
            self._task,
            self._model,
            self._tokenizer,
            style,
            questions,
            path=path,
            progress=lambda count: self._advance(style, count),
        )
        by_id = {item.example.id: Answer(item.behavior, item.responses) for item in asked}
        return [by_id.get(candidate.example.id, Answer(None)) for candidate in batch]

    def _advance(self, style: PromptStyle, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(style.name, self._done, self._total)

    def _encoded(self, style: PromptStyle, batch: Sequence[Candidate]) -> list[EncodedProbe]:
        return encode_probes(
            self._tokenizer,
            [candidate.example for candidate in batch],
            [candidate.rendered for candidate in batch],
            answer_prefix=style.answer_prefix,
            judging=self._plan.judging,
        )

    def _path(self, style: PromptStyle, candidates: Sequence[Candidate]) -> _Path:
        """How answers are read: decided once, on the shortest and the longest questions, for all batches alike."""
        if isinstance(self._model, Interview):
            return "auto"
        by_length = sorted(candidates, key=lambda candidate: candidate.tokens)
        prober = Prober(self._tokenizer, self._encoded(style, by_length[:1] + by_length[1:][-3:]))
        return "packed" if prober.uses_packing(self._model) else "flat"


def _answered(candidates: Sequence[Candidate], answers: Sequence[Answer]) -> list[tuple[int, Asked]]:
    """Those that have a behaviour."""
    return [
        (candidate.number, Asked(candidate.example, candidate.rendered, answer.behavior, answer.responses))
        for candidate, answer in zip(candidates, answers, strict=True)
        if answer.behavior is not None
    ]


def _batches(candidates: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
    for start in range(0, len(candidates), BATCH):
        yield candidates[start : start + BATCH]


def _candidates(task: Task, style: str | None) -> list[PromptStyle]:
    styles = list(task.styles())
    if style is None:
        return styles
    named = [candidate for candidate in styles if candidate.name == style]
    if not named:
        names = ", ".join(candidate.name for candidate in styles)
        raise IntrospectionError(f"task {task.name!r} has no prompt style {style!r}: choose one of {names}")
    return named


def _signal(style: PromptStyle, asked: Sequence[Asked]) -> Signal:
    return read_signal(style.name, [item.example for item in asked], [item.behavior for item in asked])
