"""Pulling a release: resolve, download aside, verify, and only then switch over.

    DIR/<digest>/    each release that was pulled, whole and verified
    DIR/current      a link to the one that is served; it is replaced in one step
"""

import os
import re
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import IntegrityError, NotFound, ReleaseError
from adaptory.registry import ledger
from adaptory.release import manifest
from adaptory.release.manifest import MANIFEST
from adaptory.storage import ObjectStore

_NAME = re.compile(r"^(?P<model>[a-z0-9][a-z0-9._-]{0,62})(?:@(?P<which>champion|v[0-9]{1,9}))?\Z")
_AT_ONCE = 8


@dataclass(frozen=True)
class Pulled:
    """What a pull left in place."""

    model: str
    version: int
    digest: str
    folder: Path
    bytes_moved: int


def resolve(store: ObjectStore, name: str) -> ledger.Record:
    """The ledger record that `model`, `model@champion` or `model@v7` means now. Raises ReleaseError."""
    found = _NAME.match(name)
    if not found:
        raise ReleaseError(f"{name!r} is not a model; write NAME, NAME@champion or NAME@v7 (names: a-z 0-9 . _ -)")
    model, which = found["model"], found["which"] or "champion"
    if which == "champion":
        record = ledger.head(store, model)
    else:
        records = ledger.history(store, model)
        record = next((r for r in records if r.version == int(which[1:]) and r.kind != "retire"), None)
        if record and record.version in ledger.retired(records):
            reason = next(r.reason for r in records if r.about == record.version)
            raise ReleaseError(f"{model}@{which} was retired: {reason}. Pull {model}@champion instead")
    if record is None:
        there = sorted({key.split("/")[1] for key in store.keys("ledger/")})
        raise ReleaseError(
            f"no {model}@{which} in the ledger of {store.url}; models there: {', '.join(there) or 'none'}. "
            "Set ADAPTORY_STORE (or --store) to the store it was promoted in."
        )
    return record


def pull(store: ObjectStore, name: str, target: Path) -> Pulled:
    """Makes `target/current` the release that `name` means now; what is there already is not moved again.

    Raises IntegrityError or ReleaseError, and then `current` is as it was.
    """
    record = resolve(store, name)
    folder = target / fingerprint.hex_of(record.release)
    moved = 0
    if not _is_whole(folder, record.release):
        target.mkdir(parents=True, exist_ok=True)
        moved = _download(store, record, folder)
    _switch(target / "current", folder.name)
    return Pulled(record.model, record.version, record.release, target / "current", moved)


def fetch_release(store: ObjectStore, record: ledger.Record, cache: Path) -> Path:
    """The verified folder of a promoted release, from the cache or the store. Raises as `pull` does."""
    folder = cache / "releases" / fingerprint.hex_of(record.release)
    if not _is_whole(folder, record.release):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _download(store, record, folder)
    return folder


def check_stored(store: ObjectStore, record: ledger.Record) -> None:
    """Returns only if the release lies whole in the store, by its manifest and the names there. Raises ReleaseError."""
    place = f"releases/{record.model}/{fingerprint.hex_of(record.release)}"
    try:
        listed = manifest.parse(store.get(f"{place}/{MANIFEST}"), record.release, f"{store.url}/{place}/{MANIFEST}")
    except NotFound as missing:
        raise ReleaseError(f"{missing} is gone from the store; restore it from a backup first") from None
    if missing_files := sorted(set(listed.files) - {key.removeprefix(f"{place}/") for key in store.keys(f"{place}/")}):
        raise ReleaseError(f"{store.url}/{place} lacks {', '.join(missing_files)}; restore it from a backup first")


def _download(store: ObjectStore, record: ledger.Record, folder: Path) -> int:
    """Puts the release in place of `folder` when every byte is verified; returns the bytes moved."""
    place = f"releases/{record.model}/{fingerprint.hex_of(record.release)}"
    try:
        data = store.get(f"{place}/{MANIFEST}")
        listed = manifest.parse(data, record.release, f"{store.url}/{place}/{MANIFEST}")
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
            fresh = Path(scratch) / "release"
            fresh.mkdir()
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda file: store.download(f"{place}/{file}", fresh / file), listed.files))
            manifest.verify(fresh, listed)
            (fresh / MANIFEST).write_bytes(data)
            shutil.rmtree(folder, ignore_errors=True)
            fresh.replace(folder)
    except NotFound as missing:
        raise ReleaseError(
            f"{missing} is gone from the store, though the ledger promises it; restore it from a backup"
        ) from None
    return len(data) + sum(file.size for file in listed.files.values())


def _is_whole(folder: Path, digest: str) -> bool:
    """Whether the folder holds the release already, byte for byte."""
    try:
        listed = manifest.parse((folder / MANIFEST).read_bytes(), digest, str(folder / MANIFEST))
        manifest.verify(folder, listed)
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return False
    return True


def _switch(link: Path, name: str) -> None:
    """Points the link at a neighbour in one step: whoever follows it sees the old release or the new one."""
    if link.is_symlink() and os.readlink(link) == name:
        return
    if link.exists() and not link.is_symlink():
        raise ReleaseError(f"{link} is not a link that pull made; pull into another folder")
    fresh = link.with_name(f".{link.name}-{os.getpid()}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(name)
    fresh.replace(link)
