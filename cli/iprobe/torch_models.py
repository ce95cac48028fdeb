"""What `iprobe build`, `probe` and `follow` share: their options, loading a model, a progress bar on stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from iprobe.console import encodable, note
from iprobe.text import safe_text

DeviceOption = Annotated[
    str | None,
    typer.Option("--device", metavar="DEVICE", help="Such as cuda:1 or cpu. By default the accelerator, if any."),
]

DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        help="float32, bfloat16 or float16. By default the checkpoint's own, and float32 on a CPU.",
    ),
]


TokenizerOption = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="PATH",
        help="Tokenizer to read the probes with. By default the checkpoint's own, else its base's.",
    ),
]


def open_model(
    name_or_path: str, device: str | None, dtype: str | None, tokenizer: str | None = None
) -> tuple[Any, Any]:
    """The model and its tokenizer, with a word on stderr, since importing and loading take a while."""
    note(f"Loading {safe_text(name_or_path, 200)} ...")
    from introspection_probe.models import load_model

    quiet_transformers()
    return load_model(Path(name_or_path) if Path(name_or_path).exists() else name_or_path, device, dtype, tokenizer)


def open_tokenizer(name_or_path: str | None) -> Any:
    """A tokenizer alone, for a model that is elsewhere."""
    from introspection_probe.errors import IntrospectionError

    if name_or_path is None:
        raise IntrospectionError("prompts are rendered with the model's tokenizer: name it with --tokenizer PATH")
    from transformers import AutoTokenizer

    quiet_transformers()
    try:
        return AutoTokenizer.from_pretrained(name_or_path)
    except Exception as error:  # hub and file-system errors have no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise IntrospectionError(
            f"no tokenizer loads from {name_or_path!r} ({reason}): give the model's folder or hub name with --tokenizer"
        ) from error


def quiet_transformers() -> None:
    """Keep transformers' own bars and remarks out of our output."""
    from transformers.utils import logging

    transformers_logging: Any = logging  # its functions are not annotated
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr for as long as the context is open: call what it gives with a label, done, total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=encodable(sys.stderr), markup=False, emoji=False, highlight=False)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Into a file or a pipe a bar would only write an empty line.
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=None)

        def update(label: str, done: int, total: int) -> None:
            progress.update(bar, description=safe_text(label, 40), completed=done, total=total)

        yield update


def counting(progress: Callable[[str, int, int], None], label: str, total: int) -> Callable[[int], None]:
    """Moves the bar by the number of examples that were finished since the last call."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(label, done, total)

    return advance
