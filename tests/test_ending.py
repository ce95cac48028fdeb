"""Runs whose trainer never says that they are over."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from runs import sft, small_probe_set
from transformers import TrainerCallback

from introspection_probe import IntrospectionCallback
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History

PROGRAM = """
import sys
from pathlib import Path
from runs import sft, small_probe_set
from transformers import TrainerCallback
from introspection_probe import IntrospectionCallback
from introspection_probe.history import History

folder, how = Path(sys.argv[1]), sys.argv[2]

class Host(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if how == "interrupted":
            raise KeyboardInterrupt
        raise RuntimeError("the host broke")

def main():
    callback = IntrospectionCallback(small_probe_set(n=20), db=folder / "h.db", probe_at_end=False)
    trainer = sft(folder / "out", callbacks=[callback, Host()], max_steps=2)
    try:
        trainer.train()
    except RuntimeError:
        if how != "caught":
            raise
    return trainer

try:
    trainer = main()
except RuntimeError:
    if how != "caught outside":
        raise
"""


def statuses(db: Path) -> list[str]:
    with History.open(str(db), must_exist=True) as history:
        return [run.status for run in history.runs()]


def wait_for(db: Path, expected: list[str]) -> None:
    """Until another thread has written it; the history itself is made by that thread, too."""
    deadline = time.monotonic() + 30
    found: list[str] = []
    while found != expected:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
        with suppress(IntrospectionError):
            found = statuses(db)


class Breaks(TrainerCallback):
    def on_step_end(self, *args: object, **kwargs: object) -> None:
        raise RuntimeError("the host broke")


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("raises", "failed", "the host broke"),
        ("interrupted", "stopped", "KeyboardInterrupt"),
        # The script lives on with the trainer in its hands: only the exit shows that nobody trains any more.
        ("caught", "failed", ""),
        # As a command line does that prints no traceback: the trainer goes, and the interpreter right after it.
        ("caught outside", "failed", ""),
    ],
)
def test_a_process_that_exits_leaves_no_run_that_says_running(how: str, status: str, said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), how],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode == 0) == how.startswith("caught")
    # The host's own traceback is the last thing said: nothing of ours fails on the way out.
    assert said in done.stderr.strip().splitlines()[-1] if said else "Traceback" not in done.stderr
    assert statuses(tmp_path / "h.db") == [status]


def test_a_dropped_trainer_has_failed_and_a_host_that_goes_on_is_not_disturbed(tmp_path: Path) -> None:
    def attempt(batch: int, *others: TrainerCallback) -> IntrospectionCallback:
        callback = IntrospectionCallback(
            small_probe_set(n=20), db=tmp_path / "h.db", probe_at_end=False, prometheus_port=0
        )
        trainer = sft(tmp_path / "out", callbacks=[callback, *others], max_steps=2, per_device_train_batch_size=batch)
        trainer.train()
        return callback

    with pytest.raises(RuntimeError, match="the host broke") as broke:
        attempt(4, Breaks())
    del broke  # its traceback holds the trainer
    gc.collect()
    wait_for(tmp_path / "h.db", ["failed"])
    attempt(2)
    assert statuses(tmp_path / "h.db") == ["finished", "failed"]


def test_a_callback_that_is_used_again_ends_the_run_before(tmp_path: Path) -> None:
    callback = IntrospectionCallback(small_probe_set(n=20), db=tmp_path / "h.db", probe_at_end=False)
    broken = sft(tmp_path / "out", callbacks=[callback, Breaks()], max_steps=2)
    with pytest.raises(RuntimeError, match="the host broke"):
        broken.train()
    sft(tmp_path / "out", callbacks=[callback], max_steps=2).train()
    assert statuses(tmp_path / "h.db") == ["finished", "failed"]
