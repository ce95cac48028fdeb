"""The one configuration of the callback. docs/configuration.md is tested against this docstring."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from introspection_probe.alerts import OnAlert
from introspection_probe.errors import IntrospectionError
from introspection_probe.export.push import parse_target


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrospectionConfig:
    """How explanations are mixed into a run and how often they are measured.

    The objective is ``host loss + w_e * CE(E(M0) | q) + w_e * lambda * KL(p_M0 || p_Mt)`` (arXiv:2606.32038).

    Args:
        explanation_weight (`float`, *optional*, defaults to `1.0`):
            ``w_e``, the weight of everything that is mixed in. 0 trains nothing and only measures: the run is then
            bit-identical to one without the callback.
        kl_weight (`float`, *optional*, defaults to `1.0`):
            ``lambda``, the weight of the KL term relative to the explanation term. The paper finds no coupling
            under 5e-3.
        mix_batch_size (`int`, *optional*, defaults to `8`):
            Explanations mixed into each optimizer step, over all processes together.
        supervision (`str`, *optional*, defaults to `"orig"`):
            The label set that is trained on, which every probe set has to have. `"orig"` is E(M0).
        reference_top_k (`int` or `None`, *optional*, defaults to `128`):
            Tokens of p_M0 kept for each answer token, with the mass of all others as one more outcome: a lower bound
            of the KL. `None` keeps the whole vocabulary: exact.
        probe_every (`int`, *optional*, defaults to `100`):
            Optimizer steps between rounds.
        probe_at_start (`bool`, *optional*, defaults to `True`):
            Take a round before the first step: the baseline of every comparison.
        probe_at_end (`bool`, *optional*, defaults to `True`):
            Take a round after the last step.
        max_probes (`int` or `None`, *optional*, defaults to `None`):
            Measure only the first so many probes of each probe set in each round. `None` measures all.
        max_overhead (`float` or `None`, *optional*, defaults to `None`):
            Largest share of wall time, between 0 and 1, that rounds may take: a round that would exceed it waits
            for a later multiple of `probe_every`. The first and the last round are always taken.
        token_budget (`int`, *optional*, defaults to `4096`):
            Tokens, padding included, in one forward pass of a round or of the mixed loss. Halved by itself when a
            round runs out of memory.
        path (`"auto"`, `"packed"` or `"flat"`, *optional*, defaults to `"auto"`):
            `"packed"` reads all prompts of an example from one forward pass, `"flat"` runs them apart. `"auto"`
            packs where a comparison of both on real probes at the start shows no difference.
        n_examples (`int`, *optional*, defaults to `1000`):
            Questions to build a probe set from, when a task's name was given instead of a probe set.
        task_options (`dict` or `None`, *optional*, defaults to `None`):
            Options of the tasks whose sets are built, by task: `{"cues": {"data": "my-cues.jsonl"}}`.
        run_name (`str` or `None`, *optional*, defaults to `None`):
            What people call the run. `None` takes the trainer's `run_name`, else the output folder's name.
        db (`str` or `None`, *optional*, defaults to `None`):
            SQLAlchemy URL or file of the history. `None` reads `IPROBE_DB`, else `sqlite:///introspection.db`.
        prometheus_port (`int` or `None`, *optional*, defaults to `None`):
            Serve metrics on this port of `prometheus_host`; a busy port moves to the next free one, 0 takes any.
            `None` serves none.
        prometheus_host (`str`, *optional*, defaults to `"127.0.0.1"`):
            Address to serve on.
        prometheus (`str` or `None`, *optional*, defaults to `None`):
            For jobs that cannot be scraped: `"push:URL"` of a Pushgateway or `"textfile:DIR"` of the node exporter's
            textfile collector. What was pushed is deleted when the run ends.
        seed (`int`, *optional*, defaults to `0`):
            Which explanations are drawn at which step is a function of this and the step.
        on_alert (`str`, a function, or a list of these, *optional*, defaults to `"log"`):
            What is done when an alarm is raised or is over, beside logging it: a function of the
            [`introspection_probe.records.Alert`], an http(s) URL that gets it as JSON, or `"stop"`, which saves and
            ends the run at the first critical alarm.
        alert_alpha (`float`, *optional*, defaults to `0.01`):
            Largest probability of even one false statistical alarm in the whole run.
        alert_min_effect (`float`, *optional*, defaults to `0.02`):
            Changes smaller than this share of the examples raise no alarm, however significant.
        baseline (`str` or `None`, *optional*, defaults to `None`):
            What alarms compare with: an earlier run of the same history on the same probe sets, by its number, name or
            uid, at its last round or, as `"RUN@STEP"`, at another one. `None` compares with the run's own first round.
        on_error (`"warn"` or `"raise"`, *optional*, defaults to `"warn"`):
            What a failing round, exporter or history does: `"warn"` logs it once with its traceback, counts it and goes
            on; `"raise"` stops the run. A failure of the mixed loss always raises.
    """

    explanation_weight: float = 1.0
    kl_weight: float = 1.0
    mix_batch_size: int = 8
    supervision: str = "orig"
    reference_top_k: int | None = 128
    probe_every: int = 100
    probe_at_start: bool = True
    probe_at_end: bool = True
    max_probes: int | None = None
    max_overhead: float | None = None
    token_budget: int = 4096
    path: Literal["auto", "packed", "flat"] = "auto"
    n_examples: int = 1000
    task_options: Mapping[str, Mapping[str, Any]] | None = None
    run_name: str | None = None
    db: str | Path | None = None
    prometheus_port: int | None = None
    prometheus_host: str = "127.0.0.1"
    prometheus: str | None = None
    seed: int = 0
    on_alert: OnAlert | Sequence[OnAlert] = "log"
    alert_alpha: float = 0.01
    alert_min_effect: float = 0.02
    baseline: str | None = None
    on_error: Literal["warn", "raise"] = "warn"

    def __post_init__(self) -> None:
        number = "a finite number of 0 or more"
        whole = "a whole number of 1 or more"
        checks: tuple[tuple[str, Callable[[object], bool], str], ...] = (
            ("explanation_weight", _is_weight, number),
            ("kl_weight", _is_weight, number),
            ("mix_batch_size", _is_count, whole),
            ("probe_every", _is_count, whole),
            ("token_budget", _is_count, whole),
            ("n_examples", _is_count, whole),
            (
                "reference_top_k",
                lambda v: v is None or _is_count(v),
                f"{whole}, or None for the whole vocabulary",
            ),
            ("max_probes", lambda v: v is None or _is_count(v), f"{whole}, or None for all"),
            ("max_overhead", lambda v: v is None or _is_share(v), "between 0 and 1, or None for no limit"),
            ("alert_alpha", _is_share, "between 0 and 1"),
            ("alert_min_effect", lambda v: v == 0 or _is_share(v), "a share from 0 to below 1"),
            (
                "task_options",
                lambda v: v is None or (isinstance(v, Mapping) and all(isinstance(o, Mapping) for o in v.values())),
                "a dict of options by task, or None",
            ),
            ("baseline", lambda v: v is None or (isinstance(v, str) and bool(v)), "a run's name, or None"),
            ("prometheus_port", _is_port, "a port from 0 to 65535, or None to serve none"),
            ("path", lambda v: v in ("auto", "packed", "flat"), "'auto', 'packed' or 'flat'"),
            ("on_error", lambda v: v in ("warn", "raise"), "'warn' or 'raise'"),
        )
        for name, holds, must_be in checks:
            value = getattr(self, name)
            if not holds(value):
                raise IntrospectionError(f"{name} is {value!r}; it must be {must_be}")
        if self.prometheus is not None:
            parse_target(self.prometheus)

    @property
    def mixes(self) -> bool:
        """Whether anything is added to the host's gradient."""
        return self.explanation_weight > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_weight(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]


def _is_share(value: object) -> bool:
    return _is_number(value) and 0 < value < 1  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_port(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535)
