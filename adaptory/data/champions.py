"""A champion as a source: its own answers to rows of its recipe, beside the right ones, as pairs to learn preferences from.

The rejected answer is the worse (by chrF) of two samples of the champion, as in Chen et al. 2024 (self-play) with a person's
answer as the chosen one. What the registry and the evaluation offer is imported late: they stand on this package.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from adaptory import fingerprint, storage
from adaptory.data.dataset import CARD, read_split, some_rows
from adaptory.errors import DataError
from adaptory.workspace import Workspace

FILE = "pairs.jsonl"
_SAMPLES, _SEED = 2, 0


def state(workspace: Workspace, place: storage.Champion) -> dict[str, str]:
    """The one file there is, and what it depends on: who is champion, and on which rows it is asked. Raises DataError."""
    from adaptory.registry import head

    record = head(storage.open_store(workspace.store), place.recipe)
    if record is None:
        raise DataError(f"{place.recipe!r} has no champion yet to draw answers from; run: adaptory retrain {place.recipe}")
    card = workspace.data(place.recipe) / "splits" / CARD
    if not card.is_file():
        raise DataError(f"no prepared data for {place.recipe!r} to ask its champion; run: adaptory prepare {place.recipe}")
    facts = {"release": record.release, "rows": fingerprint.of_file(card), "split": place.split, "most": place.rows}
    return {FILE: fingerprint.of_json(facts)}


def bring(workspace: Workspace, place: storage.Champion, digest: str, target: Path) -> None:
    """Writes the pairs of this state: `id`, `prompt`, `chosen`, `rejected`. They are drawn once, whoever asks for them.

    Raises DataError when the recipe's task writes no answers.
    """
    kept = workspace.cache / "pairs" / f"{fingerprint.short(digest)}.jsonl"
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        scratch = kept.with_name(f".{os.getpid()}-{kept.name}")
        _draw(workspace, place, scratch)
        scratch.replace(kept)
    shutil.copyfile(kept, target)


def _draw(workspace: Workspace, place: storage.Champion, target: Path) -> None:
    from adaptory.registry import head
    from adaptory.release.serving import load_release
    from adaptory.training.answers import generate

    record = head(storage.open_store(workspace.store), place.recipe)
    assert record is not None, "its state was asked for before"
    model = load_release(storage.open_store(workspace.store), record, workspace.root, workspace.cache)
    if model.candidate.objective != "tokens" or model.candidate.task != "sft":
        raise DataError(f"champion:{place.recipe} cannot be a source: its task {model.candidate.task!r} writes no answers")
    table = some_rows(read_split(workspace, place.recipe, place.split), place.rows)
    asked = [(row, chat) for row, text in table.select("row", "messages").iter_rows() if len(chat := json.loads(text)) == 2]
    prompts = [model.made.prompt(chat[:-1]) for _, chat in asked]
    # What runs on for more than twice the right answer is the worse one already: it is cut there.
    longest = [min(model.facts["longest"], 2 * len(model.made.response(chat[-1]["content"])) + 8) for _, chat in asked]
    precision = model.candidate.training.precision
    seeds = range(_SEED, _SEED + _SAMPLES)
    drawn = [generate(model.model, model.made, prompts, longest, draw=seed, precision=precision)[0] for seed in seeds]
    with target.open("w", encoding="utf-8") as out:
        for (row, chat), *said in zip(asked, *drawn, strict=True):
            question, right = (message["content"] for message in chat)
            if (worse := _worse(said, right)) is not None:
                pair = {"id": row, "prompt": question, "chosen": right, "rejected": worse}
                out.write(json.dumps(pair, ensure_ascii=False) + "\n")


def _worse(said: list[str], right: str) -> str | None:
    """The sample farthest from the right answer; None if all say nothing, or exactly what is right."""
    other = [text.strip() for text in said if text.strip() not in ("", right.strip())]
    return min(other, key=lambda text: (_likeness(text, right), text), default=None)


def _likeness(text: str, right: str) -> Any:
    from sacrebleu import sentence_chrf

    return sentence_chrf(text, [right]).score
