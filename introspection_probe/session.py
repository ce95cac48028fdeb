"""One ``train()`` call: everything that exists between train begin and train end."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import TrainerState, TrainingArguments

from introspection_probe import host
from introspection_probe.baseline import not_m0, read_baseline
from introspection_probe.config import IntrospectionConfig
from introspection_probe.doctor import train_begin_findings
from introspection_probe.ending import Ending
from introspection_probe.guard import Guard
from introspection_probe.mixture import Ingredient, Mixture, ToBuild
from introspection_probe.numbers import PREFIX, round_numbers
from introspection_probe.observers import Observers
from introspection_probe.preparing import model_name, prepare
from introspection_probe.records import LossTerm, MeanLoss, Round, RunInfo, RunStatus
from introspection_probe.rollout import Prober, distributed, encode_set
from introspection_probe.run_folder import RunFolder
from introspection_probe.scoring.counts import RoundScores
from introspection_probe.scoring.rounds import score_by_task
from introspection_probe.training import Mixer, MixExample, MixLosses, Share

logger = logging.getLogger("introspection_probe")

_HEARTBEAT_S = 30.0


class Session:
    """One ``train()`` call: everything that exists between train begin and train end."""

    def __init__(
        self,
        config: IntrospectionConfig,
        ingredients: Sequence[Ingredient],
        args: TrainingArguments,
        state: TrainerState,
        model: nn.Module,
        tokenizer: Any,
    ) -> None:
        self._config = config
        self._is_main = state.is_world_process_zero
        self.guard = Guard(config.on_error)
        self.folder = distributed.on_main(lambda: RunFolder.begin(host.output_dir(args), state.global_step))
        self._began_at = state.global_step
        host.check_model(model)
        mixture = prepare(ingredients, config, self.folder, model, tokenizer)
        if self._is_main:
            if self._began_at and not self.folder.resumed:
                logger.warning(_not_from_m0(self._began_at, self.folder.path))
            built = () if self.folder.resumed else {i.name for i in ingredients if isinstance(i.source, ToBuild)}
            for warning in train_begin_warnings(config, mixture, args, model, tokenizer, built):
                logger.warning(warning)
        baseline = distributed.on_main(lambda: read_baseline(config, mixture, self.folder.uid, self.guard))
        self._probes = mixture.measured(config.max_probes)
        self._prober = Prober(
            tokenizer,
            [
                encoded
                for part in mixture.parts
                for encoded in encode_set(tokenizer, part.probe_set, part.measured(config.max_probes))
            ],
            path=config.path,
            token_budget=config.token_budget,
        )
        self.mixer = self._make_mixer(mixture, model, tokenizer, state) if config.mixes else None
        self.observers: Observers | None = None
        self._ending: Ending | None = None
        if self._is_main:
            self.observers = Observers(
                _run_info(config, args, model, self.folder.uid, mixture),
                config,
                self.guard,
                mixture=mixture,
                report_to=args.report_to or [],
                output_dir=host.output_dir(args),
                baseline=baseline,
                after_step=state.global_step if self.folder.resumed else None,
            )
            self._ending = Ending(self, self.observers.close)
        self.should_stop = False
        self.last_round: int | None = None
        self.pending_step: int | None = None
        self.mixed_step: int | None = None
        self._losses = _LossMeter()
        self._losses_since_round = _LossMeter()
        self._fresh: dict[str, float] = {}
        self._began = time.perf_counter()
        self._beat = 0.0
        self._spent = 0.0
        self._last_duration = 0.0

    def _make_mixer(self, mixture: Mixture, model: nn.Module, tokenizer: Any, state: TrainerState) -> Mixer:
        config = self._config
        end_token = host.end_token_of(tokenizer)
        examples: list[MixExample] = []
        shares: list[Share] = []
        for part in mixture.parts:
            train = part.taught()
            shares.append(Share(len(train), part.weight))
            examples += [
                MixExample.of(encoded, probe.behavior, probe.labels[config.supervision], end_token)
                for encoded, probe in zip(encode_set(tokenizer, part.probe_set, train), train, strict=True)
            ]
        packed = self._prober.uses_packing(model)
        mixer = Mixer(examples, config, content_hash=mixture.content_hash, packed=packed, shares=shares)
        if config.kl_weight > 0:
            if self.folder.resumed:
                mixer.load_reference(self.folder.reference)
            else:
                ahead = state.max_steps - state.global_step
                mixer.capture_reference(model, self.folder.reference, steps=ahead, first=state.global_step)
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
        is_first = self.last_round is None and not self.folder.resumed
        with self.guard("a round"):
            round_ = self._prober.measure(model, step=step, progress=lambda _: self._show_life(step))
            asked = round_.measured(self._probes)
            taken = round_, score_by_task(round_.rollouts, asked, supervision=self._config.supervision)
        self.last_round = step
        self._last_duration = time.perf_counter() - clock
        self._spent += self._last_duration
        stop = False
        self._tell_losses(step)
        if self.observers is not None:
            with self.guard("telling of a round"):
                stop = self._tell(self.observers, taken, is_first=is_first and step == self._began_at)
        # Every process has to stop at the same step; only rank 0 judges.
        self.should_stop = distributed.broadcast(stop) if self._may_stop else False

    def _tell(
        self, observers: Observers, taken: tuple[Round, dict[str, RoundScores]] | None, *, is_first: bool
    ) -> bool:
        if taken is None:
            observers.round_failed()
            return False
        round_, scores = taken
        if is_first:
            for warning in not_m0("the model", scores):
                logger.warning(warning)
        self._fresh = round_numbers(scores)
        return observers.round_taken(round_, scores, self._fresh, self.overhead)

    def _tell_losses(self, step: int) -> None:
        losses = self._losses_since_round.drain()
        if self.observers is not None and losses:
            self.observers.losses_since_round(step, losses)

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
        self._losses_since_round.add(losses)

    def beat(self, step: int) -> None:
        """Let readers see that the run lives, also where the host logs seldom, and whether rounds are overdue."""
        if self.observers is None:
            return
        self.observers.between_rounds(step, every=self._config.probe_every, began=self._began_at)
        self._show_life(step)

    def _show_life(self, step: int) -> None:
        now = time.perf_counter()
        if self.observers is not None and now - self._beat >= _HEARTBEAT_S:
            self._beat = now
            self.observers.heartbeat(step)

    def numbers_to_log(self, step: int) -> dict[str, float]:
        """Mean losses since the last call, and the last round's numbers when they are new."""
        losses: dict[str, float] = {term: loss.mean for term, loss in self._losses.drain().items()}
        numbers = {f"{PREFIX}{term}_loss": value for term, value in losses.items()}
        if self.observers is not None:
            self.observers.heartbeat(step, losses)
            if numbers:
                self.observers.track(numbers, step)
        numbers.update(self._fresh)
        self._fresh = {}
        return numbers

    def close(self, status: RunStatus, step: int | None = None) -> None:
        """Flush and shut down."""
        if self._ending is not None:
            self._ending.cancel()
        if step is not None:
            self._tell_losses(step)
        if self.observers is not None:
            self.observers.close(status, step)


class _LossMeter:
    """Sums on the device, read only when somebody asks: no synchronization in between."""

    def __init__(self) -> None:
        self._sums: dict[LossTerm, Tensor] = {}
        self._counts: dict[LossTerm, int] = {}

    def add(self, losses: MixLosses) -> None:
        terms: tuple[tuple[LossTerm, Tensor | None], ...] = (("explanation", losses.explanation), ("kl", losses.kl))
        for term, value in terms:
            if value is not None:
                self._sums[term] = self._sums[term] + value if term in self._sums else value
                self._counts[term] = self._counts.get(term, 0) + 1

    def drain(self) -> dict[LossTerm, MeanLoss]:
        """The means since the last call."""
        counts = self._counts
        means = {term: MeanLoss(float(total) / counts[term], counts[term]) for term, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def train_begin_warnings(
    config: IntrospectionConfig,
    mixture: Mixture,
    args: TrainingArguments,
    model: nn.Module,
    tokenizer: Any,
    just_built: Iterable[str],
) -> list[str]:
    """Everything that is known at train begin to stand in the way, a sentence each.

    Args:
        just_built: names of the sets that this run built, of which building has said what is wrong with the behaviour.
    """
    found = train_begin_findings(
        {part.name: part.probe_set for part in mixture.parts},
        host.settings(config, args, model),
        model=model,
        tokenizer=tokenizer,
        just_built=just_built,
    )
    return [finding.sentence for finding in found]


def _not_from_m0(step: int, folder: Path) -> str:
    return (
        f"the run goes on at step {step}, and neither its checkpoint nor {folder} says which introspection run it "
        "belongs to: a new one begins here, with the model as it is now for M0"
    )


def _run_info(
    config: IntrospectionConfig, args: TrainingArguments, model: nn.Module, uid: str, mixture: Mixture
) -> RunInfo:
    # What may hold a password stays out: the database's URL, the Pushgateway's, the webhooks'.
    secret = ("db", "prometheus", "on_alert")
    shown = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in secret}
    return RunInfo(
        uid=uid,
        name=config.run_name or args.run_name or host.output_dir(args).resolve().name,
        model=model_name(model),
        tasks=mixture.tasks,
        config={
            "introspection": shown,
            "host": host.facts(args, model),
            "probe_set": mixture.content_hash,
            "mixture": mixture.facts(),
        },
    )
