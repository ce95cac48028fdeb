"""The sidecar for a run one must not touch: measures its checkpoints as they appear, in a process of its own.

Nothing is ever written into the run's folder, and the run does not know. What was measured is remembered by the history
alone, so a restarted follower goes on where the history ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from introspection_probe.baseline import not_m0, read_baseline
from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.follow.backlog import ATTEMPTS, Backlog
from introspection_probe.follow.checkpoints import Checkpoint, Sighting, look
from introspection_probe.follow.loading import CheckpointLoader
from introspection_probe.guard import Guard
from introspection_probe.history import History
from introspection_probe.mixture import Mixture, Part
from introspection_probe.numbers import round_numbers
from introspection_probe.observers import Observers
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Round, RunInfo, RunStatus
from introspection_probe.rollout import Prober, encode_set
from introspection_probe.run_folder import offline_uid
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.rounds import score_by_task

logger = logging.getLogger("introspection_probe")

SETTLE_S = 2.0
"""A whole checkpoint has to stay unchanged for this long (or for ``poll_s``, if that is less) before it is taken."""

_HEARTBEAT_S = 30.0

Note = Callable[[str], None]
Measured = Callable[[str, Round, Mapping[str, RoundScores]], None]
Progress = Callable[[str, int, int], None]


class Follower:
    """Follows one run's output folder.

    Args:
        output_dir: where the run writes its checkpoints; need not exist yet.
        probe_set: what to measure.
        config: ``db``, ``run_name``, ``prometheus_port``, ``prometheus_host``, ``token_budget``, ``path``,
            ``max_probes``, ``supervision`` and those on alarms are used; nothing is trained.
        base: M0: measured first, as step 0, and what LoRA adapters are put on.
        tokenizer: what reads the probes, as a folder or hub name; default: the checkpoint's own, else the base's.
        device: where to measure. The run's own accelerators are best left to the run.
        poll_s: seconds between two looks at the folder.
        note: told in a sentence what was skipped, lost or found broken.
        measured: told of each round: the checkpoint's name, the round, the scores by task.
        progress: told how far a round is: the checkpoint's name, probes done, probes in all.
    """

    def __init__(
        self,
        output_dir: str | Path,
        probe_set: ProbeSet,
        config: IntrospectionConfig | None = None,
        *,
        base: str | None = None,
        tokenizer: str | None = None,
        device: str | None = "cpu",
        dtype: str | None = None,
        poll_s: float = 30.0,
        note: Note = logger.info,
        measured: Measured = lambda name, round_, scores: None,
        progress: Progress = lambda name, done, total: None,
    ) -> None:
        if poll_s <= 0:
            raise IntrospectionError(f"the time between two looks is {poll_s:g} s; it must be more than 0")
        self._output_dir = Path(output_dir)
        if self._output_dir.exists() and not self._output_dir.is_dir():
            raise IntrospectionError(f"{output_dir} is a file: give the folder that the run writes checkpoints into")
        self._config = config or IntrospectionConfig()
        self._probe_set = probe_set
        self._mixture = Mixture((Part(probe_set.task, probe_set),))
        self._probes = self._mixture.measured(self._config.max_probes)
        self._base, self._poll_s, self._settle_s = base, poll_s, min(poll_s, SETTLE_S)
        self._loader = CheckpointLoader(base=base, device=device, dtype=dtype, tokenizer=tokenizer)
        self._tell, self._measured, self._progress = note, measured, progress
        self._info = RunInfo(
            uid=offline_uid(str(self._output_dir.resolve()), probe_set.content_hash),
            name=self._config.run_name or self._output_dir.resolve().name,
            model=probe_set.manifest.model,
            tasks=self._mixture.tasks,
            kind="offline",
            config={"followed": str(self._output_dir), "probe_set": probe_set.content_hash},
        )
        self._prober: Prober | None = None
        self._read_as: object = None
        self._unreadable = False
        self._looked_at = 0.0
        self._beat_at = 0.0
        self.rounds = 0
        self.given_up = 0

    def run(self, *, once: bool = False, until_step: int | None = None) -> None:
        """Follow until the step, or with ``once`` until everything that is there now was measured; else for ever.

        Raises:
            IntrospectionError: the history cannot be opened, the base does not load, the first checkpoint reads the
                probes otherwise than the set was built for; with ``once``, there is no such folder.
            KeyboardInterrupt: somebody ended it; everything is written out by then.
        """
        if once and not self._output_dir.is_dir():
            raise IntrospectionError(f"there is no folder {self._output_dir}: give the one the run writes into")
        guard = Guard(self._config.on_error)
        baseline = read_baseline(self._config, self._mixture, self._info.uid, guard)
        with History.open(self._config.db) as history:
            run_id = history.start_run(self._info)
            known = {round_.step: round_.started_at.timestamp() for round_ in history.rounds(run_id)}
        self._backlog = Backlog(known, settle_s=self._settle_s, attempts=1 if once else ATTEMPTS)
        self._observers = Observers(
            self._info,
            self._config,
            guard,
            mixture=self._mixture,
            report_to=[],
            output_dir=self._output_dir,
            baseline=baseline,
            after_step=max(known, default=None),
        )
        if self._observers.port is not None:
            self._tell(f"metrics are served on http://{self._config.prometheus_host}:{self._observers.port}/metrics")
        status: RunStatus = "failed"
        try:
            if self._base is not None and 0 not in known:
                self._measure_base()
            if once:
                self._catch_up()
            else:
                self._follow(until_step)
            status = "finished"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            self._loader.release()
            self._observers.close(status, self._backlog.largest_step)

    def _follow(self, until_step: int | None) -> None:
        while True:
            self._look()
            now = time.monotonic()
            checkpoint = self._backlog.next(now)
            if checkpoint is not None:
                self._take(checkpoint)
                continue
            if until_step is not None and self._backlog.passed(until_step, now):
                return
            if now - self._beat_at >= _HEARTBEAT_S:
                self._observers.heartbeat(self._backlog.largest_step)
                self._beat_at = now
            time.sleep(self._settle_s if self._backlog.unsettled(now) else self._poll_s)

    def _catch_up(self) -> None:
        while True:
            self._look()
            checkpoint = self._backlog.next(time.monotonic(), patient=False)
            if checkpoint is not None:
                self._take(checkpoint)
            elif self._backlog.unsettled(time.monotonic()):
                time.sleep(self._settle_s)
            else:
                break
        if not self._backlog.largest_step:
            self._tell(f"there is no checkpoint in {self._output_dir}")
        for sighting in self._backlog.left():
            if sighting.lacking is not None:
                self._tell(f"skipped {sighting.checkpoint.name}: it {sighting.lacking}")

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        try:
            sightings = look(self._output_dir)
        except OSError as error:
            # Not a look at an empty folder: what is on a file system that went away is not deleted.
            if not self._unreadable:
                reason = "is not there yet" if isinstance(error, FileNotFoundError) else f"{error.strerror or error}"
                self._tell(f"waiting for {self._output_dir}: {reason}")
            self._unreadable = True
            return
        self._unreadable = False
        for news in self._backlog.look(sightings, time.monotonic()):
            self._tell(news)

    def _take(self, checkpoint: Checkpoint) -> None:
        """Measure one checkpoint, or note why not."""
        taken = self._backlog.take(checkpoint)
        try:
            model, tokenizer = self._loader.load(checkpoint.folder)
            self._look()
            if not self._backlog.is_as(taken):
                raise IntrospectionError("it was written again while it was being loaded")
            self._check_tokenizer(tokenizer, checkpoint.name)
            round_ = self._measure(model, tokenizer, checkpoint.step, checkpoint.name)
        except _WrongTokenizerError:
            raise
        except Exception as error:  # loading fails in as many ways as files can be broken
            self._failed(taken, error)
            return
        self._backlog.measured(taken, round_.started_at.timestamp())

    def _measure_base(self) -> None:
        model, tokenizer = self._loader.base()
        self._check_tokenizer(tokenizer, str(self._base))
        self._measure(model, tokenizer, 0, f"the base {self._base}")

    def _measure(self, model: nn.Module, tokenizer: Any, step: int, name: str) -> Round:
        prober = self._prober_for(tokenizer)
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._progress(name, done, len(self._probes))
            # A round may take longer than the run keeps a checkpoint: see them come and go.
            if time.monotonic() - self._looked_at >= self._poll_s:
                self._look()

        round_ = prober.measure(model, step=step, progress=advance)
        asked = round_.measured(self._probes)
        scores = score_by_task(round_.rollouts, asked, supervision=self._config.supervision)
        if step == 0:
            for warning in not_m0(name, scores):
                self._tell(warning)
        # The run paid nothing for it: its overhead is 0 whatever the round took here.
        self._observers.round_taken(round_, scores, round_numbers(scores), 0.0)
        self._observers.heartbeat(max(self._backlog.largest_step, step))
        self.rounds += 1
        self._measured(name, round_, scores)
        return round_

    def _prober_for(self, tokenizer: Any) -> Prober:
        """One prober for all checkpoints, since they read the probes alike; a new one where the end token changed."""
        if self._prober is None or tokenizer.eos_token_id != self._read_as:
            encoded = encode_set(tokenizer, self._probe_set, self._probes)
            self._prober = Prober(tokenizer, encoded, path=self._config.path, token_budget=self._config.token_budget)
            self._read_as = tokenizer.eos_token_id
        return self._prober

    def _check_tokenizer(self, tokenizer: Any, name: str) -> None:
        try:
            self._probe_set.check_tokenizer(tokenizer)
        except IntrospectionError as error:
            if self._prober is None:  # the first thing looked at: the probe set is not this run's
                raise _WrongTokenizerError(f"{name} cannot be measured: {error}") from error
            raise

    def _failed(self, taken: Sighting, error: Exception) -> None:
        name = taken.checkpoint.name
        logger.debug("measuring %s failed", name, exc_info=error)
        self._look()
        becomes = self._backlog.failed(taken, time.monotonic(), self._poll_s)
        if becomes == "deleted":
            self._tell(f"skipped {name}: it was deleted while it was being loaded")
            return
        self._observers.round_failed()
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:400]
        if becomes == "given up":
            self.given_up += 1
            self._tell(f"{name} cannot be measured and is given up: {reason}")
        elif self._backlog.is_first_failure(taken.checkpoint):
            self._tell(f"{name} cannot be measured and is tried again later: {reason}")


class _WrongTokenizerError(IntrospectionError):
    """The probe set does not belong to the run: no checkpoint of it can be measured."""
