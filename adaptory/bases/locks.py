"""`recipes.lock`: the digest that each recipe's base had when it was first fetched.

A reference can start to mean other bytes; the lock, committed beside params.yaml, makes that an error
instead of a surprise.
"""

import json
from pathlib import Path
from typing import Any

from adaptory import whole
from adaptory.errors import BaseModelError


def pin(file: Path, recipe: str, reference: str, digest: str) -> None:
    """Writes the pin if the recipe has none for this reference; raises BaseModelError if it has another."""
    locks: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    held = locks.get(recipe, {}).get("base", {})
    if held.get("reference") == reference:
        if held["digest"] != digest:
            raise BaseModelError(
                f"base {reference!r} has digest {digest}, but {file.name} pins {held['digest']} for {recipe!r}. "
                f"If the new base is wanted, remove the entry {recipe!r} from {file.name}."
            )
        return
    locks[recipe] = {"base": {"reference": reference, "digest": digest}}
    whole.write(file, json.dumps(locks, indent=1, sort_keys=True) + "\n")
