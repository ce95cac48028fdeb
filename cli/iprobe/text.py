"""Making foreign text safe to show. Prompts, answers, run and model names are hostile until they went through here.

A terminal obeys what it is sent: an answer may clear the screen, retitle the window, or turn the reading
direction of the line it is quoted in. `safe_text` leaves nothing that a terminal obeys and nothing that hides:
what cannot be printed is spelled out. Rich's own markup never sees the text (it travels as `rich.text.Text`).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

ELLIPSIS = "…"

# Categories that steer, hide or break lines: controls, formats (bidirectional marks, zero width, tags),
# surrogates, private use, unassigned, line and paragraph separators.
_INERT_NEEDED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Printable by category, but drawn as nothing: fillers, the blank braille cell, variation selectors, joiners.
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5") | {
    chr(code) for code in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
# More marks than this on one letter climb over the neighbouring lines.
_MAX_COMBINING = 2
_SPELLED = {"\n": "↵", "\t": "\\t", "\r": "\\r"}


def _spell(char: str) -> str:
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def safe_text(text: str, limit: int | None = None) -> str:
    """One line of ``text`` that no terminal obeys and in which nothing is hidden.

    Line breaks become ``↵``, other controls, direction marks, zero-width and unassigned characters their escapes
    (``\\x1b``, ``\\u202e``), every other kind of space a plain space.

    Args:
        limit: longest result in characters; what is longer is cut and ends in ``…``. Text of any length is cheap:
            only what can be shown is looked at.

    >>> safe_text("a\\x1b[2Jb\\nc")
    'a\\\\x1b[2Jb↵c'
    """
    source = text if limit is None else text[: limit + 1]
    if source.isascii() and source.isprintable():
        return _cut(source, limit)
    out: list[str] = []
    combining = 0
    for char in source:
        category = unicodedata.category(char)
        combining = combining + 1 if category in {"Mn", "Me"} else 0
        if char in _SPELLED:
            out.append(_SPELLED[char])
        elif category in _INERT_NEEDED or char in _INVISIBLE or combining > _MAX_COMBINING:
            out.append(_spell(char))
        else:
            out.append(" " if category == "Zs" else char)
    return _cut("".join(out), limit)


def _cut(text: str, limit: int | None) -> str:
    if limit is None or len(text) <= limit:
        return text
    return text[: max(limit - 1, 0)].rstrip() + ELLIPSIS


def safe_end(text: str, limit: int) -> str:
    """As `safe_text`, but what is longer loses its beginning: ``…/checkpoint-500``."""
    safe = safe_text(text[-limit - 1 :]) if limit > 0 else ""
    return safe if len(safe) <= limit else ELLIPSIS + safe[len(safe) - limit + 1 :]


def some_names(names: Sequence[str], limit: int = 6) -> str:
    """Names in a sentence, each made safe; of many the first few: ``a, b, c and 7 more``."""
    shown = ", ".join(safe_text(name, 60) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit:,} more"


# Every ASCII punctuation character may be escaped with a backslash (CommonMark 2.4); these can start something.
_MARKDOWN_SPECIAL = frozenset("\\`*_{}[]<>()#+-.!|~$&:=^\"'")


def markdown_text(text: str, limit: int | None = None) -> str:
    """``text`` as Markdown that GitHub shows letter for letter, in a table cell as well: no markup, HTML or mention."""
    out = []
    for char in safe_text(text, limit):
        if char in "@#":
            # GitHub links @name and #12 after Markdown is done, so a backslash does not help; an empty comment does.
            out.append(f"{char}<!-- -->")
        else:
            out.append(f"\\{char}" if char in _MARKDOWN_SPECIAL else char)
    return "".join(out)


def markdown_code(text: str, limit: int | None = None) -> str:
    """``text`` as a Markdown code span, for use outside tables (there ``|`` would end the cell)."""
    safe = safe_text(text, limit)
    longest = run = 0
    for char in safe:
        run = run + 1 if char == "`" else 0
        longest = max(longest, run)
    fence = "`" * (longest + 1)
    pad = " " if safe.startswith("`") or safe.endswith("`") or not safe.strip() else ""
    return f"{fence}{pad}{safe or ' '}{pad}{fence}"
