"""What an unfinished build has measured so far, so that the same command goes on where it was stopped.

    probes/hint-mmlu.partial/
        plan.json        everything that determines the answers
        answers.jsonl    an answered question a line, appended as batches are done

Only whole batches are taken up, and a batch that was cut off is asked again from its first question: so a resumed build
computes what the uninterrupted one would have computed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from introspection_probe.building.plan import brief
from introspection_probe.building.selection import Candidate
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Behavior, Responses

_PLAN, _ANSWERS, _LOCK = "plan.json", "answers.jsonl", "lock"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered; no behaviour where a judge gave no verdict."""

    behavior: Behavior | None
    responses: Responses | None = None


class WorkError(IntrospectionError):
    """The work folder cannot be used: whatever is being asked, going on makes no sense."""


class BuildWork(AbstractContextManager["BuildWork"]):
    """The answers that one build has so far; in a folder, if any, that one process holds at a time.

    Args:
        folder: beside the probe set that is being built; None keeps the answers in memory alone.
        plan: what determines the answers, JSON-able.

    Attributes:
        resumed: answers that were there already.

    Raises:
        WorkError: it is the work of another build, another process is at it, or it cannot be written.
    """

    def __init__(self, folder: Path | None, plan: Mapping[str, Any]) -> None:
        self._folder = folder
        self._answers: dict[tuple[str, int], tuple[str, Answer]] = {}
        self._lock: FileLock | None = None
        if folder is not None:
            self._lock = self._take(folder)
            try:
                self._check_plan(folder, json.loads(json.dumps(plan)))
                self._read(folder / _ANSWERS)
            except BaseException:
                self._lock.release()
                raise
        self.resumed = len(self._answers)

    def _take(self, folder: Path) -> FileLock:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(folder / _LOCK, blocking=False)
            lock.acquire()
        except Timeout:
            raise WorkError(
                f"another process is building in {folder}: wait for it, or build into another folder"
            ) from None
        except OSError as error:
            raise WorkError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
        return lock

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._answers:
            self.remove()  # nothing was asked: there is nothing to go on with
        elif self._lock is not None:
            self._lock.release()

    def known(self, style: str, batch: Sequence[Candidate]) -> list[Answer] | None:
        """The answers to a batch, or None where one is missing.

        Raises:
            WorkError: a question is no longer the one that was asked.
        """
        found = []
        for candidate in batch:
            digest, answer = self._answers.get((style, candidate.number), ("", None))
            if answer is None:
                return None
            if digest != candidate.digest:
                raise WorkError(
                    f"{self._folder} holds answers to other questions (row {candidate.number + 1} is another one now): "
                    f"put the data back as it was, or delete {self._folder} to start anew"
                )
            found.append(answer)
        return found

    def keep(self, style: str, batch: Sequence[Candidate], answers: Sequence[Answer]) -> None:
        """Keep a batch; if there is a folder, it is on disk when this returns.

        Raises:
            WorkError: it cannot be written.
        """
        lines = []
        for candidate, answer in zip(batch, answers, strict=True):
            self._answers[style, candidate.number] = candidate.digest, answer
            lines.append(json.dumps({"style": style, "number": candidate.number, "digest": candidate.digest,
                                     **asdict(answer)}) + "\n")  # fmt: skip
        if self._folder is None:
            return
        try:
            with (self._folder / _ANSWERS).open("a", encoding="ascii") as file:
                file.write("".join(lines))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise WorkError(
                f"cannot write {self._folder / _ANSWERS}: {error.strerror or error}; what was measured before is kept: "
                "make room and give the same command again"
            ) from error

    def remove(self) -> None:
        """The set is saved: the work is not needed any more."""
        if self._lock is not None and self._folder is not None:
            self._lock.release()
            shutil.rmtree(self._folder, ignore_errors=True)

    def _check_plan(self, folder: Path, plan: dict[str, Any]) -> None:
        path = folder / _PLAN
        try:
            before = json.loads(path.read_text(encoding="ascii"))
        except FileNotFoundError:
            scratch = path.with_suffix(".new")
            scratch.write_text(json.dumps(plan, indent=2) + "\n", encoding="ascii")
            scratch.replace(path)
            return
        except (OSError, ValueError) as error:
            raise WorkError(f"{path} cannot be read ({error}): delete {folder} to start anew") from error
        differing = [name for name in {**plan, **before} if plan.get(name) != before.get(name)]
        if differing:
            name = differing[0]
            raise WorkError(
                f"{folder} holds a build that was stopped, and {name} was {brief(before.get(name))} there and "
                f"is {brief(plan.get(name))} now: give the same arguments to go on, or delete that folder to start "
                "anew"
            )

    def _read(self, path: Path) -> None:
        if not path.exists():
            return
        whole = 0
        with path.open("rb") as file:
            for line in file:
                try:
                    row = json.loads(line) if line.endswith(b"\n") else None
                    if row is None:
                        break
                    behavior, responses = row["behavior"], row["responses"]
                    answer = Answer(
                        None if behavior is None else Behavior(**behavior),
                        None if responses is None else _responses(responses),
                    )
                    self._answers[row["style"], row["number"]] = row["digest"], answer
                except (ValueError, KeyError, TypeError):
                    break  # the machine went down while it was written: what follows is asked again
                whole += len(line)
        if whole < path.stat().st_size:
            os.truncate(path, whole)


def _responses(row: Mapping[str, Any]) -> Responses:
    return Responses(
        included=row["included"],
        ablated=row["ablated"],
        included_ids=tuple(row["included_ids"]),
        ablated_ids=tuple(row["ablated_ids"]),
    )
