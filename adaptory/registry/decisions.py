"""Every decision with what it rested on: evidence and scores, in the store, so that it can be taken again under other rules.

`decisions/<model>/<digest of the evidence>.json` and `.parquet`; the notes in `judged/` name them.
"""

import tempfile
from pathlib import Path

from adaptory import fingerprint
from adaptory.errors import IntegrityError, NotFound
from adaptory.evaluation.scores import SCORES
from adaptory.gate import Evidence
from adaptory.registry.judged import Judged
from adaptory.storage import ObjectStore


def keep(store: ObjectStore, folder: Path, evidence: Evidence) -> None:
    """Stores the evidence of a run folder with its scores, once. A folder on another machine has no scores, and keeps nothing."""
    place = _place(evidence.recipe, evidence.digest)
    whole = (folder / SCORES).is_file() and fingerprint.of_file(folder / SCORES) == evidence.scores
    if whole and f"{place}.json" not in store.keys(f"{place}."):
        store.upload(folder / SCORES, f"{place}.parquet")
        store.put(f"{place}.json", fingerprint.json_bytes(evidence.model_dump(mode="json")))


def decisions(store: ObjectStore, model: str) -> list[tuple[Judged, Evidence]]:
    """All decisions whose evidence is kept, oldest first. Raises IntegrityError for altered evidence."""
    found = []
    for key in store.keys(f"judged/{model}/"):
        judged = Judged.model_validate_json(store.get(key))
        try:
            data = store.get(f"{_place(model, judged.evidence)}.json") if judged.evidence else b""
        except NotFound:
            continue
        if not data:
            continue
        if fingerprint.of_bytes(data) != judged.evidence:  # of the bytes: what a later version adds to evidence changes nothing
            place = _place(model, judged.evidence or "")
            raise IntegrityError(f"{store.url}/{place}.json was altered: it has digest {fingerprint.of_bytes(data)}")
        found.append((judged, Evidence.model_validate_json(data)))
    return sorted(found, key=lambda pair: pair[0].time)


def fetch_scores(store: ObjectStore, evidence: Evidence, path: Path) -> None:
    """The scores behind the evidence, to a file. Raises IntegrityError for others."""
    store.download(f"{_place(evidence.recipe, evidence.digest)}.parquet", path)
    fingerprint.verify_file(path, evidence.scores, f"scores of {evidence.recipe} from {evidence.candidate}")


def has_scores(store: ObjectStore, evidence: Evidence) -> bool:
    """Whether the scores behind the evidence are kept, with their digest."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            fetch_scores(store, evidence, Path(folder) / SCORES)
        except (NotFound, IntegrityError):
            return False
    return True


def _place(model: str, digest: str) -> str:
    return f"decisions/{model}/{fingerprint.hex_of(digest)}"
