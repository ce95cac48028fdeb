"""Draws explanations for a step and adds their gradient to the host's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath

import numpy as np
import torch
from torch import Tensor, nn

from introspection_probe.config import IntrospectionConfig
from introspection_probe.rollout import distributed
from introspection_probe.rollout.batching import token_batches
from introspection_probe.rollout.forward import device_of, path_logits
from introspection_probe.rollout.isolation import isolated_rng, measuring
from introspection_probe.rollout.tree import Path, build_tree
from introspection_probe.training.drawing import Drawing, Share
from introspection_probe.training.losses import MixExample, explanation_nll, reference_kl
from introspection_probe.training.reference import Reference, ReferenceRow, write_reference

logger = logging.getLogger(__name__)

_VARIANTS = ("included", "ablated")


@dataclass(frozen=True, slots=True)
class MixLosses:
    """Unweighted terms of one step, in nats per answer token; scalars on the model's device, without gradient.

    ``kl`` is None where no example of this process's share had a reference.
    """

    explanation: Tensor
    kl: Tensor | None


class Mixer:
    """The fixed explanations of a run, and the gradient they add.

    Args:
        examples: the ``train`` split of the probe set, or of several one after another.
        content_hash: of the probe sets; ties the reference file to them.
        packed: whether an example's three prompts share one packed sequence.
        shares: how many of the examples are each set's, and its share of the batches; default: one set.

    Raises:
        IntrospectionError: no examples.
    """

    def __init__(
        self,
        examples: Sequence[MixExample],
        config: IntrospectionConfig,
        *,
        content_hash: str,
        packed: bool,
        shares: Sequence[Share] | None = None,
    ) -> None:
        self._drawing = Drawing(shares or [Share(len(examples), 1.0)], config.mix_batch_size, config.seed)
        self._examples = tuple(examples)
        self._config = config
        self._content_hash = content_hash
        self._packed = packed
        self._reference: Reference | None = None
        self._sizes: dict[int, int] = {}
        self._warned_of_missing = False

    def draw(self, step: int) -> list[int]:
        """Indices of the examples mixed in at an optimizer step: a function of the seed and the step alone."""
        return self._drawing.batch(step)

    def capture_reference(self, model: nn.Module, path: FilePath, *, steps: int, first: int = 0) -> None:
        """Compute log p_M0, while the model still is M0, for what ``steps`` steps from ``first`` on draw; write it."""
        drawing = range(first, first + self._steps_that_matter(steps, first))
        needed = sorted({index for step in drawing for index in self.draw(step)})
        mine = [needed[i] for i in distributed.share(len(needed))]
        rows: dict[tuple[str, str], ReferenceRow] = {}
        with measuring(model):
            batches = self._batches(mine)
            if distributed.is_sharded(model):
                batches += [mine[:1]] * (distributed.largest(len(batches)) - len(batches))
            for batch in batches:
                groups = [self._examples[i].paths[:2] for i in batch]
                for index, logits in zip(batch, path_logits(model, groups, packed=self._packed), strict=True):
                    for variant, values in zip(_VARIANTS, logits, strict=True):
                        rows[self._examples[index].id, variant] = ReferenceRow.of(values, self._config.reference_top_k)
        # Merged in the examples' order, whichever process computed them.
        places = {self._examples[i].id: place for place, i in enumerate(needed)}
        keyed = {places[example] * 2 + _VARIANTS.index(v): ((example, v), row) for (example, v), row in rows.items()}
        merged = dict(item for _, item in sorted(distributed.merge(keyed).items()))
        if distributed.rank() == 0:
            write_reference(path, merged, self._content_hash)
        distributed.barrier()
        if not path.exists():  # another machine's disk
            write_reference(path, merged, self._content_hash)
        self.load_reference(path)

    def load_reference(self, path: FilePath) -> None:
        """Take up the reference that the run's first step wrote."""
        self._reference = Reference(path, self._content_hash)

    def _steps_that_matter(self, steps: int, first: int) -> int:
        """At least one, and no more than it takes to draw every example."""
        enough = self._drawing.steps_of_a_pass
        if first:  # amid a pass: what is left of it and the next one
            enough = 2 * enough + 1
        return max(1, min(steps, enough))

    def loss(self, model: nn.Module, step: int) -> tuple[Tensor, MixLosses]:
        """The whole weighted term of this process's share, with its graph (for a host that does one backward)."""
        total, explanation, kl = self._zeros(model, 3)
        for part in self._parts(model, step):
            total, explanation, kl = total + part.weighted, explanation + part.explanation, kl + part.kl
        return total, self._losses(step, explanation, kl)

    def backward(self, model: nn.Module, step: int, scale: Callable[[Tensor], Tensor] | None = None) -> MixLosses:
        """Accumulate the weighted term's gradient into the parameters, in passes of at most the token budget.

        Args:
            scale: the loss scaler's ``scale`` under fp16.
        """
        explanation, kl = self._zeros(model, 2)
        for part in self._parts(model, step):
            (scale(part.weighted) if scale is not None else part.weighted).backward()  # type: ignore[no-untyped-call]
            explanation, kl = explanation + part.explanation, kl + part.kl
        return self._losses(step, explanation, kl)

    def _parts(self, model: nn.Module, step: int) -> Iterator[_Part]:
        """This process's share of the step's batch, a forward at a time."""
        config = self._config
        drawn = self.draw(step)
        world, rank = distributed.world_size(), distributed.rank()
        tokens, scale = sum(len(self._examples[i].targets) for i in drawn), self._kl_scale(drawn)
        # What is reported is this process's own mean.
        mine = drawn[rank::world]
        own_tokens, own_scale = sum(len(self._examples[i].targets) for i in mine), self._kl_scale(mine)
        batches = [(batch, 1.0) for batch in self._batches(mine)]
        if distributed.is_sharded(model):
            # A sharded model's forward is collective, so every process runs as many; the extra ones weigh nothing.
            missing = distributed.largest(len(batches)) - len(batches)
            batches += [(drawn[:1], 0.0)] * missing
        model.train()
        # Dropout in this forward must not shift the host's random numbers, and has to repeat in a resumed run.
        with isolated_rng(device_of(model), seed=_step_seed(config.seed, step)):
            for batch, share in batches:
                nll, divergence, own_divergence = self._zeros(model, 3)
                groups = [self._paths(i) for i in batch]
                for index, logits in zip(batch, path_logits(model, groups, packed=self._packed), strict=True):
                    example = self._examples[index]
                    nll = nll + explanation_nll(logits[-1], example.targets)
                    if self._has_kl(example):
                        for variant, values in zip(_VARIANTS, logits[:2], strict=True):
                            kl = reference_kl(values, self._known[example.id, variant])
                            divergence = divergence + scale[example.is_free] * kl
                            own_divergence = own_divergence + own_scale.get(example.is_free, 0.0) * kl.detach()
                # The host averages gradients over processes, so each one's share counts world_size times.
                weight = share * world * config.explanation_weight
                weighted = weight * (nll / tokens + config.kl_weight * divergence)
                yield _Part(weighted, share * nll.detach() / max(1, own_tokens), share * own_divergence)

    def _paths(self, index: int) -> tuple[Path, ...]:
        """What has to be run of an example: without the KL term only ``q``."""
        paths = self._examples[index].paths
        return paths if self._config.kl_weight > 0 else paths[2:]

    def _has_kl(self, example: MixExample) -> bool:
        return self._config.kl_weight > 0 and example.id in self._known

    @property
    def _known(self) -> Reference:
        if self._reference is None:
            raise RuntimeError("capture_reference() or load_reference() has to come before the first step")
        return self._reference

    def _kl_scale(self, drawn: Sequence[int]) -> dict[bool, float]:
        """What one answer token's KL counts, for examples with free answers (True) and with options (False).

        A mean over the answer tokens of each kind, the kinds weighted by their examples: a response has a hundred times
        the tokens of an option, and one mean over all tokens would leave the options next to no KL term.
        """
        examples = [self._examples[i] for i in drawn]
        known = [example for example in examples if self._has_kl(example)]
        if self._config.kl_weight > 0 and len(known) < len(examples) and not self._warned_of_missing:
            self._warned_of_missing = True
            logger.warning(
                "introspection_probe: the run is longer than planned when it started, so some examples have no "
                "reference; they are mixed in without the KL term"
            )
        kinds = [[e.behavior_reads for e in known if e.is_free == is_free] for is_free in (False, True)]
        return {bool(is_free): len(reads) / len(known) / sum(reads) for is_free, reads in enumerate(kinds) if reads}

    def _losses(self, step: int, explanation: Tensor, kl: Tensor) -> MixLosses:
        mine = self.draw(step)[distributed.rank() :: distributed.world_size()]
        return MixLosses(explanation, kl if any(self._has_kl(self._examples[i]) for i in mine) else None)

    def _batches(self, indices: Sequence[int]) -> list[list[int]]:
        for index in indices:
            if index not in self._sizes:
                self._sizes[index] = _size(self._paths(index), packed=self._packed)
        sizes = [self._sizes[index] for index in indices]
        return [[indices[i] for i in batch] for batch in token_batches(sizes, self._config.token_budget)]

    @staticmethod
    def _zeros(model: nn.Module, count: int) -> Iterator[Tensor]:
        return iter(torch.zeros(count, device=device_of(model)).unbind())


@dataclass(frozen=True, slots=True)
class _Part:
    """One forward's share: the weighted term with its graph, and what it adds to both terms' means without."""

    weighted: Tensor
    explanation: Tensor
    kl: Tensor


def _size(paths: Sequence[Path], *, packed: bool) -> int:
    """Tokens of an example in a forward, padding among its own sequences included."""
    if packed:
        return len(build_tree(paths))
    return len(paths) * max(len(path.ids) for path in paths)


def _step_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
