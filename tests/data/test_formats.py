"""The same rows in every format are the same rows; a packed or binary file that is not whole is refused."""

import csv
import gzip
import io
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.data import lines, readers, rows
from adaptory.errors import DataError
from adaptory.recipe import Data
from tests.support import tiny_recipe

Table = list[dict[str, str]]
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\t\r\n\0"), max_size=20).map(lambda text: f"x{text}x")
TABLES = st.lists(st.fixed_dictionaries({"id": TEXT, "text": TEXT, "rating": st.sampled_from(["-1", "0.25", "3e0"])}), min_size=1)


def as_jsonl(table: Table) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in table).encode()


def as_tsv(table: Table) -> bytes:
    cells = [list(table[0]), *([row[name] for name in table[0]] for row in table)]
    return "".join("\t".join(row) + "\n" for row in cells).encode()


def as_csv(table: Table) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue().encode()


def as_parquet(table: Table) -> bytes:
    import polars

    out = io.BytesIO()
    polars.DataFrame(table).write_parquet(out)
    return out.getvalue()


def as_arrow(table: Table) -> bytes:
    import polars

    out = io.BytesIO()
    polars.DataFrame(table).write_ipc_stream(out)
    return out.getvalue()


def zstd(content: bytes) -> bytes:
    import pyarrow

    out = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(out, "zstd") as stream:
        stream.write(content)
    return out.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[Table], bytes]] = {
    "jsonl": as_jsonl, "tsv": as_tsv, "csv": as_csv, "parquet": as_parquet, "datasets": as_arrow,
}  # fmt: skip
PACKERS: dict[str, Callable[[bytes], bytes]] = {"plain": bytes, "gz": gzip.compress, "zst": zstd}


def of_format(form: str, fields: dict[str, str] | None = None) -> Data:
    changes = {"data.fields": fields} if fields else {}
    return Data.model_validate(tiny_recipe(**{"data.sources": {"s": {"uri": "./x", "format": form}}, **changes})["data"])


def read(path: Path, form: str) -> list[dict[str, Any]]:
    data = of_format(form)
    columns = sorted(set(data.fields.columns(data.sources["s"]).values()))
    found = []
    for piece in readers.pieces(path, "s", data.sources["s"], columns):
        made = rows.typed(piece, "s", data.sources["s"], "f", data, "classification")
        assert not made.refused, made.refused
        found += made.table.drop("line").to_dicts()
    return found


@pytest.mark.slow
@given(TABLES)
def test_every_format_gives_the_same_rows(tmp_path_factory: pytest.TempPathFactory, table: Table) -> None:
    path = tmp_path_factory.mktemp("formats") / "file"
    path.write_bytes(as_jsonl(table))
    expected = read(path, "jsonl")
    assert [row["value"] for row in expected] == [float(row["rating"]) for row in table]
    for form, write in WRITERS.items():
        for pack in PACKERS.values() if form in ("jsonl", "tsv", "csv") else [bytes]:
            path.write_bytes(pack(write(table)))
            assert read(path, form) == expected, form


def test_a_file_of_many_blocks_gives_every_line_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BLOCK", 256)
    table = [{"id": f"{n}_1", "text": "x" * (n % 90), "rating": "1"} for n in range(300)]
    (tmp_path / "f").write_bytes(as_jsonl([row for row in table if row["text"]]))
    assert [row["text"] for row in read(tmp_path / "f", "jsonl")] == [row["text"] for row in table if row["text"]]


def test_the_raw_bytes_of_any_line_can_be_had_again(tmp_path: Path) -> None:
    table = [{"id": f"{n}_1", "text": f"text, {n}", "rating": "1"} for n in range(5)]
    for form, write in WRITERS.items():
        path = tmp_path / form
        path.write_bytes(write(table))
        data = of_format(form)
        (piece,) = readers.pieces(path, "s", data.sources["s"], ["id", "rating", "text"])
        made = rows.typed(piece, "s", data.sources["s"], "f", data, "classification")
        for row in made.table.iter_rows(named=True):
            raw = piece.raw(row["line"])
            assert row["text"].encode() in raw, form
            if form in ("jsonl", "tsv", "csv"):
                assert raw in write(table).split(b"\r\n" if form == "csv" else b"\n")


@pytest.mark.parametrize("pack", ["gz", "zst"])
def test_a_packed_file_cut_anywhere_is_refused(tmp_path: Path, pack: str) -> None:
    packed = PACKERS[pack](as_jsonl([{"id": f"{n}_1", "text": f"text {n}", "rating": "1"} for n in range(200)]))
    for cut in range(5, len(packed) - 1, 37):
        (tmp_path / "f").write_bytes(packed[:cut])
        with pytest.raises(DataError, match="damaged or was cut off"):
            read(tmp_path / "f", "jsonl")


@pytest.mark.parametrize("form", ["parquet", "datasets"])
def test_a_cut_table_is_refused(tmp_path: Path, form: str) -> None:
    whole = WRITERS[form]([{"id": f"{n}_1", "text": f"text {n}", "rating": "1"} for n in range(50)])
    (tmp_path / "f").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="is not a whole"):
        read(tmp_path / "f", form)


def test_lists_and_numbers_of_a_parquet_file_become_text(tmp_path: Path) -> None:
    import polars

    chat = [[{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]]
    polars.DataFrame({"n": [7], "chat": chat}).write_parquet(tmp_path / "f")
    data = of_format("parquet", {"id": "n", "messages": "chat"})
    (piece,) = readers.pieces(tmp_path / "f", "s", data.sources["s"], ["chat", "n"])
    made = rows.typed(piece, "s", data.sources["s"], "f", data, "sft")
    assert made.table["row"].to_list() == ["s:7"]
    assert json.loads(made.table["messages"][0]) == chat[0]


CATALOGUE = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"

#: a.c:1
msgid "Open"
msgstr "Öffnen"

#, fuzzy
msgid "Close"
msgstr "Schlie"

msgid "Save"
msgstr ""

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"
"""


def test_a_catalogue_gives_its_finished_translations(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_text(CATALOGUE, encoding="utf-8")
    data = of_format("po", {"prompt": "msgid", "response": "msgstr"})
    (piece,) = readers.pieces(tmp_path / "de.po", "s", data.sources["s"], ["msgid", "msgstr"])
    made = rows.typed(piece, "s", data.sources["s"], "f", data, "sft")
    pairs = [[message["content"] for message in json.loads(chat)] for chat in made.table["messages"]]
    assert pairs == [["Open", "Öffnen"], ["%d file", "%d Datei"], ["%d files", "%d Dateien"]]


def test_a_file_that_is_no_catalogue_is_told(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_text('msgid "a"\nnonsense\n')
    data = of_format("po", {"prompt": "msgid", "response": "msgstr"})
    with pytest.raises(DataError, match="not a gettext catalogue"):
        list(readers.pieces(tmp_path / "de.po", "s", data.sources["s"], ["msgid"]))


def test_a_huge_line_is_refused_and_memory_stays_flat(tmp_path: Path) -> None:
    path = tmp_path / "f"
    row = as_jsonl([{"id": "1_1", "text": "fine", "rating": "1"}])
    path.write_bytes(row + b'{"text": "' + b"x" * (100 << 20) + b'"}\n' + row)
    tracemalloc.start()
    try:
        found = list(lines.blocks(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [type(part).__name__ for part in found] == ["Block", "Refused", "Block"]
    assert isinstance(found[1], lines.Refused)
    assert found[1].reason == f"line of {(100 << 20) + 12} bytes; the limit is {lines.MAX_LINE}"
    assert (len(found[1].raw), found[1].line) == (lines.MAX_LINE, 2)
    assert peak < 8 * lines.BLOCK
