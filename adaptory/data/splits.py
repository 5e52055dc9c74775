"""Which rows go where: by document, by salt, and no text twice."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from adaptory.data.rows import Row
from adaptory.recipe import Split

SPLITS = ("train", "validation", "test")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Repeated:
    """A row whose text another row already has."""

    row: Row
    reason: str


def split_of(group: str, split: Split) -> str:
    """The split of a document: a function of its name and the salt, whatever other rows there are."""
    digest = hashlib.sha256(f"{split.salt}\0{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < split.test:
        return "test"
    return "validation" if place < split.test + split.validation else "train"


def normalised(text: str) -> str:
    """The form in which two texts count as the same: compatibility form, no case, single spaces."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def without_repeats(rows: Iterable[Row]) -> tuple[list[Row], list[Repeated]]:
    """One row of each text and of each id: the one whose name sorts first. The others, with the reason.

    So no text can be in two splits, and the order of the rows changes nothing.
    """
    kept: dict[str, Row] = {}
    ids: dict[str, Row] = {}
    repeated = []
    for row in sorted(rows, key=lambda row: (row.row, row.text, row.label)):
        text = normalised(row.text)
        if first := ids.get(row.row):
            same = (first.text, first.label, first.value) == (row.text, row.label, row.value)
            repeated.append(Repeated(row, f"id repeats, {'same row' if same else 'with another content'}"))
        elif first := kept.get(text):
            agree = "same label" if first.label == row.label else f"labelled {row.label}, there {first.label}"
            repeated.append(Repeated(row, f"text of {first.row}, {agree}"))
        else:
            kept[text] = row
        ids.setdefault(row.row, row)
    return list(kept.values()), repeated
