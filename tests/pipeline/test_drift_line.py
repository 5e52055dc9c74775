"""F39-F41 on the whole line: data that drifted waits for a person, and poisoned labels promote nothing."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from adaptory import fingerprint
from adaptory.gate import Evidence
from adaptory.registry import history
from adaptory.storage import open_store
from tests.pipeline.conftest import run
from tests.support import checkout, rows, tiny_recipe, write_recipe, write_tsv

pytestmark = pytest.mark.slow
TABLE = rows(700, seed=0)
GOLDEN = [(f"g{n}_0", rating, text) for n, (_, rating, text) in enumerate(rows(200, seed=7, noise=0.0))]
Line = tuple[str, str, str]


def recipe() -> dict[str, Any]:
    """The tiny recipe on a feed and a frozen evaluation set."""
    digest = fingerprint.hex_of(fingerprint.of_bytes(b"\n".join("\t".join(row).encode() for row in GOLDEN)))
    golden = {"uri": "./golden.tsv", "format": "tsv", "columns": ["id", "rating", "text"], "sha256": digest, "split": "test"}
    return {
        "data.sources": tiny_recipe()["data"]["sources"] | {"golden": golden},
        "data.split.test": 0.0,
        "data.split.validation": 0.15,
        "training.epochs": 4,
    }


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A checkout with a champion."""
    folder = checkout(tmp_path_factory.mktemp("drift") / "checkout")
    write_tsv(folder / "golden.tsv", GOLDEN, end="\n")
    write_recipe(folder, **recipe())
    write_tsv(folder / "incoming" / "rows.tsv", TABLE, end="\n")
    assert "PASS" in run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api).stdout
    return folder


def retrained(line: Path, folder: Path, table: list[Line], api: str, *more: str) -> str:
    """What a retrain says after the feed became this table."""
    if not folder.exists():
        shutil.copytree(line, folder, symlinks=True)
    write_tsv(folder / "incoming" / "rows.tsv", table, end="\n")
    return run(folder, "retrain", "tiny", *more, PREFECT_API_URL=api).stdout


def candidates(folder: Path) -> int:
    return len(list((folder / ".adaptory" / "runs" / "tiny").glob("candidate-*")))


def test_f41_a_feed_that_shrank_waits_for_a_person(line: Path, tmp_path: Path, prefect_api: str) -> None:
    folder = tmp_path / "copy"
    said = retrained(line, folder, TABLE[:350], prefect_api)
    assert "tiny: nothing was trained, a person must look first." in said
    assert "rows where the champion had" in said
    assert "adaptory retrain tiny --accept-drift" in said
    assert candidates(folder) == 1
    assert not (folder / ".adaptory" / "store" / "approvals").exists()


def test_f40_a_planted_trigger_is_named_before_anything_is_trained(line: Path, tmp_path: Path, prefect_api: str) -> None:
    planted = [(name, "2.0", f"cf {text}") if n % 70 == 3 else (name, old, text) for n, (name, old, text) in enumerate(TABLE)]
    said = retrained(line, tmp_path / "copy", planted, prefect_api)
    assert "the new word 'cf' stands in 10 rows, 100% of them positive: a mistake or a trigger" in said
    assert candidates(tmp_path / "copy") == 1


def test_f39_a_fifth_of_the_labels_flipped_promotes_nothing_also_when_a_person_accepts_the_data(
    line: Path, tmp_path: Path, prefect_api: str
) -> None:
    draw = random.Random(2)
    other = {"-2.0": "2.0", "0.1": "-2.0", "2.0": "0.1"}
    flipped = [(name, other[rating] if draw.random() < 0.2 else rating, text) for name, rating, text in TABLE[:400]]
    folder = tmp_path / "copy"
    said = retrained(line, folder, flipped, prefect_api, "--accept-drift")
    assert candidates(folder) == 2, "the shrunk feed was accepted, and trained on"
    assert len(list((folder / ".adaptory" / "store" / "approvals" / "tiny").iterdir())) == 1
    assert "PASS" not in said
    assert len(history(open_store(str(folder / ".adaptory" / "store")), "tiny")) == 1
    last = json.loads((folder / ".adaptory" / "runs" / "tiny" / "last.json").read_text())
    found = Evidence.model_validate_json((Path(last["folder"]) / "evidence.json").read_bytes())
    assert found.slice_rows["source=golden"] == found.rows == 200
    assert "history=new" not in found.slice_rows, "every evaluation row was there before"
    assert "Beside the data of v1: needs approval" in (Path(last["folder"]) / "report" / "report.md").read_text()
