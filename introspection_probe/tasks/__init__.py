"""The tasks by name. Adding one: write ``tasks/your_task.py`` and name it here."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from typing import Any

from introspection_probe.errors import IntrospectionError
from introspection_probe.tasks.base import PromptStyle, Task

__all__ = ["PromptStyle", "Task", "get_task", "task_names"]

_TASKS = {
    "aita": ("introspection_probe.tasks.aita", "AITA"),
    "cues": ("introspection_probe.tasks.cues", "Cues"),
    "hint-mmlu": ("introspection_probe.tasks.hint_mmlu", "HintMMLU"),
    "jabberwocky": ("introspection_probe.tasks.jabberwocky", "Jabberwocky"),
    "refusal": ("introspection_probe.tasks.refusal", "Refusal"),
    "sycophancy": ("introspection_probe.tasks.sycophancy", "Sycophancy"),
}


def task_names() -> list[str]:
    """The names of the tasks that ship with the library."""
    return sorted(_TASKS)


def get_task(name: str, **options: Any) -> Task:
    """The task of that name, with its options.

    Raises:
        IntrospectionError: unknown task, or options that it does not take.
    """
    if name not in _TASKS:
        raise IntrospectionError(f"unknown task {name!r}: choose one of {', '.join(task_names())}")
    module, cls = _TASKS[name]
    make = getattr(import_module(module), cls)
    known = list(signature(make).parameters)
    unknown = [option for option in options if option not in known]
    if unknown:
        takes = f"choose one of {', '.join(known)}" if known else "it takes none"
        raise IntrospectionError(f"task {name!r} has no option {unknown[0]!r}: {takes}")
    try:
        task: Task = make(**options)
    except (TypeError, AttributeError) as error:  # what a value of another type than the option's leads to
        values = ", ".join(f"{option}={value!r:.60}" for option, value in options.items())
        raise IntrospectionError(f"task {name!r} cannot use these options ({values}): {error}") from error
    return task
