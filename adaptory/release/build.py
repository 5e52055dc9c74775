"""Making a release out of a run, and putting it into the store."""

import json
import shutil
from pathlib import Path

from adaptory import fingerprint, storage
from adaptory.errors import IntegrityError
from adaptory.gate import Evidence, Verdict
from adaptory.release import manifest, sbom, signatures
from adaptory.release.card import model_card
from adaptory.run import Run
from adaptory.training.candidate import Candidate


def build_release(run: Run, candidate: Candidate, evidence: Evidence, verdict: Verdict) -> Path:
    """The release folder of this run, complete with manifest; building it again gives the same bytes.

    Raises IntegrityError when the candidate's bytes are not those that were judged.
    """
    recipe, folder = run.recipe, run.folder / "release"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.candidate_folder, folder)
    facts = {
        "schema_version": "model/v1",
        "name": recipe.name,
        "task": recipe.task,
        "classes": list(candidate.classes),
        "longest": recipe.evaluation.max_new_tokens,
        "base": {"reference": candidate.base_reference, "digest": candidate.base_digest},
    }
    _write(folder / "model.json", facts)
    _write(folder / "recipe.json", recipe.model_dump(mode="json"))
    _write(folder / "evidence.json", evidence.model_dump(mode="json"))
    _write(folder / "verdict.json", verdict.model_dump(mode="json"))
    shutil.copyfile(run.folder / "example.json", folder / "example.json")
    (folder / "README.md").write_text(model_card(recipe, candidate, evidence, verdict), encoding="utf-8")
    _write(folder / "sbom.json", sbom.bill(run, candidate))
    # The X-ray and the curve are for the run; of a tokenizer tokenizer.json says all, and the template is the candidate's.
    for stranger in set(fingerprint.files_below(folder)) - manifest.ALLOWED:
        (folder / stranger).unlink()
    made = manifest.of_folder(recipe.name, folder)
    if (found := manifest.candidate_of(made)) != candidate.digest:
        raise IntegrityError(
            f"{run.candidate_folder}: what lies there has digest {found}, and {candidate.digest} was judged; "
            "it was altered after its training. Remove the folder, and retrain."
        )
    (folder / manifest.MANIFEST).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
    signatures.sign(folder)
    return folder


def store_release(store: storage.ObjectStore, model: str, folder: Path) -> str:
    """Puts the release under its digest and returns it; the manifest goes last, so half a release is none."""
    digest = fingerprint.of_file(folder / manifest.MANIFEST)
    place = where(model, digest)
    there = set(store.keys(f"{place}/"))
    whole = f"{place}/{manifest.MANIFEST}" in there
    names = [] if whole else sorted(manifest.of_folder(model, folder).files)
    if (folder / manifest.SIGNATURE).is_file() and f"{place}/{manifest.SIGNATURE}" not in there:
        names.append(manifest.SIGNATURE)  # also of a release that was stored before there was a key
    for name in [*names, *([] if whole else [manifest.MANIFEST])]:
        store.upload(folder / name, f"{place}/{name}")
    return digest


def where(model: str, digest: str) -> str:
    """The key prefix of a release."""
    return f"releases/{model}/{fingerprint.hex_of(digest)}"


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
