"""What a history costs: write rate, file size, how a report reads a million rollouts.

    python benchmarks/history.py [--rounds 1000] [--probes 1000] [--json]

Writes the rounds through `History`, each with its own rollouts, and then reads what `iprobe report` reads. Prints one
table, or with `--json` one object.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event

from introspection_probe.history import History
from introspection_probe.records import (
    Behavior,
    Explanation,
    Probe,
    ProbeExample,
    Rendered,
    Rollout,
    Round,
    RunInfo,
)
from introspection_probe.scoring import score_by_task
from introspection_probe.tasks.explanations import to_text

OPTIONS = ("A", "B", "C", "D")
TASK = "hint-mmlu"
PROMPT = "A question of the usual length, with four answers to choose from, as MMLU has them. " * 5


def make_probe(number: int) -> Probe:
    rng = random.Random(number)
    cue = f"Hint: {rng.choice(OPTIONS)}"
    example = ProbeExample(
        id=f"{TASK}-test-{number:06}",
        group=str(number),
        task=TASK,
        included=({"role": "user", "content": f"{PROMPT}{number}\n{cue}"},),
        ablated=({"role": "user", "content": f"{PROMPT}{number}"},),
        question=({"role": "user", "content": "?"},),
        options=OPTIONS,
        cue=cue,
        cue_option=cue[-1],
    )
    behavior = Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS))
    return Probe(example, Rendered("", "", ""), "probe", behavior, {"orig": behavior.explanation})


def make_round(step: int, probes: list[Probe], garbled: float) -> Round:
    """Rollouts of a model of which `garbled` explanations are texts nobody has said before."""
    rng = random.Random(step)
    rollouts = []
    for probe in probes:
        behavior = Behavior(rng.choice(OPTIONS), rng.choice(OPTIONS))
        said: Explanation | None = Explanation(rng.random() < 0.5, rng.choice(OPTIONS))
        text = to_text(said) if said else ""
        if rng.random() < garbled:
            said, text = None, f"I think that {rng.random()} would be what I had said without {rng.random()}."
        rollouts.append(Rollout(probe.example.id, behavior, text, said))
    return Round(step, tuple(rollouts), datetime.now(UTC), 1.0, tokens=90 * len(probes), path="packed")


def write(path: Path, rounds: int, probes: list[Probe], garbled: float) -> dict[str, float]:
    """Write the rounds; what making and scoring them costs is not counted."""
    spent = []
    with History.open(str(path)) as history:
        run_id = history.start_run(RunInfo("uid", "bench", "model", (TASK,)))
        history.save_probe_set(
            run_id, content_hash="hash", name="bench", task=TASK, model="model", manifest={}, probes=probes
        )
        for step in range(rounds):
            taken = make_round(step, probes, garbled)
            scores = score_by_task(taken.rollouts, probes)
            began = time.perf_counter()
            history.record_round(run_id, taken, scores)
            spent.append(time.perf_counter() - began)
        beat = timed(lambda: history.update_run(run_id, step=rounds))
    return {
        "write_ms_per_round": 1e3 * statistics.median(spent),
        "write_ms_worst_round": 1e3 * max(spent),
        "rollouts_written_per_s": rounds * len(probes) / sum(spent),
        "heartbeat_ms": 1e3 * beat,
    }


def read(path: Path, last: int) -> dict[str, float]:
    with History.open(str(path), must_exist=True) as history:
        run_id = history.find_run(None).id
        return {
            "open_ms": 1e3 * timed(lambda: History.open(str(path), must_exist=True).close()),
            "rounds_ms": 1e3 * timed(lambda: history.rounds(run_id)),
            "last_round_ms": 1e3 * timed(lambda: history.rounds(run_id, since_step=last)),
            "rollouts_ms": 1e3 * timed(lambda: history.rollouts(run_id, last)),
            "disagreements_ms": 1e3 * timed(lambda: history.disagreements(run_id, last)),
        }


def timed(fn: Callable[[], Any], times: int = 5) -> float:
    spent = []
    for _ in range(times):
        began = time.perf_counter()
        fn()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def command(path: Path, *arguments: str) -> tuple[float, float]:
    """`iprobe ...` as a person waits for it, a new process each time: wall and CPU milliseconds."""
    run = [sys.executable, "-c", "from iprobe.main import program; program()", *arguments, "--db", str(path)]
    cpu = []

    def once() -> None:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(run, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    wall = timed(once)
    return 1e3 * wall, 1e3 * statistics.median(cpu)


def query_plans(path: Path, last: int) -> list[str]:
    """SQLite's plan for every query that a report makes; a SCAN of rollout or text would be a fault."""
    plans: list[str] = []
    with History.open(str(path), must_exist=True) as history:

        def explain(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
            if statement.startswith("SELECT"):
                rows = connection.connection.cursor().execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
                plans.extend(row[3] for row in rows if row[3] not in plans)

        event.listen(Engine, "before_cursor_execute", explain)
        run_id = history.find_run(None).id
        history.rounds(run_id)
        history.rollouts(run_id, last)
        history.disagreements(run_id, last)
        history.alerts(run_id, active_only=True)
        event.remove(Engine, "before_cursor_execute", explain)
    return plans


def measure(rounds: int, probe_count: int, garbled: float = 0.02) -> dict[str, Any]:
    """Write a history of so many rounds and read it in every way."""
    probes = [make_probe(number) for number in range(probe_count)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "history.db"
        result: dict[str, Any] = {"rounds": rounds, "probes": probe_count}
        result |= write(path, rounds, probes, garbled)
        result["file_mb"] = path.stat().st_size / 1e6
        result["bytes_per_rollout"] = path.stat().st_size / (rounds * probe_count)
        result |= read(path, rounds - 1)
        result["report_ms"], result["report_cpu_ms"] = command(path, "report")
        result["report_json_ms"], result["report_json_cpu_ms"] = command(path, "report", "--format", "json")
        result["runs_ms"], result["runs_cpu_ms"] = command(path, "runs")
        result["query_plans"] = query_plans(path, rounds - 1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=1000)
    parser.add_argument("--garbled", type=float, default=0.02, help="share of explanations that are unique texts")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    result = measure(arguments.rounds, arguments.probes, arguments.garbled)
    if arguments.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        if name != "query_plans":
            print(f"{name:24} {value:>12,.1f}" if isinstance(value, float) else f"{name:24} {value:>12,}")
    print("query plans:")
    for plan in result["query_plans"]:
        print(f"  {plan}")


if __name__ == "__main__":
    main()
