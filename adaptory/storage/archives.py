"""Files out of tar and zip archives, nested ones too, without trusting what the archive says of itself."""

import fnmatch
import glob
import io
import itertools
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from adaptory.errors import DataError

LIMIT = 8 << 30  # bytes one member may grow to
_PIECE = 1 << 20


def extract(archive: Path, inside: tuple[str, ...], destination: Path, limit: int = LIMIT) -> list[Path]:
    """Writes the file or folder named by the last part of `inside` below `destination`; returns the files.

    The parts before it name nested archives. A single file is written under its own name; the files of a
    folder under their paths relative to it. Raises DataError for a missing member, a name that leaves the
    folder, or a member beyond `limit` bytes.
    """
    opened: IO[bytes] = archive.open("rb")
    name = archive.name
    for member in inside[:-1]:
        found = dict(_members(opened, name))
        if member not in found:
            raise DataError(_missing(name, member, found))
        opened = io.BytesIO(b"".join(_pieces(found[member], member, limit)))
        name = f"{name}!{member}"
    wanted = inside[-1].rstrip("/")
    written = []
    everything = dict(_members(opened, name))
    for member, stream in everything.items():
        if member == wanted:
            relative = PurePosixPath(member).name
        elif member.startswith(wanted + "/"):
            relative = member.removeprefix(wanted + "/")
        else:
            continue
        target = (destination / relative).resolve()
        if not target.is_relative_to(destination.resolve()):
            raise DataError(f"{name}: member {member!r} leaves its folder; the archive is refused")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:
            for piece in _pieces(stream, member, limit):
                out.write(piece)
        written.append(target)
    if not written:
        raise DataError(_missing(name, wanted, everything))
    return written


def matching(archive: Path, pattern: str) -> dict[str, str]:
    """The files of an archive that match a glob (`*` also matches folders): name below its fixed part -> path inside.

    Raises DataError if there are none.
    """
    with archive.open("rb") as opened:
        everything = dict(_members(opened, archive.name))
    fixed = PurePosixPath(*itertools.takewhile(lambda part: not glob.has_magic(part), PurePosixPath(pattern).parts))
    found = sorted(member for member in everything if fnmatch.fnmatchcase(member, pattern))
    if not found:
        raise DataError(_missing(archive.name, pattern, everything))
    return {PurePosixPath(member).relative_to(fixed).as_posix(): member for member in found}


def _members(opened: IO[bytes], name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The regular files of an archive: no links, no devices."""
    if zipfile.is_zipfile(opened):
        archive = zipfile.ZipFile(opened)
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, archive.open(info)
        return
    opened.seek(0)
    try:
        tar = tarfile.open(fileobj=opened)  # noqa: SIM115 - lives as long as the streams it hands out
        for member in tar.getmembers():
            if member.isfile() and (stream := tar.extractfile(member)):
                yield member.name, stream
    except (tarfile.TarError, EOFError) as fault:
        raise DataError(f"{name} is neither a zip nor a tar archive: {fault}") from None


def _pieces(stream: IO[bytes], name: str, limit: int) -> Iterator[bytes]:
    size = 0
    while piece := _read(stream, name):
        size += len(piece)
        if size > limit:
            raise DataError(f"{name}: grows beyond {limit} bytes when unpacked; the archive is refused")
        yield piece


def _read(stream: IO[bytes], name: str) -> bytes:
    try:
        return stream.read(_PIECE)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as fault:
        raise DataError(f"{name}: the archive is damaged ({fault}); fetch it again") from None


def _missing(archive: str, wanted: str, found: dict[str, IO[bytes]]) -> str:
    some = ", ".join(sorted(found)[:8])
    return f"{archive} has no {wanted!r}; it holds {len(found)} files: {some}{', ...' if len(found) > 8 else ''}"
