"""Answers from a pulled release, with torch, transformers and peft alone."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptory import bases, fingerprint
from adaptory.errors import ReleaseError, UserError
from adaptory.registry.ledger import Record
from adaptory.release import manifest
from adaptory.release.manifest import MANIFEST
from adaptory.release.pull import fetch_release
from adaptory.storage import ObjectStore

_LOOSE = 0.1  # of numbers computed in bf16
# What a question must hold, by what the model was trained for.
_ASKED = {
    "classes": ("text",), "value": ("text",), "tokens": ("prompt",), "dpo": ("prompt",), "reward": ("prompt", "answer"),
    "masked": ("text",),
}  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """A loaded release."""

    facts: dict[str, Any]
    candidate: Any
    model: Any
    made: Any

    @property
    def fields(self) -> tuple[str, ...]:
        """What a question holds."""
        if self.candidate.task == "pair_classification":
            return ("text", "text_pair")
        return ("text",) if self.candidate.task == "text" else _ASKED[self.candidate.objective]

    def __call__(self, asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One answer per question, in their order. Raises UserError for a question that lacks a field."""
        from adaptory.training import answers, objectives

        wanted = set(self.fields)
        for one in asked:
            if not (wanted <= set(one) or (wanted == {"prompt"} and "messages" in one)):
                raise UserError(f"a question needs {', '.join(self.fields)}; found {', '.join(one) or 'nothing'}")
        made = self.candidate
        goal = objectives.to_answer(made.objective, made.training, self.made, made.centre, made.spread)
        return answers.reply(self.model, self.made, goal, made.classes, asked, self.facts["longest"])

    def twins(self, count: int) -> list["Predictor"]:
        """So many predictors of the same weights, each for a thread of its own: a tokenizer and a network's hooks serve one
        caller at a time."""
        weights = {id(one): one for one in (*self.model.parameters(), *self.model.buffers())}
        return [self, *(copy.deepcopy(self, dict(weights)) for _ in range(count - 1))]

    def read(self, line: str) -> dict[str, Any]:
        """A question from a line: JSON where it must hold several fields, else the bare text."""
        if len(self.fields) == 1 and not line.startswith("{"):
            return {self.fields[0]: line}
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            wanted = ", ".join(self.fields)
            raise UserError(f"this model is asked with a JSON object of {wanted} on each line; found {line[:60]!r}")
        return found


def load(folder: Path, root: Path, cache: Path, *, whole: bool = False) -> Predictor:
    """The release in `folder` (or in its `current`), verified, on the base that its manifest pins; whole: in fp32 on any device.

    Raises ReleaseError when there is no release, IntegrityError when a byte is not as promised, and
    BaseModelError when the base cannot be had or is another one.
    """
    import peft  # noqa: F401 - if it is missing, say so before a base is fetched in vain

    folder = folder / "current" if (folder / "current").is_dir() else folder
    try:
        data = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ReleaseError(f"{folder} holds no release; pull one: adaptory pull NAME@champion {folder}") from None
    # The folder's own manifest vouches for its files; that it is the promoted one was checked by pull.
    manifest.verify(folder, manifest.parse(data, fingerprint.of_bytes(data), str(folder / MANIFEST)))
    return _loaded(folder, root, cache, whole=whole)


def smoke(folder: Path, root: Path, cache: Path) -> list[str]:
    """A sentence for every question of the release's own example that is answered otherwise than when it was made."""
    return other_answers(load(folder, root, cache), folder)


def other_answers(loaded: Predictor, folder: Path) -> list[str]:
    """`smoke` of a release that is loaded already."""
    from adaptory.training import devices, network

    folder = folder / "current" if (folder / "current").is_dir() else folder
    example = json.loads((folder / "example.json").read_bytes())
    found = loaded([row["asked"] for row in example])
    loose = _in_bf16(folder) or devices.all_in_bf16(network.device(), loaded.candidate.training.precision)
    return [
        f"asked {json.dumps(row['asked'], ensure_ascii=False)[:120]}: {json.dumps(now, ensure_ascii=False)[:120]} instead of "
        f"{json.dumps(row['told'], ensure_ascii=False)[:120]}"
        for row, now in zip(example, found, strict=True)
        if not _alike(row["told"], now, loose=loose)
    ]


def _in_bf16(folder: Path) -> bool:
    """Whether the release answered in bf16, or in 4 bits, when it was judged."""
    from adaptory.training.certificate import GOLDEN

    golden = json.loads((folder / GOLDEN).read_bytes()) if (folder / GOLDEN).is_file() else {}
    return bool(golden.get("half") or golden.get("computed"))


def _alike(then: Any, now: Any, *, loose: bool) -> bool:
    """Equal, numbers up to what another processor may do to the last digits.

    Loose: one of the two computed in bf16, where other kernels give other digits. Then numbers are near, and words may be
    others: of two classes, or tokens, that are as likely, either is right.
    """
    if isinstance(then, dict):
        return isinstance(now, dict) and then.keys() == now.keys() and all(_alike(then[k], now[k], loose=loose) for k in then)
    if isinstance(then, float):
        return bool(abs(then - now) <= (_LOOSE if loose else 1e-3) * max(1.0, abs(then)))
    return isinstance(now, str) if loose and isinstance(then, str) else bool(then == now)


def load_release(store: ObjectStore, record: Record, root: Path, cache: Path) -> Predictor:
    """The release of a ledger record, verified. Raises as `pull` and `load` do."""
    return _loaded(fetch_release(store, record, cache), root, cache)


def _loaded(folder: Path, root: Path, cache: Path, *, whole: bool = False) -> Predictor:
    from adaptory.training import adapter
    from adaptory.training.candidate import CARD, Candidate
    from adaptory.training.certificate import rendered_with

    facts = json.loads((folder / "model.json").read_bytes())
    made = Candidate.model_validate_json((folder / CARD).read_bytes())
    base = bases.cached(made.base_reference, made.base_digest, root, cache)
    settings = made.training.model_copy(update={"precision": "fp32"} if whole else {})
    model = adapter.load(folder, base, made.base_digest, made.task, settings, made.classes, merge=True)
    return Predictor(facts, made, model, rendered_with(folder, base, made))
