"""From what a user named to the probe sets of a run: checked, built from the model, or taken up by a resumed run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from introspection_probe.building import build_probe_set
from introspection_probe.config import IntrospectionConfig
from introspection_probe.errors import IntrospectionError
from introspection_probe.mixture import Ingredient, Mixture, Part, ToBuild
from introspection_probe.probe_set import ProbeSet
from introspection_probe.rollout import distributed
from introspection_probe.run_folder import RunFolder

logger = logging.getLogger("introspection_probe")


def prepare(
    ingredients: Sequence[Ingredient],
    config: IntrospectionConfig,
    folder: RunFolder,
    model: nn.Module,
    tokenizer: Any,
) -> Mixture:
    """The run's probe sets, all of which this tokenizer reads as they were built. Every process has to call it.

    Raises:
        IntrospectionError: a set of another tokenizer, without the label set that is trained on, sets that do not go
            together, or a resumed run whose built set is gone.
    """
    mixture = Mixture(
        tuple(
            Part(item.name, _probe_set(item.source, config, folder, model, tokenizer), item.weight)
            for item in ingredients
        )
    )
    mixture.check_supervision(config.supervision)
    return mixture


def _probe_set(
    source: ProbeSet | ToBuild, config: IntrospectionConfig, folder: RunFolder, model: nn.Module, tokenizer: Any
) -> ProbeSet:
    if isinstance(source, ProbeSet):
        source.check_tokenizer(tokenizer)
        return source
    place = folder.probes(source.task.name)
    if folder.resumed:
        # M0 is gone: a set built now would describe another model.
        if not place.exists():
            raise IntrospectionError(
                f"the resumed run has no probe set of {source.task.name!r} in {place}, and the model it would be "
                "built from is gone: put the folder back, or give a probe set that was built before the run"
            )
        probe_set = ProbeSet.load(place)
        probe_set.check_tokenizer(tokenizer)
        return probe_set
    logger.info("building a probe set for %s from the model itself", source.task.name)
    # Every process builds it: the measuring is shared among them and the rest is a function of the seed.
    probe_set, summary = build_probe_set(
        source.task,
        model,
        tokenizer,
        n=config.n_examples,
        seed=config.seed,
        model_name=model_name(model),
        task_options=source.options,
    )
    for warning in summary.warnings:
        logger.warning("%s: %s", source.task.name, warning)
    if distributed.rank() == 0:
        _replace_folder(probe_set, place)
    distributed.barrier()
    return probe_set


def model_name(model: nn.Module) -> str:
    """Where the model says it was loaded from, else its class."""
    return str(getattr(model, "name_or_path", "") or type(model).__name__)


def _replace_folder(probe_set: ProbeSet, folder: Path) -> None:
    """An earlier run in the same output folder built its own set there."""
    if folder.exists():
        shutil.rmtree(folder)
    probe_set.save(folder)
