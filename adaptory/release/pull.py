"""Pulling a release: resolve, download aside, verify, and only then switch over.

DIR/<digest>/    each release that was pulled, whole and verified
DIR/current      a link to the one that is served; it is replaced in one step
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import IntegrityError, NotFound, ReleaseError
from adaptory.registry import ledger
from adaptory.release import manifest, signatures
from adaptory.release.download import download
from adaptory.release.manifest import MANIFEST, SIGNATURE
from adaptory.storage import ObjectStore

_NAME = re.compile(r"^(?P<model>[a-z0-9][a-z0-9._-]{0,62})(?:@(?P<which>champion|v[0-9]{1,9}))?\Z")


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


def pull(store: ObjectStore, name: str, target: Path, *, strict: bool = False, keep: str | None = None) -> Pulled:
    """Makes `target/current` the release that `name` means now; what is there already is not moved again.

    The release that was served before stays beside it, and the one of the digest `keep`; older ones go. With `strict` the files
    that are there are hashed again, and only a release that a gate let pass is taken. Raises IntegrityError or ReleaseError, and
    then `current` is as it was.
    """
    record = resolve(store, name)
    if strict:
        _check_passed(store, record)
    folder = target / fingerprint.hex_of(record.release)
    moved = 0
    while True:
        if not _is_whole(folder, record.release, strict=strict):
            target.mkdir(parents=True, exist_ok=True)
            moved += download(store, record, folder)
        _check_signature(store, record.model, folder, strict=strict)
        if strict:
            _check_verdict(folder, record)
        with _one_at_a_time(target):
            if not (folder / MANIFEST).is_file():  # another pull, of a later champion, forgot it meanwhile
                continue
            before = _switch(target / "current", folder.name)
            if before is not None:
                _forget_all_but(target, {folder.name, before, *([fingerprint.hex_of(keep)] if keep else [])})
            return Pulled(record.model, record.version, record.release, target / "current", moved)


def watch(
    store: ObjectStore, name: str, target: Path, every: float, tell: Callable[[str], None], *, strict: bool = False
) -> None:
    """Pulls again every so many seconds, forever; what goes wrong is told, and what is served stays."""
    last = None
    while True:
        try:
            done = pull(store, name, target, strict=strict)
            if done.digest != last:
                tell(f"{done.model} v{done.version} is in {done.folder} ({done.bytes_moved / 1e6:.1f} MB moved and verified)")
            last = done.digest
        except Exception as fault:  # whatever a network or a store does: the release that is there is served on
            tell(f"{name} could not be looked up or pulled: {fault}")
        time.sleep(every)


def fetch_release(store: ObjectStore, record: ledger.Record, cache: Path) -> Path:
    """The verified folder of a promoted release, from the cache or the store. Raises as `pull` does."""
    folder = cache / "releases" / fingerprint.hex_of(record.release)
    if not _is_whole(folder, record.release, strict=True):
        folder.parent.mkdir(parents=True, exist_ok=True)
        download(store, record, folder)
    return folder


def _check_passed(store: ObjectStore, record: ledger.Record) -> None:
    """Returns only if this candidate was promoted by a gate, not by a person's override."""
    origin = ledger.origin(ledger.history(store, record.model), record.candidate)
    if origin.kind != "promote" or origin.outcome != "PASS":
        by = f"{origin.kind} ({origin.reason})"
        raise ReleaseError(f"{record.model} v{record.version} is champion by {by}, and --strict takes only what a gate let pass")


def check_pulled(folder: Path, digest: str) -> None:
    """Returns only if the folder holds this release byte for byte, signed where a key is trusted. Raises IntegrityError."""
    if not _is_whole(folder, digest, strict=True):
        raise IntegrityError(f"{folder} does not hold the release {digest} any more; pull it again")
    signatures.verify(folder)


def _check_signature(store: ObjectStore, model: str, folder: Path, *, strict: bool) -> None:
    """Returns only if the trusted key signed the folder: verified now if strict, else once for these files and this key."""
    if not signatures.wanted():
        return
    kept, now = _note(folder, "signed"), f"{signatures.wanted()}\n{_stamp(folder)}"
    if not strict and kept.is_file() and kept.read_text(encoding="utf-8") == now:
        return
    try:
        signatures.verify(folder)
    except IntegrityError:  # it is not among the files that the manifest vouches for: perhaps only this one is old
        with contextlib.suppress(NotFound):
            store.download(f"releases/{model}/{folder.name}/{SIGNATURE}", folder / SIGNATURE)
        signatures.verify(folder)
    kept.write_text(f"{signatures.wanted()}\n{_stamp(folder)}", encoding="utf-8")


def _check_verdict(folder: Path, record: ledger.Record) -> None:
    """Returns only if the verdict in the folder is the one that the record names."""
    try:
        found = fingerprint.of_json(json.loads((folder / "verdict.json").read_bytes()))
    except (OSError, ValueError):
        found = "none"
    if found != record.verdict:
        raise IntegrityError(f"{folder}: its verdict has digest {found}, and the ledger names {record.verdict}; refused")


def check_stored(store: ObjectStore, record: ledger.Record) -> None:
    """Returns only if the release lies whole in the store, by its manifest and the names there. Raises ReleaseError."""
    place = f"releases/{record.model}/{fingerprint.hex_of(record.release)}"
    try:
        listed = manifest.parse(store.get(f"{place}/{MANIFEST}"), record.release, f"{store.url}/{place}/{MANIFEST}")
    except NotFound as missing:
        raise ReleaseError(f"{missing} is gone from the store; restore it from a backup first") from None
    if missing_files := sorted(set(listed.files) - {key.removeprefix(f"{place}/") for key in store.keys(f"{place}/")}):
        raise ReleaseError(f"{store.url}/{place} lacks {', '.join(missing_files)}; restore it from a backup first")


def _is_whole(folder: Path, digest: str, *, strict: bool) -> bool:
    """Whether the folder holds the release already: byte for byte if strict, else as it was when its bytes were verified."""
    try:
        listed = manifest.parse((folder / MANIFEST).read_bytes(), digest, str(folder / MANIFEST))
        kept = _note(folder, "verified")
        if strict or not kept.is_file() or _stamp(folder) != kept.read_text(encoding="utf-8"):
            manifest.verify(folder, listed)
            kept.write_text(_stamp(folder), encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return False
    return True


def _note(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _stamp(folder: Path) -> str:
    """Names, sizes and times of the files: nobody changes a byte without changing one of them, but on purpose."""
    found = [(path.name, path.lstat()) for path in sorted(folder.iterdir())]
    return "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ino}" for name, stat in found)


@contextlib.contextmanager
def _one_at_a_time(target: Path) -> Iterator[None]:
    """Of several pulls into a folder one switches and forgets."""
    handle = os.open(target, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # NFS locks no folder: there two pulls at once are as they were
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _switch(link: Path, name: str) -> str | None:
    """Points the link at a neighbour in one step: whoever follows it sees the old release or the new one. Returns the name it
    had before; None if it had none, or the same."""
    before = os.readlink(link) if link.is_symlink() else None
    if before == name:
        return None
    if link.exists() and not link.is_symlink():
        raise ReleaseError(f"{link} is not a link that pull made; pull into another folder")
    fresh = link.with_name(f".{link.name}-{secrets.token_hex(4)}")
    fresh.symlink_to(name)
    fresh.replace(link)
    return before


def _forget_all_but(target: Path, names: set[str]) -> None:
    for folder in target.iterdir():
        if re.fullmatch("[0-9a-f]{64}", folder.name) and folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)
            for what in ("verified", "signed"):
                _note(folder, what).unlink(missing_ok=True)
