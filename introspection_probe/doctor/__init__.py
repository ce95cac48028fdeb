"""Can this work? What a probe set, a training configuration and a model say before a run is paid for."""

from __future__ import annotations

from introspection_probe.doctor.examine import EFFECT, Examination, examine, train_begin_findings
from introspection_probe.doctor.settings import Settings
from introspection_probe.doctor.settings_file import settings_of
from introspection_probe.findings import Finding

__all__ = ["EFFECT", "Examination", "Finding", "Settings", "examine", "settings_of", "train_begin_findings"]
