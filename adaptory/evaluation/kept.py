"""What a model said is kept: nobody is asked twice for the same rows by the same code.

`answers/<recipe>/<digest>.parquet` and `.json` in the store, named by who was asked what and how; so a changed gate asks
nobody, and a champion that was scored as a candidate, or last month, is not scored again on the same rows.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.errors import NotFound
from adaptory.evaluation.scores import Answers, answers_of, columns
from adaptory.frozen import Frozen
from adaptory.gate import Estimate
from adaptory.storage import ObjectStore


class Beside(Frozen):
    """What was found about a model while it answered."""

    schema_version: str = "answers/v1"
    digest: str = ""  # of the model, or of what a baseline is made from
    table: str = ""  # digest of the answers
    temperature: float | None = None
    latency: Estimate | None = None
    size: int | None = None
    forgetting: Estimate | None = None
    example: tuple[dict[str, Any], ...] = ()  # questions with the answers a loaded release must give again


def kept(
    store: ObjectStore,
    recipe: str,
    key: str,
    name: str,
    kind: str,
    classes: tuple[str, ...],
    ask: Callable[[], tuple[Answers, Beside]],
) -> tuple[Answers, Beside]:
    """What was said under this key; asked now if nobody was."""
    place = f"answers/{recipe}/{fingerprint.hex_of(key)}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "answers.parquet"
        found = _read(store, place, path)
        if found is None:
            answers, beside = ask()
            columns(answers, classes).write_parquet(path)
            found = beside.model_copy(update={"table": fingerprint.of_file(path), "temperature": answers.temperature})
            store.upload(path, f"{place}.parquet")
            store.put(f"{place}.json", found.model_dump_json(indent=1).encode() + b"\n")
            return replace(answers, name=name, kind=kind), found
        import polars

        return answers_of(polars.read_parquet(path), classes, name, kind, found.temperature), found


def _read(store: ObjectStore, place: str, path: Path) -> Beside | None:
    """The note about kept answers, with these at `path`; None unless both are whole."""
    try:
        found = Beside.model_validate_json(store.get(f"{place}.json"))
        store.download(f"{place}.parquet", path)
    except NotFound:
        return None
    return found if fingerprint.of_file(path) == found.table else None
