"""Answers from a pulled release, with torch, transformers and peft alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory import bases, fingerprint
from adaptory.errors import ReleaseError
from adaptory.release import manifest
from adaptory.release.manifest import MANIFEST


@dataclass(frozen=True)
class Answer:
    """What the model says of one text."""

    label: str
    chances: dict[str, float]


@dataclass(frozen=True)
class Predictor:
    """A loaded release."""

    facts: dict[str, Any]
    model: Any
    tokenizer: Any

    def __call__(self, texts: list[str]) -> list[Answer]:
        """One answer per text, in their order."""
        from torch import softmax, tensor

        from adaptory.training import scoring

        encoded = scoring.encode(self.tokenizer, texts, self.facts["max_tokens"])
        logits = scoring.logits(self.model, encoded, self.tokenizer.pad_token_id)
        classes = self.facts["classes"]
        return [
            Answer(classes[max(range(len(classes)), key=row.__getitem__)], dict(zip(classes, row, strict=True)))
            for row in softmax(tensor(logits), dim=1).tolist()
        ]


def load(folder: Path, root: Path, cache: Path) -> Predictor:
    """The release in `folder` (or in its `current`), verified, on the base that its manifest pins.

    Raises ReleaseError when there is no release, IntegrityError when a byte is not as promised, and
    BaseModelError when the base cannot be had or is another one.
    """
    import peft  # noqa: F401 - if it is missing, say so before a base is fetched in vain

    from adaptory.training import adapter

    folder = folder / "current" if (folder / "current").is_dir() else folder
    try:
        data = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ReleaseError(f"{folder} holds no release; pull one: adaptory pull NAME@champion {folder}") from None
    # The folder's own manifest vouches for its files; that it is the promoted one was checked by pull.
    manifest.verify(folder, manifest.parse(data, fingerprint.of_bytes(data), str(folder / MANIFEST)))
    facts = json.loads((folder / "model.json").read_bytes())
    base = bases.cached(facts["base"]["reference"], facts["base"]["digest"], root, cache)
    model = adapter.load(folder, base, facts["base"]["digest"], facts["classes"], merge=True)
    return Predictor(facts, model, adapter.load_tokenizer(folder))

