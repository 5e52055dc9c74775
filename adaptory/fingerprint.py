"""Digests that carry their algorithm, so that a later change of algorithm is visible.

Everything that is handed from stage to stage is named by one of these: `sha256:<64 hex digits>`.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adaptory.errors import IntegrityError


def of_bytes(data: bytes) -> str:
    """The digest of these bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def of_file(path: Path) -> str:
    """The digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def of_json(value: Any) -> str:
    """The digest of a JSON value; the order of keys does not matter.

    Raises ValueError for NaN and infinities: they have no JSON form, so they have no digest.
    """
    return of_bytes(json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The one written form of a JSON value, which its digest is of. Raises as `of_json`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def of_files(root: Path, names: Iterable[str]) -> str:
    """The digest of named files under `root`: of their names and bytes, not of times or modes."""
    return of_json({name: of_file(root / name) for name in sorted(names)})


def of_folder(root: Path) -> str:
    """The digest of every file below `root`."""
    return of_files(root, files_below(root))


def files_below(root: Path) -> list[str]:
    """The relative POSIX names of all files below `root`, sorted, without Python's own leavings."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    )


def hex_of(digest: str) -> str:
    """The digest without its algorithm, as file and folder names carry it."""
    algorithm, _, digits = digest.partition(":")
    assert algorithm == "sha256" and len(digits) == 64, f"not a digest: {digest!r}"
    return digits


def short(digest: str) -> str:
    """Twelve digits, enough for a person to tell two apart."""
    return hex_of(digest)[:12]


def verify_file(path: Path, expected: str, what: str) -> None:
    """Returns only when the file has the expected digest; otherwise removes it and raises IntegrityError."""
    found = of_file(path)
    if found != expected:
        path.unlink()
        raise IntegrityError(
            f"{what}: the bytes have digest {found}, expected {expected}. They were removed. "
            "If the publisher changed the file on purpose, review it and write the new digest."
        )
