"""The profile of a dataset version, the labels it doubts, and what is remembered of earlier ones."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import polars
import pytest

from adaptory import fingerprint, params, profile, workspace
from adaptory.data.splits import hashes_of
from adaptory.profile import history
from adaptory.profile.profile import PRINTS, SAMPLE, SUSPECTS, WORDS
from adaptory.storage import open_store
from tests.support import rows, staged, tiny_base, write_tsv


def profiled(folder: Path, table: list[tuple[str, str, str]], **changes: Any) -> Path:
    write_tsv(folder / "incoming" / "rows.tsv", table, end="\n")
    prepared = staged(folder, **changes)
    place = workspace.find(folder)
    profile.profile(place, params.load(place.recipes_file, "tiny"))
    return prepared / "profile"


def test_the_profile_counts_rows_classes_sources_words_and_tokens(tmp_path: Path) -> None:
    tiny_base(tmp_path / "data" / "tiny" / "base")
    table = rows(200)
    made = profile.read(profiled(tmp_path, table))
    card = json.loads((tmp_path / "data" / "tiny" / "splits" / "dataset.json").read_text())
    assert made.rows == {name: sum(counts.values()) for name, counts in card["counts"].items()}
    ratings = {"-2.0": "negative", "0.1": "neutral", "2.0": "positive"}
    assert made.labels == dict(sorted(Counter(ratings[rating] for _, rating, _ in table).items()))
    assert made.by_source == {"notes": made.labels}
    assert sum(made.words.counts) == 200
    assert made.tokens is not None
    # The tiny base has a token for every word, and adds [CLS] and [SEP].
    assert made.tokens.quantiles["1"] == made.words.quantiles["1"] + 2
    assert made.vocabulary == len({word for _, _, text in table for word in text.split()})
    assert made.suspects is None, "too few rows to ask"


def test_the_same_rows_in_another_order_have_the_same_content_and_words(tmp_path: Path) -> None:
    table = rows(200)
    folders = []
    for name in ("one", "two"):
        folders.append(profiled(tmp_path / name, table))
        random.Random(1).shuffle(table)
    one, two = map(profile.read, folders)
    assert one.content == two.content
    for name in (WORDS, SAMPLE, PRINTS):
        assert polars.read_parquet(folders[0] / name).equals(polars.read_parquet(folders[1] / name)), name
    fewer = profile.read(profiled(tmp_path / "three", table[:-1]))
    assert fewer.content != one.content


def test_the_profile_is_the_same_bytes_again(tmp_path: Path) -> None:
    digests = {fingerprint.of_folder(profiled(tmp_path / name, rows(1200))) for name in ("one", "two")}
    assert len(digests) == 1


def test_f39_flipped_labels_are_listed_and_none_is_dropped(tmp_path: Path) -> None:
    clean = rows(2000, noise=0.0)
    draw = random.Random(3)
    flipped = set(draw.sample(range(len(clean)), 100))
    other = {"-2.0": "2.0", "0.1": "-2.0", "2.0": "0.1"}
    table = [(name, other[rating] if n in flipped else rating, text) for n, (name, rating, text) in enumerate(clean)]
    folder = profiled(tmp_path, table)
    suspects = polars.read_parquet(folder / SUSPECTS)
    names = {f"notes:{table[n][0]}" for n in flipped}
    listed = set(suspects["row"])
    assert len(listed & names) > 80, "most of the 5% flipped labels are found"
    assert len(listed - names) < 40
    assert profile.read(folder).total == 2000, "nothing is dropped"
    assert profile.read(folder).suspects == len(listed)
    assert suspects["doubt"].is_sorted(descending=True)


def test_what_an_earlier_champion_was_trained_on_is_known_again(tmp_path: Path) -> None:
    folder = profiled(tmp_path, rows(200))
    store, digest = open_store(str(tmp_path / "store")), fingerprint.of_bytes(b"a version")
    version = type("Version", (), {"digest": digest, "dvc": {}, "model_dump_json": lambda self, indent: "{}"})()
    history.keep(store, "tiny", version, folder)
    history.keep(store, "tiny", version, folder)
    kept = history.fetch(store, "tiny", digest, tmp_path / "cache")
    assert kept is not None
    train, test = (polars.read_parquet(folder.parent / "splits" / f"{name}-*.parquet")["text"] for name in ("train", "test"))
    asked = hashes_of(polars.Series([train[0].upper(), test[0], "never seen before"]))
    assert history.trained_on([kept], asked).tolist() == [True, False, False]
    assert history.not_in(kept, asked).tolist() == [False, False, True]
    assert not history.trained_on([], asked).any()
    assert history.fetch(store, "tiny", fingerprint.of_bytes(b"another"), tmp_path / "cache") is None


def test_a_texts_fingerprint_is_the_same_on_every_machine_and_in_every_version() -> None:
    assert hashes_of(polars.Series(["A  b"]))[0] == 9242785727729118284


@pytest.mark.parametrize("text", ["", "A  b", "ÉCOLE"])
def test_a_texts_fingerprint_is_that_of_its_normal_form(text: str) -> None:
    forms = polars.Series([text, text.lower(), f" {text} "])
    assert len(set(hashes_of(forms))) == 1
