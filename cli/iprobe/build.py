"""`iprobe build`: ask a model a task's questions, and keep its behaviour as a probe set."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from introspection_probe.tasks import task_names
from iprobe.build_summary import build_summary
from iprobe.console import note, stdout_console
from iprobe.endpoints import EndpointOption, open_endpoint
from iprobe.shell import argument
from iprobe.text import safe_text
from iprobe.torch_models import DeviceOption, DtypeOption, open_model, open_tokenizer, progress_bar

if TYPE_CHECKING:
    from introspection_probe.tasks import Task


class BadRows(StrEnum):
    """What is done with malformed rows."""

    skip = "skip"
    refuse = "refuse"


def build(
    task: Annotated[str, typer.Option(metavar="TASK", help=f"What to ask: {', '.join(task_names())}.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make. A probe set is never overwritten.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="M0: a folder, a LoRA adapter's folder or a hub name; with --endpoint its name there.",
        ),
    ] = None,
    endpoint: EndpointOption = None,
    tokenizer_of: Annotated[
        str | None,
        typer.Option(
            "--tokenizer", metavar="PATH", help="With --endpoint: the model's tokenizer, a folder or a hub name."
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=2, metavar="N", help="Questions to ask.")] = 1000,
    probe_share: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of the questions to measure on and never train on.")
    ] = 0.3,
    seed: Annotated[int, typer.Option(metavar="SEED", help="Which questions, which hints, which side.")] = 0,
    style: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prompt style. By default the liveliest of those tried.")
    ] = None,
    task_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON",
            help="An option of the task, such as framing=first-person; an unknown one lists those there are. "
            "Repeatable.",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Rows from a file, for tasks that read one: .jsonl, .csv, .tsv.")
    ] = None,
    bad_rows: Annotated[
        BadRows | None,
        typer.Option(
            help="Malformed rows are named by number and skipped, or the first one is refused. Default: skip."
        ),
    ] = None,
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Leave out questions with more tokens. By default, than the model's window."
        ),
    ] = None,
    balance: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD",
            help="As many questions of each value of a field of the rows (subject) or of cue_option; or, of those "
            "asked, as many examples of each value of changed, included or ablated, which the answers tell.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Ask the I-th of N shares only; `iprobe probes merge` joins what N processes wrote."
        ),
    ] = None,
    hint: Annotated[
        str | None, typer.Option(metavar="TEMPLATE", help="Wording of the hint, {option} for the letter (hint-mmlu).")
    ] = None,
    opening: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Opens the assistant's answer (hint-mmlu, cues).")
    ] = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt (hint-mmlu).")] = None,
    template_arg: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="Argument for the chat template, such as enable_thinking=true."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Build a probe set from a model.

    Each prompt style of the task is tried on the same questions; the one in which the model has most to explain is
    kept for the whole set. The summary says how often the answer changes without the cue, how often the cue is
    followed and how the answers are distributed, and warns when the signal is too thin to train on.

    What was asked is kept in DIR.partial until the set is there: a build that was stopped goes on with the same
    command.
    """
    from introspection_probe.errors import IntrospectionError
    from introspection_probe.probe_set import check_share
    from introspection_probe.probe_set.folders import check_free
    from introspection_probe.tasks import get_task
    from iprobe.task_options import merged_options, named_values

    convenient = {
        "hint": hint,
        "opening": opening,
        "system": system,
        "data": None if data is None else str(data),
        "template_kwargs": named_values("--template-arg", template_arg) or None,
        "bad_rows": None if bad_rows is None else bad_rows.value,
    }
    options = merged_options(convenient, named_values("--task-option", task_option))
    # Whatever can be wrong is found before minutes are spent on it.
    chosen_task = get_task(task, **options)
    check_share(probe_share)
    check_free(out)
    share = (0, 1)
    if shard is not None:
        from introspection_probe.building.shards import parse_shard

        share = parse_shard(shard)
    with ExitStack() as stack:
        m0: Any
        if endpoint is not None:
            tokenizer = open_tokenizer(tokenizer_of or model)
            m0 = stack.enter_context(open_endpoint(endpoint, model, _first_prompt(chosen_task, tokenizer, seed)))
            model = m0.model
        elif model is not None:
            m0, tokenizer = open_model(model, device, dtype)
        else:
            raise IntrospectionError("nothing says what to ask: give --model MODEL, or --endpoint URL")
        from introspection_probe.building import measure, plan_of
        from introspection_probe.building.make_set import make_set
        from introspection_probe.building.shards import Shard, save_shard
        from introspection_probe.building.work import BuildWork

        plan = plan_of(
            chosen_task,
            m0,
            tokenizer,
            n=n,
            probe_share=probe_share,
            seed=seed,
            style=style,
            max_prompt_tokens=max_prompt_tokens,
            balance=balance,
            model_name=model,
            task_options=options,
        )
        whole = out.resolve()
        partial = whole.with_name(f"{whole.name}.partial")
        with BuildWork(partial, {**plan.as_json(), "shard": shard}) as work:
            if work.resumed:
                note(
                    f"Going on where a build was stopped: {work.resumed} answers are in {safe_text(str(partial), 400)}."
                )
            with _saying_how_to_go_on(), progress_bar() as progress:
                measured = measure(plan, chosen_task, m0, tokenizer, work, shard=share, progress=progress)
            if shard is not None:
                save_shard(Shard(plan, measured, *share), out)
            else:
                probe_set, summary = make_set(plan, measured, tokenizer)
                probe_set.save(out)
            work.remove()
    if shard is not None:
        stdout_console().print(
            f"{len(measured.asked)} of {measured.found.questions} questions asked, in style "
            f"{safe_text(measured.found.style.name, 40)}: shard {shard} is in {safe_text(str(out), 400)}."
        )
        note("Next: when all shards are there, join them with `iprobe probes merge SHARD... --out DIR`.")
        return
    stdout_console().print(build_summary(probe_set, summary, out))
    note(f"Next: measure a checkpoint with `iprobe probe --model CHECKPOINT --probes {argument(out)}`.")


@contextmanager
def _saying_how_to_go_on() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        note("Stopped. What was asked is kept: the same command goes on from there.")
        raise


def _first_prompt(task: Task, tokenizer: Any, seed: int) -> str:
    """A prompt of the kind that will be asked, to try a server with."""
    import random

    from introspection_probe.rollout import render

    style = task.styles()[0]
    example = task.example(next(iter(task.rows(seed))), style, random.Random(seed))
    return render(tokenizer, example, style).included
