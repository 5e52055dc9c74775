"""SIGTERM: a machine that is taken away says so first. What is under way is saved, and the end is never called success."""

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from adaptory.errors import Preempted

TOLD = "stopped by SIGTERM before the end; run the same command to go on from the last checkpoint"
_BEAT, _LOOK = 5.0, 2.0  # seconds
_told = False
_patient = 0
_listening = False
_beaten = 0.0


def listen() -> None:
    """From now on SIGTERM raises Preempted, at once or, inside `patiently`, where `check` is called."""
    global _listening
    _listening = True
    signal.signal(signal.SIGTERM, _on_signal)


@contextmanager
def patiently() -> Iterator[None]:
    """Inside, a SIGTERM waits for `check`."""
    global _patient
    _patient += 1
    try:
        yield
    finally:
        _patient -= 1


def asked() -> bool:
    """Whether a SIGTERM waits."""
    return _told


def beat() -> None:
    """Tells the parent, now and then, that work goes on: a stage that is silent for long is taken for hung."""
    global _beaten
    if _listening and time.monotonic() - _beaten > _BEAT:
        _beaten = time.monotonic()
        print(json.dumps({"event": "beat"}), flush=True)


def patience() -> None:
    """Tells the parent that what comes next, a large file or another model, may take its time in silence."""
    if _listening:
        print(json.dumps({"event": "patience"}), flush=True)


def check() -> None:
    """Raises Preempted if a SIGTERM came; called in every loop that lasts."""
    beat()
    if _told:
        raise Preempted(TOLD)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _told
    _told = True
    if not _patient:
        check()


@contextmanager
def alone(place: Path, holder: str) -> Iterator[None]:
    """Holds the lock in this file; while it waits for it, it says for whom, gives signs of life, and can be told to stop."""
    from filelock import FileLock, Timeout

    place.parent.mkdir(parents=True, exist_ok=True)
    lock, told = FileLock(place), not _listening
    while not lock.is_locked:
        check()
        try:
            lock.acquire(timeout=_LOOK)
        except Timeout:
            if not told:
                waits = f"waiting for another process here that {holder} (it holds {place})"
                print(json.dumps({"event": "stage", "what": waits}), flush=True)
            told = True
    try:
        yield
    finally:
        lock.release()
