"""What a stage on another machine needs, and what it leaves: files by digest in the store, data by DVC, and nothing else.

`parcels/<recipe>/files/<sha256>` holds the files, once; a list names them by their place under `.adaptory/runs/<recipe>/`.
Both sides must have the same code, recipe and libraries: the key of the training says so.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from filelock import FileLock
from pydantic import Field

from adaptory import data, fingerprint, params, run
from adaptory.data import lock
from adaptory.data.dataset import stage_names
from adaptory.errors import IntegrityError, NotFound, StageError
from adaptory.evaluation.evaluate import EVIDENCE
from adaptory.frozen import Frozen, Name, Sha256
from adaptory.run import Pin, Run
from adaptory.search.choice import CHOICE
from adaptory.search.choose import trials
from adaptory.storage import ObjectStore
from adaptory.training import candidate, checkpoint, pause
from adaptory.workspace import Workspace

Files = dict[str, str]  # place -> digest


_Word = Annotated[str, Field(pattern=r"^(--seed|--trial|--rung|[0-9]{1,10})$")]


class Order(Frozen):
    """A stage to be done elsewhere. Whoever reaches the server can send one, so its words are few and its files digests."""

    schema_version: Literal["order/v2"] = "order/v2"
    recipe: Name
    stage: Literal["train", "weigh", "evaluate", "monitor"]
    words: Annotated[tuple[_Word, ...], Field(max_length=4)] = ()
    pin: Pin
    """The run that it is a stage of."""
    dvc: dict[str, Any]
    """The sections of dvc.lock that name the data."""
    files: dict[str, Sha256]
    """Place under `.adaptory/runs/<recipe>/` -> digest."""
    asked_by: Annotated[str, Field(max_length=64)] | None = None
    """The flow run that orchestrates."""


def pack(now: Run, store: ObjectStore, stage: str, words: tuple[str, ...], asked_by: str | None = None) -> Order:
    """The order for a stage of this run; what it reads of the run's folders is in the store."""
    files = _send(now, store, words)
    words_of_it = {"stage": stage, "words": words, "files": files, "asked_by": asked_by}
    return Order.model_validate({"recipe": now.recipe.name, "pin": now.pin, "dvc": now.dataset.dvc} | words_of_it)


def unpack(place: Workspace, store: ObjectStore, order: Order) -> Run:
    """The run of an order, here: data by DVC, verified; files by digest. Raises StageError when this is another checkout."""
    if strange := order.dvc.keys() - set(stage_names(order.recipe)):
        raise StageError(f"an order of {order.recipe!r} names data of others: {', '.join(sorted(strange))}; it is refused")
    recipe = params.load(place.recipes_file, order.recipe)
    with FileLock(place.home / "order.lock"):
        lock.replace(place.root / "dvc.lock", order.dvc)
        data.pull(place, recipe)
        bring(place, store, order.recipe, order.files)
    try:
        return run.current(place, order.recipe, order.pin)
    except StageError:
        raise StageError(
            f"this worker has other code, another recipe {order.recipe!r} or other libraries than the one that asks; "
            "give both the same commit and constraints.txt"
        ) from None


def leave(now: Run, store: ObjectStore, words: Sequence[str], done_by: str) -> None:
    """Puts what the run's folders hold after the stage into the store, for whoever asked this flow run to do it."""
    left = _send(now, store, words)
    store.put(_left(now.recipe.name, done_by), fingerprint.json_bytes(left))


def take(now: Run, store: ObjectStore, done_by: str) -> None:
    """Brings what a stage elsewhere left into the run's folders. Raises IntegrityError when it is not there, or not whole."""
    try:
        left: Files = json.loads(store.get(_left(now.recipe.name, done_by)))
    except NotFound as missing:
        raise IntegrityError(f"the stage left nothing in the store ({missing}); run it again") from None
    bring(now.workspace, store, now.recipe.name, left)
    if _is_settled(now) and candidate.read(now.candidate_folder):
        shutil.rmtree(now.checkpoints, ignore_errors=True)  # those of a trial, which went on elsewhere


def bring(place: Workspace, store: ObjectStore, recipe: str, files: Files) -> None:
    """Puts the files into place, each verified before it takes its name. Raises IntegrityError, and takes nothing, for others.

    What says that all the others are there comes last: whoever is cut off here begins again.
    """
    root = place.runs(recipe).resolve()
    for name, digest in sorted(files.items(), key=lambda file: _says_done(file[0])):
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


def _says_done(name: str) -> bool:
    """Whether a stage writes this file when everything else is in its place."""
    last = name.rpartition("/")[2]
    return last in (candidate.CARD, checkpoint.STATE, CHOICE, EVIDENCE) or ".pause-" in last


def _send(now: Run, store: ObjectStore, words: Sequence[str]) -> Files:
    recipe, root = now.recipe.name, now.workspace.runs(now.recipe.name)
    known, found = set(store.keys(f"parcels/{recipe}/files/")), {}
    for path in _kept(now, words):
        digest = fingerprint.of_file(path)
        found[path.relative_to(root).as_posix()] = digest
        if _file(recipe, digest) not in known:
            store.upload(path, _file(recipe, digest))
    return found


def _kept(now: Run, words: Sequence[str]) -> Iterator[Path]:
    """The files of a run that stages read and write; of trials those the order is about, with checkpoints: a trial may go on
    on another machine. The checkpoints of any other training stay where they were made."""
    folders = [now.folder, now.search_folder]
    if _is_settled(now) and "--trial" not in words:
        folders += [now.candidate_folder, now.checkpoints, *(again.candidate_folder for again in now.repeats())]
    else:
        only = words[words.index("--trial") + 1] if "--trial" in words else None
        for one in trials(now):
            if one.training and only in (None, str(one.number)):
                trial = now.trained_with(one.training)
                folders += [trial.candidate_folder, trial.checkpoints]
                yield from pause.files(trial)
    for folder in dict.fromkeys(folders):
        yield from (folder / name for name in (fingerprint.files_below(folder) if folder.is_dir() else ()))


def _is_settled(now: Run) -> bool:
    """Whether the settings of the candidate are known."""
    return now.chosen is not None or not now.recipe.chooses


def _file(recipe: str, digest: str) -> str:
    return f"parcels/{recipe}/files/{fingerprint.hex_of(digest)}"


def _left(recipe: str, done_by: str) -> str:
    return f"parcels/{recipe}/left/{done_by}.json"
