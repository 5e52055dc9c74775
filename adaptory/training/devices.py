"""Several processes that train one model: each takes its share of a step's rows, and the gradients are summed.

Started by torchrun (which sets RANK, WORLD_SIZE and LOCAL_RANK); without it there is one process, and nothing here costs.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes of a torchrun for as long as the block lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Others wait while the first one computes a trunk, which may take hours.
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=24))
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 leads."""
    return int(os.environ.get("RANK", "0")) if _many() else 0


def world() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if _many() else 1


def share(batches: Sequence[list[int]]) -> list[list[int]]:
    """This process's part of a step's batches."""
    return list(batches[rank() :: world()])


def add_up(weights: Sequence[Any], numbers: list[float]) -> list[float]:
    """Sums every gradient, and these numbers, over all processes."""
    if not _many():
        return numbers
    import torch
    import torch.distributed as dist

    device = weights[0].device
    grads = [w.grad if w.grad is not None else torch.zeros_like(w) for w in weights]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    place = 0
    for weight in weights:
        weight.grad = flat[place : place + weight.numel()].view_as(weight)
        place += weight.numel()
    both = torch.tensor(numbers, dtype=torch.float64, device=device)
    dist.all_reduce(both)
    return [float(number) for number in both]


def gathered(mine: list[Any]) -> list[Any]:
    """Everybody's items, in the same order everywhere."""
    if not _many():
        return mine
    import torch.distributed as dist

    every: list[Any] = [None] * world()
    dist.all_gather_object(every, mine)
    return [item for part in every for item in part]


def wait() -> None:
    """Returns when every process is here."""
    if _many():
        import torch.distributed as dist

        dist.barrier()


def computing(device: Any, precision: str) -> Any:
    """The context in which forward passes are computed: bf16 where asked for or, by default, where the device has it.

    A CPU without bf16 units computes it twenty times slower than fp32 (docs/log.md), so there `auto` means fp32.
    """
    import torch

    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    if precision == "bf16" or (precision == "auto" and fast):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def peak_memory(device: Any) -> float:
    """Most memory used so far, in GB: of the GPU, or of this process."""
    import resource

    if device.type == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _many() -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch.distributed as dist

    return bool(dist.is_initialized())
