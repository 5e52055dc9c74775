"""Raw bytes to typed rows: what cannot be read is set aside with its bytes, line and reason."""

import csv
import html
import io
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adaptory.errors import DataError
from adaptory.recipe import Data, Label, Source

MAX_LINE = 1 << 20  # bytes


@dataclass(frozen=True)
class Row:
    """One example: `row` names it in every later file."""

    row: str
    source: str
    group: str
    text: str
    label: str
    value: float | None


@dataclass(frozen=True)
class Refused:
    """A row that cannot be used, with all that is needed to find and mend it."""

    source: str
    line: int
    reason: str
    raw: bytes


class _Fault(ValueError):  # noqa: N818
    """Why one row is refused."""


Cells = dict[str, str]


def read(name: str, source: Source, path: Path, data: Data) -> Iterator[Row | Refused]:
    """Every line of a source's file, in order, as a row or a refusal.

    Raises DataError when the whole file cannot be read: a needed column is not in it.
    """
    lines = _lines(path)
    columns, parse = _parser(source, lines)
    needed = {"fields.id": data.fields.id, "fields.text": data.fields.text, "label.column": data.label.column}
    for key, column in needed.items():
        if columns is not None and column not in columns:
            raise DataError(
                f"source {name!r} has no column {column!r} (data.{key}); its columns are "
                f"{', '.join(columns)}. Correct data.{key}, or the source's columns."
            )
    for number, raw in lines:
        try:
            yield _row(name, source, parse(raw), data)
        except _Fault as fault:
            yield Refused(name, number, str(fault), raw)


def _row(name: str, source: Source, cells: Cells, data: Data) -> Row:
    fields = data.fields
    for column in (fields.id, fields.text, data.label.column):
        if column not in cells:
            raise _Fault(f"no {column!r}")
    text = _decoded(cells[fields.text]) if source.html_entities == "decode" else cells[fields.text]
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise _Fault("empty text")
    if "\0" in text:
        raise _Fault("NUL in text")
    identity = cells[fields.id].strip()
    if not identity:
        raise _Fault("empty id")
    group = re.match(fields.group_pattern, identity) if fields.group_pattern else None
    label, value = _label(cells[data.label.column].strip(), data.label)
    document = f"{name}:{group[0] if group else identity}"
    return Row(f"{name}:{identity}", name, document, text, label, value)


def _decoded(text: str) -> str:
    """Without HTML entities, also where a publisher encoded them twice (`&amp;amp;`)."""
    while (once := html.unescape(text)) != text:
        text = once
    return text


def _label(cell: str, label: Label) -> tuple[str, float | None]:
    if label.neutral_band is None:
        if cell not in label.classes:
            raise _Fault(f"unknown label {cell!r}; the recipe's classes are {', '.join(label.classes)}")
        return cell, None
    try:
        value = float(cell)
    except ValueError:
        raise _Fault(f"{label.column} {cell!r} is not a number") from None
    if not math.isfinite(value):
        raise _Fault(f"{label.column} {cell!r} is not finite")
    low, middle, high = label.classes
    if abs(value) < label.neutral_band:
        return middle, value
    return (high if value > 0 else low), value


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends and without a byte order mark; blank lines are no rows."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            raw = line.rstrip(b"\r\n")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            if raw:
                yield number, raw


def _parser(
    source: Source, lines: Iterator[tuple[int, bytes]]
) -> tuple[tuple[str, ...] | None, Callable[[bytes], Cells]]:
    """The columns of a file, if the format fixes them, and how one of its lines becomes cells."""
    if source.format == "jsonl":
        return None, _json_cells
    split = _tsv_cells if source.format == "tsv" else _csv_cells
    columns = source.columns or tuple(split(_decode(next(lines, (1, b""))[1])))

    def parse(raw: bytes) -> Cells:
        cells = split(_decode(raw))
        if len(cells) != len(columns):
            raise _Fault(f"{len(cells)} cells where {len(columns)} columns are expected")
        return dict(zip(columns, cells, strict=True))

    return columns, parse


def _decode(raw: bytes) -> str:
    if len(raw) > MAX_LINE:
        raise _Fault(f"line of {len(raw)} bytes; the limit is {MAX_LINE}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise _Fault(f"not UTF-8 at byte {fault.start}") from None


def _tsv_cells(line: str) -> list[str]:
    return line.split("\t")


def _csv_cells(line: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(line), strict=True), [])
    except csv.Error as fault:
        raise _Fault(f"not CSV: {fault}") from None


def _json_cells(raw: bytes) -> Cells:
    try:
        value = json.loads(_decode(raw))
    except (json.JSONDecodeError, RecursionError) as fault:
        raise _Fault(f"not JSON: {fault}") from None
    if not isinstance(value, dict):
        raise _Fault(f"a JSON {type(value).__name__} where an object is expected")
    return {key: cell if isinstance(cell, str) else json.dumps(cell) for key, cell in value.items()}
