"""Where the cue of an example stands in its messages."""

from __future__ import annotations

from introspection_probe.records import ProbeExample
from introspection_probe.tasks.cue_spans import Conversation, Span

_MOST_PLACES = 200


def cue_place(example: ProbeExample) -> tuple[int, int, int] | None:
    """The message, and the first and the last but one of its characters, that the cue takes; None where it is nowhere.

    Where the cue's text occurs several times it is the place without which ``x`` is ``x\\C``.
    """
    if not example.cue:
        return None
    places: list[tuple[int, int, int]] = []
    for message, said in enumerate(example.included):
        start = said["content"].find(example.cue)
        while start >= 0 and len(places) < _MOST_PLACES:
            places.append((message, start, start + len(example.cue)))
            start = said["content"].find(example.cue, start + 1)
    for place in places:
        if Conversation(example.included, (Span(*place),)).without(0) == example.ablated:
            return place
    return places[0] if places else None
