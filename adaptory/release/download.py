"""The bytes of a release, from the store to a folder: in parts, side by side, and again from where it was cut off.

Parts that arrived whole stay in `.pull-<digest>/` beside the folder when a network fails or a process dies, and are not moved
twice. The folder appears when every byte of the release is verified, and not before.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import IntegrityError, NotFound, ReleaseError
from adaptory.registry.ledger import Record
from adaptory.release import manifest
from adaptory.release.manifest import MANIFEST, Manifest
from adaptory.storage import ObjectStore

PART = 8 << 20  # bytes that are asked for at once
_AT_ONCE = 8


def download(store: ObjectStore, record: Record, folder: Path) -> int:
    """Puts the release in place of `folder` when every byte is verified; returns the bytes moved by this call."""
    place = f"releases/{record.model}/{fingerprint.hex_of(record.release)}"
    try:
        data = store.get(f"{place}/{MANIFEST}")
        listed = manifest.parse(data, record.release, f"{store.url}/{place}/{MANIFEST}")
        with _scratch(folder) as scratch:
            try:
                moved = _parts(store, place, listed, scratch)
                fresh = scratch / "release"
                shutil.rmtree(fresh, ignore_errors=True)
                fresh.mkdir()
                for name, file in listed.files.items():
                    _join(scratch, name, file.size, fresh / name)
                manifest.verify(fresh, listed)
            except (IntegrityError, NotFound):
                shutil.rmtree(scratch, ignore_errors=True)  # wrong bytes are not gone on from
                raise
            (fresh / MANIFEST).write_bytes(data)
            with contextlib.suppress(NotFound):
                (fresh / manifest.SIGNATURE).write_bytes(store.get(f"{place}/{manifest.SIGNATURE}"))
            _activate(fresh, folder, listed)
            shutil.rmtree(scratch, ignore_errors=True)
    except NotFound as missing:
        raise ReleaseError(f"{missing} is gone from the store, though the ledger promises it; restore it from a backup") from None
    return len(data) + moved


def _activate(fresh: Path, folder: Path, listed: Manifest) -> None:
    """Puts the verified release in its place. Another pull may have put it there meanwhile, and somebody may be reading it."""
    with tempfile.TemporaryDirectory(prefix=".old-", dir=folder.parent) as old:
        if folder.exists():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, IntegrityError):
                manifest.verify(folder, listed)
                return
            with contextlib.suppress(FileNotFoundError):  # in one step: `current` may lead to it, and a removal takes its time
                folder.rename(Path(old) / "damaged")
        try:
            fresh.replace(folder)
        except OSError:  # not empty: it came just now
            manifest.verify(folder, listed)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Where parts wait; a folder of its own for whoever finds that another pull is at work there."""
    shared = folder.with_name(f".pull-{folder.name}")
    handle = _locked(shared)
    if handle is None:
        with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as own:
            yield Path(own)
        return
    try:
        yield shared
    finally:
        os.close(handle)


def _locked(shared: Path) -> int | None:
    """A handle that holds the folder's lock; None if another pull holds it, or removed the folder at this moment."""
    with contextlib.suppress(FileExistsError):
        shared.mkdir()
    try:
        handle = os.open(shared, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(handle), shared.stat()):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def _parts(store: ObjectStore, place: str, listed: Manifest, scratch: Path) -> int:
    """Brings every part that is not there yet; returns the bytes that came."""

    def bring(asked: tuple[str, int, int]) -> int:
        name, start, length = asked
        part = scratch / f"{name}.{start}"
        if part.is_file() and part.stat().st_size == length:
            return 0
        data = store.read(f"{place}/{name}", start, length)
        if len(data) != length:
            raise IntegrityError(f"{store.url}/{place}/{name} is shorter than its manifest promises; refused")
        coming = part.with_name(f"{part.name}.part")
        coming.write_bytes(data)
        coming.replace(part)
        return length

    wanted = [
        (name, start, min(PART, file.size - start)) for name, file in listed.files.items() for start in range(0, file.size, PART)
    ]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return sum(pool.map(bring, wanted))


def _join(scratch: Path, name: str, size: int, target: Path) -> None:
    with target.open("wb") as whole:
        for start in range(0, size, PART):
            with (scratch / f"{name}.{start}").open("rb") as part:
                shutil.copyfileobj(part, whole, 1 << 20)
