"""Values that the ranks of a distributed training exchange. One process gets its own values back."""

from __future__ import annotations

import os
from typing import Any, TypeVar

Value = TypeVar("Value")


def is_first_rank() -> bool:
    """Before the ranks know each other too."""
    return int(os.environ.get("RANK", "0")) == 0


def rank_and_world() -> tuple[int, int]:
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def totals(*counts: int, device: Any) -> list[int]:
    """Each count summed over all ranks, which must all call this. `device`: that of the process group's tensors."""
    import torch
    import torch.distributed as dist

    if rank_and_world()[1] == 1:
        return list(counts)
    summed = torch.tensor(counts, dtype=torch.int64, device=device)
    dist.all_reduce(summed)
    return [int(count) for count in summed.tolist()]


def of_every_rank(value: Value) -> list[Value]:
    """The values of all ranks, rank 0's first; all must call this."""
    import torch.distributed as dist

    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[Value] = [value] * world
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    import torch.distributed as dist

    if rank_and_world()[1] > 1:
        dist.barrier()
