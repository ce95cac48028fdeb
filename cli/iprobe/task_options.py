"""A task's options as the command line takes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def named_values(option: str, given: Sequence[str] | None) -> dict[str, Any]:
    """``["a=1", "b=text"]`` as a dict: values are JSON, and what does not begin like JSON is text.

    Raises:
        IntrospectionError: no name, no ``=``, broken JSON, or a name given twice.
    """
    from introspection_probe.errors import IntrospectionError

    found: dict[str, Any] = {}
    for argument in given or ():
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise IntrospectionError(f"{option} {argument!r} is not NAME=JSON: write it like framing=first-person")
        if name in found:
            raise IntrospectionError(f"{option} gives {name!r} twice: give it once")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            if value[:1] in ("{", "[", '"'):
                raise IntrospectionError(
                    f"{option} {argument!r} is not NAME=JSON: the value begins like JSON and does not end like it"
                ) from None
            found[name] = value
    return found


def merged_options(convenient: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """A task's options from both ways to give them, without those that were not given.

    Raises:
        IntrospectionError: one was given both ways.
    """
    from introspection_probe.errors import IntrospectionError

    named = {name: value for name, value in convenient.items() if value is not None}
    twice = sorted(named.keys() & given.keys())
    if twice:
        raise IntrospectionError(f"the task's option {twice[0]!r} is given twice: once is enough")
    return named | given
