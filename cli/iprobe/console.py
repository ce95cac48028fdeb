"""The two streams of the command line: results on stdout, everything else on stderr."""

from __future__ import annotations

import codecs
import json
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Format(StrEnum):
    """What ``--format`` takes."""

    table = "table"
    json = "json"
    markdown = "markdown"


# For streams that cannot write our few signs (a C locale, an old Windows console): the nearest plain ones.
_PLAIN = {"\u2013": "-", "\u2212": "-", "…": ".", "↵": " ", "·": "-", "●": "*", "─": "-", "“": '"', "”": '"'}
_PLAIN |= dict(zip("▁▂▃▄▅▆▇█", "__..--^^", strict=True))


def _plainly(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(char, "?") for char in error.object[error.start : error.end]), error.end


codecs.register_error("iprobe", _plainly)


def encodable(stream: TextIO) -> TextIO:
    """``stream``, set to write plain signs instead of failing where its encoding has none of ours."""
    reconfigure = getattr(stream, "reconfigure", None)  # absent where a test or an embedder replaced the stream
    if reconfigure is not None:
        reconfigure(errors="iprobe")
    return stream


def stdout_console() -> Console:
    """A console for results. Width, colour and NO_COLOR as rich finds them; text is never read as markup."""
    from rich.console import Console

    return Console(file=encodable(sys.stdout), markup=False, emoji=False, highlight=False)


def show(console: Console, renderable: RenderableType) -> None:
    """Print a result; into a pipe or file without the blanks that rich fills lines up with."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    write("\n".join(line.rstrip() for line in capture.get().split("\n")))


def note(message: str) -> None:
    """A remark beside the result, on stderr. The caller has made foreign text in it safe."""
    encodable(sys.stderr).write(f"{message}\n")


def write(text: str) -> None:
    """A result that is already text, on stdout."""
    stream = encodable(sys.stdout)
    stream.write(text if text.endswith("\n") else f"{text}\n")
    stream.flush()


def write_json(value: Any, *, indent: int | None = 2) -> None:
    """``value`` as one JSON document on stdout: ASCII, printable, no NaN. Without ``indent`` it is one line."""
    text = json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False)
    # DEL is the one control character that JSON lets stand as it is; it can only be inside a string.
    write(text.replace("\x7f", "\\u007f"))
