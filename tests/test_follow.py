"""`iprobe follow`: real runs, real checkpoints, one history."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cli_program import Program, Result
from peft import LoraConfig, get_peft_model
from runs import embedded_model, embedded_tokenizer, encoded, sft, small_probe_set

from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.follow import Follower
from introspection_probe.follow.loading import CheckpointLoader
from introspection_probe.history import History
from introspection_probe.models import load_model
from introspection_probe.records import Rollout
from introspection_probe.rollout import Prober
from introspection_probe.tasks.jabberwocky import MODEL_PATH

TESTS = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_probe_set().save(tmp_path_factory.mktemp("set") / "probes")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with checkpoints 2, 4 and 6; copy it before changing it."""
    out = tmp_path_factory.mktemp("run") / "out"
    sft(out, callbacks=[], max_steps=6, save_strategy="steps", save_steps=2, learning_rate=1e-2).train()
    return out


@dataclass
class Told:
    """What a follower told, and what it measured."""

    notes: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)


def follower(out: Path, db: Path, told: Told, **options: Any) -> Follower:
    options.setdefault("measured", lambda name, round_, scores: told.steps.append(round_.step))
    config = IntrospectionConfig(db=db, on_error="raise", **options.pop("config", {}))
    return Follower(out, small_probe_set(), config, poll_s=0.1, note=told.notes.append, **options)


def rollouts_of(checkpoint: Path) -> tuple[Rollout, ...]:
    """What anybody would measure on a checkpoint."""
    model, tokenizer = load_model(checkpoint, "cpu")
    return Prober(tokenizer, encoded(small_probe_set())).measure(model, step=0).rollouts


def stored(db: Path, step: int) -> tuple[Rollout, ...]:
    with History.open(str(db), must_exist=True) as history:
        return tuple(history.rollouts(history.find_run(None).id, step))


def stored_steps(db: Path) -> list[int]:
    with History.open(str(db), must_exist=True) as history:
        (run,) = history.runs()
        return [round_.step for round_ in history.rounds(run.id)]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    found = {str(path.relative_to(folder)): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items()}


def test_a_live_run_is_followed_and_what_it_deletes_too_fast_is_named(probes: Path, tmp_path: Path) -> None:
    """The run keeps its last three checkpoints and knows nothing of the follower."""
    script = f"""
import sys, time
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from runs import sft
from transformers import TrainerCallback

class Slow(TrainerCallback):
    def on_step_end(self, *args, **kwargs):
        time.sleep(0.5)

sft(Path("out"), callbacks=[Slow()], max_steps=20, save_strategy="steps", save_steps=2, save_total_limit=3).train()
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    code = (
        f"import sys; sys.argv = ['iprobe', 'follow', 'out', '--probes', {str(probes)!r}, '--db', 'h.db',"
        f" '--base', {str(MODEL_PATH)!r}, '--poll', '0.2', '--until-step', '20'];"
        " from iprobe.main import main; main()"
    )
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=environment, **pipes) as following:
        assert following.stdout is not None
        first = following.stdout.readline()  # the base: from here on the folder is looked at
        run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True)
        assert run.returncode == 0, run.stderr.decode()
        out, errors = following.communicate(timeout=120)
    assert following.returncode == 0, errors
    out = first + out
    measured = [int(step) for step in re.findall(r"^step (\d+) ", out, re.MULTILINE)]
    skipped = [int(step) for step in re.findall(r"skipped checkpoint-(\d+): it was deleted", errors)]
    assert measured == sorted(set(measured))
    assert measured[0] == 0
    assert sorted([*measured, *skipped]) == list(range(0, 21, 2))
    assert stored_steps(tmp_path / "h.db") == measured
    assert stored(tmp_path / "h.db", 20) == rollouts_of(tmp_path / "out" / "checkpoint-20")
    assert stored(tmp_path / "h.db", 0) == rollouts_of(MODEL_PATH)
    with History.open(str(tmp_path / "h.db")) as history:
        run_row = history.find_run("out")
        assert (run_row.kind, run_row.status, run_row.step) == ("offline", "finished", 20)
    # Nothing but the run's own: no files of ours in its folder.
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "README.md",
        "checkpoint-16",
        "checkpoint-18",
        "checkpoint-20",
    }


def test_a_follower_only_reads(trained: Path, tmp_path: Path) -> None:
    before = listing(trained)
    told = Told()
    follower(trained, tmp_path / "h.db", told).run(once=True)
    assert told.steps == [2, 4, 6]
    assert listing(trained) == before
    for step in (2, 4, 6):
        assert stored(tmp_path / "h.db", step) == rollouts_of(trained / f"checkpoint-{step}")


def test_lora_adapters_are_exchanged_on_one_base(tmp_path: Path) -> None:
    lora = LoraConfig(r=8, lora_alpha=64, target_modules="all-linear", task_type="CAUSAL_LM")
    out = tmp_path / "out"
    model = get_peft_model(embedded_model(), lora)
    sft(out, callbacks=[], model=model, max_steps=6, save_strategy="steps", save_steps=2, learning_rate=1e-2).train()
    told = Told()
    subject = follower(out, tmp_path / "h.db", told, base=str(MODEL_PATH))
    subject.run(once=True)
    assert told.steps == [0, 2, 4, 6]
    assert subject._loader.swapped == 2
    rounds = [stored(tmp_path / "h.db", step) for step in (0, 2, 4, 6)]
    for step, rollouts in zip((2, 4, 6), rounds[1:], strict=True):
        assert rollouts == rollouts_of(out / f"checkpoint-{step}")
    assert len(set(rounds)) == 4, "training did not change what the model does: the comparison shows nothing"


def test_adapters_with_whole_layers_are_loaded_anew(tmp_path: Path) -> None:
    import torch

    lora = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    for step, scale in ((1, 0.5), (2, 0.0)):
        model = get_peft_model(embedded_model(), lora)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "modules_to_save" in name:
                    parameter.add_(scale * torch.randn_like(parameter))
        model.save_pretrained(tmp_path / f"step-{step}")
        embedded_tokenizer().save_pretrained(tmp_path / f"step-{step}")
    loader = CheckpointLoader(device="cpu")
    loader.load(tmp_path / "step-1")
    model, tokenizer = loader.load(tmp_path / "step-2")
    assert loader.swapped == 0
    measured = Prober(tokenizer, encoded(small_probe_set())).measure(model, step=0).rollouts
    assert measured == rollouts_of(MODEL_PATH)


def test_a_half_written_checkpoint_waits_until_it_is_whole(trained: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", Told()
    shutil.copytree(trained / "checkpoint-2", out / "checkpoint-2")
    shutil.copytree(trained / "checkpoint-4", out / "checkpoint-4")
    weights = out / "checkpoint-4" / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[: len(content) // 2])
    finished = []

    def finish(name: str, round_: Any, scores: Any) -> None:
        told.steps.append(round_.step)
        if round_.step == 2:

            def write() -> None:
                time.sleep(1.0)
                finished.append(list(told.steps))
                weights.write_bytes(content)

            threading.Thread(target=write).start()

    follower(out, tmp_path / "h.db", told, measured=finish).run(until_step=4)
    assert finished == [[2]], "it was measured before it was whole"
    assert told.steps == [2, 4]
    assert told.notes == []
    assert stored(tmp_path / "h.db", 4) == rollouts_of(out / "checkpoint-4")


def test_a_restarted_follower_catches_up_and_repeats_nothing(trained: Path, tmp_path: Path) -> None:
    out, db = tmp_path / "out", tmp_path / "h.db"
    shutil.copytree(trained / "checkpoint-2", out / "checkpoint-2")
    first, second, third = Told(), Told(), Told()
    follower(out, db, first).run(until_step=2)
    for step in (4, 6):
        shutil.copytree(trained / f"checkpoint-{step}", out / f"checkpoint-{step}")
    # Named otherwise, called by another path: it is still the same folder's run.
    follower(out / ".." / "out", db, second, config={"run_name": "renamed"}).run(until_step=6)
    follower(out, db, third).run(once=True)
    assert (first.steps, second.steps, third.steps) == ([2], [4, 6], [])
    assert stored_steps(db) == [2, 4, 6]


def test_iprobe_probe_records_in_the_same_run(trained: Path, probes: Path, tmp_path: Path, program: Program) -> None:
    out, db, told = tmp_path / "out", tmp_path / "h.db", Told()
    for step in (2, 4):
        shutil.copytree(trained / f"checkpoint-{step}", out / f"checkpoint-{step}")
    options = ("--probes", probes, "--db", db, "--device", "cpu")
    assert program("probe", "--model", out / "checkpoint-2", *options).code == 0
    follower(out, db, told).run(once=True)
    assert told.steps == [4]
    assert stored_steps(db) == [2, 4]


def test_a_checkpoint_deleted_while_another_is_measured_is_named(trained: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", Told()
    shutil.copytree(trained, out)

    def rotate(name: str, done: int, total: int) -> None:
        shutil.rmtree(out / "checkpoint-2", ignore_errors=True)  # the one in work is in memory already
        shutil.rmtree(out / "checkpoint-4", ignore_errors=True)

    follower(out, tmp_path / "h.db", told, progress=rotate).run(once=True)
    assert told.steps == [2, 6]
    assert told.notes == ["skipped checkpoint-4: it was deleted before it was measured"]


def test_a_broken_checkpoint_is_told_of_retried_and_does_not_stop_the_rest(trained: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", Told()
    shutil.copytree(trained, out)
    config = out / "checkpoint-4" / "config.json"
    config.write_text(config.read_text().replace('"hidden_size": ', '"hidden_size": 1'))
    follower(out, tmp_path / "h.db", told, config={"prometheus_port": 0}).run(until_step=6)
    assert told.steps == [2, 6]
    served, first, last = told.notes
    assert first.startswith("checkpoint-4 cannot be measured and is tried again later: ")
    assert last.startswith("checkpoint-4 cannot be measured and is given up: ")
    assert served.startswith("metrics are served on ")


def test_once_ends_with_1_where_a_checkpoint_cannot_be_measured(
    trained: Path, probes: Path, tmp_path: Path, program: Program
) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained, out)
    (out / "checkpoint-2" / "config.json").write_text('{"model_type": "\\u001b[2J"}')
    (out / "checkpoint-4" / "model.safetensors").unlink()
    result: Result = program("follow", out, "--probes", probes, "--db", tmp_path / "h.db", "--once", "--poll", 0.1)
    assert result.code == 1
    assert re.findall(r"^step (\d+) ", result.out, re.MULTILINE) == ["6"]
    assert len(re.findall("^checkpoint-2 cannot be measured and is given up", result.err, re.MULTILINE)) == 1
    assert re.search(r"^skipped checkpoint-4: it has no weights", result.err, re.MULTILINE)
    assert "\x1b" not in result.err
    assert "Traceback" not in result.err


def test_metrics_tell_how_far_behind_the_follower_is(trained: Path, tmp_path: Path) -> None:
    told, pages = Told(), []

    def scrape(name: str, round_: Any, scores: Any) -> None:
        url = told.notes[0].split()[-1]
        with urllib.request.urlopen(url, timeout=10) as page:
            pages.append(page.read().decode())

    follower(trained, tmp_path / "h.db", told, config={"prometheus_port": 0}, measured=scrape).run(once=True)
    run = trained.name
    assert [re.findall(rf'^iprobe_last_round_step{{run="{run}"}} (\S+)$', page, re.MULTILINE) for page in pages] == [
        ["2.0"],
        ["4.0"],
        ["6.0"],
    ]
    assert all(f'iprobe_train_step{{run="{run}"}} 6.0' in page for page in pages)


def test_a_probe_set_of_another_tokenizer_ends_it_at_once(trained: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "out", Told()
    shutil.copytree(trained / "checkpoint-2", out / "checkpoint-2")
    tokenizer = embedded_tokenizer().__class__.from_pretrained(MODEL_PATH)
    tokenizer.add_tokens(["is its"])
    tokenizer.save_pretrained(out / "checkpoint-2")
    with pytest.raises(IntrospectionError, match="checkpoint-2 cannot be measured: the probe set was built with"):
        follower(out, tmp_path / "h.db", told).run(until_step=2)
    with History.open(str(tmp_path / "h.db")) as history:
        assert history.find_run("out").status == "failed"


def test_a_base_that_is_not_the_probe_sets_m0_is_told_of(trained: Path, tmp_path: Path) -> None:
    told = Told()
    follower(trained, tmp_path / "h.db", told, base=str(trained / "checkpoint-6")).run(until_step=2)
    assert told.steps[0] == 0
    assert "build a set from the run's starting model" in told.notes[0]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_ends_cleanly_when_asked_to(trained: Path, probes: Path, tmp_path: Path, sent: int, code: int) -> None:
    program = (
        f"import sys; sys.argv = ['iprobe', 'follow', {str(trained)!r}, '--probes', {str(probes)!r},"
        " '--db', 'h.db', '--poll', '0.2']; from iprobe.main import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        assert process.stdout.readline().startswith("step ")
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in errors
    with History.open(str(tmp_path / "h.db")) as history:
        run = history.find_run(None)
        assert run.status == "stopped"
        assert [round_.step for round_ in history.rounds(run.id)] == [2, 4, 6]


def test_a_folder_without_checkpoints_is_told_of(tmp_path: Path, probes: Path, program: Program) -> None:
    (tmp_path / "out" / "logs").mkdir(parents=True)
    done = program("follow", tmp_path / "out", "--probes", probes, "--db", tmp_path / "h.db", "--once")
    assert done.code == 0
    assert f"there is no checkpoint in {tmp_path / 'out'}\n" in done.err


def test_wrong_use_is_one_sentence(tmp_path: Path, probes: Path, program: Program) -> None:
    (tmp_path / "file").touch()
    for arguments, sentence in (
        ((tmp_path / "none", "--once"), "there is no folder"),
        ((tmp_path / "file",), "is a file: give the folder"),
    ):
        result = program("follow", *arguments, "--probes", probes, "--db", tmp_path / "h.db")
        assert result.code == 2
        assert sentence in result.err
        assert result.err.count("iprobe: ") == 1
