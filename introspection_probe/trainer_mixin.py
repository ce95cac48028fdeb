"""For hosts whose backward a callback cannot reach (DeepSpeed): the same term inside the host's own loss."""

from __future__ import annotations

from typing import Any

from torch import nn

from introspection_probe.callback import IntrospectionCallback
from introspection_probe.errors import IntrospectionError


class IntrospectionTrainerMixin:
    """Adds the mixed loss of the trainer's :class:`IntrospectionCallback` in ``compute_loss``.

    Example::

        class Trainer(IntrospectionTrainerMixin, SFTTrainer): ...

        Trainer(model, ..., callbacks=[IntrospectionCallback("probes/hint-mmlu")])

    The term joins the first micro-batch of each optimizer step, so it counts once whatever the accumulation.

    Raises:
        IntrospectionError: the trainer was made without exactly one such callback.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        found = [c for c in self._handler.callbacks if isinstance(c, IntrospectionCallback)]
        if len(found) != 1:
            raise IntrospectionError(
                f"IntrospectionTrainerMixin found {len(found)} IntrospectionCallbacks: pass exactly one in callbacks"
            )
        self._introspection = found[0]
        self._introspection.loss_is_added_by_trainer = True

    @property
    def _handler(self) -> Any:
        return self.callback_handler  # type: ignore[attr-defined]

    @property
    def _bare_model(self) -> nn.Module:
        return self.model  # type: ignore[attr-defined,no-any-return]

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The host's loss, plus the mixed loss of the step that has begun."""
        host: Any = super()
        found = host.compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        if not model.training:
            return found
        # Not ``model``, which may be wrapped (DDP): gradients are reduced by hooks on the parameters themselves.
        extra = self._introspection.mixed_loss(self._bare_model)
        if extra is None:
            return found
        extra = extra * self._later_division(num_items_in_batch)
        return (found[0] + extra, found[1]) if return_outputs else found + extra

    def _later_division(self, num_items_in_batch: Any) -> int:
        """What ``training_step`` will divide the loss by: the accumulation, unless the loss is normalized already."""
        trainer: Any = self
        normalized = getattr(trainer, "loss_is_scaled_for_ga", None)  # a trainer may say so itself
        if normalized is None:
            by_items = trainer.model_accepts_loss_kwargs and num_items_in_batch is not None
            normalized = by_items or trainer.compute_loss_func is not None
        return 1 if normalized else int(trainer.current_gradient_accumulation_steps)
