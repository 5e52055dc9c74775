"""A dataset version: what a training or an evaluation was made from, named by its digest."""

from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.data import lock, shards
from adaptory.data.splits import SPLITS
from adaptory.errors import DataError
from adaptory.recipe import Frozen, Task
from adaptory.workspace import Workspace

CARD = "dataset.json"


class Card(Frozen):
    """What the split stage writes beside the splits."""

    schema_version: str = "dataset/v2"
    task: Task
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # split -> class -> rows; without classes, one number of rows
    sources: dict[str, int]
    quarantined: dict[str, int]  # reason -> rows
    rows_in: int
    files: dict[str, str]  # file -> digest


class Dataset(Frozen):
    """A dataset version: its digest, its card, and DVC's own record of how it was made."""

    recipe: str
    digest: str
    card: Card
    base: str  # digest of the base model's files
    dvc: dict[str, Any]  # the sections of dvc.lock, md5s included

    def rows(self, split: str) -> int:
        return sum(self.card.counts[split].values())


def dataset_version(workspace: Workspace, recipe: str) -> Dataset:
    """The dataset that lies in the workspace, verified against its own card. Raises DataError.

    DVC rewrites dvc.lock in place whenever any recipe is prepared: who reads it meanwhile finds half of it. So its sections are
    taken from what `record_version` kept, unless somebody made these data without it.
    """
    found = _version(workspace, recipe)
    try:
        kept = Dataset.model_validate_json(_kept(workspace, recipe).read_bytes())
    except (FileNotFoundError, ValueError):
        kept = found
    return kept if kept.dvc and kept.model_copy(update={"dvc": {}}) == found else _with_sections(workspace, found)


def record_version(workspace: Workspace, recipe: str) -> Dataset:
    """The dataset as it was just prepared, kept for `dataset_version`; to be called while nobody else uses DVC here."""
    found = _with_sections(workspace, _version(workspace, recipe))
    file = _kept(workspace, recipe)
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".tmp")
    fresh.write_bytes(fingerprint.json_bytes(found.model_dump(mode="json")))
    fresh.replace(file)
    return found


def _kept(workspace: Workspace, recipe: str) -> Path:
    return workspace.home / "datasets" / f"{recipe}.json"


def _with_sections(workspace: Workspace, found: Dataset) -> Dataset:
    return found.model_copy(update={"dvc": lock.read(workspace.root / "dvc.lock", stage_names(found.recipe))})


def _version(workspace: Workspace, recipe: str) -> Dataset:
    folder = workspace.data(recipe) / "splits"
    try:
        card = Card.model_validate_json((folder / CARD).read_bytes())
    except FileNotFoundError:
        raise DataError(f"no prepared data for {recipe!r} in {folder}; run: adaptory prepare {recipe}") from None
    for name, digest in card.files.items():
        if fingerprint.of_file(folder / name) != digest:
            raise DataError(f"{folder / name} was altered after it was prepared; run: adaptory prepare {recipe} --force")
    return Dataset(
        recipe=recipe,
        digest=fingerprint.of_json(card.model_dump(mode="json")),
        card=card,
        base=fingerprint.of_folder(workspace.data(recipe) / "base"),
        dvc={},
    )


def stage_names(recipe: str) -> list[str]:
    """The DVC stages of a recipe, in order."""
    return [f"{stage}@{recipe}" for stage in ("fetch", "validate", "split", "base", "profile")]


def some_rows(table: Any, most: int | None) -> Any:
    """At most so many rows of the table, in its order: always the same ones, whatever else is in it."""
    import polars
    from xxhash import xxh3_64_intdigest as digest

    if most is None or table.height <= most:
        return table
    order = polars.Series([digest(name) for name in table["row"].cast(polars.Binary).to_list()], dtype=polars.UInt64)
    return table.filter(order.rank("ordinal") <= most)


def read_split(workspace: Workspace, recipe: str, split: str) -> Any:
    """One split as a polars DataFrame: row, source, file, line, group, and the columns of the task."""
    import polars

    assert split in SPLITS, split
    table = polars.read_parquet(shards.files(workspace.data(recipe) / "splits", split))
    return table.with_columns(polars.col("group").fill_null(polars.col("row")))
