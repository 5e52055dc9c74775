"""A recipe is complete and coherent, or the error says where, what, and how to mend it."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from adaptory import params
from adaptory.errors import RecipeError
from tests.support import ROOT, tiny_recipe, write_recipe


def refused(folder: Path, **changes: Any) -> str:
    write_recipe(folder, **changes)
    with pytest.raises(RecipeError) as caught:
        params.load(folder / "params.yaml", "tiny")
    return str(caught.value)


def test_the_shipped_recipes_are_valid() -> None:
    for name in params.names(ROOT / "params.yaml"):
        assert params.load(ROOT / "params.yaml", name).name == name


def test_an_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    said = refused(tmp_path, **{"training.epohcs": 3})
    assert "params.yaml" in said
    assert "recipes.tiny.training.epohcs: unknown key; did you mean 'epochs'?" in said


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    said = refused(tmp_path, **{"training.rank": "high", "training.epochs": 0, "data.fields.label.column": None})
    assert "3 fault(s)" in said
    assert "recipes.tiny.training.rank" in said
    assert "(found 'high')" in said
    assert "greater than or equal to 1 (found 0)" in said


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    body = tiny_recipe()
    del body["data"]["max_quarantine"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"recipes": {"tiny": body}}))
    with pytest.raises(RecipeError, match=r"recipes\.tiny\.data\.max_quarantine: missing; add it"):
        params.load(tmp_path / "params.yaml", "tiny")


def test_a_gate_without_criteria_is_refused(tmp_path: Path) -> None:
    assert "gate.criteria" in refused(tmp_path, **{"gate.criteria": []})


def test_an_unknown_metric_is_refused_when_the_recipe_is_read(tmp_path: Path) -> None:
    criterion = {"kind": "floor", "metric": "macrof1", "direction": "higher", "limit": 0.5}
    assert "'macro_f1', 'weighted_f1', 'accuracy'" in refused(tmp_path, **{"gate.criteria": [criterion]})


@pytest.mark.parametrize("number", [".nan", ".inf"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, number: str) -> None:
    text = yaml.safe_dump({"recipes": {"tiny": tiny_recipe(**{"training.weight_decay": 123456})}}).replace("123456", number)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(RecipeError, match="weight_decay"):
        params.load(tmp_path / "params.yaml", "tiny")


def test_splits_that_leave_no_training_rows_are_refused(tmp_path: Path) -> None:
    assert "leave nothing to train on" in refused(tmp_path, **{"data.split": {"validation": 0.5, "test": 0.5}})


def test_an_archive_without_its_digest_is_refused(tmp_path: Path) -> None:
    source = {"uri": "pypi:a==1!b", "format": "tsv"}
    assert "needs its sha256" in refused(tmp_path, **{"data.sources": {"notes": source}})


@pytest.mark.parametrize("name", ["../x", "a\nb", "$(id)", "{{7*7}}", "A", ""])
def test_a_source_name_that_could_be_a_path_or_a_command_is_refused(tmp_path: Path, name: str) -> None:
    refused(tmp_path, **{"data.sources": {name: {"uri": "./x", "format": "tsv"}}})


def test_baselines_are_needed_where_the_gate_asks_for_them(tmp_path: Path) -> None:
    assert "evaluation.baselines is empty" in refused(tmp_path, **{"evaluation.baselines": []})


def test_an_unknown_recipe_is_answered_with_the_nearest_name(tmp_path: Path) -> None:
    write_recipe(tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'tiny'"):
        params.load(tmp_path / "params.yaml", "tinny")


@pytest.mark.parametrize("text", ["", "recipes:", "recipes: []", "a: [", "recipes: {tiny: 3}"])
def test_a_file_that_holds_no_recipes_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(RecipeError, match=r"params\.yaml"):
        params.load(tmp_path / "params.yaml", "tiny")


def test_a_missing_file_is_told_with_its_folder(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=str(tmp_path)):
        params.load(tmp_path / "params.yaml", "tiny")


def test_yaml_that_would_run_code_is_refused(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipes: !!python/object/apply:os.system ['touch owned']")
    with pytest.raises(RecipeError):
        params.load(tmp_path / "params.yaml", "tiny")
    assert not (tmp_path / "owned").exists()


def test_the_digest_counts_defaults_and_ignores_the_order_of_keys(tmp_path: Path) -> None:
    def digest(body: dict[str, Any]) -> str:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump({"recipes": {"tiny": body}}, sort_keys=False))
        return params.load(tmp_path / "params.yaml", "tiny").digest

    plain = digest(tiny_recipe())
    assert digest(dict(reversed(tiny_recipe().items()))) == plain
    assert digest(tiny_recipe(**{"training.seed": 0})) == plain, "writing a default out changes nothing"
    assert digest(tiny_recipe(**{"training.seed": 1})) != plain


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training.sources": ["novels"]}, "training.sources names novels, which data.sources does not"),
        ({"evaluation.compare": ["tfidf"]}, "tfidf is also the name of a baseline"),
        ({"evaluation.compare": ["a", "a"]}, "name each model once"),
        ({"evaluation.compare": ["tiny"]}, "evaluation.compare names this recipe itself"),
        ({"training.method": "auto", "training.peft": {"bias": "all"}}, "method 'auto' tries several methods"),
        ({"training.method": "auto", "training.start": "other"}, "method 'auto' makes none"),
    ],
)
def test_keys_that_name_nothing_or_cannot_go_together_are_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert told in refused(tmp_path, **changes)


def test_a_gate_may_only_ask_of_a_slice_that_there_is(tmp_path: Path) -> None:
    floor = {"kind": "floor", "metric": "macro_f1", "direction": "higher", "limit": 0.5, "slice": "source=novels"}
    assert "gate asks of slice 'source=novels', which this recipe has not" in refused(tmp_path, **{"gate.criteria": [floor]})
