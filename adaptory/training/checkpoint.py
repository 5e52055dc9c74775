"""Checkpoints: everything a training needs to go on as if it had never stopped, written whole or not at all.

A checkpoint is a folder `step-<n>` with the tensors and, written last, `state.json` with their digest. A folder without a
matching digest is no checkpoint; the one before it is used.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.errors import StageError

TENSORS, STATE = "tensors.safetensors", "state.json"
_KEPT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Where a training stood: tensors by name, and facts."""

    tensors: dict[str, Any]
    facts: dict[str, Any]


def write(folder: Path, step: int, tensors: dict[str, Any], facts: dict[str, Any], key: str) -> int:
    """Keeps a checkpoint and the one before it; returns its size in bytes. Those of later steps were damaged: they go.

    Raises StageError when the disk is full; what was kept before is untouched.
    """
    from safetensors.torch import save_file

    size: int = sum(one.numel() * one.element_size() for one in tensors.values())
    fresh = folder / f".step-{step}"
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save_file(tensors, fresh / TENSORS)
        _sync(fresh / TENSORS)
        digest = fingerprint.of_file(fresh / TENSORS)
        state = {"schema": "checkpoint/v1", "step": step, "key": key, "digest": digest, "facts": facts}
        state["own"] = fingerprint.of_json(state)
        (fresh / STATE).write_text(json.dumps(state), encoding="utf-8")
        _sync(fresh / STATE)
        shutil.rmtree(folder / f"step-{step}", ignore_errors=True)
        fresh.replace(folder / f"step-{step}")
    except Exception as fault:
        # safetensors wraps the operating system's error and keeps only its words.
        shutil.rmtree(fresh, ignore_errors=True)
        if getattr(fault, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(fault):
            free = shutil.disk_usage(folder).free
            raise StageError(
                f"no room for a checkpoint in {folder}: it needs {size:,} bytes and {free:,} are free. "
                "The one before is whole; free some room and run the same command to go on"
            ) from None
        raise
    there = _found(folder)
    before = [old for number, old in there if number <= step]
    for old in [old for number, old in there if number > step] + before[_KEPT:]:
        shutil.rmtree(old)
    return size


def newest(folder: Path, key: str) -> Checkpoint | None:
    """The newest whole checkpoint of the training with this key; damaged ones are passed over with a warning."""
    from safetensors.torch import load_file

    for _, place in _found(folder):
        try:
            state = json.loads((place / STATE).read_bytes())
            if state.pop("own") != fingerprint.of_json(state):
                raise ValueError("its state is not the one that was written")
            if state["key"] != key:
                continue
            if fingerprint.of_file(place / TENSORS) != state["digest"]:
                raise ValueError("its bytes are not those that were written")
            return Checkpoint(load_file(place / TENSORS), state["facts"] | {"step": state["step"]})
        except (OSError, ValueError, KeyError) as fault:
            print(f"checkpoint {place.name} is damaged and passed over: {fault}", file=sys.stderr)
    return None


def exists(folder: Path, key: str) -> bool:
    """Whether a training with this key has a checkpoint here, whole or not."""
    for _, place in _found(folder):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads((place / STATE).read_bytes())["key"] == key:
                return True
    return False


def forget(folder: Path) -> None:
    """Removes all checkpoints: the training is done."""
    shutil.rmtree(folder, ignore_errors=True)


def _found(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints, newest first."""
    return sorted(_numbered(folder), reverse=True)


def _numbered(folder: Path) -> Iterator[tuple[int, Path]]:
    for place in folder.glob("step-*"):
        if place.name.removeprefix("step-").isdigit():
            yield int(place.name.removeprefix("step-")), place


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
