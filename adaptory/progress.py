"""Progress on a terminal: a live line where there is one, a plain line now and then where there is not."""

import sys
import time
from collections.abc import Callable
from typing import Any

_EVERY = 15.0  # seconds between plain lines
START = "\r\033[K"


def for_terminal() -> Callable[[dict[str, Any]], None]:
    """A function that shows each event of a stage on standard error."""
    live = sys.stderr.isatty()
    last = 0.0

    def show(event: dict[str, Any]) -> None:
        nonlocal last
        if event["event"] == "stage":
            _line(f"  {event['what']}", live)
        elif event["event"] == "epoch":
            _line(f"  epoch {event['epoch']}: validation {said(event)}", live)
        elif event["event"] == "plan":
            _line(f"  {event['said']}", live)
        elif event["event"] == "rows" and (live or time.monotonic() - last > _EVERY):
            _show(f"  {event['done']:,} of {event['rows']:,} rows", live)
            last = time.monotonic()
        elif event["event"] == "step" and (live or time.monotonic() - last > _EVERY):
            _step(event, live)
            last = time.monotonic()

    return show


def said(event: dict[str, Any]) -> str:
    """What the validation of an epoch measured, for a person: `macro F1 0.712`."""
    return f"{event['measured']} {measured(event):.3f}"


def measured(event: dict[str, Any]) -> float:
    """What the validation of an epoch measured."""
    return float(event[f"validation_{event['measured'].lower().replace(' ', '_')}"])


def _step(event: dict[str, Any], live: bool) -> None:
    left = (event["steps"] - event["step"]) * event["seconds_per_step"]
    speed = f"{event['rows_per_second']:,.1f} rows/s   {event['tokens_per_second']:,.0f} tokens/s"
    _show(f"  step {event['step']:,} of {event['steps']:,}   loss {event['loss']:.3f}   {speed}   {_clock(left)} left", live)


def _show(text: str, live: bool) -> None:
    """A line that the next one replaces, where there is a screen."""
    print(f"{START}{text}" if live else text, end="" if live else "\n", file=sys.stderr, flush=True)


def _line(text: str, live: bool) -> None:
    print(f"\r\033[K{text}" if live else text, file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
