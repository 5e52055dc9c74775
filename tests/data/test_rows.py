"""F30-F36 in small: what cannot be read is set aside with line, reason and bytes; nothing else is lost."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptory.data import readers, rows
from adaptory.data.lines import Refused
from adaptory.errors import DataError
from adaptory.recipe import Data
from tests.support import tiny_recipe

LABEL = {"column": "rating", "classes": ["negative", "neutral", "positive"], "neutral_band": 0.5}


def read(folder: Path, content: bytes, task: str = "classification", **changes: Any) -> list[dict[str, Any] | Refused]:
    """Every row and every refusal of a file with this content, in order."""
    path = folder / "rows"
    path.write_bytes(content)
    data = Data.model_validate(tiny_recipe(**changes)["data"])
    source = data.sources["notes"]
    found: dict[int, dict[str, Any] | Refused] = {}
    columns = sorted(set(data.fields.columns(source).values()))
    for piece in readers.pieces(path, "notes", source, columns):
        made = rows.typed(piece, "notes", source, "rows", data, task)
        found |= {row["line"]: row for row in made.table.iter_rows(named=True)}
        found |= {one.line: one for one in made.refused}
        assert len(made.table) + len(made.refused) == len({*made.table["line"], *(one.line for one in made.refused)}), (
            "no line is both"
        )
    return [found[line] for line in sorted(found)]


def good(found: list[dict[str, Any] | Refused]) -> list[dict[str, Any]]:
    return [row for row in found if isinstance(row, dict)]


def only_reason(found: list[dict[str, Any] | Refused]) -> str:
    refused = [row for row in found if isinstance(row, Refused)]
    assert len(refused) == 1, found
    return refused[0].reason


def notes(form: str, **more: Any) -> dict[str, Any]:
    return {"data.sources": {"notes": {"uri": "./x", "format": form, **more}}}


def test_a_row_has_its_document_place_label_and_value(tmp_path: Path) -> None:
    assert read(tmp_path, b"12_3\t-1.5\tsad film") == [{
        "row": "notes:12_3", "source": "notes", "file": "rows", "line": 1, "group": "notes:12",
        "text": "sad film", "label": "negative", "value": -1.5,
    }]  # fmt: skip


@pytest.mark.parametrize(
    ("rating", "label"),
    [("-0.5", "negative"), ("-0.49", "neutral"), ("0", "neutral"), ("0.49", "neutral"), ("0.5", "positive"), ("4", "positive")],
)
def test_the_neutral_band_is_open_at_its_ends(tmp_path: Path, rating: str, label: str) -> None:
    assert good(read(tmp_path, f"1_1\t{rating}\ttext".encode()))[0]["label"] == label


def test_crlf_a_byte_order_mark_and_blank_lines_leave_no_trace(tmp_path: Path) -> None:
    found = good(read(tmp_path, b"\xef\xbb\xbf1_1\t1\ta\r\n\r\n1_2\t1\tb\r\n"))
    assert [(row["row"], row["line"], row["text"]) for row in found] == [("notes:1_1", 1, "a"), ("notes:1_2", 3, "b")]


def test_html_entities_are_decoded_only_where_the_recipe_says_so(tmp_path: Path) -> None:
    decode = notes("tsv", columns=["id", "rating", "text"], html_entities="decode")
    assert good(read(tmp_path, b"1_1\t1\tyou &amp; me"))[0]["text"] == "you &amp; me"
    assert good(read(tmp_path, b"1_1\t1\tyou &amp; me", **decode))[0]["text"] == "you & me"
    assert good(read(tmp_path, b"1_1\t1\tLord &amp;amp; Taylor", **decode))[0]["text"] == "Lord & Taylor"


def test_decomposed_letters_are_composed(tmp_path: Path) -> None:
    assert good(read(tmp_path, "1_1\t1\tcafe\u0301".encode()))[0]["text"] == "caf\u00e9"


BAD_LINES = [
    (b"1_1\t1\tcaf\xe9", "not UTF-8 at byte 9"),
    (b"1_1\t1", "2 cells where 3 columns are expected"),
    (b"1_1\t1\ta\tb", "4 cells where 3 columns are expected"),
    (b"1_1\tgood\ttext", "rating 'good' is not a number"),
    (b"1_1\tnan\ttext", "rating 'nan' is not finite"),
    (b"1_1\t1e999\ttext", "rating '1e999' is not finite"),
    (b"1_1\t1\t   ", "empty text"),
    (b"\t1\ttext", "empty id"),
    (b"1_1\t1\ta\0b", "NUL in text"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_row_is_set_aside_with_line_reason_and_bytes(tmp_path: Path, line: bytes, reason: str) -> None:
    found = read(tmp_path, b"1_0\t1\tgood\n" + line + b"\n1_2\t1\tgood too")
    assert found[1] == Refused(2, reason, line)
    assert len(good(found)) == 2


def test_an_unknown_label_is_told_with_the_known_ones(tmp_path: Path) -> None:
    label = {"column": "rating", "classes": ["good", "bad"]}
    found = read(tmp_path, b"1\tgood\ta\n2\tgreat\tb", **{"data.fields.label": label})
    assert only_reason(found) == "unknown label 'great'; the recipe's classes are good, bad"


def test_a_column_that_the_recipe_names_and_the_file_lacks_is_told_before_any_row(tmp_path: Path) -> None:
    for key in ("data.fields.id", "data.fields.text", "data.fields.label.column"):
        with pytest.raises(DataError, match=r"no column 'other'; its columns are id, rating, text"):
            read(tmp_path, b"1_1\t1\ta", **{key: "other"})


def test_a_source_may_call_a_column_otherwise(tmp_path: Path) -> None:
    source = notes("tsv", columns=["id", "rating", "body"], fields={"text": "body"})
    assert good(read(tmp_path, b"1_1\t1\ta", **source))[0]["text"] == "a"


def test_csv_is_read_with_its_header_and_quotes(tmp_path: Path) -> None:
    found = good(read(tmp_path, b'text,id,rating\n"a, ""b""",1_1,2\n=HYPERLINK(1),1_2,-2', **notes("csv")))
    assert [row["text"] for row in found] == ['a, "b"', "=HYPERLINK(1)"]


def test_a_quoted_cell_of_csv_may_hold_line_ends(tmp_path: Path) -> None:
    found = read(tmp_path, b'text,id,rating\r\n"one\r\ntwo",1_1,2\r\nthree,1_2,bad\r\n"four\nfive",1_3,0\r\n', **notes("csv"))
    assert [(row["line"], row["text"]) for row in good(found)] == [(2, "one\ntwo"), (5, "four\nfive")]
    assert found[1] == Refused(4, "rating 'bad' is not a number", b"three,1_2,bad")


def test_bytes_that_are_no_utf8_cost_a_csv_file_one_record(tmp_path: Path) -> None:
    found = read(tmp_path, b'text,id,rating\n"caf\xe9\nb",1_1,2\nfine,1_2,2', **notes("csv"))
    assert found[0] == Refused(2, "not UTF-8 at byte 4", b'"caf\xe9\nb",1_1,2')
    assert len(good(found)) == 1


def test_jsonl_rows_may_have_other_keys_and_bad_ones_are_set_aside(tmp_path: Path) -> None:
    lines = [
        b'{"id": 1, "text": "a", "rating": 2, "more": []}', b'{"id": 2}', b"[1]", b'{"id": 3, "text', b"",
        b' {"id": "4", "rating": "-1", "text": "\\u00e9"} ', b'{"id": 5, "text": null, "rating": 1}',
        b'{"id": 6, "text": "x", "rating": NaN}', b'{"id": 7, "text": "x\xff", "rating": 1}',
    ]  # fmt: skip
    found = read(tmp_path, b"\n".join(lines), **notes("jsonl"))
    assert [row["text"] for row in good(found)] == ["a", "é"]
    assert [(row.line, row.reason.split(":")[0]) for row in found if isinstance(row, Refused)] == [
        (2, "no 'text'"), (3, "a JSON list where an object is expected"), (4, "not JSON"), (7, "no 'text'"),
        (8, "not JSON"), (9, "not UTF-8 at byte 20"),
    ]  # fmt: skip
    assert [row.raw for row in found if isinstance(row, Refused)] == [lines[i] for i in (1, 2, 3, 6, 7, 8)]


@given(st.lists(st.sampled_from(["ok", "cut", "bytes", "list", "tail", "blank", "label"]), max_size=40))
def test_broken_lines_of_jsonl_cost_only_themselves(tmp_path_factory: pytest.TempPathFactory, kinds: list[str]) -> None:
    lines = []
    for number, kind in enumerate(kinds):
        line = json.dumps({"id": f"{number}_1", "text": f"text {number}", "rating": "1"}).encode()
        changed = {
            "cut": line[:-9], "bytes": line.replace(b"text ", b"\xe9"), "list": b"[{}]", "tail": line[:-1] + b",}",
            "blank": b"  ",
            "label": line.replace(b'"1"', b'"?"'),
        }  # fmt: skip
        lines.append(changed.get(kind, line))
    found = read(tmp_path_factory.mktemp("jsonl"), b"\n".join(lines), **notes("jsonl"))
    assert [row["row"] for row in good(found)] == [f"notes:{n}_1" for n, kind in enumerate(kinds) if kind == "ok"]
    refused = [(row.line, row.raw) for row in found if isinstance(row, Refused)]
    assert refused == [(n + 1, lines[n]) for n, kind in enumerate(kinds) if kind not in ("ok", "blank")]


unpacked = st.binary(max_size=400).filter(lambda content: content[:2] != b"\x1f\x8b" and content[:4] != b"\x28\xb5\x2f\xfd")


@given(unpacked, st.sampled_from(["tsv", "jsonl"]))
def test_no_bytes_at_all_can_break_a_reader(tmp_path_factory: pytest.TempPathFactory, content: bytes, form: str) -> None:
    columns = {"columns": ["id", "rating", "text"]} if form == "tsv" else {}
    found = read(tmp_path_factory.mktemp("any"), content, **notes(form, **columns))
    lines = [line for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.removesuffix(b"\r")]
    lines = [line for line in lines if form == "tsv" or line.strip()]
    assert len(found) == len(lines)


@given(unpacked)
def test_no_bytes_can_break_the_csv_reader_but_an_open_quote(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    try:
        read(tmp_path_factory.mktemp("any"), content, **notes("csv", columns=["id", "rating", "text"]))
    except DataError as fault:
        said = str(fault)
    else:
        said = ""
    assert not said or ("is never closed" in said and b'"' in content)


CHAT = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]


def of_task(folder: Path, task: str, fields: dict[str, Any], *lines: Any) -> list[dict[str, Any] | Refused]:
    content = "\n".join(json.dumps(line) for line in lines).encode()
    return read(folder, content, task, **notes("jsonl"), **{"data.fields": fields})


def test_regression_has_a_number(tmp_path: Path) -> None:
    found = of_task(tmp_path, "regression", {"text": "t", "value": "v"}, {"t": "a", "v": 1.5}, {"t": "b", "v": "x"})
    assert good(found)[0]["value"] == 1.5
    assert only_reason(found) == "v 'x' is not a number"


def test_pairs_have_two_texts(tmp_path: Path) -> None:
    fields = {"text": "a", "text_pair": "b", "label": {"column": "l", "classes": ["yes", "no"]}}
    found = of_task(tmp_path, "pair_classification", fields, {"a": "x", "b": "y", "l": "no"}, {"a": "x", "b": " ", "l": "no"})
    assert [(row["text"], row["text_pair"], row["label"]) for row in good(found)] == [("x", "y", "no")]
    assert only_reason(found) == "empty text_pair"


def test_a_prompt_and_its_response_become_the_same_chat_as_messages(tmp_path: Path) -> None:
    pair = of_task(tmp_path, "sft", {"prompt": "p", "response": "r"}, {"p": "2 + 2?", "r": "4"})
    chat = of_task(tmp_path, "sft", {"messages": "m"}, {"m": CHAT})
    assert good(pair) == good(chat)
    assert json.loads(good(chat)[0]["messages"]) == CHAT


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ([], "nobody asks"),
        ([{"role": "assistant", "content": "4"}], "nobody asks"),
        (CHAT[:1], "the last is of 'user'"),
        ([{"role": "bot", "content": "x"}], "messages.0.role"),
        ([CHAT[0], {"role": "assistant", "content": ""}], "messages.1.content"),
        ("text", "messages"),
    ],
)
def test_a_chat_without_question_or_answer_is_set_aside(tmp_path: Path, chat: Any, reason: str) -> None:
    assert reason in only_reason(of_task(tmp_path, "sft", {"messages": "m"}, {"m": chat}))


@pytest.mark.parametrize(
    "text", [r"\frac{1}{2} \times", r"C:\new\temp", "print('a\\nb')\n", r"\u0041", r"regex \d+", 'a "quoted" word', "é\\",
             "[x] \\ {y}"],
)  # fmt: skip
def test_a_chat_of_jsonl_is_read_as_it_was_written(tmp_path: Path, text: str) -> None:
    chats = [[{"role": "user", "content": f"{text}{n}"}, {"role": "assistant", "content": text}] for n in range(3)]
    plain = [{"role": "user", "content": "why"}, {"role": "assistant", "content": "so"}]
    found = good(of_task(tmp_path, "sft", {"messages": "m"}, *({"m": chat} for chat in [*chats, plain])))
    assert [json.loads(row["messages"]) for row in found] == [*chats, plain]


def test_half_a_surrogate_pair_in_a_chat_costs_only_its_row(tmp_path: Path) -> None:
    said = ("why", "\\ \ud800", "\\how")
    chats = ([{"role": "user", "content": text}, {"role": "assistant", "content": "so"}] for text in said)
    found = of_task(tmp_path, "sft", {"messages": "m"}, *({"m": chat} for chat in chats))
    assert len(good(found)) == 2 and "half of a surrogate pair" in only_reason(found)


def test_a_text_that_looks_like_a_list_stays_a_text(tmp_path: Path) -> None:
    (row,) = good(of_task(tmp_path, "text", {"text": "t"}, {"t": '["a\\b"]'}))
    assert row["text"] == '["a\\b"]'


def test_a_huge_cell_of_csv_costs_only_its_row(tmp_path: Path) -> None:
    found = read(tmp_path, b"text,id,rating\n" + b"a" * (2 << 20) + b",1_1,2\nfine,1_2,2", **notes("csv"))
    assert len(good(found)) == 1 and "bytes; the limit is" in only_reason(found)


def test_answers_to_one_prompt_belong_to_one_document(tmp_path: Path) -> None:
    fields = {"prompt": "p", "chosen": "c", "rejected": "r"}
    lines = [{"p": "Why?", "c": "a", "r": "b"}, {"p": "why? ", "c": "c", "r": "d"}, {"p": "How?", "c": "a", "r": "b"}]
    found = good(of_task(tmp_path, "preference", fields, *lines))
    assert found[0]["group"] == found[1]["group"] != found[2]["group"]


def test_a_prompt_belongs_to_one_document_whether_a_chat_or_a_preference_asks_it(tmp_path: Path) -> None:
    """So that preferences that go on from what was tuned on the same prompts are not judged on rows it learned."""
    pair = good(of_task(tmp_path, "sft", {"prompt": "p", "response": "r"}, {"p": "Why?", "r": "a"}))
    liked = {"prompt": "p", "chosen": "c", "rejected": "r"}
    assert good(of_task(tmp_path, "preference", liked, {"p": "why?", "c": "a", "r": "b"}))[0]["group"] == pair[0]["group"]


def test_rows_without_an_id_are_named_by_what_they_hold(tmp_path: Path) -> None:
    found = good(of_task(tmp_path, "text", {"text": "t"}, {"t": "a"}, {"t": "b"}, {"t": "a"}))
    assert found[0]["row"] == found[2]["row"] != found[1]["row"]
