"""The learning curve: what a training told, step by step, kept beside its checkpoints."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

CURVE = "training.jsonl"
Event = dict[str, Any]


def note(folder: Path, event: Event) -> None:
    """Keeps the event; where the disk has no room for it, the curve has a gap, and the training goes on."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / CURVE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(event) + "\n")


def told(folder: Path, until: int | None = None) -> list[Event]:
    """What was told of the training in this folder, up to a step; without what a later attempt told again."""
    if not (folder / CURVE).is_file():
        return []
    found = []
    for line in (folder / CURVE).read_text(encoding="utf-8").splitlines():
        with suppress(json.JSONDecodeError):  # a line that was cut off when the process died
            found.append(json.loads(line))
    return [line for line in found if until is None or line["step"] <= until]


def write(folder: Path, events: list[Event]) -> None:
    """Replaces what was told by these events."""
    (folder / CURVE).write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
