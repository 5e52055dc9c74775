"""Files of every format as pieces: formats differ below this door and nowhere above it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from adaptory.data import table_formats, text_formats
from adaptory.data.pieces import Piece
from adaptory.recipe import Source


def pieces(path: Path, name: str, source: Source, columns: Sequence[str]) -> Iterator[Piece]:
    """The file in order. Raises DataError when it cannot be read as a whole, or lacks a column."""
    if source.format == "jsonl":
        return text_formats.jsonl(path, columns)
    if source.format == "tsv":
        return text_formats.tsv(path, name, source, columns)
    if source.format == "csv":
        return text_formats.csv_(path, name, source, columns)
    if source.format == "po":
        return table_formats.po(path, name, columns)
    return table_formats.arrow(path, name, source.format, columns)
