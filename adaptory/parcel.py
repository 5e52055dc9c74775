"""What a stage on another machine needs, and what it leaves: files by digest in the store, data by DVC, and nothing else.

`parcels/<recipe>/files/<sha256>` holds the files, once; a list names them by their place under `.adaptory/runs/<recipe>/`.
Both sides must have the same code, recipe and libraries: the key of the training says so.
"""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from adaptory import data, fingerprint, params, run
from adaptory.errors import IntegrityError, NotFound, StageError
from adaptory.frozen import Frozen
from adaptory.run import Run
from adaptory.storage import ObjectStore
from adaptory.workspace import Workspace

Files = dict[str, str]  # place -> digest


class Order(Frozen):
    """A stage to be done elsewhere."""

    schema_version: str = "order/v1"
    recipe: str
    stage: str
    words: tuple[str, ...]
    key: str  # of the run: recipe, data, code and libraries
    dvc: dict[str, Any]  # the sections of dvc.lock that name the data
    files: Files
    asked_by: str | None = None  # the flow run that orchestrates


def pack(now: Run, store: ObjectStore, stage: str, words: tuple[str, ...], asked_by: str | None = None) -> Order:
    """The order for a stage of this run; what it reads of the run's folders is in the store."""
    files = _send(now.workspace, store, now.recipe.name, _folders(now))
    return Order(
        recipe=now.recipe.name, stage=stage, words=words, key=now.key, dvc=now.dataset.dvc, files=files, asked_by=asked_by
    )


def unpack(place: Workspace, store: ObjectStore, order: Order) -> Run:
    """The run of an order, here: data by DVC, verified; files by digest. Raises StageError when this is another checkout."""
    recipe = params.load(place.recipes_file, order.recipe)
    with FileLock(place.home / "order.lock"):
        _lock_data(place.root / "dvc.lock", order.dvc)
        data.pull(place, recipe)
        bring(place, store, order.recipe, order.files)
    now = run.current(place, order.recipe)
    if now.key != order.key:
        raise StageError(
            f"this worker has other code, another recipe {order.recipe!r} or other libraries than the one that asks; "
            "give both the same commit and constraints.txt"
        )
    return now


def leave(now: Run, store: ObjectStore, done_by: str) -> None:
    """Puts what the run's folders hold after the stage into the store, for whoever asked this flow run to do it."""
    left = _send(now.workspace, store, now.recipe.name, _folders(now))
    store.put(_left(now.recipe.name, done_by), fingerprint.json_bytes(left))


def take(now: Run, store: ObjectStore, done_by: str) -> None:
    """Brings what a stage elsewhere left into the run's folders. Raises IntegrityError when it is not there, or not whole."""
    try:
        left: Files = json.loads(store.get(_left(now.recipe.name, done_by)))
    except NotFound as missing:
        raise IntegrityError(f"the stage left nothing in the store ({missing}); run it again") from None
    bring(now.workspace, store, now.recipe.name, left)


def bring(place: Workspace, store: ObjectStore, recipe: str, files: Files) -> None:
    """Puts the files into place, each verified before it takes its name. Raises IntegrityError, and takes nothing, for others."""
    root = place.runs(recipe).resolve()
    for name, digest in files.items():
        target = (root / name).resolve()
        if not target.is_relative_to(root):
            raise IntegrityError(f"a parcel names {name!r}, which leads out of {root}; it is refused")
        if target.is_file() and fingerprint.of_file(target) == digest:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root) as scratch:
            fresh = Path(scratch) / "file"
            try:
                store.download(_file(recipe, digest), fresh)
            except NotFound:
                raise IntegrityError(f"{store.url} lacks {name} ({digest}) of a parcel; run it again") from None
            fingerprint.verify_file(fresh, digest, name)
            fresh.replace(target)


def _send(place: Workspace, store: ObjectStore, recipe: str, folders: list[Path]) -> Files:
    root, known = place.runs(recipe), set(store.keys(f"parcels/{recipe}/files/"))
    found: Files = {}
    for folder in folders:
        for name in fingerprint.files_below(folder) if folder.is_dir() else ():
            digest = fingerprint.of_file(folder / name)
            found[f"{folder.name}/{name}"] = digest
            if _file(recipe, digest) not in known:
                store.upload(root / folder.name / name, _file(recipe, digest))
    return found


def _folders(now: Run) -> list[Path]:
    """The folders of a run that stages read and write. Checkpoints stay where they were made."""
    chosen = now.chosen is not None or not now.recipe.chooses
    found = [now.folder, now.search_folder]
    if chosen:
        found += [now.candidate_folder, *(again.candidate_folder for again in now.repeats())]
    return [folder for folder in dict.fromkeys(found) if not re.search(r"\.checkpoints$", folder.name)]


def _file(recipe: str, digest: str) -> str:
    return f"parcels/{recipe}/files/{fingerprint.hex_of(digest)}"


def _left(recipe: str, done_by: str) -> str:
    return f"parcels/{recipe}/left/{done_by}.json"


def _lock_data(file: Path, sections: dict[str, Any]) -> None:
    """Makes dvc.lock name exactly the data of the order."""
    lock: dict[str, Any] = {"schema": "2.0", "stages": {}}
    if file.is_file():
        lock = yaml.safe_load(file.read_text(encoding="utf-8"))
    if all(lock["stages"].get(name) == section for name, section in sections.items()):
        return
    lock["stages"] |= json.loads(json.dumps(sections))
    fresh = file.with_suffix(".fresh")
    fresh.write_text(yaml.safe_dump(lock, sort_keys=False), encoding="utf-8")
    fresh.replace(file)
