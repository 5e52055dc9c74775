"""S8 and S9 on the stages themselves: nothing is lost, nothing moves, nothing leaks, and the bytes are the same again."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adaptory import fingerprint
from adaptory.data.splits import normalised
from adaptory.errors import DataError, IntegrityError, RecipeError
from adaptory.recipe import LOWER, METRICS
from tests.support import parts, rows, staged, tiny_recipe, write_tsv

Line = tuple[str, str, str]
ANYTHING: dict[str, Any] = {"data.max_quarantine": 0.99, "data.split.validation": 0.2}
some = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def plain(count: int = 120) -> list[Line]:
    return rows(count)


def prepared(folder: Path, table: list[Line], **changes: Any) -> dict[str, Any]:
    (folder / "incoming").mkdir(parents=True, exist_ok=True)
    (folder / "incoming" / "rows.tsv").write_text("".join("\t".join(line) + "\n" for line in table), encoding="utf-8", newline="")
    return parts(staged(folder, **changes))


def places(found: dict[str, Any]) -> dict[str, str]:
    return {row: name for name in ("train", "validation", "test") for row in found[name]["row"]}


DIRT = st.lists(
    st.one_of(
        st.tuples(
            st.integers(0, 60).map(str), st.sampled_from(["-2", "0", "2", "?", ""]), st.sampled_from(["", "dup", "DUP ", "a\0"])
        ),
        st.tuples(
            st.integers(0, 60).map(str),
            st.just("2"),
            st.text(st.characters(exclude_characters="\t\r\n", codec="utf-8"), max_size=5),
        ),
    ),
    max_size=40,
)


@some
@given(DIRT, st.randoms())
def test_every_line_is_in_a_split_or_in_quarantine_with_its_bytes_whatever_comes(
    tmp_path: Path, dirt: list[Line], shuffle: random.Random
) -> None:
    table = [*plain(), *dirt]
    shuffle.shuffle(table)
    found = prepared(tmp_path, table, **ANYTHING)
    lines = (tmp_path / "incoming" / "rows.tsv").read_bytes().split(b"\n")
    seen = polars.concat([part.select("file", "line") for part in found.values()])
    assert sorted(seen["line"]) == [number for number, line in enumerate(lines, start=1) if line]
    for line, reason, raw in found["quarantine"].select("line", "reason", "raw").iter_rows():
        assert raw == lines[line - 1] and reason
    card = json.loads((tmp_path / "data" / "tiny" / "splits" / "dataset.json").read_text())
    assert (
        card["rows_in"] == len(seen) == sum(sum(c.values()) for c in card["counts"].values()) + sum(card["quarantined"].values())
    )


@cache
def _undisturbed(folder: Path) -> dict[str, str]:
    return places(prepared(folder, plain(300), **ANYTHING))


@some
@given(DIRT, st.randoms())
def test_a_row_never_moves_when_others_come_go_or_change_places(tmp_path: Path, dirt: list[Line], shuffle: random.Random) -> None:
    before = _undisturbed(tmp_path)
    kept = [line for line in plain(300) if shuffle.random() < 0.9]
    table = [*kept, *dirt]
    shuffle.shuffle(table)
    after = places(prepared(tmp_path, table, **ANYTHING))
    assert all(before[row] == split for row, split in after.items() if row in before)


@some
@given(DIRT)
def test_no_text_and_no_document_is_in_two_splits(tmp_path: Path, dirt: list[Line]) -> None:
    found = prepared(tmp_path, [*plain(), *dirt], **ANYTHING)
    for column in (lambda part: normalised(part["text"]), lambda part: part["group"]):
        sets = [set(column(found[name])) for name in ("train", "validation", "test")]
        assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    table = [
        *plain(400),
        ("x", "?", "bad"),
        ("400_1", "2", "the film is great great great"),
        ("401_1", "2", "the film is great great GREAT"),
    ]
    near = {**ANYTHING, "data.split.near_copies": 0.8}
    for folder in ("one", "two"):
        prepared(tmp_path / folder, table, **near)
    digests = [fingerprint.of_folder(tmp_path / folder / "data" / "tiny" / "splits") for folder in ("one", "two")]
    assert digests[0] == digests[1]


def test_planted_copies_never_reach_training(tmp_path: Path) -> None:
    clean = prepared(tmp_path, plain())
    test = clean["test"].head(5)
    words = "and then we all went home to talk about it for hours"
    long = [(f"{900 + n}_0", "2.0", f"{words} {text}") for n, text in enumerate(test["text"])]
    # Documents whose place is known: the first of these numbers that lie in train.
    planted, number = [], 1000
    in_test = [line for line in long]
    for _, rating, text in in_test:
        for copy in (text, text.upper(), f"{text} http://t.co/abc", f"{text} today"):
            planted.append((f"{number}_0", rating, copy))
            number += 1
    found = prepared(tmp_path, [*plain(), *in_test, *planted], **{"data.split.near_copies": 0.8})
    sets = {name: set(found[name]["text"]) for name in ("train", "validation", "test")}
    from adaptory.data.near import share
    from adaptory.data.near import words as words_of

    for protected, other in (("test", "train"), ("test", "validation"), ("validation", "train")):
        for text in sets[other]:
            form = words_of(text.lower())
            assert not any(
                share(form, words_of(kept.lower())) >= 0.8 for kept in sets[protected] if words in kept or words in text
            )
    assert found["quarantine"]["reason"].str.contains("near copy of|text of").sum() >= 5


def test_a_frozen_evaluation_set_is_all_test_and_nothing_else_may_repeat_it(tmp_path: Path) -> None:
    frozen = [(f"f{n}_0", rating, text) for n, (_, rating, text) in enumerate(rows(60, seed=9))]
    write_tsv(tmp_path / "frozen.tsv", frozen, end="\n")
    digest = fingerprint.hex_of(fingerprint.of_file(tmp_path / "frozen.tsv"))
    source = {"uri": "./frozen.tsv", "format": "tsv", "columns": ["id", "rating", "text"], "sha256": digest, "split": "test"}
    sources = tiny_recipe()["data"]["sources"] | {"golden": source}
    table = [*plain(), ("500_0", "2.0", frozen[0][2].upper())]
    found = prepared(tmp_path, table, **{"data.sources": sources, "data.split.test": 0.0})
    assert set(found["test"]["source"]) == {"golden"} and len(found["test"]) == 60
    assert "golden" not in set(found["train"]["source"]) | set(found["validation"]["source"])
    assert "notes:500_0" in set(found["quarantine"]["row"])
    write_tsv(tmp_path / "frozen.tsv", frozen[1:], end="\n")
    with pytest.raises(IntegrityError, match="'golden' is pinned to sha256"):
        prepared(tmp_path, table, **{"data.sources": sources, "data.split.test": 0.0})
    assert len(parts(tmp_path / "data" / "tiny")["test"]) == 60, "the last good data stays"


CHATS = [{"p": f"question {n % 60}?", "r": f"answer {n}"} for n in range(120)]
PAIRS = [{"p": f"question {n % 50} of {n % 50}?", "c": f"good {n}", "r": f"bad {n}"} for n in range(120)]
TASKS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "sft": ({"prompt": "p", "response": "r"}, CHATS),
    "preference": ({"prompt": "p", "chosen": "c", "rejected": "r"}, PAIRS),
    "text": ({"text": "p"}, [{"p": f"passage number {n}"} for n in range(120)]),
    "regression": ({"text": "p", "value": "v"}, [{"p": f"item {n}", "v": str(n / 7)} for n in range(120)]),
    "pair_classification": (
        {"text": "a", "text_pair": "b", "label": {"column": "l", "classes": ["yes", "no"]}},
        [{"a": f"premise {n % 40}", "b": f"claim {n}", "l": ["yes", "no"][n % 2]} for n in range(160)],
    ),
}


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_is_prepared(tmp_path: Path, task: str) -> None:
    fields, table = TASKS[task]
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in table))
    changes = {"data.sources": {"s": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}}, "data.fields": fields, "task": task}
    metric = METRICS[task][0]
    direction = "lower" if metric in LOWER else "higher"
    gate = {"gate.criteria": [{"kind": "floor", "metric": metric, "direction": direction, "limit": 0.5}]}
    found = parts(staged(tmp_path, **changes, **gate, **{"evaluation.baselines": []}))
    assert sum(map(len, found.values())) == len(table)
    assert all(len(found[name]) for name in ("train", "validation", "test"))
    if task in ("sft", "preference"):
        column = "messages" if task == "sft" else "prompt"
        asked = [set(found[name][column].str.extract(r"(question \d+)")) for name in ("train", "validation", "test")]
        assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]


def test_two_pairs_with_one_text_in_common_are_no_copies(tmp_path: Path) -> None:
    fields, _ = TASKS["pair_classification"]
    own = ["river", "stone", "paper", "lamp", "garden", "winter", "letter", "window"]
    seconds = [" ".join(f"{word}{n}" for word in own) for n in range(160)]
    table = [{"a": "the same premise", "b": second, "l": ["yes", "no"][n % 2]} for n, second in enumerate(seconds)]
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in table))
    changes = {"data.sources": {"s": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}}, "data.fields": fields}
    changes |= {"task": "pair_classification", "data.split.near_copies": 0.8, "evaluation.baselines": []}
    gate = {"gate.criteria": [{"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}]}
    assert len(parts(staged(tmp_path, **changes, **gate))["quarantine"]) == 0


def test_several_sources_and_globs_keep_their_names_and_files(tmp_path: Path) -> None:
    table = plain(300)
    for number in range(3):
        write_tsv(tmp_path / "incoming" / f"part-{number}.tsv", table[number * 60 : number * 60 + 60], end="\n")
    write_tsv(tmp_path / "other" / "deep" / "more.tsv", table[180:], end="\n")
    columns = {"format": "tsv", "columns": ["id", "rating", "text"]}
    sources = {"parts": {"uri": "./incoming/part-*.tsv", **columns}, "folder": {"uri": "./other", **columns}}
    found = parts(staged(tmp_path, **{"data.sources": sources}))
    whole = polars.concat([found[name].select("source", "file") for name in ("train", "validation", "test")]).unique()
    assert sorted(whole.iter_rows()) == [
        ("folder", "deep/more.tsv"), ("parts", "part-0.tsv"), ("parts", "part-1.tsv"), ("parts", "part-2.tsv"),
    ]  # fmt: skip


def test_a_sentence_that_stands_in_two_documents_without_ids_stays_once(tmp_path: Path) -> None:
    table = plain(120)
    lines = "".join(json.dumps({"text": text, "rating": rating, "doc": key.split("_")[0]}) + "\n" for key, rating, text in table)
    again = json.dumps({"text": table[0][2], "rating": table[0][1], "doc": "another"}) + "\n"
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "rows.jsonl").write_text(lines + again)
    label = {"column": "rating", "classes": ["negative", "neutral", "positive"], "neutral_band": 0.5}
    fields = {"text": "text", "group": "doc", "label": label}
    sources = {"notes": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}}
    found = parts(staged(tmp_path, **{"data.sources": sources, "data.fields": fields, **ANYTHING}))
    kept = [text for name in ("train", "validation", "test") for text in found[name]["text"]]
    assert kept.count(table[0][2]) == 1 and len(found["quarantine"]) == 1


def test_only_new_files_are_copied(tmp_path: Path) -> None:
    table = plain(240)
    columns = {"format": "tsv", "columns": ["id", "rating", "text"]}
    changes = {"data.sources": {"parts": {"uri": "./incoming", **columns}}}
    for number in range(3):
        write_tsv(tmp_path / "incoming" / f"part-{number}.tsv", table[number * 60 : number * 60 + 60], end="\n")
    staged(tmp_path, **changes)
    raw = tmp_path / "data" / "tiny" / "raw" / "parts"
    before = {path.name: path.stat().st_ino for path in raw.iterdir()}
    write_tsv(tmp_path / "incoming" / "part-3.tsv", table[180:], end="\n")
    write_tsv(tmp_path / "incoming" / "part-1.tsv", table[:60], end="\n")
    staged(tmp_path, **{**changes, **ANYTHING})
    after = {path.name: path.stat().st_ino for path in raw.iterdir()}
    assert [name for name in before if before[name] == after[name]] == ["part-0.tsv", "part-2.tsv"]
    assert set(after) == {f"part-{n}.tsv" for n in range(4)}


def test_a_source_without_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"source 'notes': no file at \./incoming/rows\.tsv; correct data\.sources\.notes\.uri"):
        staged(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"task": "sft"}, "task 'sft' needs data.fields prompt, response or messages; found label, text"),
        ({"data.fields.prompt": "p"}, "task 'classification' needs data.fields text, label"),
        ({"data.fields.group": "g"}, "both group and group_pattern"),
        ({"data.sources.notes.fields": {"prompt": "p"}}, "data.sources.notes.fields names prompt, which data.fields does not"),
    ],
)
def test_fields_that_do_not_make_a_task_are_told_when_the_recipe_is_read(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        staged(tmp_path, **changes)
    assert said in str(caught.value)


def test_what_a_system_is_told_makes_no_near_copies_and_a_form_that_all_share_is_refused(tmp_path: Path) -> None:
    told = " ".join(f"rule{n}" for n in range(90))
    draw = random.Random(0)

    def asked(system: bool) -> list[dict[str, Any]]:
        made = []
        for _ in range(200):
            question = " ".join(f"w{draw.randint(0, 9999)}" for _ in range(8))
            begin = [{"role": "system", "content": told}] if system else []
            said = question if system else f"{told} {question}"
            made.append({"messages": [*begin, {"role": "user", "content": said}, {"role": "assistant", "content": "so"}]})
        return made

    changes: dict[str, Any] = {
        "task": "sft", "data.sources": {"desk": {"uri": "./incoming/rows.jsonl", "format": "jsonl"}},
        "data.fields": {"messages": "messages"}, "data.split": {"validation": 0.1, "test": 0.25}, "evaluation.baselines": [],
        "gate.criteria": [{"kind": "floor", "metric": "chrf", "direction": "higher", "limit": 1}],
    }  # fmt: skip
    for system in (True, False):
        folder = tmp_path / str(system)
        (folder / "incoming").mkdir(parents=True)
        (folder / "incoming" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked(system)))
        if system:
            found = parts(staged(folder, **changes))
            assert found["quarantine"].height == 0 and sum(map(len, found.values())) == 200
        else:
            with pytest.raises(DataError, match=r"of 200 rows are near-copies .* an instruction or a form that they share"):
                staged(folder, **changes)


def test_entities_in_a_chat_are_decoded_in_what_is_said_and_break_nothing(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "so"}
    lines = [[{"role": "user", "content": f"say &quot;{n}&amp;amp;&quot;"}, answer] for n in range(50)]
    (tmp_path / "incoming").mkdir()
    (tmp_path / "incoming" / "rows.jsonl").write_text("".join(json.dumps({"messages": line}) + "\n" for line in lines))
    source = {"uri": "./incoming/rows.jsonl", "format": "jsonl", "html_entities": "decode"}
    changes: dict[str, Any] = {
        "task": "sft", "data.sources": {"desk": source}, "data.fields": {"messages": "messages"}, "evaluation.baselines": [],
        "gate.criteria": [{"kind": "floor", "metric": "chrf", "direction": "higher", "limit": 1}],
    }  # fmt: skip
    found = parts(staged(tmp_path, **changes))
    assert found["quarantine"].height == 0
    asked = {json.loads(chat)[0]["content"] for name in ("train", "validation", "test") for chat in found[name]["messages"]}
    assert asked == {f'say "{n}&"' for n in range(50)}
