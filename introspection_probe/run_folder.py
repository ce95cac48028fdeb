"""Who a run is, and what a resumed run needs: files beside the run and in each of its checkpoints.

Not in the trainer's own state, so that a checkpoint saved without the callback can be resumed with it, and the
other way round.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

_FOLDER = "introspection"
_RUN = "run.json"
_REFERENCE = "reference.safetensors"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """``OUTPUT_DIR/introspection`` of a run.

    Attributes:
        path: the folder.
        uid: the run's identity in the history.
        resumed: whether this process goes on with an earlier one's run.
    """

    path: Path
    uid: str
    resumed: bool

    @classmethod
    def begin(cls, output_dir: str | Path, step: int) -> RunFolder:
        """The folder of a run that starts at ``step``: a new identity at step 0, else the checkpoint's.

        Resumed from a checkpoint without one (saved without the callback), the run gets a new identity.
        """
        path = Path(output_dir) / _FOLDER
        path.mkdir(parents=True, exist_ok=True)
        if step > 0:
            for source in (_in_checkpoint(output_dir, step), path):
                uid = _read_uid(source)
                if uid is not None:
                    _take_over(source, path)
                    return cls(path, uid, resumed=True)
        uid = uuid.uuid4().hex
        (path / _REFERENCE).unlink(missing_ok=True)
        _write_atomically(path / _RUN, json.dumps({"uid": uid}))
        return cls(path, uid, resumed=False)

    @property
    def reference(self) -> Path:
        """M0's answer distributions."""
        return self.path / _REFERENCE

    def probes(self, task: str) -> Path:
        """The probe set of a task, when the callback built it itself."""
        return self.path / "probes" / task

    def save_to_checkpoint(self, output_dir: str | Path, step: int) -> None:
        """Put the identity and the reference into the checkpoint, so that it can be resumed from elsewhere."""
        checkpoint = Path(output_dir) / f"checkpoint-{step}"
        if not checkpoint.is_dir():
            return
        target = _in_checkpoint(output_dir, step)
        target.mkdir(exist_ok=True)
        for name in (_RUN, _REFERENCE):
            if (self.path / name).exists():
                _link_or_copy(self.path / name, target / name)


def _in_checkpoint(output_dir: str | Path, step: int) -> Path:
    return Path(output_dir) / f"checkpoint-{step}" / _FOLDER


def _read_uid(folder: Path) -> str | None:
    try:
        uid = json.loads((folder / _RUN).read_text())["uid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return uid if isinstance(uid, str) and uid else None


def _take_over(source: Path, path: Path) -> None:
    """Bring the checkpoint's files back beside the run, where a later run may have overwritten them."""
    if source == path:
        return
    for name in (_RUN, _REFERENCE):
        if (source / name).exists():
            _link_or_copy(source / name, path / name)


def _link_or_copy(source: Path, target: Path) -> None:
    """A hard link costs nothing; every file here is replaced, never written in place, so sharing is safe."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
    partial.replace(target)


def _write_atomically(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


def offline_uid(identity: str, content_hash: str) -> str:
    """The uid of a run that is measured from outside: the same for `iprobe probe` and `iprobe follow`.

    Args:
        identity: the name that was given, or the folder of the checkpoints as an absolute path.
        content_hash: of what it is measured with.
    """
    return hashlib.sha256(json.dumps(["offline", identity, content_hash]).encode()).hexdigest()[:32]
