"""The tasks by name. Adding one: write ``tasks/your_task.py`` and name it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

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
        IntrospectionError: unknown task, or options or values that it does not take.
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
    _check_types(name, make, options)
    task: Task = make(**options)
    return task


_SAID = {str: "a text", int: "a whole number", Mapping: "an object", Path: "a path"}


def _check_types(name: str, make: Callable[..., Task], options: Mapping[str, Any]) -> None:
    """Refuse values of other types than the options': from JSON or a configuration, a number may be meant as a text."""
    hints = get_type_hints(make.__init__)  # type: ignore[misc]
    for option, value in options.items():
        hint = hints[option]
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(kind) or kind for kind in kinds)
        # What is one of a few words is looked at by the task itself, which names them.
        if all(isinstance(kind, type) for kind in plain) and (not isinstance(value, plain) or isinstance(value, bool)):
            wanted = " or ".join(said for kind, said in _SAID.items() if kind in plain)
            raise IntrospectionError(f"task {name!r}: its option {option!r} is {value!r:.60}; give {wanted}")
