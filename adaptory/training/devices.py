"""Several processes that train one model: each takes its share of a step's rows, and the gradients are summed.

Started by torchrun (which sets RANK, WORLD_SIZE and LOCAL_RANK); without it there is one process, and nothing here costs.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

from adaptory.errors import PlanError, StageError

_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))  # of a container, by version
# torch's words for the host's, by platform; and those of CUDA and its libraries
_NO_MEMORY = ("not enough memory", "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
LESS = "lower training.micro_tokens, max_tokens or top_layers"  # where memory does not suffice
ROWS = 16  # tokens of a product are a multiple: oneDNN makes kernels of its own for every number of them, and GPUs like it, too


@contextmanager
def joined() -> Iterator[None]:
    """Joins the other processes of a torchrun for as long as the block lasts."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():  # a training of this process failed before
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # Others wait while the first one computes a trunk, which may take hours.
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo", timeout=timedelta(hours=24))
    yield
    dist.destroy_process_group()  # not after a fault: it would wait for the others, who wait for this one, and hide the reason


def rank() -> int:
    """This process's number; 0 leads."""
    return int(os.environ.get("RANK", "0")) if _many() else 0


def world() -> int:
    """How many processes train together."""
    return int(os.environ["WORLD_SIZE"]) if _many() else 1


def sharded() -> bool:
    """Whether each process holds only its part of what is frozen (ADAPTORY_SHARD; see `shard`)."""
    return _many() and os.environ.get("ADAPTORY_SHARD", "0") not in ("", "0")


def shard(model: Any, blocks: Sequence[Any], device: Any) -> None:
    """Each process keeps its part of the frozen weights of every block, and has the whole of one while it computes there.

    What trains stays whole in all of them, and its gradients are added up as ever. (FSDP2: Zhao et al. 2023, per parameter.)
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world(),))
    learned = {weight for weight in model.parameters() if weight.requires_grad}
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=learned)


def share(batches: Sequence[list[int]]) -> list[list[int]]:
    """This process's part of a step's batches.

    Of a sharded base all take as many turns, for each needs the others' parts in each: those beyond `own` do not count.
    """
    mine = list(batches[rank() :: world()])
    most = -(-len(batches) // world()) if sharded() else 0
    return mine + [min(batches, key=len)] * (most - len(mine))


def own(count: int) -> int:
    """How many of so many batches are this process's own."""
    return len(range(rank(), count, world()))


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


def in_bf16(device: Any, precision: str) -> bool:
    """Whether products are computed in bf16: where asked for or, by default, where the device has units for them."""
    import torch

    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(units.get("avx512_bf16") or units.get("amx_bf16"))


def all_in_bf16(device: Any, precision: str) -> bool:
    """Whether everything is computed in bf16: on a GPU.

    Attention in bf16 takes longer on a CPU, and only the products of LoRA layers pay there (fused.py).
    """
    return bool(device.type != "cpu" and in_bf16(device, precision))


def computing(device: Any, precision: str) -> Any:
    """The context in which forward passes are computed."""
    import torch

    if all_in_bf16(device, precision):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def tokens_at_once(device: Any) -> int:
    """Padded tokens that are trained on together where a recipe does not say: few of them stay near a processor, where they
    are computed a third faster, in half the memory (docs/log.md)."""
    return 1024 if device.type == "cpu" else 4096


def give_back() -> None:
    """Returns freed memory to the system, where it can be asked to: glibc keeps up to a GB of a training."""
    import ctypes

    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def peak_memory(device: Any) -> float:
    """Most memory used so far, in GB: of the GPU, or of this process."""
    import resource

    if device.type == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated(device)) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def in_pieces(device: Any) -> float:
    """How many times what its plan's batches took a training comes to hold: on a CPU glibc's heap falls to pieces, since batches
    are of many shapes (docs/performance.md)."""
    return 1.25 if device.type == "cpu" else 1.0


def forget_peak(device: Any) -> None:
    """What was used before counts no more in `peak_memory`, where the system can be told so: a trial's plan is its own."""
    if device.type == "cuda":
        import torch

        if torch.cuda.is_initialized():  # else nothing was used, and asking is an error
            torch.cuda.reset_peak_memory_stats(device)
    give_back()
    with suppress(OSError):  # another system
        Path("/proc/self/clear_refs").write_text("5")


def is_memory(fault: Exception) -> bool:
    """Whether this is memory that ran out, of a GPU or of the host."""
    import torch

    return isinstance(fault, torch.OutOfMemoryError) or any(words in str(fault) for words in _NO_MEMORY)


@contextmanager
def memory_told(kind: type[StageError | PlanError], advice: str) -> Iterator[None]:
    """Memory that runs out is told as this error, with what may be done; of several processes it is the fault of one: all end
    with it, and none takes it for the result of a trial."""
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as fault:
        if not is_memory(fault):
            raise
        from adaptory.training.network import device

        told = f"out of memory, of {capacity(device()):.3g} GB; {advice}"
        raise (kind if world() == 1 else StageError)(told) from fault


def capacity(device: Any) -> float:
    """Memory that this process may take, in GB: all of the GPU, or its share of this machine or container."""
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)  # the rest is of its driver, and of other processes
        return float(free + torch.cuda.memory_reserved(device)) / 1e9
    told = [path.read_text().strip() for path in _LIMITS if path.is_file()]
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *(int(limit) for limit in told if limit.isdigit())]
    return min(limits) / int(os.environ.get("LOCAL_WORLD_SIZE") or world()) / 1e9


def _many() -> bool:
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return False
    import torch.distributed as dist

    return bool(dist.is_initialized())
