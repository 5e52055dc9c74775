"""Behavioural cases: what must be answered, what must not change an answer, what must move it; and faults named by case."""

import re
from pathlib import Path
from typing import Any

import pytest

from adaptory.errors import RecipeError
from adaptory.evaluation import cases
from adaptory.recipe import Recipe
from tests.support import tiny_recipe

FILE = """
- name: plain praise
  ask: what a lovely film
  expect: positive
- name: a name changes nothing
  ask: [Ann liked it, Omar liked it]
  same: true
- name: more praise, more positive
  ask: [it was good, it was very good]
  towards: positive
"""


def recipe(task: str = "classification") -> Recipe:
    return Recipe.model_validate({"name": "tiny", **tiny_recipe()}).model_copy(update={"task": task})


def written(folder: Path, text: str) -> Path:
    path = folder / "cases.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def said(label: str, positive: float) -> dict[str, Any]:
    return {"label": label, "chances": {"negative": 1 - positive, "neutral": 0.0, "positive": positive}}


def test_every_text_of_every_case_is_asked_in_order(tmp_path: Path) -> None:
    found = cases.read(written(tmp_path, FILE), recipe())
    asked = cases.questions(found, recipe())
    assert [one["text"] for one in asked] == [
        "what a lovely film", "Ann liked it", "Omar liked it", "it was good", "it was very good"
    ]  # fmt: skip
    assert "prompt" in cases.questions(found, recipe("sft"))[0]


@pytest.mark.parametrize(
    ("answers", "held"),
    [
        ([("positive", 0.9), ("positive", 0.7), ("positive", 0.6), ("positive", 0.7), ("positive", 0.8)], [True, True, True]),
        ([("neutral", 0.4), ("positive", 0.7), ("negative", 0.2), ("positive", 0.7), ("positive", 0.5)], [False, False, False]),
        ([("positive", 0.9), ("neutral", 0.4), ("neutral", 0.3), ("positive", 0.7), ("positive", 0.695)], [True, True, True]),
    ],
)
def test_a_case_holds_or_not(tmp_path: Path, answers: list[tuple[str, float]], held: list[bool]) -> None:
    found = cases.tried(cases.read(written(tmp_path, FILE), recipe()), [said(*one) for one in answers])
    assert [one.passed for one in found] == held
    assert found[0].said.startswith(answers[0][0])


def test_written_answers_are_matched_and_numbers_bounded(tmp_path: Path) -> None:
    text = """
- {name: keeps the placeholder, ask: Save %(name)s, expect: '%\\(name\\)s'}
- {name: same words, ask: [Save, 'Save '], same: true}
"""
    found = cases.read(written(tmp_path, text), recipe("sft").model_copy(update={"data": _without_classes()}))
    kept = [{"answer": "Enregistrer %(name)s"}, {"answer": "Enregistrer"}, {"answer": "Enregistrer"}]
    lost = [{"answer": "Enregistrer %(nom)s"}, {"answer": "Enregistrer"}, {"answer": "Sauver"}]
    assert [one.passed for one in cases.tried(found, kept)] == [True, True]
    assert [one.passed for one in cases.tried(found, lost)] == [False, False]
    text = "- {name: warm, ask: x, expect: {above: 0.5, below: 2}}\n- {name: colder, ask: [x, y], towards: down}\n"
    found = cases.read(written(tmp_path, text), recipe("regression").model_copy(update={"data": _without_classes()}))
    assert [one.passed for one in cases.tried(found, [{"value": 1.0}, {"value": 1.0}, {"value": 0.2}])] == [True, True]
    assert [one.passed for one in cases.tried(found, [{"value": 2.5}, {"value": 1.0}, {"value": 1.2}])] == [False, False]


def _without_classes() -> Any:
    body = tiny_recipe(**{"data.fields": {"text": "text", "value": "rating"}, "task": "regression", "evaluation.baselines": []})
    body["gate"] = {"criteria": [{"kind": "floor", "metric": "mae", "direction": "lower", "limit": 1}]}
    return Recipe.model_validate({"name": "tiny", **body}).data


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- {name: a, ask: x, expect: positiv}", "case 'a': positiv is no class (negative, neutral, positive)"),
        ("- {name: a, ask: [x, y], towards: up}", "case 'a': up is no class"),
        ("- {name: a, ask: x}", "case 1: Value error, a case says exactly one of expect, same, towards"),
        ("- {name: a, ask: x, same: true}", "ask lists two or more"),
        ("- {name: a, ask: x, expects: positive}", "case 1: expects Extra inputs are not permitted"),
        ("name: a", "must be a list of cases"),
        ("- {name: [", "is not YAML"),
    ],
)
def test_a_fault_in_the_file_names_file_and_case(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(RecipeError) as fault:
        cases.read(path, recipe())
    assert told in str(fault.value) and str(path) in str(fault.value)


@pytest.mark.parametrize(
    ("task", "text", "told"),
    [
        ("classification", "- {name: a, ask: x, expect: {above: 0.5}}", "expect is bounds"),
        ("regression", "- {name: a, ask: x, expect: positive}", "expect is bounds"),
        ("regression", "- {name: a, ask: [x, y], towards: sideways}", "towards is up or down"),
        ("sft", "- {name: a, ask: [x, y], towards: up}", "nothing for written answers"),
        ("sft", "- {name: a, ask: x, expect: '(['}", "not a regular expression"),
        ("preference", "- {name: a, ask: x, expect: b}", "has no cases"),
    ],
)
def test_a_case_of_another_task_is_refused_before_anything_is_asked(tmp_path: Path, task: str, text: str, told: str) -> None:
    body = recipe(task) if task == "classification" else recipe(task).model_copy(update={"data": _without_classes()})
    with pytest.raises(RecipeError, match=re.escape(told)):
        cases.read(written(tmp_path, text), body)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no file .*absent\.yaml"):
        cases.read(tmp_path / "absent.yaml", recipe())
