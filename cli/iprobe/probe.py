"""`iprobe probe`: measure any checkpoint against a probe set, offline, into the same history as training runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from introspection_probe.run_folder import offline_uid
from iprobe.console import note, stdout_console
from iprobe.endpoints import EndpointOption, open_endpoint
from iprobe.options import DbOption
from iprobe.shell import db_option
from iprobe.torch_models import DeviceOption, DtypeOption, TokenizerOption, counting, open_model, progress_bar

if TYPE_CHECKING:
    from rich.console import RenderableType

    from introspection_probe.endpoint import Interview
    from introspection_probe.probe_set import ProbeSet
    from introspection_probe.records import Round
    from introspection_probe.scoring import RoundScores

Bar = Callable[[str, int, int], None]
Take = Callable[[int, Bar], "Round"]
_MEASURING = "measuring"

_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def probe(
    probes: Annotated[Path, typer.Option(metavar="DIR", help="Probe set, from `iprobe build`.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="CHECKPOINT",
            help="A model's folder, a LoRA adapter's folder or a hub name; with --endpoint its name there.",
        ),
    ] = None,
    endpoint: EndpointOption = None,
    db: DbOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Run to record the round in; rounds of one name and probe set go together. "
            "By default that of the folder that holds the checkpoints.",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="The checkpoint's step. By default from its name or trainer_state.json, else 0."
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    tokenizer: TokenizerOption = None,
) -> None:
    """Measure a checkpoint: what it answers, what it says about itself, and whether the two agree.

    The round goes into the history, so that `iprobe report` shows several checkpoints of a run as it shows training.
    """
    from introspection_probe.errors import IntrospectionError
    from introspection_probe.history import History
    from introspection_probe.probe_set import ProbeSet
    from introspection_probe.records import RunInfo
    from introspection_probe.scoring import score_by_task

    if model is None and endpoint is None:
        raise IntrospectionError("nothing says what to measure: give --model CHECKPOINT, or --endpoint URL")
    probe_set = ProbeSet.load(probes)
    measured = probe_set.split("probe")
    with ExitStack() as stack:
        if endpoint is not None:
            interview = stack.enter_context(open_endpoint(endpoint, model, measured[0].rendered.included))
            model, take = interview.model, _remote(interview, probe_set)
        else:
            assert model is not None
            take = _local(model, probe_set, device, dtype, tokenizer)
        found_step = checkpoint_step(model) if step is None else step
        name, uid = run_identity(model, run, probe_set.content_hash)
        # Before the measurement, which may take long: a history that cannot be written is found now.
        history = stack.enter_context(History.open(db))
        with progress_bar() as progress:
            round_ = take(found_step, progress)
        scores = score_by_task(round_.rollouts, round_.measured(measured))
        config = {"probes": str(probes), "content_hash": probe_set.content_hash}
        info = RunInfo(uid=uid, name=name, model=model, tasks=tuple(scores), kind="offline", config=config)
        run_id = history.start_run(info)
        history.save_probe_set(
            run_id,
            content_hash=probe_set.content_hash,
            name=probes.resolve().name,
            task=probe_set.task,
            model=probe_set.manifest.model,
            manifest=asdict(probe_set.manifest),
            probes=measured,
        )
        history.record_round(run_id, round_, scores)
        history.update_run(run_id, step=found_step, status="finished")
    console = stdout_console()
    for task, task_scores in scores.items():
        console.print(_scores(task, task_scores, name, found_step))
    note(f"Recorded as step {found_step} of run {run_id}: see `iprobe report {run_id}{db_option(db)}`.")


def _local(model: str, probe_set: ProbeSet, device: str | None, dtype: str | None, tokenizer_of: str | None) -> Take:
    """How a round is taken of a model that is loaded here."""
    mt, tokenizer = open_model(model, device, dtype, tokenizer_of)
    probe_set.check_tokenizer(tokenizer)
    from introspection_probe.rollout import encode_set, measure

    measured = probe_set.split("probe")
    encoded = encode_set(tokenizer, probe_set, measured)
    return lambda step, progress: measure(
        mt, tokenizer, encoded, step=step, progress=counting(progress, _MEASURING, len(encoded))
    )


def _remote(interview: Interview, probe_set: ProbeSet) -> Take:
    """How a round is taken of a model behind a server."""
    measured = probe_set.split("probe")
    return lambda step, progress: interview.measure(
        measured,
        step=step,
        answer_prefix=probe_set.style.answer_prefix,
        judging=probe_set.manifest.judging,
        progress=counting(progress, _MEASURING, 3 * len(measured)),
    )


def checkpoint_step(model: str) -> int:
    """Optimizer steps that made a checkpoint: from a ``checkpoint-N`` folder or its ``trainer_state.json``, else 0."""
    folder = Path(model)
    named = _CHECKPOINT.fullmatch(folder.name)
    if named:
        return int(named[1])
    try:
        return int(json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def run_identity(model: str, run: str | None, content_hash: str) -> tuple[str, str]:
    """The run's name and its uid, which is the same for all checkpoints that belong together.

    Together belong those of one ``--run`` name, or else of one folder of ``checkpoint-N`` folders, on one probe set.
    """
    if run is not None:
        name = identity = run
    else:
        folder = Path(model).resolve() if Path(model).exists() else Path(model)
        if _CHECKPOINT.fullmatch(folder.name):
            folder = folder.parent
        name, identity = folder.name or model, str(folder)
    return name, offline_uid(identity, content_hash)


def _scores(task: str, scores: RoundScores, name: str, step: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from introspection_probe.scoring import judge
    from iprobe.measures import rows
    from iprobe.text import safe_text
    from iprobe.values import value_interval_text, value_text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", collapse_padding=True)
    table.add_column(f"{scores.n} probes")
    table.add_column("score", justify="right")
    table.add_column("95% interval", justify="right")
    for row in rows([scores]):
        cells = (
            row.measure.label,
            value_text(row.measure, row.latest),
            value_interval_text(row.measure, row.latest_interval),
        )
        table.add_row(*map(Text, cells))
    verdict = judge(scores)
    title = Text(f"{safe_text(name, 80)}, step {step:,}, {safe_text(task, 40)}", style="bold")
    lines = [Text(safe_text(sentence)) for sentence in (verdict.headline, verdict.reason, *verdict.notes)]
    return Group(title, table, Text(), *lines)
