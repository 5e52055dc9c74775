"""Archives from the Python package index, fetched by pip and kept by digest.

With a sha256, pip itself refuses other bytes before it runs anything of them; without one only wheels are
taken, because looking at a source archive's metadata runs its code.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import DataError, IntegrityError, ServerError

_DEADLINE = 600  # seconds


def download(name: str, version: str, sha256: str | None, cache: Path) -> Path:
    """The archive of exactly this version, from the cache or fetched.

    Raises IntegrityError when the bytes do not have the digest (they are removed), DataError when the
    archive cannot be had, ServerError when the index does not answer.
    """
    shelf = cache / "pypi" / f"{name}-{version}" / (sha256 or "wheel")
    kept = [path for path in shelf.glob("*") if path.is_file()]
    if kept:
        if sha256:
            fingerprint.verify_file(kept[0], f"sha256:{sha256}", str(kept[0]))
        return kept[0]
    shelf.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=shelf.parent) as scratch:
        found = _pip_download(name, version, sha256, Path(scratch))
        shelf.mkdir(exist_ok=True)
        return found.replace(shelf / found.name)


def _pip_download(name: str, version: str, sha256: str | None, scratch: Path) -> Path:
    requirement = scratch / "requirement.txt"
    pin = f" --hash=sha256:{sha256}" if sha256 else ""
    requirement.write_text(f"{name}=={version}{pin}\n")
    target = scratch / "archive"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--no-input", "--dest", str(target), "--requirement", str(requirement)]
    if not sha256:
        command += ["--only-binary", ":all:"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise ServerError(f"{name}=={version}: no answer within {_DEADLINE} s; run the command again") from None
    if "THESE PACKAGES DO NOT MATCH THE HASHES" in done.stderr or "Hashes are required" in done.stderr:
        raise IntegrityError(
            f"{name}=={version}: no archive has sha256 {sha256}; what was downloaded was removed. "
            "If the publisher changed the archive on purpose, review it and write the new sha256."
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "WARNING: Retrying (" in done.stderr:  # pip's words for an index that it does not reach
            raise ServerError(f"{name}=={version} cannot be downloaded: the index does not answer ({last}); run this again")
        raise DataError(f"{name}=={version} cannot be downloaded: {last}")
    found = next(target.iterdir())
    if sha256:
        fingerprint.verify_file(found, f"sha256:{sha256}", f"{name}=={version}")
    return found
