"""F30-F38: what bad files and bad rows do. Each name is that of the catalogue; no fault passes unseen, none loses the rest."""

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from adaptory import fingerprint, storage
from adaptory.errors import DataError
from tests.support import parts, rows, staged, tiny_recipe, write_recipe

some = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
LOOSE = {"data.max_quarantine": 0.99, "data.split.validation": 0.2}


def jsonl(folder: Path, lines: list[bytes], **changes: Any) -> dict[str, Any]:
    (folder / "incoming").mkdir(exist_ok=True)
    (folder / "incoming" / "rows.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))
    return prepared(folder, **changes)


def prepared(folder: Path, form: str = "jsonl", **changes: Any) -> dict[str, Any]:
    source = {"data.sources": {"notes": {"uri": f"./incoming/rows.{form}", "format": form}}}
    return parts(staged(folder, **source, **changes))


def lines(count: int = 150) -> list[bytes]:
    return [json.dumps({"id": name, "rating": rating, "text": text}).encode() for name, rating, text in rows(count)]


def reasons(found: dict[str, Any]) -> list[str]:
    return sorted(found["quarantine"]["reason"])


THREE = b"".join(line + b"\n" for line in lines(3))


@some
@given(st.integers(1, len(THREE) - 1))
def test_f30_a_file_cut_at_any_byte_is_refused_or_holds_only_whole_rows(tmp_path: Path, cut: int) -> None:
    (tmp_path / "incoming").mkdir(exist_ok=True)
    (tmp_path / "incoming" / "rows.jsonl").write_bytes(THREE[:cut])
    with pytest.raises(DataError) as caught:  # three rows are too few in any case
        prepared(tmp_path, **LOOSE)
    whole = THREE[:cut].splitlines()[-1].endswith(b"}")
    assert ("has no row of class" if whole else "ends in the middle of a row") in str(caught.value)


@some
@given(st.integers(20, 2000))
def test_f30_a_csv_file_with_an_open_quote_is_refused(tmp_path: Path, at: int) -> None:
    table = "id,rating,text\n" + "".join(f'{name},{rating},"{text}"\n' for name, rating, text in rows(60))
    cut = table[: table.index('"', min(at, len(table) - 60)) + 3]
    if cut.count('"') % 2 == 0:
        cut = cut[: cut.rindex('"')]
    (tmp_path / "incoming").mkdir(exist_ok=True)
    (tmp_path / "incoming" / "rows.csv").write_text(cut)
    with pytest.raises(DataError, match="is never closed"):
        prepared(tmp_path, "csv", **LOOSE)


def test_f30_a_refused_file_leaves_the_last_good_dataset(tmp_path: Path) -> None:
    jsonl(tmp_path, lines())
    before = fingerprint.of_folder(tmp_path / "data" / "tiny" / "splits")
    (tmp_path / "incoming" / "rows.jsonl").write_bytes(b"\n".join(lines())[:-30])
    with pytest.raises(DataError, match="The last good dataset version is untouched"):
        prepared(tmp_path)
    assert fingerprint.of_folder(tmp_path / "data" / "tiny" / "splits") == before


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"id": "x_1", "rating": "1", "text": "caf\xe9"}', "not UTF-8 at byte 41"),
        (b'{"id": "x_1", "rating": "1", "text": "a\\u0000b"}', "NUL in text"),
        (b'{"id": "x_1", "rating": "1", "text": "a\x00b"}', "not JSON"),
    ],
)
def test_f31_a_line_in_a_wrong_encoding_is_set_aside_with_its_place(tmp_path: Path, line: bytes, reason: str) -> None:
    found = jsonl(tmp_path, [*lines(), line])
    assert reasons(found)[0].startswith(reason)
    assert found["quarantine"]["raw"].to_list() == [line]


def test_f31_a_byte_order_mark_crlf_and_decomposed_letters_change_nothing(tmp_path: Path) -> None:
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    for folder in (plain, odd):
        (folder / "incoming").mkdir(parents=True)
    table = ["id,rating,text", *(f"{name},{rating},{text} caf\u00e9" for name, rating, text in rows(150))]
    (plain / "incoming" / "rows.csv").write_bytes("\n".join(table).encode())
    (odd / "incoming" / "rows.csv").write_bytes(
        "\r\n".join(["\ufeff" + table[0], *table[1:]]).replace("\u00e9", "e\u0301").encode()
    )
    tables = [prepared(folder, "csv") for folder in (plain, odd)]
    for name in ("train", "validation", "test", "quarantine"):
        assert tables[0][name].equals(tables[1][name])


def test_f32_repeated_and_conflicting_rows(tmp_path: Path) -> None:
    again = json.loads(lines()[0]) | {"id": "900_0"}
    other = json.loads(lines()[1]) | {"id": "901_0", "rating": {"-2.0": "2.0"}.get(json.loads(lines()[1])["rating"], "-2.0")}
    conflict = {"id": "5_0", "rating": "2.0", "text": "one id with another text"}
    same = json.loads(lines()[20])
    found = jsonl(tmp_path, [*lines(), *(json.dumps(line).encode() for line in (again, other, conflict, same))], **LOOSE)
    kinds = [reason.split(",")[0].split(" notes:")[0] for reason in reasons(found)]
    assert kinds == ["id repeats", "id repeats", "id repeats", "text of", "text of"]
    assert [reason for reason in reasons(found) if "labelled" in reason], "a text with two labels is reported"
    assert reasons(found).count("id repeats, with another content") == 2, "of one id with two contents none stays"
    assert not {"notes:5_0"} & {row for name in ("train", "validation", "test") for row in found[name]["row"]}


def test_f33_unusable_rows_are_set_aside_and_more_than_the_limit_refuses_the_file(tmp_path: Path) -> None:
    bad = [
        b'{"id": "x_1", "rating": "good", "text": "a"}',
        b'{"id": "x_2", "rating": "1", "text": " "}',
        b'{"id": "x_3", "text": "a"}',
    ]
    found = jsonl(tmp_path, [*lines(400), *bad])
    assert reasons(found) == ["empty text", "no 'rating'", "rating 'good' is not a number"]
    with pytest.raises(
        DataError, match=r"5 of 405 rows of rows\.jsonl cannot be used \(1\.2%\), and data\.max_quarantine allows 1\.0%"
    ):
        jsonl(tmp_path, [*lines(400), *bad, bad[0], bad[1]])
    assert reasons(parts(tmp_path / "data" / "tiny")) == reasons(found)


def test_f34_an_empty_split_or_a_missing_class_fails_before_training_with_the_counts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split '\w+' has no row of class '\w+' .*Rows per split: train: \{"):
        jsonl(tmp_path, lines(3))


@pytest.mark.slow
@some
@given(st.integers((1 << 20) - 60, (1 << 20) + 60))
@example(10 << 20)
def test_f35_a_huge_line_is_set_aside_at_our_own_limit(tmp_path: Path, size: int) -> None:
    huge = b'{"id": "x_1", "rating": "1", "text": "' + b"y" * (size - 40) + b'"}'
    found = jsonl(tmp_path, [*lines(), huge])
    expected = [f"line of {size} bytes; the limit is 1048576"] if size > 1 << 20 else []
    assert reasons(found) == expected
    assert [len(raw) for raw in found["quarantine"]["raw"]] == [1 << 20] * len(expected)


def test_f36_what_a_spreadsheet_would_run_is_stored_as_it_came(tmp_path: Path) -> None:
    formulas = ['=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)"]
    made = [json.dumps({"id": f"{n}_0", "rating": "1", "text": text}).encode() for n, text in enumerate(formulas, start=900)]
    found = jsonl(tmp_path, [*lines(), *made])
    texts = {text for name in ("train", "validation", "test") for text in found[name]["text"]}
    assert set(formulas) <= texts


def test_f37_a_gzip_bomb_is_refused_while_it_unpacks(tmp_path: Path) -> None:
    (tmp_path / "incoming").mkdir()
    bomb = gzip.compress(b'{"text": "' + b"0" * (50 << 20) + b'"}')
    assert len(bomb) < 60_000
    (tmp_path / "incoming" / "rows.jsonl").write_bytes(bomb)
    with pytest.raises(DataError, match=r"bytes unpack to more than 16,777,216 .* the file is refused"):
        prepared(tmp_path)


def test_f37_a_zip_bomb_is_refused_while_it_unpacks(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rows.tsv", b"0" * (50 << 20))
    assert (tmp_path / "bomb.zip").stat().st_size < 60_000
    with pytest.raises(DataError, match="grows beyond 1048576 bytes"):
        storage.extract(tmp_path / "bomb.zip", ("rows.tsv",), tmp_path / "out", limit=1 << 20)


def test_f38_planted_leaks_do_not_reach_training(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    own = ["evening", "home", "street", "told", "never", "paper", "again", "slowly", "door", "winter"]
    clean = [
        {"id": f"{n}_0", "rating": rating, "text": " ".join([text, *(f"{word}{n}" for word in own)])}
        for n, (_, rating, text) in enumerate(rows(200, seed=3))
    ]
    copies = []
    for number, line in enumerate(clean[:40]):
        for kind, text in enumerate(
            (line["text"], line["text"].upper(), f"{line['text']} https://t.co/{number}", f"{line['text']} now")
        ):
            copies.append({**line, "id": f"{1000 + number * 4 + kind}_0", "text": text})
    made = [json.dumps(line).encode() for line in [*clean, *copies]]
    found = jsonl(tmp_path, made, **{"data.split.near_copies": 0.8, **LOOSE})
    from adaptory.data.near import share, words

    forms = {name: [words(text.lower()) for text in found[name]["text"]] for name in ("train", "validation", "test")}
    for protected, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        assert not any(share(one, two) >= 0.8 for one in forms[protected] for two in forms[other]), (protected, other)
    assert len(found["train"])


def test_the_recipe_for_these_tests_has_the_default_limits() -> None:
    assert tiny_recipe()["data"]["max_quarantine"] == 0.01
