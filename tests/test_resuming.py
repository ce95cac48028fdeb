"""Runs that were killed and go on, and runs that begin in the middle of another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import largest_difference, sft, small_probe_set

from introspection_probe import IntrospectionCallback
from introspection_probe.errors import IntrospectionError
from introspection_probe.history import History

RUN = """
import os, sys
from pathlib import Path
from runs import sft, small_probe_set, weights
from transformers import TrainerCallback
from introspection_probe import IntrospectionCallback
import torch

folder, kill_at, resume = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "resume"

class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == kill_at:
            os._exit(9)

callback = IntrospectionCallback(small_probe_set(), db=folder / "h.db", probe_every=2, on_error="raise")
trainer = sft(folder / "out", callbacks=[callback, Kill()], max_steps=8, save_strategy="steps", save_steps=3,
              gradient_accumulation_steps=2)
trainer.train(resume_from_checkpoint=resume)
torch.save(weights(trainer.model), folder / "weights.pt")
"""


def test_a_killed_and_resumed_run_ends_with_the_same_weights_and_rounds(tmp_path: Path) -> None:
    def run(folder: Path, kill_at: int, how: str) -> int:
        folder.mkdir(exist_ok=True)
        here = str(Path(__file__).parent)
        command = [sys.executable, "-c", RUN, str(folder), str(kill_at), how]
        return subprocess.run(command, cwd=here, check=False, timeout=300).returncode

    def rounds(folder: Path) -> list[Any]:
        with History.open(str(folder / "h.db"), must_exist=True) as history:
            assert len(history.runs()) == 1
            found = history.find_run(None)
            assert found.status == "finished"
            return [(r.step, r.scores, history.rollouts(found.id, r.step)) for r in history.rounds(found.id)]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run(whole, -1, "fresh") == 0
    assert run(killed, 5, "fresh") == 9
    assert not (killed / "weights.pt").exists()
    assert run(killed, -1, "resume") == 0
    assert [step for step, _, _ in rounds(whole)] == [0, 2, 4, 6, 8]
    assert rounds(killed) == rounds(whole)
    assert largest_difference(torch.load(killed / "weights.pt"), torch.load(whole / "weights.pt")) == 0.0


def test_resuming_without_the_reference_says_what_to_do(tmp_path: Path) -> None:
    def callback() -> IntrospectionCallback:
        return IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", probe_at_start=False, probe_at_end=False)

    sft(tmp_path / "out", callbacks=[callback()], max_steps=2, save_strategy="steps", save_steps=2).train()
    for reference in (tmp_path / "out").rglob("reference.safetensors"):
        reference.unlink()
    with pytest.raises(IntrospectionError, match=r"reference .* is missing.*kl_weight=0"):
        sft(tmp_path / "out", callbacks=[callback()], max_steps=4).train(resume_from_checkpoint=True)


def test_a_checkpoint_saved_without_the_callback_begins_a_run_of_its_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sft(tmp_path / "out", callbacks=[], max_steps=12, save_strategy="steps", save_steps=9).train()
    callback = IntrospectionCallback(small_probe_set(), db=tmp_path / "h.db", on_error="raise", mix_batch_size=4)
    resumed = sft(tmp_path / "out", callbacks=[callback], max_steps=12)
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-9"))
    with History.open(str(tmp_path / "h.db"), must_exist=True) as history:
        assert [r.step for r in history.rounds(history.find_run(None).id)] == [9, 12]
    told = "\n".join(record.getMessage() for record in caplog.records)
    assert "the run goes on at step 9, and neither its checkpoint nor" in told
    # What is mixed in at the steps that are left has a reference, although the steps before drew other examples.
    assert "have no reference" not in told
