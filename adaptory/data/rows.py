"""Cells to typed rows, a column at a time: what cannot be used is refused with its bytes, line and reason."""

import html
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from adaptory.data import chats
from adaptory.data.lines import Refused
from adaptory.data.pieces import LINE, Piece
from adaptory.data.splits import normalised
from adaptory.recipe import Data, Label, Source, Task

NAMES = ("row", "source", "file", "line", "group")
# The columns of a task's rows; all are text but `value`.
CONTENT: dict[Task, tuple[str, ...]] = {
    "classification": ("text", "label", "value"),
    "regression": ("text", "value"),
    "pair_classification": ("text", "text_pair", "label", "value"),
    "sft": ("messages",),
    "preference": ("prompt", "chosen", "rejected"),
    "text": ("text",),
}
ASKED: tuple[Task, ...] = ("sft", "preference")  # tasks in which several rows may share what is asked
_TEXTS = ("text", "text_pair", "prompt", "response", "messages", "chosen", "rejected")


@dataclass(frozen=True)
class Typed:
    """The rows of a piece as a table (NAMES and the task's CONTENT), and the lines that are none."""

    table: Any
    refused: tuple[Refused, ...]
    unreadable: frozenset[int] = frozenset()  # lines among them that were no row at all


def schema(task: Task, slices: Iterable[str]) -> dict[str, Any]:
    """The columns of a table of rows. A row's name is unique within the recipe's data; no `group` means a group of its own."""
    import polars

    kinds = {"line": polars.UInt32, "value": polars.Float64}
    return {name: kinds.get(name, polars.String) for name in (*NAMES, *CONTENT[task], *map(slice_column, slices))}


def slice_column(name: str) -> str:
    """Where a table of rows has the values of data.fields.slices; a row without one is in no such slice."""
    return f"slice {name}"


def typed(piece: Piece, name: str, source: Source, file: str, data: Data, task: Task) -> Typed:
    """Every line of the piece, as a row or as a refusal."""
    import polars

    cells = piece.parse()
    unreadable = frozenset(one.line for one in cells.refused)
    if not cells.table.height:
        return Typed(polars.DataFrame(schema=schema(task, data.fields.slices)), cells.refused, unreadable)
    columns = data.fields.columns(source)
    there = set(cells.table.columns)
    sliced = [
        (polars.col(column) if column in there else polars.lit(None)).cast(polars.String).alias(slice_column(name))
        for name, column in data.fields.slices.items()
    ]
    table = cells.table.select(LINE, *(polars.col(column).alias(field) for field, column in columns.items()), *sliced)
    absent = [polars.when(polars.col(field).is_null()).then(polars.lit(f"no {column!r}")) for field, column in columns.items()]
    table = table.with_columns(polars.coalesce(absent).alias("absent"))
    reasons = [polars.col("absent")]
    for field in [field for field in _TEXTS if field in columns]:
        table = table.with_columns(_clean(table[field], source, chat=field == "messages").alias(field))
        cell = polars.col(field)
        reasons.append(polars.when(cell == "").then(polars.lit(f"empty {field}")))
        reasons.append(polars.when(cell.str.contains("\0", literal=True)).then(polars.lit(f"NUL in {field}")))
    for field in [field for field in ("id", "group") if field in columns]:
        table = table.with_columns(polars.col(field).str.strip_chars())
        reasons.append(polars.when(polars.col(field) == "").then(polars.lit(f"empty {field}")))
    if "label" in columns:
        table, faults = _labelled(table, data.label)
        reasons += faults
    if "value" in columns:
        table, faults = _numbers(table.rename({"value": "cell"}), columns["value"])
        reasons += faults
    if task == "sft":
        table, faults = _chat(table, "messages" in columns)
        reasons += faults
    table = table.with_columns(polars.coalesce(reasons).alias("reason"))
    refused = table.filter(polars.col("reason").is_not_null()).select(LINE, "reason").iter_rows()
    bad = [Refused(line, reason, piece.raw(line)) for line, reason in refused]
    good = _named(table.filter(polars.col("reason").is_null()), name, file, data, task)
    return Typed(good, tuple(sorted([*cells.refused, *bad], key=lambda one: one.line)), unreadable)


def _clean(cells: Any, source: Source, *, chat: bool) -> Any:
    """Composed letters, no space at the ends, and no HTML entities where the recipe says so."""
    if source.html_entities == "decode":
        cells = _changed(cells, cells.str.contains("&", literal=True), _decoded_chat if chat else _decoded)
    beyond_ascii = cells.str.len_bytes() != cells.str.len_chars()
    return _changed(cells, beyond_ascii, lambda text: unicodedata.normalize("NFC", text)).str.strip_chars()


def _changed(cells: Any, where: Any, change: Callable[[str], str]) -> Any:
    """Few cells need Python's slower functions: only these take the way through it."""
    places = where.fill_null(False).arg_true()
    if not len(places):
        return cells
    return cells.scatter(places, [change(cell) for cell in cells.gather(places)])


def _decoded(text: str) -> str:
    """Without HTML entities, also where a publisher encoded them twice (`&amp;amp;`)."""
    while (once := html.unescape(text)) != text:
        text = once
    return text


def _decoded_chat(written: str) -> str:
    """The same of what is said in a chat: a decoded quotation mark would end its JSON. What is no chat is told elsewhere."""
    try:
        chat = json.loads(written)
        return json.dumps([turn | {"content": _decoded(turn["content"])} for turn in chat], ensure_ascii=False)
    except (ValueError, TypeError, KeyError):
        return written


def _labelled(table: Any, label: Label) -> tuple[Any, list[Any]]:
    """`label` as one of the classes, and the `value` it was cut from; with what is wrong elsewhere."""
    import polars

    cell = polars.col("label").str.strip_chars()
    if label.neutral_band is not None:
        table, faults = _numbers(table.with_columns(cell.alias("cell")), label.column)
        value, (low, middle, high) = polars.col("value"), label.classes
        named = (
            polars.when(value.abs() < label.neutral_band).then(polars.lit(middle))
            .when(value > 0).then(polars.lit(high)).otherwise(polars.lit(low))
        )  # fmt: skip
        return table.with_columns(named.alias("label")), faults
    known = ", ".join(label.classes)
    fault = polars.format("unknown label '{}'; the recipe's classes are " + known.replace("{", "{{"), cell)
    table = table.with_columns(cell, polars.lit(None, dtype=polars.Float64).alias("value"))
    return table, [polars.when(~polars.col("label").is_in(label.classes)).then(fault)]


def _numbers(table: Any, column: str) -> tuple[Any, list[Any]]:
    """`cell` as the number `value`; with what is wrong elsewhere."""
    import polars

    cell, value = polars.col("cell").str.strip_chars(), polars.col("value")
    table = table.with_columns(cell.cast(polars.Float64, strict=False).alias("value"))
    return table, [
        polars.when(value.is_null()).then(polars.format("{} '{}' is not a number", polars.lit(column), cell)),
        polars.when(~value.is_finite()).then(polars.format("{} '{}' is not finite", polars.lit(column), cell)),
    ]


def _chat(table: Any, given: bool) -> tuple[Any, list[Any]]:
    """`messages` as a chat in its one written form; with what is wrong elsewhere."""
    import polars

    if given:
        checked = [chats.checked(cell) for cell in table["messages"]]
    else:
        checked = [chats.of_pair(prompt, response) for prompt, response in table.select("prompt", "response").iter_rows()]
    faults = polars.Series("chat_fault", [fault for _, fault in checked], dtype=polars.String)
    texts = polars.Series("messages", [text for text, _ in checked], dtype=polars.String)
    return table.with_columns(texts, faults), [polars.col("chat_fault")]


def _named(table: Any, name: str, file: str, data: Data, task: Task) -> Any:
    """Every row with its own name and that of the document it belongs to."""
    import polars

    if data.fields.id:
        identity = polars.format("{}:{}", polars.lit(name), polars.col("id")).alias("row")
    else:
        # With its document: a sentence that stands in two is a copy, and not the same row with another content.
        content = [*CONTENT[task], *(["group"] if data.fields.group else [])]
        digests = [f"{name}:{digest}" for digest in _digests(table.select(content))]
        identity = polars.Series("row", digests, dtype=polars.String)
    table = table.with_columns(identity)
    if data.fields.group:
        document = polars.format("{}:{}", polars.lit(name), polars.col("group"))
    elif data.fields.group_pattern:
        pattern = re.compile(data.fields.group_pattern)
        found = [(match[0] if (match := pattern.match(cell)) else cell) for cell in table["id"]]
        document = polars.format("{}:{}", polars.lit(name), polars.Series("group", found, dtype=polars.String))
    elif task in ASKED:
        # Answers to one prompt belong together, whichever source they come from, and in the recipes that start from each other.
        asked = normalised(as_chat(table, task)).to_frame()
        document = polars.Series("group", [f"prompt:{digest}" for digest in _digests(asked)], dtype=polars.String)
    else:
        document = polars.lit(None, dtype=polars.String)  # the row itself; not written twice
    made = schema(task, data.fields.slices)
    places = {"source": polars.lit(name), "file": polars.lit(file), "group": document}
    return table.with_columns(**places).select(*made).cast(made)


def leaks(table: Any, task: Task) -> Any:
    """The text of a row that must not be met in two splits: what is asked, or all that is said."""
    if task == "sft":
        return table["messages"].map_elements(chats.prompt, return_dtype=table["messages"].dtype)
    if task == "pair_classification":
        return table["text"] + "\n" + table["text_pair"]
    return table["prompt" if task == "preference" else "text"]


def as_chat(table: Any, task: Task) -> Any:
    """What is asked, in the one form that chats and preferences of the same prompts share."""
    return "user: " + table["prompt"] if task == "preference" else leaks(table, task)


def asked(table: Any, task: Task) -> Any:
    """What is said to the model, as a person would look for it: of a chat the last message before the answer."""
    if task == "sft":
        return table["messages"].map_elements(chats.last_asked, return_dtype=table["messages"].dtype)
    return leaks(table, task)


def compared(table: Any, task: Task) -> Any:
    """The text by which rows are near-copies: of a chat without what a system is told, which many may share."""
    if task == "sft":
        return table["messages"].map_elements(chats.said, return_dtype=table["messages"].dtype)
    return leaks(table, task)


def _digests(table: Any) -> list[str]:
    """A digest of each row's content: 128 bits, the same on every machine."""
    import xxhash

    texts = ("\0".join("" if cell is None else str(cell) for cell in row) for row in table.iter_rows())
    return [xxhash.xxh3_128_hexdigest(text.encode()) for text in texts]
