"""Rounds and mixing in a run of two real processes (gloo), replicated (DDP) and sharded (FSDP2)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import embedded_model, embedded_tokenizer, encoded, largest_difference, sft, small_probe_set, weights

from introspection_probe import IntrospectionCallback
from introspection_probe.history import History
from introspection_probe.probe_set import ProbeSet
from introspection_probe.rollout import Prober

ROUNDS = """
import json, sys
from pathlib import Path
import torch
from torch import distributed as dist
from runs import embedded_model, embedded_tokenizer, encoded, small_probe_set
from introspection_probe.rollout import Prober

dist.init_process_group("gloo")
folder, rank = Path(sys.argv[1]), dist.get_rank()
outcome = {}

def measure(name, count, hook=None):
    model = embedded_model()
    if hook is not None:
        model.register_forward_pre_hook(hook, with_kwargs=True)
    prober = Prober(embedded_tokenizer(), encoded(small_probe_set())[:count], path="packed", token_budget=120)
    try:
        said = prober.measure(model, step=0).rollouts
        outcome[name] = [[r.example_id, r.behavior.included, r.behavior.ablated, r.predicted_text] for r in said]
    except Exception as error:
        outcome[name] = str(error)

def little_memory(module, args, inputs):
    if rank == 1 and inputs["input_ids"].shape[0] > 1:
        raise torch.OutOfMemoryError("no room")

def broken(module, args, inputs):
    if rank == 1:
        raise RuntimeError("it broke here")

measure("odd", 9)
measure("fewer than processes", 1)
measure("little memory on one", 9, little_memory)
measure("broken on one", 9, broken)
(folder / f"{rank}.json").write_text(json.dumps(outcome))
dist.destroy_process_group()
"""

RUNS = """
import sys
from pathlib import Path
import torch
from torch import distributed as dist
from runs import embedded_model, sft, small_probe_set, weights
from transformers.distributed import DistributedConfig
from trl import SFTTrainer
from introspection_probe import IntrospectionCallback, IntrospectionTrainerMixin
from introspection_probe.errors import IntrospectionError

class Mixed(IntrospectionTrainerMixin, SFTTrainer): ...

dist.init_process_group("gloo")
folder, rank = Path(sys.argv[1]), dist.get_rank()
OPTIONS = {"max_steps": 3, "per_device_train_batch_size": 2, "optim": "sgd", "learning_rate": 0.05}

def run(name, probes, model=None, kind=SFTTrainer, config={}, **options):
    config = {"db": folder / f"{name}.db", "probe_every": 2, "on_error": "raise", "n_examples": 40, **config}
    callback = IntrospectionCallback(probes, **config)
    trainer = sft(folder / name, callbacks=[callback], model=model, kind=kind, max_grad_norm=0.0, **OPTIONS | options)
    trainer.train()
    ended = {
        key: (value.full_tensor() if hasattr(value, "full_tensor") else value).clone()
        for key, value in trainer.model.state_dict().items()
    }
    if rank == 0:
        torch.save(ended, folder / f"{name}.pt")

def sharded():
    return embedded_model(distributed_config=DistributedConfig(fsdp_size=2))

run("ddp", small_probe_set())
run(
    "ddp-checkpointing",
    small_probe_set(),
    per_device_train_batch_size=1,
    gradient_accumulation_steps=2,
    gradient_checkpointing=True,
    gradient_checkpointing_kwargs={"use_reentrant": True},
)
run("ddp-mixin", small_probe_set(), kind=Mixed)
run("fsdp", small_probe_set(), sharded())
run("fsdp-accumulating", small_probe_set(), sharded(), per_device_train_batch_size=1, gradient_accumulation_steps=2)
run("fsdp-building", "jabberwocky", sharded(), max_steps=1)

model = embedded_model()
def broken(module, args):
    if rank == 1 and not module.training:
        raise RuntimeError("the probe broke on one process")
model.register_forward_pre_hook(broken)
run("ddp-broken-round", small_probe_set(), model, config={"on_error": "warn", "explanation_weight": 0}, max_steps=1)

def refused(name, model, **config):
    # Not by train(): accelerate prepares no tensor-parallel model on a CPU.
    trainer = sft(folder / name, callbacks=[])
    callback = IntrospectionCallback(small_probe_set(), db=folder / f"{name}.db", **config)
    begin = trainer.args, trainer.state, trainer.control
    try:
        callback.on_train_begin(*begin, model=model, processing_class=trainer.processing_class)
    except IntrospectionError as error:
        (folder / f"{name}-{rank}.txt").write_text(str(error))

refused("no-baseline", embedded_model(), baseline="nobody")
refused("tensor-parallel", embedded_model(distributed_config=DistributedConfig(tp_size=2)))
dist.destroy_process_group()
"""


def two_processes(script: str, folder: Path) -> Path:
    file = folder / "worker.py"
    file.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    here = str(Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(file), str(folder)], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def rounds_of_two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = two_processes(ROUNDS, tmp_path_factory.mktemp("rounds"))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.fixture(scope="module")
def runs_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_processes(RUNS, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in one process, on the same data."""
    folder = tmp_path_factory.mktemp("alone")
    callback = IntrospectionCallback(small_probe_set(), db=folder / "h.db", probe_every=2, on_error="raise")
    options = {"max_steps": 3, "per_device_train_batch_size": 4, "optim": "sgd", "learning_rate": 0.05}
    trainer = sft(folder / "out", callbacks=[callback], max_grad_norm=0.0, **options)
    before = weights(trainer.model)
    trainer.train()
    assert largest_difference(before, weights(trainer.model)) > 1e-3
    torch.save(weights(trainer.model), folder / "weights.pt")
    return folder


def rounds_in(db: Path) -> list[tuple[int, int]]:
    """Steps and numbers of answers."""
    with History.open(str(db), must_exist=True) as history:
        (run,) = history.runs()
        assert run.status == "finished"
        return [(r.step, len(history.rollouts(run.id, r.step))) for r in history.rounds(run.id)]


@pytest.mark.parametrize(("name", "count"), [("odd", 9), ("fewer than processes", 1), ("little memory on one", 9)])
def test_every_process_gets_the_whole_round_that_one_process_measures(
    name: str, count: int, rounds_of_two: list[dict[str, Any]]
) -> None:
    probes = encoded(small_probe_set())[:count]
    round_ = Prober(embedded_tokenizer(), probes, path="packed").measure(embedded_model(), step=0)
    expected = [[r.example_id, r.behavior.included, r.behavior.ablated, r.predicted_text] for r in round_.rollouts]
    assert [outcome[name] for outcome in rounds_of_two] == [expected, expected]


def test_a_round_that_fails_on_one_process_fails_on_all(rounds_of_two: list[dict[str, Any]]) -> None:
    found = [outcome["broken on one"] for outcome in rounds_of_two]
    assert found == ["process 1 failed: it broke here", "it broke here"]


def test_a_host_survives_a_round_that_fails_on_one_process(runs_of_two: Path) -> None:
    assert (runs_of_two / "ddp-broken-round.pt").exists()
    assert rounds_in(runs_of_two / "ddp-broken-round.db") == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("no-baseline", "baseline is 'nobody'"), ("tensor-parallel", "the model is tensor-parallel over 2 processes")],
)
def test_what_is_refused_is_refused_by_all_processes_in_the_same_words(
    name: str, sentence: str, runs_of_two: Path
) -> None:
    one, other = ((runs_of_two / f"{name}-{rank}.txt").read_text() for rank in range(2))
    assert one == other
    assert one.startswith(sentence)


@pytest.mark.parametrize("name", ["ddp", "ddp-checkpointing", "ddp-mixin", "fsdp", "fsdp-accumulating"])
def test_a_run_of_two_processes_mixes_what_one_process_mixes(name: str, runs_of_two: Path, alone: Path) -> None:
    """The host's gradient is averaged over both; the mixed term has to come out whole."""
    difference = largest_difference(torch.load(runs_of_two / f"{name}.pt"), torch.load(alone / "weights.pt"))
    assert difference < 1e-4
    assert rounds_in(runs_of_two / f"{name}.db") == rounds_in(alone / "h.db") == [(0, 24), (2, 24), (3, 24)]


def test_a_sharded_model_builds_the_set_that_the_whole_one_builds(runs_of_two: Path) -> None:
    built = ProbeSet.load(runs_of_two / "fsdp-building" / "introspection" / "probes" / "jabberwocky")
    expected = small_probe_set(n=40, probe_share=0.3)
    assert built.content_hash == expected.content_hash
    assert built.manifest.model_fingerprint == expected.manifest.model_fingerprint
