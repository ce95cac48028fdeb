"""Raw rows for the tasks: from a file or the hub, numbered, checked one by one, shuffled by a seed.

Whatever a row may hold, it is somebody else's text: a row that is not what its task needs is named by its number and
skipped, or refused, as the user chose.
"""

from __future__ import annotations

import csv
import json
import logging
import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from introspection_probe.errors import IntrospectionError

logger = logging.getLogger(__name__)

BadRows = Literal["skip", "refuse"]

HUB_DEADLINE_S = 5.0
"""How long the hub may take to say that it is there."""

MAX_ROW_CHARS = 20_000
"""No question of the paper's data sets is nearly as long; far longer ones are broken or hostile."""

EMBEDDED = Path(__file__).parent.parent / "assets" / "data"
"""Folder of the embedded samples."""

MAX_NAME_CHARS = 200
"""Of an id or a group: it is shown in tables, and kept with every round."""

_FORMATS = ".jsonl, .csv, .tsv or .parquet"
_PARQUET_ROWS = 1024
_SHUFFLE_BUFFER = 10_000
_SHOWN_PROBLEMS = 5


def check_source(data: str | Path | None, bad_rows: str) -> Path | None:
    """The path of a task's `data` option, checked together with its `bad_rows` option.

    Raises:
        IntrospectionError: no such file, or an unknown `bad_rows`.
    """
    if bad_rows not in get_args(BadRows):
        raise IntrospectionError(f"bad_rows is {bad_rows!r}: choose 'skip' or 'refuse'")
    if data is None:
        return None
    path = Path(data)
    if not path.is_file():
        raise IntrospectionError(f"there is no file {path}: give a readable {_FORMATS} file")
    if path.suffix.lower() in (".gz", ".zst", ".zip", ".xlsx", ".arrow"):
        raise IntrospectionError(f"{path} cannot be read as rows: unpack or convert it to a {_FORMATS} file")
    return path


def read_file(path: Path) -> Iterator[tuple[int, Any]]:
    """Rows with their numbers: JSON lines, a .csv or .tsv file with a header, or a .parquet file.

    A line that is not JSON gives its own text, which is no row either.

    Raises:
        IntrospectionError: the file cannot be read.
    """
    try:
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from _read_table(path)
            return
        if path.suffix.lower() == ".parquet":
            yield from _read_parquet(path)
            return
        # Bytes, which end a line at \n alone: text would also end one at a lone \r.
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if number == 1 and path.suffix.lower() == ".json" and line.lstrip().startswith(b"["):
                    raise IntrospectionError(
                        f"{path} is one JSON array: write one object a line, as `jq -c '.[]'` does, to a .jsonl file"
                    )
                if line.strip():
                    yield number, _parsed(line)
    except OSError as error:
        raise IntrospectionError(f"cannot read {path}: {error.strerror or error}; give a readable file") from error


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return line.strip().decode(errors="replace")


def hub_rows(
    dataset: str, config: str | None = None, *, split: str = "train", stream: bool = True, **options: Any
) -> Iterator[tuple[int, Any]] | None:
    """Rows of a hub data set with their numbers; None where no hub gives them in time.

    Args:
        dataset: such as ``"OsamaBsher/AITA-Reddit-Dataset"``.
        stream: read it as far as needed, rather than load a small one as a whole into the hub's cache, where it is
            found again offline.
        options: passed to ``datasets.load_dataset``.
    """
    try:
        from datasets import DownloadConfig, load_dataset
        from huggingface_hub import constants
    except ImportError:
        return None
    if not constants.HF_HUB_OFFLINE and not _hub_answers(dataset):
        return None
    try:
        rows = load_dataset(
            dataset,
            config,
            split=split,
            # Offline, only what is in the cache as a whole can be read.
            streaming=stream and not constants.HF_HUB_OFFLINE,
            download_config=DownloadConfig(max_retries=1),
            **options,
        )
    except Exception as error:  # the hub client has no common base for what a bad network makes of it
        if not constants.HF_HUB_OFFLINE:
            logger.warning("%s could not be loaded from the hub (%s)", dataset, short(str(error)))
        return None
    return enumerate(rows, 1)


def well_formed(
    raw: Iterable[tuple[int, Any]],
    problem: Callable[[Mapping[str, Any]], str | None],
    *,
    source: str,
    bad_rows: BadRows,
    needs: str,
) -> Iterator[dict[str, Any]]:
    """The rows that have no problem, each with an ``id`` of its own (``row-N`` where it has none).

    Args:
        problem: what is wrong with a row, as in "the prompt is None, not a text", or None.
        source: where the rows come from, for messages.
        bad_rows: ``"skip"`` logs malformed rows with their numbers, ``"refuse"`` stops at the first.
        needs: what a row needs, for the message when there is no usable one.

    Raises:
        IntrospectionError: a malformed row that is to be refused, or no usable row.
    """
    numbers: dict[str, int] = {}
    problems = 0
    for number, row in raw:
        found: str | None = "is not a JSON object"
        if isinstance(row, Mapping):
            found = problem(row) or name_problem("id", row.get("id"))
        identity = str(row["id"]) if not found and row.get("id") not in (None, "") else f"row-{number}"
        if not found and identity in numbers:
            found = f"has the id {short(identity)} of row {numbers[identity]}"
        if found:
            problems += 1
            sentence = f"{source}, row {number}: {found}"
            if bad_rows == "refuse":
                raise IntrospectionError(f"{sentence}; correct it, or skip such rows with bad_rows='skip'")
            if problems <= _SHOWN_PROBLEMS:
                logger.warning("%s; skipped", sentence)
            continue
        numbers[identity] = number
        yield {**row, "id": identity}
    if problems > _SHOWN_PROBLEMS:
        logger.warning("%s: %d malformed rows skipped in all", source, problems)
    if not numbers:
        raise IntrospectionError(f"{source} has no usable row: each needs {needs}")


def shuffled(rows: Iterable[dict[str, Any]], seed: str) -> Iterator[dict[str, Any]]:
    """The rows in an order that is a function of the seed; of a big stream, 10,000 are held at a time."""
    rng = random.Random(seed)
    held: list[dict[str, Any]] = []
    for row in rows:
        if len(held) < _SHUFFLE_BUFFER:
            held.append(row)
            continue
        place = rng.randrange(_SHUFFLE_BUFFER)
        yield held[place]
        held[place] = row
    rng.shuffle(held)
    yield from held


def text_problem(name: str, value: object, *, limit: int = MAX_ROW_CHARS, mojibake: bool = False) -> str | None:
    """What is wrong with a field that has to be a text of at most ``limit`` characters, or None.

    Args:
        mojibake: let the controls U+0080 to U+009F pass, which a wrong decoding made of dashes and quotes.
    """
    if not isinstance(value, str) or not value.strip():
        return f"the {name} is {short(value)}, not a text"
    if len(value) > limit:
        return f"the {name} has {len(value)} characters, more than {limit}"
    odd = next((char for char in value if is_control(char) and not (mojibake and "\x80" <= char <= "\x9f")), None)
    return None if odd is None else f"the {name} contains the control character U+{ord(odd):04X}"


def name_problem(name: str, value: object) -> str | None:
    """What is wrong with a field that names something, a short text or a whole number, if it is there; or None."""
    if value is None or value == "" or (isinstance(value, int) and not isinstance(value, bool)):
        return None
    return text_problem(name, value, limit=MAX_NAME_CHARS)


def hub_place() -> str:
    """Where rows of the hub come from, for people."""
    from huggingface_hub import constants

    return "the hub's cache" if constants.HF_HUB_OFFLINE else "the hub"


def choices_problem(
    name: str, value: object, *, most: int = 26, different: bool = True, mojibake: bool = False
) -> str | None:
    """What is wrong with a field that has to be a list of 2 to ``most`` texts, different ones if need be, or None."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not 2 <= len(value) <= most:
        return f"{name} is {short(value)}, not a list of 2 to {most} texts"
    for choice in value:
        found = text_problem(f"entry {short(choice)} of {name}", choice, mojibake=mojibake)
        if found:
            return found
    if not different:
        return None
    folded = [" ".join(choice.split()).casefold() for choice in value]
    twice = next((choice for choice, key in zip(value, folded, strict=True) if folded.count(key) > 1), None)
    return None if twice is None else f"{name} has {short(twice)} twice"


def is_control(char: str) -> bool:
    """Control characters but for white space, and lone surrogates, which cannot be written as UTF-8."""
    code = ord(char)
    return (code < 32 and char not in "\t\n\r") or 127 <= code < 160 or 0xD800 <= code < 0xE000


def short(value: object) -> str:
    """A value's ASCII form, short enough for a sentence and inert in a terminal."""
    # Cut before it is escaped: a text of megabytes is not to be escaped for the sake of sixty characters.
    text = ascii(value[:80] if isinstance(value, (str, list, tuple)) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_table(path: Path) -> Iterator[tuple[int, Any]]:
    limit = csv.field_size_limit(10 * 1024 * 1024)
    try:
        # A spreadsheet's export begins with a byte-order mark, which is not part of the first column's name.
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            # A tab-separated export of a hub data set quotes nothing by itself; csv reads both kinds of quoting.
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            number = 0
            while True:
                number += 1
                try:
                    row = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    yield number, f"unreadable: {error}"
                    continue
                # Cells beyond the header stand under None, and missing ones are None.
                row.pop(None, None)  # type: ignore[call-overload]
                yield number, row
    finally:
        csv.field_size_limit(limit)


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield from enumerate((row for batch in file.iter_batches(_PARQUET_ROWS) for row in batch.to_pylist()), 1)
    except pa.ArrowException as error:
        reason = " ".join(str(error).split())[:120]
        raise IntrospectionError(f"{path} is not Parquet ({reason}): give a whole {_FORMATS} file") from error


def _hub_answers(dataset: str) -> bool:
    """Whether the hub answers within the deadline; on a thread, since name resolution knows no timeout."""
    from huggingface_hub import HfApi

    answers: list[bool] = []

    def ask() -> None:
        try:
            HfApi().dataset_info(dataset, timeout=HUB_DEADLINE_S)
        except Exception:  # no network, no such host, a proxy's page: all mean "not from there"
            return
        answers.append(True)

    thread = threading.Thread(target=ask, name="iprobe-hub", daemon=True)
    thread.start()
    thread.join(HUB_DEADLINE_S)
    return bool(answers)
