"""The few collectives that rounds need; all of them do nothing in a run of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import distributed as dist
from torch import nn

K = TypeVar("K")
T = TypeVar("T")


def world_size() -> int:
    """Processes in this run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 in a run of one."""
    return dist.get_rank() if world_size() > 1 else 0


def share(count: int) -> list[int]:
    """The indices below ``count`` that are this process's to do: at least one, so that each has work.

    With more processes than items some items are done twice, which :func:`merge` undoes.
    """
    return list(range(rank(), count, world_size())) or [rank() % count]


def largest(value: int) -> int:
    """The largest of the processes' values."""
    if world_size() == 1:
        return value
    values: list[int] = [0] * world_size()
    dist.all_gather_object(values, value)
    return max(values)


def merge(parts: Mapping[K, T]) -> dict[K, T]:
    """The union of the processes' items, on every process."""
    if world_size() == 1:
        return dict(parts)
    gathered: list[Mapping[K, T]] = [{}] * world_size()
    dist.all_gather_object(gathered, dict(parts))
    return {key: item for part in gathered for key, item in part.items()}


def is_sharded(model: nn.Module) -> bool:
    """Whether a forward of this model is a collective (FSDP), so that every process must run as many."""
    if world_size() == 1:
        return False
    from torch.distributed.tensor import DTensor

    names = {type(module).__name__ for module in model.modules()}
    return "FullyShardedDataParallel" in names or any(isinstance(p, DTensor) for p in model.parameters())


def barrier() -> None:
    """Wait for every process."""
    if world_size() > 1:
        dist.barrier()


def on_main(make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every process; it is called there alone."""
    if world_size() == 1:
        return make()
    box: list[Any] = [make() if rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    made: T = box[0]
    return made


def broadcast(value: T) -> T:
    """Rank 0's value, on every process."""
    return on_main(lambda: value)
