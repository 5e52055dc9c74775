"""The real data of the recipe `sentiment`, fetched as any user's is: the counts that the docs state."""

import json
import shutil
from pathlib import Path

import pytest

from adaptory import data, params, workspace
from adaptory.data.splits import normalised
from tests.support import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("icwsm")
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    place = workspace.find(folder)
    made = params.load(place.recipes_file, "sentiment")
    for stage in (data.fetch, data.validate, data.split):
        stage(place, made)
    return place.data("sentiment")


def test_every_sentence_of_the_four_files_is_accounted_for(prepared: Path) -> None:
    card = json.loads((prepared / "splits" / "dataset.json").read_text())
    assert card["rows_in"] == 4_200 + 10_605 + 3_708 + 5_190 == 23_703
    assert card["quarantined"] == {"near copy across splits": 99, "repeated text": 149}
    assert sum(sum(counts.values()) for counts in card["counts"].values()) == 23_703 - 99 - 149


def test_the_neutral_band_gives_the_classes_that_the_docs_state(prepared: Path) -> None:
    import polars

    valid = polars.read_parquet(prepared / "valid" / "rows-*.parquet")
    labels = dict(valid["label"].value_counts().iter_rows())
    assert labels == {"negative": 9_181, "neutral": 4_244, "positive": 10_278}
    texts = valid["text"]
    assert not texts.str.contains(r"&(amp|lt|gt|quot);").any(), "HTML entities are decoded"
    assert not texts.str.contains("\r").any()


def test_no_text_and_no_document_sits_in_two_splits(prepared: Path) -> None:
    import polars

    splits = [polars.read_parquet(prepared / "splits" / f"{name}-*.parquet") for name in ("train", "validation", "test")]
    for get in (lambda table: normalised(table["text"]), lambda table: table["group"]):
        sets = [set(get(table)) for table in splits]
        assert not sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]


def test_preparing_again_gives_the_same_bytes(prepared: Path) -> None:
    place = workspace.find(prepared.parent.parent)
    made = params.load(place.recipes_file, "sentiment")
    before = {path.name: path.read_bytes() for path in (prepared / "splits").iterdir()}
    data.validate(place, made)
    data.split(place, made)
    assert {path.name: path.read_bytes() for path in (prepared / "splits").iterdir()} == before
