"""`iprobe follow`: measure a run's checkpoints as they appear, without touching the run."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iprobe.console import note, write
from iprobe.options import DbOption
from iprobe.shell import db_option
from iprobe.torch_models import DtypeOption, TokenizerOption, progress_bar, quiet_transformers

if TYPE_CHECKING:
    from introspection_probe.records import Round
    from introspection_probe.scoring import RoundScores


def follow(
    output_dir: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT_DIR", show_default=False, help="Folder that the run writes its checkpoints into."
        ),
    ],
    probes: Annotated[Path, typer.Option(metavar="DIR", help="Probe set, from `iprobe build`.")],
    db: DbOption = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call the run. By default the folder's name.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="M0: measured first, as step 0, and what LoRA adapters are put on."),
    ] = None,
    tokenizer: TokenizerOption = None,
    poll: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Time between two looks at the folder.")
    ] = 30.0,
    once: Annotated[bool, typer.Option("--once", help="Measure what is there now, then end.")] = False,
    until_step: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="End when a checkpoint of this step or later is measured.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(metavar="DEVICE", help="Such as cuda:1. By default the CPU: the accelerators are the run's."),
    ] = "cpu",
    dtype: DtypeOption = None,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="RUN[@STEP]",
            help="Earlier run that alarms compare with, at its last round or at STEP. By default the first round here.",
        ),
    ] = None,
    on_alert: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Post alarms there as JSON when they are raised and when they are over."),
    ] = None,
    prometheus_port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Serve metrics on this port, 0 for any free one."),
    ] = None,
    prometheus_host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to serve metrics on.")] = "127.0.0.1",
) -> None:
    """Measure the checkpoints of a run as they appear, whatever trains it.

    Each is taken once, in order of step, when it is complete; a follower that is started again goes on where its
    history ends. The run's folder is only read.
    """
    if device.partition(":")[0] == "cpu":
        # Merely looking for accelerators takes memory on the run's own.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    signal.signal(signal.SIGTERM, _end)
    from introspection_probe.config import IntrospectionConfig
    from introspection_probe.probe_set import ProbeSet

    probe_set = ProbeSet.load(probes)
    config = IntrospectionConfig(
        explanation_weight=0,
        db=db,
        run_name=run,
        baseline=baseline,
        on_alert="log" if on_alert is None else on_alert,
        prometheus_port=prometheus_port,
        prometheus_host=prometheus_host,
    )
    note(f"Following {_safe(output_dir)} ...")
    from introspection_probe.follow import Follower

    quiet_transformers()
    with _Bar() as bar:

        def tell(sentence: str) -> None:
            bar.close()
            note(_safe(sentence))

        def show(name: str, round_: Round, scores: Mapping[str, RoundScores]) -> None:
            bar.close()
            _show(round_, scores)

        follower = Follower(
            output_dir,
            probe_set,
            config,
            base=base,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            poll_s=poll,
            note=tell,
            measured=show,
            progress=bar.update,
        )
        with _notes(tell):
            follower.run(once=once, until_step=until_step)
    note(f"{follower.rounds} rounds taken: see `iprobe report{db_option(db)}`.")
    if once and follower.given_up:
        raise typer.Exit(1)


class _Bar(ExitStack):
    """A progress bar that is there during a round only: while one is shown, rich takes stdout over."""

    _update: Callable[[str, int, int], None] | None = None

    def update(self, name: str, done: int, total: int) -> None:
        if self._update is None:
            self._update = self.enter_context(progress_bar())
        self._update(name, done, total)

    def close(self) -> None:
        self._update = None
        super().close()


class _Notes(logging.Handler):
    """What the library logs (alarms, a history that cannot be written), as remarks of ours."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


@contextmanager
def _notes(tell: Callable[[str], None]) -> Iterator[None]:
    handler = _Notes(tell)
    logger = logging.getLogger("introspection_probe")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _show(round_: Round, scores: Mapping[str, RoundScores]) -> None:
    """A line for each task of a round, on stdout."""
    from introspection_probe.scoring import paired_difference
    from iprobe.formatting import duration_text, ratio_text, signed_text

    for task, task_scores in scores.items():
        own, orig = task_scores.targets["self"], task_scores.targets["orig"]
        gap = paired_difference(task_scores.paired)
        cells = [
            f"step {round_.step}",
            *([_safe(task, 40)] if len(scores) > 1 else []),
            f"Self EM {ratio_text(own.exact_match)}",
            f"Orig EM {ratio_text(orig.exact_match)}",
            f"gap {signed_text(None if gap is None else gap.estimate)}",
            f"Behaviour EM {ratio_text(task_scores.behavior.both)}",
            f"{task_scores.n} probes in {duration_text(round_.duration_s)}",
        ]
        write("  ".join(cells))


def _end(signum: int, frame: object) -> None:
    """Asked to end by a supervisor: unwind, so that everything is written out."""
    raise SystemExit(128 + signum)


def _safe(text: object, limit: int = 1000) -> str:
    from iprobe.text import safe_text

    return safe_text(str(text), limit)
