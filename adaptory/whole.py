"""Files that are there whole, or not at all: whoever finds one may read it."""

import os
from pathlib import Path


def write(path: Path, text: str) -> None:
    """Puts the text in the place of what was there. Killed or without room, it leaves what was there."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")  # several processes may write the same
    try:
        scratch.write_text(text, encoding="utf-8")
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
