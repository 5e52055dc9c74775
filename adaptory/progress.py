"""Progress on a terminal: a live line where there is one, a plain line now and then where there is not."""

import sys
import time
from collections.abc import Callable
from typing import Any

_EVERY = 15.0  # seconds between plain lines


def for_terminal() -> Callable[[dict[str, Any]], None]:
    """A function that shows each event of a stage on standard error."""
    live = sys.stderr.isatty()
    last = 0.0

    def show(event: dict[str, Any]) -> None:
        nonlocal last
        if event["event"] == "stage":
            _line(f"  {event['what']}", live)
        elif event["event"] == "epoch":
            _line(f"  epoch {event['epoch']}: validation macro F1 {event['validation_macro_f1']:.3f}", live)
        elif event["event"] == "step" and (live or time.monotonic() - last > _EVERY):
            _step(event, live)
            last = time.monotonic()

    return show


def _step(event: dict[str, Any], live: bool) -> None:
    done, steps, speed = event["step"], event["steps"], event["rows_per_second"]
    left = (steps - done) * event["seconds_per_step"]
    text = f"  step {done:,} of {steps:,}   loss {event['loss']:.3f}   {speed:,.0f} rows/s   {_clock(left)} left"
    if live:
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _line(text: str, live: bool) -> None:
    print(f"\r\033[K{text}" if live else text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
