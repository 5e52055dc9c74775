"""What is kept of a champion's data, in the store: its profile, words, sample, and a fingerprint of every row.

`datasets/<model>/<digest of the dataset version>/...`, written before the ledger record that names it.
"""

from pathlib import Path
from typing import Any

from adaptory import fingerprint
from adaptory.data import Dataset
from adaptory.data.splits import BY_PROTECTION
from adaptory.errors import NotFound
from adaptory.profile.profile import KEPT, PRINTS
from adaptory.storage import ObjectStore


def keep(store: ObjectStore, model: str, version: Dataset, folder: Path) -> None:
    """Stores what later versions are compared with; the same dataset version is stored once."""
    place = _place(model, version.digest)
    store.put(f"{place}/{_file(fingerprint.of_json(version.dvc))}", version.model_dump_json(indent=1).encode() + b"\n")
    if set(store.keys(f"{place}/")) >= {f"{place}/{name}" for name in KEPT}:
        return
    for name in KEPT:
        store.upload(folder / name, f"{place}/{name}")


def fetch(store: ObjectStore, model: str, data: str, cache: Path) -> Path | None:
    """The folder with what was kept of a dataset version; None if nothing was."""
    folder = cache / _place(model, data)
    try:
        for name in KEPT:
            if not (folder / name).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                part = folder / f".{name}.part"
                store.download(f"{_place(model, data)}/{name}", part)
                part.replace(folder / name)
    except NotFound:
        return None
    return folder


def version(store: ObjectStore, model: str, data: str, dvc: str | None) -> Dataset | None:
    """The dataset version itself, with the sections of dvc.lock (of this digest) that made it; None if nothing was kept."""
    try:
        return Dataset.model_validate_json(store.get(f"{_place(model, data)}/{_file(dvc)}"))
    except NotFound:
        return None


def trained_on(folders: list[Path], hashes: Any) -> Any:
    """Of each text hash: whether it stood in the training split of any of these versions. A numpy array."""
    import polars

    train = BY_PROTECTION.index("train")
    tables = [polars.scan_parquet(folder / PRINTS).filter(polars.col("split") == train).select("text") for folder in folders]
    return _among(hashes, tables)


def not_in(folder: Path, hashes: Any) -> Any:
    """Of each text hash: whether that version had no row with it. A numpy array."""
    import polars

    return ~_among(hashes, [polars.scan_parquet(folder / PRINTS).select("text")])


def _among(hashes: Any, tables: list[Any]) -> Any:
    import numpy as np
    import polars

    if not tables:
        return np.zeros(len(hashes), dtype=bool)
    asked = polars.LazyFrame({"text": hashes})
    found = asked.unique().join(polars.concat(tables).unique(), on="text", how="semi").collect()
    return hashes.is_in(found["text"].implode()).to_numpy()


def _file(dvc: str | None) -> str:
    """The same data can be made by another section of dvc.lock; records were once silent on which."""
    return f"version-{fingerprint.short(dvc)}.json" if dvc else "version.json"


def _place(model: str, data: str) -> str:
    return f"datasets/{model}/{fingerprint.hex_of(data)}"
