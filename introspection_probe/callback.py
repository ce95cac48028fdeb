"""IntrospectionCallback: Hugging Face trainer events in, calls to the rooms above out.

How a callback can train: in ``on_step_begin`` the gradients are zero and the host's first micro-batch has not run,
so a backward there is summed with the host's, clipped with it and counted in ``grad_norm``, once an optimizer step
whatever the accumulation.
"""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from introspection_probe import host
from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.mixture import Sources, read_ingredients
from introspection_probe.session import Session

logger = logging.getLogger("introspection_probe")


class IntrospectionCallback(TrainerCallback):  # type: ignore[misc]
    """Trains and measures a model's explanations inside any HF ``Trainer`` or TRL trainer.

    Example::

        trainer = SFTTrainer(model, args=args, train_dataset=data,
                             callbacks=[IntrospectionCallback("probes/hint-mmlu")])

    Args:
        probes: a probe set, its folder, or a task's name: then the set is built from the model itself at train
            begin, which has to be M0. Several tasks in one run: a list of these, ``(probes, weight)`` pairs, or a dict
            of folders and task names with their weights, which are shares of the mixed batch; a set of weight 0 is
            measured only.
        config: see :class:`IntrospectionConfig`.
        **overrides: fields of the configuration.

    Raises:
        IntrospectionError: unusable probe set or configuration; at train begin also where the host cannot be
            mixed into.
    """

    def __init__(self, probes: Sources, config: IntrospectionConfig | None = None, **overrides: Any) -> None:
        unknown = set(overrides) - {field.name for field in fields(IntrospectionConfig)}
        if unknown:
            raise IntrospectionError(
                f"IntrospectionConfig has no {min(unknown)!r}: its fields are "
                f"{', '.join(field.name for field in fields(IntrospectionConfig))}"
            )
        self.config = replace(config or IntrospectionConfig(), **overrides)
        self._ingredients = read_ingredients(probes, self.config.task_options)
        self._session: Session | None = None
        # An IntrospectionTrainerMixin takes the loss over: see trainer_mixin.py.
        self.loss_is_added_by_trainer = False

    @property
    def metrics_port(self) -> int | None:
        """The port that metrics are served on, once the run has begun."""
        observers = self._session.observers if self._session else None
        return observers.port if observers else None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Check the host, take M0's reference, take the baseline round."""
        if model is None:
            raise IntrospectionError("the trainer has no model at train begin")
        tokenizer = host.tokenizer_of(processing_class)
        if self.config.mixes and not self.loss_is_added_by_trainer:
            host.check_early_backward(args)
        if self._session is not None:
            # The train() before this one was left by an exception, which nobody tells a callback.
            self._session.close("failed")
            self._session = None
        self._session = Session(self.config, self._ingredients, args, state, model, tokenizer)
        if self.config.probe_at_start and not self._session.folder.resumed:
            self._session.take_round(model, state.global_step)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """Add the mixed loss's gradient to this step's, before the host's first backward."""
        session = self._begun()
        # Data without a length may end within an accumulation window, which then begins again in the next epoch.
        if session.mixer is None or session.mixed_step == state.global_step:
            return
        session.mixed_step = state.global_step
        assert model is not None
        if self.loss_is_added_by_trainer:
            session.pending_step = state.global_step
            return
        if callable(getattr(optimizer, "train", None)):
            optimizer.train()  # schedule-free optimizers keep other weights for evaluation
        session.mixed(session.mixer.backward(model, state.global_step, host.loss_scale(optimizer)))

    def mixed_loss(self, model: nn.Module) -> Tensor | None:
        """The weighted term of the step that has begun, once: for a trainer that adds it to its own loss."""
        session = self._session
        if session is None or session.mixer is None or session.pending_step is None:
            return None
        loss, losses = session.mixer.loss(model, session.pending_step)
        session.pending_step = None
        session.mixed(losses)
        return loss

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Take a round when one is due."""
        session = self._begun()
        assert model is not None
        session.beat(state.global_step)
        last = state.global_step >= state.max_steps or control.should_training_stop
        if (last and self.config.probe_at_end) or session.is_due(state.global_step):
            session.take_round(model, state.global_step)
            if session.should_stop:
                control.should_save = control.should_training_stop = True

    def on_epoch_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the last round where the run was ended after the step."""
        self._take_last_round(state, control, model)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add our numbers to the row that the host logs; an evaluation's row is not about the steps before it."""
        is_evaluation = any(name.endswith("_runtime") and name != "train_runtime" for name in logs or {})
        if self._session is None or logs is None or is_evaluation:
            return
        numbers = self._session.numbers_to_log(state.global_step)
        logs.update(numbers)
        if state.log_history:
            state.log_history[-1].update(numbers)

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Make the checkpoint resumable; take the last round where an evaluation has just ended the run."""
        self._take_last_round(state, control, model)
        if self._session is not None and state.is_world_process_zero:
            with self._session.guard("saving the run's identity"):
                self._session.folder.save_to_checkpoint(host.output_dir(args), state.global_step)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the last round unless it is taken, and write everything out."""
        session = self._begun()
        if self.config.probe_at_end and session.last_round != state.global_step and model is not None:
            if args.load_best_model_at_end and state.best_model_checkpoint is not None:
                logger.info("no last round: the trainer has put %s in the model's place", state.best_model_checkpoint)
            else:
                session.take_round(model, state.global_step)
        session.close("stopped" if session.should_stop else "finished", state.global_step)
        self._session = None

    def _take_last_round(self, state: TrainerState, control: TrainerControl, model: nn.Module | None) -> None:
        """A round of the last step's model, if the run is over and has none yet.

        Train end is too late: with ``load_best_model_at_end`` the model is another one by then.
        """
        session = self._session
        if session is None or model is None or not (self.config.probe_at_end and control.should_training_stop):
            return
        if session.last_round != state.global_step:
            session.take_round(model, state.global_step)

    def _begun(self) -> Session:
        if self._session is None:
            raise IntrospectionError(
                "IntrospectionCallback was added after training began: pass it in the trainer's callbacks"
            )
        return self._session
