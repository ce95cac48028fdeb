"""The few collectives that rounds need; all of them do nothing in a run of one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import distributed as dist
from torch import nn

from introspection_probe.errors import IntrospectionError

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
    return max(gather(value))


def gather(value: T) -> list[T]:
    """Every process's value, on every process, in their order."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def merge(parts: Mapping[K, T]) -> dict[K, T]:
    """The union of the processes' items, on every process."""
    return {key: item for part in gather(dict(parts)) for key, item in part.items()}


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


def together(make: Callable[[], T]) -> T:
    """What ``make``, in which no process may wait for another, gives on this one.

    Raises:
        Exception: ``make`` failed, here or on another process: were it raised there alone, all others would wait for
            that one for ever.
    """
    if world_size() == 1:
        return make()
    failure: Exception | None = None
    try:
        made = make()
    except Exception as error:
        failure = error
    problems = gather("" if failure is None else _sentence(failure))
    if failure is not None:
        raise failure
    for number, problem in enumerate(problems):
        if problem:
            raise IntrospectionError(f"process {number} failed: {problem}")
    return made


def on_main(make: Callable[[], T]) -> T:
    """What ``make`` gives on rank 0, on every process; it is called there alone.

    Raises:
        Exception: it failed; on the other processes an IntrospectionError with the same words.
    """
    if world_size() == 1:
        return make()
    box: list[Any] = [None, ""]
    failure: Exception | None = None
    if rank() == 0:
        try:
            box = [make(), ""]
        except Exception as error:
            failure, box = error, [None, _sentence(error)]
    dist.broadcast_object_list(box, src=0)
    if failure is not None:
        raise failure
    if box[1]:
        raise IntrospectionError(box[1])
    made: T = box[0]
    return made


def _sentence(error: Exception) -> str:
    return str(error) or type(error).__name__


def broadcast(value: T) -> T:
    """Rank 0's value, on every process."""
    return on_main(lambda: value)
