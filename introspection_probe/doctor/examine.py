"""The whole examination, and the short one at train begin."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from introspection_probe.doctor.behavior import behavior_findings, label_findings, leak_finding, power_findings
from introspection_probe.doctor.settings import Settings, settings_findings
from introspection_probe.findings import LEVELS, Finding
from introspection_probe.probe_set import ProbeSet

logger = logging.getLogger("introspection_probe")

EFFECT = 0.05
"""The fall of Self EM that is asked about where nobody named another."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        findings: the worst first.
        not_checked: what was not looked at, and why, a sentence each.
    """

    findings: tuple[Finding, ...]
    not_checked: tuple[str, ...]

    @property
    def can_work(self) -> bool:
        """Whether nothing was found that prevents it."""
        return not any(finding.level == "error" for finding in self.findings)


def examine(
    probe_set: ProbeSet,
    settings: Settings | None = None,
    *,
    effect: float = EFFECT,
    model: Any = None,
    tokenizer: Any = None,
    progress: Callable[[int], None] | None = None,
) -> Examination:
    """Can this work? Torch is imported only where a model is given.

    Args:
        settings: of the run; default: the callback's own.
        effect: the fall of Self EM that one wants to see, as a share.
        model, tokenizer: the model that the run will start from; both or none.
        progress: called with the number of examples that the model has answered since the last call.
    """
    settings = settings or Settings()
    probes = len(probe_set.split("probe"))
    measured = probes if settings.max_probes is None else min(settings.max_probes, probes)
    found = [
        *behavior_findings(probe_set),
        leak_finding(probe_set),
        *power_findings(measured, effect=effect, looks=settings.looks),
        *settings_findings(settings, len(probe_set.split("train"))),
    ]
    labels = label_findings(probe_set, settings.supervision)
    unknown = {
        "learning_rate": settings.learning_rate,
        "lora_rank": settings.lora_rank,
        "max_steps": settings.max_steps,
    }
    missing = [f"{name} (not given)" for name, value in unknown.items() if value is None]
    if model is None:
        found += labels
        missing.append("chat template, answer tokens, window and the labels' truth of the model (no --model)")
        return Examination(_worst_first(found), tuple(missing))
    from introspection_probe.building.asking import window
    from introspection_probe.doctor.model import model_findings
    from introspection_probe.doctor.template import template_findings, token_findings

    tokens = [*template_findings(probe_set, tokenizer), *token_findings(probe_set, tokenizer, window(model))]
    found += tokens
    blocking = {"tokenizer", "answer_tokens", "window", "supervision"}
    if any(finding.level == "error" and finding.code in blocking for finding in [*tokens, *labels]):
        found += labels
        missing.append("the labels' truth of the model (it cannot be asked these prompts)")
    else:
        # Agreement with this model is what counts; that with M0 says the same less directly.
        found += model_findings(probe_set, model, tokenizer, supervision=settings.supervision, progress=progress)
    return Examination(_worst_first(found), tuple(missing))


def train_begin_findings(
    probe_sets: Mapping[str, ProbeSet],
    settings: Settings,
    *,
    model: Any,
    tokenizer: Any,
    just_built: Iterable[str] = (),
) -> list[Finding]:
    """What is wrong, known in well under a second, for the log at train begin. It never raises.

    The prompts are not asked and not tokenized as a whole: the session does both. How many probes an effect needs is
    left to the doctor, since nobody named one.

    Args:
        probe_sets: by name.
        model, tokenizer: the host's.
        just_built: names of the sets that this run built: what is wrong with their behaviour has been said.
    """
    from introspection_probe.building.asking import window
    from introspection_probe.doctor.template import template_findings, token_findings

    def checks_of(probe_set: ProbeSet, *, with_behavior: bool) -> list[Callable[[], list[Finding]]]:
        return [
            lambda: label_findings(probe_set, settings.supervision),
            lambda: template_findings(probe_set, tokenizer, check_tokens=False),
            lambda: [leak_finding(probe_set)],
            lambda: token_findings(probe_set, tokenizer, window(model)),
            lambda: behavior_findings(probe_set) if with_behavior else [],
        ]

    fresh = set(just_built)
    taught = sum(len(probe_set.split("train")) for probe_set in probe_sets.values())
    found = _troubles("", lambda: settings_findings(settings, taught))
    for name, probe_set in probe_sets.items():
        which = f"{name}: " if len(probe_sets) > 1 else ""
        for check in checks_of(probe_set, with_behavior=name not in fresh):
            found += _troubles(which, check)
    return list(_worst_first(found))


def _troubles(which: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return [replace(finding, reason=which + finding.reason) for finding in check() if finding.troubles]
    except Exception:  # a check that fails says nothing of the run, and must not stop it
        logger.debug("a check at train begin failed", exc_info=True)
        return []


def _worst_first(found: Iterable[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(found, key=lambda finding: LEVELS.index(finding.level)))
