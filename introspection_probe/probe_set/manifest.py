"""A probe set's ``manifest.json``: what the set is, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from introspection_probe import __version__
from introspection_probe.errors import IntrospectionError
from introspection_probe.records import Judging
from introspection_probe.tasks.base import PromptStyle

FORMAT_VERSION = 2
"""The newest format this program reads. 1: answers read off the answer set. 2: judged answers, with M0's responses.

A set is written in the oldest format that can hold it, so that one without judged answers keeps its content hash and
can be read by older programs.
"""

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a probe set is, as ``manifest.json`` has it.

    Attributes:
        task_options: the options that the task was made with, beside its name.
        model: name or path of M0.
        model_fingerprint: hash over a sample of M0's weights (``models.model_fingerprint``), or "".
        template_hash: of the tokenizer's chat template.
        tokens_hash: of the token ids of all prompts and answers: what the tokenizer has to agree on.
        counts: examples by split.
        label_sets: names of the label sets; ``"orig"`` is M0's own.
        build: what building measured, JSON-able; for people.
        judging: how free answers were generated and judged; None where they are read off the answer set.
        created_at: UTC, ISO 8601.
    """

    task: str
    task_options: Mapping[str, Any]
    model: str
    model_fingerprint: str
    style: PromptStyle
    tokenizer: str
    vocab_size: int
    template_hash: str
    tokens_hash: str
    seed: int
    counts: Mapping[str, int]
    label_sets: tuple[str, ...]
    content_hash: str
    created_at: str
    build: Mapping[str, Any]
    program_version: str = __version__
    format_version: int = 1
    judging: Judging | None = None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write it into the folder."""
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2) + "\n", encoding="ascii")


def read_manifest(folder: Path) -> Manifest:
    """Read it from the folder.

    Raises:
        IntrospectionError: missing, unreadable, not a manifest, or of a newer format.
    """
    path = folder / MANIFEST
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntrospectionError(f"{folder} is no probe set: it has no {MANIFEST}") from error
    except OSError as error:
        raise IntrospectionError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise IntrospectionError(f"{path} is not valid JSON ({error}): restore it or build the set again") from error
    version = raw.get("format_version") if isinstance(raw, dict) else None
    if not isinstance(version, int):
        raise IntrospectionError(f"{path} is not a probe set's manifest: it names no format_version")
    if version > FORMAT_VERSION:
        raise IntrospectionError(
            f"{path} has format version {version}, and this program reads up to {FORMAT_VERSION}: "
            f"upgrade introspection-probe"
        )
    try:
        known = {field.name: raw[field.name] for field in fields(Manifest) if field.name != "judging"}
        judging = raw.get("judging") if version > 1 else None
        known["judging"] = None if judging is None else Judging(**judging)
        known["style"] = PromptStyle(**known["style"])
        known["label_sets"] = tuple(known["label_sets"])
        return Manifest(**known)
    except (KeyError, TypeError) as error:
        raise IntrospectionError(f"{path} lacks or garbles {error}: restore it or build the set again") from error
