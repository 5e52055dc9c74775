"""The gate on the whole line: cases, slices, seeds, looks at the test split, a refusal explained, decisions replayed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptory import params, workspace
from adaptory.evaluation.refusal import Refusal
from adaptory.gate import Evidence
from adaptory.registry import spending
from adaptory.storage import open_store
from tests.pipeline.conftest import run
from tests.support import checkout, rows, write_recipe, write_tsv

pytestmark = pytest.mark.slow

CASES = [
    {"name": "praise", "ask": "this film was wonderful splendid", "expect": "positive"},
    {"name": "an article changes nothing", "ask": ["a awful dreadful film", "the awful dreadful film"], "same": True},
    {"name": "more praise", "ask": ["the film was great", "the film was great great"], "towards": "positive"},
]
FLOOR = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5}
GATE = [
    FLOOR,
    {"kind": "beats_champion", "metric": "macro_f1", "direction": "higher", "margin": 0.0},
    {"kind": "no_slice_worse", "metric": "macro_f1", "direction": "higher", "min_rows": 20},
    {"kind": "cases", "allowed": 1},
    {"kind": "latency", "limit": 10_000},
    {"kind": "data", "min_test_rows": 50},
    {"kind": "steady", "metric": "macro_f1", "limit": 0.2},
]
CHANGES: dict[str, Any] = {
    "data.sources.notes.columns": ["id", "rating", "text", "region"],
    "data.fields.slices": {"region": "region"},
    "evaluation.cases": "cases.yaml",
    "evaluation.slices": {"film": r"\bfilm\b"},
    "evaluation.seeds": 2,
    "gate.criteria": GATE,
}

LATER = CHANGES | {"evaluation.seeds": 0, "gate.criteria": GATE[:-1]}  # without further seeds: they were seen once


def table(count: int, **more: Any) -> list[tuple[str, ...]]:
    return [(*row, ("north", "south")[place % 2]) for place, row in enumerate(rows(count, **more))]


def found_in(folder: Path) -> tuple[Evidence, dict[str, Any], Path]:
    last = json.loads((folder / ".adaptory" / "runs" / "tiny" / "last.json").read_text())
    where = Path(last["folder"])
    verdict = json.loads((where / "verdict.json").read_text())
    return Evidence.model_validate_json((where / "evidence.json").read_bytes()), verdict, where


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, prefect_api: str) -> Path:
    """A first champion, and then data whose new rows are labelled wrongly."""
    folder = checkout(tmp_path_factory.mktemp("gate") / "checkout", **CHANGES)
    write_tsv(folder / "incoming" / "rows.tsv", table(400))
    (folder / "cases.yaml").write_text(yaml.safe_dump(CASES))
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    return folder


def test_the_first_champion_is_asked_everything_but_to_beat_one(line: Path) -> None:
    evidence, verdict, _ = found_in(line)
    assert verdict["outcome"] == "PASS", verdict["reason"]
    asked = {one["criterion"]: one["outcome"] for one in verdict["findings"]}
    assert asked["macro_f1 beats the champion"] == asked["no slice measurably worse in macro_f1"] == "not asked"
    assert evidence.look is None and evidence.cases is not None and len(evidence.cases) == 3
    assert [model.name for model in evidence.of("repeat")] == ["seed_1", "seed_2"]
    own = evidence.of("candidate")[0]
    assert own.latency is not None and own.latency.value is not None and own.latency.value > 0
    assert own.size and own.temperature and own.digest == evidence.candidate
    assert {"region=north", "region=south", "text=film", "class=positive", "words=1-8"} <= set(evidence.slice_rows)
    assert evidence.slice_rows["region=north"] + evidence.slice_rows["region=south"] == evidence.rows


def test_data_that_makes_it_worse_is_refused_and_the_rows_to_blame_are_named(
    line: Path, tmp_path: Path, prefect_api: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    turned = {"-2.0": "2.0", "2.0": "-2.0", "0.1": "0.1"}
    wrong = [
        (f"9{n}_0", turned[rating], f"{text} indeed", region) for n, (_, rating, text, region) in enumerate(table(90, seed=8))
    ]
    write_tsv(folder / "incoming" / "rows.tsv", [*table(400), *wrong])
    write_recipe(folder, **LATER)
    done = run(folder, "retrain", "tiny", "--accept-drift", PREFECT_API_URL=prefect_api)
    assert "a true gain of" in done.stderr and "20% of the rows are answered differently" in done.stderr
    evidence, verdict, where = found_in(folder)
    assert verdict["outcome"] in ("FAIL", "INCONCLUSIVE")
    assert evidence.look is not None and evidence.look.number == 1
    store = open_store(str(folder / ".adaptory" / "store"))
    recipe = params.load(folder / "params.yaml", "tiny")
    assert [one.number for one in spending.spent(store, recipe)] == [1]
    refusal = Refusal.model_validate_json((where / "refusal.json").read_bytes())
    assert refusal.against == "champion v1" and refusal.new_rows > 30
    assert refusal.lost and all(one.near for one in refusal.lost)
    named = {"-2.0": "negative", "0.1": "neutral", "2.0": "positive"}
    labels = {(text, named[rating]) for _, rating, text, _ in wrong}
    assert {(near.text, near.right) for one in refusal.lost for near in one.near} <= labels, "new rows, as they were labelled"
    assert all(one.near[0].likeness >= one.near[1].likeness > 0.5 for one in refusal.lost)
    assert not any(one.now.startswith(one.right) for one in refusal.lost)
    assert any(one.now.startswith(one.near[0].right) for one in refusal.lost), "it answers as the rows to blame say"
    report = (where / "report" / "report.md").read_text()
    for heading in ("Why it was refused", "What changed since v1", "Slice by slice", "Rows that changed", "Behavioural cases"):
        assert f"## {heading}" in report
    replayed = run(folder, "gate", "replay", "tiny").stdout
    assert replayed.count("as then") == 2 and "2 decisions" in replayed
    (folder / "loose.yaml").write_text(yaml.safe_dump({"gate": {"criteria": [FLOOR | {"limit": 0.1}]}}))
    other = run(folder, "gate", "replay", "tiny", "--policy", "loose.yaml").stdout
    assert f"{verdict['outcome']} -> PASS" in other and "1 more would be promoted, 0 fewer" in other
    assert "spread as in the last comparison" in run(folder, "gate", "power", "tiny").stdout
    _the_same_gate_again_asks_nobody(folder, prefect_api)


def _the_same_gate_again_asks_nobody(folder: Path, prefect_api: str) -> None:
    write_recipe(folder, **(LATER | {"gate.criteria": [*GATE[:-1], FLOOR | {"metric": "accuracy"}]}))
    done = run(folder, "retrain", "tiny", "--accept-drift", PREFECT_API_URL=prefect_api)
    assert "scoring" not in done.stderr, "all answers were kept"
    assert found_in(folder)[0].look.number == 2, "another gate is another look"


def test_a_champion_that_cannot_be_read_is_broken_and_not_beaten(line: Path, tmp_path: Path, prefect_api: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    shutil.rmtree(folder / ".adaptory" / "cache" / "releases", ignore_errors=True)
    shutil.rmtree(folder / ".adaptory" / "store" / "answers")
    for weights in (folder / ".adaptory" / "store" / "releases").rglob("adapter_model.safetensors"):
        weights.write_bytes(b"\0" * weights.stat().st_size)
    write_recipe(folder, **(CHANGES | {"gate.criteria": GATE[:2], "evaluation.seeds": 0}))
    run(folder, "retrain", "tiny", PREFECT_API_URL=prefect_api)
    _, verdict, _ = found_in(folder)
    assert verdict["outcome"] == "CHAMPION_BROKEN"
    assert "could not be scored" in verdict["reason"]


def test_cases_that_are_not_there_are_missed_before_anything_is_trained(line: Path, tmp_path: Path, prefect_api: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(line, folder, symlinks=True)
    (folder / "cases.yaml").unlink()
    done = run(folder, "retrain", "tiny", code=2, PREFECT_API_URL=prefect_api)
    assert "there is no file" in done.stderr and "step" not in done.stderr
    assert workspace.find(folder).root == folder
