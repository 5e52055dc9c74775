"""A device that is played: tensors whose numbers a CPU computes, and which refuse to meet those of the CPU, as on a GPU.

    python -m tests.training.played      (trainings on it and beside them on the CPU; prints by how much their losses differ)

torch must know of the device before the first gradient of a process is computed, hence a process of its own.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

_MEETING = ("aten::copy_", "aten::_to_copy")  # what may read tensors of two devices


@cache
def device() -> torch.device:
    """The device; made known to torch once per process."""
    _setup_privateuseone_for_python_backend("played")
    return torch.device("played", 0)


@contextmanager
def playing() -> Iterator[torch.device]:
    """Within it, tensors can be made on the device, and moved there; it is where models run."""
    from adaptory.training import network

    usual, there = torch.tensor, device()

    def tensor(numbers: Any, *, device: Any = None, **more: Any) -> torch.Tensor:
        made = usual(numbers, **more)  # which makes its tensor where nobody is asked
        return made if device is None else made.to(device)

    with ExitStack() as changed:
        changed.enter_context(mock.patch.object(torch, "tensor", tensor))
        changed.enter_context(mock.patch.object(torch, "inference_mode", torch.no_grad))
        changed.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda self: self))
        changed.enter_context(mock.patch.object(network, "device", return_value=there))
        changed.enter_context(_Asked())
        yield there


class _Asked(TorchDispatchMode):  # type: ignore[misc]
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        return _compute(function, args, named or {})


class _Played(torch.Tensor):  # type: ignore[misc]
    _host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> "_Played":
        made: _Played = torch.Tensor._make_wrapper_subclass(
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype, device=device()
        )
        made._host = host
        return made

    def tolist(self) -> Any:
        return self._host.tolist()

    def untyped_storage(self) -> Any:
        return self._host.untyped_storage()

    def storage(self) -> Any:
        return self._host.storage()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), named: Any = None) -> Any:
        return _compute(function, args, named or {})


def _compute(function: Any, args: Any, named: dict[str, Any]) -> Any:
    tensors = [one for one in tree_leaves((args, named)) if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, _Played)]
    here = [one for one in tensors if not isinstance(one, _Played) and one.dim()]  # a lone number may come from anywhere
    name, wanted = function.name(), named.get("device")
    if there and here and not name.startswith(_MEETING):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found played:0 and cpu")
    goes = bool(there) if wanted is None else torch.device(wanted).type == "played"
    if goes and wanted is not None:
        named = named | {"device": torch.device("cpu")}
    found = function(*tree_map(_host, args), **tree_map(_host, named))
    if not goes:
        return found
    found = tree_map(lambda one: _Played(one) if isinstance(one, torch.Tensor) else one, found)
    return return_and_correct_aliasing(function, args, named, found) if there else found


def _host(one: Any) -> Any:
    return one._host if isinstance(one, _Played) else one


def _tried(task: str, kind: str, more: dict[str, Any]) -> dict[str, Any]:
    """The same training, and answers of what it made, on the CPU and on the device."""
    from adaptory.training import answers, fused, network, render
    from tests.training import toys

    def once(folder: Path) -> tuple[list[float], Any, str]:
        one = toys.work(folder, task, kind, **{"epochs": 1} | more)
        one.model.to(network.device())
        losses = toys.trajectory(one)
        if one.trunk:
            one.trunk.detach()
        fused.detach(one.model)
        made = render.renderer(folder / kind, toys.recipe(task).task, one.goal.settings, network.config_of(folder / kind))
        asked = [{"text": "the lovely film", "text_pair": "a sad story", "prompt": f"the {'very ' * n}film", "answer": "happy"}
                 for n in range(3)]
        told = answers.reply(one.model, made, one.goal, toys.recipe().data.classes[: 2 if "pair" in task else 3], asked, 4)
        return losses, told, str(one.device)

    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
        ours = once(Path(here))
        with playing():
            theirs = once(Path(there))
    return {"cpu": ours, "played": theirs}


if __name__ == "__main__":
    from transformers.utils import logging

    logging.disable_progress_bar()
    device()
    for case in json.loads(sys.argv[1]):
        print(json.dumps(_tried(*case)), flush=True)
