"""`iprobe demo`: the whole thing on the embedded model, in about a minute on two cores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iprobe.console import note

if TYPE_CHECKING:
    from introspection_probe.probe_set import ProbeSet


def demo(
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where everything goes; an earlier demo's history is kept.")
    ] = Path("demo-run"),
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps. By default the demo's own number.")] = None,
    seed: Annotated[int, typer.Option(help="Of the host data, the probe set and the drawing.")] = 0,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the metrics; a busy one moves to the next free one.")
    ] = 9464,
    explanation_weight: Annotated[float, typer.Option(help="Weight of what is mixed in; 0 only measures.")] = 1.0,
    kl_weight: Annotated[float, typer.Option(help="lambda, the weight of the KL term.")] = 1.0,
) -> None:
    """Train the embedded model for about a minute with the sidecar on, and report.

    A real TRL SFTTrainer run on the CPU: host data changes what the model answers, while explanations of its old
    behaviour are mixed in. Whether its explanations follow the new behaviour is what the report says.
    """
    from introspection_probe.experiments import jabberwocky_run as run

    _quiet_libraries()
    model, tokenizer = run.load_embedded()
    db = str(folder / "introspection.db")
    config = run.demo_config(
        db=db,
        prometheus_port=port,
        seed=seed,
        explanation_weight=explanation_weight,
        kl_weight=kl_weight,
        run_name="demo",
    )
    _make(folder)
    note("Building a probe set from the model as it is now (M0) ...")
    probe_set = run.demo_probe_set(model, tokenizer, seed)
    _save(probe_set, folder / "probes")
    train, probe = (len(probe_set.split(split)) for split in ("train", "probe"))
    note(f"{train} explanations to mix in, {probe} questions to measure on: {folder / 'probes'}")
    progress = _progress()
    trainer = run.demo_trainer(
        folder / "trainer",
        probe_set,
        model,
        tokenizer,
        config,
        seed=seed,
        steps=steps or run.STEPS,
        callbacks=[progress],
    )
    trainer.train()
    trainer.save_model(str(folder / "model"))
    tokenizer.save_pretrained(str(folder / "model"))

    from iprobe.report import report

    note("")
    report(db=db)
    note(f"\nThe history is {db}, the trained model is in {folder / 'model'}.")


def _quiet_libraries() -> None:
    """Their progress bars and notices are of no use to somebody who sees this program for the first time."""
    import logging
    import warnings

    import datasets
    import transformers

    warnings.filterwarnings("ignore", category=FutureWarning)
    datasets.disable_progress_bars()
    transformers_logging: Any = transformers.utils.logging
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("introspection_probe").setLevel(logging.INFO)


def _make(folder: Path) -> None:
    from introspection_probe.errors import IntrospectionError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise IntrospectionError(
            f"cannot make the folder {folder}: {error.strerror or error}; choose another one with --dir"
        ) from error


def _save(probe_set: ProbeSet, folder: Path) -> None:
    """In the place of an earlier demo's set; never of somebody's own."""
    import shutil

    from introspection_probe.probe_set.manifest import MANIFEST, read_manifest

    if (folder / MANIFEST).exists():
        theirs, ours = read_manifest(folder), probe_set.manifest
        if (theirs.task, theirs.model) == (ours.task, ours.model) and theirs.content_hash != ours.content_hash:
            shutil.rmtree(folder)
    probe_set.save(folder)


def _progress() -> Any:
    """A callback that draws the run: a bar with the latest round's numbers, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from transformers import TrainerCallback

    class RunProgress(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[scores]}"),
                console=Console(stderr=True),
            )

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._task = self._progress.add_task("Training", total=state.max_steps, scores="")
            self._progress.start()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._progress.update(self._task, completed=state.global_step)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            numbers = {name.removeprefix("introspection/"): value for name, value in (logs or {}).items()}
            if "self_exact_match" in numbers:
                self._progress.update(
                    self._task,
                    scores=f"Self {numbers['self_exact_match']:.2f}  Orig {numbers['orig_exact_match']:.2f}",
                )

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self._progress.stop()

    return RunProgress()
