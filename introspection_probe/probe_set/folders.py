"""New folders that are there wholly or not at all, and never in the place of another."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from introspection_probe.errors import IntrospectionError


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder to write into, which becomes ``folder`` at the end; nothing is left of it where that fails.

    Raises:
        IntrospectionError: the folder is there already, or it cannot be written, or not as text.
    """
    check_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise IntrospectionError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it private; a probe set is shared like any other file
        scratch.rename(folder)
    except UnicodeEncodeError as error:
        raise IntrospectionError(
            f"cannot write {folder}: an example has a lone surrogate (U+{ord(error.object[error.start]):04X}), "
            "which is no text; take it out of the data"
        ) from error
    except OSError as error:
        raise IntrospectionError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse a folder in which a new probe set cannot be saved, before time is spent on building it.

    Raises:
        IntrospectionError: it is there and not empty, or nothing can be made there.
    """
    if folder.absolute().resolve() == Path.cwd():
        raise IntrospectionError(f"{folder} is the folder that you are in: name a new one in it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IntrospectionError(f"{folder} is there already, and nothing is overwritten: choose another folder")
    ancestor = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not ancestor.is_dir() or not os.access(ancestor, os.W_OK):
        raise IntrospectionError(f"cannot write {folder}: {ancestor} is not writable; choose another folder")
