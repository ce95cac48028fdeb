"""What the sidecar has to know of the trainer it rides on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import TrainingArguments

from introspection_probe.config import IntrospectionConfig
from introspection_probe.doctor.settings import Settings, steps_inside_backward
from introspection_probe.errors import IntrospectionError


def tokenizer_of(processing_class: Any) -> Any:
    """The text tokenizer of a trainer's processing class (which may be a multi-modal processor).

    Raises:
        IntrospectionError: the trainer was made without one.
    """
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if tokenizer is None or not hasattr(tokenizer, "apply_chat_template"):
        raise IntrospectionError(
            "the trainer has no tokenizer, which the probes are read with: make it with processing_class=tokenizer"
        )
    return tokenizer


def check_model(model: nn.Module) -> None:
    """Refuse what cannot be asked for an explanation.

    Raises:
        IntrospectionError: no decoder with a language-model head (a reward model, a classifier, an encoder-decoder), or
            one of which several processes hold parts that have to be given the same prompts.
    """
    hosted: Any = model
    can_generate = getattr(model, "can_generate", None)
    if not callable(can_generate) or not can_generate() or hosted.config.is_encoder_decoder:
        raise IntrospectionError(
            f"{type(model).__name__} is no causal language model, so it can be asked for no explanation: take the "
            "callback out of this trainer"
        )
    parts = getattr(model, "tp_size", None) or 1
    if parts > 1:
        raise IntrospectionError(
            f"the model is tensor-parallel over {parts} processes, among which rounds share out their prompts: shard "
            "it by FSDP, or measure its checkpoints with `iprobe follow`"
        )


def end_token_of(tokenizer: Any) -> int:
    """The token that ends an explanation in training.

    Raises:
        IntrospectionError: the tokenizer has none.
    """
    if tokenizer.eos_token_id is None:
        raise IntrospectionError("the tokenizer names no end token, which explanations end with: set eos_token")
    return int(tokenizer.eos_token_id)


def output_dir(args: TrainingArguments) -> Path:
    """Where the run's files go (transformers' own default where the script names none)."""
    return Path(args.output_dir or "trainer_output")


def check_early_backward(args: TrainingArguments) -> None:
    """Refuse hosts in which a backward before the host's own would be lost or would step the optimizer.

    Raises:
        IntrospectionError: DeepSpeed, or an optimizer that steps inside backward.
    """
    remedy = (
        "derive your trainer from introspection_probe.IntrospectionTrainerMixin, which adds the term to the host's "
        "own loss, or set explanation_weight=0 to measure only"
    )
    if PartialState().distributed_type == DistributedType.DEEPSPEED:
        raise IntrospectionError(f"DeepSpeed's engine owns the backward pass, so a callback cannot add to it: {remedy}")
    optimizer = str(getattr(args.optim, "value", args.optim))
    if steps_inside_backward(optimizer):
        raise IntrospectionError(f"optim={optimizer!r} steps inside the backward pass: {remedy}")


def loss_scale(optimizer: Any) -> Callable[[Tensor], Tensor] | None:
    """The fp16 loss scaler's ``scale``, or None where nothing is scaled."""
    scaler = getattr(optimizer, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    scale: Callable[[Tensor], Tensor] = scaler.scale
    return scale


def settings(config: IntrospectionConfig, args: TrainingArguments, model: nn.Module) -> Settings:
    """What the doctor judges of a run. The backward pass is left out: :func:`check_early_backward` refuses it."""
    ranks = [c.r for c in getattr(model, "peft_config", {}).values() if isinstance(getattr(c, "r", None), int)]
    return Settings(
        explanation_weight=config.explanation_weight,
        kl_weight=config.kl_weight,
        mix_batch_size=config.mix_batch_size,
        supervision=config.supervision,
        probe_every=config.probe_every,
        max_probes=config.max_probes,
        learning_rate=args.learning_rate,
        lora_rank=max(ranks) if ranks else None,
        max_steps=args.max_steps if args.max_steps > 0 else None,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def facts(args: TrainingArguments, model: nn.Module) -> dict[str, Any]:
    """What is worth knowing of the host in a history, JSON-able."""
    return {
        "learning_rate": args.learning_rate,
        "max_steps": args.max_steps,
        "per_device_train_batch_size": args.per_device_train_batch_size,
        "gradient_accumulation_steps": args.gradient_accumulation_steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }
