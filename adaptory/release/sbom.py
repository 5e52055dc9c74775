"""The bill of materials of a release (CycloneDX 1.6): what it was made from, and what it needs to run."""

from typing import Any

from adaptory import __version__, fingerprint, run
from adaptory.run import Run
from adaptory.training.candidate import Candidate


def bill(now: Run, candidate: Candidate) -> dict[str, Any]:
    """The same for the same release: no time and no random number in it."""
    libraries = {"adaptory": __version__, **run.libraries()}
    base = {
        "type": "machine-learning-model", "name": candidate.base_reference, "bom-ref": "base",
        "hashes": [{"alg": "SHA-256", "content": fingerprint.hex_of(candidate.base_digest)}],
    }  # fmt: skip
    data = [
        {"type": "data", "name": name, "description": source.uri, "bom-ref": f"data/{name}"}
        | ({"hashes": [{"alg": "SHA-256", "content": source.sha256.removeprefix("sha256:")}]} if source.sha256 else {})
        for name, source in now.recipe.data.sources.items()
    ]
    packages = [
        {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name}@{version}", "bom-ref": name}
        for name, version in sorted(libraries.items())
    ]
    licence = [{"license": {"name": now.recipe.licence}}] if now.recipe.licence else []
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "machine-learning-model", "name": now.recipe.name, "bom-ref": "release", "licenses": licence,
                "hashes": [{"alg": "SHA-256", "content": fingerprint.hex_of(candidate.digest)}],
            },
        },
        "components": [base, *data, *packages],
        "dependencies": [
            {"ref": "release", "dependsOn": ["base", *(one["bom-ref"] for one in data), *(one["bom-ref"] for one in packages)]}
        ],
    }  # fmt: skip
