"""The history of runs in a SQL database: what every round counted, what the model said, what was alarming.

One :class:`History` belongs to one thread; a training run writes through
:class:`~introspection_probe.history.writer.HistoryWriter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import Connection

from introspection_probe.history import reading, writing
from introspection_probe.history.database import Database
from introspection_probe.history.migrate import ensure_schema
from introspection_probe.history.rows import AlertRow, ExampleRow, MixedLosses, RunRow, ScoredRound
from introspection_probe.history.texts import Texts
from introspection_probe.records import Alert, LossTerm, MeanLoss, Probe, Rollout, Round, RunInfo, RunStatus
from introspection_probe.scoring.counts import RoundScores

T = TypeVar("T")


class History:
    """An open history; a context manager. Every method is one transaction.

    Every method raises :class:`~introspection_probe.history.database.HistoryUnavailableError` while the database is
    locked, full, unwritable or down. Texts longer than 4,000 characters are stored cut, saying so.
    """

    def __init__(self, database: Database) -> None:
        """For :meth:`open`, which also brings the schema up to date."""
        self._database = database
        self._texts = Texts()

    @classmethod
    def open(cls, db: str | Path | None = None, *, must_exist: bool = False) -> Self:
        """Open the history, making or upgrading its tables where needed.

        Args:
            db: an SQLAlchemy URL or a file path; None means the environment's ``IPROBE_DB``, or else
                ``introspection.db`` in the working directory.
            must_exist: for reading commands: never create a file or a table.

        Raises:
            NotThereError: no history there (with ``must_exist``).
            IntrospectionError: a directory, a damaged file, a newer schema, a driver that is not installed, a
                malformed URL.
        """
        database = Database(db, must_exist=must_exist)
        try:
            ensure_schema(database, must_exist=must_exist)
        except BaseException:
            database.close()
            raise
        return cls(database)

    @property
    def shown(self) -> str:
        """How messages name this history: the file's path, or the URL without its password."""
        return self._database.shown

    def close(self) -> None:
        """Close the connections."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start_run(self, info: RunInfo, *, after_step: int | None = None) -> int:
        """Begin the run, or go on with the one of the same uid; its id. Its status becomes ``"running"``.

        Args:
            after_step: the step of the checkpoint that the run goes on from. What the history holds of later steps
                came to nothing and is removed; an alert that was cleared there stands again.
        """
        return self._write(lambda connection: writing.start_run(connection, info, after_step=after_step))

    def save_probe_set(
        self,
        run_id: int,
        *,
        content_hash: str,
        name: str,
        task: str,
        model: str,
        manifest: Mapping[str, Any],
        probes: Sequence[Probe],
    ) -> int:
        """Keep what a report shows of a probe set, and link it to the run; its id.

        Idempotent on ``content_hash``. Of ``probes`` only the ``probe`` split is kept: rounds measure no other.

        Raises:
            IntrospectionError: no such run.
        """
        return self._write(
            lambda connection: writing.save_probe_set(
                connection,
                self._texts,
                run_id,
                content_hash=content_hash,
                name=name,
                task=task,
                model=model,
                manifest=manifest,
                probes=probes,
            )
        )

    def record_round(self, run_id: int, round_: Round, scores: Mapping[str, RoundScores]) -> None:
        """Keep a round and its scores by task. A round taken again at the same step replaces the earlier one.

        Raises:
            IntrospectionError: no such run, a duration that is NaN, a start without timezone.
        """
        self._write(lambda connection: writing.record_round(connection, self._texts, run_id, round_, scores))

    def record_losses(self, run_id: int, step: int, losses: Mapping[LossTerm, MeanLoss]) -> None:
        """Keep the mixed losses of the optimizer steps since the last ones kept, up to ``step``, by term.

        Raises:
            IntrospectionError: no such run.
        """
        self._write(lambda connection: writing.record_losses(connection, run_id, step, losses))

    def update_run(
        self,
        run_id: int,
        *,
        step: int | None = None,
        status: RunStatus | None = None,
        overhead: float | None = None,
    ) -> None:
        """Note what is new about the run, and that it lives; without arguments it is a heartbeat.

        Raises:
            IntrospectionError: no such run, an overhead that is NaN.
        """
        self._write(
            lambda connection: writing.update_run(connection, run_id, step=step, status=status, overhead=overhead)
        )

    def record_alert(self, run_id: int, alert: Alert) -> None:
        """Raise an alert, restate one that stands, or with ``active=False`` clear it.

        Raises:
            IntrospectionError: no such run.
        """
        self._write(lambda connection: writing.record_alert(connection, run_id, alert))

    def runs(self, limit: int | None = None) -> list[RunRow]:
        """The runs, the most recently started (or resumed) first."""
        return self._read(lambda connection: reading.runs(connection, limit))

    def latest_of_each_name(self, limit: int | None = None) -> list[RunRow]:
        """Of every name the run that was started (or resumed) last; the latest ``limit`` names first."""
        return self._read(lambda connection: reading.latest_of_each_name(connection, limit))

    def find_run(self, ref: str | None) -> RunRow:
        """The run that a person means by ``ref``: None for the latest, an id, a name, the start of a uid.

        Of several runs with one name it is the latest.

        Raises:
            NotThereError: there is none; the message names close ones.
            IntrospectionError: the start of a uid fits several.
        """
        return self._read(lambda connection: reading.find_run(connection, ref, self.shown))

    def rounds(self, run_id: int, *, since_step: int | None = None) -> list[ScoredRound]:
        """The counts of the run's rounds in order of step, from ``since_step`` on. Reads no rollouts."""
        return self._read(lambda connection: reading.rounds(connection, run_id, since_step))

    def longest_rounds(self, run_ids: Sequence[int]) -> dict[int, float]:
        """The duration of each run's longest round, in seconds; runs without a round are left out."""
        return self._read(lambda connection: reading.longest_rounds(connection, run_ids))

    def losses(self, run_id: int) -> list[MixedLosses]:
        """The run's mixed losses from round to round, in order of step; empty for a run that mixes nothing in."""
        return self._read(lambda connection: reading.losses(connection, run_id))

    def content_hashes(self, run_id: int) -> frozenset[str]:
        """The content hashes of the probe sets that the run was measured with."""
        return self._read(lambda connection: reading.content_hashes(connection, run_id))

    def rollouts(self, run_id: int, step: int, *, task: str | None = None) -> list[Rollout]:
        """The rollouts of a round, in the order of the probe set; empty when there is no such round or task.

        With ``task``, a round of several tasks needs their probe sets saved to tell the examples apart.
        """
        return self._read(lambda connection: reading.rollouts(connection, run_id, step, task))

    def disagreements(
        self, run_id: int, step: int, *, task: str | None = None, limit: int | None = 20
    ) -> list[ExampleRow]:
        """The examples of a round whose predicted explanation is not the model's own behaviour, at most ``limit``."""
        return self._read(lambda connection: reading.disagreements(connection, run_id, step, task, limit))

    def examples(self, run_id: int, step: int, *, task: str | None = None) -> list[ExampleRow]:
        """All examples of a round with what their probes say, in the order of the probe set.

        Empty when there is no such round or task.
        """
        return self._read(lambda connection: reading.examples(connection, run_id, step, task))

    def matches(self, run_id: int, step: int, *, task: str | None = None) -> dict[int, bool]:
        """Of a round, example by example: is the predicted explanation the model's own behaviour?

        The keys are this history's numbers of the examples, the same in every round and run. Reads no text, so it
        costs a millisecond for a thousand examples. Empty when there is no such round or task.
        """
        return self._read(lambda connection: reading.matches(connection, run_id, step, task))

    def alerts(self, run_id: int, *, active_only: bool = False) -> list[AlertRow]:
        """The run's alerts in the order they were raised."""
        return self._read(lambda connection: reading.alerts(connection, run_id, active_only=active_only))

    def _read(self, fn: Callable[[Connection], T]) -> T:
        with self._database.reading() as connection:
            return fn(connection)

    def _write(self, fn: Callable[[Connection], T]) -> T:
        def attempt(connection: Connection) -> T:
            self._texts.begin()
            return fn(connection)

        result = self._database.write(attempt)
        self._texts.keep()
        return result
