"""A fault that the user can mend: one clear error before any training, exit code 2, no traceback."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from filelock import FileLock

from adaptory import params, workspace
from adaptory.data import dataset_version
from adaptory.errors import RecipeError, StageError
from adaptory.process import run_stage
from adaptory.run import Run, current
from tests.pipeline.conftest import run
from tests.support import checkout, rows, write_recipe, write_tsv

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("faults") / "checkout")


def told(folder: Path, *words: str, **environment: str) -> str:
    """What the command says on its standard error when it refuses."""
    said = run(folder, *words, code=2, **environment).stderr
    assert "Traceback" not in said
    assert said.count("error:") == 1, said
    assert not list((folder / ".adaptory").glob("runs/*/candidate-*")), "nothing was trained"
    return said


def test_an_unknown_key_stops_before_any_server(folder: Path) -> None:
    write_recipe(folder, **{"training.epohcs": 3})
    said = told(folder, "retrain", "tiny", PREFECT_API_URL="http://127.0.0.1:9/api")
    assert "params.yaml" in said
    assert "did you mean 'epochs'" in said


def test_a_missing_column_is_told_through_the_flow(folder: Path, prefect_api: str) -> None:
    write_recipe(folder, **{"data.fields.text": "body"})
    said = told(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    assert "source 'notes' has no column 'body'; its columns are id, rating, text. Correct data.fields" in said


def test_too_many_unknown_labels_are_told_with_line_and_limit(folder: Path) -> None:
    write_recipe(folder, **{"data.fields.label": {"column": "rating", "classes": ["-2.0", "2.0"]}})
    said = told(folder, "prepare", "tiny")
    assert "unknown label '0.1'" in said
    assert "data.max_quarantine allows 1.0%" in said
    assert "First at line" in said


def test_an_empty_split_is_told_with_all_counts(folder: Path) -> None:
    write_recipe(folder, **{"data.split": {"validation": 0.0, "test": 0.25}})
    said = told(folder, "prepare", "tiny")
    assert "split 'validation' has no row of class 'negative'" in said
    assert "raise data.split" in said


def test_a_source_that_is_not_there_is_told_with_its_key(folder: Path) -> None:
    write_recipe(folder, **{"data.sources.notes.uri": "./incoming/other.tsv"})
    assert "correct data.sources.notes.uri" in told(folder, "prepare", "tiny")


def test_a_failed_preparation_leaves_the_last_good_data_in_place(folder: Path) -> None:
    write_recipe(folder)
    run(folder, "prepare", "tiny")
    before = (folder / "data" / "tiny" / "splits" / "dataset.json").read_bytes()
    write_tsv(folder / "incoming" / "rows.tsv", [*rows(400), *[(f"8{n}_0", "bad", f"text {n}") for n in range(10)]])
    assert "10 of 410 rows of rows.tsv cannot be used (2.4%)" in told(folder, "prepare", "tiny")
    assert (folder / "data" / "tiny" / "splits" / "dataset.json").read_bytes() == before
    write_tsv(folder / "incoming" / "rows.tsv", rows(400))
    run(folder, "prepare", "tiny")


def test_a_base_that_changed_is_refused_by_the_lock(folder: Path) -> None:
    from tests.support import tiny_base

    write_recipe(folder)
    run(folder, "prepare", "tiny")
    write_recipe(folder, base="./other-base")
    tiny_base(folder / "other-base", seed=3)
    run(folder, "prepare", "tiny")
    (folder / "other-base" / "config.json").write_text((folder / "other-base" / "config.json").read_text() + "\n")
    said = told(folder, "prepare", "tiny", "--force")
    assert "recipes.lock pins sha256:" in said
    write_recipe(folder)


def test_a_base_without_safetensors_is_refused(folder: Path) -> None:
    (folder / "pickled").mkdir(exist_ok=True)
    (folder / "pickled" / "config.json").write_text("{}")
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    write_recipe(folder, base="./pickled")
    assert "convert it to safetensors" in told(folder, "prepare", "tiny")
    write_recipe(folder)


def test_more_layers_than_the_base_has_are_refused(folder: Path) -> None:
    write_recipe(folder, **{"training.top_layers": 3})
    run(folder, "prepare", "tiny")
    assert "training.top_layers is 3, but the base has 2 blocks" in told(folder, "stage", "train", "tiny")
    write_recipe(folder)


def test_a_second_retrain_at_the_same_time_is_sent_away(folder: Path) -> None:
    write_recipe(folder)
    with FileLock(folder / ".adaptory" / "retrain-tiny.lock"):
        for command in ("retrain", "prepare"):  # which would change the data that the other works on
            assert "another retrain or prepare of 'tiny' is under way" in told(folder, command, "tiny")


def test_data_that_change_while_a_run_is_under_way_end_it_with_a_sentence(folder: Path) -> None:
    write_recipe(folder)
    write_tsv(folder / "incoming" / "rows.tsv", rows(400))
    run(folder, "prepare", "tiny")
    begun = current(workspace.find(folder), "tiny")
    write_tsv(folder / "incoming" / "rows.tsv", rows(420))
    run(folder, "prepare", "tiny")
    with pytest.raises(StageError, match=r"are others than when this run began, .* adaptory retrain tiny"):
        run_stage(begun, "train", lambda event: None)
    assert not list((folder / ".adaptory").glob("runs/*/candidate-*")), "nothing was trained on other data"
    write_tsv(folder / "incoming" / "rows.tsv", rows(400))


def test_champions_that_are_promoted_meanwhile_change_nothing_for_a_run_that_is_under_way(folder: Path) -> None:
    write_recipe(folder, **{"evaluation.compare": ["other"], "training.start": "third"})
    run(folder, "prepare", "tiny")
    place = workspace.find(folder)
    with pytest.raises(RecipeError, match="'third' has no champion yet"):
        current(place, "tiny")
    first, second = (f"sha256:{digit * 64}" for digit in "12")
    begun = Run(place, params.load(place.recipes_file, "tiny"), dataset_version(place, "tiny"), first, None, (("other", second),))
    found = current(place, "tiny", begun.pin)
    assert (found.start, found.compared, found.training_key, found.key) == (first, begun.compared, begun.training_key, begun.key)
    write_recipe(folder)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A package index of one wheel, on disk."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    with zipfile.ZipFile(shelf / "notes-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("notes/rows.tsv", "\n".join("\t".join(row) for row in rows(400)))
        wheel.writestr("notes/other/rows.tsv", "\n".join("\t".join(row) for row in rows(300, seed=9)))
        wheel.writestr("notes-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: notes\nVersion: 1.0\n")
        wheel.writestr("notes-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("notes-1.0.dist-info/RECORD", "")
    return shelf


def packaged(folder: Path, sha256: str, inside: str = "notes/rows.tsv") -> None:
    source = {"uri": f"pypi:notes==1.0!{inside}", "sha256": sha256, "format": "tsv", "columns": ["id", "rating", "text"]}
    write_recipe(folder, **{"data.sources": {"notes": source}})


def test_a_package_is_a_source_and_its_digest_is_checked(folder: Path, shelf: Path) -> None:
    from adaptory import fingerprint

    good = fingerprint.of_file(shelf / "notes-1.0-py3-none-any.whl").removeprefix("sha256:")
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(shelf), "PIP_CONFIG_FILE": "/dev/null"}
    packaged(folder, "0" * 64)
    said = told(folder, "prepare", "tiny", **offline)
    assert "no archive has sha256 " + "0" * 64 in said
    assert not list((folder / ".adaptory" / "cache" / "pypi").rglob("*.whl")), "what was downloaded was removed"
    packaged(folder, good)
    run(folder, "prepare", "tiny", **offline)
    card = json.loads((folder / "data" / "tiny" / "splits" / "dataset.json").read_text())
    assert card["rows_in"] == 400
    packaged(folder, good, "notes/other/rows.tsv")  # of the same name, in the same archive
    run(folder, "prepare", "tiny", **offline)
    assert json.loads((folder / "data" / "tiny" / "splits" / "dataset.json").read_text())["rows_in"] == 300
    write_recipe(folder)


def test_a_package_that_is_not_there_is_told_by_name(folder: Path, shelf: Path) -> None:
    source = {"uri": "pypi:absent==1.0!rows", "sha256": "0" * 64, "format": "tsv"}
    write_recipe(folder, **{"data.sources": {"notes": source}})
    said = told(folder, "prepare", "tiny", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(shelf), PIP_CONFIG_FILE="/dev/null")
    assert "absent==1.0 cannot be downloaded" in said
    write_recipe(folder)


def test_a_hub_that_cannot_be_reached_is_told_with_what_to_check(folder: Path) -> None:
    write_recipe(folder, base="org/name@main")
    assert "base org/name@main cannot be fetched from the hub" in told(folder, "prepare", "tiny", HF_HUB_OFFLINE="1")
    write_recipe(folder)


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_TRACKING_URI"])
def test_a_server_that_does_not_answer_is_named_at_once(folder: Path, variable: str) -> None:
    write_recipe(folder)
    said = told(folder, "retrain", "tiny", **{variable: "http://127.0.0.1:9"})
    assert "server answers at http://127.0.0.1:9" in said
    assert f"correct {variable}" in said


def test_outside_a_checkout_the_command_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adaptory.cli", "retrain", "tiny"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "run this inside a checkout" in done.stderr
