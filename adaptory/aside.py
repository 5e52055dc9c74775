"""Telling others while work goes on: in a thread of its own, so that a slow or dead server never holds up the work.

What could not be told waits for the next time; trainings also keep their curve on disk, and it is replayed later (F14).
"""

import contextvars
import sys
import threading
from collections.abc import Callable
from typing import Any

Event = dict[str, Any]
_LAST = 10.0  # seconds that the last call may take


class Aside:
    """Hands events to a function, some at a time, in their order; the first thing it raises is told once on stderr.

    It is first called at once, without events, for what it has to prepare.
    """

    def __init__(self, tell: Callable[[list[Event]], None], every: float) -> None:
        self._tell, self._every = tell, every
        self._waiting: list[Event] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=contextvars.copy_context().run, args=(self._run,), daemon=True)
        self._thread.start()

    def add(self, event: Event) -> None:
        """Takes an event; returns at once."""
        with self._lock:
            self._waiting.append(event)

    def close(self) -> None:
        """Tells what is left, for ten seconds at most."""
        self._ended.set()
        self._thread.join(_LAST)

    def _run(self) -> None:
        self._pass_on(at_once=True)
        while not self._ended.wait(self._every):
            self._pass_on()
        self._pass_on()

    def _pass_on(self, *, at_once: bool = False) -> None:
        with self._lock:
            now, self._waiting = self._waiting, []
        if not (now or at_once):
            return
        try:
            self._tell(now)
        except Exception as fault:  # whatever it is, the work goes on
            with self._lock:
                self._waiting = [*now, *self._waiting]  # told next time, before what is newer
            if not self._failed:
                said = (str(fault).splitlines() or [""])[0][:200]
                print(f"progress could not be told ({type(fault).__name__}: {said}); the work goes on", file=sys.stderr)
            self._failed = True
