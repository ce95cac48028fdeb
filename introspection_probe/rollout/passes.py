"""Items run through a model in passes within a token budget, shared among the processes of a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TypeVar

import torch

from introspection_probe.rollout import distributed
from introspection_probe.rollout.batching import token_batches

logger = logging.getLogger(__name__)

Item = TypeVar("Item", bound=Hashable)
Outcome = TypeVar("Outcome")


class Passes:
    """Runs whatever is asked in passes of at most so many tokens.

    Attributes:
        token_budget: tokens, padding included, in one pass. Halved when memory runs out, and kept so.
    """

    def __init__(self, token_budget: int) -> None:
        self.token_budget = token_budget

    def over(
        self,
        items: Sequence[Item],
        length: Callable[[Item], int],
        run: Callable[[list[Item]], Sequence[Outcome]],
        done: Callable[[Item], None],
    ) -> dict[Item, Outcome]:
        """What ``run`` gives for every item. Every process has to call it, and every one gets all of it.

        Args:
            length: tokens of an item in a pass.
            run: one pass: outcomes in the order of its items.
            done: called with each item of this process when it is finished.

        Raises:
            Exception: what ``run`` raised, here or on another process; memory that did not do for a single item.
        """
        mine = [items[i] for i in distributed.share(len(items))]
        found: dict[Item, Outcome] = {}

        def run_all(batches: Sequence[list[Item]]) -> bool:
            """False where memory ran out on the way and smaller batches may do."""
            try:
                for batch in batches:
                    fresh = [item for item in batch if item not in found]
                    found.update(zip(batch, run(batch), strict=True))
                    for item in fresh:
                        done(item)
            except RuntimeError as error:
                widest = max(map(length, mine))
                if not _is_out_of_memory(error) or self.token_budget <= widest:
                    raise
                self.token_budget = max(widest, self.token_budget // 2)
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
                logger.warning("introspection_probe: out of memory, going on with %s tokens a pass", self.token_budget)
                return False
            return True

        finished = False
        while not finished:
            remaining = [item for item in mine if item not in found]
            cut = token_batches(list(map(length, remaining)), self.token_budget)
            batches = [[remaining[i] for i in batch] for batch in cut]
            # A forward of a sharded model is collective: every process runs as many batches as the busiest.
            batches += [mine[-1:]] * (distributed.largest(len(batches)) - len(batches))
            finished = all(distributed.gather(distributed.together(partial(run_all, batches))))
        return distributed.merge(found)


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
