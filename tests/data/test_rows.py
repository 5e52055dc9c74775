"""F30-F36 in small: what cannot be read is set aside with line, reason and bytes; nothing else is lost."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.data import rows
from adaptory.data.rows import Refused, Row
from adaptory.errors import DataError
from adaptory.recipe import Data, Source
from tests.support import tiny_recipe


def read(folder: Path, content: bytes, **changes: Any) -> list[Row | Refused]:
    path = folder / "rows"
    path.write_bytes(content)
    data = Data.model_validate(tiny_recipe(**changes)["data"])
    return list(rows.read("notes", data.sources["notes"], path, data))


def only_reason(found: list[Row | Refused]) -> str:
    refused = [row for row in found if isinstance(row, Refused)]
    assert len(refused) == 1, found
    return refused[0].reason


def test_a_row_has_its_document_label_and_value(tmp_path: Path) -> None:
    assert read(tmp_path, b"12_3\t-1.5\tsad film") == [Row("notes:12_3", "notes", "notes:12", "sad film", "negative", -1.5)]


@pytest.mark.parametrize(
    ("rating", "label"),
    [("-0.5", "negative"), ("-0.49", "neutral"), ("0", "neutral"), ("0.49", "neutral"), ("0.5", "positive"), ("4", "positive")],
)
def test_the_neutral_band_is_open_at_its_ends(tmp_path: Path, rating: str, label: str) -> None:
    found = read(tmp_path, f"1_1\t{rating}\ttext".encode())[0]
    assert isinstance(found, Row)
    assert found.label == label


def test_crlf_a_byte_order_mark_and_blank_lines_leave_no_trace(tmp_path: Path) -> None:
    found = read(tmp_path, b"\xef\xbb\xbf1_1\t1\ta\r\n\r\n1_2\t1\tb\r\n")
    assert [row.text for row in found if isinstance(row, Row)] == ["a", "b"]
    assert found[0].row == "notes:1_1"  # type: ignore[union-attr]


def test_html_entities_are_decoded_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    kept = read(tmp_path, b"1_1\t1\tyou &amp; me")[0]
    source = tiny_recipe()["data"]["sources"]["notes"] | {"html_entities": "decode"}
    decoded = read(tmp_path, b"1_1\t1\tyou &amp; me", **{"data.sources": {"notes": source}})[0]
    assert (kept.text, decoded.text) == ("you &amp; me", "you & me")  # type: ignore[union-attr]
    twice = read(tmp_path, b"1_1\t1\tLord &amp;amp; Taylor", **{"data.sources": {"notes": source}})[0]
    assert twice.text == "Lord & Taylor"  # type: ignore[union-attr]


def test_decomposed_letters_are_composed(tmp_path: Path) -> None:
    assert read(tmp_path, "1_1\t1\tcafe\u0301".encode())[0].text == "caf\u00e9"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1_1\t1\tcaf\xe9", "not UTF-8 at byte 9"),
        (b"1_1\t1", "2 cells where 3 columns are expected"),
        (b"1_1\t1\ta\tb", "4 cells where 3 columns are expected"),
        (b"1_1\tgood\ttext", "rating 'good' is not a number"),
        (b"1_1\tnan\ttext", "rating 'nan' is not finite"),
        (b"1_1\t1\t   ", "empty text"),
        (b"\t1\ttext", "empty id"),
        (b"1_1\t1\ta\0b", "NUL in text"),
        (b"1_1\t1\t" + b"x" * (1 << 20), "line of 1048582 bytes; the limit is 1048576"),
    ],
)
def test_a_bad_row_is_set_aside_with_line_reason_and_bytes(tmp_path: Path, line: bytes, reason: str) -> None:
    found = read(tmp_path, b"1_0\t1\tgood\n" + line + b"\n1_2\t1\tgood too")
    assert only_reason(found) == reason
    bad = found[1]
    assert isinstance(bad, Refused)
    assert (bad.line, bad.raw) == (2, line)
    assert len(found) == 3


def test_an_unknown_label_is_told_with_the_known_ones(tmp_path: Path) -> None:
    label = {"column": "rating", "classes": ["good", "bad"]}
    found = read(tmp_path, b"1\tgood\ta\n2\tgreat\tb", **{"data.label": label})
    assert only_reason(found) == "unknown label 'great'; the recipe's classes are good, bad"


@pytest.mark.parametrize("key", ["data.fields.id", "data.fields.text", "data.label.column"])
def test_a_missing_column_is_told_with_key_and_columns_before_any_row(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match=rf"no column 'other' \({key.replace('.', '[.]')}\); its columns are id, rating, text"):
        read(tmp_path, b"1_1\t1\ta", **{key: "other"})


def test_csv_is_read_with_its_header_and_quotes(tmp_path: Path) -> None:
    source = {"uri": "./x", "format": "csv"}
    found = read(tmp_path, b'text,id,rating\n"a, ""b""",1_1,2\n=HYPERLINK(1),1_2,-2', **{"data.sources": {"notes": source}})
    assert [row.text for row in found if isinstance(row, Row)] == ['a, "b"', "=HYPERLINK(1)"]


def test_an_open_quote_costs_its_own_row_only(tmp_path: Path) -> None:
    source = {"uri": "./x", "format": "csv"}
    found = read(tmp_path, b'text,id,rating\n"open,1_1,2\nfine,1_2,2', **{"data.sources": {"notes": source}})
    assert "not CSV" in only_reason(found)
    assert len(found) == 2


def test_jsonl_rows_may_have_other_keys_and_bad_ones_are_set_aside(tmp_path: Path) -> None:
    source = {"uri": "./x", "format": "jsonl"}
    lines = b'{"id": 1, "text": "a", "rating": 2, "more": []}\n{"id": 2}\n[1]\n{"id": 3, "text'
    found = read(tmp_path, lines, **{"data.sources": {"notes": source}})
    assert [type(row) for row in found] == [Row, Refused, Refused, Refused]
    assert [row.reason.split(":")[0] for row in found[1:]] == ["no 'text'", "a JSON list where an object is expected", "not JSON"]  # type: ignore[union-attr]


@given(st.binary(max_size=400), st.sampled_from(["tsv", "csv", "jsonl"]))
def test_no_bytes_at_all_can_break_a_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, form: str) -> None:
    path = tmp_path_factory.mktemp("any") / "rows"
    path.write_bytes(content)
    data = Data.model_validate(tiny_recipe()["data"])
    source = Source.model_validate({"uri": "./x", "format": form, "columns": ["id", "rating", "text"]})
    found = list(rows.read("notes", source, path, data))
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.rstrip(b"\r\n")]
    assert len(found) == len(lines)


@given(st.integers(0, 60))
def test_a_file_cut_anywhere_gives_whole_rows_and_at_most_one_refusal(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    whole = b"1_1\t1.5\tfirst text\n1_2\t-1.5\tsecond text\n1_3\t0\tthird text"
    found = read(tmp_path_factory.mktemp("cut"), whole[:cut])
    assert sum(isinstance(row, Refused) for row in found) <= 1
