"""The manifest: which files a release has, and their digests. Its own digest is the release's name."""

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, field_validator

from adaptory import fingerprint
from adaptory.errors import IntegrityError

MANIFEST = "manifest.json"
SIGNATURE = "model.sig"  # of everything else in the folder (OpenSSF model signing); beside the manifest, not in it
# The only names a release may hold: whatever else arrives is refused unopened.
ALLOWED = frozenset({
    "adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt", "chat_template.jinja",
    "trained.safetensors", "golden.json", "certificate.json",
    "model.json", "recipe.json", "evidence.json", "verdict.json", "candidate.json", "example.json", "README.md", "sbom.json",
})  # fmt: skip
_TRAINED = ("adapter_config.json", "adapter_model.safetensors", "trained.safetensors")  # a candidate is named by their digest


class File(BaseModel):
    """One file of a release."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    sha256: str
    size: int


class Manifest(BaseModel):
    """Every file of a release but the manifest itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    schema_version: str = "manifest/v1"
    model: str
    files: dict[str, File]

    @field_validator("schema_version")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "manifest/v1":
            raise ValueError(f"schema {value!r} is not known here; update adaptory")
        return value

    @field_validator("files")
    @classmethod
    def _allowed(cls, value: dict[str, File]) -> dict[str, File]:
        if strangers := sorted(set(value) - ALLOWED):
            raise ValueError(f"a release may not hold {', '.join(strangers)}")
        return value


def of_folder(model: str, folder: Path) -> Manifest:
    """The manifest of the files that lie in the folder."""
    names = [name for name in fingerprint.files_below(folder) if name not in (MANIFEST, SIGNATURE)]
    return Manifest(
        model=model,
        files={n: File(sha256=fingerprint.of_file(folder / n), size=(folder / n).stat().st_size) for n in names},
    )


def candidate_of(listed: Manifest) -> str:
    """The digest of what was trained, of the bytes that the manifest promises: the candidate's name."""
    return fingerprint.of_json({name: listed.files[name].sha256 for name in _TRAINED if name in listed.files})


def parse(data: bytes, digest: str, where: str) -> Manifest:
    """The manifest in these bytes, which must have this digest. Raises IntegrityError."""
    if fingerprint.of_bytes(data) != digest:
        raise IntegrityError(f"{where}: digest {fingerprint.of_bytes(data)}, but the ledger promises {digest}; refused")
    try:
        return Manifest.model_validate_json(data)
    except ValueError as fault:
        reason = re.sub(r"\s+", " ", str(fault))
        raise IntegrityError(f"{where} is refused: {reason}") from None


def verify(folder: Path, manifest: Manifest) -> None:
    """Returns only if the folder holds exactly the manifest's files with their bytes. Raises IntegrityError."""
    found = set(fingerprint.files_below(folder)) - {MANIFEST, SIGNATURE}
    if found != set(manifest.files):
        raise IntegrityError(f"{folder}: files {sorted(found ^ set(manifest.files))} are missing or too many; refused")
    for name, file in manifest.files.items():
        path = folder / name
        if path.is_symlink() or path.stat().st_size != file.size or fingerprint.of_file(path) != file.sha256:
            raise IntegrityError(f"{path} does not have the bytes that its manifest promises; refused")
