"""From a task's rows and a model to a probe set. Names are loaded on first use: most need torch, plans do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from introspection_probe.building.build import STYLE_SAMPLE, build_probe_set, measure, plan_of
    from introspection_probe.building.make_set import BuildSummary

__all__ = ["STYLE_SAMPLE", "BuildSummary", "build_probe_set", "measure", "plan_of"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from introspection_probe.building import build, make_set

    return getattr(make_set if name == "BuildSummary" else build, name)
