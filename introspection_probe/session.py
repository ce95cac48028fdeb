"""One ``train()`` call: everything that exists between train begin and train end."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from introspection_probe import host
from introspection_probe.baseline import not_m0
from introspection_probe.building import build_probe_set
from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.guard import Guard
from introspection_probe.numbers import PREFIX, round_numbers
from introspection_probe.observers import Observers
from introspection_probe.probe_set import ProbeSet
from introspection_probe.records import Probe, Round, RunInfo
from introspection_probe.rollout import Prober, distributed, encode_probes
from introspection_probe.run_folder import RunFolder
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.rounds import score_by_task
from introspection_probe.tasks import get_task, task_names
from introspection_probe.training import Mixer, MixExample, MixLosses

logger = logging.getLogger("introspection_probe")

_HEARTBEAT_S = 30.0


class Session:
    """One ``train()`` call: everything that exists between train begin and train end."""

    def __init__(
        self,
        config: IntrospectionConfig,
        source: ProbeSet | TaskName,
        args: TrainingArguments,
        state: TrainerState,
        model: nn.Module,
        tokenizer: Any,
    ) -> None:
        self._config = config
        self._is_main = state.is_world_process_zero
        self.guard = Guard(config.on_error)
        self.folder = distributed.on_main(lambda: RunFolder.begin(host.output_dir(args), state.global_step))
        probe_set = self._probe_set(source, model, tokenizer)
        if config.supervision not in probe_set.label_sets:
            raise IntrospectionError(
                f"supervision is {config.supervision!r}; the probe set has the label sets "
                f"{', '.join(probe_set.label_sets)}"
            )
        self._probes = probe_set.split("probe")[: config.max_probes]
        self._prober = Prober(
            tokenizer,
            _encode(tokenizer, probe_set, self._probes),
            path=config.path,
            token_budget=config.token_budget,
        )
        self.mixer = self._make_mixer(probe_set, model, tokenizer, args, state) if config.mixes else None
        self.observers: Observers | None = None
        if self._is_main:
            self.observers = Observers(
                _run_info(config, args, model, self.folder.uid, probe_set),
                config,
                self.guard,
                probe_set=probe_set,
                name=probe_set.task,
                probes=self._probes,
                report_to=args.report_to or [],
                output_dir=host.output_dir(args),
                after_step=state.global_step if self.folder.resumed else None,
            )
        self.should_stop = False
        self.last_round: int | None = None
        self.pending_step: int | None = None
        self._losses = _LossMeter()
        self._fresh: dict[str, float] = {}
        self._began = time.perf_counter()
        self._beat = 0.0
        self._spent = 0.0
        self._last_duration = 0.0

    def _probe_set(self, source: ProbeSet | TaskName, model: nn.Module, tokenizer: Any) -> ProbeSet:
        if isinstance(source, ProbeSet):
            source.check_tokenizer(tokenizer)
            return source
        if self.folder.resumed and self.folder.probes.exists():
            # M0 is gone: a set built now would describe another model.
            probe_set = ProbeSet.load(self.folder.probes)
            probe_set.check_tokenizer(tokenizer)
            return probe_set
        logger.info("building a probe set for %s from the model itself", source.name)
        # Every process builds it: the measuring is shared among them and the rest is a function of the seed.
        probe_set, summary = build_probe_set(
            get_task(source.name), model, tokenizer, n=self._config.n_examples, seed=self._config.seed
        )
        for warning in summary.warnings:
            logger.warning(warning)
        if distributed.rank() == 0:
            _replace_folder(probe_set, self.folder.probes)
        distributed.barrier()
        return probe_set

    def _make_mixer(
        self, probe_set: ProbeSet, model: nn.Module, tokenizer: Any, args: TrainingArguments, state: TrainerState
    ) -> Mixer:
        config = self._config
        train = probe_set.split("train")
        end_token = host.end_token_of(tokenizer)
        examples = [
            MixExample.of(encoded, probe.behavior, probe.labels[config.supervision], end_token)
            for encoded, probe in zip(_encode(tokenizer, probe_set, train), train, strict=True)
        ]
        packed = self._prober.uses_packing(model)
        mixer = Mixer(examples, config, content_hash=probe_set.content_hash, packed=packed)
        if config.kl_weight > 0:
            if self.folder.resumed:
                mixer.load_reference(self.folder.reference)
            else:
                mixer.capture_reference(model, self.folder.reference, steps=state.max_steps - state.global_step)
        return mixer

    def is_due(self, step: int) -> bool:
        """Whether a round is to be taken at this step, given what rounds have cost so far."""
        if step % self._config.probe_every or step == self.last_round:
            return False
        if self._config.max_overhead is None:
            return True
        after = time.perf_counter() - self._began + self._last_duration
        fits = (self._spent + self._last_duration) / after <= self._config.max_overhead
        return distributed.broadcast(fits)

    def take_round(self, model: nn.Module, step: int) -> None:
        """Measure, score, tell."""
        clock = time.perf_counter()
        taken: tuple[Round, dict[str, RoundScores]] | None = None
        with self.guard("a round"):
            round_ = self._prober.measure(model, step=step)
            taken = round_, score_by_task(round_.rollouts, self._probes, supervision=self._config.supervision)
        self.last_round = step
        self._last_duration = time.perf_counter() - clock
        self._spent += self._last_duration
        stop = False
        if self.observers is not None:
            stop = self._tell(self.observers, taken)
        # Every process has to stop at the same step; only rank 0 judges.
        self.should_stop = distributed.broadcast(stop) if self._may_stop else False

    def _tell(self, observers: Observers, taken: tuple[Round, dict[str, RoundScores]] | None) -> bool:
        if taken is None:
            observers.round_failed()
            return False
        round_, scores = taken
        if round_.step == 0:
            for warning in not_m0("the model", scores):
                logger.warning(warning)
        self._fresh = round_numbers(scores)
        return observers.round_taken(round_, scores, self._fresh, self.overhead)

    @property
    def _may_stop(self) -> bool:
        asked = self._config.on_alert
        return asked == "stop" or (isinstance(asked, Sequence) and "stop" in asked)

    @property
    def overhead(self) -> float:
        """Share of the wall time since train begin that rounds took."""
        return self._spent / max(time.perf_counter() - self._began, 1e-9)

    def mixed(self, losses: MixLosses) -> None:
        """Remember a step's losses until the host logs."""
        self._losses.add(losses)

    def beat(self, step: int) -> None:
        """Let readers see that the run lives, also where the host logs seldom."""
        now = time.perf_counter()
        if self.observers is not None and now - self._beat >= _HEARTBEAT_S:
            self._beat = now
            self.observers.heartbeat(step)

    def numbers_to_log(self, step: int) -> dict[str, float]:
        """Mean losses since the last call, and the last round's numbers when they are new."""
        losses = self._losses.drain()
        numbers = {f"{PREFIX}{term}_loss": value for term, value in losses.items()}
        if self.observers is not None:
            self.observers.step_done(step, losses)
            if numbers:
                self.observers.track(numbers, step)
        numbers.update(self._fresh)
        self._fresh = {}
        return numbers

    def close(self, status: Any, step: int) -> None:
        """Flush and shut down."""
        if self.observers is not None:
            self.observers.close(status, step)


@dataclass(frozen=True, slots=True)
class TaskName:
    """A task whose probe set is to be built from the model itself."""

    name: str


class _LossMeter:
    """Sums on the device, read only when somebody asks: no synchronization in between."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: MixLosses) -> None:
        for term, value in (("explanation", losses.explanation), ("kl", losses.kl)):
            if value is not None:
                self._sums[term] = self._sums[term] + value if term in self._sums else value
                self._counts[term] = self._counts.get(term, 0) + 1

    def drain(self) -> dict[str, float]:
        means = {term: float(total) / self._counts[term] for term, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def _encode(tokenizer: Any, probe_set: ProbeSet, probes: tuple[Probe, ...]) -> list[Any]:
    return encode_probes(
        tokenizer,
        [probe.example for probe in probes],
        [probe.rendered for probe in probes],
        answer_prefix=probe_set.style.answer_prefix,
    )


def _run_info(
    config: IntrospectionConfig, args: TrainingArguments, model: nn.Module, uid: str, probe_set: ProbeSet
) -> RunInfo:
    # What may hold a password stays out: the database's URL, the Pushgateway's, the webhooks'.
    secret = ("db", "prometheus", "on_alert")
    shown = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in secret}
    facts = host.facts(args, model)
    return RunInfo(
        uid=uid,
        name=config.run_name or args.run_name or host.output_dir(args).resolve().name,
        model=str(getattr(model, "name_or_path", "") or type(model).__name__),
        tasks=(probe_set.task,),
        config={"introspection": shown, "host": facts, "probe_set": probe_set.content_hash},
    )


def _replace_folder(probe_set: ProbeSet, folder: Path) -> None:
    """An earlier run in the same output folder built its own set there."""
    import shutil

    if folder.exists():
        shutil.rmtree(folder)
    probe_set.save(folder)


def source_of(probes: ProbeSet | str | Path) -> ProbeSet | TaskName:
    """What a user named: a probe set, its folder, or a task.

    Raises:
        IntrospectionError: none of them.
    """
    if isinstance(probes, ProbeSet):
        return probes
    if not Path(probes).exists():
        if str(probes) in task_names():
            return TaskName(str(probes))
        raise IntrospectionError(
            f"{str(probes)!r} is neither a probe set's folder nor a task ({', '.join(task_names())}): "
            "make one with `iprobe build`"
        )
    return ProbeSet.load(probes)
