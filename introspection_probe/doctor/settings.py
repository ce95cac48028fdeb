"""What a training configuration promises, against what is known to work. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from introspection_probe.findings import Finding, Level

MIN_KL_WEIGHT = 5e-3
"""arXiv:2606.32038: no coupling below this lambda."""

MAX_POOR_RANK = 80
"""arXiv:2606.32038: no coupling with LoRA of at most this rank; 96 and up couples."""

USUAL_LEARNING_RATE = 1e-5
"""arXiv:2606.32038, full fine-tuning. Taken as right for :data:`USUAL_PARAMETERS`."""

USUAL_PARAMETERS = 8e9

LORA_FACTOR = 10.0
"""LoRA is usually trained at about ten times the rate of full fine-tuning."""

FAR_OFF = 10.0
"""A rate this many times too high or too low is far off; the rule for the right one is no better than that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is known of a run. None is "not known": what depends on it is not checked.

    Attributes:
        lora_rank: None where all weights are trained, or where it is not known.
        parameters: of the model.
        train_batch: host examples an optimizer step.
    """

    explanation_weight: float = 1.0
    kl_weight: float = 1.0
    mix_batch_size: int = 8
    supervision: str = "orig"
    probe_every: int = 100
    max_probes: int | None = None
    learning_rate: float | None = None
    lora_rank: int | None = None
    optim: str | None = None
    deepspeed: bool = False
    max_steps: int | None = None
    train_batch: int | None = None
    parameters: int | None = None

    @property
    def looks(self) -> int:
        """Rounds after the baseline: as many as the run will take, or 20."""
        if self.max_steps is None:
            return 20
        return max(self.max_steps // self.probe_every, 1)


def settings_findings(settings: Settings, train_examples: int) -> list[Finding]:
    """What the paper and the mechanism say of these settings.

    Args:
        train_examples: explanations that are taught.
    """
    if settings.explanation_weight <= 0:
        reason = "explanation_weight is 0, so the run only measures and teaches nothing"
        return [Finding("note", "explanation_weight", 0.0, "", reason, "set it to 1 to train explanations")]
    found = [_kl_weight(settings.kl_weight)]
    if settings.lora_rank is not None:
        found.append(_lora_rank(settings.lora_rank))
    if settings.learning_rate is not None:
        found.append(_learning_rate(settings, settings.learning_rate))
    if settings.optim is not None or settings.deepspeed:
        found.append(_backward(settings))
    if settings.max_steps is not None and train_examples:
        found.append(_passes(settings, settings.max_steps, train_examples))
    return found


def _kl_weight(weight: float) -> Finding:
    if weight >= MIN_KL_WEIGHT:
        return Finding("ok", "kl_weight", weight, "", f"kl_weight is {weight:g}")
    reason = f"kl_weight is {weight:g}, and the paper finds no coupling under {MIN_KL_WEIGHT:g}"
    return Finding("error", "kl_weight", weight, "", reason, "set it to 1")


def _lora_rank(rank: int) -> Finding:
    if rank > MAX_POOR_RANK:
        return Finding("ok", "lora_rank", rank, "", f"LoRA rank is {rank}")
    reason = f"LoRA rank is {rank}, and the paper finds no coupling up to {MAX_POOR_RANK}"
    return Finding("error", "lora_rank", rank, "", reason, "use 96 or more, or train all weights")


def _learning_rate(settings: Settings, rate: float) -> Finding:
    """The larger a model, the smaller its rate: by the square root of the size, as a rule of thumb."""
    usual = USUAL_LEARNING_RATE * math.sqrt(USUAL_PARAMETERS / (settings.parameters or USUAL_PARAMETERS))
    size = "a model of 8 B" if settings.parameters is None else f"a model of {_size(settings.parameters)}"
    how = f"{size}, all weights"
    if settings.lora_rank is not None:
        usual, how = usual * LORA_FACTOR, f"{size}, LoRA"
    reason, remedy = f"the learning rate is {rate:g}, and about {usual:.0e} is usual ({how})", ""
    if rate > FAR_OFF * usual:
        reason += f": {rate / usual:.0f} times too high, so behaviour drifts off before explanations follow"
        remedy = f"try {usual:.0e}"
    elif rate < usual / FAR_OFF:
        reason += f": {usual / rate:.0f} times too low, so explanations will hardly be learned"
        remedy = f"try {usual:.0e}, or a larger explanation_weight"
    return Finding("warning" if remedy else "ok", "learning_rate", rate, "", reason, remedy)


def _size(parameters: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.2g} {name}"
    return str(parameters)


def steps_inside_backward(optim: str) -> bool:
    """Whether an optimizer of this name steps while the host's backward runs, so that nothing can be added to it."""
    return "layerwise" in optim or "lomo" in optim


def _backward(settings: Settings) -> Finding:
    remedy = (
        "derive the trainer from introspection_probe.IntrospectionTrainerMixin, or set explanation_weight=0 to measure"
    )
    if settings.deepspeed:
        reason = "DeepSpeed's engine owns the backward pass, so the callback alone cannot add to it"
        return Finding("warning", "early_backward", "deepspeed", "", reason, remedy)
    optim = settings.optim or ""
    if steps_inside_backward(optim):
        reason = f"optim={optim!r} steps inside the backward pass, so the callback alone cannot add to it"
        return Finding("warning", "early_backward", optim, "", reason, remedy)
    return Finding("ok", "early_backward", optim, "", f"explanations can be mixed in with optim={optim!r}")


def _passes(settings: Settings, steps: int, train_examples: int) -> Finding:
    mixed = steps * settings.mix_batch_size
    passes = mixed / train_examples
    beside = "" if settings.train_batch is None else f" beside {settings.train_batch:,} host examples"
    taught = f"each of {train_examples:,} is taught {passes:.1f} times"
    reason, remedy = f"{settings.mix_batch_size} explanations a step{beside}: {taught}", ""
    level: Level = "ok"
    if passes < 1:
        level, reason = "note", f"{reason}, so some never are"
        remedy = "raise mix_batch_size or max_steps, if the scores stay low"
    return Finding(level, "passes", round(passes, 2), "", reason, remedy)
