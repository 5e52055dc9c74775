"""The frozen blocks below the trained ones, computed once.

What they give for a text depends on nothing that trains, so it is computed the first time, kept in files named by digest,
and read from there over epochs, seeds, candidates and the next month's retrain, which computes new texts only. Then the
blocks above see exactly what they would have seen.

A store is a folder per (base, rendering, cut). Each extension adds files of float32 states, each named by its digest and with
an index of its texts: what was computed before a stop or a full disk is not computed again.
"""

import errno
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from adaptory import fingerprint, whole
from adaptory.errors import StageError
from adaptory.training import devices, preemption
from adaptory.training.forward import collate, inputs
from adaptory.training.network import _BLOCK, positions, unwrapped
from adaptory.training.render import Example
from adaptory.training.tree import Tree

_STEP = 8  # tokens
_FILE = 256 << 20  # bytes of states in a file: so much is lost at most when the work is stopped


class Trunk:
    """A network whose lowest `cut` blocks hand on what was kept, instead of computing."""

    def __init__(self, model: Any, cut: int, folder: Path) -> None:
        self.model, self.cut, self.folder = model, cut, folder
        self.places: dict[str, tuple[Any, int, int]] = {}  # file mapped into memory, first token, tokens
        self._now: Any = None
        for index in sorted(folder.glob("*.json")):
            self._open(index)

    def missing(self, sequences: Sequence[Example]) -> dict[str, Example]:
        """Those of the sequences that are not kept yet, by name; each once."""
        return {name: one for one in sequences if (name := _name(one)) not in self.places}

    def extend(self, sequences: Sequence[Example], pad: int) -> int:
        """Computes and keeps the sequences that are not there yet; returns how many.

        Of several processes that need the same ones, one computes and the others wait for it.
        """
        if not self.missing(sequences):
            return 0
        self.folder.mkdir(parents=True, exist_ok=True)
        with preemption.alone(self.folder / ".lock", "computes frozen blocks of the same base"):
            for index in sorted(self.folder.glob("*.json")):
                self._open(index)
            return self._extend(sequences, pad)

    def _extend(self, sequences: Sequence[Example], pad: int) -> int:
        new = self.missing(sequences)
        for left in self.folder.glob(".*.f32"):  # of a process that was killed: the lock is ours
            left.unlink()
        sequences = [new[name] for name in sorted(new)]
        lengths = [len(one.ids) for one in sequences]
        tokens = devices.tokens_at_once(next(self.model.parameters()).device) // 2  # few, since batches are filled up
        batches = list(_batches(lengths, tokens, positions(self.model)))
        before = np.cumsum([0, *(sum(lengths[place] for place in one.places) for one in batches)])[:-1]  # tokens
        room = max(1, _FILE // (4 * unwrapped(self.model).config.hidden_size))
        for _, some in groupby(zip(batches, before, strict=True), key=lambda one: one[1] // room):
            self._keep([one for one, _ in some], sequences, pad)
        return len(sequences)

    def _keep(self, batches: list["_Batch"], sequences: list[Example], pad: int) -> None:
        """Computes these batches of the sequences into a file of their own."""
        places = [place for batch in batches for place in batch.places]
        starts = np.concatenate([[0], np.cumsum([len(sequences[place].ids) for place in places])])
        width = unwrapped(self.model).config.hidden_size
        part = self.folder / f".{os.getpid()}.f32"
        _reserve(part, int(starts[-1]) * width * 4)
        kept = np.memmap(part, dtype=np.float32, mode="r+", shape=(int(starts[-1]), width))
        row = 0
        for batch in batches:
            preemption.check()
            filled = [sequences[batch.places[number % len(batch.places)]] for number in range(batch.rows)]
            states = self._compute(filled, pad, batch.width)
            for number, place in enumerate(batch.places):
                kept[starts[row] : starts[row + 1]] = states[number, : len(sequences[place].ids)]
                row += 1
        kept.flush()
        digest = fingerprint.hex_of(fingerprint.of_file(part))
        part.replace(self.folder / f"{digest}.f32")
        index = {"rows": {_name(sequences[p]): [int(starts[i]), len(sequences[p].ids)] for i, p in enumerate(places)}}
        whole.write(self.folder / f"{digest}.json", json.dumps(index))
        self._open(self.folder / f"{digest}.json")

    def attach(self) -> None:
        """From now on the lowest blocks compute nothing: call `show` before each forward pass."""
        for number, block in _blocks(self.model, self.cut):
            block.forward = self._hand_on if number == self.cut - 1 else self._hand_down

    def detach(self) -> None:
        """The network is as it was."""
        for _, block in _blocks(self.model, self.cut):
            block.__dict__.pop("forward", None)

    def show(self, rows: Sequence[Example], tree: Tree | None = None) -> None:
        """The next forward pass is on these sequences, in this order, or as this tree of them."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        every = range(len(rows))
        parts = [(one.sequence, one.start, one.end) for one in tree.segments] if tree else [(place, 0, None) for place in every]
        found = [self._read(rows[place])[start:end] for place, start, end in parts]
        for mapped in {id(one[0]): one[0] for one in (self.places[_name(row)] for row in rows)}.values():
            mapped.madvise(mmap.MADV_DONTNEED)  # what was read stays in the system's cache, and is not held by this process
        weight = next(self.model.parameters())
        if tree:
            found.append(found[0].new_zeros(tree.fill, found[0].shape[1]))
        self._now = (torch.cat(found)[None] if tree else pad_sequence(found, batch_first=True)).to(weight.device)
        assert not torch.is_grad_enabled() or not self._now.requires_grad

    def _read(self, row: Example) -> Any:
        import torch

        mapped, start, length = self.places[_name(row)]
        width = unwrapped(self.model).config.hidden_size
        states = np.frombuffer(mapped, np.float32, length * width, start * width * 4).reshape(length, width)
        return torch.from_numpy(states.copy())

    def _hand_down(self, hidden: Any, *_: Any, **__: Any) -> Any:
        # DeBERTa's blocks give their attention, too.
        return (hidden, None) if unwrapped(self.model).config.model_type.startswith("deberta") else hidden

    def _hand_on(self, hidden: Any, *_: Any, **__: Any) -> Any:
        assert self._now.shape == hidden.shape, (self._now.shape, hidden.shape)
        return self._hand_down(self._now)

    def _compute(self, sequences: Sequence[Example], pad: int, width: int) -> Any:
        """The states below the cut, by stopping a plain forward pass there."""
        import torch

        block = dict(_blocks(self.model, self.cut))[self.cut - 1]
        caught: list[Any] = []

        def catch(_: Any, __: Any, output: Any) -> None:
            caught.append(output[0] if isinstance(output, tuple) else output)
            raise _Caught

        hook = block.register_forward_hook(catch)
        inner = unwrapped(self.model)
        inner.eval()
        weight = inner.get_input_embeddings().weight
        batch = collate(sequences, pad, width).to(weight.device)
        precision = "bf16" if weight.dtype is torch.bfloat16 else "fp32"
        try:
            with torch.inference_mode(), devices.computing(weight.device, precision):
                inner.base_model(**inputs(inner, batch))
        except _Caught:
            pass
        finally:
            hook.remove()
        return caught[0].float().cpu().numpy()

    def _open(self, index: Path) -> None:
        file = index.with_suffix(".f32")
        if not file.is_file() or fingerprint.hex_of(fingerprint.of_file(file)) != index.stem:
            for damaged in (index, file):  # its texts are computed again
                damaged.unlink(missing_ok=True)
            return
        found = json.loads(index.read_bytes())
        with file.open("rb") as opened:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        self.places |= {name: (mapped, start, length) for name, (start, length) in found["rows"].items()}


@dataclass(frozen=True)
class _Batch:
    """Sequences that are computed together."""

    places: list[int]
    rows: int  # what is missing to so many is filled up by repeats
    width: int  # tokens


def _batches(lengths: Sequence[int], tokens: int, most: int | None) -> Iterator[_Batch]:
    """Batches of one shape for each length in eights.

    Kernels add in an order that depends on a batch's shape. Here it depends on a sequence's own length and on nothing else, so
    that a sequence gives the same bits whatever is computed with it: all of them at once, the rest after a stop, or the new ones
    of next month. Each is padded, so that all are masked, but for those as long as the network can read (`most`).
    """

    def shape(place: int) -> tuple[int, bool]:
        width = min(lengths[place] // _STEP * _STEP + _STEP, most or 1 << 30)
        return width, width == lengths[place]

    for (width, _), alike in groupby(sorted(range(len(lengths)), key=shape), key=shape):
        places, rows = list(alike), max(1, tokens // width)
        for start in range(0, len(places), rows):
            yield _Batch(places[start : start + rows], rows, width)


def _reserve(path: Path, size: int) -> None:
    """Makes a file of this size whose room is really there: a full disk would end a write into mapped memory by SIGBUS."""
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as fault:
            path.unlink()
            if fault.errno != errno.ENOSPC:
                raise
            free = shutil.disk_usage(path.parent).free
            raise StageError(
                f"no room for what the frozen blocks give in {path.parent}: it needs {size:,} bytes and {free:,} are free. "
                "Free some room (older folders beside it can go) and run the same command to go on, or set cache_trunk: false"
            ) from None


class _Caught(Exception):  # noqa: N818 - nothing went wrong
    """The states are there; the rest of the pass is not needed."""


def key(base: str, rendering: str, cut: int, *, quantised: bool = False, half: bool = False) -> str:
    """What the kept states depend on."""
    from importlib.metadata import version

    libraries = {name: version(name) for name in ("torch", "transformers")}
    facts = {"base": base, "rendering": rendering, "cut": cut, "quantised": quantised, "libraries": libraries}
    facts |= {"half": True} if half else {}
    return fingerprint.of_json({"schema": "trunk/v2", **facts})


def _blocks(model: Any, cut: int) -> list[tuple[int, Any]]:
    """The modules of the lowest `cut` blocks."""
    found = []
    for name, module in unwrapped(model).named_modules():
        if (number := _BLOCK.search(name)) and number.end() == len(name) and int(number[1]) < cut:
            found.append((int(number[1]), module))
    return found


def _name(row: Example) -> str:
    import xxhash

    return xxhash.xxh3_128_hexdigest(np.array([*row.ids, -1, *(row.types or ())], dtype=np.int32).tobytes())
